"""The exact infinite-width kernels of explicit networks (docs/theory.md, section 4)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sklearn_deq.kernels._gram import gram
from sklearn_deq.kernels._samples import (
    Samples,
    check_range,
    check_samples,
    output_dtype,
)
from sklearn_deq.theory import ExplicitLayer, explicit_pair_kernel


def explicit_kernel(
    X: np.ndarray,
    Y: np.ndarray | None = None,
    *,
    layers: Sequence[ExplicitLayer],
    kernel: str = "ck",
    normalize: bool = False,
    device: str = "cpu",
    dtype: str | np.dtype | None = None,
    max_memory: float | None = None,
    multipliers: Sequence[float] | None = None,
) -> np.ndarray:
    """Exact kernel of an infinitely wide explicit network between rows of X and Y.

    Parameters
    ----------
    X : array-like of shape (n_X, p)
        Samples.
    Y : array-like of shape (n_Y, p), default=None
        Other samples; None: X itself, using symmetry.
    layers : sequence of ExplicitLayer
        The hidden layers, such as ``solve_match(moments).layers``.
    kernel : {"ck", "ntk", "ntk_recurrent"}, default="ck"
        "ck" is the kernel of the last hidden layer's features; the others are the
        neural tangent kernel with every layer trained.
    normalize : bool, default=False
        Whether rows are projected on the sphere of radius √p.
    device : str, default="cpu"
        Torch device of the blocks, or "auto".
    dtype : {"float32", "float64"} or None, default=None
        Of the result; None: that of X.
    max_memory : float or None, default=None
        Budget for the result in bytes; None: half of the memory of the
        machine or its container.
    multipliers : sequence of float, default=None
        Learning-rate multipliers of the hidden layers and the readout, for the tangent
        kernel, such as ``MatchResult.multipliers``; None: all 1.

    Returns
    -------
    ndarray of shape (n_X, n_Y)
        The kernel matrix.

    Raises
    ------
    ValueError
        For bad input, no layers, or multipliers that are not as many as the layers and
        the readout, or negative.
    MemoryError
        If the result is over the budget.

    See Also
    --------
    deq_kernel : Kernel of the DEQ.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_deq.kernels import explicit_kernel
    >>> from sklearn_deq.theory import equilibrium_moments, solve_match
    >>> match = solve_match(equilibrium_moments("relu"))
    >>> X = np.array([[1.0, 1.0], [1.4, 0.2]])
    >>> explicit_kernel(X, layers=match.layers).round(4)
    array([[0.2926, 0.2171],
           [0.2171, 0.2926]])
    """
    return gram(
        explicit_pair_kernel(tuple(layers), kernel, multipliers),
        X,
        Y,
        normalize=normalize,
        device=device,
        dtype=dtype,
        max_memory=max_memory,
        remedy="evaluate it for fewer rows at a time",
    )


def explicit_kernel_diag(
    X: np.ndarray,
    *,
    layers: Sequence[ExplicitLayer],
    kernel: str = "ck",
    normalize: bool = False,
    dtype: str | np.dtype | None = None,
    multipliers: Sequence[float] | None = None,
) -> np.ndarray:
    """Diagonal K(x, x) of `explicit_kernel` for the rows of X, in O(n p).

    Parameters
    ----------
    X : array-like of shape (n, p)
        Samples.
    layers, kernel, normalize, dtype, multipliers
        As in `explicit_kernel`.

    Returns
    -------
    ndarray of shape (n,)
        The diagonal of ``explicit_kernel(X, ...)``, exactly.

    Raises
    ------
    ValueError
        As `explicit_kernel`.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_deq.kernels import explicit_kernel_diag
    >>> from sklearn_deq.theory import equilibrium_moments, solve_match
    >>> match = solve_match(equilibrium_moments("relu"))
    >>> explicit_kernel_diag(np.array([[1.0, 1.0]]), layers=match.layers).round(4)
    array([0.2926])
    """
    X = check_samples(X)
    out_dtype = output_dtype(X, dtype)
    squares = Samples.build(X, normalize).squares
    pair = explicit_pair_kernel(tuple(layers), kernel, multipliers)
    diagonal = pair.diagonal(squares)
    check_range(diagonal, out_dtype)
    return diagonal.astype(out_dtype)
