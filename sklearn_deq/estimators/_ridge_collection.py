"""The kernels that the kernel ridge estimators try, and on which samples."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np

from sklearn_deq.linear import apply_scaling

# Parameters of a candidate that may have several values, slowest first, with those they
# have where some are given. All but the last are the kernel's own.
GRID: dict[str, tuple[Any, ...]] = {
    "kernel": ("ck",),
    "activation": ("relu",),
    "recurrent_variance": (0.1, 0.4, 0.8),
    "input_variance": (0.8,),
    "bias_variance": (0.0,),
    "center": (True,),
    "normalize": (False,),
    "scale": (None,),
}
KERNEL_PARAMETERS = tuple(name for name in GRID if name != "scale")

# Where none is given: a nearly shallow and a deep one, and two of bounded activations,
# which are local: with a sine it is close to a Gaussian kernel.
_KERNELS = (
    {"kernel": "ck", "activation": "relu", "recurrent_variance": 0.1},
    {"kernel": "ntk", "activation": "relu", "recurrent_variance": 0.4},
    {"kernel": "ck", "activation": "erf", "input_variance": 4.0},
    {"kernel": "ck", "activation": "sin", "input_variance": 1.0},
)
_REST = {name: values[0] for name, values in GRID.items()} | {"recurrent_variance": 0.2}
COLLECTION: tuple[dict[str, Any], ...] = tuple(
    {name: (_REST | kernel | {"scale": scale})[name] for name in GRID}
    for scale, kernel in (
        *product(("arcsinh", "rank"), _KERNELS),
        # With the many more columns of indicators bounded activations have no use.
        *product(("levels",), _KERNELS[:2]),
    )
)
# Samples on which the collection is searched; the choice of few kernels and a penalty
# needs no more, and eigendecompositions of thousands take minutes.
COLLECTION_SAMPLES = 2000


def grid_candidates(choices: dict[str, list[Any]]) -> list[dict[str, Any]]:
    """All combinations of the choices, or the collection if there are none.

    Parameters
    ----------
    choices : dict of str and list
        Values of the parameters that are given.

    Returns
    -------
    list of dict
        One value of every parameter, in the order of the grid.
    """
    if not choices:
        return [dict(candidate) for candidate in COLLECTION]
    values = [choices.get(name, default) for name, default in GRID.items()]
    return [dict(zip(GRID, each, strict=True)) for each in product(*values)]


def applicable(
    candidates: list[dict[str, Any]], scaling: dict[str, Any] | None
) -> list[dict[str, Any]]:
    """Candidates of the collection but those on levels where a scaling found none."""
    if scaling and scaling["levels"]:
        return candidates
    return [each for each in candidates if each["scale"] != "levels"]


def class_sizes(counts: np.ndarray, size: int, least: int = 2) -> np.ndarray:
    """Rows of each class in a sample: a few if it has them, the rest in proportion.

    Parameters
    ----------
    counts : ndarray of int of shape (n_classes,)
        Rows of each class.
    size : int
        Number of rows of the sample, at most their sum.
    least : int, default=2
        Rows of each class that has as many.

    Returns
    -------
    ndarray of int of shape (n_classes,)
        Their sum is ``size``, or more where that is less than what they have at least.
    """
    sizes = np.minimum(counts, least)
    rest, others = size - sizes.sum(), counts - sizes
    if rest <= 0:
        return sizes
    shares, remainders = np.divmod(others * rest, others.sum())
    largest = np.argsort(-remainders, kind="stable")[: rest - shares.sum()]
    shares[largest] += 1
    total: np.ndarray = sizes + shares
    return total


def random_rows(codes: np.ndarray, size: int, seed: int, least: int = 2) -> np.ndarray:
    """Rows at random, of every class.

    Parameters
    ----------
    codes : ndarray of int of shape (n,)
        Class of each row; those of -1 are not chosen.
    size : int
        Number of rows.
    seed : int
        Of the random numbers.
    least : int, default=2
        As in `class_sizes`.

    Returns
    -------
    ndarray of int
        Increasing indices.
    """
    counts = np.bincount(codes[codes >= 0])
    sizes = class_sizes(counts, min(size, counts.sum()), least)
    generator = np.random.default_rng(seed)
    chosen = [
        np.flatnonzero(codes == code)[generator.choice(count, few, replace=False)]
        for code, (count, few) in enumerate(zip(counts, sizes, strict=True))
    ]
    return np.sort(np.concatenate(chosen))


def spread_rows(y: np.ndarray, size: int, *, classes: bool = False) -> np.ndarray:
    """Rows whose targets are spread as all are, whatever the order of the rows.

    Parameters
    ----------
    y : ndarray of shape (n,) or (n, n_targets)
        Targets.
    size : int
        Number of rows, at most n.
    classes : bool, default=False
        Whether they are labels, each of which is to be there: random rows of each.
        Numbers are evenly spaced among the sorted, rows of several at random.

    Returns
    -------
    ndarray of shape (size,)
        Increasing indices.
    """
    if classes:
        return random_rows(np.unique(y, return_inverse=True)[1], size, 0)
    n = len(y)
    # Rows may come in some order: of equal targets none is preferred for it.
    order = np.random.default_rng(0).permutation(n)
    if y.ndim == 1:
        order = order[np.argsort(y[order], kind="stable")]
    chosen: np.ndarray = np.sort(order[(2 * np.arange(size) + 1) * n // (2 * size)])
    return chosen


def of_kernel(params: dict[str, Any]) -> dict[str, Any]:
    """Parameters of the kernel among those of a candidate."""
    return {name: params[name] for name in KERNEL_PARAMETERS}


def named(params: dict[str, Any]) -> dict[str, Any]:
    """Parameters without a scaling, where there is none."""
    return {k: v for k, v in params.items() if k != "scale" or v is not None}


def scaled(scaling: dict[str, Any] | None, X: np.ndarray) -> np.ndarray:
    """Features as a scaling, if there is one, makes them."""
    return X if scaling is None else apply_scaling(scaling, X)


def objects(values: list[Any]) -> np.ma.MaskedArray:
    """Return them as scikit-learn's searches do: a masked array of objects."""
    array = np.ma.masked_all(len(values), dtype=object)
    for i, value in enumerate(values):
        array[i] = value
    return array
