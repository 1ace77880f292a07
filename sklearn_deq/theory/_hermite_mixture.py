"""A Hermite layer for norms that vary: units of a few kinds, mixed by signs.

A kernel on samples of any norms is Σ a_k(r, r') ρᵏ, each a_k positive semidefinite in
(r, r') and so a sum of products, Σ_j c_jk(r) c_jk(r'). A hidden layer has it if unit i
has Σ_j s_ij σ_j(x; r), σ_j = Σ_k c_jk(r) he_k(x/r), with signs s_ij that are orthogonal
over the units. The sum over j converges fast, as a_k is smooth in the norms.
Docs/theory.md, section 5.1.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from scipy.linalg import hadamard

from sklearn_deq.theory._chebyshev import last_coefficients
from sklearn_deq.theory._equilibrium import EquilibriumMoments
from sklearn_deq.theory._hermite import HermiteFunction
from sklearn_deq.theory._hermite_series import HermiteSeries
from sklearn_deq.theory._norms import norm_coordinate, norm_nodes
from sklearn_deq.theory._pair_series import pair_power_series, pair_rounding
from sklearn_deq.theory._power_series import kernel_power_series

# Norms at which the series are computed: as many as all terms up to _TERMS need.
_NORMS = (6, 8, 10, 12, 16, 24)
_NORM_TOLERANCE = 2e-9
# As many kinds as this error of the kernel between different norms needs, at this
# cosine: closer to 1 kernels of kinked activations need more terms, not more kinds.
_MOST_KINDS = 8
_TOLERANCE = 5e-7
_COSINE = 0.9
# All kinds but the first have so many terms, and less and less of them in the last
# half: a sum that ends at once would be wild beyond a few standard deviations.
_TERMS = 256
# Energies below this share of the kernel have no sign, and no size to be kept.
_NOTHING = 1e-15


@dataclass(frozen=True, repr=False)
class HermiteMixture:
    """Sums Σ_j s_ij σ_j(x; r) with signs that are the same for groups of units i.

    Attributes
    ----------
    kinds : tuple of HermiteFunction
        The σ_j; the layer's kernel is the sum of theirs.

    Examples
    --------
    >>> from sklearn_deq.theory import equilibrium_moments, solve_match
    >>> moments = equilibrium_moments("tanh")
    >>> match = solve_match(moments, architecture="hermite", norms=(0.8, 1.2))
    >>> match.layers[0].activation.function
    HermiteMixture(4 kinds of units, norms 0.8 to 1.2)
    """

    kinds: tuple[HermiteFunction, ...]

    @property
    def conditioned(self) -> bool:
        """Whether the norm of the sample matters, beside x."""
        return True

    @cached_property
    def groups(self) -> tuple[HermiteFunction, ...]:
        """The function of each group of units; groups are of one size, one to one."""
        size = 1 << (len(self.kinds) - 1).bit_length()
        signs = hadamard(size, dtype=float)[:, : len(self.kinds)]
        return tuple(HermiteFunction.combine(self.kinds, signs))

    def columns(self, width: int) -> list[slice]:
        """Return the units of each group among so many, up to one of one size."""
        ends = np.arange(len(self.groups) + 1) * width // len(self.groups)
        return [slice(*pair) for pair in pairwise(ends)]

    def __call__(self, x: np.ndarray, norms: np.ndarray | None = None) -> np.ndarray:
        """Evaluate the layer at x, whose last axis is that of the units."""
        return np.concatenate(
            [
                group(x[..., units], norms)
                for group, units in zip(
                    self.groups, self.columns(x.shape[-1]), strict=True
                )
            ],
            axis=-1,
        )

    def derivative(self, x: np.ndarray, norms: np.ndarray | None = None) -> np.ndarray:
        """Evaluate the derivative in x; arguments as of the call."""
        return np.concatenate(
            [
                group.derivative(x[..., units], norms)
                for group, units in zip(
                    self.groups, self.columns(x.shape[-1]), strict=True
                )
            ],
            axis=-1,
        )

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what is made again."""
        return {"kinds": self.kinds}

    def __repr__(self) -> str:
        """Show the number of kinds and the norms."""
        first = self.kinds[0]
        return (
            f"HermiteMixture({len(self.kinds)} kinds of units, norms {first.low:.4g} "
            f"to {first.high:.4g})"
        )


@dataclass(frozen=True)
class NormSeries:
    """A kernel at a few norms, from which layers of any number of kinds are made.

    Attributes
    ----------
    rate : float
        Of the hidden layer, as in `match_hermite`.
    low, high : float
        The range of norms.
    energies : tuple of ndarrays
        a_k(r, r)/(1 + rate · k) at Chebyshev nodes of the range, as many terms as each
        needs.
    pairs : ndarray of shape (n_norms, n_norms, 256)
        The same of all pairs of nodes.
    """

    rate: float
    low: float
    high: float
    energies: tuple[np.ndarray, ...]
    pairs: np.ndarray

    @classmethod
    def build(
        cls,
        moments: EquilibriumMoments,
        kernel: str,
        rate: float,
        low: float,
        high: float,
    ) -> NormSeries:
        """Compute the series of a DEQ's kernel for norms from low to high.

        Parameters
        ----------
        moments, kernel, rate
            As in `match_hermite`.
        low, high : float
            The range of norms.

        Returns
        -------
        NormSeries
            The series.
        """
        ends = [float(norm_coordinate(np.array(r))) for r in (low, high)]
        for size in _NORMS:
            norms = np.sqrt(norm_nodes(ends[0], ends[1], size))
            middle = np.full(size, norms[size // 2])
            found = pair_power_series(moments, kernel, norms, middle, _TERMS)
            if last_coefficients(found) <= _NORM_TOLERANCE:
                break
        energies = []
        for r in norms:
            found = kernel_power_series(moments, kernel, float(r) ** 2)
            energies.append(found / (1.0 + rate * np.arange(len(found))))
        pairs = np.empty((size, size, _TERMS))
        first, second = np.triu_indices(size, 1)
        found = pair_power_series(moments, kernel, norms[first], norms[second], _TERMS)
        pairs[first, second] = found / (1.0 + rate * np.arange(_TERMS))
        pairs[second, first] = pairs[first, second]
        # Of one norm they are known better.
        for i, energy in enumerate(energies):
            pairs[i, i] = np.append(energy, np.zeros(_TERMS))[:_TERMS]
        return cls(rate, low, high, tuple(energies), pairs)

    @property
    def sizes(self) -> np.ndarray:
        """√(Σ_k a_k(r, r)/(1 + rate · k)) at the nodes, shape (n_norms,)."""
        return np.sqrt([energy.sum() for energy in self.energies])

    def build_layer(self) -> HermiteFunction | HermiteMixture:
        """Return the layer with as many kinds of units as it needs."""
        scale = np.multiply.outer(self.sizes, self.sizes)
        weights = _COSINE ** np.arange(_TERMS)
        # There are as many groups of units as the next power of two.
        for n_kinds in (1, 2, 4):
            roots = self._roots(n_kinds)
            missing = np.abs(self.pairs - np.einsum("jak,jbk->abk", roots, roots))
            if (missing @ weights / scale).max() <= _TOLERANCE:
                return self.layer(n_kinds)
        return self.layer(_MOST_KINDS)

    def layer(self, n_kinds: int) -> HermiteFunction | HermiteMixture:
        """Return the layer with units of so many kinds.

        Parameters
        ----------
        n_kinds : int
            How many; 1 errs at second order in the differences of the norms.

        Returns
        -------
        HermiteFunction or HermiteMixture
            It has the kernel exactly where two norms are equal.
        """
        roots = self._roots(n_kinds)
        further = roots[1:] * _taper(_TERMS)
        first = []
        for i, energy in enumerate(self.energies):
            left = energy.copy()
            size = min(len(left), _TERMS)
            left[:size] -= np.sum(further[:, i, :size] ** 2, axis=0)
            sign = np.ones(len(left))
            sign[:size] = np.where(roots[0, i, :size] < 0, -1.0, 1.0)
            left = np.maximum(left, 0.0)
            first.append(HermiteSeries.from_energies(left, sign, trained=self.rate > 0))
        series = [tuple(first)]
        series += [tuple(map(HermiteSeries.from_roots, kind)) for kind in further]
        functions = tuple(HermiteFunction(each, self.low, self.high) for each in series)
        if n_kinds == 1:
            return functions[0]
        return HermiteMixture(functions)

    def _roots(self, n_kinds: int) -> np.ndarray:
        """Coefficients c_jk(r) of so many kinds, shape (n_kinds, n_norms, 256).

        The leading eigenvectors of every a_k, scaled so that a_k(r, r) is met.
        """
        size = self.sizes[:, None]
        matrices = np.moveaxis(self.pairs, 2, 0) / (size * size.T)
        values, vectors = np.linalg.eigh(matrices)
        values = np.where(values > pair_rounding(_TERMS)[:, None], values, 0.0)
        # The largest eigenvalue is the last.
        roots = (np.sqrt(values)[:, None] * vectors)[..., : -n_kinds - 1 : -1]
        roots = np.transpose(roots, (2, 1, 0)) * size
        found = np.sum(roots**2, axis=0)
        met = found > _NOTHING * size**2
        ratio = np.diagonal(self.pairs).T / np.where(met, found, 1.0)
        roots = roots * np.sqrt(np.where(met, ratio, 0.0))
        # Positive at the largest norm, so that neighbouring orders agree.
        return np.where(roots[:, -1:] < 0, -roots, roots)


def _taper(size: int) -> np.ndarray:
    """1 for the first half, and down to 0 in the second."""
    place = np.clip(2.0 * np.arange(size) / size - 1.0, 0.0, 1.0)
    return np.cos(0.5 * np.pi * place) ** 2
