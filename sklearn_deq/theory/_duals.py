"""Dual activations E[φ(u)φ(v)] of a bivariate Gaussian (u, v), for any φ.

Three methods, chosen by `dual_function`: the closed form of the activation if it has
one; Mehler's series for smooth φ; else quadrature in the plane, split at the kinks,
tabulated as a Chebyshev series in the angle θ = arccos ρ, in which the dual of a
kinked φ is smooth up to both ends. See docs/theory.md, section 2.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from array_api_compat import array_namespace, device, is_numpy_namespace
from numpy.polynomial import chebyshev

from sklearn_deq.theory._activations import Activation, get_activation
from sklearn_deq.theory._closed_forms import correlation
from sklearn_deq.theory._moments import (
    composite_rule,
    differentiate,
    hermite_coefficients,
)

Array = Any
Function = Callable[[np.ndarray], np.ndarray]
# A dual activation whose variances are fixed: (c, derivative) -> value.
DualFunction = Callable[..., Array]

# Mehler's series: terms tried at first and at most, and the share of Σ k h_k² that
# its last quarter may hold.
_FIRST_TERMS = 64
_MOST_TERMS = 1024
_SERIES_TOLERANCE = 1e-16
# Chebyshev tables in θ: sizes tried, and the relative size of the last coefficients.
_TABLE_SIZES = (48, 96, 192)
_TABLE_TOLERANCE = 1e-14
# Outer limit and nodes per panel of the quadrature in the plane.
_PLANE_LIMIT = 10.0
_PLANE_NODES = 14


def dual_activation(
    activation: str | Activation | Callable[..., Any],
    q1: Array,
    q2: Array,
    c: Array,
    *,
    derivative: bool = False,
) -> Array:
    """Expectation of φ(u)φ(v) over (u, v) ~ N(0, [[q1, c], [c, q2]]).

    Parameters
    ----------
    activation : str, Activation or callable
        The activation φ.
    q1, q2 : array-like, broadcasting with c
        Variances of u and v, nonnegative.
    c : array-like
        Covariance of u and v; |c| ≤ √(q1 q2) up to rounding.
    derivative : bool, default=False
        If True, E[φ'(u)φ'(v)] instead.

    Returns
    -------
    ndarray or tensor of the broadcast shape
        The expectation, on the array namespace of c. Closed forms are good to a few
        ulps, series and quadrature to about 1e-12 of √(E[φ(u)²] E[φ(v)²]).

    Raises
    ------
    ValueError
        If a variance is negative, or |c| exceeds √(q1 q2).

    Notes
    -----
    Source: docs/theory.md, section 2; Daniely et al. (2016) for the dual activation,
    Cho & Saul (2009) for the ReLU, Williams (1997) for erf.

    Examples
    --------
    >>> from sklearn_deq.theory import dual_activation
    >>> round(float(dual_activation("relu", 1.0, 1.0, 0.5)), 6)
    0.304501
    """
    if not hasattr(c, "dtype"):
        c = np.asarray(c, dtype=float)
    xp = array_namespace(c)
    if not xp.isdtype(c.dtype, "real floating"):
        c = xp.astype(c, xp.float64)
    q1, q2 = (xp.asarray(q, dtype=c.dtype, device=device(c)) for q in (q1, q2))
    if bool(xp.any(q1 < 0)) or bool(xp.any(q2 < 0)):
        raise ValueError("The variances q1 and q2 must be nonnegative.")
    slack = 1.0 + 16.0 * xp.finfo(c.dtype).eps
    if not bool(xp.all(xp.abs(c) <= slack * xp.sqrt(q1 * q2))):
        raise ValueError("The covariance c must satisfy |c| ≤ √(q1 q2).")
    dual = dual_function(get_activation(activation), q1, q2)
    return dual(c, derivative=derivative)


def dual_function(activation: Activation, q1: Array, q2: Array) -> DualFunction:
    """Prepare the dual activation for variances q1, q2: a function of c alone.

    The variances broadcast against each other and against every later c. What depends
    on them only (series coefficients, tables) is computed once, here or at first use.
    """
    if activation.dual is not None:
        return partial(activation.dual, q1, q2)
    first, second = _to_numpy(q1), _to_numpy(q2)
    host: DualFunction
    if not activation.kinks and (terms := _series_length(activation, first, second)):
        host = _SeriesDual(activation, first, second, terms)
    else:
        host = _PlaneDual(activation, first, second)
    return partial(_on_host, host)


def _to_numpy(x: Array) -> np.ndarray:
    """Copy an array of any namespace to NumPy float64."""
    if hasattr(x, "detach"):
        x = x.detach().cpu()
    return np.asarray(x, dtype=float)


def _on_host(host: DualFunction, c: Array, derivative: bool = False) -> Array:
    """Evaluate a NumPy dual on c and return it where and how c is."""
    value = host(_to_numpy(c), derivative=derivative)
    xp = array_namespace(c)
    if is_numpy_namespace(xp) and c.dtype == value.dtype:
        return value
    return xp.asarray(value, dtype=c.dtype, device=device(c))


def _series_length(activation: Activation, *variances: np.ndarray) -> int | None:
    """Terms that Mehler's series needs at the largest variance; None if too many."""
    largest = max(float(np.max(q, initial=0.0)) for q in variances)
    n_terms = _FIRST_TERMS
    while n_terms <= _MOST_TERMS:
        h = hermite_coefficients(
            activation.function, (), np.array([largest]), n_terms
        )[0]
        energy = np.arange(n_terms) * h * h
        if energy[-n_terms // 4 :].sum() <= _SERIES_TOLERANCE * energy.sum():
            return n_terms
        n_terms *= 2
    return None


class _SeriesDual:
    """Mehler's series Σ h_k(q1) h_k(q2) ρᵏ; for Ḋ the coefficients of φ'."""

    def __init__(
        self, activation: Activation, q1: np.ndarray, q2: np.ndarray, n_terms: int
    ) -> None:
        self.activation = activation
        self.q1, self.q2, self.n_terms = q1, q2, n_terms
        self._products: dict[bool, np.ndarray] = {}

    def __call__(self, c: np.ndarray, derivative: bool = False) -> np.ndarray:
        """Sum the series by Horner's rule."""
        rho = correlation(self.q1, self.q2, c)
        coefficients = self.coefficients(derivative)
        total = np.zeros(np.broadcast_shapes(rho.shape, coefficients.shape[1:]))
        for coefficient in coefficients[::-1]:
            total *= rho
            total += coefficient
        return total

    def coefficients(self, derivative: bool) -> np.ndarray:
        """Products of coefficients, shape (n_terms, broadcast of q1 and q2)."""
        if derivative not in self._products:
            function: Function = self.activation.function
            if derivative:
                function = partial(differentiate, self.activation)
            first, second = (
                self._hermite(function, q) for q in (self.q1, self.q2)
            )
            products = first * second
            size = np.abs(products).reshape(self.n_terms, -1).max(axis=1)
            used = np.flatnonzero(size > 1e-18 * size.max(initial=0.0))
            self._products[derivative] = products[: used.max(initial=0) + 1]
        return self._products[derivative]

    def _hermite(self, function: Function, q: np.ndarray) -> np.ndarray:
        unique, inverse = np.unique(q, return_inverse=True)
        h = hermite_coefficients(function, (), unique, self.n_terms)
        return h.T[:, inverse.reshape(q.shape)]


class _PlaneDual:
    """Quadrature in the plane, tabulated in the angle where that saves work."""

    def __init__(
        self, activation: Activation, q1: np.ndarray, q2: np.ndarray
    ) -> None:
        self.activation = activation
        self.q1, self.q2 = q1, q2
        self._tables: dict[bool, np.ndarray] = {}

    def __call__(self, c: np.ndarray, derivative: bool = False) -> np.ndarray:
        """Evaluate the table, or the quadrature itself where c has few values."""
        theta = np.arccos(correlation(self.q1, self.q2, c))
        pairs = np.broadcast_shapes(self.q1.shape, self.q2.shape)
        n_pairs = int(np.prod(pairs))
        if derivative not in self._tables and theta.size < _TABLE_SIZES[0] * n_pairs:
            return self._direct(theta, derivative)
        table = self._table(pairs, derivative)
        return evaluate_chebyshev(table, 2.0 * theta / np.pi - 1.0)

    def _expectation(
        self, q1: np.ndarray, q2: np.ndarray, theta: float, derivative: bool
    ) -> np.ndarray:
        function: Function = self.activation.function
        if derivative:
            function = partial(differentiate, self.activation)
        return plane_expectation(function, self.activation.kinks, q1, q2, theta)

    def _direct(self, theta: np.ndarray, derivative: bool) -> np.ndarray:
        q1, q2, angles = np.broadcast_arrays(self.q1, self.q2, theta)
        values = [
            self._expectation(a[None], b[None], float(angle), derivative)[0, 0]
            for a, b, angle in zip(q1.flat, q2.flat, angles.flat, strict=True)
        ]
        return np.array(values).reshape(angles.shape)

    def _table(self, pairs: tuple[int, ...], derivative: bool) -> np.ndarray:
        """Chebyshev coefficients in θ, shape (n_coefficients, *pairs)."""
        if derivative not in self._tables:
            first, i = np.unique(self.q1, return_inverse=True)
            second, j = np.unique(self.q2, return_inverse=True)
            i = np.broadcast_to(i.reshape(self.q1.shape), pairs)
            j = np.broadcast_to(j.reshape(self.q2.shape), pairs)
            for size in _TABLE_SIZES:
                angles = 0.5 * np.pi * (1.0 + chebyshev_nodes(size))
                values = np.stack(
                    [
                        self._on_pairs(first, second, i, j, float(angle), derivative)
                        for angle in angles
                    ]
                )
                table = chebyshev_coefficients(values)
                if table_has_converged(table, _TABLE_TOLERANCE):
                    break
            self._tables[derivative] = table
        return self._tables[derivative]

    def _on_pairs(
        self,
        first: np.ndarray,
        second: np.ndarray,
        i: np.ndarray,
        j: np.ndarray,
        angle: float,
        derivative: bool,
    ) -> np.ndarray:
        """Values at all pairs; all at once where they can share their nodes."""
        shareable = all(kink == 0.0 for kink in self.activation.kinks)
        if shareable and first.size * second.size <= 2 * i.size:
            return self._expectation(first, second, angle, derivative)[i, j]
        values = [
            self._expectation(first[a, None], second[b, None], angle, derivative)[0, 0]
            for a, b in zip(i.flat, j.flat, strict=True)
        ]
        return np.array(values).reshape(i.shape)


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
    breaks = np.concatenate(
        [_uniform_breaks(), in_x, -levels, levels, [0.0], *zones]
    )
    x, weights = composite_rule(
        np.unique(np.clip(breaks, -_PLANE_LIMIT, _PLANE_LIMIT)), _PLANE_NODES
    )
    return x, weights * np.exp(-0.5 * x * x) / np.sqrt(2.0 * np.pi)


def chebyshev_nodes(size: int) -> np.ndarray:
    """Chebyshev points of the first kind on [−1, 1], ascending."""
    return -np.cos(np.pi * (np.arange(size) + 0.5) / size)


def chebyshev_coefficients(values: np.ndarray) -> np.ndarray:
    """Coefficients along axis 0 of the interpolant through `chebyshev_nodes`."""
    size = values.shape[0]
    basis = chebyshev.chebvander(chebyshev_nodes(size), size - 1)
    basis = basis * np.where(np.arange(size) == 0, 1.0, 2.0) / size
    return np.tensordot(basis.T, values, axes=1)


def table_has_converged(coefficients: np.ndarray, tolerance: float) -> bool:
    """Whether the last coefficients along axis 0 are below tolerance of the largest."""
    size = np.abs(coefficients).reshape(coefficients.shape[0], -1)
    return bool(np.all(size[-4:].max(axis=0) <= tolerance * size.max()))


def evaluate_chebyshev(coefficients: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Clenshaw's rule; coefficients (size, *shape) with shape broadcasting with t."""
    shape = np.broadcast_shapes(coefficients.shape[1:], t.shape)
    last, before = np.zeros(shape), np.zeros(shape)
    twice = 2.0 * t
    for coefficient in coefficients[:0:-1]:
        last, before = coefficient + twice * last - before, last
    return coefficients[0] + t * last - before
