"""Blocks of rows of a Gram matrix."""

from __future__ import annotations

from collections.abc import Iterator

# Bytes of a temporary, a few rows of a Gram matrix: it stays in the cache.
_BLOCK_BYTES = 2**20


def row_blocks(n: int) -> Iterator[slice]:
    """Rows of a Gram matrix of n rows that fill a temporary of float64.

    Parameters
    ----------
    n : int
        Number of rows and of columns.

    Yields
    ------
    slice
        Rows, one block after the other.
    """
    step = max(1, _BLOCK_BYTES // (8 * n))
    for start in range(0, n, step):
        yield slice(start, min(start + step, n))
