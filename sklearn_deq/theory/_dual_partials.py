"""Derivatives of dual activations in the variances and in the angle.

With H = E[φ(u)φ(v)] and Ḋ = E[φ'(u)φ'(v)] in log q1, log q2 and θ = arccos ρ, nothing
is singular where ρ = ±1. A dual in closed form has a method ``log_partials`` of
(q1, q2, θ) that gives ∂H/∂log q1, ∂Ḋ/∂log q1 and ∂Ḋ/∂θ; others are tabulated.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from math import pi
from typing import Any

import numpy as np
from array_api_compat import array_namespace, device
from numpy.polynomial import chebyshev

from sklearn_deq.theory._activations import Activation
from sklearn_deq.theory._chebyshev import clenshaw
from sklearn_deq.theory._duals import (
    PairCoefficients,
    closed_dual,
    dual_scale,
    dual_table,
    spline_of,
    to_numpy,
)
from sklearn_deq.theory._moments import (
    mean_squared_derivative,
    spread_moments,
    squared_derivative_growth,
)
from sklearn_deq.theory._norms import (
    along_norms,
    norm_basis_derivative,
    norm_range,
)

Array = Any


@dataclass(frozen=True)
class DualPartials:
    """Values and first derivatives of both dual activations, arrays of one shape.

    Attributes
    ----------
    value, slope : array
        E[φ(u)φ(v)] and Ḋ = E[φ'(u)φ'(v)].
    value_log1, value_log2 : array
        Derivatives of the value in log q1 and log q2, at fixed ρ.
    slope_log1, slope_log2, slope_angle : array
        Derivatives of Ḋ in log q1 and log q2, at fixed ρ, and in θ.
    """

    value: Array
    slope: Array
    value_log1: Array
    value_log2: Array
    slope_log1: Array
    slope_log2: Array
    slope_angle: Array


def dual_partials(
    activation: Activation, q1: Array, q2: Array, angle: Array
) -> DualPartials:
    """Dual activations at correlation angles, with their derivatives.

    Parameters
    ----------
    activation : Activation
        φ.
    q1, q2 : arrays, broadcasting with angle
        Variances.
    angle : array
        θ = arccos ρ, in [0, π].

    Returns
    -------
    DualPartials
        On the array namespace of the angle.
    """
    dual = closed_dual(activation)
    if hasattr(dual, "log_partials"):
        return _closed_partials(dual, q1, q2, angle)
    return _tabulated_partials(activation, q1, q2, angle)


def _closed_partials(dual: Any, q1: Array, q2: Array, angle: Array) -> DualPartials:
    """Partials of a dual with ``log_partials``, which has those of one side."""
    xp = array_namespace(angle)
    c = xp.sqrt(q1 * q2) * xp.cos(angle)
    value_log1, slope_log1, slope_angle = dual.log_partials(q1, q2, angle)
    value_log2, slope_log2, _ = dual.log_partials(q2, q1, angle)
    return DualPartials(
        value=dual(q1, q2, c),
        slope=dual(q1, q2, c, derivative=True),
        value_log1=value_log1,
        value_log2=value_log2,
        slope_log1=slope_log1,
        slope_log2=slope_log2,
        slope_angle=slope_angle,
    )


def _tabulated_partials(
    activation: Activation, q1: Array, q2: Array, angle: Array
) -> DualPartials:
    """Differentiate the Chebyshev series of the tables."""
    norms = [np.sqrt(to_numpy(q)) for q in (q1, q2)]
    low, high = norm_range(np.concatenate([n.ravel() for n in norms]), widen=True)
    t = (2.0 / pi) * angle - 1.0

    def series(derivative: bool) -> tuple[Array, ...]:
        """Value, and its derivatives in log q1, log q2 and the angle."""
        table = dual_table(activation, low, high, derivative)
        sides = [
            _features(activation, table.basis, (low, high), n, derivative)
            for n in norms
        ]
        (first, d_first), (second, d_second) = (
            (_like(angle, value), _like(angle, change)) for value, change in sides
        )
        core = _like(angle, table.core)
        bent = _like(angle, chebyshev.chebder(table.core, axis=0) * (2.0 / pi))
        return (
            clenshaw(PairCoefficients(core, first, second), t),
            clenshaw(PairCoefficients(core, d_first, second), t),
            clenshaw(PairCoefficients(core, first, d_second), t),
            clenshaw(PairCoefficients(bent, first, second), t),
        )

    values, slopes = series(False), series(True)
    found = DualPartials(
        value=values[0],
        slope=slopes[0],
        value_log1=values[1],
        value_log2=values[2],
        slope_log1=slopes[1],
        slope_log2=slopes[2],
        slope_angle=slopes[3],
    )
    spline = spline_of(activation, high)
    if spline is None:
        return found
    rest = _closed_partials(spline, q1, q2, angle)
    return DualPartials(
        *(getattr(found, name) + getattr(rest, name) for name in _NAMES)
    )


_NAMES = tuple(field.name for field in fields(DualPartials))


def _like(other: Array, value: np.ndarray) -> Array:
    xp = array_namespace(other)
    return xp.asarray(value, dtype=other.dtype, device=device(other))


def _features(
    activation: Activation,
    basis: np.ndarray,
    span: tuple[float, float],
    norms: np.ndarray,
    derivative: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """Functions of the norms that a table multiplies, and their log q-derivatives."""
    flat = np.maximum(norms.ravel(), 1e-100)
    q = flat * flat
    scale = dual_scale(activation, q, derivative)[:, None]

    def growth(q: np.ndarray) -> np.ndarray:
        """Half the derivative of log E φ², or of log E φ'², in log q."""
        if derivative:
            energy = mean_squared_derivative(activation, q)
            return 0.5 * (squared_derivative_growth(activation, q) / energy)[None]
        spread = spread_moments(activation, q, 0.0)
        return 0.5 * (q * spread.slope / spread.value)[None]

    values, changes = norm_basis_derivative(flat, *span, basis.shape[0])
    features = values @ basis * scale
    change = changes @ basis * scale + features * along_norms(growth, q)[0][:, None]
    shape = (*norms.shape, -1)
    return features.reshape(shape), change.reshape(shape)
