"""The exact infinite-width kernels of a DEQ (docs/theory.md, section 2)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from sklearn_deq.kernels._gram import gram
from sklearn_deq.kernels._samples import (
    Samples,
    check_range,
    check_samples,
    output_dtype,
)
from sklearn_deq.theory import Activation, equilibrium_kernel, equilibrium_moments
from sklearn_deq.theory._equilibrium_gradient import VARIANCES, equilibrium_gradient

# Ways out where memory is short, for the functions and for the estimators on them.
_LOW_RANK = "approximate the kernel by features: DEQKernelTransformer(n_components=...)"
_FEWER = "differentiate in fewer variances (in DEQKernel: ..._bounds='fixed')"


def deq_kernel(
    X: np.ndarray,
    Y: np.ndarray | None = None,
    *,
    kernel: str | Sequence[str] = "ck",
    activation: str | Activation | Callable[..., Any] = "relu",
    recurrent_variance: float = 0.2,
    input_variance: float = 0.8,
    bias_variance: float = 0.0,
    tau0: float = 1.0,
    center: bool = True,
    normalize: bool = False,
    device: str = "cpu",
    dtype: str | np.dtype | None = None,
    max_memory: float | None = None,
) -> np.ndarray:
    """Exact kernel of an infinitely wide DEQ between the rows of X and Y.

    Parameters
    ----------
    X : array-like of shape (n_X, p)
        Samples. Inner products are divided by p, so standardised data has s_ii ≈ 1.
    Y : array-like of shape (n_Y, p), default=None
        Other samples; None: X itself, using symmetry.
    kernel : {"ck", "ntk", "ntk_recurrent"}, default="ck"
        The conjugate kernel (readout trained), or the neural tangent kernel with all
        weights, or the readout and the recurrent weights, trained. Several of them, as
        a tuple, share the inner products.
    activation : str, Activation or callable, default="relu"
        The activation φ.
    recurrent_variance : float, default=0.2
        σ_a². Larger values look deeper; stable below about 1/max|φ'|².
    input_variance : float, default=0.8
        σ_b².
    bias_variance : float, default=0.0
        σ_c².
    tau0 : float, default=1.0
        √(mean s_ii) of the data; it enters through the centring constant alone.
    center : bool, default=True
        Whether φ is centred at τ*.
    normalize : bool, default=False
        Whether rows are projected on the sphere of radius √p; a zero row stays zero.
    device : str, default="cpu"
        Torch device of the blocks, or "auto".
    dtype : {"float32", "float64"} or None, default=None
        Of the result; None: that of X. The computation is float64 either way.
    max_memory : float or None, default=None
        Budget for the result in bytes; None: half of the memory of the
        machine or its container.

    Returns
    -------
    ndarray of shape (n_X, n_Y), or (n_kernels, n_X, n_Y)
        The kernel matrix, accurate to about 1e-12 of √(K_ii K_jj) for s_ii in
        [0.05, 20], 1e-11 for centred sigmoids and softplus, and within 1e-8 of ρ = 1
        the tangent kernels of kinked activations to about 1e-8.

    Raises
    ------
    ValueError
        For bad input, or a setting that is unstable at τ* or at a sample.
    MemoryError
        If the result is over the budget.

    See Also
    --------
    deq_kernel_diag : The diagonal alone, in O(n).
    explicit_kernel : Kernel of an explicit network.

    Notes
    -----
    Cost: O(n_X n_Y p) for the inner products; per entry a polynomial of 15 to 50 terms
    where all norms are equal or the activation is positively homogeneous, twice that
    for smooth activations else, and about a microsecond for the rest.

    References
    ----------
    .. [1] Ling et al. (2024), arXiv 2402.02697; Feng & Kolter, arXiv 2310.14062.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_deq.kernels import deq_kernel
    >>> X = np.array([[1.0, 1.0], [1.4, 0.2]])
    >>> deq_kernel(X).round(4)
    array([[0.2926, 0.2171],
           [0.2171, 0.2926]])
    """
    moments = equilibrium_moments(
        activation,
        recurrent_variance,
        input_variance,
        bias_variance=bias_variance,
        tau0=tau0,
        center=center,
    )
    return gram(
        equilibrium_kernel(moments, kernel),
        X,
        Y,
        normalize=normalize,
        device=device,
        dtype=dtype,
        max_memory=max_memory,
        remedy=_LOW_RANK,
    )


def deq_kernel_gradient(
    X: np.ndarray,
    *,
    variances: tuple[str, ...] = VARIANCES,
    kernel: str = "ck",
    activation: str | Activation | Callable[..., Any] = "relu",
    recurrent_variance: float = 0.2,
    input_variance: float = 0.8,
    bias_variance: float = 0.0,
    tau0: float = 1.0,
    center: bool = True,
    normalize: bool = False,
    device: str = "cpu",
    dtype: str | np.dtype | None = None,
    max_memory: float | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Kernel matrix of X and its derivatives in the logarithms of the variances.

    Parameters
    ----------
    X : array-like of shape (n, p)
        Samples.
    variances : tuple of str
        Which of "recurrent_variance", "input_variance" and "bias_variance"; default:
        all, in this order.
    kernel, activation, recurrent_variance, input_variance, bias_variance
        As in `deq_kernel`.
    tau0, center, normalize, device, dtype, max_memory
        As in `deq_kernel`; τ0 is held fixed.

    Returns
    -------
    K : ndarray of shape (n, n)
        The kernel matrix.
    gradient : ndarray of shape (n, n, n_variances)
        ∂K/∂ log variance.

    Raises
    ------
    ValueError
        As `deq_kernel`, or for an unknown variance.
    MemoryError
        If both together are over the budget.

    Notes
    -----
    By the implicit function theorem: every equation of the equilibrium is
    differentiated, and the linear equation that results is solved in closed form.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_deq.kernels import deq_kernel_gradient
    >>> X = np.array([[1.0, 1.0], [1.4, 0.2]])
    >>> K, gradient = deq_kernel_gradient(X, variances=("input_variance",))
    >>> gradient[..., 0].round(4)
    array([[0.2926, 0.2171],
           [0.2171, 0.2926]])
    """
    for name in variances:
        if name not in VARIANCES:
            raise ValueError(f"variances must be among {VARIANCES}, got {name!r}.")
    moments = equilibrium_moments(
        activation,
        recurrent_variance,
        input_variance,
        bias_variance=bias_variance,
        tau0=tau0,
        center=center,
    )
    both = gram(
        equilibrium_gradient(moments, kernel, tuple(variances)),
        X,
        None,
        normalize=normalize,
        device=device,
        dtype=dtype,
        max_memory=max_memory,
        remedy=_FEWER,
    )
    return both[0], np.moveaxis(both[1:], 0, -1)


def deq_kernel_diag(
    X: np.ndarray,
    *,
    kernel: str | Sequence[str] = "ck",
    activation: str | Activation | Callable[..., Any] = "relu",
    recurrent_variance: float = 0.2,
    input_variance: float = 0.8,
    bias_variance: float = 0.0,
    tau0: float = 1.0,
    center: bool = True,
    normalize: bool = False,
    dtype: str | np.dtype | None = None,
) -> np.ndarray:
    """Diagonal K(x, x) of `deq_kernel` for the rows of X, in O(n p).

    Parameters
    ----------
    X : array-like of shape (n, p)
        Samples.
    kernel, activation, recurrent_variance, input_variance, bias_variance
        As in `deq_kernel`.
    tau0, center, normalize, dtype
        As in `deq_kernel`.

    Returns
    -------
    ndarray of shape (n,), or (n_kernels, n)
        The diagonal of ``deq_kernel(X)``, exactly.

    Raises
    ------
    ValueError
        As `deq_kernel`.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_deq.kernels import deq_kernel_diag
    >>> deq_kernel_diag(np.array([[1.0, 1.0], [2.0, -1.0]])).round(4)
    array([0.2926, 0.7817])
    """
    X = check_samples(X)
    out_dtype = output_dtype(X, dtype)
    moments = equilibrium_moments(
        activation,
        recurrent_variance,
        input_variance,
        bias_variance=bias_variance,
        tau0=tau0,
        center=center,
    )
    squares = Samples.build(X, normalize).squares
    diagonal = equilibrium_kernel(moments, kernel).diagonal(squares)
    check_range(diagonal, out_dtype)
    return diagonal.astype(out_dtype)
