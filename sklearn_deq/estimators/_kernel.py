"""The DEQ kernel as a transformer."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Real
from typing import Any, ClassVar

import numpy as np
from sklearn.utils.validation import check_is_fitted

from sklearn_deq._compat import Interval, fit_context
from sklearn_deq.estimators._base import (
    KERNEL_CONSTRAINTS,
    DEQParameters,
    FeaturesMixin,
)
from sklearn_deq.kernels import deq_kernel
from sklearn_deq.kernels._samples import resolve_device
from sklearn_deq.theory import Activation


class DEQKernelTransformer(FeaturesMixin, DEQParameters):
    """Map samples to their DEQ kernel with the training samples: X → K(X, X_fit).

    For estimators with ``kernel="precomputed"``, inside pipelines and searches. The
    kernel is the exact one of an infinitely wide DEQ.

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
    center : bool, default=True
        Whether the activation is centred at equilibrium.
    tau0 : float, default=None
        Size of the data, √(mean |x|²/p); None: that of the training rows.
    normalize : bool, default=False
        Whether rows are projected on the sphere of radius √p; zero rows stay zero.
    device : str, default="cpu"
        Torch device of the computation, or "auto".
    dtype : {"float32", "float64"}, default=None
        Of the result; None: that of X.
    max_memory : float, default=None
        Budget of a kernel matrix in bytes; None: half of the machine's memory.

    Attributes
    ----------
    X_fit_ : ndarray of shape (n_samples, n_features)
        Training samples, on the sphere if ``normalize``.
    tau0_ : float
        Size of the training data.
    tau_star_ : float
        Standard deviation of a pre-activation at equilibrium.
    offset_ : float
        Centring constant of the activation.
    n_features_in_ : int
        Number of features seen during `fit`.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of features seen during `fit`, if all are strings.

    See Also
    --------
    sklearn_deq.kernels.deq_kernel : The kernel as a function.
    DEQClassifier : A finite DEQ.

    References
    ----------
    .. [1] Ling et al. (2024), "Deep Equilibrium Models are Almost Equivalent to Not-so-
       deep Explicit Models for High-dimensional Gaussian Mixtures", arXiv 2402.02697.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> from sklearn.svm import SVC
    >>> from sklearn_deq import DEQKernelTransformer
    >>> X, y = load_iris(return_X_y=True)
    >>> model = make_pipeline(
    ...     StandardScaler(), DEQKernelTransformer(), SVC(kernel="precomputed", C=10))
    >>> model.fit(X, y).score(X, y) > 0.95
    True
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **DEQParameters._parameter_constraints,
        **KERNEL_CONSTRAINTS,
        "max_memory": [None, Interval(Real, 0, None, closed="neither")],
    }

    def __init__(
        self,
        *,
        kernel: str = "ck",
        activation: str | Activation | Callable[..., Any] = "relu",
        recurrent_variance: float = 0.2,
        input_variance: float = 0.8,
        bias_variance: float = 0.0,
        center: bool = True,
        tau0: float | None = None,
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
        self.center = center
        self.tau0 = tau0
        self.normalize = normalize
        self.device = device
        self.dtype = dtype
        self.max_memory = max_memory

    @fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any = None) -> DEQKernelTransformer:
        """Keep the training samples and measure their size.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Training samples.
        y : Ignored
            Not used.

        Returns
        -------
        self : object
            The fitted transformer.
        """
        resolve_device(self.device)
        X = self._check_data(X, reset=True)
        self._solve_equilibrium(X)
        self.X_fit_ = X
        self._n_features_out = X.shape[0]
        return self

    def transform(self, X: Any) -> np.ndarray:
        """Kernel between X and the training samples.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples.

        Returns
        -------
        K : ndarray of shape (n_samples, n_samples_fit)
            K(X, X_fit).
        """
        check_is_fitted(self)
        return self._kernel(self._check_data(X, reset=False), self.X_fit_)

    def fit_transform(self, X: Any, y: Any = None) -> np.ndarray:
        """Fit and return the Gram matrix of the training samples, by symmetry.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Training samples.
        y : Ignored
            Not used.

        Returns
        -------
        K : ndarray of shape (n_samples, n_samples)
            K(X, X), symmetric.
        """
        return self._kernel(self.fit(X).X_fit_, None)

    def _kernel(self, X: np.ndarray, Y: np.ndarray | None) -> np.ndarray:
        return deq_kernel(
            X,
            Y,
            kernel=self.kernel,
            activation=self.activation,
            recurrent_variance=self.recurrent_variance,
            input_variance=self.input_variance,
            bias_variance=self.bias_variance,
            tau0=self.tau0_,
            center=self.center,
            normalize=self.normalize,
            device=self.device,
            max_memory=self.max_memory,
        )
