"""Derivatives of a DEQ's kernels in its variances, by the implicit function theorem.

All derivatives are taken in the logarithm ℓ of a variance, at fixed τ0, as scikit-learn
does for hyperparameters. τ* and the offset b, each sample's variance q and mean
m = E φ(√q ξ), and each covariance Λ solve an equation; differentiating it gives a
linear one. With H = E[φ(u)φ(v)] a function of log q1, log q2 and ρ, κ the mean of the
two derivatives of log q, A what they change of H at fixed ρ, and Ḋ = E[φ'(u)φ'(v)],

    dH = A + Ḋ (dΛ − Λ κ),    (1 − σ_a² Ḋ) dΛ = direct + σ_a² (A − Ḋ Λ κ + d centring).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from array_api_compat import array_namespace

from sklearn_deq.theory._closed_forms import correlation
from sklearn_deq.theory._dual_partials import DualPartials, dual_partials
from sklearn_deq.theory._equilibrium import (
    EquilibriumMoments,
    check_kernel,
    equilibrium_variance,
)
from sklearn_deq.theory._equilibrium_kernel import (
    diagonal_moments,
    equilibrium_kernel,
    homogeneous_reduction,
    moment_means,
    solve_entries,
    trained,
)
from sklearn_deq.theory._homogeneous import homogeneous_slopes
from sklearn_deq.theory._moments import (
    mean_growth,
    spread_moments,
    squared_derivative_growth,
)
from sklearn_deq.theory._norms import along_norms
from sklearn_deq.theory._pairs import (
    PairKernel,
    Reduction,
    States,
    common_square,
    sphere_reduction,
)

Array = Any

VARIANCES = ("recurrent_variance", "input_variance", "bias_variance")


def equilibrium_gradient(
    moments: EquilibriumMoments, kernel: str, variances: tuple[str, ...]
) -> PairKernel:
    """Kernel and its derivatives in the logarithms of some variances.

    Parameters
    ----------
    moments : EquilibriumMoments
        The DEQ.
    kernel : {"ck", "ntk", "ntk_recurrent"}
        Which kernel.
    variances : tuple of str
        Some of "recurrent_variance", "input_variance" and "bias_variance".

    Returns
    -------
    PairKernel
        Its entries and diagonal have a leading axis of length 1 + len(variances): the
        kernel, then the derivatives.
    """
    check_kernel(kernel)
    parts = _Parts(moments, kernel, [_Change(moments, name) for name in variances])
    return PairKernel(
        parts.states, parts.diagonal, parts.entries, parts.reduce, parts.base.smooth
    )


class _Parts:
    """What a `PairKernel` is made of: of a kernel, and of its derivatives behind it.

    Parameters
    ----------
    moments : EquilibriumMoments
        The DEQ.
    kernel : str
        Which kernel.
    changes : list of _Change
        Those of the variances in which it is differentiated.
    """

    def __init__(
        self, moments: EquilibriumMoments, kernel: str, changes: list[_Change]
    ) -> None:
        self.moments, self.kernel, self.changes = moments, kernel, changes
        self.base = equilibrium_kernel(moments, kernel)

    def states(self, s: np.ndarray) -> States:
        """q, its mean, and for each variance the derivatives of log q and the mean."""
        q = equilibrium_variance(self.moments, s)
        found = [q, moment_means(self.moments, q)]
        for change in self.changes:
            found += change.of_samples(q)
        return tuple(found)

    def diagonal(self, s: np.ndarray) -> np.ndarray:
        """Of the samples, from their own q."""
        q = equilibrium_variance(self.moments, s)
        solution = (*diagonal_moments(self.moments, q), q)
        rest = [
            self._derivative(change, solution, *change.of_diagonal(q))
            for change in self.changes
        ]
        return np.stack([self.base.diagonal(s), *rest])

    def entries(self, first: States, second: States, s12: Array) -> Array:
        """Of pairs, from s_ij."""
        (q1, _), (q2, _) = first[:2], second[:2]
        covariance = solve_entries(self.moments, first[:2], second[:2], s12)
        xp = array_namespace(s12)
        return self.outputs(first, second, xp.acos(correlation(q1, q2, covariance)))

    def outputs(self, first: States, second: States, angle: Array) -> Array:
        """Of pairs, from the angle of Λ."""
        m = self.moments
        (q1, mean1), (q2, mean2) = first[:2], second[:2]
        partials = dual_partials(m.activation, q1, q2, angle)
        value = partials.value + m.offset * (m.offset - mean1 - mean2)
        xp = array_namespace(angle)
        covariance = xp.sqrt(q1 * q2) * xp.cos(angle)
        solution = (value, partials.slope, covariance)
        drive = covariance - m.recurrent_variance * value
        found = [trained(m, self.kernel, value, partials.slope, drive)]
        for i, change in enumerate(self.changes):
            own = slice(2 + 2 * i, 4 + 2 * i)
            pair = first[:2] + first[own], second[:2] + second[own]
            moved = change.of_pairs(*pair, angle, partials, solution)
            found.append(self._derivative(change, solution, *moved))
        return xp.stack(found)

    def reduce(self, s: np.ndarray) -> Reduction | None:
        """To a function of the angle, for samples of one norm or homogeneous φ."""
        slopes = homogeneous_slopes(self.moments.activation)
        if slopes is None:
            square = common_square(s)
            if square is None:
                return None
            # To −s_ii only: beyond, where Λ = −q, derivatives are infinite.
            return sphere_reduction(self.states, self.entries, square)
        reduction = homogeneous_reduction(
            self.moments,
            slopes,
            lambda d, rho: np.arccos(np.clip(rho, -1.0, 1.0))[None],
            lambda first, second, angles: self.outputs(
                first[3:], second[3:], angles[0]
            ),
        )
        return replace(reduction, states=lambda s: reduction.states(s) + self.states(s))

    def _derivative(
        self,
        change: _Change,
        solution: tuple[Array, Array, Array],
        d_value: Array,
        d_slope: Array,
    ) -> Array:
        """Differentiate `trained`: solution is G, Ḋ and Λ."""
        if self.kernel == "ck":
            return d_value
        value, slope, variance = solution
        sa = self.moments.recurrent_variance
        drive = variance - sa * value
        own = change.name == "recurrent_variance"
        rest = 1.0 - sa * slope
        d_rest = -sa * (d_slope + slope if own else d_slope)
        numerator, d_numerator = value, d_value
        if self.kernel == "ntk":
            d_drive = 0.0 if own else change.direct(variance, value)
            numerator = value + drive * slope
            d_numerator = d_value + d_drive * slope + drive * d_slope
        return (d_numerator - numerator / rest * d_rest) / rest


class _Change:
    """What a small change of the logarithm of one variance does to each sample.

    Parameters
    ----------
    moments : EquilibriumMoments
        The DEQ.
    name : str
        The variance.
    """

    def __init__(self, moments: EquilibriumMoments, name: str) -> None:
        self.moments, self.name = moments, name
        m = moments
        direct = {
            "recurrent_variance": m.recurrent_variance * m.gamma2,
            "input_variance": m.input_variance * m.tau0**2,
            "bias_variance": m.bias_variance,
        }[name]
        tau = direct / (1.0 - 0.5 * m.recurrent_variance * m.E_d2phisq)
        self.offset = 0.5 * m.E_d2phi * tau if m.center else 0.0

    def direct(self, variance: Array, value: Array) -> Array:
        """Derivative of σ_a² G + σ_b² s + σ_c² = variance at fixed G = value."""
        m = self.moments
        if self.name == "recurrent_variance":
            return m.recurrent_variance * value
        if self.name == "bias_variance":
            return m.bias_variance + 0.0 * value
        return variance - m.recurrent_variance * value - m.bias_variance

    def of_samples(self, q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Derivatives of log q and of the mean, each of shape (n,)."""
        m, phi = self.moments, self.moments.activation

        def functions(q: np.ndarray) -> np.ndarray:
            spread = spread_moments(phi, q, m.offset)
            direct = self.direct(q, spread.value)
            shift = 2.0 * (spread.mean - m.offset) * self.offset
            change = direct - m.recurrent_variance * shift
            ratio = change / (1.0 - m.recurrent_variance * spread.slope) / q
            return np.stack([ratio, ratio * mean_growth(phi, q)])

        ratio, mean = along_norms(functions, np.maximum(q, 1e-200))
        return np.where(q > 0, ratio, 0.0), np.where(q > 0, mean, 0.0)

    def of_pairs(
        self,
        first: States,
        second: States,
        angle: Array,
        partials: DualPartials,
        solution: tuple[Array, Array, Array],
    ) -> tuple[Array, Array]:
        """Derivatives of G and Ḋ of pairs; states are q, mean, and their changes."""
        xp = array_namespace(angle)
        (_, mean1, log1, d_mean1), (_, mean2, log2, d_mean2) = first, second
        value, slope, covariance = solution
        sa, b = self.moments.recurrent_variance, self.moments.offset
        centring = self.offset * (2.0 * b - mean1 - mean2) - b * (d_mean1 + d_mean2)
        fixed = partials.value_log1 * log1 + partials.value_log2 * log2 + centring
        # dΛ − Λ κ, which is √(q1 q2) dρ.
        drift = 0.5 * covariance * (log1 + log2)
        turn = self.direct(covariance, value) + sa * (fixed - slope * drift)
        turn = turn / (1.0 - sa * slope) - drift
        # At ρ = ±1 the angle stays, and near there it changes in proportion to itself;
        # but it is only known to ε/θ, which would leave ε/θ² of the quotient.
        scale = xp.sqrt(first[0] * second[0]) * xp.sin(angle)
        least = xp.finfo(scale.dtype).eps ** (1 / 3)
        turns = scale > least * xp.sqrt(first[0] * second[0])
        d_angle = xp.where(turns, -turn / xp.where(turns, scale, 1.0), 0.0)
        d_slope = partials.slope_log1 * log1 + partials.slope_log2 * log2
        return fixed + slope * turn, d_slope + partials.slope_angle * d_angle

    def of_diagonal(self, q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Derivatives of E[(φ − b)²] and of E[φ'²] at the samples, each (n,)."""
        m, phi = self.moments, self.moments.activation
        log_q, _ = self.of_samples(q)

        def functions(q: np.ndarray) -> np.ndarray:
            spread = spread_moments(phi, q, m.offset)
            shift = 2.0 * (spread.mean - m.offset) * self.offset
            return np.stack(
                [q * spread.slope, shift, squared_derivative_growth(phi, q)]
            )

        growth, shift, squared = along_norms(functions, np.maximum(q, 1e-200))
        return growth * log_q - shift, squared * log_q
