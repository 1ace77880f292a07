"""Tables of functions of one number, a line per cell, found by the bits of a float32.

A cell is all numbers with the same sign, exponent and first ten bits of the mantissa:
cells are fine near 0, where the functions here have their kinks, the place of a number
is a shift of its bits, and NaN and infinity have cells like any number.
"""

from __future__ import annotations

import numpy as np

# Bits of a float32 below those that tell the cell, and the cells of all float32.
SHIFT = 13
N_CELLS = 2 ** (32 - SHIFT)
_PER_OCTAVE = 2 ** (23 - SHIFT)
_BIAS = 127
# Octaves with cells of their own: smaller numbers are in the first cell of their side,
# which starts at _NOTHING, larger ones in the last.
_LEAST, _MOST = -20, 3
_NOTHING = 2.0**-30
_PER_SIDE = (_MOST - _LEAST) * _PER_OCTAVE


def cell_edges() -> np.ndarray:
    """Ends of the cells of the positive side, ascending."""
    octaves = 2.0 ** np.arange(_LEAST, _MOST)
    places = 1.0 + np.arange(_PER_OCTAVE) / _PER_OCTAVE
    edges = np.append(np.multiply.outer(octaves, places), 2.0**_MOST)
    edges[0] = _NOTHING
    return edges


def line_table(values: np.ndarray) -> np.ndarray:
    """Tabulate functions by their values at the edges of the cells.

    Parameters
    ----------
    values : ndarray of shape (k, 2, n_edges)
        Of k functions at `cell_edges`, and at minus these; they may jump at 0.

    Returns
    -------
    ndarray of shape (n_rows, k, 2)
        Intercept and slope of the line through the values at both ends of each cell,
        the positive side first.
    """
    edges = np.multiply.outer([1.0, -1.0], cell_edges())
    slopes = np.diff(values) / np.diff(edges)
    intercepts = values[..., :-1] - slopes * edges[:, :-1]
    lines = np.stack([intercepts, slopes], axis=-1)
    return np.concatenate([lines[:, 0], lines[:, 1]], axis=1).swapaxes(0, 1)


def table_rows(cells: np.ndarray) -> np.ndarray:
    """Rows of a `line_table` of cells by number, as `cells_of` gives them."""
    size = cells % (N_CELLS // 2)
    size = np.clip(size - (_BIAS + _LEAST) * _PER_OCTAVE, 0, _PER_SIDE - 1)
    return np.where(cells < N_CELLS // 2, size + _PER_SIDE, size)


def cells_of(t: np.ndarray) -> np.ndarray:
    """Numbers of the cells of t, below `N_CELLS`."""
    with np.errstate(over="ignore"):
        bits = np.asarray(t, dtype=np.float32).view(np.int32)
    return (bits >> SHIFT) + N_CELLS // 2
