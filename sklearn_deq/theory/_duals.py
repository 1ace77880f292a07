"""Dual activations E[φ(u)φ(v)] of a bivariate Gaussian (u, v), for any φ.

`dual_function` chooses: the closed form of the activation if it has one, else a table,
built by `dual_on_grid`, in the norms √q1, √q2 and the angle θ = arccos ρ: there the
dual is smooth, for kinked φ too. See docs/theory.md, section 2.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np
from array_api_compat import array_namespace, device

from sklearn_deq.exceptions import SolverWarning
from sklearn_deq.theory._activations import Activation, get_activation
from sklearn_deq.theory._chebyshev import (
    chebyshev_coefficients,
    chebyshev_nodes,
    clenshaw,
    last_coefficients,
    sufficient_size,
)
from sklearn_deq.theory._closed_forms import HomogeneousDual, correlation
from sklearn_deq.theory._dual_methods import dual_on_grid
from sklearn_deq.theory._homogeneous import homogeneous_slopes
from sklearn_deq.theory._moments import mean_squared_derivative, spread_moments
from sklearn_deq.theory._norms import (
    along_norms,
    norm_basis,
    norm_coordinate,
    norm_nodes,
)
from sklearn_deq.theory._piecewise_linear import piecewise_linear_dual

Array = Any
# A dual activation whose variances are fixed: (c, derivative) -> value.
DualFunction = Callable[..., Array]

# Relative size of the last coefficients of a table, and at which it is warned of.
_TOLERANCE = 1e-13
_POOR = 1e-9
_NORM_SIZES = (4, 8, 12, 16, 24, 32, 48)
_ANGLE_SIZES = (24, 48, 96, 192)
# Tables are built for ranges of norms rounded outwards to this grid (in
# `norm_coordinate`), so that nearby data share them.
_RANGE_GRID = 0.25


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
    0.304499
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
    on them alone is computed once, here or at first use.
    """
    if activation.dual is not None:
        return partial(activation.dual, q1, q2)
    slopes = homogeneous_slopes(activation)
    if slopes is not None:
        return partial(HomogeneousDual(slopes.right, slopes.left), q1, q2)
    pieces = piecewise_linear_dual(activation)
    if pieces is not None:
        return partial(pieces, q1, q2)
    return TabulatedDual(activation, q1, q2)


class TabulatedDual:
    """A dual activation evaluated from tables, on the namespace of its arguments.

    Parameters
    ----------
    activation : Activation
        φ.
    q1, q2 : arrays
        Variances, broadcasting with every c of a call.
    """

    def __init__(self, activation: Activation, q1: Array, q2: Array) -> None:
        self.activation = activation
        self.q1, self.q2 = q1, q2
        self._norms = tuple(np.sqrt(to_numpy(q)) for q in (q1, q2))
        self._range = norm_range(np.concatenate([n.ravel() for n in self._norms]))
        # (coefficients in θ, features of q1, features of q2) for φ and for φ'.
        self._parts: dict[bool, tuple[Array, Array, Array]] = {}

    def __call__(self, c: Array, derivative: bool = False) -> Array:
        """E[φ(u)φ(v)], or E[φ'(u)φ'(v)] with derivative."""
        xp = array_namespace(c)
        core, first, second = self._prepare(c, derivative)
        t = (2.0 / np.pi) * xp.acos(correlation(self.q1, self.q2, c)) - 1.0
        return clenshaw(PairCoefficients(core, first, second), t)

    def _prepare(self, c: Array, derivative: bool) -> tuple[Array, Array, Array]:
        if derivative not in self._parts:
            table = dual_table(self.activation, *self._range, derivative)
            xp = array_namespace(c)
            parts = [table.core]
            for norms in self._norms:
                scale = dual_scale(self.activation, norms.ravel() ** 2, derivative)
                features = table.features(norms.ravel()) * scale[:, None]
                parts.append(features.reshape(*norms.shape, -1))
            core, first, second = (
                xp.asarray(part, dtype=c.dtype, device=device(c)) for part in parts
            )
            self._parts[derivative] = core, first, second
        return self._parts[derivative]


@dataclass(frozen=True)
class PairCoefficients:
    """Chebyshev coefficients of every pair, made one order at a time."""

    core: Array
    first: Array
    second: Array

    def __len__(self) -> int:
        return int(self.core.shape[0])

    def __getitem__(self, k: int) -> Array:
        """Coefficient k of every pair: first · core_k · second."""
        weighted = self.first @ self.core[k]
        if self.first.ndim == 3 and self.first.shape[1] == self.second.shape[0] == 1:
            return weighted[:, 0, :] @ self.second[0].T
        return array_namespace(self.core).sum(weighted * self.second, axis=-1)


@dataclass(frozen=True)
class _DualTable:
    """Dual over √(E φ(u)² E φ(v)²) as a Chebyshev series in the angle.

    Attributes
    ----------
    low, high : float
        Range of the norm coordinate.
    basis : ndarray of shape (n_norms, rank)
        Functions of the norm, as Chebyshev coefficients.
    core : ndarray of shape (n_angles, rank, rank)
        Coefficients in 2θ/π − 1 for each pair of these functions.
    error : float
        Size of the last coefficients, relative to the largest.
    """

    low: float
    high: float
    basis: np.ndarray
    core: np.ndarray
    error: float

    def features(self, norms: np.ndarray) -> np.ndarray:
        """Functions of the norms (n,), shape (n, rank)."""
        basis = norm_basis(norms, self.low, self.high, self.basis.shape[0])
        return basis @ self.basis


def norm_range(norms: np.ndarray, *, widen: bool = False) -> tuple[float, float]:
    """Range of the norm coordinate to tabulate.

    A point if all norms are equal, unless it should be widened to an interval, for
    derivatives.
    """
    least, most = float(norms.min()), float(norms.max())
    if most - least <= 1e-14 * most and not widen:
        point = float(norm_coordinate(np.array(most)))
        return point, point
    low = np.floor(norm_coordinate(np.array(least)) / _RANGE_GRID) * _RANGE_GRID
    high = np.ceil(norm_coordinate(np.array(most)) / _RANGE_GRID) * _RANGE_GRID
    return float(low), float(max(high, low + _RANGE_GRID))


def to_numpy(x: Array) -> np.ndarray:
    """Copy an array of any namespace to NumPy float64."""
    if hasattr(x, "detach"):
        x = x.detach().cpu()
    return np.asarray(x, dtype=float)


def dual_scale(activation: Activation, q: np.ndarray, derivative: bool) -> np.ndarray:
    """√E φ(√q ξ)², or of φ', by which the table is normalised; shape (n,)."""
    # Divided by its order for small q, so that the relative error is small there too.
    origin = float(activation.function(np.zeros(1))[0]) ** 2
    safe = np.maximum(q, 1e-200)
    weight = np.ones_like(q) if derivative else q + origin

    def energy(q: np.ndarray) -> np.ndarray:
        if derivative:
            return mean_squared_derivative(activation, q)[None]
        return spread_moments(activation, q, 0.0).value[None] / (q + origin)

    return np.sqrt(along_norms(energy, safe)[0] * weight)


def dual_table(
    activation: Activation, low: float, high: float, derivative: bool
) -> _DualTable:
    """Table for a range of norms, remembered where the activation can be hashed.

    Warns every time of a table that is not accurate, remembered or not.
    """
    try:
        table = _remembered_table(activation, low, high, derivative)
    except TypeError:
        # An activation that cannot be hashed.
        table = _build_table(activation, low, high, derivative)
    if table.error > _POOR:
        warnings.warn(
            f"The dual activation of {activation} is tabulated to a relative error of "
            f"{table.error:.0e} at best. If its slope jumps somewhere, declare that "
            "(Activation(..., kinks=...)); or scale the data so that it does not "
            "saturate (StandardScaler).",
            SolverWarning,
            stacklevel=2,
        )
    return table


def _build_table(
    activation: Activation, low: float, high: float, derivative: bool
) -> _DualTable:
    """Find sufficient sizes on coarse grids, fill the grid, compress the norms."""
    sample = partial(_sample, activation, low, high, derivative)
    n_norms = 1
    if high > low:
        n_norms = sufficient_size(_NORM_SIZES, lambda a: sample(a, 6), _TOLERANCE)
    few = min(n_norms, 3)
    n_angles = sufficient_size(
        _ANGLE_SIZES, lambda k: np.moveaxis(sample(few, k), 2, 0), _TOLERANCE
    )
    values = sample(n_norms, n_angles)
    error = last_coefficients(np.moveaxis(values, 2, 0))
    if n_norms > 1:
        error = max(error, last_coefficients(values))
    for axis in range(3):
        moved = chebyshev_coefficients(np.moveaxis(values, axis, 0))
        values = np.moveaxis(moved, 0, axis)
    left, singular, _ = np.linalg.svd(values.reshape(n_norms, -1), full_matrices=False)
    rank = max(1, int(np.sum(singular > 0.01 * _TOLERANCE * singular[0])))
    basis = left[:, :rank]
    core = np.einsum("ar,abk,bs->krs", basis, values, basis, optimize=True)
    return _DualTable(low, high, basis, core, error)


_remembered_table = lru_cache(maxsize=64)(_build_table)


def _sample(
    activation: Activation,
    low: float,
    high: float,
    derivative: bool,
    n_norms: int,
    n_angles: int,
) -> np.ndarray:
    """Normalised dual on a Chebyshev grid, shape (n_norms, n_norms, n_angles)."""
    q = norm_nodes(low, high, n_norms)
    angles = 0.5 * np.pi * (1.0 + chebyshev_nodes(n_angles))
    values = dual_on_grid(activation, q, q, angles, derivative)
    scale = dual_scale(activation, q, derivative)
    product = scale[:, None, None] * scale[None, :, None]
    return np.divide(values, product, out=np.zeros_like(values), where=product > 0)
