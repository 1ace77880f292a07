"""A kernel as a tabulated function of two norms and an angle.

The kernels of this package depend on x and x' through r = |x|/√p, r' and the angle θ
between them alone, and smoothly: for kinked activations too, since θ = arccos ρ takes
the square-root singularity at |ρ| = 1. So a kernel is solved once on a small grid and
is evaluated everywhere else as a Chebyshev series. What is tabulated is the correlation
K(x, x')/√(K(x, x) K(x', x')), which makes the error relative to the diagonal.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.polynomial import chebyshev

from sklearn_deq.theory import PairKernel, chebyshev_coefficients, chebyshev_nodes

# Relative size of the coefficients that are left out.
_TOLERANCE = 2e-14
_NORM_SIZES = (4, 8, 16, 32, 64)
_ANGLE_SIZES = (32, 64, 128, 256)
# Norms closer than this count as equal: nothing depends on them any more.
_EQUAL = 1e-13
# Tables are built for ranges rounded outwards to this grid in `_coordinate`, so that
# nearby data share them.
_RANGE_GRID = 0.25


@dataclass(frozen=True)
class KernelTable:
    """Coefficients of the tabulated correlation.

    Attributes
    ----------
    low, high : float
        Range of the norm coordinate.
    basis : ndarray of shape (n_norms, rank)
        Functions of the norm, as Chebyshev coefficients.
    core : ndarray of shape (n_angles, rank, rank)
        Chebyshev coefficients in 2θ/π − 1 for each pair of these functions.
    """

    low: float
    high: float
    basis: np.ndarray
    core: np.ndarray

    def norm_features(self, norms: np.ndarray) -> np.ndarray:
        """Functions of the norms r (n,), shape (n, rank)."""
        width = self.high - self.low
        if width == 0.0:
            return np.broadcast_to(self.basis[:1], (norms.size, self.basis.shape[1]))
        t = 2.0 * (_coordinate(norms) - self.low) / width - 1.0
        order = self.basis.shape[0] - 1
        return chebyshev.chebvander(np.clip(t, -1.0, 1.0), order) @ self.basis


def _coordinate(norms: np.ndarray) -> np.ndarray:
    """Linear for small norms, logarithmic for large ones: kernels are smooth in it."""
    return np.arcsinh(4.0 * norms)


def norm_range(norms: np.ndarray) -> tuple[float, float]:
    """Range of the norm coordinate to tabulate: a point if all norms are equal."""
    least, most = float(norms.min()), float(norms.max())
    if most - least <= _EQUAL * most:
        middle = float(_coordinate(np.array(0.5 * (least + most))))
        return middle, middle
    low = np.floor(_coordinate(np.array(least)) / _RANGE_GRID) * _RANGE_GRID
    high = np.ceil(_coordinate(np.array(most)) / _RANGE_GRID) * _RANGE_GRID
    return float(low), float(high)


def build_table(kernel: PairKernel, low: float, high: float) -> KernelTable:
    """Tabulate a kernel for norms whose coordinate lies in [low, high].

    The sizes are found on coarse grids in the other variables, then the whole grid is
    solved once and compressed to the functions of the norm that it needs.
    """
    n_norms = 1
    if high > low:
        n_norms = _sufficient_size(_NORM_SIZES, lambda a: _grid(kernel, low, high, a, 6))
    few = min(n_norms, 3)
    n_angles = _sufficient_size(
        _ANGLE_SIZES,
        lambda k: np.moveaxis(_grid(kernel, low, high, few, k), 2, 0),
    )
    values = _grid(kernel, low, high, n_norms, n_angles)
    for axis in range(3):
        moved = np.moveaxis(values, axis, 0)
        values = np.moveaxis(chebyshev_coefficients(moved), 0, axis)
    left, singular, _ = np.linalg.svd(values.reshape(n_norms, -1), full_matrices=False)
    basis = left[:, singular > 0.1 * _TOLERANCE * max(singular[0], 1e-300)]
    if not basis.size:
        basis = left[:, :1]
    core = np.einsum("ar,abk,bs->krs", basis, values, basis, optimize=True)
    return KernelTable(low, high, basis, core)


def _sufficient_size(sizes: tuple[int, ...], grid) -> int:  # type: ignore[no-untyped-def]
    """Smallest size whose last coefficients along axis 0 are negligible."""
    for size in sizes:
        c = np.abs(chebyshev_coefficients(grid(size))).reshape(size, -1)
        if c[-2:].max() <= _TOLERANCE * c.max():
            break
    return size


def _grid(
    kernel: PairKernel, low: float, high: float, n_norms: int, n_angles: int
) -> np.ndarray:
    """Correlations on the Chebyshev grid, shape (n_norms, n_norms, n_angles)."""
    middle, half = 0.5 * (low + high), 0.5 * (high - low)
    coordinate = middle + half * (chebyshev_nodes(n_norms) if half else np.zeros(1))
    norms = np.sinh(coordinate) / 4.0
    cosine = np.cos(0.5 * np.pi * (1.0 + chebyshev_nodes(n_angles)))
    s = norms**2
    entries = kernel.entries(
        s[:, None, None],
        s[None, :, None],
        norms[:, None, None] * norms[None, :, None] * cosine,
    )
    root = np.sqrt(kernel.diagonal(s))
    scale = root[:, None, None] * root[None, :, None]
    return np.divide(entries, scale, out=np.zeros_like(entries), where=scale > 0)
