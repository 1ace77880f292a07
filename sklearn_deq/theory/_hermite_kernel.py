"""The kernel of an infinitely wide Hermite layer, in powers and in the angle.

K_ij = Σ_k f_k(r_i) f_k(r_j) ρᵏ, summed over the kinds of units, takes thousands of
powers where samples are nearly parallel. Within the range of norms every f_k is a
polynomial of a few coefficients in the norm's coordinate, so that K is
Σ_ab L_a(r_i) L_b(r_j) C_ab(θ), and the C_ab are short Chebyshev series in the angle.
They are cut at about 3e-12 of √(K_ii K_jj): so far off the diagonal, which is exact,
are entries of equal rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from array_api_compat import array_namespace

from sklearn_deq.theory._chebyshev import (
    chebyshev_coefficients,
    chebyshev_nodes,
    clenshaw,
    last_coefficients,
    signed_factors,
)
from sklearn_deq.theory._hermite import HermiteFunction
from sklearn_deq.theory._hermite_series import HermiteSeries
from sklearn_deq.theory._pairs import (
    PairKernel,
    Reduction,
    States,
    common_square,
    sphere_reduction,
)
from sklearn_deq.theory._rows import inverse_norms

Array = Any

# Powers of the cosine below this are left out.
_NEGLIGIBLE = 1e-18
# Terms in the angle to try, how small the last are to be, and what is left out of the
# matrix of each: shares of √(K_ii K_jj).
_SIZES = (48, 96, 192, 384)
_CONVERGED = 1e-12
_TOLERANCE = 1e-15


@dataclass(frozen=True)
class _AngleTable:
    """K_ij = Σ_k T_k(2θ/π − 1) Σ_l σ_kl f_kl(r_i) f_kl(r_j) for norms of the range.

    Attributes
    ----------
    functions : ndarray of shape (n_norms, n_functions)
        All f_kl at the nodes of the norms.
    signs : ndarray of shape (n_functions,)
        σ_kl = ±1.
    parts : tuple of slices
        Those of each order k.
    gram : ndarray of shape (n_norms, n_norms)
        The kernel of parallel samples whose norms are the nodes.
    """

    functions: np.ndarray
    signs: np.ndarray
    parts: tuple[slice, ...]
    gram: np.ndarray

    def __call__(self, first: Array, second: Array, rho: Array) -> Array:
        """Evaluate at cosines, by Clenshaw's rule, from f_kl of either side."""
        xp = array_namespace(rho)
        first = first * xp.asarray(self.signs, device=rho.device)
        t = xp.acos(rho) * (2.0 / math.pi) - 1.0
        return clenshaw(_Coefficients(first, second, self.parts), t)


@dataclass(frozen=True)
class _Coefficients:
    """Σ_l of each order for pairs of samples, made when it is asked for."""

    first: Array
    second: Array
    parts: tuple[slice, ...]

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, k: int) -> Array:
        part = self.parts[k]
        if part.start == part.stop:
            return 0.0
        return _products(self.first[..., part], self.second[..., part])


def _products(first: Array, second: Array) -> Array:
    """Σ_l of products along the last axis: as a matrix product where it is one."""
    xp = array_namespace(first)
    if _is_matrix(first, second):
        return first[:, 0] @ second[0].T
    return xp.sum(first * second, axis=-1)


def _is_matrix(first: Array, second: Array) -> bool:
    """Whether every sample of one side is met by every one of the other."""
    return (
        first.ndim == second.ndim == 3 and first.shape[1] == 1 and second.shape[0] == 1
    )


def _make_table(kinds: Sequence[HermiteFunction], rate: float) -> _AngleTable | None:
    """Tabulate the kernel of some kinds of units; None: not of this form."""
    if kinds[0].homogeneous:
        return None
    features = [kind.node_features(rate) for kind in kinds]
    size = len(features[0])
    energies = np.zeros((size, size, max(each.shape[1] for each in features)))
    for each in features:
        energies[..., : each.shape[1]] += each[:, None] * each
    gram = energies.sum(axis=-1)
    scale = np.sqrt(np.diagonal(gram))
    if not scale.all():
        return None
    energies /= np.multiply.outer(scale, scale)[..., None]
    energies = energies.reshape(size * size, -1)
    for n_terms in _SIZES:
        rho = np.cos(0.5 * np.pi * (1.0 + chebyshev_nodes(n_terms)))
        values = np.vander(rho, energies.shape[1], increasing=True) @ energies.T
        if last_coefficients(values) <= _CONVERGED:
            break
    else:
        return None
    matrices = chebyshev_coefficients(values).reshape(-1, size, size)
    functions, signs, ranks = signed_factors(matrices, _TOLERANCE)
    n_orders = max(np.flatnonzero(ranks), default=0) + 1
    ends = np.cumsum(ranks)[:n_orders]
    return _AngleTable(
        scale[:, None] * functions,
        signs,
        tuple(
            slice(int(end - rank), int(end))
            for end, rank in zip(ends, ranks, strict=False)
        ),
        gram,
    )


_remembered_table = lru_cache(maxsize=8)(_make_table)


def hermite_pair_kernel(kinds: Sequence[HermiteFunction], rate: float) -> PairKernel:
    """Kernel of one infinitely wide hidden layer with units of these kinds.

    Parameters
    ----------
    kinds : sequence of HermiteFunction
        Made for the same norms; the kernel is the sum of theirs.
    rate : float
        Learning rate of the hidden layer, in units of the readout's: 0 for the CK.

    Returns
    -------
    PairKernel
        Entry by entry.
    """
    kernel = _HermiteKernel(tuple(kinds), rate)
    return PairKernel(kernel.states, kernel.diagonal, kernel.entries, kernel.reduce)


@dataclass(frozen=True)
class _HermiteKernel:
    """What `hermite_pair_kernel` returns the methods of."""

    kinds: tuple[HermiteFunction, ...]
    rate: float

    @cached_property
    def _table(self) -> _AngleTable | None:
        # Hashing the coefficients takes milliseconds.
        return _remembered_table(self.kinds, self.rate)

    def states(self, s: np.ndarray) -> States:
        """1/r, whether r is tabulated, f_kl(r), and f_k(r) of each kind.

        The last are empty if all norms are tabulated.
        """
        norms = np.sqrt(s)
        inside, along = self._inside(norms)
        table = self._table
        angle = along if table is None else along @ table.functions
        if inside.all():
            powers = [np.empty((len(s), 0)) for _ in self.kinds]
        else:
            powers = [kind.features(norms, self.rate) for kind in self.kinds]
        return inverse_norms(s), inside, along, angle, *powers

    def _inside(self, norms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Which norms are tabulated, and their weights of the nodes."""
        if self._table is None:
            return np.zeros(len(norms), bool), np.empty((len(norms), 0))
        return self.kinds[0].inside(norms), self.kinds[0].node_weights(norms)

    def diagonal(self, s: np.ndarray) -> np.ndarray:
        """K_ii."""
        _, inside, along, _, *powers = self.states(s)
        table = self._table
        if table is not None and inside.all():
            return np.asarray(np.sum(along @ table.gram * along, axis=1))
        return np.asarray(sum(np.sum(each**2, axis=1) for each in powers))

    def entries(self, first: States, second: States, s12: Array) -> Array:
        """K_ij: of pairs that are not both tabulated in powers."""
        xp = array_namespace(s12)
        rho = xp.clip(s12 * first[0] * second[0], -1.0, 1.0)
        table = self._table
        if table is None:
            return self._in_powers(first, second, rho)
        outside = ~first[1], ~second[1]
        if not bool(xp.any(outside[0])) and not bool(xp.any(outside[1])):
            return table(first[3], second[3], rho)
        shape = first[3].shape[0], second[3].shape[-2]
        if not _is_matrix(first[3], second[3]) or tuple(rho.shape) != shape:
            return self._in_powers(first, second, rho)
        value = table(first[3], second[3], rho)
        (rows,), (columns,) = (xp.nonzero(xp.reshape(each, (-1,))) for each in outside)
        if rows.shape[0]:
            part = tuple(state[rows] for state in first)
            value[rows] = self._in_powers(part, second, rho[rows])
        if columns.shape[0]:
            part = tuple(state[:, columns] for state in second)
            value[:, columns] = self._in_powers(first, part, rho[:, columns])
        return value

    def _in_powers(self, first: States, second: States, rho: Array) -> Array:
        """Σ_k f_k f'_k ρᵏ of all kinds."""
        pairs = zip(self._powers(first), self._powers(second), strict=True)
        return sum(_power_sum(f1, f2, rho) for f1, f2 in pairs)

    def _powers(self, side: States) -> list[Array]:
        """f_k of each kind, interpolated where no norm of this side is outside."""
        _, _, along, _, *powers = side
        if powers[0].shape[-1] > 0:
            return powers
        xp = array_namespace(along)
        nodes = (kind.node_features(self.rate) for kind in self.kinds)
        return [along @ xp.asarray(each, device=along.device) for each in nodes]

    def reduce(self, s: np.ndarray) -> Reduction | None:
        """Return the reduction of samples of one norm, or of one series for all."""
        if self.kinds[0].homogeneous:
            return _homogeneous_reduction(self.kinds[0].series[0], self.rate)
        square = common_square(s)
        if square is None:
            return None
        found = [kind.at(float(np.sqrt(square))) for kind in self.kinds]
        series = [each for each in found if each is not None]
        if len(series) < len(found):
            return None

        def exact(_first: States, _second: States, s12: np.ndarray) -> np.ndarray:
            rho = np.clip(s12 / square, -1.0, 1.0)
            return np.asarray(sum(each.kernel(rho, self.rate) for each in series))

        return sphere_reduction(self.states, exact, square)


def _power_sum(first: Array, second: Array, rho: Array) -> Array:
    """Σ_k f_k f'_k ρᵏ of every pair."""
    xp = array_namespace(rho)
    n_terms = min(_n_terms(first), _n_terms(second))
    largest = float(xp.max(xp.abs(rho))) if math.prod(rho.shape) else 0.0
    if largest < 1.0:
        enough = math.log(_NEGLIGIBLE) / math.log(max(largest, 1e-9))
        n_terms = min(n_terms, max(2, math.ceil(enough)))
    value = 0.0 * rho
    for k in range(n_terms - 1, -1, -1):
        value = value * rho + first[..., k] * second[..., k]
    return value


def _n_terms(features: Array) -> int:
    """Powers up to the last one that any sample has."""
    xp = array_namespace(features)
    axes = tuple(range(features.ndim - 1))
    (powers,) = xp.nonzero(xp.any(features != 0.0, axis=axes))
    return int(powers[-1]) + 1 if powers.shape[0] else 1


def _homogeneous_reduction(series: HermiteSeries, rate: float) -> Reduction:
    """K_ij = r_i r_j f(ρ_ij)."""

    def states(s: np.ndarray) -> States:
        return np.sqrt(s), inverse_norms(s)

    def argument(first: States, second: States, s12: Array) -> Array:
        s12 *= first[1]
        s12 *= second[1]
        return s12

    def profiles(x: np.ndarray) -> np.ndarray:
        return series.kernel(x, rate)[None]

    def assemble(first: States, second: States, values: Array) -> Array:
        return values[0] * first[0] * second[0]

    return Reduction(states, argument, profiles, assemble)
