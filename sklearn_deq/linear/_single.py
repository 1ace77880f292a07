"""Solves with a matrix of float32, in its own memory, to the accuracy of float64.

LAPACK's Cholesky decomposition overwrites one triangle. The other and the diagonal
still hold the matrix: conjugate gradients on it, whose vectors and sums are float64,
take the rounded factor as preconditioner.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from sklearn_deq.linear._blocks import row_blocks

# Error of the solution in the norm of the matrix, over that of the solution itself.
_TOLERANCE = 1e-8
# Where the diagonal that is added is hidden by rounding, the factor's is larger by
# κ, and 10 √κ iterations are due: κ is below 2,000.
_MAX_ITERATIONS = 500
# Weights that differ by more are named where the solve fails.
_SPREAD = 1e3


def solve_single(
    K: np.ndarray, root: np.ndarray, alpha: float, B: np.ndarray
) -> np.ndarray:
    """Solve (D K D + α) x = B, D the diagonal matrix of ``root``; K is overwritten.

    Parameters
    ----------
    K : ndarray of shape (n, n)
        Symmetric, positive semidefinite, of float32 and C-contiguous.
    root : ndarray of shape (n,)
        Positive factors of rows and columns.
    alpha : float
        Positive number α.
    B : ndarray of shape (n, n_sides)
        Right-hand sides.

    Returns
    -------
    ndarray of shape (n, n_sides)
        Solutions in float64.

    Raises
    ------
    numpy.linalg.LinAlgError
        If α is so small, or the factors so different, that the rounding of K leaves no
        positive definite matrix, or if K is not finite.

    Notes
    -----
    The factor is of the matrix with max(α, n ε max_i K_ii) on its diagonal, of which
    rounding cannot take the definiteness.
    """
    for rows in row_blocks(len(K)):
        if not np.isfinite(K[rows]).all():
            raise np.linalg.LinAlgError("The kernel matrix has NaN or infinity.")
    diagonal = K.diagonal().astype(np.float64)
    largest = float((root**2 * diagonal).max())
    shift = max(alpha, len(K) * float(np.finfo(K.dtype).eps) * largest)
    for i, factor in enumerate(root):
        K[i, i:] *= factor * root[i:]
    K.flat[:: len(K) + 1] += shift
    try:
        # The lower triangle of the transpose is the upper one of K.
        factors = cho_factor(K.T, lower=True, overwrite_a=True, check_finite=False)
    except np.linalg.LinAlgError as error:
        raise _not_definite(alpha, root) from error

    def multiply(P: np.ndarray) -> np.ndarray:
        P = root[:, None] * P
        return root[:, None] * _multiply_lower(K, diagonal, P)

    def precondition(R: np.ndarray) -> np.ndarray:
        # The range of float32 is short.
        scale = np.abs(R).max(axis=0)
        scale[scale == 0.0] = 1.0
        sides = (R / scale).astype(K.dtype)
        return scale * cho_solve(factors, sides, check_finite=False)

    # Squares of large or small numbers would be infinite or zero.
    unit = np.abs(B).max(axis=0)
    unit[unit == 0.0] = 1.0
    solution = _conjugate_gradients(
        lambda P: multiply(P) + alpha * P, precondition, B / unit
    )
    if solution is None:
        raise _not_definite(alpha, root)
    return unit * solution


def _multiply_lower(K: np.ndarray, diagonal: np.ndarray, P: np.ndarray) -> np.ndarray:
    """Product with the symmetric matrix of this diagonal and K's lower triangle."""
    product: np.ndarray = diagonal[:, None] * P
    for rows in row_blocks(len(K)):
        block = K[rows, : rows.stop].astype(np.float64)
        block[:, rows] = np.tril(block[:, rows], -1)
        product[rows] += block @ P[: rows.stop]
        product[: rows.stop] += block.T @ P[rows]
    return product


def _conjugate_gradients(
    multiply: Callable[[np.ndarray], np.ndarray],
    precondition: Callable[[np.ndarray], np.ndarray],
    B: np.ndarray,
) -> np.ndarray | None:
    """Solve for all columns at once, each with coefficients of its own; None: in vain.

    The preconditioner is rounded: β of Polak and Ribière keeps directions conjugate.
    """
    X, residual = np.zeros_like(B), B.copy()
    direction = solved = precondition(residual)
    energy = first = np.einsum("ij,ij->j", residual, solved)
    for _ in range(_MAX_ITERATIONS):
        active = energy > _TOLERANCE**2 * first
        if not active.any():
            return X
        image = multiply(direction)
        curvature = np.einsum("ij,ij->j", direction, image)
        if (curvature[active] <= 0.0).any():
            break
        step = np.divide(energy, curvature, out=np.zeros_like(energy), where=active)
        X += step * direction
        before, residual = residual, residual - step * image
        solved = precondition(residual)
        change = np.einsum("ij,ij->j", residual - before, solved)
        beta = np.divide(change, energy, out=np.zeros_like(energy), where=active)
        energy = np.einsum("ij,ij->j", residual, solved)
        direction = solved + beta * direction
    return None


def _not_definite(alpha: float, root: np.ndarray) -> np.linalg.LinAlgError:
    spread = float(root.max() / root.min()) ** 2
    weights = ""
    if spread > _SPREAD:
        weights = f" Weights are up to {spread:.1g} times the smallest: limit them."
    return np.linalg.LinAlgError(
        f"The kernel matrix in float32 with alpha={alpha:.4g} on its diagonal is not "
        "positive definite, but for rounding: raise alpha, or set dtype='float64'."
        + weights
    )
