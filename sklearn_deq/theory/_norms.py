"""Functions of a sample's norm, evaluated at many samples."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.polynomial import chebyshev

from sklearn_deq.theory._chebyshev import (
    chebyshev_coefficients,
    chebyshev_nodes,
    last_coefficients,
)

_SIZES = (16, 32, 64)
_TOLERANCE = 1e-14
# Rows treated at once where a quadrature rule per row is held in memory.
_BLOCK = 2048
# Of ranges that are rounded, in the norm coordinate.
_RANGE_GRID = 0.25


def norm_coordinate(norms: np.ndarray) -> np.ndarray:
    """Linear for small norms, logarithmic for large ones: duals are smooth in it."""
    return np.arcsinh(4.0 * norms)


def norm_range(norms: np.ndarray, *, widen: bool = False) -> tuple[float, float]:
    """Range of the norm coordinate to tabulate.

    A point if all norms are equal, unless it should be widened to an interval, for
    derivatives.
    """
    least, most = float(norms.min()), float(norms.max())
    if most - least <= 1e-14 * most and not widen:
        point = float(norm_coordinate(np.array(most)))
        return point, point
    low, high = (float(norm_coordinate(np.array(norm))) for norm in (least, most))
    return rounded_range(low, high)


def rounded_range(low: float, high: float) -> tuple[float, float]:
    """Round a range of the norm coordinate outwards, so that nearby data share it."""
    low = math.floor(low / _RANGE_GRID) * _RANGE_GRID
    return low, max(math.ceil(high / _RANGE_GRID) * _RANGE_GRID, low + _RANGE_GRID)


def norm_nodes(low: float, high: float, size: int) -> np.ndarray:
    """Squared norms at the Chebyshev nodes of a range of the norm coordinate."""
    points = 0.5 * (low + high) + 0.5 * (high - low) * chebyshev_nodes(size)
    return np.maximum((np.sinh(points) / 4.0) ** 2, 1e-200)


def norm_basis(norms: np.ndarray, low: float, high: float, size: int) -> np.ndarray:
    """Chebyshev polynomials of the norm coordinate, shape (len(norms), size)."""
    if high <= low:
        return np.eye(1, size).repeat(norms.size, axis=0)
    t = 2.0 * (norm_coordinate(norms) - low) / (high - low) - 1.0
    return chebyshev.chebvander(np.clip(t, -1.0, 1.0), size - 1)


def norm_basis_derivative(
    norms: np.ndarray, low: float, high: float, size: int
) -> tuple[np.ndarray, np.ndarray]:
    """`norm_basis` on an interval, and its derivative in log r²."""
    basis = norm_basis(norms, low, high, size)
    derivatives = chebyshev.chebder(np.eye(size), axis=0)
    lower = basis[:, : len(derivatives)] @ derivatives
    # d arcsinh(4r)/d log r² = 2r/√(1 + 16 r²).
    speed = 2.0 * norms / np.sqrt(1.0 + 16.0 * norms * norms)
    return basis, lower * (2.0 / (high - low) * speed)[:, None]


def along_norms(
    function: Callable[[np.ndarray], np.ndarray], squares: np.ndarray
) -> np.ndarray:
    """Evaluate k costly functions of a squared norm at n samples, shape (k, n).

    Parameters
    ----------
    function : callable
        Squares (m,) -> values (k, m), smooth in the norm and of one size each.
    squares : ndarray of shape (n,)
        Squared norms, or variances.

    Returns
    -------
    ndarray of shape (k, n)
        The values: where many differ, by Chebyshev interpolation between the smallest
        and the largest, to about 1e-14 of the largest value; direct where that does
        not converge.
    """
    unique, inverse = np.unique(squares, return_inverse=True)
    low, high = (float(norm_coordinate(np.sqrt(unique[k]))) for k in (0, -1))
    for size in _SIZES:
        if unique.size <= 2 * size:
            break
        values = function(norm_nodes(low, high, size)).T
        scale = np.maximum(np.abs(values).max(axis=0), 1e-300)
        # Not finite, as beyond a stable setting: told apart sample by sample below.
        if not np.all(np.isfinite(scale)):
            break
        if last_coefficients(values / scale) <= _TOLERANCE:
            basis = norm_basis(np.sqrt(unique), low, high, size)
            return (basis @ chebyshev_coefficients(values)).T[:, inverse]
    blocks = np.array_split(unique, 1 + unique.size // _BLOCK)
    return np.concatenate([function(block) for block in blocks], axis=1)[:, inverse]
