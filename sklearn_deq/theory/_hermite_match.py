"""Matching by a Hermite layer: no equations to solve, and every kernel has one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sklearn_deq.theory._activations import Activation
from sklearn_deq.theory._chebyshev import chebyshev_nodes
from sklearn_deq.theory._equilibrium import EquilibriumMoments
from sklearn_deq.theory._equilibrium_kernel import equilibrium_kernel
from sklearn_deq.theory._explicit import ExplicitLayer
from sklearn_deq.theory._hermite import HermiteFunction
from sklearn_deq.theory._hermite_series import HermiteSeries
from sklearn_deq.theory._homogeneous import homogeneous_slopes
from sklearn_deq.theory._norms import norm_coordinate, norm_nodes
from sklearn_deq.theory._power_series import kernel_power_series

# Norms at which the series is computed, where they vary: interpolation errs by 1e-7 of
# the kernel for norms within a factor of two, 1e-5 within ten.
_NORMS = 8
# Norms closer than this are equal: float32 rows on a sphere differ by 2e-7.
_EQUAL = 1e-6
# Coefficients of low powers of the cosine are those of a polynomial here.
_SMALL_COSINE = 0.3
_SMALL_NODES = 12
# Where the kernels are compared: a grid in the angle, and close to the ends.
_ANGLES = np.linspace(0.0, np.pi, 65)
_COSINES = np.concatenate([np.cos(_ANGLES), [1 - 1e-3, 1 - 1e-5, 1e-5 - 1]])
# Those of which the match reports.
_SHOWN = {"K(-1)": -1.0, "K(0)": 0.0, "K(1)": 1.0}


@dataclass(frozen=True)
class HermiteMatch:
    """A layer made for a kernel, with what it comes to.

    Attributes
    ----------
    layer : ExplicitLayer
        The one hidden layer.
    target, achieved : dict of str to float
        The two kernels at three cosines, at one norm of the data.
    residual : float
        max |f − f̂|/√(K_ii K_jj) over cosines and, if they vary, pairs of norms.
    """

    layer: ExplicitLayer
    target: dict[str, float]
    achieved: dict[str, float]
    residual: float


def match_hermite(
    moments: EquilibriumMoments,
    kernel: str,
    *,
    rate: float,
    norms: tuple[float, float] | None = None,
) -> HermiteMatch:
    """Make the layer whose kernel is that of a DEQ.

    Parameters
    ----------
    moments : EquilibriumMoments
        The DEQ; with bias or without centring too.
    kernel : {"ck", "ntk", "ntk_recurrent"}
        Which kernel of the DEQ.
    rate : float
        Learning rate of the hidden layer, in units of the readout's: 1 for the NTK with
        both trained alike, 0 for a CK.
    norms : tuple of 2 floats or None, default=None
        Smallest and largest √s_ii of the data; None: all are tau0.

    Returns
    -------
    HermiteMatch
        The layer and its residual.
    """
    low, high = norms or (moments.tau0, moments.tau0)
    function = _function(moments, kernel, rate, low, high)
    layer = ExplicitLayer(hermite_activation(function), 0.0, moments.tau0)
    middle = float(np.sqrt(low * high))
    samples = [low] if high - low <= _EQUAL * high else [low, middle, high]
    pairs = [(r1, r2) for i, r1 in enumerate(samples) for r2 in samples[i:]]
    exact = _exact(moments, kernel, pairs, _COSINES)
    made = np.array([_made(function, rate, *pair, _COSINES) for pair in pairs])
    sizes = {pair: row[0] for pair, row in zip(pairs, exact, strict=True)}
    scale = [np.sqrt(sizes[r1, r1] * sizes[r2, r2]) for r1, r2 in pairs]
    residual = float((np.abs(made - exact).max(axis=1) / scale).max())
    shown = np.array(list(_SHOWN.values()))
    r = samples[len(samples) // 2]
    target = _exact(moments, kernel, [(r, r)], shown)[0]
    achieved = _made(function, rate, r, r, shown)
    return HermiteMatch(
        layer,
        dict(zip(_SHOWN, map(float, target), strict=True)),
        dict(zip(_SHOWN, map(float, achieved), strict=True)),
        residual,
    )


def hermite_activation(function: HermiteFunction) -> Activation:
    """Return the same as an `Activation`."""
    return Activation(
        function, _Derivative(function), kinks=(0.0,), name=repr(function)
    )


@dataclass(frozen=True)
class _Derivative:
    """Derivative of a Hermite function; it compares and pickles by value."""

    function: HermiteFunction

    def __call__(self, x: np.ndarray, norms: np.ndarray | None = None) -> np.ndarray:
        return self.function.derivative(x, norms)


def is_homogeneous(moments: EquilibriumMoments) -> bool:
    """Whether the DEQ of r x is r times that of x: no bias, nothing centred."""
    return (
        homogeneous_slopes(moments.activation) is not None
        and moments.offset == 0.0
        and moments.bias_variance == 0.0
    )


def _function(
    moments: EquilibriumMoments, kernel: str, rate: float, low: float, high: float
) -> HermiteFunction:
    """The function for norms from low to high."""
    if is_homogeneous(moments):
        unit = HermiteSeries.from_energies(_energies(moments, kernel, rate, 1.0))
        return HermiteFunction((unit,), 1.0, 1.0, homogeneous=True)
    if high - low <= _EQUAL * high:
        single = HermiteSeries.from_energies(_energies(moments, kernel, rate, low))
        return HermiteFunction((single,), low, low)
    ends = norm_coordinate(np.array([low, high]))

    norms = np.sqrt(norm_nodes(float(ends[0]), float(ends[1]), _NORMS))
    energies = [_energies(moments, kernel, rate, float(r)) for r in norms]
    lowest, signed = _low_orders(moments, kernel, rate, norms, energies)
    series = tuple(map(HermiteSeries.from_energies, energies, lowest))
    return HermiteFunction(
        series, low, high, signed=tuple(tuple(map(float, each)) for each in signed.T)
    )


def _energies(
    moments: EquilibriumMoments, kernel: str, rate: float, norm: float
) -> np.ndarray:
    """c_k² of a layer for samples of one norm; two at least."""
    energies = kernel_power_series(moments, kernel, norm**2)
    energies = energies / (1.0 + rate * np.arange(len(energies)))
    return np.append(energies, np.zeros(max(0, 2 - len(energies))))


def _low_orders(
    moments: EquilibriumMoments,
    kernel: str,
    rate: float,
    norms: np.ndarray,
    energies: list[np.ndarray],
) -> tuple[np.ndarray, np.ndarray]:
    """c_k and e_k for k = 0, 1 at norms, shapes (n, 2).

    The kernel's coefficients of ρᵏ between samples of two norms are, up to the factor
    of the rate, a positive matrix of these norms: its two largest eigenvectors leave
    two orders of magnitude less of the kernel's error than the largest alone.
    """
    cosines = _SMALL_COSINE * chebyshev_nodes(_SMALL_NODES)
    size = len(norms)
    pairs = [(float(r1), float(r2)) for r1 in norms for r2 in norms]
    values = _exact(moments, kernel, pairs, cosines)
    matrices = np.polynomial.polynomial.polyfit(cosines, values.T, _SMALL_NODES - 1)
    both = np.zeros((2, size, 2))
    for k in (0, 1):
        matrix = matrices[k].reshape(size, size)
        roots, vectors = np.linalg.eigh(0.5 * (matrix + matrix.T))
        kept = vectors[:, :-3:-1] * np.sqrt(np.maximum(roots[:-3:-1], 0.0))
        kept *= -1.0 if kept[:, 0].sum() < 0 else 1.0
        # Exact for equal norms.
        found = np.sum(kept**2, axis=1)
        diagonal = np.array([each[k] for each in energies])
        ratio = np.divide(diagonal, found, out=np.zeros(size), where=found > 0)
        both[:, :, k] = (kept * np.sqrt(ratio)[:, None]).T
    return both[0], both[1]


def _exact(
    moments: EquilibriumMoments,
    kernel: str,
    pairs: list[tuple[float, float]],
    rho: np.ndarray,
) -> np.ndarray:
    """The DEQ's kernel at pairs of norms and cosines, shape (n_pairs, m)."""
    norms = np.array(pairs)
    pair = equilibrium_kernel(moments, kernel)
    first, second = (
        tuple(state[:, None] for state in pair.states(norms[:, k] ** 2)) for k in (0, 1)
    )
    return np.asarray(pair.entries(first, second, norms.prod(axis=1)[:, None] * rho))


def _made(
    function: HermiteFunction, rate: float, r1: float, r2: float, rho: np.ndarray
) -> np.ndarray:
    """Kernel of the layer: by its series, or by polarisation of two."""
    if function.homogeneous:
        return r1 * r2 * function.series[0].kernel(rho, rate)
    first, second = function.at(r1), function.at(r2)
    if first is None or second is None:
        raise ValueError("The function is not made for these norms.")
    signed = np.zeros_like(rho)
    if function.signed:
        constant, linear = function.weights(np.array([r1, r2]))[:, -2:].prod(axis=0)
        signed = constant + (1.0 + rate) * linear * rho
    if r1 == r2:
        return first.kernel(rho, rate) + signed
    both = HermiteSeries.combine([first, second], np.array([0.5, 0.5]))
    apart = HermiteSeries.combine([first, second], np.array([0.5, -0.5]))
    return both.kernel(rho, rate) - apart.kernel(rho, rate) + signed
