"""Matching by a Hermite layer: no equations to solve, and every kernel has one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sklearn_deq.theory._activations import Activation
from sklearn_deq.theory._equilibrium import EquilibriumMoments
from sklearn_deq.theory._equilibrium_kernel import equilibrium_kernel
from sklearn_deq.theory._explicit import ExplicitLayer, explicit_pair_kernel
from sklearn_deq.theory._hermite import HermiteFunction
from sklearn_deq.theory._hermite_mixture import HermiteMixture, NormSeries
from sklearn_deq.theory._hermite_series import HermiteSeries, pair_kernels
from sklearn_deq.theory._homogeneous import homogeneous_slopes
from sklearn_deq.theory._pairs import PairKernel
from sklearn_deq.theory._power_series import kernel_power_series

HermiteLayer = HermiteFunction | HermiteMixture

# Norms closer than this are equal: those of normalised float32 rows are.
_EQUAL = 1e-6
# Where the kernels are compared: a grid in the angle, and close to the ends.
_ANGLES = np.linspace(0.0, np.pi, 65)
_COSINES = np.concatenate([np.cos(_ANGLES), [1 - 1e-3, 1 - 1e-5, 1e-5 - 1]])
# Samples of different norms with larger cosines are compared apart: kinks of φ make the
# kernel a cone there, which takes many terms. The grid comes close to it.
_PARALLEL = 0.952
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
        The two kernels at three cosines, of samples of norm `shown`.
    shown : float
        τ0, or what of the norms is nearest to it.
    residual : float
        max |f − f̂|/√(K_ii K_jj) over cosines and, if they vary, pairs of norms; of
        different norms over cosines up to 0.95.
    residual_parallel : float
        The same of different norms over larger cosines.
    """

    layer: ExplicitLayer
    target: dict[str, float]
    achieved: dict[str, float]
    shown: float
    residual: float
    residual_parallel: float


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
    pairs = _norm_pairs(low, high)
    found = _made(function, rate, pairs, _COSINES)
    exact = equilibrium_kernel(moments, kernel)
    cosines = np.array(list(_SHOWN.values()))
    r = float(np.clip(moments.tau0, low, high))
    target = _entries(exact, [(r, r)], cosines)[0]
    achieved = _made(function, rate, [(r, r)], cosines)[0]
    return HermiteMatch(
        layer,
        dict(zip(_SHOWN, map(float, target), strict=True)),
        dict(zip(_SHOWN, map(float, achieved), strict=True)),
        r,
        *_largest_errors(found, exact, pairs),
    )


def kernel_error(
    layers: Sequence[ExplicitLayer],
    multipliers: Sequence[float] | None,
    moments: EquilibriumMoments,
    kernel: str,
    norms: tuple[float, float],
) -> float:
    """Error of any explicit network's kernel, as the residual of a Hermite layer.

    Parameters
    ----------
    layers, multipliers
        The network, as in `explicit_pair_kernel`.
    moments : EquilibriumMoments
        The DEQ.
    kernel : {"ck", "ntk", "ntk_recurrent"}
        Which kernel of the DEQ; the network's is its CK or NTK.
    norms : tuple of 2 floats
        Smallest and largest √s_ii of the data.

    Returns
    -------
    float
        The larger of both residuals of a `HermiteMatch`.
    """
    pairs = _norm_pairs(*norms)
    made = explicit_pair_kernel(layers, kernel, multipliers)
    found = _entries(made, pairs, _COSINES)
    return max(_largest_errors(found, equilibrium_kernel(moments, kernel), pairs))


def _norm_pairs(low: float, high: float) -> list[tuple[float, float]]:
    """Pairs of norms at which kernels are compared."""
    equal = high - low <= _EQUAL * high
    samples = [low] if equal else [float(r) for r in np.geomspace(low, high, 5)]
    return [(r1, r2) for i, r1 in enumerate(samples) for r2 in samples[i:]]


def _largest_errors(
    found: np.ndarray, exact: PairKernel, pairs: list[tuple[float, float]]
) -> tuple[float, float]:
    """Largest differences of kernels at pairs of norms and `_COSINES`.

    Of different norms those of parallel samples, where kinks of φ make the kernel a
    cone, are the second.
    """
    expected = _entries(exact, pairs, _COSINES)
    sizes = {pair: row[0] for pair, row in zip(pairs, expected, strict=True)}
    scale = [np.sqrt(sizes[r1, r1] * sizes[r2, r2]) for r1, r2 in pairs]
    errors = np.abs(found - expected) / np.array(scale)[:, None]
    cone = [(r1 != r2) & (np.abs(_COSINES) > _PARALLEL) for r1, r2 in pairs]
    first, second = (np.where(part, errors, 0.0) for part in (np.invert(cone), cone))
    return float(first.max()), float(second.max())


def hermite_activation(function: HermiteLayer) -> Activation:
    """Return the same as an `Activation`."""
    return Activation(
        function, _Derivative(function), kinks=(0.0,), name=repr(function)
    )


@dataclass(frozen=True)
class _Derivative:
    """Derivative of a Hermite function; it compares and pickles by value."""

    function: HermiteLayer

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
) -> HermiteLayer:
    """The function for norms from low to high."""
    if is_homogeneous(moments):
        unit = _series(moments, kernel, rate, 1.0)
        return HermiteFunction((unit,), 1.0, 1.0, homogeneous=True)
    if high - low <= _EQUAL * high:
        return HermiteFunction((_series(moments, kernel, rate, low),), low, low)
    return NormSeries.build(moments, kernel, rate, low, high).build_layer()


def _series(
    moments: EquilibriumMoments, kernel: str, rate: float, norm: float
) -> HermiteSeries:
    """Series of one norm."""
    energies = kernel_power_series(moments, kernel, norm**2)
    energies = energies / (1.0 + rate * np.arange(len(energies)))
    return HermiteSeries.from_energies(energies, trained=rate > 0)


def _entries(
    kernel: PairKernel, pairs: list[tuple[float, float]], rho: np.ndarray
) -> np.ndarray:
    """A kernel at pairs of norms and cosines, shape (n_pairs, m)."""
    norms = np.array(pairs)
    first, second = (
        tuple(state[:, None] for state in kernel.states(norms[:, k] ** 2))
        for k in (0, 1)
    )
    return np.asarray(kernel.entries(first, second, norms.prod(axis=1)[:, None] * rho))


def _made(
    function: HermiteLayer,
    rate: float,
    pairs: list[tuple[float, float]],
    rho: np.ndarray,
) -> np.ndarray:
    """Kernel of the layer at pairs of norms and cosines, shape (n_pairs, m)."""
    total = np.zeros((len(pairs), len(rho)))
    norms, places = np.unique(pairs, return_inverse=True)
    for kind in function.kinds:
        if kind.homogeneous:
            return np.multiply.outer(
                np.prod(pairs, axis=1), kind.series[0].kernel(rho, rate)
            )
        series = [each for each in map(kind.at, norms) if each is not None]
        if len(series) < len(norms):
            raise ValueError("The function is not made for these norms.")
        total += pair_kernels(series, places.reshape(-1, 2), rho, rate)
    return total
