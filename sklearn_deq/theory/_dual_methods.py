"""Dual activations without a closed form: Mehler's series, and plane quadrature.

Both run on the host in float64. The series serves smooth φ at moderate variances; the
quadrature everything else.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np

from sklearn_deq.theory._activations import Activation
from sklearn_deq.theory._moments import (
    composite_rule,
    differentiate,
    gaussian_rule,
    graded_breaks,
    hermite_coefficients,
)
from sklearn_deq.theory._remembered import remembered

Function = Callable[[np.ndarray], np.ndarray]

# Mehler's series: terms tried at first and at most, and the share of Σ k h_k² that
# its last quarter may hold.
_FIRST_TERMS = 64
_MOST_TERMS = 4096
_SERIES_TOLERANCE = 1e-16
# Outer limit and nodes per panel of the quadrature in the plane.
_PLANE_LIMIT = 10.0
_PLANE_NODES = 14


def dual_on_grid(
    activation: Activation,
    q1: np.ndarray,
    q2: np.ndarray,
    angles: np.ndarray,
    derivative: bool = False,
) -> np.ndarray:
    """E[φ(u)φ(v)] (or of φ') for all pairs of variances at all correlation angles.

    Parameters
    ----------
    activation : Activation
        φ, smooth or with a kink at 0; with others see `_spline_remainder`.
    q1, q2 : ndarrays of shape (n1,) and (n2,)
        Variances.
    angles : ndarray of shape (n_angles,)
        θ = arccos ρ, in [0, π].
    derivative : bool, default=False
        Whether φ' takes the place of φ.

    Returns
    -------
    ndarray of shape (n1, n2, n_angles)
        The dual, to about 1e-15 of its largest value.
    """
    if activation.dual is not None:
        first, second = q1[:, None, None], q2[None, :, None]
        c = np.sqrt(first) * np.sqrt(second) * np.cos(angles)
        return np.asarray(activation.dual(first, second, c, derivative))
    function: Function = activation.function
    if derivative:
        function = partial(differentiate, activation)
    if not activation.kinks:
        n_terms = series_length(activation, float(max(q1.max(), q2.max())))
        if n_terms is not None:
            return _series(function, q1, q2, angles, n_terms)
    planes = [plane_expectation(function, activation.kinks, q1, q2, a) for a in angles]
    return np.stack(planes, axis=-1)


def series_length(activation: Activation, q: float) -> int | None:
    """Terms that Mehler's series needs at variance q; None if too many."""
    # Of a slightly larger one, which tables ask for again and again.
    q = 2.0 ** (0.5 * math.ceil(2.0 * math.log2(max(q, 1e-200))))
    return _length(activation, q)


@remembered(256)
def _length(activation: Activation, q: float) -> int | None:
    n_terms = _FIRST_TERMS
    while n_terms <= _MOST_TERMS:
        h = hermite_coefficients(activation.function, (), np.array([q]), n_terms)[0]
        energy = np.arange(n_terms) * h * h
        if energy[-n_terms // 4 :].sum() <= _SERIES_TOLERANCE * energy.sum():
            return n_terms
        n_terms *= 2
    return None


def _series(
    function: Function,
    q1: np.ndarray,
    q2: np.ndarray,
    angles: np.ndarray,
    n_terms: int,
) -> np.ndarray:
    """Mehler's series Σ h_k(q1) h_k(q2) ρᵏ as products of matrices."""
    first = second = hermite_coefficients(function, (), q1, n_terms)
    if q2 is not q1:
        second = hermite_coefficients(function, (), q2, n_terms)
    powers = np.cos(angles) ** np.arange(n_terms)[:, None]
    # Row by row: all products of two coefficients at once would be large.
    return np.stack([(row * second) @ powers for row in first])


def quadrature_error(activation: Activation, q: np.ndarray) -> float:
    """How two rules differ in E[φ (1 + ξ)], relative: if a kink is not declared."""
    rule = gaussian_rule(q, activation.kinks)
    # Without a break at 0, and with others elsewhere.
    breaks = 0.9 * graded_breaks(float(np.sqrt(q.max())))
    breaks = np.delete(breaks, breaks.size // 2)
    kinks = np.divide.outer(activation.kinks, np.sqrt(q)).ravel()
    inside = kinks[np.abs(kinks) < breaks[-1]]
    x, weights = composite_rule(np.union1d(breaks, inside), _PLANE_NODES)
    weights = weights * np.exp(-0.5 * x * x) / np.sqrt(2.0 * np.pi)
    with np.errstate(all="ignore"):
        values = np.asarray(activation.function(np.sqrt(q)[:, None] * x), dtype=float)
        found = values @ (weights * (1.0 + x))
        expected = np.asarray(activation.function(rule.u), dtype=float)
        size = np.sqrt(rule.mean(expected**2))
        difference = np.abs(found - rule.mean(expected * (1.0 + rule.x)))
        return float(np.max(difference / np.maximum(size, 1e-300)))


def plane_expectation(
    function: Function,
    kinks: tuple[float, ...],
    q1: np.ndarray,
    q2: np.ndarray,
    theta: float,
) -> np.ndarray:
    """E[f(√q1 x) f(√q2 z)], x and z standard normal with correlation cos θ.

    With z = x cos θ + y sin θ the integral over y is done inside that over x; both are
    composite Gauss–Legendre, split at the kinks of f. The inner integral is smooth in
    x, but changes within |tan θ| of a kink of the outer one: panels are graded there.

    Parameters
    ----------
    function : callable
        f, elementwise.
    kinks : tuple of float
        Kinks of f. If one is not 0, q1 and q2 must hold one value each.
    q1, q2 : ndarrays of shape (n1,) and (n2,)
        Variances.
    theta : float
        Angle in [0, π].

    Returns
    -------
    ndarray of shape (n1, n2)
        The expectations.
    """
    cosine, sine = np.cos(theta), max(np.sin(theta), 1e-300)
    root1, root2 = np.sqrt(q1), np.sqrt(q2)
    # Positions in units of x and z; with a zero variance the kink is out of reach.
    scale1, scale2 = root1.max(), root2.max()
    with np.errstate(divide="ignore", over="ignore"):
        in_x = np.divide(kinks, max(scale1, 1e-300))
        in_z = np.divide(kinks, max(scale2, 1e-300))
    x, weights = _outer_rule(in_x, in_z, max(scale1, scale2), cosine, sine)
    near = in_z[np.abs(in_z) < 2 * _PLANE_LIMIT]
    levels = _levels(scale2 * sine) / max(sine, 1e-3)
    centre = -x[:, None] * cosine / sine
    breaks = [
        np.broadcast_to(_uniform_breaks(), (x.size, _uniform_breaks().size)),
        centre + near / sine,
        centre + np.concatenate([-levels, levels]) / max(scale2, 1.0),
    ]
    limited = np.clip(np.concatenate(breaks, axis=1), -_PLANE_LIMIT, _PLANE_LIMIT)
    y, inner_weights = composite_rule(np.sort(limited, axis=1), _PLANE_NODES)
    inner_weights *= np.exp(-0.5 * y * y) / np.sqrt(2.0 * np.pi)
    z = cosine * x[:, None] + sine * y
    inner = np.stack([np.sum(inner_weights * function(r * z), axis=1) for r in root2])
    outer = weights * function(root1[:, None] * x)
    return outer @ inner.T


def _uniform_breaks() -> np.ndarray:
    return np.linspace(-_PLANE_LIMIT, _PLANE_LIMIT, 13)


def _levels(scale: float) -> np.ndarray:
    """Geometric distances 1, 2, 4, … that grade the panels where φ(scale · x) bends."""
    n_levels = max(0, 1 + int(np.ceil(np.log2(max(scale, 1e-300)))))
    return 2.0 ** np.arange(n_levels)


def _outer_rule(
    in_x: np.ndarray, in_z: np.ndarray, scale: float, cosine: float, sine: float
) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights (density included) of the integral over x."""
    levels = _levels(scale) / max(scale, 1.0)
    spread = abs(sine / cosine) if cosine != 0.0 else np.inf
    steps = np.array([0.0, 1.5, 3.0, 5.0, 7.5, 10.0]) * min(spread, 1e3)
    zones = [kink / cosine + s * steps for kink in in_z for s in (-1, 1)]
    breaks = np.concatenate([_uniform_breaks(), in_x, -levels, levels, [0.0], *zones])
    x, weights = composite_rule(
        np.unique(np.clip(breaks, -_PLANE_LIMIT, _PLANE_LIMIT)), _PLANE_NODES
    )
    return x, weights * np.exp(-0.5 * x * x) / np.sqrt(2.0 * np.pi)
