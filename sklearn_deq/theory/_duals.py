"""Dual activations E[φ(u)φ(v)] of a bivariate Gaussian (u, v), for any φ.

`dual_function` chooses: the closed form of the activation if it has one, else a table,
built by `dual_on_grid`, in the norms √q1, √q2 and the angle θ = arccos ρ: there the
dual is smooth, for kinked φ too. See docs/theory.md, section 2.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from array_api_compat import array_namespace, device

from sklearn_deq._warnings import warn_of_solver
from sklearn_deq.theory._activations import (
    ACTIVATIONS,
    Activation,
    get_activation,
)
from sklearn_deq.theory._chebyshev import (
    chebyshev_coefficients,
    chebyshev_nodes,
    clenshaw,
    last_coefficients,
)
from sklearn_deq.theory._closed_forms import HomogeneousDual, correlation
from sklearn_deq.theory._dual_methods import (
    dual_on_grid,
    quadrature_error,
)
from sklearn_deq.theory._homogeneous import homogeneous_slopes
from sklearn_deq.theory._jumps import check_continuous
from sklearn_deq.theory._moments import mean_squared_derivative, spread_moments
from sklearn_deq.theory._norms import (
    along_norms,
    norm_basis,
    norm_nodes,
    norm_range,
)
from sklearn_deq.theory._piecewise_linear import piecewise_linear_dual
from sklearn_deq.theory._remembered import remembered
from sklearn_deq.theory._spline_dual import SplineDual, spline_dual
from sklearn_deq.theory._spline_remainder import SplineRemainder

Array = Any
# A dual activation whose variances are fixed: (c, derivative) -> value.
DualFunction = Callable[..., Array]

# Relative size of the last coefficients of a table, and of a rough one.
_TOLERANCE = 1e-13
_POOR = 1e-9
# Error that is warned of. Where φ saturates (variances beyond 20) tables of φ' reach
# 1e-8 only: less than single precision or a match can tell.
_WARNED_OF = 1e-7
# Sizes of a table where none is accurate.
_ROUGH_NORMS, _ROUGH_ANGLES = 12, 48
# Terms of a series while sizes are looked for.
_FEW_TERMS = 512
# The error of quadrature in the plane over that in one variable, at most.
_PLANE_FACTOR = 30.0
_NORM_SIZES = (4, 8, 12, 16, 24, 32, 48, 64)
_ANGLE_SIZES = (24, 48, 96, 192)


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
        If an argument is not finite, a variance is negative, or |c| exceeds √(q1 q2).

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
    for name, value in (("q1", q1), ("q2", q2), ("c", c)):
        if not bool(xp.all(xp.isfinite(value))):
            raise ValueError(
                f"{name} contains NaN or infinity (in {c.dtype}): variances and "
                "covariances must be finite."
            )
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
    dual = closed_dual(activation)
    if dual is None:
        return TabulatedDual(activation, q1, q2)
    return partial(dual, q1, q2)


def closed_dual(activation: Activation) -> Callable[..., Array] | None:
    """Closed form ``dual(q1, q2, c, derivative)``: given, or found out; or None."""
    if activation.dual is not None:
        return activation.dual
    slopes = homogeneous_slopes(activation)
    if slopes is not None:
        return HomogeneousDual(slopes.right, slopes.left)
    return piecewise_linear_dual(activation)


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
        self._spline = spline_of(activation, self._range[1])
        # (coefficients in θ, features of q1, features of q2) for φ and for φ'.
        self._parts: dict[bool, tuple[Array, Array, Array]] = {}

    def __call__(self, c: Array, derivative: bool = False) -> Array:
        """E[φ(u)φ(v)], or E[φ'(u)φ'(v)] with derivative."""
        xp = array_namespace(c)
        core, first, second = self._prepare(c, derivative)
        t = (2.0 / np.pi) * xp.acos(correlation(self.q1, self.q2, c)) - 1.0
        value = clenshaw(PairCoefficients(core, first, second), t)
        if self._spline is not None:
            value = value + self._spline(self.q1, self.q2, c, derivative)
        return value

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


def spline_of(activation: Activation, high: float) -> SplineDual | None:
    """Spline that tables up to a norm coordinate leave out, if any."""
    return spline_dual(activation, (np.sinh(high) / 4.0) ** 2)


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
class DualTable:
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
) -> DualTable:
    """Table for a range of norms, remembered where the activation can be hashed.

    Warns every time of a table that is not accurate to 1e-7, remembered or not.
    """
    table = _build_table(activation, low, high, derivative)
    if table.error > _WARNED_OF:
        warn_of_solver(_say_poor(activation, derivative, table.error))
    return table


def _say_poor(activation: Activation, derivative: bool, error: float) -> str:
    """What a table that is not accurate means, and what to do."""
    what, feels = f"The dual activation of {activation}", ""
    if derivative:
        what += "'s derivative"
        feels = ", which tangent kernels feel and conjugate kernels hardly"
    declare = "if its slope jumps somewhere, declare that (Activation(..., kinks=...))"
    scale = "scale the data so that it does not saturate (StandardScaler)"
    known = any(activation.function is each.function for each in ACTIVATIONS.values())
    advice = scale if known else f"{declare}; or {scale}"
    return (
        f"{what} is tabulated to a relative error of {error:.0e} at best{feels}: "
        f"{advice}."
    )


@remembered(256)
def _build_table(
    activation: Activation, low: float, high: float, derivative: bool
) -> DualTable:
    """Find sufficient sizes on coarse grids, fill the grid, compress the norms."""
    if derivative:
        check_continuous(activation)
    grid = _Grid(activation, low, high, derivative)
    n_norms, n_angles = grid.sizes()
    values = grid.sample(
        norm_nodes(low, high, n_norms), _angles(chebyshev_nodes(n_angles))
    )
    error = max(grid.error, _last(np.moveaxis(values, 2, 0)))
    if n_norms > 1:
        error = max(error, _last(values))
    for axis in range(3):
        moved = chebyshev_coefficients(np.moveaxis(values, axis, 0))
        values = np.moveaxis(moved, 0, axis)
    left, singular, _ = np.linalg.svd(values.reshape(n_norms, -1), full_matrices=False)
    rank = max(1, int(np.sum(singular > 0.01 * _TOLERANCE * singular[0])))
    basis = left[:, :rank]
    core = np.einsum("ar,abk,bs->krs", basis, values, basis, optimize=True)
    table = DualTable(low, high, basis, core, error)
    return replace(table, error=max(error, grid.largest_difference(table)))


def _last(values: np.ndarray) -> float:
    """Last coefficients over the dual, of which the values may be a small part."""
    return last_coefficients(values) * min(1.0, float(np.abs(values).max()))


def _angles(t: np.ndarray) -> np.ndarray:
    return np.asarray(0.5 * np.pi * (1.0 + t))


class _Grid:
    """The normalised dual on grids of norms and angles.

    Attributes
    ----------
    error : float
        Relative error of the samples themselves.
    """

    def __init__(
        self, activation: Activation, low: float, high: float, derivative: bool
    ) -> None:
        self.activation, self.derivative = activation, derivative
        self.low, self.high = low, high
        self.remainder: SplineRemainder | None = None
        self.error = 0.0
        spline = spline_of(activation, high)
        if spline is not None:
            largest = float(norm_nodes(high, high, 1)[0])
            self.remainder = SplineRemainder(activation, spline, largest, derivative)
            self.error = self.remainder.error
        elif activation.dual is None:
            # In the plane a kink that the rule misses lies across many of its panels.
            missed = quadrature_error(activation, norm_nodes(low, high, 3))
            self.error = _PLANE_FACTOR * missed

    def sample(
        self, q: np.ndarray, angles: np.ndarray, n_terms: int | None = None
    ) -> np.ndarray:
        """Dual over its scales, shape (n_norms, n_norms, n_angles)."""
        if self.remainder is not None:
            values = self.remainder(q, angles, n_terms)
        else:
            values = dual_on_grid(self.activation, q, q, angles, self.derivative)
        scale = dual_scale(self.activation, q, self.derivative)
        product = scale[:, None, None] * scale[None, :, None]
        return np.divide(values, product, out=np.zeros_like(values), where=product > 0)

    def sizes(self) -> tuple[int, int]:
        """Numbers of norms and angles; small ones where none suffice."""
        few = (1, 3)[self.high > self.low]
        if self.error > _POOR and self.remainder is None:
            return min(_ROUGH_NORMS, 4 * few), _ROUGH_ANGLES
        n_norms, close = 1, True
        six = _angles(chebyshev_nodes(6))
        if self.high > self.low:
            n_norms, close = self._sufficient(
                _NORM_SIZES,
                lambda n: self.sample(
                    norm_nodes(self.low, self.high, n), six, _FEW_TERMS
                ),
            )
        q = norm_nodes(self.low, self.high, min(n_norms, few))
        n_angles, near = self._sufficient(
            _ANGLE_SIZES,
            lambda n: np.moveaxis(self.sample(q, _angles(chebyshev_nodes(n))), 2, 0),
        )
        if close and near:
            return n_norms, n_angles
        return min(n_norms, _ROUGH_NORMS), min(n_angles, _ROUGH_ANGLES)

    def _sufficient(
        self, sizes: tuple[int, ...], sample: Callable[[int], np.ndarray]
    ) -> tuple[int, bool]:
        """First size whose last coefficients are negligible; or whether nearly so."""
        errors = []
        for size in sizes:
            errors.append(_last(sample(size)))
            if errors[-1] <= _TOLERANCE:
                break
        return size, errors[-1] <= 10.0 * _POOR

    def largest_difference(self, table: DualTable) -> float:
        """Largest error of a table at points between its nodes."""
        points = self.low + (self.high - self.low) * np.array([0.03, 0.37, 0.96])
        if self.high <= self.low:
            points = points[:1]
        q = np.maximum((np.sinh(points) / 4.0) ** 2, 1e-200)
        t = np.array([-1.0, -0.999, -0.97, 0.06, 0.995])
        features = table.features(np.sqrt(q))
        coefficients = PairCoefficients(
            table.core, features[:, None, None], features[:, None]
        )
        found = clenshaw(coefficients, np.broadcast_to(t, (len(q), len(q), len(t))))
        return float(np.abs(found - self.sample(q, _angles(t))).max())
