"""Sizes of samples, and their projection on the sphere.

In float64, without copies of the rows: squares of float32 numbers may overflow, and
data may fill half of the memory.
"""

from __future__ import annotations

import numpy as np

# Squared norms below this, or above its inverse, have lost digits or will.
_SMALL = 1e-200


def squared_norms(X: np.ndarray) -> np.ndarray:
    """|x|² of the rows of X (n, p), in float64; inf where it overflows."""
    with np.errstate(over="ignore"):
        found: np.ndarray = np.einsum("ij,ij->i", X, X, dtype=np.float64)
    return found


def mean_squares(X: np.ndarray) -> np.ndarray:
    """s_ii = |x|²/p of the rows of X (n, p), in float64; inf where it overflows."""
    return squared_norms(X) / X.shape[1]


def moderate_rows(X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows in the same directions whose squares neither overflow nor vanish.

    Parameters
    ----------
    X : ndarray of shape (n, p)
        Float rows.

    Returns
    -------
    rows : ndarray of shape (n, p)
        X itself, or a copy in float64 where rows that are too large or too small are
        over their largest entries.
    squares : ndarray of shape (n,)
        |x|² of these rows: 0 for zero rows alone.
    """
    squares = squared_norms(X)
    extreme = np.flatnonzero(~((squares > _SMALL) & (squares < 1.0 / _SMALL)))
    peaks = np.abs(X[extreme]).max(axis=1).astype(np.float64)
    extreme, peaks = extreme[peaks > 0], peaks[peaks > 0]
    if extreme.size:
        X = X.astype(np.float64)
        X[extreme] /= peaks[:, None]
        squares[extreme] = squared_norms(X[extreme])
    return X, squares


def inverse_norms(squares: np.ndarray) -> np.ndarray:
    """1/|x| from |x|²; 0 for zero rows."""
    norms = np.sqrt(squares)
    return np.divide(1.0, norms, out=np.zeros_like(norms), where=norms > 0)


def normalize_rows(X: np.ndarray) -> np.ndarray:
    """Project the rows of X (n, p) on the sphere of radius √p; zero rows stay zero."""
    rows, squares = moderate_rows(X)
    scale = np.sqrt(X.shape[1]) * inverse_norms(squares)
    # In float64, where neither the factors overflow nor a copy is made.
    return np.multiply(
        rows,
        scale[:, None],
        out=np.empty(X.shape, X.dtype),
        dtype=np.float64,
        casting="same_kind",
    )
