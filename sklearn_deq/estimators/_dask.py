"""Rows of dask arrays: blocks go to the workers, sums come back.

dask is imported by none of the functions that other arrays come through.
"""

from __future__ import annotations

import math
import sys
import threading
from collections.abc import Callable
from itertools import islice, repeat
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.utils import column_or_1d

from sklearn_deq.estimators._cluster import compute

if TYPE_CHECKING:
    from sklearn_deq.estimators._blocks import Block

# Filters of warnings and the number of torch's threads belong to the process: its
# threads take turns, each with all threads of BLAS and torch.
_TURN = threading.Lock()


def is_dask(X: Any) -> bool:
    """Whether X is a dask array: then it has been imported."""
    module = sys.modules.get("dask.array")
    return module is not None and isinstance(X, module.Array)


class DaskRows:
    """Rows of dask arrays, as `Rows` are of arrays on one machine.

    Parameters
    ----------
    X : dask array of shape (n, p)
        Samples, in chunks of whole rows.
    prepare : callable
        What is done with a block of X before it is computed with.
    y, weight : dask arrays or array-likes with n rows, default=None
        Targets and weights; dask arrays have the chunks of X.
    multi_output : bool, default=True
        Whether y may have columns.
    """

    def __init__(
        self,
        X: Any,
        prepare: Callable[[np.ndarray], np.ndarray],
        y: Any = None,
        weight: Any = None,
        *,
        multi_output: bool = True,
    ) -> None:
        _check_chunks(X)
        _check_sizes("X", X)
        self._X, self._prepare = X, prepare
        self._y, self._weight = (
            _aligned(name, values, X)
            for name, values in (("y", y), ("sample_weight", weight))
        )
        if self._y is not None and self._y.ndim == 2 and not multi_output:
            self._y = _one_column(self._y)

    def __len__(self) -> int:
        """Return n."""
        return int(self._X.shape[0])

    def take(self, rows: Any) -> Block:
        """Gather some rows, by slice or increasing indices."""
        arrays = [
            array if array is None else array[rows]
            for array in (self._X, self._y, self._weight)
        ]
        blocks = [[] if array is None else _blocks(array) for array in arrays]
        computed = iter(compute([block for each in blocks for block in each]))
        gathered: list[Any] = []
        for each in blocks:
            parts = [_dense(block) for block in islice(computed, len(each))]
            gathered.append(np.concatenate(parts) if parts else None)
        X, y, weight = gathered
        return _rows(X, self._prepare, y, weight).take(slice(0, len(X)))

    def of_targets(self, work: Callable[..., Any]) -> list[Any]:
        """Return what ``work(y, weight)`` makes of the targets, block by block."""
        import dask

        blocks = zip(_blocks(self._y), _blocks(self._weight), strict=False)
        # Sent once, not with every block.
        shared = dask.delayed(work, traverse=False)
        parts = [dask.delayed(_of_targets)(shared, *block) for block in blocks]
        return list(compute(parts))

    def weights(self) -> np.ndarray | None:
        """Return the weights of all rows, without targets; None: ones."""
        if self._weight is None:
            return None
        return _checked(None, np.concatenate(compute(_blocks(self._weight))))[1]

    def total(
        self, work: Callable[[Block], Any], *, verbose: int = 0, **options: Any
    ) -> Any:
        """Sum what a work makes of the blocks, in a tree.

        Parameters
        ----------
        work : callable
            Block → what can be added.
        verbose : int, default=0
            Whether a progress bar over the chunks is shown.
        **options : dict
            Of `Rows.total`, not used: dask repeats what a lost worker has not finished.

        Returns
        -------
        object
            The sum over all rows.
        """
        import dask

        # Sent once, not with every block.
        shared = dask.delayed((work, self._prepare), traverse=False)
        block_total, add = dask.delayed(_block_total), dask.delayed(_add)
        blocks = zip(*map(_blocks, (self._X, self._y, self._weight)), strict=False)
        leaves = parts = [block_total(shared, *block) for block in blocks]
        while len(parts) > 1:
            pairs = [parts[i : i + 2] for i in range(0, len(parts), 2)]
            parts = [add(*pair) if len(pair) == 2 else pair[0] for pair in pairs]
        return compute(parts, leaves, verbose=verbose)[0]


def lazy_rows(
    model: Any, method: str, X: Any, n_columns: int | None, dtype: Any
) -> Any:
    """Apply a fitted estimator to every block of rows, when it is asked for.

    Parameters
    ----------
    model : estimator
        The estimator.
    method : str
        Its method.
    X : dask array of shape (n, p)
        Samples, in chunks of whole rows; their sizes may be unknown.
    n_columns : int or None
        Columns of the result; None: it has one dimension.
    dtype : dtype
        Its dtype.

    Returns
    -------
    dask array
        The result, in the chunks of X.
    """
    import dask
    import dask.array

    _check_chunks(X)
    empty = np.empty((0,) if n_columns is None else (0, n_columns), dtype)
    chunks = X.chunks[:1] if n_columns is None else (X.chunks[0], (n_columns,))
    # As an argument that is delayed the estimator is sent once, not with every block.
    return dask.array.map_blocks(
        _apply,
        X,
        model=dask.delayed(model, traverse=False),
        method=method,
        empty=empty,
        dtype=empty.dtype,
        chunks=chunks,
        drop_axis=[1] if n_columns is None else None,
        meta=empty,
    )


def _apply(X: np.ndarray, model: Any, method: str, empty: np.ndarray) -> np.ndarray:
    if not len(X):
        return empty
    with _TURN:
        result: np.ndarray = getattr(model, method)(X)
    return result


def _check_chunks(X: Any) -> None:
    """Refuse rows that are spread over several blocks."""
    if X.numblocks[1] > 1:
        raise ValueError(
            f"X has {X.numblocks[1]} chunks of columns, but a block must have whole "
            "rows: give X.rechunk({1: -1})."
        )


def _check_sizes(name: str, array: Any) -> None:
    """Refuse rows of which it is not known how many there are."""
    if math.isnan(array.shape[0]):
        raise ValueError(
            f"{name} has chunks of unknown size: call {name}.compute_chunk_sizes() "
            "first."
        )


def _one_column(y: Any) -> Any:
    """Column vector y as what it was meant to be, with scikit-learn's warning."""
    # Of several columns it is an error; the shape suffices for that.
    column_or_1d(np.broadcast_to(np.int8(0), y.shape), warn=True)
    return y[:, 0]


def _aligned(name: str, values: Any, X: Any) -> Any:
    """Targets or weights in the chunks of X."""
    if values is None:
        return None
    given = is_dask(values)
    values = values if given else np.asarray(values)
    if values.dtype.kind == "c":
        raise ValueError(f"{name} must have real numbers, got dtype {values.dtype}.")
    if not given:
        import dask.array

        if values.ndim == 0:
            values = np.full(X.shape[0], float(values))
        if len(values) == len(X):
            chunks = (X.chunks[0], *((n,) for n in values.shape[1:]))
            return dask.array.from_array(values, chunks=chunks)
    elif values.ndim:
        _check_sizes(name, values)
    if values.ndim not in (1, 2) or values.shape[0] != X.shape[0]:
        raise ValueError(
            f"{name} must have the {X.shape[0]} rows of X, got shape {values.shape}."
        )
    if values.chunks[0] != X.chunks[0] or max(values.numblocks[1:], default=1) > 1:
        axes = "{0: X.chunks[0], 1: -1}" if values.ndim == 2 else "{0: X.chunks[0]}"
        raise ValueError(
            f"{name} must have X's chunks of rows: give {name}.rechunk({axes})."
        )
    return values


def _blocks(array: Any) -> Any:
    """Delayed blocks of rows; None as often as one likes where there are none."""
    if array is None:
        return repeat(None)
    # Optimised graphs give tasks with the same name other contents, by what else is
    # asked for; schedulers mix up those of several computations at a time.
    return array.to_delayed(optimize_graph=False).ravel().tolist()


def _checked(y: Any, weight: Any) -> tuple[Any, Any]:
    """Targets and weights of a block, checked as others are."""
    if y is not None and y.dtype.kind == "f" and not np.isfinite(y).all():
        raise ValueError("Input y contains NaN or infinity.")
    if y is not None and y.dtype == object and any(v is None for v in y.flat):
        raise ValueError("Input y contains None: give every sample a target.")
    if weight is not None:
        weight = weight.astype(np.float64, copy=False)
        if not (np.isfinite(weight) & (weight >= 0)).all():
            raise ValueError("sample_weight must be finite and not negative.")
    return y, weight


def _of_targets(work: Any, y: Any, weight: Any) -> Any:
    return work(*_checked(y, weight))


def _rows(X: Any, prepare: Any, y: Any, weight: Any) -> Any:
    """Rows of a block."""
    from sklearn_deq.estimators._blocks import Rows

    return Rows(_dense(X), prepare, *_checked(y, weight))


def _dense(block: Any) -> np.ndarray:
    if hasattr(block, "toarray"):
        raise ValueError(
            f"X has sparse blocks ({type(block).__name__}), but they must be dense: "
            "give X.map_blocks(lambda block: block.toarray())."
        )
    return np.asarray(block)


def _block_total(shared: Any, X: Any, y: Any, weight: Any) -> Any:
    """Sum over one block of the dask arrays, which has many of ours; None if empty."""
    work, prepare = shared
    with _TURN:
        return _rows(X, prepare, y, weight).total(work)


def _add(first: Any, second: Any) -> Any:
    if first is None or second is None:
        return second if first is None else first
    return first + second
