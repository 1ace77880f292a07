"""Samples as the kernels take them, and the machine they are computed on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import issparse

from sklearn_deq.theory._checks import check_flag
from sklearn_deq.theory._rows import inverse_norms, mean_squares, moderate_rows


def check_samples(X: np.ndarray, name: str = "X") -> np.ndarray:
    """Return X as a float array of shape (n, p), or raise a ValueError."""
    if issparse(X):
        raise ValueError(f"{name} is a sparse matrix: give {name}.toarray().")
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
    # One reduction, without a temporary of the size of X, tells unless it overflows.
    with np.errstate(over="ignore", invalid="ignore"):
        finite = np.isfinite(X.sum()) or np.isfinite(X).all()
    if not finite:
        raise ValueError(f"{name} contains NaN or infinity.")
    return X


@dataclass(frozen=True)
class Samples:
    """Rows with the factors that turn their inner products into s_ij.

    Attributes
    ----------
    data : ndarray of shape (n, p)
        The rows as they are given: no copy.
    scale : ndarray of shape (n,)
        s_ij = scale_i scale_j x_i · x_j: 1/√p, or 1/|x_i| on the sphere.
    squares : ndarray of shape (n,)
        s_ii; exactly 1 on the sphere, and 0 for zero rows.
    """

    data: np.ndarray
    scale: np.ndarray
    squares: np.ndarray

    @classmethod
    def build(cls, X: np.ndarray, normalize: bool) -> Samples:
        """Measure the rows of X.

        Parameters
        ----------
        X : ndarray of shape (n, p)
            Float rows.
        normalize : bool
            Whether rows are projected on the sphere of radius √p.

        Returns
        -------
        Samples
            The same rows.
        """
        check_flag("normalize", normalize)
        if normalize:
            X, squares = moderate_rows(X)
            return cls(X, inverse_norms(squares), (squares > 0).astype(np.float64))
        squares = mean_squares(X)
        if not np.isfinite(squares).all():
            raise ValueError(
                "The squared norms of the rows overflow: scale the features down, or "
                "set normalize=True."
            )
        return cls(X, np.full(X.shape[0], X.shape[1] ** -0.5), squares)


def output_dtype(X: np.ndarray, dtype: str | np.dtype | None) -> np.dtype:
    """Return the dtype of a result: that given, or of the samples if it is None."""
    try:
        result = np.dtype(X.dtype if dtype is None else dtype)
    except TypeError:
        result = None
    if result not in (np.float32, np.float64):
        raise ValueError(
            f"dtype must be 'float32', 'float64' or None (that of X), got {dtype!r}."
        )
    return result


def check_range(diagonal: np.ndarray, dtype: np.dtype) -> None:
    """Raise a ValueError if entries of the diagonal are beyond the dtype."""
    largest = float(np.abs(diagonal).max())
    if largest > float(np.finfo(dtype).max):
        raise ValueError(
            f"The kernel has entries up to {largest:.3g}, beyond {dtype}: set "
            "dtype='float64', scale the features down, or set normalize=True."
        )


def as_tensor(X: np.ndarray) -> torch.Tensor:
    """Tensor of an array: torch wants it writeable and with positive strides."""
    return torch.from_numpy(np.require(X, requirements=["C", "W", "A"]))


def resolve_device(device: str) -> torch.device:
    """Return the torch device of a name; "auto" takes a GPU where there is one."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        # A number there and back shows whether it is of use.
        probe = torch.zeros(1, dtype=torch.float64, device=device)
        probe.cpu()
        return probe.device
    except (RuntimeError, AssertionError, TypeError) as error:
        raise ValueError(
            "device must be 'cpu', 'auto' or a torch device of this machine that has "
            f"float64, got {device!r}: {str(error).splitlines()[0]}"
        ) from error
