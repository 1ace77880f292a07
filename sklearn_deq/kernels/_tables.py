"""The fastest exact form of a kernel on given data.

`fastest` replaces a `PairKernel`, whose entries solve an equation each, by one that
evaluates polynomials: of one number per pair where the theory knows a `Reduction`
(samples of one norm; positively homogeneous activations), else, for smooth kernels, of
both norms and the angle. What has neither is left as it is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch

from sklearn_deq._warnings import solver_warnings, warn_of_solver
from sklearn_deq.kernels._polynomial import (
    Orders,
    Polynomial,
    angle_of,
    clenshaw,
    series_in,
    shorter_series,
    together,
)
from sklearn_deq.theory import PairKernel, Reduction
from sklearn_deq.theory._chebyshev import last_coefficients, signed_factors
from sklearn_deq.theory._equilibrium import UnstableError
from sklearn_deq.theory._norms import (
    norm_basis,
    norm_coordinate,
    norm_nodes,
    rounded_range,
)
from sklearn_deq.theory._rows import inverse_norms

_TOLERANCE = 1e-13


def fastest(kernel: PairKernel, squares: np.ndarray, n_entries: int) -> PairKernel:
    """Return the kernel in the form that is fastest for samples with these s_ii.

    Parameters
    ----------
    kernel : PairKernel
        Any kernel.
    squares : ndarray of shape (n,)
        s_ii of the samples of both sides.
    n_entries : int
        Entries to compute: a table must pay off.

    Returns
    -------
    PairKernel
        The same kernel to about 1e-12 of √(K_ii K_jj); its entries take torch tensors,
        states as columns on the left and as rows on the right, and may overwrite s_ij.
    """
    reduction = kernel.reduce(squares)
    if reduction is not None:
        return _from_reduction(kernel, reduction) or kernel
    if kernel.smooth:
        return _from_norms(kernel, squares, n_entries) or kernel
    return kernel


def _from_reduction(kernel: PairKernel, reduction: Reduction) -> PairKernel | None:
    """Evaluate the functions of a reduction as polynomials; None: do not converge."""
    found = shorter_series(lambda x: reduction.profiles(x).T, kernel.smooth)
    if found is None:
        return None
    series, angle = found
    polynomials = together([Polynomial.build(column, angle) for column in series.T])

    def entries(first: Any, second: Any, s12: torch.Tensor) -> torch.Tensor:
        x = reduction.argument(first, second, s12)
        x = angle_of(x) if angle else x.clamp_(-1.0, 1.0)
        return reduction.assemble(first, second, polynomials(x))

    return replace(kernel, states=reduction.states, entries=entries)


# Fewer terms no series has: below that a table does not pay.
_FEWEST_TERMS = 16
# Fewer entries are solved one by one before a table in the norms is made: its samples
# ask for duals on a range of norms of their own.
_FEWEST_ENTRIES = 2**15
# Norms on either side of a table, tried one after the other.
_NORM_SIZES = (8, 12, 16, 24, 32, 48)


@dataclass(frozen=True)
class _NormTable:
    """K_ij/√(K_ii K_jj) = Σ_k T_k(t) Σ_l σ_kl f_kl(r_i) f_kl(r_j), with t = t(θ_ij).

    The sum is over the orders that the kernel has.

    Attributes
    ----------
    low, high : float
        Range of the norm coordinate.
    functions : ndarray of shape (n_norms, n_functions)
        Chebyshev coefficients of all f_kl in the norm coordinate.
    signs : ndarray of shape (n_functions,)
        σ_kl = ±1.
    ranks : tuple of int
        Number of functions of each order k.
    orders : Orders
        The orders k.
    angle : bool
        Whether t is the angle, 2θ/π − 1, or its cosine.
    """

    low: float
    high: float
    functions: np.ndarray
    signs: np.ndarray
    ranks: tuple[int, ...]
    orders: Orders
    angle: bool

    def features(self, norms: np.ndarray) -> np.ndarray:
        """f_kl at the norms (n,), shape (n, n_functions)."""
        basis = norm_basis(norms, self.low, self.high, self.functions.shape[0])
        return basis @ self.functions

    def __call__(
        self, first: torch.Tensor, second: torch.Tensor, t: torch.Tensor
    ) -> torch.Tensor:
        """Evaluate a block from the features of its rows and columns, by Clenshaw."""
        first = first * torch.from_numpy(self.signs).to(t)
        ends = np.cumsum(self.ranks)
        parts = [slice(e - rank, e) for e, rank in zip(ends, self.ranks, strict=True)]

        def reflect(k: int, x: torch.Tensor) -> torch.Tensor:
            return x.addmm_(first[:, parts[k]], second[:, parts[k]].T, beta=-1.0)

        return clenshaw(t, len(parts), reflect, self.orders)


def _from_norms(
    kernel: PairKernel, squares: np.ndarray, n_entries: int
) -> PairKernel | None:
    """Tabulate a smooth kernel in both norms and the angle; None: does not pay."""
    found = _find_tables(kernel, squares, n_entries)
    if found is None:
        return None
    tables, angle = found.outputs, found.angle

    def states(s: np.ndarray) -> tuple[np.ndarray, ...]:
        norms = np.sqrt(s)
        size = np.sqrt(_sizes(kernel, s))[:, None]
        return inverse_norms(s), *(table.features(norms) * size for table in tables)

    def entries(first: Any, second: Any, s12: torch.Tensor) -> torch.Tensor:
        t = s12.mul_(first[0]).mul_(second[0])
        t = angle_of(t).mul_(2.0 / np.pi) if angle else t.clamp_(-1.0, 1.0)
        values = [
            table(features1[:, 0], features2[0], t)
            for table, features1, features2 in zip(
                tables, first[1:], second[1:], strict=True
            )
        ]
        return values[0] if len(values) == 1 else torch.stack(values)

    return replace(kernel, states=states, entries=entries)


@dataclass(frozen=True)
class _Tables:
    """Tables of a kernel, for a range of the norm coordinate.

    Attributes
    ----------
    low, high : float
        The range.
    outputs : tuple of _NormTable
        One for each output of the kernel.
    angle : bool
        Whether they are in the angle.
    said : tuple of str
        What solvers said on the way.
    grows : bool
        Whether it is worth while to try a wider range where samples need one.
    """

    low: float
    high: float
    outputs: tuple[_NormTable, ...]
    angle: bool
    said: tuple[str, ...]
    grows: bool = True


# Of kernels that are still in use, so that blocks of samples share tables.
_KNOWN: WeakKeyDictionary[PairKernel, _Tables] = WeakKeyDictionary()


def _find_tables(
    kernel: PairKernel, squares: np.ndarray, n_entries: int
) -> _Tables | None:
    """Tables that serve these samples, made if there are none and if they pay."""
    norms = np.sqrt(squares)
    low, high = (float(norm_coordinate(norm)) for norm in (norms.min(), norms.max()))
    known, found = _KNOWN.get(kernel), None
    if known is not None and known.low <= low and high <= known.high:
        found = known
    elif known is not None and known.grows:
        # The next samples will go beyond this range, too: it is rounded outwards.
        wider = rounded_range(min(low, known.low), max(high, known.high))
        try:
            found = _make_tables(kernel, *wider, n_entries)
        except UnstableError:
            # At norms that these samples do not have.
            found = None
    if found is None:
        found = _make_tables(kernel, low, high, n_entries)
        if found is not None and known is not None:
            found = replace(found, grows=False)
    if found is not None:
        _KNOWN[kernel] = found
        for message in found.said:
            warn_of_solver(message)
    return found


def _make_tables(
    kernel: PairKernel, low: float, high: float, n_entries: int
) -> _Tables | None:
    """Tables for a range of norms; None: do not pay."""
    with solver_warnings() as said:
        found = _sample_norms(kernel, low, high, n_entries)
    if found is None:
        return None
    series, angle = found
    outputs = (
        _compress(series[:, k], low, high, angle) for k in range(series.shape[1])
    )
    return _Tables(low, high, tuple(outputs), angle, tuple(said))


def _sizes(kernel: PairKernel, s: np.ndarray) -> np.ndarray:
    """K_ii, that of the first output, shape (n,)."""
    return np.atleast_2d(kernel.diagonal(s))[0]


def _sample_norms(
    kernel: PairKernel, low: float, high: float, n_entries: int
) -> tuple[np.ndarray, bool] | None:
    """Chebyshev series in the angle or its cosine, at a grid of norms.

    None, if they do not converge, or need as many samples as there are entries.

    Returns
    -------
    series : ndarray of shape (n_terms, n_outputs, n_norms, n_norms)
        Coefficients of the outputs over √(K_ii K_jj).
    angle : bool
        Whether they belong to the angle.
    """

    def sample(size: int, x: np.ndarray) -> np.ndarray:
        squares = norm_nodes(low, high, size)
        states = kernel.states(squares)
        norms, scale = np.sqrt(squares), np.sqrt(_sizes(kernel, squares))
        values = kernel.entries(
            tuple(state[:, None, None] for state in states),
            tuple(state[None, :, None] for state in states),
            norms[:, None, None] * norms[:, None] * x,
        )
        values = values.reshape(-1, size, size, len(x))
        return np.moveaxis(values / np.multiply.outer(scale, scale)[..., None], 3, 0)

    few = np.cos(np.pi * (np.arange(6) + 0.5) / 6)
    if n_entries < _FEWEST_ENTRIES:
        return None
    for size in _NORM_SIZES:
        if size * size * _FEWEST_TERMS > n_entries:
            return None
        if last_coefficients(np.moveaxis(sample(size, few), 2, 0)) <= _TOLERANCE:
            break
    else:
        return None
    found = shorter_series(lambda x: sample(3, x), smooth=True)
    if found is None:
        return None
    coarse, angle = found
    most = n_entries // (size * size)
    sizes = tuple(m for m in (len(coarse) + 4, 96, 192) if m <= most)
    series = series_in(lambda x: sample(size, x), angle, sizes)
    return None if series is None else (series, angle)


def _compress(series: np.ndarray, low: float, high: float, angle: bool) -> _NormTable:
    """Eigendecomposition of each order's matrix, as far as it matters."""
    size = series.shape[1]
    nodes = norm_nodes(low, high, size)
    to_coefficients = np.linalg.inv(norm_basis(np.sqrt(nodes), low, high, size))
    orders = Orders.of(series)
    functions, signs, ranks = signed_factors(
        orders(series), _TOLERANCE * float(np.abs(series).max())
    )
    return _NormTable(
        low, high, to_coefficients @ functions, signs, ranks, orders, angle
    )
