"""Expectations over one Gaussian variable: quadrature rules and Hermite coefficients.

Everything that the theory needs of an activation φ is an expectation of φ(√q ξ) with
ξ ~ N(0, 1). Two rules serve: composite Gauss–Legendre, graded towards 0 and split at
the kinks of φ, for moments; and the trapezoidal rule, which converges geometrically
for functions analytic in a strip, for Hermite coefficients of smooth φ.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.differentiate import derivative as finite_difference

from sklearn_deq.theory._activations import Activation
from sklearn_deq.theory._closed_forms import ClosedDual
from sklearn_deq.theory._homogeneous import Slopes, homogeneous_slopes
from sklearn_deq.theory._jumps import check_continuous, kink_jumps

# Beyond 12.5 the density is below 1e-34: room for activations that grow fast.
_OUTER_BREAKS = (1.0, 2.0, 3.0, 4.5, 6.5, 9.0, 12.5)
_NODES_PER_PANEL = 20
# √(2π), the normalisation of the standard normal density.
_ROOT_TWO_PI = float(np.sqrt(2.0 * np.pi))


@lru_cache(maxsize=8)
def legendre_rule(n_nodes: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights of Gauss–Legendre quadrature on [0, 1]."""
    nodes, weights = np.polynomial.legendre.leggauss(n_nodes)
    return 0.5 * (nodes + 1.0), 0.5 * weights


def graded_breaks(scale: float) -> np.ndarray:
    """Break points on [−12.5, 12.5], graded towards 0 for φ(√q ξ) with √q ≤ scale.

    Panels shrink geometrically until √q times their width is below one, so that poles
    of φ at a distance of order one from the real axis never come close to a panel.
    """
    n_levels = 2 + int(np.ceil(np.log2(max(scale, 1.0))))
    inner = 0.5 ** np.arange(n_levels, 0, -1)
    positive = np.concatenate([inner, _OUTER_BREAKS])
    return np.concatenate([-positive[::-1], [0.0], positive])


def composite_rule(
    breaks: np.ndarray, n_nodes: int = _NODES_PER_PANEL
) -> tuple[np.ndarray, np.ndarray]:
    """Gauss–Legendre nodes and weights on the panels between sorted breaks.

    Parameters
    ----------
    breaks : ndarray of shape (..., n_panels + 1)
        Sorted along the last axis; panels of width 0 are harmless.
    n_nodes : int, default=20
        Nodes per panel.

    Returns
    -------
    nodes, weights : ndarrays of shape (..., n_panels * n_nodes)
        The rule for the integral over [breaks[0], breaks[-1]].
    """
    nodes, weights = legendre_rule(n_nodes)
    width = np.diff(breaks, axis=-1)[..., None]
    shape = (*breaks.shape[:-1], -1)
    x = (breaks[..., :-1, None] + width * nodes).reshape(shape)
    return x, (width * weights).reshape(shape)


@dataclass(frozen=True)
class GaussianRule:
    """Quadrature for E[f(√q ξ)] at several variances q, split at the kinks of f.

    Attributes
    ----------
    x : ndarray of shape (n or 1, n_nodes)
        Nodes in units of ξ.
    u : ndarray of shape (n, n_nodes)
        √q x, where f is evaluated.
    weights : ndarray of shape (n or 1, n_nodes)
        Weights, the normal density included.
    """

    x: np.ndarray
    u: np.ndarray
    weights: np.ndarray

    def mean(self, values: np.ndarray) -> np.ndarray:
        """Expectation of the values at the nodes, shape (n,)."""
        return np.sum(self.weights * values, axis=-1)


def gaussian_rule(q: np.ndarray, kinks: tuple[float, ...] = ()) -> GaussianRule:
    """Rule for expectations over √q ξ, one row for each variance in q (shape (n,))."""
    root = np.sqrt(q)[:, None]
    breaks = graded_breaks(float(root.max(initial=1.0)))[None, :]
    elsewhere = np.array([kink for kink in kinks if kink != 0.0])
    if elsewhere.size:
        limit = breaks[0, -1]
        with np.errstate(divide="ignore"):
            splits = np.clip(elsewhere / root, -limit, limit)
        rows = np.broadcast_to(breaks, (root.shape[0], breaks.shape[1]))
        breaks = np.sort(np.concatenate([rows, splits], axis=1), axis=1)
    x, weights = composite_rule(breaks)
    weights = weights * np.exp(-0.5 * x * x) / _ROOT_TWO_PI
    return GaussianRule(x=x, u=root * x, weights=weights)


# Central differences of order 8: weights of the steps ±1 … ±4, and the largest step, a
# power of two. They err by 10 step⁸ where φ has its poles at a distance of one or so.
_DIFFERENCES = (4 / 5, -1 / 5, 4 / 105, -1 / 280)
_LARGEST_STEP = 2.0**-6


def differentiate(activation: Activation, u: np.ndarray) -> np.ndarray:
    """φ' at the points u: the given derivative, or differences that cross no kink.

    A ValueError is raised of a φ that jumps: its derivative is none.
    """
    check_continuous(activation)
    if activation.derivative is not None:
        return np.asarray(activation.derivative(u), dtype=float)
    reach = np.full(u.shape, np.inf)
    for kink in activation.kinks:
        reach = np.minimum(reach, np.abs(u - kink))
    step = np.minimum(_LARGEST_STEP, reach / 4.5)
    step = np.maximum(step, 1e-3 * np.finfo(float).tiny ** 0.25)
    with np.errstate(all="ignore"):
        coarse = _central_difference(activation, u, step)
        fine = _central_difference(activation, u, 0.5 * step)
        rounding = 64.0 * np.finfo(float).eps * (1.0 + np.abs(u)) / step
        doubtful = ~(np.abs(coarse - fine) <= (1e-11 + rounding) * (1 + np.abs(fine)))
        if np.any(doubtful):
            fine[doubtful] = _adaptive_difference(
                activation, u[doubtful], step[doubtful]
            )
    return fine


def _central_difference(
    activation: Activation, u: np.ndarray, step: np.ndarray
) -> np.ndarray:
    total = np.zeros_like(u)
    for k, weight in enumerate(_DIFFERENCES, 1):
        up, down = activation.function(u + k * step), activation.function(u - k * step)
        total += weight * (np.asarray(up, dtype=float) - np.asarray(down, dtype=float))
    return total / step


def _adaptive_difference(
    activation: Activation, u: np.ndarray, step: np.ndarray
) -> np.ndarray:
    """Differences with a step that is found point by point: for φ that bend sharply."""
    result = finite_difference(
        lambda x: np.asarray(activation.function(x), dtype=float),
        u,
        initial_step=step,
        tolerances={"rtol": 1e-13, "atol": 1e-13},
    )
    return result.df


@dataclass(frozen=True)
class SpreadMoments:
    """E[(φ(√q ξ) − b)²], its slope in q, and E φ(√q ξ), each of shape (n,)."""

    value: np.ndarray
    slope: np.ndarray
    mean: np.ndarray


def spread_moments(
    activation: Activation, q: np.ndarray, offset: float | None
) -> SpreadMoments:
    """Second moment about the offset (None: about its own mean) at variances q ≥ 0.

    The slope is E[(ξ² − 1)(φ − b)²]/(2q) = E[((φ − b)²)'']/2 by Stein's identity, so
    that φ is never differentiated. φ(0) is taken out first: for small q the slope of a
    constant would be rounding error divided by q. At q = 0 the slope is given as 0. An
    activation that grows too fast for a variance gives inf or nan, not a warning.
    """
    slopes = homogeneous_slopes(activation)
    if slopes is not None:
        return _homogeneous_moments(slopes, q, offset)
    closed = _closed_dual(activation)
    if closed is not None:
        return _closed_moments(closed, q, offset)
    rule = gaussian_rule(q, activation.kinks)
    origin = float(activation.function(np.zeros(1))[0])
    with np.errstate(over="ignore", invalid="ignore"):
        phi = np.asarray(activation.function(rule.u), dtype=float) - origin
        first = rule.mean(phi)
        shift = first if offset is None else np.full_like(first, offset - origin)
        bend = rule.x * rule.x - 1.0
        excess = phi * (phi - 2.0 * shift[:, None])
        return SpreadMoments(
            value=rule.mean((phi - shift[:, None]) ** 2),
            slope=rule.mean(bend * excess) / (2.0 * np.maximum(q, 1e-200)),
            mean=first + origin,
        )


def _homogeneous_moments(
    slopes: Slopes, q: np.ndarray, offset: float | None
) -> SpreadMoments:
    """Closed form of `spread_moments` for a positively homogeneous φ."""
    root = np.sqrt(q)
    mean = slopes.mean * root
    shift = mean if offset is None else np.full_like(mean, offset)
    bend = slopes.mean * shift / np.where(root > 0, root, np.inf)
    return SpreadMoments(
        value=slopes.squared * q + shift * (shift - 2.0 * mean),
        slope=np.where(q > 0, slopes.squared - bend, 0.0),
        mean=mean,
    )


def _closed_dual(activation: Activation) -> ClosedDual | None:
    """Dual of φ from which its moments follow in closed form, if it has such."""
    dual = activation.dual
    return dual if isinstance(dual, ClosedDual) else None


def _closed_moments(
    dual: ClosedDual, q: np.ndarray, offset: float | None
) -> SpreadMoments:
    """Closed form of `spread_moments` by a dual on its diagonal."""
    mean, _, bend = dual.means(q)
    shift = mean if offset is None else np.full_like(mean, offset)
    growth = 2.0 * dual.curvature(q, q, q)[0] + dual(q, q, q, True)
    return SpreadMoments(
        value=dual(q, q, q) + shift * (shift - 2.0 * mean),
        slope=np.where(q > 0, growth - shift * bend, 0.0),
        mean=mean,
    )


def mean_squared_derivative(activation: Activation, q: np.ndarray) -> np.ndarray:
    """E[φ'(√q ξ)²] at variances q, shape (n,)."""
    slopes = homogeneous_slopes(activation)
    if slopes is not None:
        return np.full(q.shape, slopes.squared)
    closed = _closed_dual(activation)
    if closed is not None:
        return closed(q, q, q, True)
    rule = gaussian_rule(q, activation.kinks)
    return rule.mean(differentiate(activation, rule.u) ** 2)


def squared_derivative_growth(activation: Activation, q: np.ndarray) -> np.ndarray:
    """Derivative of E[φ'(√q ξ)²] in log q, shape (n,), by Stein's identity."""
    if homogeneous_slopes(activation) is not None:
        return np.zeros(q.shape)
    closed = _closed_dual(activation)
    if closed is not None:
        _, slope, bend = closed.curvature(q, q, q)
        return q * (2.0 * slope + bend)
    rule = gaussian_rule(q, activation.kinks)
    squared = differentiate(activation, rule.u) ** 2
    return 0.5 * rule.mean((rule.x * rule.x - 1.0) * squared)


def mean_growth(activation: Activation, q: np.ndarray) -> np.ndarray:
    """Derivative of E φ(√q ξ) in log q, shape (n,), by Stein's identity."""
    slopes = homogeneous_slopes(activation)
    if slopes is not None:
        return 0.5 * slopes.mean * np.sqrt(q)
    closed = _closed_dual(activation)
    if closed is not None:
        return 0.5 * q * closed.means(q)[2]
    rule = gaussian_rule(q, activation.kinks)
    phi = np.asarray(activation.function(rule.u), dtype=float)
    origin = float(activation.function(np.zeros(1))[0])
    return 0.5 * rule.mean((rule.x * rule.x - 1.0) * (phi - origin))


# Where φ(u) − φ(0) is well above rounding; where φ(0) is not 0 it is so later.
_LEAST_VARIANCE, _LEAST_BESIDE = 1e-12, 1e-9


def resolved_variances(activation: Activation, q: np.ndarray) -> np.ndarray:
    """Variances, of small ones the least at which moments are more than rounding.

    Moments without a dimension (of φ', and slopes in q) are limits there. Kinks beside
    0 are eight standard deviations away. Closed forms need none.
    """
    if homogeneous_slopes(activation) or _closed_dual(activation):
        return q
    origin = float(activation.function(np.zeros(1))[0])
    beside = [(kink / 8.0) ** 2 for kink in activation.kinks if kink != 0.0]
    return np.maximum(q, min([_LEAST_BESIDE if origin else _LEAST_VARIANCE, *beside]))


def mean_derivatives(
    activation: Activation, q: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """E φ'(√q ξ) and E φ''(√q ξ), each (n,), by Stein's identities.

    Of variances that are not resolved the limits; but of a φ' that jumps at 0 E φ'' has
    none and goes like 1/√q.
    """
    closed = _closed_dual(activation)
    if closed is not None:
        return closed.means(q)[1:]
    origin = float(activation.function(np.zeros(1))[0])
    near = resolved_variances(activation, q)
    rule = gaussian_rule(near, activation.kinks)
    values = np.asarray(activation.function(rule.u), dtype=float) - origin
    first = rule.mean(rule.x * values) / np.sqrt(near)
    second = rule.mean((rule.x**2 - 1.0) * values) / near
    at_zero = np.equal(activation.kinks, 0.0)
    if kink_jumps(activation)[at_zero, :2].any():
        second *= np.sqrt(near / q)
    return first, second


# The trapezoidal rule with this step resolves he_k up to k = 4096 (frequency 2√k)
# and poles down to a distance of 0.1 from the axis (error exp(−2π · 0.1/h) < 1e-17).
_TRAPEZOID_STEP = 1.0 / 64.0
_TRAPEZOID_LIMIT = 14.0


# Rows of Hermite functions that are held at once where there may be thousands.
_HERMITE_BLOCK = 256


def hermite_blocks(
    x: np.ndarray, n_terms: int, start: np.ndarray | float = 1.0
) -> Iterator[np.ndarray]:
    """Yield the rows of `hermite_terms` in blocks, which are overwritten."""
    block = np.empty((_HERMITE_BLOCK, x.size))
    before, last = np.zeros(x.size), np.broadcast_to(start, x.shape)
    for first in range(0, n_terms, _HERMITE_BLOCK):
        rows = block[: min(_HERMITE_BLOCK, n_terms - first)]
        for k, row in enumerate(rows, first):
            if k > 0:
                # he_k = (x he_{k−1} − √(k−1) he_{k−2})/√k.
                following = x * last
                following -= np.sqrt(k - 1.0) * before
                following /= np.sqrt(k)
                before, last = last, following
            row[:] = last
        yield rows


def hermite_terms(
    x: np.ndarray, n_terms: int, start: np.ndarray | float = 1.0
) -> np.ndarray:
    """he_k(x) · start for k < n_terms, he_k orthonormal; shape (n_terms, len(x))."""
    return np.concatenate([rows.copy() for rows in hermite_blocks(x, n_terms, start)])


def hermite_functions(x: np.ndarray, n_terms: int) -> np.ndarray:
    """he_k(x) exp(−x²/4) for k < n_terms, he_k orthonormal; shape (n_terms, len(x)).

    The factor keeps the three-term recurrence within the floating-point range.
    """
    return hermite_terms(x, n_terms, np.exp(-0.25 * x * x))


@lru_cache(maxsize=6)
def _trapezoid_basis(n_terms: int) -> tuple[np.ndarray, np.ndarray]:
    n_half = int(_TRAPEZOID_LIMIT / _TRAPEZOID_STEP)
    x = _TRAPEZOID_STEP * np.arange(-n_half, n_half + 1)
    weights = _TRAPEZOID_STEP * np.exp(-0.25 * x * x) / _ROOT_TWO_PI
    return x, (hermite_functions(x, n_terms) * weights).T


def hermite_coefficients(
    function: Callable[[np.ndarray], np.ndarray],
    kinks: tuple[float, ...],
    q: np.ndarray,
    n_terms: int,
) -> np.ndarray:
    """E[f(√q ξ) he_k(ξ)] for k < n_terms and variances q (n,); shape (n, n_terms).

    f may return several functions along a leading axis, which the result has then too.
    Smooth f: trapezoidal rule. With kinks: composite Gauss–Legendre with panels fine
    enough for the oscillation of he_k.
    """
    root = np.sqrt(q)[:, None]
    if not kinks:
        x, basis = _trapezoid_basis(n_terms)
        return np.asarray(function(root * x), dtype=float) @ basis
    n_panels = int(8 + 2 * np.sqrt(n_terms))
    uniform = np.linspace(-_TRAPEZOID_LIMIT, _TRAPEZOID_LIMIT, 2 * n_panels + 1)
    # One rule for all variances, with the kinks of each.
    splits = np.divide.outer(kinks, np.maximum(root[:, 0], 1e-300)).ravel()
    inside = splits[np.abs(splits) < _TRAPEZOID_LIMIT]
    graded = graded_breaks(float(root.max(initial=1.0)))
    x, weights = composite_rule(np.unique(np.concatenate([uniform, graded, inside])))
    weights = weights * np.exp(-0.25 * x * x) / _ROOT_TWO_PI
    values = weights * np.asarray(function(root * x), dtype=float)
    # The factor is that of `hermite_functions`.
    blocks = hermite_blocks(x, n_terms, np.exp(-0.25 * x * x))
    return np.concatenate([values @ rows.T for rows in blocks], axis=-1)
