"""Data: the paper's Gaussian mixture, and files in MNIST's IDX format."""

from __future__ import annotations

import gzip
import math
from pathlib import Path

import numpy as np
from sklearn.utils import check_random_state

__all__ = ["load_idx", "make_gaussian_mixture"]

# Codes of the IDX format, all big-endian.
_IDX_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4"}
_IDX_TYPES[0x0E] = ">f8"


def make_gaussian_mixture(
    n_samples: int = 400,
    n_features: int = 500,
    *,
    n_classes: int = 2,
    mean_scale: float = 3.0,
    covariance_scale: float = 8.0,
    random_state: int | np.random.RandomState | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Draw the high-dimensional Gaussian mixture of the paper.

    Class a has the mean ``mean_scale · e_{8a}`` and the covariance
    ``(1 + covariance_scale · a/√p) I``; classes are equally large up to one sample.

    Parameters
    ----------
    n_samples : int, default=400
        Number of samples.
    n_features : int, default=500
        p, at least ``8 (n_classes − 1) + 1``.
    n_classes : int, default=2
        Number of classes.
    mean_scale : float, default=3.0
        Size of the means.
    covariance_scale : float, default=8.0
        Difference of the covariances, in units of 1/√p.
    random_state : int, RandomState instance or None, default=None
        Of the draws.

    Returns
    -------
    X : ndarray of shape (n_samples, n_features)
        Samples, in the order of their classes.
    y : ndarray of shape (n_samples,)
        Classes.

    Raises
    ------
    ValueError
        If a size is too small.

    References
    ----------
    .. [1] Ling et al. (2024), arXiv 2402.02697, section on synthetic data.

    Examples
    --------
    >>> from sklearn_deq.datasets import make_gaussian_mixture
    >>> X, y = make_gaussian_mixture(10, 20, random_state=0)
    >>> X.shape, y.tolist()
    ((10, 20), [0, 0, 0, 0, 0, 1, 1, 1, 1, 1])
    """
    if n_classes < 1 or n_samples < n_classes:
        raise ValueError(
            f"n_samples must be at least n_classes ≥ 1, got {n_samples} and "
            f"{n_classes}."
        )
    if n_features < 8 * (n_classes - 1) + 1:
        raise ValueError(
            f"n_features must be at least {8 * (n_classes - 1) + 1} for {n_classes} "
            f"classes, got {n_features}."
        )
    rng = check_random_state(random_state)
    y = np.arange(n_samples) * n_classes // n_samples
    scale = np.sqrt(1.0 + covariance_scale * y / math.sqrt(n_features))
    X = scale[:, None] * rng.standard_normal((n_samples, n_features))
    X[np.arange(n_samples), 8 * y] += mean_scale
    return X, y


def load_idx(path: str | Path) -> np.ndarray:
    """Read an array from a file in IDX format, plain or gzipped.

    Parameters
    ----------
    path : str or Path
        The file, such as MNIST's ``t10k-images-idx3-ubyte.gz``.

    Returns
    -------
    ndarray
        The array, in native byte order.

    Raises
    ------
    ValueError
        If the file is not in IDX format, or is shorter or longer than it says.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from sklearn_deq.datasets import load_idx
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "two-idx1-ubyte"
    ...     _ = path.write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 2, 5, 7]))
    ...     load_idx(path).tolist()
    [5, 7]
    """
    path = Path(path)
    content = path.read_bytes()
    if content[:2] == b"\x1f\x8b":
        content = gzip.decompress(content)
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in _IDX_TYPES:
        raise ValueError(f"{path} is not in IDX format: its first bytes are wrong.")
    dtype = np.dtype(_IDX_TYPES[content[2]])
    start = 4 + 4 * content[3]
    if len(content) < start:
        raise ValueError(f"{path} is truncated: its header is incomplete.")
    shape = tuple(np.frombuffer(content[4:start], ">u4").tolist())
    expected = math.prod(shape) * dtype.itemsize
    if len(content) - start != expected:
        raise ValueError(
            f"{path} is damaged: {expected} bytes of data announced, "
            f"{len(content) - start} found."
        )
    data = np.frombuffer(content[start:], dtype).reshape(shape)
    return data.astype(dtype.newbyteorder("="))
