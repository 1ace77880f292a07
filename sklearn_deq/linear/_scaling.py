"""Scaling of features, column by column, for kernels of inner products."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.special import ndtri

SCALINGS = ("standard", "arcsinh", "rank", "levels")

# A column that varies by less than this of its size is rounding of a constant.
_ROUNDING = 16.0
# A column has levels if it has so many different values, each as often on average; and
# so many indicators are made at most, of the columns with the fewest levels first.
_FEWEST_LEVELS, _MOST_LEVELS = 3, 20
_LEAST_OFTEN = 5
_MOST_INDICATORS = 1000
_SEEN_FIRST = 1000


def fit_scaling(
    X: np.ndarray, method: str, sample_weight: np.ndarray | None = None
) -> dict[str, Any]:
    """Measure the columns of training samples.

    Parameters
    ----------
    X : ndarray of shape (n, p)
        Training samples.
    method : {"standard", "arcsinh", "rank", "levels"}
        "standard" makes means 0 and variances 1. "arcsinh" does so, then takes the
        inverse hyperbolic sine, which pulls outliers in, and standardises again.
        "rank" replaces values by the normal quantiles of their ranks, interpolated
        between the training values, and standardises those. "levels" is "arcsinh" and
        indicators, for each column of 3 to 20 different values: centred, and with a
        total variance of 1.
    sample_weight : ndarray of shape (n,), default=None
        Positive weights of the samples; None: ones.

    Returns
    -------
    dict of str and arrays
        What `apply_scaling` needs.

    See Also
    --------
    apply_scaling : Scale other samples alike.

    Notes
    -----
    Columns that are constant are dropped, as they would weaken the others in inner
    products divided by the number of columns; if all are, one remains. Equal values
    share the middle of their ranks. A weight k counts as k copies.

    Columns have levels if these occur five times on average; there are 1,000 indicators
    at most, of the columns with the fewest levels. A value that was not seen has none;
    0.1 in float32 and in float64 are one value. Indicators and numbers are multiplied
    by one factor that makes the mean square 1.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_deq.linear import apply_scaling, fit_scaling
    >>> X = np.array([[1.0, 5.0], [2.0, 5.0], [3.0, 5.0]])
    >>> apply_scaling(fit_scaling(X, "standard"), X).ravel().round(3)
    array([-1.225,  0.   ,  1.225])
    """
    values = X.astype(np.float64)
    noise = _ROUNDING * np.finfo(X.dtype).eps * np.abs(values).max(axis=0)
    columns = np.flatnonzero(np.ptp(values, axis=0) > noise)
    if not len(columns):
        columns = np.zeros(1, dtype=int)
    values = values[:, columns]
    scaling: dict[str, Any] = {"method": method, "columns": columns}
    if method in ("arcsinh", "levels"):
        scaling["center"], scaling["spread"] = _standard(values, sample_weight)
    if method == "rank":
        tables = [_normal_scores(column, sample_weight) for column in values.T]
        scaling["knots"], scaling["scores"] = map(list, zip(*tables, strict=True))
    if method == "levels":
        scaling["levels"] = _levels(values, X.dtype, sample_weight)
    scaling["mean"], scaling["deviation"] = _standard(
        _transform(scaling, values), sample_weight
    )
    return scaling


def apply_scaling(scaling: dict[str, Any], X: np.ndarray) -> np.ndarray:
    """Scale samples by what `fit_scaling` has measured.

    Parameters
    ----------
    scaling : dict
        From `fit_scaling`.
    X : ndarray of shape (n, p)
        Samples.

    Returns
    -------
    ndarray of shape (n, n_varying) or, with levels, (n, n_varying + n_indicators)
        Scaled columns, of the dtype of X; those that were constant are dropped.

    See Also
    --------
    fit_scaling : Measure training samples.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_deq.linear import apply_scaling, fit_scaling
    >>> scaling = fit_scaling(np.array([[1.0], [2.0], [900.0]]), "rank")
    >>> apply_scaling(scaling, np.array([[1.0], [2.0], [1e9]])).ravel().round(3)
    array([-1.225,  0.   ,  1.225])
    """
    columns = X[:, scaling["columns"]]
    values = columns.astype(np.float64)
    scaled: np.ndarray = _transform(scaling, values)
    scaled = (scaled - scaling["mean"]) / scaling["deviation"]
    if scaling.get("levels"):
        scaled = _with_indicators(scaled, columns, scaling["levels"])
    return scaled.astype(X.dtype, copy=False)


def _transform(scaling: dict[str, Any], values: np.ndarray) -> np.ndarray:
    """Transform the columns before they are standardised at last."""
    if scaling["method"] in ("arcsinh", "levels"):
        standard: np.ndarray = np.arcsinh(
            (values - scaling["center"]) / scaling["spread"]
        )
        return standard
    if scaling["method"] == "rank":
        pairs = zip(values.T, scaling["knots"], scaling["scores"], strict=True)
        return np.column_stack([np.interp(v, knots, z) for v, knots, z in pairs])
    return values


def _levels(
    values: np.ndarray, dtype: np.dtype, sample_weight: np.ndarray | None
) -> list[dict[str, Any]]:
    """Columns of few values, these in X's dtype, and their shares; the fewest first."""
    weight = np.ones(len(values)) if sample_weight is None else sample_weight
    most = min(_MOST_LEVELS, weight.sum() / _LEAST_OFTEN)
    found = []
    for j, column in enumerate(values.T):
        # Not all values of a long column are sorted to see that they are many.
        if len(np.unique(column[:_SEEN_FIRST])) > most:
            continue
        knots, which = np.unique(column, return_inverse=True)
        if _FEWEST_LEVELS <= len(knots) <= most:
            share = np.bincount(which, weights=weight) / weight.sum()
            found.append({"column": j, "values": knots.astype(dtype), "share": share})
    found.sort(key=lambda level: len(level["values"]))
    total = np.cumsum([len(level["values"]) for level in found])
    return found[: int((total <= _MOST_INDICATORS).sum())]


def _with_indicators(
    scaled: np.ndarray, columns: np.ndarray, levels: list[dict[str, Any]]
) -> np.ndarray:
    """Numbers, and centred indicators of the levels."""
    parts = [scaled]
    for level in levels:
        share, knots = level["share"], level["values"]
        # 0.1 in float32 is 0.1 in float64 in the coarser of both alone.
        dtype = min(columns.dtype, knots.dtype, key=lambda each: each.itemsize)
        with np.errstate(over="ignore"):
            values = columns[:, level["column"], None].astype(dtype)
        hits = values == knots.astype(dtype)
        parts.append((hits - share) / np.sqrt(np.sum(share * (1.0 - share))))
    joined = np.hstack(parts)
    # Each column of numbers, and the indicators of each of levels, have variance 1.
    joined *= np.sqrt(joined.shape[1] / (scaled.shape[1] + len(levels)))
    return joined


def _standard(
    values: np.ndarray, sample_weight: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Means and standard deviations of columns; one where a column is constant."""
    mean = np.average(values, axis=0, weights=sample_weight)
    centred = values - mean
    # Squares of the largest numbers would overflow.
    peak = np.abs(centred).max(axis=0)
    peak[peak == 0.0] = 1.0
    variance = np.average((centred / peak) ** 2, axis=0, weights=sample_weight)
    deviation = peak * np.sqrt(variance)
    deviation[deviation == 0.0] = 1.0
    return mean, deviation


def _normal_scores(
    column: np.ndarray, sample_weight: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Values that occur, and the normal quantiles of their mean ranks."""
    knots, which = np.unique(column, return_inverse=True)
    share = np.bincount(which, weights=sample_weight)
    share = share / share.sum()
    return knots, ndtri(np.cumsum(share) - 0.5 * share)
