"""Rows of large arrays in blocks: the one place that reads and checks them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
from scipy.sparse import issparse
from sklearn.utils import check_array, check_consistent_length
from sklearn.utils.validation import validate_data
from tqdm import tqdm

from sklearn_deq._compat import check_sample_weight
from sklearn_deq.estimators._dask import DaskRows, is_dask

# Rows that are read at once.
BLOCK_ROWS = 2048


class Block(NamedTuple):
    """Some rows: samples as they are computed with, targets and weights, if any."""

    X: np.ndarray
    y: Any
    weight: np.ndarray | None


def is_large(X: Any) -> bool:
    """Whether X may be larger than memory: it is mapped from a file, or of dask."""
    return isinstance(X, np.memmap) or is_dask(X)


def check_columns(estimator: Any, X: Any, *, reset: bool) -> None:
    """Validate what can be known of large X without reading it.

    Parameters
    ----------
    estimator : estimator
        Its ``n_features_in_`` is set, or compared with.
    X : memmap or dask array
        Rows.
    reset : bool
        Whether it is set.
    """
    if X.dtype.kind not in "fiub":
        raise ValueError(f"X must have real numbers, got dtype {X.dtype}.")
    # For an array of one row, or none, the messages are scikit-learn's. What is not
    # known of a dask array is NaN.
    shape = (min(X.shape[0], 1), X.shape[1]) if X.ndim == 2 else (1,) * X.ndim
    shape = tuple(1 if math.isnan(n) else n for n in shape)
    validate_data(estimator, np.zeros(shape, np.float32), reset=reset)


class Rows:
    """Rows of an array in memory or in a file, in blocks.

    Parameters
    ----------
    X : ndarray of shape (n, p)
        Samples; blocks are checked for numbers that are not finite.
    prepare : callable
        What is done with a block of X before it is computed with.
    y, weight : ndarray with n rows, default=None
        Targets and weights.
    """

    def __init__(
        self,
        X: np.ndarray,
        prepare: Callable[[np.ndarray], np.ndarray],
        y: np.ndarray | None = None,
        weight: np.ndarray | None = None,
    ) -> None:
        self._X, self._prepare, self._y, self._weight = X, prepare, y, weight

    def __len__(self) -> int:
        """Return n."""
        return len(self._X)

    def take(self, rows: Any) -> Block:
        """Read some rows, by slice or increasing indices.

        Parameters
        ----------
        rows : slice or ndarray of int
            Which.

        Returns
        -------
        Block
            Copies or views of them.
        """
        try:
            X = check_array(self._X[rows], dtype=[np.float64, np.float32])
        except ValueError as error:
            part = isinstance(rows, slice) and rows.stop - rows.start < len(self)
            where = f" (rows {rows.start} to {rows.stop})" if part else ""
            raise ValueError(f"{error}{where}") from error
        y, weight = (v if v is None else v[rows] for v in (self._y, self._weight))
        return Block(self._prepare(X), y, weight)

    def blocks(
        self, start: int = 0, step: int = BLOCK_ROWS
    ) -> Iterator[tuple[slice, Block]]:
        """Read all rows, one block after the other.

        Parameters
        ----------
        start : int, default=0
            The first row.
        step : int
            Rows of a block.

        Yields
        ------
        rows : slice
            Where they are.
        block : Block
            The rows.
        """
        for first in range(start, len(self), step):
            rows = slice(first, min(first + step, len(self)))
            yield rows, self.take(rows)

    def of_targets(self, work: Callable[..., Any]) -> list[Any]:
        """Return what ``work(y, weight)`` makes of the targets, part by part."""
        return [work(self._y, self._weight)]

    def weights(self) -> np.ndarray | None:
        """Return the weights of all rows; None: ones."""
        return self._weight

    def total(
        self,
        work: Callable[[Block], Any],
        *,
        verbose: int = 0,
        checkpoint: Any = None,
    ) -> Any:
        """Sum what a work makes of the blocks.

        Parameters
        ----------
        work : callable
            Block → what can be added.
        verbose : int, default=0
            Whether a progress bar is shown.
        checkpoint : Checkpoint, default=None
            Where the sum so far is kept.

        Returns
        -------
        object
            The sum over all rows.
        """
        if checkpoint is not None:
            return self._kept_total(work, verbose, checkpoint)
        total = None
        with self._bar(verbose) as bar:
            for rows, block in self.blocks():
                part = work(block)
                total = part if total is None else total + part
                bar.update(rows.stop - rows.start)
        return total

    def _kept_total(
        self, work: Callable[[Block], Any], verbose: int, checkpoint: Any
    ) -> Any:
        """Sum that goes on from a file, and is kept there."""
        state = self._resumed(checkpoint.load())
        with self._bar(verbose, state.done) as bar:
            try:
                for rows, block in self.blocks(state.done):
                    part = work(block)
                    total = part if state.sums is None else state.sums + part
                    # All at once: an interrupt comes before or after it.
                    state = state.after(rows.stop, block.X, total)
                    bar.update(rows.stop - rows.start)
                    checkpoint.save_now_and_then(state)
            except BaseException as error:
                checkpoint.save_at_last(state, error)
                raise
        return state.sums

    def _resumed(self, kept: Any) -> Any:
        """Progress of a file, if it is of these rows, which are read; else none."""
        state = begin = type(kept)()
        for rows, block in islice(self.blocks(), -(-kept.done // BLOCK_ROWS)):
            state = state.after(rows.stop, block.X, None)
        same = (state.done, state.digest) == (kept.done, kept.digest)
        return kept if same else begin

    def _bar(self, verbose: int, done: int = 0) -> tqdm:
        return tqdm(total=len(self), initial=done, unit=" rows", disable=not verbose)


def rows_of(
    estimator: Any,
    X: Any,
    prepare: Callable[[np.ndarray], np.ndarray],
    y: Any = None,
    weight: Any = None,
    *,
    reset: bool,
    **y_checks: Any,
) -> Rows | DaskRows:
    """Rows of whatever an estimator is given.

    Parameters
    ----------
    estimator : estimator
        As in `check_columns`.
    X : array-like, memmap or dask array of shape (n, p)
        Samples: what is not large is validated at once.
    prepare : callable
        As in `Rows`.
    y, weight : array-like with n rows, default=None
        Targets and weights; of dask if X is, else arrays.
    reset : bool
        As in `check_columns`.
    **y_checks : dict
        Options of `sklearn.utils.validation.validate_data` for y, if there must be one.

    Returns
    -------
    Rows or DaskRows
        The rows.
    """
    if is_large(X):
        check_columns(estimator, X, reset=reset)
        if y_checks and X.shape[0] < 2:
            raise ValueError(f"X has {X.shape[0]} row, but two are needed to fit to.")
    if is_dask(X):
        if y_checks and y is None:
            validate_data(estimator, y=y, reset=False)  # says that it is required
        columns = y_checks.get("multi_output", True)
        return DaskRows(X, prepare, y, weight, multi_output=columns)
    if not y_checks:
        if not is_large(X):
            X = validate_data(estimator, X, reset=reset, dtype=[np.float64, np.float32])
        return Rows(X, prepare)
    if is_large(X):
        y = validate_data(estimator, y=y, reset=False, **y_checks)
        check_consistent_length(X, y)
    else:
        X, y = validate_data(
            estimator,
            X,
            y,
            reset=reset,
            dtype=[np.float64, np.float32],
            ensure_min_samples=2,
            **y_checks,
        )
    if issparse(y):
        raise ValueError("y is a sparse matrix: give y.toarray().")
    if weight is not None:
        weight = check_sample_weight(weight, X, dtype=np.float64)
        if weight.min() < 0:
            raise ValueError("sample_weight must not be negative.")
    return Rows(X, prepare, y, weight)
