"""Chebyshev interpolation along one axis."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.polynomial import chebyshev

Array = Any


def chebyshev_nodes(size: int) -> np.ndarray:
    """Chebyshev points of the first kind on [−1, 1], ascending."""
    return -np.cos(np.pi * (np.arange(size) + 0.5) / size)


def chebyshev_coefficients(values: np.ndarray) -> np.ndarray:
    """Coefficients along axis 0 of the interpolant through `chebyshev_nodes`."""
    size = values.shape[0]
    basis = chebyshev.chebvander(chebyshev_nodes(size), size - 1)
    basis = basis * np.where(np.arange(size) == 0, 1.0, 2.0) / size
    return np.tensordot(basis.T, values, axes=1)


def last_coefficients(values: np.ndarray) -> float:
    """Size of the last two coefficients along axis 0, relative to the largest."""
    size = np.abs(chebyshev_coefficients(values)).reshape(values.shape[0], -1)
    return float(size[-2:].max() / max(size.max(), 1e-300))


def signed_factors(
    matrices: np.ndarray, tolerance: float
) -> tuple[np.ndarray, np.ndarray, tuple[int, ...]]:
    """Factors of symmetric matrices, as far as they matter: F_k diag(σ_k) F_kᵀ.

    Parameters
    ----------
    matrices : ndarray of shape (n_matrices, n, n)
        Symmetric up to rounding.
    tolerance : float
        Eigenvalues of at most this size are left out.

    Returns
    -------
    functions : ndarray of shape (n, n_functions)
        All F_k, one beside the other.
    signs : ndarray of shape (n_functions,)
        All σ_k = ±1.
    ranks : tuple of int
        Columns of each F_k.
    """
    functions, signs, ranks = [], [], []
    for matrix in matrices:
        values, vectors = np.linalg.eigh(0.5 * (matrix + matrix.T))
        kept = np.abs(values) > tolerance
        functions.append(vectors[:, kept] * np.sqrt(np.abs(values[kept])))
        signs.append(np.sign(values[kept]))
        ranks.append(int(kept.sum()))
    return np.concatenate(functions, axis=1), np.concatenate(signs), tuple(ranks)


def clenshaw(coefficients: Any, t: Array) -> Array:
    """Sum c_k T_k(t) by Clenshaw's rule.

    Parameters
    ----------
    coefficients : sequence
        Its items broadcast with t; it is only iterated, from the last to the first, so
        that it may make them on the way.
    t : array
        Points in [−1, 1].

    Returns
    -------
    array
        The sum, on the array namespace of t.
    """
    last, before = 0.0 * t, 0.0 * t
    twice = 2.0 * t
    for k in range(len(coefficients) - 1, 0, -1):
        last, before = coefficients[k] + twice * last - before, last
    return coefficients[0] + t * last - before
