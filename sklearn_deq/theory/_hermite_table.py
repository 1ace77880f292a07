"""Tables of functions of one number, a polynomial per cell, found by a float32's bits.

A cell is all numbers with the same sign, exponent and first bits of the mantissa: cells
are fine near 0, where the functions here have their kinks, the place of a number is a
shift of its bits, and NaN and infinity have cells like any number.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

# Beyond this all functions are lines.
LIMIT = 6.0
# Larger numbers than this power of two are in the last cell of their side; smaller ones
# than 2 to the least octave in the first, which starts at _NOTHING.
_MOST = 3
_NOTHING = 2.0**-30
_BIAS = 127


@dataclass(frozen=True)
class Cells:
    """How the numbers are divided into cells, and what there is in one.

    Attributes
    ----------
    degree : int
        Of the polynomial in each cell, through degree + 1 values at even distances.
    shift : int
        Bits of a float32 below those that tell the cell.
    least : int
        The lowest octave with cells of its own.
    """

    degree: int
    shift: int
    least: int

    @property
    def n_numbers(self) -> int:
        """How many cells all float32 have."""
        return int(2 ** (32 - self.shift))

    @property
    def per_octave(self) -> int:
        """Cells of the numbers from t to 2t."""
        return int(2 ** (23 - self.shift))

    @property
    def per_side(self) -> int:
        """Cells that a table has for the positive numbers, and for the negative."""
        return (_MOST - self.least) * self.per_octave

    def nodes(self) -> np.ndarray:
        """Where a function must be known: ascending, ends of the cells among them."""
        octaves = 2.0 ** np.arange(self.least, _MOST)
        steps = self.per_octave * self.degree
        places = 1.0 + np.arange(steps) / steps
        nodes = np.append(np.multiply.outer(octaves, places), 2.0**_MOST)
        nodes[0] = _NOTHING
        return nodes

    def polynomials(self, values: np.ndarray) -> np.ndarray:
        """Tabulate functions by their values.

        Parameters
        ----------
        values : ndarray of shape (k, 2, n_nodes)
            Of k functions at `nodes`, and at minus these; they may jump at 0.

        Returns
        -------
        ndarray of shape (n_rows, k, degree + 1)
            Coefficients of the powers of t, the positive side first.
        """
        first = np.arange(self.per_side)[:, None] * self.degree
        place = first + np.arange(self.degree + 1)
        nodes = np.concatenate([self.nodes()[place], -self.nodes()[place]])
        wanted = np.concatenate([values[:, 0, place], values[:, 1, place]], axis=1)
        start, width = nodes[:, :1], nodes[:, -1:] - nodes[:, :1]
        local = ((nodes - start) / width)[..., None] ** np.arange(self.degree + 1)
        found = np.linalg.solve(local, np.moveaxis(wanted, 0, -1))
        found[:, 1] = np.where(
            np.abs(start) >= LIMIT, wanted[..., -1].T - wanted[..., 0].T, found[:, 1]
        )
        found[:, 2:] *= (np.abs(start) < LIMIT)[..., None]
        # From powers of the place in the cell to those of t.
        coefficients = np.zeros_like(found)
        for j in range(self.degree + 1):
            for i in range(j + 1):
                shifted = math.comb(j, i) * (-start) ** (j - i) / width**j
                coefficients[:, i] += shifted * found[:, j]
        return np.swapaxes(coefficients, 1, 2)

    def numbers(self, t: np.ndarray) -> np.ndarray:
        """Numbers of the cells of t, below `n_numbers`."""
        with np.errstate(over="ignore"):
            bits = np.asarray(t, dtype=np.float32).view(np.int32)
        return (bits >> self.shift) + self.n_numbers // 2

    def rows(self, numbers: np.ndarray) -> np.ndarray:
        """Rows of a table of the cells with these numbers."""
        size = numbers % (self.n_numbers // 2) - (_BIAS + self.least) * self.per_octave
        size = np.clip(size, 0, self.per_side - 1)
        return np.where(numbers < self.n_numbers // 2, size + self.per_side, size)


LINES = Cells(degree=1, shift=13, least=-20)
"""1,024 lines in an octave: the least work for one function."""
CUBICS = Cells(degree=3, shift=18, least=-15)
"""32 cubics in an octave: small tables, which can be made for every sample."""
