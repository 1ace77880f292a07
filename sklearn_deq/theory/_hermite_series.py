"""Functions by their Hermite coefficients, with tails that fall like a power."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.polynomial.polynomial import polyval
from scipy.special import erfc

from sklearn_deq.theory._moments import hermite_terms
from sklearn_deq.theory._rough import Rough

# The tail of a kinked kernel is followed by functions with one kink, three for each
# parity, fitted from some k on: later where the recurrence is weak, as the parities
# differ for longer. They serve if they fit to this share.
_FIT_FROM = (256, 1024)
_LEAST_WINDOW = 256
_FIT = 0.1
_ORDERS = (0, 1, 2)
# A tail is summed to here, and integrated beyond.
_SUMMED = 2**14
# Points at which the polynomials of all orders are held at once.
_BLOCK = 1024


def signs(size: int) -> np.ndarray:
    """Signs of c_k under which σ is tame, shape (size,).

    The odd k = 1, 3, 5, … and the even k = 2, 4, 6, … both alternate, from +; so do the
    coefficients of sign(x) and |x|. c_0 is positive.
    """
    k = np.arange(size)
    return np.where((k == 0) | ((k - 1) // 2 % 2 == 0), 1.0, -1.0)


@dataclass(frozen=True, repr=False)
class HermiteSeries:
    """c_k = d_k + Σ_j amplitude_j (coefficients of a function with one kink).

    Attributes
    ----------
    differences : tuple of float
        d_k for k below their number; 0 from there on.
    rough : tuple of pairs of Rough and float
        The functions with their amplitudes.
    """

    differences: tuple[float, ...]
    rough: tuple[tuple[Rough, float], ...] = ()

    def __getstate__(self) -> dict[str, Any]:
        """Numbers in one array: skops keeps every float of a tuple by itself."""
        return {**self.__dict__, "differences": np.array(self.differences)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """As they were."""
        self.__dict__.update(state, differences=tuple(state["differences"].tolist()))

    @classmethod
    def from_energies(
        cls,
        energies: np.ndarray,
        sign: np.ndarray | float = 1.0,
        *,
        trained: bool = False,
    ) -> HermiteSeries:
        """Series with c_k² = energies; its tail is that of the best fit, if one fits.

        Parameters
        ----------
        energies : ndarray of shape (n,)
            c_0², c_1², …; those from n on are not known.
        sign : ndarray of shape (n,) or float, default=1.0
            Signs of the c_k relative to those of `signs`.
        trained : bool, default=False
            Whether Σ k c_k² is to be finite, as it is of a layer with an NTK.

        Returns
        -------
        HermiteSeries
            The same c_k below n, and a tail.
        """
        wanted = signs(len(energies)) * sign * np.sqrt(energies)
        # Jumps and logarithms have no such sum.
        orders = _ORDERS[1:] if trained else _ORDERS
        rough = [*_fit_tail(wanted, 0, orders), *_fit_tail(wanted, 1, orders)]
        tail = cls((), tuple(rough)).coefficients(len(wanted))
        return cls(tuple(map(float, wanted - tail)), tuple(rough))

    @classmethod
    def from_roots(cls, roots: np.ndarray) -> HermiteSeries:
        """Series with c_k = roots_k times the sign under which σ is tame; it ends."""
        return cls(tuple(map(float, signs(len(roots)) * roots)))

    @classmethod
    def combine(
        cls, series: Sequence[HermiteSeries], weights: np.ndarray
    ) -> HermiteSeries:
        """Linear combination."""
        differences = np.zeros(max(len(each.differences) for each in series))
        rough: dict[Rough, float] = {}
        for each, weight in zip(series, weights, strict=True):
            differences[: len(each.differences)] += weight * np.array(each.differences)
            for function, amplitude in each.rough:
                rough[function] = rough.get(function, 0.0) + float(weight) * amplitude
        return cls(tuple(map(float, differences)), tuple(rough.items()))

    def coefficients(self, size: int) -> np.ndarray:
        """c_k for k < size."""
        return coefficient_rows([self], size)[0]

    def kernel(self, rho: np.ndarray, rate: float = 0.0) -> np.ndarray:
        """Σ (1 + rate · k) c_k² ρᵏ for rho (m,) in [−1, 1].

        That is the CK of a layer and, with rate 1, the NTK with both layers trained.
        """
        return pair_kernels([self], np.zeros((1, 2), int), rho, rate)[0]


def coefficient_rows(series: Sequence[HermiteSeries], size: int) -> np.ndarray:
    """c_k of several series for k < size, shape (n_series, size)."""
    found = np.zeros((len(series), size))
    known: dict[Rough, np.ndarray] = {}
    for row, each in zip(found, series, strict=True):
        differences = each.differences[:size]
        row[: len(differences)] = differences
        for function, amplitude in each.rough:
            if function not in known:
                known[function] = function.coefficients(size)
            row += amplitude * known[function]
    return found


def pair_kernels(
    series: Sequence[HermiteSeries], pairs: np.ndarray, rho: np.ndarray, rate: float
) -> np.ndarray:
    """Σ (1 + rate · k) c_k c'_k ρᵏ of pairs of series.

    Parameters
    ----------
    series : sequence of HermiteSeries
        Those of a few norms of one function, with tails that fall alike.
    pairs : int ndarray of shape (n_pairs, 2)
        Which two.
    rho : ndarray of shape (m,)
        Cosines in [−1, 1].
    rate : float
        Learning rate of the layer, in units of the readout's: 0 for the CK.

    Returns
    -------
    ndarray of shape (n_pairs, m)
        Kernels between samples of these norms.
    """
    size = max(len(each.differences) for each in series)
    rough = [function for each in series for function, _ in each.rough]
    n_terms = _SUMMED if rough else size
    rows = coefficient_rows(series, n_terms)
    energies = rows[pairs[:, 0]] * rows[pairs[:, 1]] * (1.0 + rate * np.arange(n_terms))
    value = polyval(rho, energies[:, :size].T)
    near = np.flatnonzero(np.abs(rho) ** size > 1e-18)
    if rough and near.size:
        value[:, near] += _tails(energies, size, rho[near], rough, rate)
    return np.asarray(value)


def _tails(
    energies: np.ndarray, start: int, rho: np.ndarray, rough: list[Rough], rate: float
) -> np.ndarray:
    """The part of the sums from `start` on, shape (len(energies), m)."""
    logs = np.log(np.maximum(np.abs(rho), 1e-300))
    value = np.zeros((len(energies), len(rho)))
    for parity in (0, 1):
        orders = np.arange(start + (start + parity) % 2, _SUMMED, 2)
        kept = energies[:, orders]
        found = kept @ np.exp(orders[:, None] * logs)
        # The rest falls like a power: its integral.
        rest = [function.order for function in rough if function.parity == parity]
        if rest:
            exponent = min(rest) + (0.5 if rate else 1.5)
            scale = 0.5 * kept[:, -1:] * float(orders[-1]) ** exponent
            found += scale * _power_integral(exponent, orders[-1] + 1.0, -logs)
        value += found * (np.sign(rho) if parity else 1.0)
    return value


def evaluate_series(series: Sequence[HermiteSeries], t: np.ndarray) -> np.ndarray:
    """Σ c_k he_k of several series at t ≥ 0 and at −t, shape (n_series, 2, m)."""
    most = max(len(each.differences) for each in series)
    differences = np.zeros((len(series), most))
    for row, each in zip(differences, series, strict=True):
        row[: len(each.differences)] = each.differences
    differences = differences[:, : np.trim_zeros(np.abs(differences).max(0), "b").size]
    parts = np.zeros((2, len(series), t.size))
    for start in range(0, t.size, _BLOCK):
        block = slice(start, start + _BLOCK)
        terms = hermite_terms(t[block], differences.shape[1])
        for parity in (0, 1):
            parts[parity, :, block] = differences[:, parity::2] @ terms[parity::2]
    for k, each in enumerate(series):
        for function, amplitude in each.rough:
            parts[function.parity, k] += amplitude * function(t)
    return np.stack([parts[0] + parts[1], parts[0] - parts[1]], axis=1)


def _fit_tail(
    wanted: np.ndarray, parity: int, orders: tuple[int, ...]
) -> list[tuple[Rough, float]]:
    """Functions with one kink whose coefficients go on as the wanted ones end."""
    best, best_error = [], _FIT
    for start in _FIT_FROM:
        window = np.arange(start + parity, len(wanted), 2)
        if len(window) < _LEAST_WINDOW or not wanted[window].all():
            continue
        for order in orders:
            functions = [Rough(order + extra, parity) for extra in (0, 2, 4)]
            amplitudes, error = _fit(functions, wanted, window)
            if error < best_error:
                best_error = error
                best = list(zip(functions, map(float, amplitudes), strict=True))
    return best


def _fit(
    functions: list[Rough], wanted: np.ndarray, window: np.ndarray
) -> tuple[np.ndarray, float]:
    """Amplitudes that fit the wanted coefficients in a window, and the largest error.

    The error is relative to each coefficient.
    """
    target = wanted[window]
    columns = [f.coefficients(len(wanted))[window] / target for f in functions]
    relative = np.stack(columns, axis=1)
    scales = np.abs(relative).max(axis=0)
    solution = np.linalg.lstsq(relative / scales, np.ones(len(window)), rcond=None)[0]
    amplitudes = solution / scales
    return amplitudes, float(np.abs(relative @ amplitudes - 1.0).max())


def _power_integral(exponent: float, start: float, rate: np.ndarray) -> np.ndarray:
    """∫_start^∞ k^{−exponent} e^{−rate k} dk for exponent 1.5, 2.5, …."""
    decay = np.exp(-rate * start)
    value = 2.0 * decay / np.sqrt(start)
    value = value - 2.0 * np.sqrt(np.pi * rate) * erfc(np.sqrt(rate * start))
    for p in np.arange(1.5, exponent):
        value = (start**-p * decay - rate * value) / p
    return value
