"""Gram matrices in blocks.

Samples of equal norm: a matrix product and one pass over a table in the angle. Else
every entry is solved by itself. Used by the DEQ's and the explicit networks' kernels
alike. Blocks are float64 whatever the dtype of the result, so that float32 output is
the rounded exact kernel.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from sklearn_deq.kernels._table import angle_coefficients
from sklearn_deq.theory import PairKernel
from sklearn_deq.theory._equilibrium import normalize_rows

# Rows and columns of a block: a few of them fit the cache.
_BLOCK = 256
# Norms closer than this count as equal.
_EQUAL = 1e-13
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
    X = X.astype(np.float64)
    scaled = (normalize_rows(X) if normalize else X) / np.sqrt(X.shape[1])
    norms = np.linalg.norm(scaled, axis=1)
    if normalize:
        # Exactly on the sphere, whatever the rounding of the projection.
        norms = (norms > 0).astype(np.float64)
    return scaled, norms


def check_memory(
    shape: tuple[int, int], dtype: np.dtype, max_memory: float | None
) -> None:
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
    kernel: PairKernel,
    X: np.ndarray,
    Y: np.ndarray | None,
    *,
    normalize: bool,
    device: str,
    dtype: str | np.dtype | None,
    max_memory: float | None,
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
    left_side = _Side.build(kernel, left, left_norms, resolve_device(device))
    right_side = left_side
    if Y is not None:
        right_side = _Side.build(kernel, right, right_norms, resolve_device(device))
    evaluate: BlockKernel = partial(_solved_block, kernel)
    norm = _common_norm(left_norms, right_norms)
    if norm is not None:
        evaluate = partial(_sphere_block, angle_coefficients(kernel, norm), norm)
    out = np.empty((left.shape[0], right.shape[0]), dtype=out_dtype)
    _fill(out, evaluate, left_side, right_side, symmetric=Y is None)
    if Y is None:
        np.fill_diagonal(out, kernel.diagonal(left_norms**2))
    return out


def _common_norm(*sides: np.ndarray) -> float | None:
    """Return the norm that all rows share up to rounding, if they do."""
    least = min(float(norms.min()) for norms in sides)
    most = max(float(norms.max()) for norms in sides)
    return 0.5 * (least + most) if most - least <= _EQUAL * most else None


def resolve_device(device: str) -> torch.device:
    """Return the torch device of a name; "auto" takes a GPU where there is one."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        # An allocation shows whether it is really there.
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"device must be 'cpu', 'auto' or a torch device of this machine, got "
            f"{device!r}: {str(error).splitlines()[0]}"
        ) from error


@dataclass(frozen=True)
class _Side:
    """Samples of one side.

    Attributes
    ----------
    data : tensor of shape (n, p)
        Rows, divided by √p.
    states : tuple of tensors of shape (n,)
        What the kernel needs of each row.
    """

    data: torch.Tensor
    states: tuple[torch.Tensor, ...]

    @classmethod
    def build(
        cls,
        kernel: PairKernel,
        data: np.ndarray,
        norms: np.ndarray,
        device: torch.device,
    ) -> _Side:
        """Compute the states of the rows and move both to the device."""
        states = [np.ascontiguousarray(state) for state in kernel.states(norms**2)]
        return cls(
            torch.from_numpy(data).to(device),
            tuple(torch.from_numpy(state).to(device) for state in states),
        )

    def block(self, rows: slice) -> _Side:
        """Return the same for some rows."""
        return _Side(self.data[rows], tuple(state[rows] for state in self.states))


# (left, right) -> block of the kernel.
BlockKernel = Callable[[_Side, _Side], torch.Tensor]


def _sphere_block(
    coefficients: np.ndarray, norm: float, left: _Side, right: _Side
) -> torch.Tensor:
    """Angles by a matrix product, then Clenshaw's rule in place."""
    t = left.data @ right.data.T
    if norm > 0:
        t.div_(norm**2)
    t = t.clamp_(-1.0, 1.0).acos_().mul_(2.0 / np.pi).sub_(1.0)
    last, before = torch.zeros_like(t), torch.zeros_like(t)
    for coefficient in coefficients[:0:-1]:
        # before ← c + 2t · last − before, and swap.
        before.neg_().add_(float(coefficient)).addcmul_(t, last, value=2.0)
        last, before = before, last
    return before.neg_().add_(float(coefficients[0])).addcmul_(t, last)


def _solved_block(pair: PairKernel, left: _Side, right: _Side) -> torch.Tensor:
    """Every entry solved by itself."""
    entries: torch.Tensor = pair.entries(
        tuple(state[:, None] for state in left.states),
        tuple(state[None, :] for state in right.states),
        left.data @ right.data.T,
    )
    return entries


def _fill(
    out: np.ndarray,
    evaluate: BlockKernel,
    left: _Side,
    right: _Side,
    *,
    symmetric: bool,
) -> None:
    """Fill the output block by block; the lower triangle is mirrored if symmetric."""
    for i in range(0, out.shape[0], _BLOCK):
        rows = slice(i, i + _BLOCK)
        upper_rows = left.block(rows)
        for j in range(i if symmetric else 0, out.shape[1], _BLOCK):
            columns = slice(j, j + _BLOCK)
            block = evaluate(upper_rows, right.block(columns)).cpu().numpy()
            if symmetric and j == i:
                block = np.triu(block) + np.triu(block, 1).T
            out[rows, columns] = block
            if symmetric and j > i:
                out[columns, rows] = block.T
