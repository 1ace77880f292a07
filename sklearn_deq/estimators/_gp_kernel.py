"""The DEQ kernel as a kernel object of scikit-learn's Gaussian processes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.gaussian_process.kernels import Hyperparameter, Kernel

from sklearn_deq.estimators._base import RefusesUnknownParameters
from sklearn_deq.kernels import deq_kernel, deq_kernel_diag, deq_kernel_gradient
from sklearn_deq.theory import Activation, get_activation, lipschitz_constant
from sklearn_deq.theory._checks import check_nonnegative
from sklearn_deq.theory._equilibrium import UnstableError, check_kernel

Bounds = tuple[float, float] | str

# Lower end of the default bounds, and how far the upper one of recurrent_variance stays
# below 1/Lip(φ)².
_LEAST = 1e-5
_MARGIN = 0.99


class DEQKernel(RefusesUnknownParameters, Kernel):
    """Kernel of an infinitely wide DEQ, for GaussianProcess*, KernelRidge, SVC, ….

    Stateless, as kernels of scikit-learn are: τ0 is a number, not taken from the data.

    Parameters
    ----------
    kernel : {"ck", "ntk", "ntk_recurrent"}, default="ck"
        The conjugate kernel (of a DEQ whose readout is trained), or the neural tangent
        kernel (all weights, or readout and recurrent weights, trained).
    activation : str, Activation or callable, default="relu"
        Activation of the DEQ.
    recurrent_variance : float, default=0.2
        σ_a²; larger values look deeper.
    input_variance : float, default=0.8
        σ_b².
    bias_variance : float, default=0.0
        σ_c².
    recurrent_variance_bounds : pair of floats, "fixed" or "auto", default="auto"
        Where a Gaussian process may search; "auto": from 1e-5 to 0.99/Lip(φ)², where
        the DEQ is stable for every sample.
    input_variance_bounds : pair of floats or "fixed", default=(1e-5, 1e5)
        Bounds of σ_b².
    bias_variance_bounds : pair of floats or "fixed", default="fixed"
        Bounds of σ_c². A hyperparameter that is searched must not be 0.
    center : bool, default=True
        Whether the activation is centred at equilibrium.
    tau0 : float, default=1.0
        Size √(mean |x|²/p) of the data for which it is centred; 1 for standardised
        data.
    normalize : bool, default=False
        Whether rows are projected on the sphere of radius √p; zero rows stay zero.
    device : str, default="cpu"
        Torch device of the computation, or "auto".
    dtype : {"float32", "float64"}, default=None
        Of the result; None: that of X.
    max_memory : float, default=None
        Budget in bytes of what a call returns, the gradient included; None: half of
        the memory of the machine or its container.

    See Also
    --------
    sklearn_deq.kernels.deq_kernel : The kernel as a function.
    DEQKernelTransformer : The same for ``kernel="precomputed"``, with τ0 from the data.

    Notes
    -----
    Gradients are taken with respect to the logarithms of the variances, by the implicit
    function theorem, at fixed τ0.

    `SpectralClustering` needs affinities that are not negative: the CK with
    ``center=False`` and an activation that is not negative (ReLU, sigmoid, softplus).
    Centred, the kernel is negative between samples that point away from each other.

    References
    ----------
    .. [1] Ling et al. (2024), "Deep Equilibrium Models are Almost Equivalent to Not-so-
       deep Explicit Models for High-dimensional Gaussian Mixtures", arXiv 2402.02697.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.preprocessing import scale
    >>> from sklearn.svm import SVC
    >>> from sklearn_deq import DEQKernel
    >>> X, y = load_iris(return_X_y=True)
    >>> SVC(kernel=DEQKernel(), C=10).fit(scale(X), y).score(scale(X), y) > 0.95
    True

    Clusters, from affinities that are not negative:

    >>> from sklearn.cluster import SpectralClustering
    >>> model = SpectralClustering(
    ...     3, affinity=DEQKernel(center=False), random_state=0)
    >>> sorted(set(model.fit_predict(scale(X)).tolist()))
    [0, 1, 2]
    """

    def __init__(
        self,
        *,
        kernel: str = "ck",
        activation: str | Activation | Callable[..., Any] = "relu",
        recurrent_variance: float = 0.2,
        input_variance: float = 0.8,
        bias_variance: float = 0.0,
        recurrent_variance_bounds: Bounds = "auto",
        input_variance_bounds: Bounds = (1e-5, 1e5),
        bias_variance_bounds: Bounds = "fixed",
        center: bool = True,
        tau0: float = 1.0,
        normalize: bool = False,
        device: str = "cpu",
        dtype: str | None = None,
        max_memory: float | None = None,
    ) -> None:
        self.kernel = kernel
        self.activation = activation
        self.recurrent_variance = recurrent_variance
        self.input_variance = input_variance
        self.bias_variance = bias_variance
        self.recurrent_variance_bounds = recurrent_variance_bounds
        self.input_variance_bounds = input_variance_bounds
        self.bias_variance_bounds = bias_variance_bounds
        self.center = center
        self.tau0 = tau0
        self.normalize = normalize
        self.device = device
        self.dtype = dtype
        self.max_memory = max_memory

    @property
    def hyperparameter_recurrent_variance(self) -> Hyperparameter:
        """σ_a² as a hyperparameter."""
        bounds = self.recurrent_variance_bounds
        if isinstance(bounds, str) and bounds == "auto":
            bounds = (_LEAST, self._always_stable)
        return self._hyperparameter("recurrent_variance", bounds, "'fixed' or 'auto'")

    @property
    def hyperparameter_input_variance(self) -> Hyperparameter:
        """σ_b² as a hyperparameter."""
        return self._hyperparameter("input_variance", self.input_variance_bounds)

    @property
    def hyperparameter_bias_variance(self) -> Hyperparameter:
        """σ_c² as a hyperparameter."""
        return self._hyperparameter("bias_variance", self.bias_variance_bounds)

    @property
    def _always_stable(self) -> float:
        """σ_a² up to which the DEQ is stable for every sample."""
        return _MARGIN / lipschitz_constant(get_activation(self.activation)) ** 2

    def _hyperparameter(
        self, name: str, bounds: Bounds, words: str = "'fixed'"
    ) -> Hyperparameter:
        """Check a variance and its bounds, which sklearn takes as they come."""
        check_nonnegative(name, getattr(self, name))
        if isinstance(bounds, str) and bounds == "fixed":
            return Hyperparameter(name, "numeric", bounds)
        try:
            low, high = np.array(bounds, dtype=float).ravel()
        except (TypeError, ValueError):
            low, high = np.nan, np.nan
        if not 0.0 < low <= high:
            raise ValueError(
                f"{name}_bounds must be (low, high) with 0 < low <= high, or {words}, "
                f"got {bounds!r}."
            )
        return Hyperparameter(name, "numeric", (low, high))

    @property
    def _free(self) -> tuple[str, ...]:
        """Names of the hyperparameters that are searched, in the order of theta."""
        return tuple(h.name for h in self.hyperparameters if not h.fixed)

    @property
    def theta(self) -> np.ndarray:
        """Logarithms of the hyperparameters that are not fixed, shape (n_dims,)."""
        for name in self._free:
            if not getattr(self, name) > 0:
                raise ValueError(
                    f"{name}={getattr(self, name)!r} cannot be searched on a log "
                    f"scale: set {name}_bounds='fixed', or start from a positive "
                    "value."
                )
        return Kernel.theta.fget(self)

    @theta.setter
    def theta(self, theta: np.ndarray) -> None:
        Kernel.theta.fset(self, theta)

    @property
    def bounds(self) -> np.ndarray:
        """Logarithms of the bounds of theta, shape (n_dims, 2)."""
        for h in self.hyperparameters:
            low, high = (0.0, np.inf) if h.fixed else h.bounds[0]
            value = getattr(self, h.name)
            slack = 1e-9 * value
            if not low - slack <= value <= high + slack:
                raise ValueError(
                    f"{h.name}={value!r} lies outside its bounds ({low:.4g}, "
                    f"{high:.4g}). Change it, or give {h.name}_bounds."
                )
        return Kernel.bounds.fget(self)

    def __call__(
        self, X: Any, Y: Any = None, eval_gradient: bool = False
    ) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
        """Kernel matrix between the rows of X and Y.

        Parameters
        ----------
        X : array-like of shape (n_X, n_features)
            Samples.
        Y : array-like of shape (n_Y, n_features), default=None
            Other samples; None: X itself.
        eval_gradient : bool, default=False
            Whether the gradient in theta is returned as well; only without Y.

        Returns
        -------
        K : ndarray of shape (n_X, n_Y)
            The kernel matrix.
        K_gradient : ndarray of shape (n_X, n_X, n_dims)
            Derivatives in theta, if ``eval_gradient``.
        """
        if not eval_gradient:
            # scikit-learn's pairwise functions pass X twice: its symmetry counts.
            other = None if Y is X else Y
            return deq_kernel(X, other, **self._settings, **self._output)
        if Y is not None:
            raise ValueError("Gradient can only be evaluated when Y is None.")
        try:
            return deq_kernel_gradient(
                X, variances=self._free, **self._settings, **self._output
            )
        except UnstableError as error:
            # Whoever asks for gradients chooses the variances, within the bounds.
            if "recurrent_variance" not in self._free:
                raise
            raise UnstableError(f"{error} {self._bounds_advice()}") from error

    def _bounds_advice(self) -> str:
        """Say which bounds let an optimizer meet an unstable setting."""
        low, high = self.hyperparameter_recurrent_variance.bounds[0]
        advice = (
            "If an optimizer has chosen these values: they are within "
            f"recurrent_variance_bounds=({low:.3g}, {high:.3g}), whose upper end is "
            "to be lowered"
        )
        try:
            stable = self._always_stable
        except ValueError:
            # There is no largest slope, and no upper end of "auto".
            return f"{advice}."
        return f"{advice}; that of 'auto' is {stable:.3g}, stable for every sample."

    def diag(self, X: Any) -> np.ndarray:
        """Diagonal of the kernel matrix of X, in O(n).

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples.

        Returns
        -------
        ndarray of shape (n_samples,)
            K(x, x) for each row.
        """
        return deq_kernel_diag(X, dtype=self.dtype, **self._settings)

    def is_stationary(self) -> bool:
        """Return False: the kernel is one of inner products.

        Returns
        -------
        bool
            Whether K(x, y) depends on x − y alone.
        """
        return False

    @property
    def _settings(self) -> dict[str, Any]:
        # Several kernels would make a matrix of three axes, which no estimator takes.
        check_kernel(self.kernel)
        names = (
            "kernel",
            "activation",
            "recurrent_variance",
            "input_variance",
            "bias_variance",
            "center",
            "tau0",
            "normalize",
        )
        return {name: getattr(self, name) for name in names}

    @property
    def _output(self) -> dict[str, Any]:
        names = ("device", "dtype", "max_memory")
        return {name: getattr(self, name) for name in names}

    def __repr__(self) -> str:
        """Name, variances, and what differs from its default."""
        default = type(self)().get_params()
        always = ("recurrent_variance", "input_variance")
        shown = [
            f"{name}={value:.3g}" if isinstance(value, float) else f"{name}={value!r}"
            for name, value in self.get_params().items()
            # Bounds may be arrays.
            if name in always or repr(value) != repr(default[name])
        ]
        return f"{type(self).__name__}({', '.join(shown)})"
