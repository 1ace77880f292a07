"""What a kernel is to the code that fills Gram matrices.

A `PairKernel` gives entries from s_ii, s_jj and s_ij, one by one. Where the entries
follow a function of a single number, a `Reduction` says so, and a Gram matrix costs a
matrix product and one pass over a table.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from array_api_compat import array_namespace

Array = Any
# What a kernel needs to know of each sample on one side: arrays that broadcast.
States = tuple[Array, ...]

# Norms closer than this count as equal.
_EQUAL = 1e-13


@dataclass(frozen=True)
class Reduction:
    """A kernel that is a few functions of one number per pair of samples.

    Attributes
    ----------
    states : callable
        s_ii (n,) -> tuple of arrays (n,): what the callables below need of a sample.
    argument : callable
        States of either side and s_ij, broadcasting -> x_ij, in [−1, 1] but for
        rounding; on the array namespace of s_ij, which may be overwritten.
    profiles : callable
        x (m,) in [−1, 1] -> array (k, m): the functions. They are smooth in arccos x,
        up to both ends.
    assemble : callable
        States of either side and the values (k, ...) of the functions at x_ij -> K_ij,
        with a leading axis of outputs if there are several.
    """

    states: Callable[[np.ndarray], States]
    argument: Callable[[States, States, Array], Array]
    profiles: Callable[[np.ndarray], np.ndarray]
    assemble: Callable[[States, States, Array], Array]


@dataclass(frozen=True)
class PairKernel:
    """A kernel entry by entry, before any tabulation.

    Entries, and the diagonal, may have a leading axis of outputs: a kernel and its
    derivatives, say; the first is then the kernel.

    Attributes
    ----------
    states : callable
        s_ii (n,) -> tuple of arrays (n,): what entries need of each sample.
    diagonal : callable
        s_ii (n,) -> K_ii (n,).
    entries : callable
        States of either side, and s_ij, all broadcasting -> K_ij; on the array
        namespace of s_ij.
    reduce : callable
        All s_ii (n,) of a Gram matrix -> a `Reduction` that holds for them, or None.
    smooth : bool
        Whether K_ij is a smooth function of the norms and s_ij throughout; with kinks
        it has a cone where the norms are equal and the angle is 0.
    """

    states: Callable[[np.ndarray], States]
    diagonal: Callable[[np.ndarray], np.ndarray]
    entries: Callable[[States, States, Array], Array]
    reduce: Callable[[np.ndarray], Reduction | None]
    smooth: bool = False


def common_square(s: np.ndarray) -> float | None:
    """Return the s_ii that all samples share up to rounding, if they do."""
    least, most = float(s.min()), float(s.max())
    return 0.5 * (least + most) if most - least <= 2.0 * _EQUAL * most else None


def sphere_reduction(
    states: Callable[[np.ndarray], States],
    entries: Callable[[States, States, Array], Array],
    square: float,
    least: float | None = None,
) -> Reduction:
    """Reduction of any kernel of this package for samples of one norm.

    Parameters
    ----------
    states, entries : callables
        As in `PairKernel`.
    square : float
        The s_ii of all samples.
    least : float or None
        Lower end of the interval of s_ij to tabulate, where it should reach beyond
        −s_ii to end where the kernel's own angle does; None: −s_ii.

    Returns
    -------
    Reduction
        K_ij = P(x_ij), with x_ij affine in s_ij; one P for each output.
    """
    low = -square if least is None else min(least, -square)
    middle, half = 0.5 * (square + low), 0.5 * (square - low)
    state = states(np.array([square]))

    def argument(_first: States, _second: States, s12: Array) -> Array:
        if middle != 0.0:
            s12 -= middle
        if half not in (0.0, 1.0):
            # Not if all rows are zero.
            s12 *= 1.0 / half
        return s12

    def profiles(x: np.ndarray) -> np.ndarray:
        return np.atleast_2d(entries(state, state, middle + half * x))

    return Reduction(lambda s: (), argument, profiles, _as_outputs)


def _as_outputs(_first: States, _second: States, values: Array) -> Array:
    """Every function is an output."""
    return values[0] if len(values) == 1 else values


def scaled(kernel: PairKernel, factor: float) -> PairKernel:
    """A kernel times a positive number."""
    if factor == 1.0:
        return kernel

    def reduce(s: np.ndarray) -> Reduction | None:
        found = kernel.reduce(s)
        if found is None:
            return None
        return replace(found, assemble=lambda *of: factor * found.assemble(*of))

    return replace(
        kernel,
        diagonal=lambda s: factor * kernel.diagonal(s),
        entries=lambda *of: factor * kernel.entries(*of),
        reduce=reduce,
    )


def stack_kernels(kernels: Sequence[PairKernel]) -> PairKernel:
    """Several kernels of one network as the outputs of one, from one matrix product.

    Parameters
    ----------
    kernels : sequence of PairKernel
        They need the same of every sample: states and arguments are the first's.

    Returns
    -------
    PairKernel
        With a leading axis of outputs.
    """
    first = kernels[0]

    def diagonal(s: np.ndarray) -> np.ndarray:
        return np.stack([kernel.diagonal(s) for kernel in kernels])

    def entries(states1: States, states2: States, s12: Array) -> Array:
        values = [kernel.entries(states1, states2, s12) for kernel in kernels]
        return array_namespace(s12).stack(values)

    def reduce(s: np.ndarray) -> Reduction | None:
        reductions = [kernel.reduce(s) for kernel in kernels]
        if None in reductions:
            return None
        return _stack_reductions(reductions)  # type: ignore[arg-type]

    return PairKernel(first.states, diagonal, entries, reduce, first.smooth)


def _stack_reductions(reductions: Sequence[Reduction]) -> Reduction:
    """All functions of all reductions, each assembled from its own."""
    counts = [len(reduction.profiles(np.zeros(1))) for reduction in reductions]
    ends = np.cumsum(counts)

    def profiles(x: np.ndarray) -> np.ndarray:
        return np.concatenate([reduction.profiles(x) for reduction in reductions])

    if all(reduction.assemble is _as_outputs for reduction in reductions):
        return replace(reductions[0], profiles=profiles)

    def assemble(first: States, second: States, values: Array) -> Array:
        outputs = [
            reduction.assemble(first, second, values[end - count : end])
            for reduction, count, end in zip(reductions, counts, ends, strict=True)
        ]
        return array_namespace(outputs[0]).stack(outputs)

    return replace(reductions[0], profiles=profiles, assemble=assemble)
