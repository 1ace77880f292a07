"""Kernel ridge classification that chooses the kernel and the penalty."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
from sklearn.base import ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from sklearn_deq._compat import StrOptions, fit_context
from sklearn_deq.estimators._dask import is_dask
from sklearn_deq.estimators._held_out import decide
from sklearn_deq.estimators._ridge_problem import RidgeProblem
from sklearn_deq.estimators._ridge_search import KernelRidgeCV, OneOrMore
from sklearn_deq.estimators._ridge_targets import (
    ALL_WEIGHTS_ZERO,
    Coding,
    LabelTotals,
    class_factors,
)
from sklearn_deq.linear import (
    calibrated,
    class_log_probabilities,
    class_probabilities,
    fit_calibration,
)
from sklearn_deq.theory import Activation


class DEQKernelRidgeClassifierCV(ClassifierMixin, KernelRidgeCV):
    """Kernel ridge classification on a DEQ kernel, with kernel and penalty chosen.

    Ridge regression on ±1, one class against the others. Without any parameter of the
    kernel it fits a collection of kernels on scaled features, each with the penalty
    that is best by closed-form leave-one-out, and averages those that are as good as
    the best. Else each parameter of the kernel is one value or a sequence of
    candidates, of whose grid the best is chosen likewise.

    Parameters
    ----------
    alphas : float or sequence of floats, default=(1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
        Positive penalties; larger ones smooth more.
    kernel : {"ck", "ntk", "ntk_recurrent"} or sequence, default=None
        The conjugate kernel (of a DEQ whose readout is trained), or the neural tangent
        kernel (all weights, or readout and recurrent weights, trained). None, here and
        for the parameters down to ``normalize`` and ``scale``: the collection if all
        are None, else the value that is named: "ck".
    activation : str, Activation or callable, or sequence, default=None
        Activation of the DEQ; None: "relu".
    recurrent_variance : float or sequence of floats, default=None
        σ_a²; larger values look deeper. None: (0.1, 0.4, 0.8).
    input_variance : float or sequence of floats, default=None
        σ_b²; None: 0.8.
    bias_variance : float or sequence of floats, default=None
        σ_c²; None: 0.0.
    center : bool or sequence of bools, default=None
        Whether the activation is centred at equilibrium; None: True.
    normalize : bool or sequence of bools, default=None
        Whether rows are projected on the sphere of radius √p; zero rows stay zero.
        None: False.
    tau0 : float, default=None
        Size of the data, √(mean |x|²/p); None: that of the training rows, weighted.
    fit_intercept : bool, default=True
        Whether there is an intercept, which is not penalised.
    cv : int, splitter or iterable, default=None
        None: closed-form leave-one-out; else what `sklearn.model_selection.check_cv`
        takes, with the ``groups`` given to `fit`.
    scoring : str or callable, default=None
        scikit-learn's scorer of the held-out decision values; None: "accuracy", or
        for an average the negative of the share of errors plus the mean squared error
        of the decision values, which has no ties.
    class_weight : dict or "balanced", default=None
        Positive factors of the weights of the classes, in the fits, the scores of the
        search and the probabilities, not in τ0.
    n_jobs : int, default=None
        Kernels evaluated at once, each in its own memory; None: 1.
    verbose : int, default=0
        1 says what memory will be held, and shows progress bars: over the kernels, and
        over the rows, or chunks of dask, that are summed.
    device : str, default="cpu"
        Torch device of the kernels, or "auto".
    dtype : {"float32", "float64"}, default=None
        Of ``X_fit_``, of the results, and of the Gram matrix of the fit to all samples;
        None: that of X. The search, vectors and sums are float64.
    max_memory : float, default=None
        Budget in bytes of what the search holds, in all jobs together, or the fit to
        all samples if that is more; None: half of the memory of the machine or its
        container.
    scale : {"standard", "arcsinh", "rank", "levels"} or sequence, default=None
        Scaling of the features by the training samples, without columns that are
        constant: means 0 and variances 1, in "arcsinh" followed by an inverse
        hyperbolic sine, which pulls outliers in, and in "rank" after values are
        replaced by the normal quantiles of their ranks. "levels" is "arcsinh" with
        indicators of the values of columns that have few, as codes of categories do
        (see `sklearn_deq.linear.fit_scaling`). None: as they are.
    average : bool, default=None
        Whether all kernels that are as good as the best are fitted, and their
        predictions averaged; None: those of the collection are.
    search_samples : int, default=None
        Largest number of samples for the search by leave-one-out, drawn from those of
        each class, of which there are two at least, always the same; None: 2000 for the
        collection, else all. The fit is to all.
    n_components : int, default=None
        Number of features whose inner products stand for each kernel that is fitted, as
        of `DEQKernelTransformer`: then X may be larger than memory. None: the kernels
        themselves.
    approximation : {"nystroem", "random_features"}, default="nystroem"
        Kind of the features, if there are ``n_components``.
    random_state : int, RandomState or None, default=None
        Of the features and of the rows of the search, if there are ``n_components``.
    checkpoint : str or path-like, default=None
        Where the sums so far are kept, for ``n_components``: written every minute and
        when a fit is interrupted, which goes on from them when it is called again, and
        deleted when the fit is complete. "sums.npz" stands for sums-XXXXXXXX.npz, where
        the digits are those of the data and parameters: other fits have other files.

    Attributes
    ----------
    alpha_ : float
        Penalty of the best candidate.
    best_params_ : dict
        The best candidate: parameters of the kernel, and "alpha".
    best_index_ : int
        Its index in ``cv_results_``.
    best_score_ : float
        Its mean score on held-out samples.
    cv_results_ : dict of arrays
        As of `sklearn.model_selection.GridSearchCV`: "params", "param_<name>",
        "mean_test_score", "rank_test_score", and, with ``cv``, "std_test_score" and
        "split<i>_test_score". Kernels that are unstable on the data have score NaN.
    members_ : list of dict
        What is averaged, the best candidate first: "params" and, as the attributes
        below, "dual_coef" or "coef", "intercept", "tau0", "tau_star" and "offset" of
        each; with ``n_components`` also its "transformer".
    dual_coef_ : ndarray of shape (n_samples,) or (n_samples, n_classes)
        Coefficients of the kernel functions of the training samples, of the best
        candidate; without ``n_components``.
    coef_ : ndarray of shape (n_components,) or (n_components, n_classes)
        Coefficients of its features, with ``n_components``.
    intercept_ : float or ndarray of shape (n_classes,)
        Intercept of the best candidate.
    calibration_coef_ : ndarray of shape () or (n_classes, n_classes)
        Coefficients of the regressions' values in the decision values.
    calibration_intercept_ : ndarray of shape () or (n_classes,)
        Intercepts of the decision values.
    classes_ : ndarray of shape (n_classes,)
        Class labels.
    X_fit_ : ndarray of shape (n_samples, n_features)
        Training samples of positive weight, not scaled; without ``n_components``.
    scalings_ : dict
        Scalings of the members, by name: as of `sklearn_deq.linear.fit_scaling`.
    tau0_ : float
        Size of the training data, scaled as by the best candidate.
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
    DEQKernelRidgeCV : The same for numbers.
    DEQKernelTransformer : The kernel for other estimators.
    sklearn.linear_model.RidgeClassifierCV : The same for the linear kernel.

    Notes
    -----
    Minimises Σ_i w_i |t_i − f(x_i) − b|² + α‖f‖² with t_i = ±1 for every class (or the
    second of two), f in the kernel's Hilbert space.

    Decision values are log odds, linear in the values f(x) + b of all classes: by a
    multinomial logistic regression on the values of held-out samples, left out one by
    one or by ``cv``, that is shrunk towards one common factor, with labels smoothed as
    Platt does [2]_ (see `sklearn_deq.linear.fit_calibration`). Probabilities are their
    softmax (for two classes, the logistic function), so that the most probable class is
    the predicted one. Scores of the search are those of the values themselves.

    The residual of a sample that is left out is residual_i/(1 − h_ii), with the hat
    matrix of the fit to all samples [1]_: one eigendecomposition per kernel serves all
    penalties and classes. τ0 and scalings are those of all training rows, in every
    split.

    The collection: with the features scaled by "arcsinh" and by "rank", the CK of a
    ReLU with σ_a² = 0.1 and its NTK with σ_a² = 0.4, and the CK, with σ_a² = 0.2, of
    "erf" with σ_b² = 4 and of "sin" with σ_b² = 1; where columns have levels, with
    "levels" the two of the ReLU, too. The average is of those whose loss
    exceeds that of the best by no more than two standard errors of the difference over
    the held-out samples; the loss is the squared error, and 1 more for an error.
    Classes of few samples are not favoured, unless by ``class_weight``: the errors are
    as few as possible.

    A sample of weight k counts as k copies, which leave-one-out leaves out together;
    one of weight zero as none. Of equal scores that of the larger alpha wins, then the
    earlier kernel.

    A fit takes O(n³) per kernel (and per split with ``cv``); the search of the
    collection takes no more than 2,000 samples. It holds two n × n
    matrices of float64 at once, whatever the number of kernels and alphas; with k
    folds up to 1 + 2 (1 − 1/k)², and ``n_jobs`` times as much in parallel.

    The fit to all samples holds one n × n matrix, in float32 (4 n² bytes) where X or
    ``dtype`` is. It is decomposed in place, and conjugate gradients in float64 make up
    for the rounding of that: coefficients are those of the kernel rounded to float32.
    Predictions change by some 1e-5 of the size of y (2e-5 for 4,000 samples and alphas
    from 1e-5 on); an alpha that this rounding hides is refused.

    With ``n_components`` = m the search takes ``search_samples`` random rows (None:
    2,000; at least m for Nyström's subset), with their kernels themselves. τ0 and
    scalings are those of these rows. The kernels that are chosen are then fitted to all
    rows by m features each, with the penalty of the search: O(n m²) time, in one pass
    over blocks of 2,048 rows whose sums are of float64, and the memory of three or four
    m × m matrices for each kernel.

    References
    ----------
    .. [1] Cook & Weisberg (1982), "Residuals and Influence in Regression", section 2.2.
    .. [2] Platt (1999), "Probabilistic Outputs for Support Vector Machines".

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn_deq import DEQKernelRidgeClassifierCV
    >>> X, y = load_iris(return_X_y=True)
    >>> model = DEQKernelRidgeClassifierCV().fit(X[::2], y[::2])
    >>> model.score(X[1::2], y[1::2]) > 0.95
    True
    >>> model.predict_proba(X[:1]).shape
    (1, 3)
    """

    _default_scoring = "accuracy"

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **KernelRidgeCV._parameter_constraints,
        "class_weight": [dict, StrOptions({"balanced"}), None],
    }

    def __init__(
        self,
        *,
        alphas: OneOrMore = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0),
        kernel: OneOrMore = None,
        activation: str | Activation | Callable[..., Any] | OneOrMore = None,
        recurrent_variance: OneOrMore = None,
        input_variance: OneOrMore = None,
        bias_variance: OneOrMore = None,
        center: OneOrMore = None,
        normalize: OneOrMore = None,
        tau0: float | None = None,
        fit_intercept: bool = True,
        cv: Any = None,
        scoring: str | Callable[..., float] | None = None,
        class_weight: dict[Any, float] | str | None = None,
        n_jobs: int | None = None,
        verbose: int = 0,
        device: str = "cpu",
        dtype: str | None = None,
        max_memory: float | None = None,
        scale: OneOrMore = None,
        average: bool | None = None,
        search_samples: int | None = None,
        n_components: int | None = None,
        approximation: str = "nystroem",
        random_state: Any = None,
        checkpoint: str | os.PathLike[str] | None = None,
    ) -> None:
        self.alphas = alphas
        self.kernel = kernel
        self.activation = activation
        self.recurrent_variance = recurrent_variance
        self.input_variance = input_variance
        self.bias_variance = bias_variance
        self.center = center
        self.normalize = normalize
        self.tau0 = tau0
        self.fit_intercept = fit_intercept
        self.cv = cv
        self.scoring = scoring
        self.class_weight = class_weight
        self.n_jobs = n_jobs
        self.verbose = verbose
        self.device = device
        self.dtype = dtype
        self.max_memory = max_memory
        self.scale = scale
        self.average = average
        self.search_samples = search_samples
        self.n_components = n_components
        self.approximation = approximation
        self.random_state = random_state
        self.checkpoint = checkpoint

    @fit_context(prefer_skip_nested_validation=True)
    def fit(
        self, X: Any, y: Any, sample_weight: Any = None, *, groups: Any = None
    ) -> DEQKernelRidgeClassifierCV:
        """Choose a kernel and a penalty, and fit them to all samples.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Training samples. With ``n_components`` also a `numpy.memmap`, of which a
            block at a time is read, or a dask array in chunks of whole rows, whose
            blocks go to the workers.
        y : array-like of shape (n_samples,)
            Class labels; an array, or a dask array with the chunks of X.
        sample_weight : array-like of shape (n_samples,) or float, default=None
            Weights of the samples in τ0, the fit and the scores.
        groups : array-like of shape (n_samples,), default=None
            Groups of the samples, for a ``cv`` that keeps them together.

        Returns
        -------
        self : object
            The fitted estimator.
        """
        with self._all_or_nothing():
            return self._fit(X, y, sample_weight, groups)

    def decision_function(self, X: Any) -> np.ndarray:
        """Log odds of the classes: the ridge regressions' values, calibrated.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples; of a dask array the result is one, too, not yet computed.

        Returns
        -------
        values : ndarray of shape (n_samples,) or (n_samples, n_classes)
            Of the second class against the first if there are two, else of each class
            but for a number that all share.
        """
        check_is_fitted(self)
        if is_dask(X):
            shape = self._output_shape()
            return self._lazy("decision_function", X, shape, self._dtype)
        return self._log_odds(X)

    def predict_proba(self, X: Any) -> np.ndarray:
        """Class probabilities, calibrated on held-out decision values.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples; of a dask array the result is one, too, not yet computed.

        Returns
        -------
        P : ndarray of shape (n_samples, n_classes)
            Probabilities, in the order of ``classes_``.
        """
        check_is_fitted(self)
        if is_dask(X):
            shape = (len(self.classes_),)
            return self._lazy("predict_proba", X, shape, self._dtype)
        return class_probabilities(self._log_odds(X))

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """Class log-probabilities, also of what rounds to 0 or 1.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples; of a dask array the result is one, too, not yet computed.

        Returns
        -------
        log_P : ndarray of shape (n_samples, n_classes)
            Natural logarithms of what `predict_proba` returns.
        """
        check_is_fitted(self)
        if is_dask(X):
            shape = (len(self.classes_),)
            return self._lazy("predict_log_proba", X, shape, self._dtype)
        return class_log_probabilities(self._log_odds(X))

    def predict(self, X: Any) -> np.ndarray:
        """Predict the most probable classes.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples; of a dask array the result is one, too, not yet computed.

        Returns
        -------
        y : ndarray of shape (n_samples,)
            Class labels.
        """
        check_is_fitted(self)
        if is_dask(X):
            return self._lazy("predict", X, (), self.classes_.dtype)
        codes = decide(self._log_odds(X))
        return self.classes_[codes]

    def _log_odds(self, X: Any) -> np.ndarray:
        """Calibrated values, in the working precision."""
        values = self._values(X)
        odds = calibrated(values, self.calibration_coef_, self.calibration_intercept_)
        return odds.astype(values.dtype, copy=False)

    def _coding(self, totals: LabelTotals) -> Coding:
        """Set the classes; they are coded by signs, with weights of their own."""
        labels = totals.labels.tolist()
        if not labels:
            raise ValueError(ALL_WEIGHTS_ZERO)
        if len(labels) < 2:
            raise ValueError(
                "y needs at least 2 classes among the samples of positive "
                f"sample_weight, but has only one class: {labels[0]!r}."
            )
        self.classes_ = totals.labels
        return Coding(totals.labels, class_factors(self.class_weight, totals))

    def _finish(self, problem: RidgeProblem, held_out: np.ndarray) -> None:
        """Calibrate the held-out values."""
        predicted = problem.predicted_rows()
        rows, share = predicted.rows[predicted.place], predicted.share
        codes = np.searchsorted(self.classes_, problem.y[rows])
        if problem.weight is not None:
            share = share * problem.weight[rows]
        self.calibration_coef_, self.calibration_intercept_ = fit_calibration(
            held_out, codes, share
        )
