"""Kernels on a sphere as power series of the cosine, Σ a_k ρᵏ with a_k ≥ 0.

The kernel's equation is solved for complex ρ on a circle inside the unit disc, where
the duals are analytic, and its values there give the a_k by a discrete Fourier
transform (docs/theory.md, section 5).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from sklearn_deq._warnings import warn_of_solver
from sklearn_deq.theory._activations import Activation
from sklearn_deq.theory._closed_forms import HomogeneousDual
from sklearn_deq.theory._equilibrium import EquilibriumMoments, equilibrium_variance
from sklearn_deq.theory._equilibrium_kernel import moment_means, trained
from sklearn_deq.theory._homogeneous import homogeneous_slopes
from sklearn_deq.theory._moments import (
    hermite_coefficients,
    mean_squared_derivative,
    spread_moments,
)

# Dual of φ on the disc: ρ -> E[φ(u)φ(v)] and E[φ'(u)φ'(v)].
DiscDual = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]

# Numbers of terms that are tried, and the share of f(1) that may be missing.
_SIZES = (128, 512, 2048)
_TOLERANCE = 1e-13
# The circle has _OVERSAMPLING times as many points as terms are kept, and the radius
# at which that many more powers have fallen by _DECAY: aliasing against rounding.
_OVERSAMPLING = 8
_DECAY = 1e-9
# What sums of that many terms may lack by rounding.
_ROUNDING = 1e-14
# Terms of the series of φ, where the dual is not closed.
_MOST_HERMITE = 2048
_MAX_STEPS = 60
# Before Newton's, where nothing is known.
_PLAIN_STEPS = 4


def kernel_power_series(
    moments: EquilibriumMoments, kernel: str, square: float
) -> np.ndarray:
    """Coefficients a_k of a DEQ's kernel on the sphere s_ii = square.

    Parameters
    ----------
    moments : EquilibriumMoments
        The DEQ; with bias or without centring too.
    kernel : {"ck", "ntk", "ntk_recurrent"}
        Which kernel.
    square : float
        s_ii of all samples, positive.

    Returns
    -------
    ndarray of shape (n_terms,)
        a_0, a_1, …, nonnegative; of a smooth φ all that matter (to 1e-13 of the
        kernel's diagonal), of a kinked one the first 2048, each accurate to about
        1e-14 of the diagonal.
    """
    q = equilibrium_variance(moments, np.array([square]))
    mean = moment_means(moments, q)
    shift = moments.offset * (moments.offset - 2.0 * mean)
    dual = _disc_dual(moments.activation, float(q[0]))

    def on_disc(
        z: np.ndarray, start: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        return kernel_on_disc(moments, kernel, square, q, shift, dual, z, start)

    top = float(on_disc(np.ones(1, complex))[0][0].real)
    rho = None
    for size in _SIZES:
        n_points = _OVERSAMPLING * size
        radius = _DECAY ** (1.0 / n_points)
        turn = np.exp(2j * np.pi * np.arange(n_points // 2 + 1) / n_points)
        if rho is not None:
            # The series that is known, on the circle that is wanted.
            known = rho * radius ** np.arange(len(rho))
            rho = np.fft.rfft(known, n_points).conj()
        values, rho = on_disc(radius * turn, rho)
        # Values at −θ are conjugates: the transform of a real sequence.
        series = np.fft.irfft(values.conj(), n_points)[:size]
        series = np.maximum(series / radius ** np.arange(size), 0.0)
        series[series <= 1e-15 * top] = 0.0
        if top - series.sum() <= _TOLERANCE * top:
            break
        rho = np.fft.irfft(rho.conj(), n_points)[: n_points // 2]
        rho = rho / radius ** np.arange(len(rho))
    # Without what is rounding: the tail that nobody would miss.
    rest = np.cumsum(series[::-1])[::-1]
    return series[: max(1, int(np.sum(rest > _TOLERANCE * top)))]


def kernel_on_disc(
    moments: EquilibriumMoments,
    kernel: str,
    square: float | np.ndarray,
    q: np.ndarray,
    shift: np.ndarray,
    dual: DiscDual,
    z: np.ndarray,
    start: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Kernel at complex cosines z, by Newton's method from a few plain steps.

    Parameters
    ----------
    moments, kernel
        As in `kernel_power_series`.
    square : float or array
        Products of the norms of both samples; this and the next two broadcast with z.
    q, shift : arrays
        √(q_i q_j), and what the centring adds to E[φ(u)φ(v)].
    dual : callable
        The dual activation on the disc.
    z : array
        Cosines in the unit disc.
    start : array, default=None
        What is known of the solution; the plain steps are then left out.

    Returns
    -------
    kernel, solution : arrays of the broadcast shape
        The kernel, and the cosines at equilibrium.
    """
    sa = moments.recurrent_variance
    drive = moments.input_variance * square * z + moments.bias_variance
    rho = np.zeros_like(drive + q) if start is None else start
    plain = _PLAIN_STEPS if start is None else 0
    for step in range(_MAX_STEPS):
        value, slope = dual(rho)
        change = (sa * (value + shift) + drive) / q - rho
        if step >= plain:
            change = change / (1.0 - sa * slope)
        rho = rho + change
        # The solution is a series with nonnegative terms: it stays in the disc.
        size = np.abs(rho)
        rho = np.where(size > 1.0, rho / np.maximum(size, 1.0), rho)
        # Newton doubles the digits: after a step of 1e-8 the next is rounding.
        last = float(np.abs(change).max())
        if step >= plain and last <= 1e-8:
            break
    else:
        warn_of_solver(
            f"The cosines at equilibrium are not found in {_MAX_STEPS} steps (the last "
            f"is {last:.0e}): a Hermite layer may not have the kernel. Lower "
            "recurrent_variance."
        )
    value, slope = dual(rho)
    return np.asarray(trained(moments, kernel, value + shift, slope, drive)), rho


def _disc_dual(activation: Activation, q: float) -> DiscDual:
    """Dual of φ at variances q on the disc: closed, or by its own power series."""
    slopes = homogeneous_slopes(activation)
    if slopes is not None:
        return HomogeneousDisc(HomogeneousDual(slopes.right, slopes.left), q)
    return _series_disc(activation, q)


@dataclass(frozen=True)
class HomogeneousDisc:
    """Dual of a positively homogeneous φ.

    Attributes
    ----------
    dual : HomogeneousDual
        It, at variances 1.
    q : float or array
        √(q_i q_j), broadcasting with what it is called with.
    """

    dual: HomogeneousDual
    q: float | np.ndarray

    def __call__(self, rho: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        bend = (self.dual.right - self.dual.left) ** 2 / (2.0 * np.pi)
        product = self.dual.right * self.dual.left
        angle = np.pi - np.arccos(rho)
        sine = np.sqrt((1.0 - rho) * (1.0 + rho))
        value = product * rho + bend * (sine + rho * angle)
        return self.q * value, product + bend * angle


@dataclass(frozen=True)
class SeriesDisc:
    """Dual Σ a_k ρᵏ inside the disc, of one pair of variances or of many.

    Attributes
    ----------
    value, slope : ndarrays of shape (n_terms,) or (n_pairs, n_terms)
        Coefficients of the dual and of its derivative, which ends with a 0.
    """

    value: np.ndarray
    slope: np.ndarray

    def __call__(self, rho: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Evaluate both at rho, of shape (m,) or, of every pair, (n_pairs, m)."""
        both = np.stack([self.value, self.slope], axis=-2)
        if both.ndim == 2:
            value, slope = _power_sums(both, rho)
            return value, slope
        # Pair by pair: the powers of all at once would take much memory.
        found = np.array([_power_sums(*each) for each in zip(both, rho, strict=True)])
        return found[:, 0], found[:, 1]


def _power_sums(coefficients: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Polynomials (k, n_terms) at z (m,) in the disc, shape (k, m).

    They are cut into blocks that share the first powers, so that most of the work is
    one product of matrices.
    """
    n_sums, n_terms = coefficients.shape
    size = math.isqrt(n_terms - 1) + 1
    count = -(-n_terms // size)
    blocks = np.zeros((n_sums, count * size))
    blocks[:, :n_terms] = coefficients
    powers = np.empty((size, len(z)), complex)
    powers[0] = 1.0
    for k in range(1, size):
        np.multiply(powers[k - 1], z, out=powers[k])
    parts = (blocks.reshape(-1, size) @ powers).reshape(n_sums, count, -1)
    factor = powers[-1] * z
    total = parts[:, -1]
    for k in range(count - 2, -1, -1):
        total = total * factor + parts[:, k]
    return np.asarray(total)


def _series_disc(activation: Activation, q: float) -> SeriesDisc:
    """Σ h_k² ρᵏ from the Hermite coefficients of φ(√q ξ).

    What a truncated series lacks at ρ = 1 is put into the last power.
    """
    variance = np.array([q])
    energy = float(spread_moments(activation, variance, 0.0).value[0])
    squared = float(mean_squared_derivative(activation, variance)[0])
    phi, kinks = activation.function, activation.kinks
    powers = hermite_coefficients(phi, kinks, variance, _MOST_HERMITE)[0] ** 2
    missing = energy - np.cumsum(powers) > _ROUNDING * energy
    value = powers[: int(np.sum(missing)) + 1].copy()
    value[-1] += max(energy - value.sum(), 0.0)
    slope = derived(powers[: len(value)]) / q
    if len(slope) > 1:
        slope[-2] += max(squared - slope.sum(), 0.0)
    return SeriesDisc(value, slope)


def derived(coefficients: np.ndarray) -> np.ndarray:
    """Coefficients of the derivative of a series (..., n_terms), and a 0."""
    orders = np.arange(coefficients.shape[-1])
    return np.roll(orders * coefficients, -1, axis=-1)
