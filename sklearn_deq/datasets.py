"""Data: the paper's Gaussian mixture, and files in MNIST's IDX format."""

from __future__ import annotations

import gzip
import hashlib
import io
import math
import zlib
from numbers import Integral, Real
from pathlib import Path
from typing import Literal, overload

import numpy as np
from sklearn.utils import check_random_state

__all__ = ["load_idx", "make_gaussian_mixture"]

# Codes of the IDX format, all big-endian.
_IDX_TYPES = {
    0x08: ">u1",
    0x09: ">i1",
    0x0B: ">i2",
    0x0C: ">i4",
    0x0D: ">f4",
    0x0E: ">f8",
}


@overload
def make_gaussian_mixture(
    n_samples: int = 400,
    n_features: int = 500,
    *,
    n_classes: int = 2,
    mean_scale: float = 3.0,
    covariance_scale: float = 8.0,
    return_statistics: Literal[False] = False,
    random_state: int | np.random.RandomState | None = None,
) -> tuple[np.ndarray, np.ndarray]: ...


@overload
def make_gaussian_mixture(
    n_samples: int = 400,
    n_features: int = 500,
    *,
    n_classes: int = 2,
    mean_scale: float = 3.0,
    covariance_scale: float = 8.0,
    return_statistics: Literal[True],
    random_state: int | np.random.RandomState | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]: ...


def make_gaussian_mixture(
    n_samples: int = 400,
    n_features: int = 500,
    *,
    n_classes: int = 2,
    mean_scale: float = 3.0,
    covariance_scale: float = 8.0,
    return_statistics: bool = False,
    random_state: int | np.random.RandomState | None = None,
) -> tuple[np.ndarray, ...]:
    """Draw a high-dimensional Gaussian mixture of the paper's kind.

    Class a has the mean ``mean_scale · e_{8a}`` and the covariance
    ``(1 + covariance_scale · a/√p) I``; classes are equally large up to one sample.

    Parameters
    ----------
    n_samples : int, default=400
        Number of samples.
    n_features : int, default=500
        Number of features p, at least ``8 (n_classes − 1) + 1``.
    n_classes : int, default=2
        Number of classes.
    mean_scale : float, default=3.0
        Size of the means.
    covariance_scale : float, default=8.0
        Difference of the covariances, in units of 1/√p; above −√p/(n_classes − 1).
    return_statistics : bool, default=False
        Whether the means and covariances are returned as well, such as
        `sklearn_deq.theory.high_dimensional_equivalent` takes them.
    random_state : int, RandomState instance or None, default=None
        Seed or generator of the draws.

    Returns
    -------
    X : ndarray of shape (n_samples, n_features)
        Samples, in the order of their classes.
    y : ndarray of shape (n_samples,)
        Classes.
    means : ndarray of shape (n_classes, n_features)
        Only if ``return_statistics``.
    covariances : ndarray of shape (n_classes, n_features, n_features)
        Only if ``return_statistics``.

    Raises
    ------
    ValueError
        If a size is no integer or too small, or a scale is not finite or gives a
        negative variance.

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
    _check_mixture(n_samples, n_features, n_classes, mean_scale, covariance_scale)
    rng = check_random_state(random_state)
    y = np.arange(n_samples) * n_classes // n_samples
    variances = 1.0 + covariance_scale * np.arange(n_classes) / math.sqrt(n_features)
    X = np.sqrt(variances)[y, None] * rng.standard_normal((n_samples, n_features))
    X[np.arange(n_samples), 8 * y] += mean_scale
    if not return_statistics:
        return X, y
    means = np.zeros((n_classes, n_features))
    means[np.arange(n_classes), 8 * np.arange(n_classes)] = mean_scale
    return X, y, means, variances[:, None, None] * np.eye(n_features)


def _check_mixture(
    n_samples: int,
    n_features: int,
    n_classes: int,
    mean_scale: float,
    covariance_scale: float,
) -> None:
    """Refuse sizes and scales from which no mixture can be drawn."""
    sizes = {"n_samples": n_samples, "n_features": n_features, "n_classes": n_classes}
    for name, size in sizes.items():
        if not isinstance(size, Integral) or isinstance(size, bool):
            raise ValueError(f"{name} must be an integer, got {size!r}.")
    scales = {"mean_scale": mean_scale, "covariance_scale": covariance_scale}
    for name, scale in scales.items():
        if not isinstance(scale, Real) or not math.isfinite(scale):
            raise ValueError(f"{name} must be a finite number, got {scale!r}.")
    if n_classes < 1 or n_samples < n_classes:
        raise ValueError(
            f"n_samples must be at least n_classes ≥ 1, got {n_samples} and "
            f"{n_classes}."
        )
    least = 8 * (n_classes - 1) + 1
    if n_features < least:
        raise ValueError(
            f"n_features must be at least {least} for {n_classes} classes, got "
            f"{n_features}."
        )
    if 1.0 + covariance_scale * (n_classes - 1) / math.sqrt(n_features) <= 0.0:
        raise ValueError(
            f"covariance_scale={covariance_scale} makes a variance negative or zero: "
            f"it must exceed {-math.sqrt(n_features) / (n_classes - 1):.4g} here."
        )


def load_idx(path: str | Path, *, sha256: str | None = None) -> np.ndarray:
    """Read an array from a file in IDX format, plain or gzipped.

    Parameters
    ----------
    path : str or Path
        The file, such as MNIST's ``t10k-images-idx3-ubyte.gz``.
    sha256 : str, default=None
        Checksum that the file must have, in hexadecimal; None: it is not checked.

    Returns
    -------
    ndarray
        The array, in native byte order.

    Raises
    ------
    ValueError
        If the file has another checksum, is not in IDX format, or is shorter or longer
        than it says; no more than it says is unpacked.

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
    if not isinstance(sha256, str | None):
        raise ValueError(f"sha256 must be a string or None, got {sha256!r}.")
    content = path.read_bytes()
    if sha256 is not None:
        found = hashlib.sha256(content).hexdigest()
        if found != sha256.lower():
            raise ValueError(
                f"{path} has SHA-256 {found}, expected {sha256}: it is damaged, or "
                "another file."
            )
    stream: io.BufferedIOBase = io.BytesIO(content)
    if content[:2] == b"\x1f\x8b":
        stream = gzip.GzipFile(fileobj=stream)
    try:
        return _read_idx(path, stream)
    except (EOFError, OSError, zlib.error) as error:
        raise ValueError(
            f"{path} is a damaged or truncated gzip file: {error}"
        ) from error


def _read_idx(path: Path, stream: io.BufferedIOBase) -> np.ndarray:
    start = _read(stream, 4)
    if len(start) < 4 or start[:2] != b"\0\0" or start[2] not in _IDX_TYPES:
        raise ValueError(f"{path} is not in IDX format: its first bytes are wrong.")
    dtype = np.dtype(_IDX_TYPES[start[2]])
    lengths = _read(stream, 4 * start[3])
    if len(lengths) < 4 * start[3]:
        raise ValueError(f"{path} is truncated: its header is incomplete.")
    shape = tuple(np.frombuffer(lengths, ">u4").tolist())
    expected = math.prod(shape) * dtype.itemsize
    # One byte more than there should be tells, too.
    data = _read(stream, expected + 1)
    if len(data) != expected:
        found = str(len(data)) if len(data) < expected else "more"
        raise ValueError(
            f"{path} is damaged: {expected} bytes of data announced, {found} found."
        )
    try:
        values = np.frombuffer(data, dtype).reshape(shape)
    except ValueError as error:
        raise ValueError(
            f"{path} announces {len(shape)} dimensions {shape}, which no array has: "
            f"{error}."
        ) from error
    return values.astype(dtype.newbyteorder("="))


def _read(stream: io.BufferedIOBase, size: int) -> bytes:
    """At most size bytes, in pieces: no header makes us allocate what is not there."""
    data = bytearray()
    while piece := stream.read(min(2**20, size - len(data))):
        data += piece
    return bytes(data)
