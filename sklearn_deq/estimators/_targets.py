"""Targets of classifiers and regressors: encoding, loss, readout and predictions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.sparse import issparse
from scipy.special import expit, log_expit, log_softmax, softmax
from sklearn.exceptions import ConvergenceWarning
from sklearn.preprocessing import LabelEncoder
from sklearn.utils import compute_class_weight
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import column_or_1d
from torch import nn

from sklearn_deq._warnings import warn
from sklearn_deq.estimators._base import check_one_type, check_weighted_labels
from sklearn_deq.estimators._training import WeightedCrossEntropy
from sklearn_deq.linear import fit_logistic, fit_ridge


@dataclass(frozen=True)
class LinearReadout:
    """A readout that solves a convex problem.

    Attributes
    ----------
    coef_ : ndarray of shape (n_outputs, width)
        Coefficients; two classes have one output, the log-odds of the second.
    intercept_ : ndarray of shape (n_outputs,)
        Intercepts.
    n_iter_ : int
        Iterations of the solver; 1 where the solution is closed.
    """

    coef_: np.ndarray
    intercept_: np.ndarray
    n_iter_: int


def trains_batches(estimator: Any) -> bool:
    """Whether an estimator is trained by mini-batches; an AttributeError if not."""
    if estimator.trainable == "readout":
        raise AttributeError(
            "partial_fit needs trainable='all' or 'recurrent': with 'readout' the "
            "readout is the solution of a convex problem on all rows."
        )
    return True


class NetworkClassifierMixin:
    """Targets, loss and predictions of a classifier: of one label, or of several."""

    _numeric_targets = False

    def __sklearn_tags__(self) -> Any:
        """Describe the classifier to scikit-learn."""
        tags = super().__sklearn_tags__()  # type: ignore[misc]
        tags.classifier_tags.multi_label = True
        return tags

    def _set_targets(
        self, y: Any, *, going_on: bool, classes: Any = None
    ) -> np.ndarray:
        """Codes of the classes, or zeros and ones of several labels."""
        if isinstance(y, np.ndarray) and any(v is None for v in y.flat):
            raise ValueError("y contains None: give every sample a label.")
        check_one_type(y)
        check_classification_targets(y)
        several = type_of_target(y) == "multilabel-indicator"
        if not several and np.ndim(y) == 2:
            y = _one_column(y)
        if not going_on:
            self._multilabel = several
        elif several != self._multilabel:
            raise ValueError(
                "y has another form than before: one label per sample "
                f"{'before, several now' if several else 'now, several before'}."
            )
        if several:
            return self._set_labels(y, going_on, classes)
        known = None if classes is None else LabelEncoder().fit(classes).classes_
        if not going_on:
            self.classes_: np.ndarray = (
                LabelEncoder().fit(y).classes_ if known is None else known
            )
        elif known is not None and not np.array_equal(known, self.classes_):
            raise ValueError(
                f"classes is {known.tolist()}, but was {self.classes_.tolist()} when "
                "training began: leave it out, or give the same."
            )
        unknown = np.setdiff1d(y, self.classes_).tolist()
        if unknown and going_on:
            raise ValueError(
                f"y has classes that were not seen before: {unknown}; "
                "give all of them to the first partial_fit as classes, or call fit "
                "with warm_start=False."
            )
        if unknown:
            raise ValueError(f"classes lacks values of y: {unknown}.")
        return np.searchsorted(self.classes_, y).astype(np.int64)

    def _set_labels(self, y: Any, going_on: bool, classes: Any) -> np.ndarray:
        """Check the indicator matrix of several labels."""
        y = y.toarray() if issparse(y) else np.asarray(y)
        if not np.isin(y, (0, 1)).all():
            raise ValueError(
                "Several labels are given as zeros and ones, got values "
                f"{np.unique(y)[:5].tolist()}."
            )
        if not going_on:
            self.classes_ = np.arange(y.shape[1])
        known = self.classes_ if classes is None else np.asarray(classes)
        if y.shape[1] != len(self.classes_) or not np.array_equal(known, self.classes_):
            raise ValueError(
                f"y has {y.shape[1]} labels, where classes or an earlier y have "
                f"{known.tolist()}."
            )
        return y.astype(np.float64)

    def _n_outputs(self) -> int:
        return len(self.classes_)

    def _strata(self, targets: np.ndarray) -> np.ndarray | None:
        if self._multilabel:
            return None
        if np.unique(targets, return_counts=True)[1].min() < 2:
            raise ValueError(
                "early_stopping needs at least 2 samples of every class, to hold out "
                "a stratified validation set; set early_stopping=False."
            )
        return targets

    def _weigh(
        self, targets: np.ndarray, *, in_batches: bool = False, anew: bool = True
    ) -> None:
        """Set the weights of the classes in the loss, whose mean over y is one.

        In batches it is that over the classes: one with a single class would have
        factor one whatever its weight. Not anew it is the mean that it was.
        """
        self._class_factors: np.ndarray | None = None
        if not self._multilabel and (anew or not hasattr(self, "_class_counts")):
            self._class_counts = np.ones(len(self.classes_), dtype=int)
            if not in_batches:
                self._class_counts = np.bincount(targets, minlength=len(self.classes_))
        if self.class_weight is not None:
            by_code = self._class_weight_by_code()
            factors = np.ones(len(self.classes_))
            if isinstance(by_code, dict):
                factors[list(by_code)] = list(by_code.values())
            else:
                present = np.unique(targets)
                factors[present] = compute_class_weight(
                    by_code, classes=present, y=targets
                )
            factors /= factors.max()
            mean = np.average(factors, weights=self._class_counts)
            # A y may have nothing but classes of weight 0.
            self._class_factors = factors / (mean or 1.0)

    def _criterion(self, dtype: torch.dtype) -> nn.Module:
        if self._multilabel:
            return nn.BCEWithLogitsLoss()
        if self._class_factors is None:
            return nn.CrossEntropyLoss()
        return WeightedCrossEntropy(torch.as_tensor(self._class_factors, dtype=dtype))

    def _start_loss(self, targets: np.ndarray) -> float:
        """Loss of equal scores for all classes."""
        if self._multilabel:
            return math.log(2)
        factors = self._class_factors
        weight = 1.0 if factors is None else float(factors[targets].mean())
        return weight * math.log(len(self.classes_))

    def _check_rules(self, targets: np.ndarray) -> None:
        """Refuse, before any work, weights and labels that cannot be trained on."""
        super()._check_rules(targets)  # type: ignore[misc]
        if self._multilabel:
            if self.class_weight is not None:
                raise ValueError(
                    "class_weight weighs the classes of one label: leave it None where "
                    f"y has several, got {self.class_weight!r}."
                )
            return
        if self.trainable == "readout" and len(np.unique(targets)) < 2:
            raise ValueError(
                "With trainable='readout' y needs samples of at least 2 classes, but "
                "it contains only one class."
            )
        by_code = self._class_weight_by_code()
        if isinstance(by_code, dict):
            codes = range(len(self.classes_))
            values = np.array([by_code.get(code, 1.0) for code in codes])
            if values.dtype.kind not in "fiub" or not (
                np.isfinite(values).all() and values.min() >= 0 < values.max()
            ):
                raise ValueError(
                    "class_weight must be finite, not negative, and positive for one "
                    f"of the classes at least, got {self.class_weight!r}."
                )

    def _class_weight_by_code(self) -> Any:
        if not isinstance(self.class_weight, dict):
            return self.class_weight
        codes = {label: code for code, label in enumerate(self.classes_.tolist())}
        check_weighted_labels(self.class_weight, list(codes))
        weights = self.class_weight.items()
        return {codes[label]: value for label, value in weights if label in codes}

    def _convex_readout(
        self, features: np.ndarray, targets: np.ndarray, decay: float
    ) -> tuple[LinearReadout, bool]:
        """Logistic regression; whether it was interrupted."""
        self._weigh(targets)
        factors = self._class_factors
        weight = None if factors is None else factors[targets]
        if not self._multilabel and len(self.classes_) == 2:
            # One output, as scikit-learn has it.
            targets = targets[:, None].astype(features.dtype)
        fit = fit_logistic(features, targets, decay, sample_weight=weight)
        if not fit.converged and not fit.interrupted:
            warn(
                f"The readout did not converge in {fit.n_iter} iterations: raise "
                "weight_decay, or scale X.",
                ConvergenceWarning,
            )
        return LinearReadout(fit.coef, fit.intercept, fit.n_iter), fit.interrupted

    def decision_function(self, X: Any) -> np.ndarray:
        """Confidence scores.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples.

        Returns
        -------
        scores : ndarray of shape (n_samples,) or (n_samples, n_classes)
            Log-odds of the second class if there are two, else one score per class;
            where y has several labels, the log-odds of each.
        """
        outputs = self._outputs(X)
        if outputs.shape[1] == 2 and not self._multilabel:
            return outputs[:, 1] - outputs[:, 0]
        return outputs[:, 0] if outputs.shape[1] == 1 else outputs

    def predict_proba(self, X: Any) -> np.ndarray:
        """Class probabilities.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples.

        Returns
        -------
        P : ndarray of shape (n_samples, n_classes)
            Probabilities, in the order of ``classes_``; where y has several labels,
            the probability of each.
        """
        scores = self._class_scores(X)
        return expit(scores) if self._multilabel else softmax(scores, axis=1)

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """Class log-probabilities, also of what rounds to 0 or 1.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples.

        Returns
        -------
        log_P : ndarray of shape (n_samples, n_classes)
            Natural logarithms of what `predict_proba` returns.
        """
        scores = self._class_scores(X)
        return log_expit(scores) if self._multilabel else log_softmax(scores, axis=1)

    def _class_scores(self, X: Any) -> np.ndarray:
        """A score for each class or label."""
        scores = self._outputs(X)
        if len(self.classes_) == 2 and scores.shape[1] == 1:
            # The log-odds of the second.
            scores = np.concatenate([np.zeros_like(scores), scores], axis=1)
        return scores

    def predict(self, X: Any) -> np.ndarray:
        """Most probable classes.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples.

        Returns
        -------
        y : ndarray of shape (n_samples,) or (n_samples, n_labels)
            Class labels, or zeros and ones of several labels.
        """
        scores = self.decision_function(X)
        if self._multilabel:
            return (scores > 0).astype(np.int64)
        if len(self.classes_) == 1:
            return np.repeat(self.classes_, len(scores))
        codes = scores.argmax(axis=1) if scores.ndim == 2 else (scores > 0).astype(int)
        return self.classes_[codes]

    @available_if(trains_batches)
    def partial_fit(self, X: Any, y: Any, classes: Any = None) -> Any:
        """Train one epoch on these samples.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples.
        y : array-like of shape (n_samples,) or (n_samples, n_labels)
            Labels. The mean by which ``class_weight`` is divided is that over the
            classes, or over the rows of an earlier `fit`.
        classes : array-like of shape (n_classes,), default=None
            All labels that later calls may bring; needed at the first call only, and
            the same in others.

        Returns
        -------
        self : object
            The estimator.
        """
        self._validate_params()
        if self.class_weight == "balanced":
            raise ValueError(
                "class_weight='balanced' needs all samples at once, not partial_fit; "
                "give the weights as a dict."
            )
        return self._partial_fit(X, y, classes)


def _one_column(y: Any) -> np.ndarray:
    """Labels of a matrix with one column, warned of; others are refused."""
    if y.shape[1] > 1:
        raise ValueError(
            "y has several targets with more than two values: give one label per "
            "sample, or zeros and ones of several labels."
        )
    y = y.toarray() if issparse(y) else y
    return column_or_1d(y, warn=True)


class NetworkRegressorMixin:
    """Targets, loss and predictions of a regressor: y is centred and scaled inside."""

    _numeric_targets = True

    def __sklearn_tags__(self) -> Any:
        """Describe the regressor to scikit-learn."""
        tags = super().__sklearn_tags__()  # type: ignore[misc]
        tags.target_tags.multi_output = True
        return tags

    def _set_targets(
        self, y: Any, *, going_on: bool, classes: Any = None
    ) -> np.ndarray:
        """Targets around 0 with deviation 1, one column each."""
        y = np.asarray(y.toarray() if issparse(y) else y, dtype=np.float64)
        columns = y.reshape(len(y), -1)
        if not going_on:
            self._y_is_1d = y.ndim == 1
            self._y_mean, self._y_scale = columns[0], np.ones(columns.shape[1])
            self._y_open, self._y_rows = np.ones(columns.shape[1], dtype=bool), 0
        elif columns.shape[1] != len(self._y_mean):
            raise ValueError(
                f"y has {columns.shape[1]} targets, but {len(self._y_mean)} before."
            )
        # Powers of two: only what would overflow or vanish is changed by them.
        largest = np.maximum(np.abs(columns).max(axis=0), np.abs(self._y_mean))
        unit = np.ldexp(1.0, np.frexp(largest)[1] - 1)
        self._fix_scale(columns / unit, unit)
        with np.errstate(over="ignore"):
            return (columns / unit - self._y_mean / unit) / (self._y_scale / unit)

    def _fix_scale(self, shares: np.ndarray, unit: np.ndarray) -> None:
        """Centre and scale targets by all rows so far, once these are not all equal.

        Until then a target is 0 in every row, and so is what the readout makes of it.
        """
        n, known, mean = len(shares), self._y_mean / unit, shares.mean(axis=0)
        earlier = self._y_rows / (self._y_rows + n)
        variance = shares.var(axis=0) + earlier * (mean - known) ** 2
        scale = np.sqrt((1.0 - earlier) * variance) * unit
        mean = (earlier * known + (1.0 - earlier) * mean) * unit
        # Not by roundings of one number.
        least = 8 * np.finfo(float).eps * np.abs(self._y_mean)
        fixes = self._y_open & (shares != known).any(axis=0) & (scale > least)
        self._y_mean = np.where(fixes, mean, self._y_mean)
        self._y_scale = np.where(fixes, scale, self._y_scale)
        self._y_open, self._y_rows = self._y_open & ~fixes, self._y_rows + n

    def _n_outputs(self) -> int:
        return len(self._y_mean)

    def _strata(self, targets: np.ndarray) -> None:
        return None

    def _weigh(
        self, targets: np.ndarray, *, in_batches: bool = False, anew: bool = True
    ) -> None:
        """Every sample counts alike."""

    def _criterion(self, dtype: torch.dtype) -> nn.Module:
        return nn.MSELoss()

    def _start_loss(self, targets: np.ndarray) -> float:
        """Loss of predicting the mean."""
        return float(np.mean(np.square(targets, dtype=np.float64)))

    def _convex_readout(
        self, features: np.ndarray, targets: np.ndarray, decay: float
    ) -> tuple[LinearReadout, bool]:
        """Ridge regression; never interrupted."""
        return LinearReadout(*fit_ridge(features, targets, decay), 1), False

    def predict(self, X: Any) -> np.ndarray:
        """Predicted targets.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples.

        Returns
        -------
        y : ndarray of shape (n_samples,) or (n_samples, n_targets)
            Predictions, in the units of the y of `fit`.
        """
        outputs = self._outputs(X)
        predictions = outputs * self._y_scale + self._y_mean
        predictions = predictions.astype(outputs.dtype, copy=False)
        return predictions[:, 0] if self._y_is_1d else predictions

    @available_if(trains_batches)
    def partial_fit(self, X: Any, y: Any) -> Any:
        """Train one epoch on these samples.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples; those of the first call fix ``tau0_``.
        y : array-like of shape (n_samples,) or (n_samples, n_targets)
            Targets. Their mean and scale inside are those of the first call, whose
            samples should stand for all; of a target that is the same in all of these,
            those of all samples up to the call that brings others.

        Returns
        -------
        self : object
            The estimator.
        """
        self._validate_params()
        return self._partial_fit(X, y)
