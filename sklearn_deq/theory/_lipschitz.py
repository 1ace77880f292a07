"""The largest slope of an activation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from sklearn_deq.theory._activations import Activation, get_activation
from sklearn_deq.theory._jumps import check_continuous, steepest_parts
from sklearn_deq.theory._remembered import remembered

# Where φ' is looked for: dense where activations bend, then ever coarser.
_SLOPE_POINTS = np.concatenate(
    [np.linspace(0.0, 20.0, 20_001), np.geomspace(20, 1e6)[1:]]
)
# The steepest intervals are halved, for cusps of φ'; a slope that grows by less or more
# than these shares grows by rounding.
_STEEPEST, _HALVINGS = 8, 13
_GROWTH = (1e-6, 0.01)
# Share by which the slope of a function that grows linearly may still rise far out.
_LINEAR = 0.01


def lipschitz_constant(activation: str | Activation | Callable[..., Any]) -> float:
    """Largest |φ'|: a wide DEQ is stable where σ_a² is below its inverse square.

    Parameters
    ----------
    activation : str, Activation or callable
        φ.

    Returns
    -------
    float
        The largest slope between neighbours of a grid of 20,000 points on either side,
        out to a million, of which the steepest intervals are halved down to 1e-7; to
        about 1e-7 for the built-in activations.

    Raises
    ------
    ValueError
        If φ grows faster than linearly, or jumps at a declared kink.

    Examples
    --------
    >>> from sklearn_deq.theory import lipschitz_constant
    >>> round(lipschitz_constant("gelu"), 3)
    1.129
    """
    return _steepest(get_activation(activation))


@remembered(128)
def _steepest(phi: Activation) -> float:
    check_continuous(phi)
    points = np.concatenate([-_SLOPE_POINTS[:0:-1], _SLOPE_POINTS])
    with np.errstate(all="ignore"):
        values = np.asarray(phi.function(points), dtype=float)
        slopes = np.abs(np.diff(values) / np.diff(points))
    inner = np.abs(points[1:]) <= 20.0
    first = np.argsort(np.where(inner, slopes, 0.0))[-_STEEPEST:]
    refined = _refined_slope(phi, points[first], points[first + 1])
    steepest = float(slopes[inner].max())
    if _GROWTH[0] * steepest < refined - steepest < _GROWTH[1] * steepest:
        steepest = refined
    outer = float(slopes[~inner].max())
    # At the far end no steeper than a tenth of the way out, if it grows linearly.
    far = np.abs(points[1:] + points[:-1]) > 0.2 * _SLOPE_POINTS[-1]
    grown = slopes[far].max() > (1.0 + _LINEAR) * max(steepest, slopes[~far].max())
    if grown or not np.isfinite(outer):
        raise ValueError(
            f"{phi} has no largest slope: it grows faster than linearly. Give "
            "recurrent_variance_bounds yourself."
        )
    return max(steepest, outer)


def _refined_slope(phi: Activation, low: np.ndarray, high: np.ndarray) -> float:
    """Largest slope in some intervals, by the steeper half of each again and again."""
    with np.errstate(all="ignore"):
        low, high = steepest_parts(phi.function, low, high, _HALVINGS)
        change = np.diff(np.asarray(phi.function(np.stack([low, high])), float), axis=0)
    return float(np.abs(change[0] / (high - low)).max())
