"""Explicit equivalents: shallow networks with the kernel of a DEQ."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from sklearn.base import ClassifierMixin, RegressorMixin

from sklearn_deq._compat import StrOptions, fit_context
from sklearn_deq.estimators._explicit_network import ExplicitNetworkEstimator
from sklearn_deq.estimators._onnx import label_values, probabilities
from sklearn_deq.estimators._targets import (
    NetworkClassifierMixin,
    NetworkRegressorMixin,
)
from sklearn_deq.theory import Activation


class ExplicitEquivalentClassifier(
    NetworkClassifierMixin, ClassifierMixin, ExplicitNetworkEstimator
):
    """Shallow network with the same kernel as a DEQ, as a classifier.

    The matching equations are solved on `fit`; the result and its residual are in
    ``match_``. The parameters of the DEQ are those of the network it stands in for.

    Parameters
    ----------
    width : int, default=512
        Width m of the layers; kernels are those of m → ∞.
    activation : str, Activation or callable, default="relu"
        Activation of the DEQ that it replaces: a name, a function, or a
        `sklearn_deq.Activation`.
    recurrent_variance : float, default=0.2
        σ_a² of the DEQ that it replaces; larger looks deeper and converges more slowly.
    input_variance : float, default=0.8
        σ_b² of the DEQ that it replaces.
    bias_variance : float, default=0.0
        σ_c² of the DEQ that it replaces.
    center : bool, default=True
        Whether the activation is centred at equilibrium.
    tau0 : float, default=None
        Size of the data, √(mean |x|²/p); None: that of the training rows.
    normalize : bool, default=False
        Whether rows are projected on the sphere of radius √p; zero rows stay zero.
    kernel : {"ck", "ntk", "ntk_recurrent"}, default="ck"
        Which kernel of the DEQ to match.
    architecture : str, default="auto"
        "auto" (the shallowest that matches on these data), "hard_tanh" (one hidden
        layer), "leaky_relu" (two), "piecewise_linear" or "rounded" (as few as match),
        or "hermite": one hidden layer made for this kernel and the norms of the
        training rows, exact where they are one (``normalize=True``), whatever the
        activation and the bias.
    trainable : {"all", "recurrent", "readout"}, default="all"
        Everything ("recurrent" means the same here), or the readout alone, as a convex
        problem, which leaves no `partial_fit`.
    optimizer : {"adam", "adamw", "sgd"}, class or callable, default="adam"
        Of the mini-batch training: a name, a torch optimizer class, or a function of
        a list of one parameter group and of lr, such as
        ``functools.partial(torch.optim.SGD, momentum=0.9)``. If it makes several
        groups, each is annealed from its own rate.
    lr : float or "auto", default="auto"
        Its learning rate at the start; annealed to 0 along a cosine, unless one of the
        callbacks is an LRScheduler. "auto": 0.05, with SGD 1.0. The weights have unit
        variance, hence the large values.
    weight_decay : float, default=0.0
        L2 penalty; at least 1e-6 for a convex readout.
    max_epochs : int, default=20
        Passes over the data.
    batch_size : int or "auto", default="auto"
        Rows per step; "auto": min(128, n_samples).
    early_stopping : bool, default=False
        Whether to stop when the loss on held-out rows has not improved for 10 epochs,
        and to keep the best weights.
    validation_fraction : float, default=0.1
        Share of the rows held out by early stopping.
    class_weight : dict or "balanced", default=None
        Weights of the classes in the loss, divided by their mean over the rows (in
        `partial_fit` over the classes); those of labels that y lacks count for
        nothing. None where y has several labels.
    warm_start : bool, default=False
        Whether `fit` goes on from the weights of the last one.
    callbacks : list, default=None
        skorch callbacks; they are copied, and a saved model forgets their states.
    device : str, default="cpu"
        Torch device to train on, or "auto": a GPU if there is one. Predictions are made
        where the weights are.
    dtype : {"float32", "float64"}, default=None
        Of weights and results; None: that of X. "float32" is faster.
    random_state : int, RandomState instance or None, default=None
        Of weights, order of the rows and held-out rows.
    verbose : int, default=0
        1 shows a progress bar, 2 prints a line per epoch instead.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Class labels; where y has several labels, their numbers.
    tau0_ : float
        Size of the training data.
    tau_star_ : float
        Standard deviation of a pre-activation at equilibrium.
    offset_ : float
        Centring constant of the activation.
    match_ : MatchResult
        Layers, and how well the matching equations are met.
    n_iter_ : int
        Epochs, or iterations of the convex solver.
    loss_curve_ : list of float
        Training loss of every epoch; empty for a convex readout.
    validation_loss_curve_ : list of float or None
        Loss on held-out rows after every epoch, nan for those of earlier calls without
        such; None if the last call did not stop early.
    best_iter_ : int or None
        Epoch, counted from 1, whose weights early stopping kept; None without it.
    net_ : skorch.NeuralNet
        The trained net, unless ``trainable="readout"``.
    readout_ : LinearReadout
        The convex readout, if ``trainable="readout"``: ``coef_`` and ``intercept_`` of
        a logistic regression.
    n_features_in_ : int
        Number of features seen during `fit`.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of features seen during `fit`, if all are strings.

    See Also
    --------
    DEQClassifier : The DEQ itself.
    match_deq : Configure the equivalent of a DEQ.

    References
    ----------
    .. [1] Ling et al. (2024), "Deep Equilibrium Models are Almost Equivalent to Not-so-
       deep Explicit Models for High-dimensional Gaussian Mixtures", arXiv 2402.02697.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> from sklearn_deq import ExplicitEquivalentClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> model = make_pipeline(
    ...     StandardScaler(), ExplicitEquivalentClassifier(width=64, random_state=0))
    >>> model.fit(X, y).score(X, y) > 0.9
    True
    """

    _adam_lr: ClassVar[float] = 0.05

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **ExplicitNetworkEstimator._parameter_constraints,
        "class_weight": [dict, StrOptions({"balanced"}), None],
    }

    def __init__(
        self,
        *,
        width: int = 512,
        activation: str | Activation | Callable[..., Any] = "relu",
        recurrent_variance: float = 0.2,
        input_variance: float = 0.8,
        bias_variance: float = 0.0,
        center: bool = True,
        tau0: float | None = None,
        normalize: bool = False,
        kernel: str = "ck",
        architecture: str = "auto",
        trainable: str = "all",
        optimizer: str | Callable[..., Any] = "adam",
        lr: float | str = "auto",
        weight_decay: float = 0.0,
        max_epochs: int = 20,
        batch_size: int | str = "auto",
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        class_weight: dict[Any, float] | str | None = None,
        warm_start: bool = False,
        callbacks: list[Any] | None = None,
        device: str = "cpu",
        dtype: str | None = None,
        random_state: Any = None,
        verbose: int = 0,
    ) -> None:
        self.width = width
        self.activation = activation
        self.recurrent_variance = recurrent_variance
        self.input_variance = input_variance
        self.bias_variance = bias_variance
        self.center = center
        self.tau0 = tau0
        self.normalize = normalize
        self.kernel = kernel
        self.architecture = architecture
        self.trainable = trainable
        self.optimizer = optimizer
        self.lr = lr
        self.weight_decay = weight_decay
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.class_weight = class_weight
        self.warm_start = warm_start
        self.callbacks = callbacks
        self.device = device
        self.dtype = dtype
        self.random_state = random_state
        self.verbose = verbose

    @fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any) -> ExplicitEquivalentClassifier:
        """Train on X and y.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Training samples.
        y : array-like of shape (n_samples,) or (n_samples, n_labels)
            Class labels, or zeros and ones of several labels.

        Returns
        -------
        self : object
            The fitted estimator.
        """
        return self._fit(X, y)

    def _write_outputs(self, graph: Any, outputs: str) -> dict[str, Any]:
        if self._multilabel:
            graph.apply("Sigmoid", outputs, name="probabilities")
        else:
            n_outputs = len(self._readout()[0])
            probabilities(graph, outputs, log_odds=n_outputs < len(self.classes_))
        return {
            "output": "probabilities",
            "shape": ["n", len(self.classes_)],
            "metadata": {"classes": label_values(self.classes_)},
        }


class ExplicitEquivalentRegressor(
    NetworkRegressorMixin, RegressorMixin, ExplicitNetworkEstimator
):
    """Shallow network with the same kernel as a DEQ, as a regressor.

    The matching equations are solved on `fit`; the result and its residual are in
    ``match_``. The parameters of the DEQ are those of the network it stands in for.

    Parameters
    ----------
    width : int, default=512
        Width m of the layers; kernels are those of m → ∞.
    activation : str, Activation or callable, default="relu"
        Activation of the DEQ that it replaces: a name, a function, or a
        `sklearn_deq.Activation`.
    recurrent_variance : float, default=0.2
        σ_a² of the DEQ that it replaces; larger looks deeper and converges more slowly.
    input_variance : float, default=0.8
        σ_b² of the DEQ that it replaces.
    bias_variance : float, default=0.0
        σ_c² of the DEQ that it replaces.
    center : bool, default=True
        Whether the activation is centred at equilibrium.
    tau0 : float, default=None
        Size of the data, √(mean |x|²/p); None: that of the training rows.
    normalize : bool, default=False
        Whether rows are projected on the sphere of radius √p; zero rows stay zero.
    kernel : {"ck", "ntk", "ntk_recurrent"}, default="ck"
        Which kernel of the DEQ to match.
    architecture : str, default="auto"
        "auto" (the shallowest that matches on these data), "hard_tanh" (one hidden
        layer), "leaky_relu" (two), "piecewise_linear" or "rounded" (as few as match),
        or "hermite": one hidden layer made for this kernel and the norms of the
        training rows, exact where they are one (``normalize=True``), whatever the
        activation and the bias.
    trainable : {"all", "recurrent", "readout"}, default="all"
        Everything ("recurrent" means the same here), or the readout alone, as a convex
        problem, which leaves no `partial_fit`.
    optimizer : {"adam", "adamw", "sgd"}, class or callable, default="adam"
        Of the mini-batch training: a name, a torch optimizer class, or a function of
        a list of one parameter group and of lr, such as
        ``functools.partial(torch.optim.SGD, momentum=0.9)``. If it makes several
        groups, each is annealed from its own rate.
    lr : float or "auto", default="auto"
        Its learning rate at the start; annealed to 0 along a cosine, unless one of the
        callbacks is an LRScheduler. "auto": 0.03, with SGD 1.0. The weights have unit
        variance, hence the large values.
    weight_decay : float, default=0.0
        L2 penalty; at least 1e-6 for a convex readout.
    max_epochs : int, default=20
        Passes over the data.
    batch_size : int or "auto", default="auto"
        Rows per step; "auto": min(128, n_samples).
    early_stopping : bool, default=False
        Whether to stop when the loss on held-out rows has not improved for 10 epochs,
        and to keep the best weights.
    validation_fraction : float, default=0.1
        Share of the rows held out by early stopping.
    warm_start : bool, default=False
        Whether `fit` goes on from the weights of the last one.
    callbacks : list, default=None
        skorch callbacks; they are copied, and a saved model forgets their states.
    device : str, default="cpu"
        Torch device to train on, or "auto": a GPU if there is one. Predictions are made
        where the weights are.
    dtype : {"float32", "float64"}, default=None
        Of weights and results; None: that of X. "float32" is faster.
    random_state : int, RandomState instance or None, default=None
        Of weights, order of the rows and held-out rows.
    verbose : int, default=0
        1 shows a progress bar, 2 prints a line per epoch instead.

    Attributes
    ----------
    tau0_ : float
        Size of the training data.
    tau_star_ : float
        Standard deviation of a pre-activation at equilibrium.
    offset_ : float
        Centring constant of the activation.
    match_ : MatchResult
        Layers, and how well the matching equations are met.
    n_iter_ : int
        Epochs, or iterations of the convex solver.
    loss_curve_ : list of float
        Training loss of every epoch; empty for a convex readout.
    validation_loss_curve_ : list of float or None
        Loss on held-out rows after every epoch, nan for those of earlier calls without
        such; None if the last call did not stop early.
    best_iter_ : int or None
        Epoch, counted from 1, whose weights early stopping kept; None without it.
    net_ : skorch.NeuralNet
        The trained net, unless ``trainable="readout"``.
    readout_ : LinearReadout
        The convex readout, if ``trainable="readout"``: ``coef_`` and ``intercept_`` of
        a ridge regression, for y centred and scaled.
    n_features_in_ : int
        Number of features seen during `fit`.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of features seen during `fit`, if all are strings.

    See Also
    --------
    DEQRegressor : The DEQ itself.
    match_deq : Configure the equivalent of a DEQ.

    References
    ----------
    .. [1] Ling et al. (2024), "Deep Equilibrium Models are Almost Equivalent to Not-so-
       deep Explicit Models for High-dimensional Gaussian Mixtures", arXiv 2402.02697.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> from sklearn_deq import ExplicitEquivalentRegressor
    >>> X, y = load_diabetes(return_X_y=True)
    >>> model = make_pipeline(
    ...     StandardScaler(), ExplicitEquivalentRegressor(width=64, random_state=0))
    >>> model.fit(X, y).score(X, y) > 0.3
    True
    """

    _adam_lr: ClassVar[float] = 0.03

    def __init__(
        self,
        *,
        width: int = 512,
        activation: str | Activation | Callable[..., Any] = "relu",
        recurrent_variance: float = 0.2,
        input_variance: float = 0.8,
        bias_variance: float = 0.0,
        center: bool = True,
        tau0: float | None = None,
        normalize: bool = False,
        kernel: str = "ck",
        architecture: str = "auto",
        trainable: str = "all",
        optimizer: str | Callable[..., Any] = "adam",
        lr: float | str = "auto",
        weight_decay: float = 0.0,
        max_epochs: int = 20,
        batch_size: int | str = "auto",
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        warm_start: bool = False,
        callbacks: list[Any] | None = None,
        device: str = "cpu",
        dtype: str | None = None,
        random_state: Any = None,
        verbose: int = 0,
    ) -> None:
        self.width = width
        self.activation = activation
        self.recurrent_variance = recurrent_variance
        self.input_variance = input_variance
        self.bias_variance = bias_variance
        self.center = center
        self.tau0 = tau0
        self.normalize = normalize
        self.kernel = kernel
        self.architecture = architecture
        self.trainable = trainable
        self.optimizer = optimizer
        self.lr = lr
        self.weight_decay = weight_decay
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.warm_start = warm_start
        self.callbacks = callbacks
        self.device = device
        self.dtype = dtype
        self.random_state = random_state
        self.verbose = verbose

    @fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any) -> ExplicitEquivalentRegressor:
        """Train on X and y.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Training samples.
        y : array-like of shape (n_samples,) or (n_samples, n_targets)
            Targets.

        Returns
        -------
        self : object
            The fitted estimator.
        """
        return self._fit(X, y)

    def _write_outputs(self, graph: Any, outputs: str) -> dict[str, Any]:
        scaled = graph.scaled(self._y_scale, outputs)
        shift = graph.constant(self._y_mean)
        graph.apply("Add", scaled, shift, name="predictions")
        return {
            "output": "predictions",
            "shape": ["n", len(self._y_mean)],
            "metadata": {},
        }
