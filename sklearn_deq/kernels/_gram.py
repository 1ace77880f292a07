"""Gram matrices in blocks: one matrix product and one pass over the table.

Used by the DEQ's and the explicit networks' kernels alike. Norms, tables and blocks are
float64 whatever the dtype of the result, so that float32 output is the rounded exact
kernel.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch

from sklearn_deq.kernels._table import KernelTable, build_table, norm_range
from sklearn_deq.theory import PairKernel

# Rows and columns of a block: a few of them fit the cache.
_BLOCK = 512
# Share of the machine's memory that a Gram matrix may take by default.
_MEMORY_SHARE = 0.5


def check_samples(X: np.ndarray, name: str = "X") -> np.ndarray:
    """Return X as a float array of shape (n, p), or raise a ValueError."""
    X = np.asarray(X)
    if X.ndim != 2 or 0 in X.shape:
        raise ValueError(
            f"{name} must be a two-dimensional array with at least one row and one "
            f"column, got shape {X.shape}."
        )
    if X.dtype.kind not in "fiub":
        raise ValueError(f"{name} must be an array of real numbers, got {X.dtype}.")
    if X.dtype not in (np.float32, np.float64):
        X = X.astype(np.float64)
    if not np.isfinite(X).all():
        raise ValueError(f"{name} contains NaN or infinity.")
    return X


def scaled_samples(X: np.ndarray, normalize: bool) -> tuple[np.ndarray, np.ndarray]:
    """X/√p in float64, on the unit sphere if normalize, and its row norms r."""
    scaled = X.astype(np.float64) / np.sqrt(X.shape[1])
    norms = np.linalg.norm(scaled, axis=1)
    if normalize:
        positive = norms > 0
        scaled[positive] /= norms[positive, None]
        norms = positive.astype(np.float64)
    return scaled, norms


def check_memory(shape: tuple[int, int], dtype: np.dtype, max_memory: float | None) -> None:
    """Raise a MemoryError before an allocation over the budget.

    Parameters
    ----------
    shape : tuple of 2 ints
        Shape of the Gram matrix.
    dtype : dtype
        Its dtype.
    max_memory : float or None
        Budget in bytes; None: half of the machine's memory.
    """
    budget = max_memory
    if budget is None:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        budget = _MEMORY_SHARE * total
    size = shape[0] * shape[1] * np.dtype(dtype).itemsize
    if size > budget:
        raise MemoryError(
            f"A kernel matrix of shape {shape} and dtype {np.dtype(dtype)} takes "
            f"{size / 2**30:.3g} GiB, over the budget of {budget / 2**30:.3g} GiB. "
            "Raise max_memory, use dtype='float32', or use a low-rank approximation "
            "with n_components (sklearn.kernel_approximation.Nystroem)."
        )


def gram(
    kernel: Callable[[], PairKernel],
    X: np.ndarray,
    Y: np.ndarray | None,
    *,
    normalize: bool,
    device: str,
    dtype: str | np.dtype | None,
    max_memory: float | None,
    table: Callable[[float, float], KernelTable],
) -> np.ndarray:
    """Kernel matrix of X against Y (None: against itself, by symmetry).

    Parameters
    ----------
    kernel : callable
        Returns the kernel entry by entry, for the diagonal.
    X, Y : ndarrays of shape (n_X, p) and (n_Y, p)
        Samples; Y may be None.
    normalize, device, dtype, max_memory
        As in `sklearn_deq.kernels.deq_kernel`.
    table : callable
        (low, high) -> the kernel's table for that range of norms.

    Returns
    -------
    ndarray of shape (n_X, n_Y)
        The kernel matrix.
    """
    X = check_samples(X)
    out_dtype = np.dtype(X.dtype if dtype is None else dtype)
    if out_dtype not in (np.float32, np.float64):
        raise ValueError(f"dtype must be 'float32' or 'float64', got {dtype!r}.")
    left, left_norms = scaled_samples(X, normalize)
    if Y is None:
        right, right_norms = left, left_norms
    else:
        Y = check_samples(Y, "Y")
        if Y.shape[1] != X.shape[1]:
            raise ValueError(
                f"X and Y must have the same number of features, got {X.shape[1]} "
                f"and {Y.shape[1]}."
            )
        right, right_norms = scaled_samples(Y, normalize)
    check_memory((left.shape[0], right.shape[0]), out_dtype, max_memory)
    diagonal = kernel().diagonal
    roots = np.sqrt(diagonal(left_norms**2))
    right_roots = roots if Y is None else np.sqrt(diagonal(right_norms**2))
    found = table(*norm_range(np.concatenate([left_norms, right_norms])))
    sides = [
        _Side(data, norms, root, found, resolve_device(device))
        for data, norms, root in (
            (left, left_norms, roots),
            (right, right_norms, right_roots),
        )
    ]
    out = np.empty((left.shape[0], right.shape[0]), dtype=out_dtype)
    _fill(out, *sides, found, symmetric=Y is None)
    if Y is None:
        np.fill_diagonal(out, roots**2)
    return out


def resolve_device(device: str) -> torch.device:
    """Return the torch device of a name; "auto" takes a GPU where there is one."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(device)


class _Side:
    """Samples of one side of the Gram matrix, with what the table needs of them."""

    def __init__(
        self,
        data: np.ndarray,
        norms: np.ndarray,
        roots: np.ndarray,
        table: KernelTable,
        device: torch.device,
    ) -> None:
        inverse = np.divide(1.0, norms, out=np.zeros_like(norms), where=norms > 0)
        features = np.ascontiguousarray(table.norm_features(norms))
        as_tensor = lambda array: torch.from_numpy(array).to(device)  # noqa: E731
        self.directions = as_tensor(data * inverse[:, None])
        self.features = as_tensor(features * roots[:, None])
        self.size = norms.size


def _fill(
    out: np.ndarray, left: _Side, right: _Side, table: KernelTable, *, symmetric: bool
) -> None:
    """Fill the output block by block; the lower triangle is mirrored if symmetric."""
    core = torch.from_numpy(table.core).to(left.directions.device)
    for i in range(0, left.size, _BLOCK):
        rows = slice(i, i + _BLOCK)
        for j in range(i if symmetric else 0, right.size, _BLOCK):
            columns = slice(j, j + _BLOCK)
            block = _evaluate(left, right, rows, columns, core).cpu().numpy()
            out[rows, columns] = block
            if symmetric and j > i:
                out[columns, rows] = block.T
            elif symmetric:
                upper = np.triu(block)
                out[rows, columns] = upper + np.triu(block, 1).T


def _evaluate(
    left: _Side, right: _Side, rows: slice, columns: slice, core: torch.Tensor
) -> torch.Tensor:
    """One block: angles by a matrix product, then Clenshaw's rule in the angle."""
    t = left.directions[rows] @ right.directions[columns].T
    t = t.clamp_(-1.0, 1.0).acos_().mul_(2.0 / np.pi).sub_(1.0)
    twice = 2.0 * t
    features = right.features[columns].T
    weights = left.features[rows]
    last, before = torch.zeros_like(t), torch.zeros_like(t)
    for coefficient in core.flip(0)[:-1]:
        # before ← coefficient(r, r') + 2t · last − before, then swap.
        before = torch.addmm(before, weights @ coefficient, features, beta=-1.0)
        before.addcmul_(twice, last)
        last, before = before, last
    first = torch.addmm(before, weights @ core[0], features, beta=-1.0)
    return first.addcmul_(t, last)


def cached_table(
    make: Callable[..., PairKernel],
) -> Callable[..., KernelTable]:
    """Build tables of a kernel family, keeping the most recent ones.

    ``make(*key)`` must be a function of hashable arguments; arguments that cannot be
    hashed (a user's activation, say) only cost the table again.
    """

    @lru_cache(maxsize=32)
    def remembered(key: tuple[object, ...], low: float, high: float) -> KernelTable:
        return build_table(make(*key), low, high)

    def table(key: tuple[object, ...], low: float, high: float) -> KernelTable:
        try:
            hash(key)
        except TypeError:
            return build_table(make(*key), low, high)
        return remembered(key, low, high)

    return table
