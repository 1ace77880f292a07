"""The exact infinite-width kernels of a DEQ, entry by entry (docs/theory.md, 2)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from array_api_compat import array_namespace

from sklearn_deq._warnings import warn_of_solver
from sklearn_deq.theory._closed_forms import HomogeneousDual
from sklearn_deq.theory._duals import DualFunction, dual_function
from sklearn_deq.theory._equilibrium import (
    EquilibriumMoments,
    check_kernel,
    equilibrium_variance,
)
from sklearn_deq.theory._homogeneous import Slopes, homogeneous_slopes
from sklearn_deq.theory._moments import mean_squared_derivative, spread_moments
from sklearn_deq.theory._norms import along_norms
from sklearn_deq.theory._pairs import (
    PairKernel,
    Reduction,
    States,
    common_square,
    sphere_reduction,
    stack_kernels,
)
from sklearn_deq.theory._remembered import remembered
from sklearn_deq.theory._rows import inverse_norms

Array = Any

# Newton steps at most; a handful is usual.
_MAX_STEPS = 200
# Below this a step that is no smaller than the last one is rounding.
_STALLED = 1e-8


def equilibrium_kernel(
    moments: EquilibriumMoments, kernel: str | Sequence[str] = "ck"
) -> PairKernel:
    """Exact infinite-width kernel of a DEQ as functions of s_ii, s_jj and s_ij.

    Parameters
    ----------
    moments : EquilibriumMoments
        The DEQ.
    kernel : {"ck", "ntk", "ntk_recurrent"}, default="ck"
        Which weights are trained: the readout, all, or the readout and A; or several
        of them.

    Returns
    -------
    PairKernel
        The diagonal and the entries; of several kernels, with a leading axis.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_deq.theory import equilibrium_kernel, equilibrium_moments
    >>> pair = equilibrium_kernel(equilibrium_moments("relu"))
    >>> state = pair.states(np.array([1.0]))
    >>> pair.entries(state, state, np.array([0.3])).round(6)
    array([0.069495])
    """
    if not isinstance(kernel, str):
        if not (isinstance(kernel, list | tuple | np.ndarray) and len(kernel)):
            check_kernel(kernel)
        kernel = tuple(kernel)
    return _build_kernel(moments, kernel)


# One object for one kernel, so that what is made for it can be remembered by it.
@remembered(32)
def _build_kernel(
    moments: EquilibriumMoments, kernel: str | tuple[str, ...]
) -> PairKernel:
    if isinstance(kernel, tuple):
        return stack_kernels([equilibrium_kernel(moments, name) for name in kernel])
    check_kernel(kernel)

    def states(s: np.ndarray) -> tuple[np.ndarray, ...]:
        q = equilibrium_variance(moments, s)
        return q, moment_means(moments, q)

    def diagonal(s: np.ndarray) -> np.ndarray:
        q = equilibrium_variance(moments, s)
        drive = moments.input_variance * s + moments.bias_variance
        value, squared = diagonal_moments(moments, q)
        return trained(moments, kernel, value, squared, drive)

    def entries(states1: States, states2: States, s12: Array) -> Array:
        value, slope = equilibrium_covariance(moments, states1, states2, s12)
        drive = moments.input_variance * s12 + moments.bias_variance
        return trained(moments, kernel, value, slope, drive)

    def reduce(s: np.ndarray) -> Reduction | None:
        square = common_square(s)
        if square is not None:
            least = least_product(moments, square)
            return sphere_reduction(states, entries, square, least)
        slopes = homogeneous_slopes(moments.activation)
        if slopes is None:
            return None
        return _homogeneous_kernel(moments, slopes, kernel)

    return PairKernel(
        states,
        diagonal,
        entries,
        reduce,
        smooth=not moments.activation.kinks,
    )


def diagonal_moments(
    moments: EquilibriumMoments, q: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """E[(φ − offset)²] and E[φ'²] at the variances q."""
    # Divided by its order for small q, so that the relative error is small there too.
    phi, offset = moments.activation, moments.offset
    origin = (float(phi.function(np.zeros(1))[0]) - offset) ** 2

    def functions(q: np.ndarray) -> np.ndarray:
        value = spread_moments(phi, q, offset).value / (q + origin)
        return np.stack([value, mean_squared_derivative(phi, q)])

    safe = np.maximum(q, 1e-200)
    ratio, squared = along_norms(functions, safe)
    return ratio * (q + origin), squared


def trained(
    moments: EquilibriumMoments,
    kernel: str,
    value: np.ndarray,
    slope: np.ndarray,
    drive: np.ndarray,
) -> np.ndarray:
    """Turn G, Ḋ and σ_b² S + σ_c² into the kernel asked for (docs/theory.md, 2)."""
    if kernel == "ck":
        return value
    numerator = value + drive * slope if kernel == "ntk" else value
    return numerator / (1.0 - moments.recurrent_variance * slope)


def equilibrium_covariance(
    moments: EquilibriumMoments, states1: States, states2: States, s12: Array
) -> tuple[Array, Array]:
    """Solve G = E[φ(u)φ(v)] at Λ = σ_a² G + σ_b² s + σ_c² by Newton, and give Ḋ there.

    Parameters
    ----------
    moments : EquilibriumMoments
        The DEQ.
    states1, states2 : tuples of two arrays, broadcasting with s12
        Equilibrium variances of the samples of either side and the means E φ there.
    s12 : array
        Inner products of the samples over the number of features.

    Returns
    -------
    value, slope : arrays of the broadcast shape
        G (the CK) and Ḋ = E[φ'(u)φ'(v)].
    """
    (q1, mean1), (q2, mean2) = states1, states2
    offset = moments.offset
    covariance = solve_entries(moments, states1, states2, s12)
    dual = dual_function(moments.activation, q1, q2)
    value = dual(covariance) + offset * (offset - mean1 - mean2)
    if offset != 0.0:
        # Exactly, where a sample is at rest.
        xp = array_namespace(s12)
        rest = (mean1 - offset) * (mean2 - offset) + 0.0 * value
        value = xp.where(q1 * q2 + 0.0 * value > 0, value, rest)
    return value, dual(covariance, derivative=True)


def solve_entries(
    moments: EquilibriumMoments, states1: States, states2: States, s12: Array
) -> Array:
    """Solve for Λ of every pair; arguments as in `equilibrium_covariance`."""
    xp = array_namespace(s12)
    (q1, mean1), (q2, mean2) = states1, states2
    sa, offset = moments.recurrent_variance, moments.offset
    drive = moments.input_variance * s12 + moments.bias_variance
    drive = drive + sa * offset * (offset - mean1 - mean2)
    dual = dual_function(moments.activation, q1, q2)
    return solve_covariance(dual, sa, drive, xp.sqrt(q1 * q2))


def solve_covariance(
    dual: DualFunction, recurrent_variance: float, drive: Array, limit: Array
) -> Array:
    """Solve Λ = σ_a² dual(Λ) + drive with |Λ| ≤ limit by Newton's method.

    Parameters
    ----------
    dual : callable
        (c, derivative) -> E[φ(u)φ(v)] or E[φ'(u)φ'(v)].
    recurrent_variance : float
        σ_a².
    drive, limit : arrays
        What does not depend on Λ, and √(q1 q2).

    Returns
    -------
    array
        Λ.
    """
    xp = array_namespace(drive)
    covariance = xp.clip(drive, -limit, limit)
    if recurrent_variance == 0:
        return covariance
    change = math.inf
    for _ in range(_MAX_STEPS):
        gap = recurrent_variance * dual(covariance) + drive - covariance
        step = gap / (1.0 - recurrent_variance * dual(covariance, derivative=True))
        new = xp.clip(covariance + step, -limit, limit)
        last = change
        change = float(xp.max(xp.abs(new - covariance) / xp.clip(limit, min=1e-200)))
        covariance = new
        # Newton doubles the digits: of the variance, where φ oscillates. Where duals
        # have a kink, at ρ = ±1, rounding of ρ keeps it from that.
        if change <= 1e-11 or 0.5 * last < change <= _STALLED:
            break
    else:
        warn_of_solver(
            f"An equation of the kernel is not solved in {_MAX_STEPS} steps (the last "
            f"is {change:.0e} of the variance): its entries are not accurate. Lower "
            "recurrent_variance."
        )
    return covariance


def least_product(moments: EquilibriumMoments, square: float) -> float | None:
    """s_ij at which Λ_ij would be −q, for samples of one norm; None without input.

    It lies below −s_ii. A table that ends there is smooth in the angle; one that ends
    at −s_ii has a branch point of the solution just beyond.
    """
    if moments.input_variance == 0.0:
        return None
    q = equilibrium_variance(moments, np.array([square]))
    mean, offset = moment_means(moments, q), moments.offset
    value = dual_function(moments.activation, q, q)(-q) + offset * (offset - 2 * mean)
    sa, sb, sc = (
        moments.recurrent_variance,
        moments.input_variance,
        moments.bias_variance,
    )
    return float((-q - sa * value - sc)[0] / sb)


def homogeneous_reduction(
    moments: EquilibriumMoments,
    slopes: Slopes,
    functions: Callable[[np.ndarray, np.ndarray], np.ndarray],
    assemble: Callable[[States, States, Array], Array],
) -> Reduction:
    """Reduction of whatever follows from Λ for a positively homogeneous φ.

    With Λ = √(q_i q_j) ρ and G = √(q_i q_j) F(ρ) + g_i + g_j, g = b²/2 − b m from the
    centring, the equation of an entry is ρ − σ_a² F(ρ) = d, and all but d is the same
    for every pair of samples: d = (σ_b² s_ij + σ_c² + σ_a² (g_i + g_j))/√(q_i q_j).

    Parameters
    ----------
    moments : EquilibriumMoments
        The DEQ.
    slopes : Slopes
        Of its activation.
    functions : callable
        d and ρ, each (m,) -> (k, m).
    assemble : callable
        As in `Reduction`; the states are √q, 1/√q in units of the table, and g.

    Returns
    -------
    Reduction
        For samples of any norms.
    """
    sa, offset = moments.recurrent_variance, moments.offset
    dual = partial(HomogeneousDual(slopes.right, slopes.left), np.ones(1), np.ones(1))
    ends = np.array([-1.0, 1.0])
    low, high = (float(d) for d in ends - sa * dual(ends))
    middle, half = 0.5 * (high + low), 0.5 * (high - low)

    def states(s: np.ndarray) -> States:
        q = equilibrium_variance(moments, s)
        root = np.sqrt(q)
        return root, inverse_norms(q), offset * (0.5 * offset - slopes.mean * root)

    def argument(first: States, second: States, s12: Array) -> Array:
        (_, inverse1, centring1), (_, inverse2, centring2) = first[:3], second[:3]
        # In place, and in the order that needs the fewest passes over the block.
        s12 *= moments.input_variance * inverse1
        s12 += (moments.bias_variance + sa * centring1) * inverse1
        if offset != 0.0:
            s12 += inverse1 * (sa * centring2)
        s12 *= inverse2 / half
        s12 -= middle / half
        return s12

    def profiles(x: np.ndarray) -> np.ndarray:
        d = middle + half * x
        return functions(d, solve_covariance(dual, sa, d, np.ones(1)))

    return Reduction(states, argument, profiles, assemble)


def _homogeneous_kernel(
    moments: EquilibriumMoments, slopes: Slopes, kernel: str
) -> Reduction:
    """Reduction of the kernels of a positively homogeneous φ, at any norms.

    CK = √(q_i q_j) F + g_ij,
    NTK = √(q_i q_j) (F + d F')/(1 − σ_a² F') + g_ij,
    with A and the readout trained: (√(q_i q_j) F + g_ij)/(1 − σ_a² F').
    """
    sa = moments.recurrent_variance
    dual = partial(HomogeneousDual(slopes.right, slopes.left), np.ones(1), np.ones(1))

    def functions(d: np.ndarray, rho: np.ndarray) -> np.ndarray:
        value, slope = dual(rho), dual(rho, derivative=True)
        if kernel == "ck":
            return value[None]
        if kernel == "ntk":
            return ((value + d * slope) / (1.0 - sa * slope))[None]
        return np.stack([value, np.ones_like(value)]) / (1.0 - sa * slope)

    def assemble(first: States, second: States, values: Array) -> Array:
        (root1, _, centring1), (root2, _, centring2) = first, second
        value = values[0] * root1 * root2
        if moments.offset == 0.0:
            return value
        centring = centring1 + centring2
        return value + (centring * values[1] if len(values) > 1 else centring)

    return homogeneous_reduction(moments, slopes, functions, assemble)


def moment_means(moments: EquilibriumMoments, q: np.ndarray) -> np.ndarray:
    """E φ(√q ξ) at variances of any shape; skipped where nothing is centred."""
    if moments.offset == 0.0:
        return np.zeros_like(q)

    def mean(q: np.ndarray) -> np.ndarray:
        return spread_moments(moments.activation, q, 0.0).mean[None]

    return along_norms(mean, q.ravel())[0].reshape(q.shape)
