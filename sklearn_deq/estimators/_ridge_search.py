"""The search of the kernel ridge estimators: over kernels and penalties."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
from joblib import effective_n_jobs
from scipy.stats import rankdata
from sklearn.base import (
    BaseEstimator,
    ClassifierMixin,
    RegressorMixin,
    is_classifier,
)
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import check_scoring, get_scorer_names
from sklearn.model_selection import check_cv
from sklearn.utils.parallel import Parallel, delayed
from sklearn.utils.validation import check_is_fitted, validate_data
from tqdm import tqdm

from sklearn_deq._compat import (
    Interval,
    StrOptions,
    check_sample_weight,
    takes_sample_weight,
    validate_parameter_constraints,
)
from sklearn_deq.estimators._base import DEQParameters
from sklearn_deq.estimators._kernel import DEQKernelTransformer
from sklearn_deq.exceptions import SolverWarning
from sklearn_deq.kernels import deq_kernel
from sklearn_deq.kernels._memory import array_bytes, check_memory, memory_budget
from sklearn_deq.linear import (
    class_probabilities,
    fit_temperature,
    leave_one_out,
    ridge_fit,
    ridge_path,
    ridge_spectrum,
)
from sklearn_deq.theory import get_activation

# Parameters of the kernel of which a grid may have several values, slowest first.
_GRID = (
    "kernel",
    "activation",
    "recurrent_variance",
    "input_variance",
    "bias_variance",
    "center",
    "normalize",
)
_SEQUENCES = (list, tuple, np.ndarray)
_POSITIVE = Interval(Real, 0, None, closed="neither")
# Bytes of the kernel between new and training samples that is held at once.
_BLOCK_BYTES = 2**25

Split = tuple[np.ndarray, np.ndarray]


class _HeldOutRegressor(RegressorMixin, BaseEstimator):
    """What a scorer is given: its samples are held-out predictions."""

    def predict(self, values: np.ndarray) -> np.ndarray:
        """Return the predictions themselves."""
        return values


class _HeldOutClassifier(ClassifierMixin, BaseEstimator):
    """What a scorer is given: its samples are held-out decision values."""

    def __init__(
        self, classes: np.ndarray, y: np.ndarray, weight: np.ndarray | None
    ) -> None:
        self.classes = self.classes_ = classes
        self.y = y
        self.weight = weight

    def decision_function(self, values: np.ndarray) -> np.ndarray:
        """Return the decision values themselves."""
        return values

    def predict(self, values: np.ndarray) -> np.ndarray:
        """Classes of the decision values."""
        predicted: np.ndarray = self.classes[decide(values)]
        return predicted

    def predict_proba(self, values: np.ndarray) -> np.ndarray:
        """Probabilities at the temperature that fits these values."""
        codes = np.searchsorted(self.classes, self.y)
        temperature = fit_temperature(values, codes, self.weight)
        return class_probabilities(values, temperature)


def decide(values: np.ndarray) -> np.ndarray:
    """Indices of the classes of largest decision value."""
    return (values > 0).astype(int) if values.ndim == 1 else values.argmax(axis=1)


def _ravel_single(values: np.ndarray, single: bool) -> np.ndarray:
    """Drop the axis of the targets, the last, if there is a single one."""
    return values[..., 0] if single else values


def _best(scores: np.ndarray, alphas: np.ndarray) -> int:
    """Index of the best score; of equal ones that of the largest alpha, the first."""
    scores = np.where(np.isnan(scores), -np.inf, scores)
    ties = np.flatnonzero(scores == scores.max())
    return int(ties[np.argmax(alphas[ties])])


@dataclass(frozen=True)
class _Outcome:
    """What the search found out about one kernel.

    Attributes
    ----------
    scores : ndarray of shape (n_splits, n_alphas)
        Scores on held-out samples; one split for leave-one-out.
    held_out : ndarray of shape (n_held_out, n_targets)
        Predictions of the best alpha, the splits one after the other.
    unstable : str or None
        Why the kernel does not exist on these data.
    """

    scores: np.ndarray
    held_out: np.ndarray
    unstable: str | None = None


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
    scorer : callable
        scikit-learn's scorer.
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
    scorer: Callable[..., float]
    tau0: float | None
    device: str

    def equilibrium(self, params: dict[str, Any]) -> DEQKernelTransformer:
        """Estimator that has τ0 and the other constants of a kernel on these data."""
        model = DEQKernelTransformer(**params, tau0=self.tau0, dtype="float64")
        model._solve_equilibrium(model._prepare_input(self.X), self.sample_weight)
        return model

    def gram(self, params: dict[str, Any], tau0: float) -> np.ndarray:
        """Gram matrix of all samples, in float64."""
        return deq_kernel(
            self.X,
            **params,
            tau0=tau0,
            device=self.device,
            dtype="float64",
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

    def evaluate(self, params: dict[str, Any]) -> _Outcome:
        """Score all alphas with one kernel."""
        with warnings.catch_warnings():
            # What the best kernel has to say is heard when it is fitted.
            warnings.simplefilter("ignore", SolverWarning)
            return self._evaluate(params)

    def _evaluate(self, params: dict[str, Any]) -> _Outcome:
        try:
            tau0 = self.equilibrium(params).tau0_
        except ValueError as error:
            if not str(error).startswith("Unstable DEQ"):
                raise
            n_splits = 1 if self.splits is None else len(self.splits)
            scores = np.full((n_splits, len(self.alphas)), np.nan)
            return _Outcome(scores, np.empty((0, self.targets.shape[1])), str(error))
        parts = self._held_out_parts(params, tau0)
        scores = np.array(
            [
                [self._score(prediction, rows) for prediction in predictions]
                for rows, predictions in zip(self.held_out_rows(), parts, strict=True)
            ]
        )
        best = _best(scores.mean(axis=0), self.alphas)
        return _Outcome(scores, np.concatenate([part[best] for part in parts]))

    def held_out_rows(self) -> list[np.ndarray]:
        """Rows that are predicted in each split."""
        if self.splits is None:
            return [np.arange(len(self.X))]
        return [test for _, test in self.splits]

    def _held_out_parts(self, params: dict[str, Any], tau0: float) -> list[np.ndarray]:
        """Predictions of shape (n_alphas, n_test, n_columns) for each split."""
        if self.splits is not None:
            K = self.gram(params, tau0)
            return [self._held_out(K, train, test) for train, test in self.splits]
        # Without a name the Gram matrix is freed as soon as it is decomposed.
        spectrum = ridge_spectrum(
            self.gram(params, tau0), self.weight, fit_intercept=self.fit_intercept
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

    def _score(self, prediction: np.ndarray, rows: np.ndarray) -> float:
        """Score of predictions for these rows, as scikit-learn's scorers give it."""
        weight = None if self.weight is None else self.weight[rows]
        held_out = _HeldOutRegressor()
        if self.classes is not None:
            held_out = _HeldOutClassifier(self.classes, self.y[rows], weight)
        options = {} if weight is None else {"sample_weight": weight}
        values = _ravel_single(prediction, self.single)
        return float(self.scorer(held_out, values, self.y[rows], **options))


class KernelRidgeCV(DEQParameters):
    """Base of the two: the search over kernels and alphas, and the fit.

    Subclasses provide `_set_targets` and `_finish`.
    """

    _default_scoring: ClassVar[str]

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **{
            name: [*constraints, *(_SEQUENCES if name in _GRID else ())]
            for name, constraints in DEQKernelTransformer._parameter_constraints.items()
            if name not in ("n_components", "approximation", "random_state")
        },
        "alphas": [_POSITIVE, *_SEQUENCES],
        "fit_intercept": ["boolean"],
        "cv": ["cv_object"],
        "scoring": [StrOptions(set(get_scorer_names())), callable, None],
        "n_jobs": [None, Integral],
        "verbose": ["verbose"],
    }

    def _fit(self, X: Any, y: Any, sample_weight: Any, groups: Any) -> KernelRidgeCV:
        """Validate, score the grid, and fit the best to all samples."""
        alphas = np.array(self._choices("alphas", [_POSITIVE]), dtype=np.float64)
        kernels = self._kernels()
        problem = self._problem(X, y, sample_weight, groups, alphas)
        self._check_memory(problem, len(kernels))
        outcomes = self._search(problem, kernels)
        self._choose(kernels, alphas, outcomes)
        with self._solver_warnings_as_sklearn():
            self._fit_best(problem)
        held_out = outcomes[self.best_index_ // len(alphas)].held_out
        self._finish(problem, _ravel_single(held_out, problem.single))
        return self

    def _choices(self, name: str, constraints: list[Any]) -> list[Any]:
        """All values of a parameter that may be one or a sequence, validated."""
        value = getattr(self, name)
        if isinstance(value, np.ndarray):
            value = np.atleast_1d(value).tolist()
        values = list(value) if isinstance(value, _SEQUENCES) else [value]
        if not values:
            raise ValueError(
                f"The {name!r} parameter of {type(self).__name__} is empty: give one "
                "value, or a sequence of at least one."
            )
        for item in values:
            validate_parameter_constraints(
                {name: constraints}, {name: item}, caller_name=type(self).__name__
            )
        return values

    def _kernels(self) -> list[dict[str, Any]]:
        """Parameters of every kernel of the grid."""
        constraints = DEQKernelTransformer._parameter_constraints
        choices = [self._choices(name, constraints[name]) for name in _GRID]
        for activation in choices[_GRID.index("activation")]:
            get_activation(activation)
        return [
            dict(zip(_GRID, values, strict=True))
            for values in itertools.product(*choices)
        ]

    def _problem(
        self, X: Any, y: Any, sample_weight: Any, groups: Any, alphas: np.ndarray
    ) -> RidgeProblem:
        """Validate the data; rows of zero weight are left out for good."""
        X, y = validate_data(
            self,
            X,
            y,
            dtype=[np.float64, np.float32],
            multi_output=not is_classifier(self),
            y_numeric=not is_classifier(self),
            ensure_min_samples=2,
        )
        X = self._prepare_input(X)
        weight = self._check_weight(sample_weight, X)
        splits = None
        if self.cv is not None:
            splitter = check_cv(self.cv, y, classifier=is_classifier(self))
            splits = _checked_splits(splitter.split(X, y, groups), weight, len(X))
        elif groups is not None:
            raise ValueError(
                "groups are for splitters that heed them, but cv=None leaves out one "
                "sample at a time: give cv=GroupKFold() or cv=LeaveOneGroupOut()."
            )
        if weight is not None:
            kept = weight > 0
            X, y, weight = X[kept], y[kept], weight[kept]
        targets = self._set_targets(y)
        full_weight = self._full_weight(y, weight)
        return RidgeProblem(
            X=X,
            y=y,
            classes=self.classes_ if is_classifier(self) else None,
            targets=targets,
            single=y.ndim == 1 and targets.shape[1] == 1,
            weight=full_weight,
            sample_weight=weight,
            splits=splits,
            alphas=alphas,
            fit_intercept=bool(self.fit_intercept),
            scorer=self._scorer(weighted=full_weight is not None),
            tau0=self.tau0,
            device=self.device,
        )

    def _scorer(self, *, weighted: bool) -> Callable[..., float]:
        """scikit-learn's scorer, which must take weights if there are any."""
        scorer: Callable[..., float] = check_scoring(
            self, self.scoring or self._default_scoring
        )
        if weighted and not takes_sample_weight(scorer):
            raise ValueError(
                f"scoring={self.scoring!r} takes no sample_weight: choose one that "
                "does, or leave out sample_weight (and class_weight)."
            )
        return scorer

    def _check_memory(self, problem: RidgeProblem, n_kernels: int) -> None:
        """Compare what the search holds with the budget."""
        n_jobs = min(effective_n_jobs(self.n_jobs), n_kernels)
        held, ways = problem.held(), ["Raise max_memory"]
        if n_jobs > 1:
            held = {f"in {n_jobs} jobs: {k}": n_jobs * v for k, v in held.items()}
            ways += ["set n_jobs=1"]
        if self.cv is not None:
            ways += ["set cv=None"]
        ridge = "RidgeClassifierCV" if is_classifier(self) else "RidgeCV"
        check_memory(
            held,
            self.max_memory,
            f"{', '.join(ways)}, fit fewer samples, or approximate: "
            f"make_pipeline(DEQKernelTransformer(n_components=...), {ridge}()).",
        )

    def _prepare_input(self, X: np.ndarray) -> np.ndarray:
        """Cast to the working dtype; the kernel projects on the sphere."""
        return X.astype(self.dtype or X.dtype, copy=False)

    def _check_weight(self, sample_weight: Any, X: np.ndarray) -> np.ndarray | None:
        if sample_weight is None:
            return None
        weight = check_sample_weight(sample_weight, X, dtype=np.float64)
        if weight.min() < 0:
            raise ValueError("sample_weight must not be negative.")
        if not weight.any():
            raise ValueError("sample_weight must not be zero for all samples.")
        if (weight > 0).sum() < 2:
            raise ValueError("Only 1 sample has a positive sample_weight: give 2.")
        return weight

    def _full_weight(
        self, y: np.ndarray, sample_weight: np.ndarray | None
    ) -> np.ndarray | None:
        """Weights of fits and scores: those of the samples, unless y has its own."""
        return sample_weight

    def _search(
        self, problem: RidgeProblem, kernels: list[dict[str, Any]]
    ) -> list[_Outcome]:
        """Score every kernel, and speak of those that do not exist."""
        parallel = Parallel(n_jobs=self.n_jobs, return_as="generator")
        running = parallel(delayed(problem.evaluate)(params) for params in kernels)
        bar = tqdm(running, "kernels", len(kernels), disable=not self.verbose)
        outcomes = list(bar)
        unstable = [
            params
            for params, outcome in zip(kernels, outcomes, strict=True)
            if outcome.unstable
        ]
        if len(unstable) == len(kernels):
            raise ValueError(outcomes[0].unstable)
        if unstable:
            names = "; ".join(
                ", ".join(f"{name}={params[name]!r}" for name in _GRID)
                for params in unstable
            )
            warnings.warn(
                f"{len(unstable)} of {len(kernels)} kernels are unstable on these "
                f"data and were left out: {names}.",
                ConvergenceWarning,
                stacklevel=5,
            )
        return outcomes

    def _choose(
        self,
        kernels: list[dict[str, Any]],
        alphas: np.ndarray,
        outcomes: Sequence[_Outcome],
    ) -> None:
        """Set `cv_results_` and what follows from it."""
        candidates = [
            {**params, "alpha": alpha}
            for params in kernels
            for alpha in alphas.tolist()
        ]
        scores = np.concatenate([outcome.scores for outcome in outcomes], axis=1)
        mean = scores.mean(axis=0)
        self.best_index_ = _best(mean, np.tile(alphas, len(kernels)))
        self.best_score_ = float(mean[self.best_index_])
        if not np.isfinite(self.best_score_):
            raise ValueError("scoring gives no finite score for any candidate.")
        self.best_params_ = candidates[self.best_index_]
        self.alpha_ = self.best_params_["alpha"]
        worst = np.where(np.isnan(mean), np.inf, -mean)
        self.cv_results_ = {
            "params": candidates,
            **{
                f"param_{name}": _objects([params[name] for params in candidates])
                for name in (*_GRID, "alpha")
            },
            "mean_test_score": mean,
            "rank_test_score": rankdata(worst, method="min").astype(np.int32),
        }
        if self.cv is not None:
            self.cv_results_["std_test_score"] = scores.std(axis=0)
            for i, row in enumerate(scores):
                self.cv_results_[f"split{i}_test_score"] = row

    def _fit_best(self, problem: RidgeProblem) -> None:
        params = {name: self.best_params_[name] for name in _GRID}
        model = problem.equilibrium(params)
        dual, intercept = ridge_fit(
            problem.gram(params, model.tau0_),
            problem.targets,
            self.alpha_,
            problem.weight,
            fit_intercept=problem.fit_intercept,
        )
        self.dual_coef_ = _ravel_single(dual, problem.single)
        self.intercept_ = float(intercept[0]) if problem.single else intercept
        self.X_fit_ = problem.X
        self.tau0_ = model.tau0_
        self.tau_star_ = model.tau_star_
        self.offset_ = model.offset_

    def _values(self, X: Any) -> np.ndarray:
        """Values of the ridge regression at new samples, in blocks of rows."""
        check_is_fitted(self)
        X = self._check_data(X, reset=False)
        values = np.empty((len(X), *self.dual_coef_.shape[1:]), self.X_fit_.dtype)
        size = min(_BLOCK_BYTES, memory_budget(self.max_memory))
        step = max(1, int(size) // (8 * len(self.X_fit_)))
        with self._solver_warnings_as_sklearn():
            for start in range(0, len(X), step):
                K = self._kernel(X[start : start + step])
                values[start : start + step] = K @ self.dual_coef_ + self.intercept_
        return values

    def _kernel(self, X: np.ndarray) -> np.ndarray:
        """Kernel of the best candidate between X and the training samples."""
        return deq_kernel(
            X,
            self.X_fit_,
            **{name: self.best_params_[name] for name in _GRID},
            tau0=self.tau0_,
            device=self.device,
            dtype="float64",
            max_memory=np.inf,
        )

    def _set_targets(self, y: np.ndarray) -> np.ndarray:
        raise AttributeError("A kernel ridge estimator defines _set_targets.")

    def _finish(self, problem: RidgeProblem, held_out: np.ndarray) -> None:
        """Use the held-out predictions of the best candidate."""

    def __sklearn_is_fitted__(self) -> bool:
        """Whether there are coefficients: a fit that failed half-way leaves none."""
        return hasattr(self, "dual_coef_")


def _objects(values: list[Any]) -> np.ma.MaskedArray:
    """Return them as scikit-learn's searches do: a masked array of objects."""
    array = np.ma.masked_all(len(values), dtype=object)
    for i, value in enumerate(values):
        array[i] = value
    return array


def _checked_splits(
    splits: Any, weight: np.ndarray | None, n_samples: int
) -> list[Split]:
    """Rows of every split, counted among those of positive weight."""
    kept = np.ones(n_samples, dtype=bool) if weight is None else weight > 0
    number = np.cumsum(kept) - 1
    every = np.arange(n_samples)
    checked: list[Split] = []
    for parts in splits:
        # Indices or masks, as scikit-learn takes both.
        train, test = (every[part][kept[part]] for part in parts)
        if not (len(train) and len(test)):
            raise ValueError(
                "Every split of cv needs samples of positive weight, to train on and "
                f"to test; split {len(checked)} has {len(train)} and {len(test)}."
            )
        checked.append((number[train], number[test]))
    return checked
