"""Jumps of φ and its derivatives at the declared kinks, and of φ elsewhere."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.polynomial import chebyshev

from sklearn_deq.theory._activations import Activation
from sklearn_deq.theory._chebyshev import (
    chebyshev_coefficients,
    chebyshev_nodes,
    last_coefficients,
)
from sklearn_deq.theory._remembered import remembered

# Derivatives that are looked at.
MOST_ORDERS = 4
# One-sided interpolation beside a kink: nodes, and widths of the interval.
_NODES = 16
_WIDTHS = 0.5 ** np.arange(1, 15)
_CONVERGED = 1e-14
# A jump this many times its rounding error counts.
_SIGNIFICANT = 100.0
# Smaller jumps of φ itself may be the error of one-sided values.
_JUMP = 1e-6
# Where jumps that are not declared are looked for: points, candidates, halvings.
_POINTS = np.linspace(-10.0, 10.0, 4002)
_CANDIDATES = 8
_HALVINGS = 38


@remembered(128)
def kink_jumps(activation: Activation) -> np.ndarray:
    """Jumps of φ and its first derivatives at its declared kinks.

    Parameters
    ----------
    activation : Activation
        φ, analytic on both sides of each kink.

    Returns
    -------
    ndarray of shape (n_kinks, 1 + MOST_ORDERS)
        From right minus left, order 0 first; 0 where it may be rounding.
    """
    kinks = np.array(activation.kinks)
    gaps = np.diff(kinks, prepend=-np.inf, append=np.inf)
    found = []
    for kink, before, after in zip(kinks, gaps[:-1], gaps[1:], strict=True):
        left, left_error = _one_sided(activation, kink, -min(1.0, before))
        right, right_error = _one_sided(activation, kink, min(1.0, after))
        jump, error = right - left, left_error + right_error
        found.append(np.where(np.abs(jump) > _SIGNIFICANT * error, jump, 0.0))
    return np.array(found).reshape(-1, 1 + MOST_ORDERS)


def check_continuous(activation: Activation) -> None:
    """Raise a ValueError where φ jumps: E φ'² does not exist."""
    found = _largest_jump(activation)
    if found is not None:
        where, jump = found
        raise ValueError(
            f"{activation} jumps by {jump:.3g} at {where:.4g}: its derivative has no "
            "second moment, so that no DEQ with it is stable and no tangent kernel "
            "exists. Choose a continuous activation."
        )


@remembered(128)
def _largest_jump(activation: Activation) -> tuple[float, float] | None:
    """Place and size of the largest jump of φ, declared or not."""
    kinks = np.array(activation.kinks)
    jumps = kink_jumps(activation)[:, 0] if kinks.size else np.empty(0)
    hidden, sizes = _hidden_jumps(activation)
    where, jumps = np.concatenate([kinks, hidden]), np.concatenate([jumps, sizes])
    largest = int(np.abs(jumps).argmax())
    if np.abs(jumps[largest]) <= _JUMP:
        return None
    return float(where[largest]), float(jumps[largest])


def _hidden_jumps(activation: Activation) -> tuple[np.ndarray, np.ndarray]:
    """Places where φ changes least like a slope does, and jumps there, or 0.

    Intervals are halved down to 2e-14: a function of slope 1e7 changes less there than
    what counts as a jump.
    """

    def evaluate(x: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):
            return np.asarray(activation.function(x), dtype=float)

    values = evaluate(_POINTS)
    # Where φ is not finite it is spoken of by those who use it.
    change = np.diff(np.where(np.isfinite(values), values, 0.0))
    bend = np.abs(2.0 * change[1:-1] - change[:-2] - change[2:])
    for kink in activation.kinks:
        # One declared may jump in its own interval and change its neighbours' bend.
        bend[np.abs(_POINTS[1:-2] - kink) < 2.5 * (_POINTS[1] - _POINTS[0])] = 0.0
    first = 1 + np.argsort(bend)[-_CANDIDATES:]
    low, high = _POINTS[first], _POINTS[first + 1]
    low, high = steepest_parts(evaluate, low, high, _HALVINGS)
    left, right = evaluate(np.stack([low, high]))
    size = np.maximum(1.0, np.maximum(np.abs(left), np.abs(right)))
    significant = np.abs(right - left) > _JUMP * size
    return low, np.where(significant & np.isfinite(size), right - left, 0.0)


def steepest_parts(
    function: Callable[[np.ndarray], np.ndarray],
    low: np.ndarray,
    high: np.ndarray,
    halvings: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Ends of what is left of intervals when the steeper half is kept each time."""
    for _ in range(halvings):
        middle = 0.5 * (low + high)
        values = np.asarray(function(np.stack([low, middle, high])), dtype=float)
        left, right = np.abs(np.diff(values, axis=0))
        low, high = (
            np.where(left > right, low, middle),
            np.where(left > right, middle, high),
        )
    return low, high


def _one_sided(
    activation: Activation, kink: float, reach: float
) -> tuple[np.ndarray, np.ndarray]:
    """φ and its derivatives at a kink from one side, with their rounding errors."""
    orders = np.arange(1 + MOST_ORDERS)
    t = chebyshev_nodes(_NODES)
    for width in reach * _WIDTHS:
        # t = −1 is the kink.
        points = kink + 0.5 * width * (1.0 + t)
        with np.errstate(all="ignore"):
            values = np.asarray(activation.function(points), dtype=float)
        size = np.abs(values).max()
        if last_coefficients(values) <= _CONVERGED:
            break
    series = chebyshev_coefficients(values)
    ends = [chebyshev.chebval(-1.0, chebyshev.chebder(series, m)) for m in orders]
    scale = (2.0 / width) ** orders
    # Of T_n the derivative of order m at the end is Π_{i<m} (n² − i²)/(2i + 1).
    growth = [
        math.prod((_NODES**2 - i * i) / (2 * i + 1) for i in range(m)) for m in orders
    ]
    error = (
        np.finfo(float).eps
        * max(size, abs(kink), 1e-300)
        * np.array(growth)
        * np.abs(scale)
    )
    return np.array(ends) * scale, error
