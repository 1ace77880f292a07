"""One kernel ridge problem: data, settings, and what a kernel is worth on them."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from sklearn.exceptions import UndefinedMetricWarning

from sklearn_deq._warnings import solver_warnings
from sklearn_deq.estimators._held_out import (
    HeldOutClassifier,
    HeldOutRegressor,
    Split,
)
from sklearn_deq.estimators._kernel import DEQKernelTransformer
from sklearn_deq.estimators._ridge_collection import (
    of_kernel,
    scaled,
)
from sklearn_deq.kernels import deq_kernel
from sklearn_deq.kernels._memory import array_bytes
from sklearn_deq.linear import (
    fit_scaling,
    leave_one_out,
    prediction_losses,
    ridge_path,
    ridge_spectrum,
)
from sklearn_deq.theory._equilibrium import UnstableError


def ravel_single(values: np.ndarray, single: bool) -> np.ndarray:
    """Drop the axis of the targets, the last, if there is a single one."""
    return values[..., 0] if single else values


def best_index(scores: np.ndarray, alphas: np.ndarray) -> int:
    """Index of the best score; of equal ones that of the largest alpha, the first."""
    scores = np.where(np.isnan(scores), -np.inf, scores)
    ties = np.flatnonzero(scores == scores.max())
    return int(ties[np.argmax(alphas[ties])])


@dataclass(frozen=True)
class Outcome:
    """What the search found out about one kernel.

    Attributes
    ----------
    scores : ndarray of shape (n_splits, n_alphas)
        Scores on held-out samples; one split for leave-one-out.
    held_out : ndarray of shape (n_held_out, n_targets)
        Predictions of the best alpha, the splits one after the other.
    losses : ndarray of shape (n_predicted,)
        Their losses, of each of the `RidgeProblem.predicted_rows` the mean.
    unstable : str or None
        Why the kernel does not exist on these data.
    undefined : tuple of str
        What the scorer says of scores that are not defined.
    """

    scores: np.ndarray
    held_out: np.ndarray
    losses: np.ndarray
    unstable: str | None = None
    undefined: tuple[str, ...] = ()


class PredictedRows(NamedTuple):
    """Rows that are predicted; one that is held out several times is still one sample.

    Attributes
    ----------
    rows : ndarray of shape (n_predicted,)
        The rows, each once.
    place : ndarray of shape (n_held_out,)
        Of each prediction, the place of its row among them.
    share : ndarray of shape (n_held_out,)
        One over the number of predictions of its row.
    """

    rows: np.ndarray
    place: np.ndarray
    share: np.ndarray


@dataclass(frozen=True)
class RidgeProblem:
    """Data and settings that all candidates share; it travels to the workers.

    Attributes
    ----------
    X : ndarray of shape (n, p)
        Samples of positive weight.
    y : ndarray of shape (n,) or (n, n_targets)
        Targets of the user, as scorers see them.
    classes : ndarray of shape (n_classes,) or None
        Labels of a classifier.
    targets : ndarray of shape (n, n_columns)
        Targets of the ridge regression.
    single : bool
        Whether decision values are one-dimensional.
    weight, sample_weight : ndarray of shape (n,) or None
        Weights of fits and scores, with those of the classes, and without, for τ0.
    splits : list of (train, test) or None
        Rows of every split; None: leave-one-out.
    alphas : ndarray of shape (n_alphas,)
        Penalties.
    fit_intercept : bool
        Whether there is an intercept.
    scorer : callable or None
        scikit-learn's scorer; None: the negative mean of the losses.
    scorer_given : bool
        Whether it is the user's: scores of others are always defined.
    tau0, device
        Parameters of the estimator.
    """

    X: np.ndarray
    y: np.ndarray
    classes: np.ndarray | None
    targets: np.ndarray
    single: bool
    weight: np.ndarray | None
    sample_weight: np.ndarray | None
    splits: list[Split] | None
    alphas: np.ndarray
    fit_intercept: bool
    scorer: Callable[..., float] | None
    scorer_given: bool
    tau0: float | None
    device: str

    def subset(self, rows: np.ndarray) -> RidgeProblem:
        """Return the same problem for some rows, by leave-one-out."""
        weight, own = (
            w if w is None else w[rows] for w in (self.weight, self.sample_weight)
        )
        return replace(
            self,
            X=self.X[rows],
            y=self.y[rows],
            targets=self.targets[rows],
            weight=weight,
            sample_weight=own,
        )

    def scaling(self, method: str | None) -> dict[str, Any] | None:
        """Scaling of the features that is fitted to all samples."""
        if method is None:
            return None
        return fit_scaling(self.X, method, self.sample_weight)

    def scalings(self, candidates: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
        """Scalings of several candidates, by name."""
        methods = dict.fromkeys(
            params["scale"] for params in candidates if "scale" in params
        )
        return {method: self.scaling(method) or {} for method in methods}

    def scaled(self, params: dict[str, Any]) -> np.ndarray:
        """Features of all samples as the candidate scales them."""
        return scaled(self.scaling(params.get("scale")), self.X)

    def equilibrium(
        self, params: dict[str, Any], X: np.ndarray
    ) -> DEQKernelTransformer:
        """Estimator that has τ0 and the other constants of a kernel on scaled X."""
        model = DEQKernelTransformer(
            **of_kernel(params), tau0=self.tau0, dtype="float64"
        )
        model._solve_equilibrium(model._prepare_input(X), self.sample_weight)
        return model

    def gram(
        self,
        params: dict[str, Any],
        tau0: float,
        X: np.ndarray,
        dtype: str | np.dtype = "float64",
    ) -> np.ndarray:
        """Gram matrix of scaled X."""
        return deq_kernel(
            X,
            **of_kernel(params),
            tau0=tau0,
            device=self.device,
            dtype=dtype,
            # `held` is what was compared with the budget.
            max_memory=np.inf,
        )

    def held(self) -> dict[str, int]:
        """Return what the evaluation of one kernel holds at once, in bytes."""
        n, n_columns = self.targets.shape
        n_predicted = sum(map(len, self.held_out_rows()))
        shape = len(self.alphas), n_predicted, n_columns
        predictions = {f"predictions of shape {shape}": array_bytes(shape)}
        if self.splits is None:
            name = f"a Gram matrix of shape ({n}, {n}) and its eigenvectors"
            return {name: 2 * array_bytes((n, n))} | predictions
        sizes = [(len(train), len(test)) for train, test in self.splits]
        most = max(array_bytes((train, max(2 * train, test))) for train, test in sizes)
        return {
            f"a Gram matrix of shape ({n}, {n})": array_bytes((n, n)),
            "that of the largest training split and its eigenvectors": most,
        } | predictions

    def evaluate(self, params: dict[str, Any]) -> Outcome:
        """Score all alphas with one kernel."""
        # What the best kernel has to say is heard when it is fitted.
        with solver_warnings():
            return self._evaluate(params)

    def _evaluate(self, params: dict[str, Any]) -> Outcome:
        X = self.scaled(params)
        try:
            tau0 = self.equilibrium(params, X).tau0_
        except UnstableError as error:
            n_splits = 1 if self.splits is None else len(self.splits)
            scores = np.full((n_splits, len(self.alphas)), np.nan)
            none = np.empty((0, self.targets.shape[1]))
            return Outcome(scores, none, np.empty(0), str(error))
        parts = self._held_out_parts(params, tau0, X)
        undefined: list[str] = []
        with _hearing(undefined) if self.scorer_given else nullcontext():
            scores = np.array(
                [
                    [self._score(prediction, rows) for prediction in predictions]
                    for rows, predictions in zip(
                        self.held_out_rows(), parts, strict=True
                    )
                ]
            )
        best = best_index(scores.mean(axis=0), self.alphas)
        held_out = np.concatenate([part[best] for part in parts])
        losses = self._losses(held_out, np.concatenate(self.held_out_rows()))
        predicted = self.predicted_rows()
        losses = np.bincount(predicted.place, predicted.share * losses)
        return Outcome(scores, held_out, losses, undefined=tuple(undefined))

    def held_out_rows(self) -> list[np.ndarray]:
        """Rows that are predicted in each split."""
        if self.splits is None:
            return [np.arange(len(self.X))]
        return [test for _, test in self.splits]

    def predicted_rows(self) -> PredictedRows:
        """Rows that are predicted at all, and how predictions belong to them."""
        rows, place, times = np.unique(
            np.concatenate(self.held_out_rows()),
            return_inverse=True,
            return_counts=True,
        )
        return PredictedRows(rows, place, 1.0 / times[place])

    def _held_out_parts(
        self, params: dict[str, Any], tau0: float, X: np.ndarray
    ) -> list[np.ndarray]:
        """Predictions of shape (n_alphas, n_test, n_columns) for each split."""
        if self.splits is not None:
            K = self.gram(params, tau0, X)
            return [self._held_out(K, train, test) for train, test in self.splits]
        # Without a name the Gram matrix is freed as soon as it is decomposed.
        spectrum = ridge_spectrum(
            self.gram(params, tau0, X), self.weight, fit_intercept=self.fit_intercept
        )
        return [leave_one_out(spectrum, self.targets, self.alphas)]

    def _held_out(
        self, K: np.ndarray, train: np.ndarray, test: np.ndarray
    ) -> np.ndarray:
        """Predictions for some rows of fits to others."""
        weight = None if self.weight is None else self.weight[train]
        spectrum = ridge_spectrum(
            K[np.ix_(train, train)], weight, fit_intercept=self.fit_intercept
        )
        dual, intercept = ridge_path(spectrum, self.targets[train], self.alphas)
        del spectrum
        predictions: np.ndarray = K[np.ix_(test, train)] @ dual
        return predictions + intercept[:, None, :]

    def _losses(self, prediction: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Losses of predictions for these rows, one by one."""
        classes = self.classes is not None
        return prediction_losses(prediction, self.targets[rows], classes=classes)

    def _score(self, prediction: np.ndarray, rows: np.ndarray) -> float:
        """Score of predictions for these rows, as scikit-learn's scorers give it."""
        weight = None if self.weight is None else self.weight[rows]
        if self.scorer is None:
            losses = self._losses(prediction, rows)
            return -float(np.average(losses, weights=weight))
        held_out = HeldOutRegressor()
        if self.classes is not None:
            held_out = HeldOutClassifier(self.classes, self.y[rows], weight)
        options = {} if weight is None else {"sample_weight": weight}
        values = ravel_single(prediction, self.single)
        return float(self.scorer(held_out, values, self.y[rows], **options))


@contextmanager
def _hearing(undefined: list[str]) -> Iterator[None]:
    """Put what is said of scores that are not defined into a list."""
    if threading.current_thread() is not threading.main_thread():
        # Filters are the process's, and scikit-learn's jobs have theirs: where they
        # overlap, what listens here would for good. They are heard one by one.
        yield
        return
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default", UndefinedMetricWarning)
        yield
    for item in caught:
        if issubclass(item.category, UndefinedMetricWarning):
            undefined.append(str(item.message))
        else:
            warnings.warn_explicit(
                item.message, item.category, item.filename, item.lineno
            )
