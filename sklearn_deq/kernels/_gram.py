"""Gram matrices in blocks, on all threads or on a GPU.

Used by the DEQ's and the explicit networks' kernels alike. Blocks are float64 whatever
the dtype of the result, so that float32 output is the rounded exact kernel; nothing
else of the size of the result is ever held.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from sklearn_deq._warnings import heard_by, solver_warnings, warn_of_solver
from sklearn_deq.kernels._memory import array_bytes, check_memory
from sklearn_deq.kernels._samples import (
    Samples,
    check_range,
    check_samples,
    output_dtype,
    resolve_device,
)
from sklearn_deq.kernels._tables import fastest
from sklearn_deq.theory import PairKernel

# Rows and columns of a matrix product, and the rows of it that are evaluated at once:
# on the CPU these fit a core's cache; a GPU wants large ones.
_CPU_BLOCK = (256, 512, 128)
_GPU_BLOCK = (4096, 4096, 4096)

Block = tuple[slice, slice]


def gram(
    kernel: PairKernel,
    X: np.ndarray,
    Y: np.ndarray | None,
    *,
    normalize: bool,
    device: str,
    dtype: str | np.dtype | None,
    max_memory: float | None,
    remedy: str,
) -> np.ndarray:
    """Kernel matrix of X against Y (None: against itself, by symmetry).

    Parameters
    ----------
    kernel : PairKernel
        The kernel, entry by entry.
    X, Y : ndarrays of shape (n_X, p) and (n_Y, p)
        Samples; Y may be None.
    normalize, device, dtype, max_memory
        As in `sklearn_deq.kernels.deq_kernel`.
    remedy : str
        What to do where memory is short, beside raising max_memory.

    Returns
    -------
    ndarray of shape (n_X, n_Y), or (n_outputs, n_X, n_Y)
        The kernel matrix.
    """
    X = check_samples(X)
    out_dtype = output_dtype(X, dtype)
    place = resolve_device(device)
    Y = None if Y is None else _check_other(Y, X)
    left = Samples.build(X, normalize)
    right = left if Y is None else Samples.build(Y, normalize)
    shape = len(left.squares), len(right.squares)
    # A leading axis of outputs, if the kernel has one.
    out_shape = (*kernel.diagonal(left.squares[:1]).shape[:-1], *shape)
    what = f"a kernel matrix of shape {out_shape} in {out_dtype}"
    single = "use dtype='float32', " if out_dtype == np.float64 else ""
    check_memory(
        {what: array_bytes(out_shape, out_dtype)},
        max_memory,
        f"Raise max_memory, {single}or {remedy}.",
    )
    diagonal = kernel.diagonal(left.squares)
    check_range(diagonal, out_dtype)
    if Y is not None:
        check_range(kernel.diagonal(right.squares), out_dtype)
    squares = np.concatenate([left.squares, right.squares])
    fast = fastest(kernel, squares, math.prod(shape))
    rows = _Side.build(fast, left, place)
    columns = rows if Y is None else _Side.build(fast, right, place)
    out = np.empty(out_shape, dtype=out_dtype)

    def fill(block: Block) -> None:
        _fill(out, fast, rows, columns, block, symmetric=Y is None)

    _for_each(fill, _blocks(shape, place, symmetric=Y is None), place)
    if Y is None:
        each = np.arange(shape[0])
        out[..., each, each] = diagonal
    return out


def _check_other(Y: np.ndarray, X: np.ndarray) -> np.ndarray:
    """Return Y as a float array with the features of X, or raise a ValueError."""
    Y = check_samples(Y, "Y")
    if Y.shape[1] != X.shape[1]:
        raise ValueError(
            f"X and Y must have the same number of features, got {X.shape[1]} and "
            f"{Y.shape[1]}."
        )
    return Y


@dataclass(frozen=True)
class _Side:
    """Samples of one side on the device.

    Attributes
    ----------
    data : tensor of shape (n, p)
        Rows as they are given.
    scale : tensor of shape (n,)
        As in `Samples`.
    states : tuple of tensors with n rows
        What the kernel needs of each row.
    """

    data: torch.Tensor
    scale: torch.Tensor
    states: tuple[torch.Tensor, ...]

    @classmethod
    def build(cls, kernel: PairKernel, samples: Samples, device: torch.device) -> _Side:
        """Compute the states of the rows and move all to the device."""

        def move(array: np.ndarray) -> torch.Tensor:
            if not array.flags.writeable or min(array.strides, default=0) < 0:
                array = array.copy()
            return torch.from_numpy(np.asarray(array)).to(device)

        states = tuple(move(state) for state in kernel.states(samples.squares))
        return cls(move(samples.data), move(samples.scale), states)

    def block(self, rows: slice) -> _Side:
        """Return the same for some rows."""
        states = tuple(state[rows] for state in self.states)
        return _Side(self.data[rows], self.scale[rows], states)


def _block_size(device: torch.device) -> tuple[int, int, int]:
    return _CPU_BLOCK if device.type == "cpu" else _GPU_BLOCK


def _blocks(
    shape: tuple[int, int], device: torch.device, *, symmetric: bool
) -> Iterator[Block]:
    """Rows and columns of all blocks, of those on and above the diagonal if enough."""
    n_rows, n_columns, _ = _block_size(device)
    for i in range(0, shape[0], n_rows):
        for j in range(i if symmetric else 0, shape[1], n_columns):
            yield (
                slice(i, min(i + n_rows, shape[0])),
                slice(j, min(j + n_columns, shape[1])),
            )


def _fill(
    out: np.ndarray,
    kernel: PairKernel,
    left: _Side,
    right: _Side,
    block: Block,
    *,
    symmetric: bool,
) -> None:
    """Compute a block of the output, and its mirror image if symmetric."""
    rows, columns = block
    first, second = left.block(rows), right.block(columns)
    products = first.data.to(torch.float64) @ second.data.to(torch.float64).T
    step = _block_size(products.device)[2]
    diagonal = symmetric and rows.start == columns.start
    for start in range(0, len(products), step):
        # On the diagonal, what lies below it is the mirror image of what is above.
        skip = start if diagonal else 0
        part, across = (
            first.block(slice(start, start + step)),
            second.block(slice(skip, None)),
        )
        values = _entries(kernel, part, across, products[start : start + step, skip:])
        if diagonal:
            square = values[..., : len(part.scale)]
            square[...] = np.triu(square) + np.triu(square, 1).swapaxes(-1, -2)
        these = slice(rows.start + start, rows.start + start + len(part.scale))
        others = slice(columns.start + skip, columns.stop)
        out[..., these, others] = values
        if symmetric:
            out[..., others, these] = values.swapaxes(-1, -2)


def _entries(
    kernel: PairKernel, first: _Side, second: _Side, products: torch.Tensor
) -> np.ndarray:
    """Entries of the kernel from inner products, which are overwritten."""
    entries = kernel.entries(
        tuple(state[:, None] for state in first.states),
        tuple(state[None] for state in second.states),
        products.mul_(first.scale[:, None]).mul_(second.scale),
    )
    return entries.cpu().numpy()


def _for_each(
    work: Callable[[Block], None], blocks: Iterator[Block], device: torch.device
) -> None:
    """Do the work for every block, on as many threads as torch would use.

    Each thread takes whole blocks: the passes over a block are too short to be split.
    """
    n_threads = torch.get_num_threads()
    if device.type != "cpu" or n_threads == 1:
        for block in blocks:
            work(block)
        return
    # Who listens here, or whose line is here, is not known to the threads.
    with solver_warnings() as said:

        def heard_work(block: Block) -> None:
            with heard_by(said):
                work(block)

        try:
            with ThreadPoolExecutor(
                n_threads, initializer=torch.set_num_threads, initargs=(1,)
            ) as pool:
                for _ in pool.map(heard_work, blocks):
                    pass
        finally:
            # The workers' setting holds for threads to come: put it back.
            torch.set_num_threads(n_threads)
    for message in dict.fromkeys(said):
        warn_of_solver(message)
