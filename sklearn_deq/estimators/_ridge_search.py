"""The search of the kernel ridge estimators: over kernels and penalties."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
from joblib import effective_n_jobs
from scipy.stats import rankdata
from sklearn.base import is_classifier
from sklearn.exceptions import ConvergenceWarning, UndefinedMetricWarning
from sklearn.metrics import check_scoring, get_scorer_names
from sklearn.model_selection import check_cv
from sklearn.utils import check_random_state
from sklearn.utils.parallel import Parallel, delayed
from tqdm import tqdm

from sklearn_deq._compat import (
    Interval,
    StrOptions,
    takes_sample_weight,
    validate_parameter_constraints,
)
from sklearn_deq._warnings import warn
from sklearn_deq.estimators._base import TARGET_HEADROOM, cast, check_target_size
from sklearn_deq.estimators._blocks import (
    BLOCK_ROWS,
    Block,
    Rows,
    check_columns,
    is_large,
    rows_of,
)
from sklearn_deq.estimators._dask import DaskRows, lazy_rows
from sklearn_deq.estimators._features import member_values
from sklearn_deq.estimators._held_out import checked_splits
from sklearn_deq.estimators._kernel import DEQKernelTransformer
from sklearn_deq.estimators._ridge_advice import judge_copies, judge_size
from sklearn_deq.estimators._ridge_collection import (
    COLLECTION_SAMPLES,
    GRID,
    applicable,
    grid_candidates,
    named,
    objects,
    of_kernel,
    scaled,
    spread_rows,
)
from sklearn_deq.estimators._ridge_features import FeatureRidge
from sklearn_deq.estimators._ridge_problem import (
    Outcome,
    RidgeProblem,
    best_index,
    ravel_single,
)
from sklearn_deq.estimators._ridge_targets import ALL_WEIGHTS_ZERO, Coding, LabelTotals
from sklearn_deq.kernels import deq_kernel
from sklearn_deq.kernels._memory import array_bytes, check_memory, memory_budget
from sklearn_deq.linear import SCALINGS, as_good_as, ridge_fit
from sklearn_deq.theory import get_activation

OneOrMore = Any  # a value, or a list, tuple or array of values
_SEQUENCES = (list, tuple, np.ndarray)
_POSITIVE = Interval(Real, 0, None, closed="neither")
# Mean weight below which weights were hardly meant as numbers of copies.
_LEAST_WEIGHT = 0.1
_SCALE = [None, StrOptions(set(SCALINGS))]
# Bytes of the kernel between new and training samples that is held at once.
_BLOCK_BYTES = 2**25
# New samples for which the training samples are scaled once, if these are not more.
_EXACT_ROWS = 2**15
# Rows of the Gram matrix, of float64, that computing it and solving with it take more
# (measured: 70 MB for 64 MB of matrices, 283 MB for 256 MB).
_WORKING_ROWS = 512


def _working(n: int) -> dict[str, int]:
    """Memory beside a Gram matrix of n samples."""
    shape = (min(_WORKING_ROWS, n), n)
    return {f"work of shape {shape}": array_bytes(shape)}


class KernelRidgeCV(FeatureRidge):
    """Base of the two: the search over kernels and alphas, and the fit.

    Classifiers provide `_coding` and `_finish`.
    """

    _default_scoring: ClassVar[str]

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **{
            name: [*constraints, *((None, *_SEQUENCES) if name in GRID else ())]
            for name, constraints in DEQKernelTransformer._parameter_constraints.items()
        },
        "checkpoint": [None, str, os.PathLike],
        "alphas": [_POSITIVE, *_SEQUENCES],
        "scale": [*_SCALE, *_SEQUENCES],
        "average": [None, "boolean"],
        "search_samples": [None, Interval(Integral, 2, None, closed="left")],
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
        rows = self._training_rows(X, y, sample_weight)
        totals = self._totals_of(rows)
        coding = Coding() if totals is None else self._coding(totals)
        self._check_checkpoint(rows)
        if self.n_components is None:
            if is_large(X):
                self._check_gathered(X, rows, totals)
            sample, seed = rows.take(slice(0, len(rows))), 0
        else:
            self._check_features_memory(len(kernels))
            seed = int(check_random_state(self.random_state).randint(2**31))
            sample, groups = self._sample(rows, totals, groups, seed)
        del totals  # A byte a row.
        problem = self._problem(sample, coding, groups, alphas)
        self._dtype, self._made_with = problem.X.dtype.name, {"dtype": self.dtype}
        searched = self._searched(problem)
        if self._is_collection():
            kernels = applicable(kernels, searched.scaling("levels"))
        self._check_memory(problem, searched, len(kernels))
        outcomes = self._search(searched, kernels)
        self._choose(kernels, alphas, outcomes)
        chosen = self._members(searched, outcomes)
        candidates = [self._best_of(i, outcomes) for i in chosen]
        with self._solver_warnings_as_sklearn():
            if not self._is_collection():
                judge_size(searched, candidates[0], outcomes[chosen[0]])
            judge_copies(searched, candidates[0])
            if self.n_components is None:
                self._fit_members(problem, candidates)
            else:
                self._fit_features(rows, problem, coding, candidates, seed)
        held_out = np.mean([outcomes[i].held_out for i in chosen], axis=0)
        self._finish(searched, ravel_single(held_out, problem.single))
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

    def _is_collection(self) -> bool:
        """Whether no parameter of the kernel is given."""
        return all(getattr(self, name) is None for name in GRID)

    def _averages(self) -> bool:
        return self._is_collection() if self.average is None else self.average

    def _kernels(self) -> list[dict[str, Any]]:
        """Parameters of every candidate, but for the penalty."""
        constraints = DEQKernelTransformer._parameter_constraints | {"scale": _SCALE}
        choices = {
            name: self._choices(name, constraints[name])
            for name in GRID
            if getattr(self, name) is not None
        }
        for activation in choices.get("activation", ()):
            get_activation(activation)
        return grid_candidates(choices)

    def _training_rows(self, X: Any, y: Any, sample_weight: Any) -> Rows | DaskRows:
        """Rows of X in the working dtype; the kernel projects on the sphere."""
        shape: tuple[int, ...] = getattr(y, "shape", ())
        if is_classifier(self) and len(shape) == 2 and shape[1] > 1:
            raise ValueError(
                f"y has {shape[1]} columns, where one label per sample is needed; for "
                "several there is sklearn.multioutput.MultiOutputClassifier."
            )
        return rows_of(
            self,
            X,
            partial(cast, dtype=self.dtype, remedy="use float64"),
            y,
            sample_weight,
            reset=True,
            multi_output=not is_classifier(self),
            y_numeric=not is_classifier(self),
        )

    def _totals_of(self, rows: Rows | DaskRows) -> LabelTotals | None:
        """Labels of all rows; None where targets are numbers."""
        if not is_classifier(self):
            return None
        return LabelTotals.merged(rows.of_targets(LabelTotals.of))

    def _problem(
        self, sample: Block, coding: Coding, groups: Any, alphas: np.ndarray
    ) -> RidgeProblem:
        """Problem of these rows; those of zero weight are left out for good."""
        X, y, weight = sample
        self._check_weight(weight)
        splits = None
        if self.cv is not None:
            splitter = check_cv(self.cv, y, classifier=is_classifier(self))
            splits = checked_splits(splitter.split(X, y, groups), weight, len(X))
        elif groups is not None:
            raise ValueError(
                "groups are for splitters that heed them, but cv=None leaves out one "
                "sample at a time: give cv=GroupKFold() or cv=LeaveOneGroupOut()."
            )
        if weight is not None:
            kept = weight > 0
            X, y, weight = X[kept], y[kept], weight[kept]
        targets = coding.targets(y)
        # The search squares differences of losses, which are squares, in float64.
        largest = min(np.finfo(X.dtype).max, np.finfo(np.float64).max ** 0.25)
        check_target_size(targets, X.dtype, TARGET_HEADROOM * float(largest))
        full_weight = coding.weight(y, weight)
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
            scorer_given=self.scoring is not None,
            tau0=self.tau0,
            device=self.device,
        )

    def _scorer(self, *, weighted: bool) -> Callable[..., float] | None:
        """scikit-learn's scorer; None where an average is judged by its losses.

        It must take weights if there are any.
        """
        if self.scoring is None and self._averages():
            return None
        scorer: Callable[..., float] = check_scoring(
            self, self.scoring or self._default_scoring
        )
        if weighted and not takes_sample_weight(scorer):
            raise ValueError(
                f"scoring={self.scoring!r} takes no sample_weight: choose one that "
                "does, or leave out sample_weight (and class_weight)."
            )
        return scorer

    def _check_memory(
        self, problem: RidgeProblem, searched: RidgeProblem, n_kernels: int
    ) -> None:
        """Compare what the search holds, or the fit to all if more, with the budget."""
        n_jobs = min(effective_n_jobs(self.n_jobs), n_kernels)
        held, ways = searched.held() | _working(len(searched.X)), ["Raise max_memory"]
        if n_jobs > 1:
            held = {f"in {n_jobs} jobs: {k}": n_jobs * v for k, v in held.items()}
            ways += ["set n_jobs=1"]
        if self.cv is not None:
            ways += ["set cv=None"]
        elif len(searched.X) > COLLECTION_SAMPLES:
            ways += [f"search on fewer (search_samples={COLLECTION_SAMPLES})"]
        shape, dtype = (len(problem.X), len(problem.X)), problem.X.dtype
        fit, what = {}, "The search"
        if self.n_components is None:
            fit = {
                f"a Gram matrix of shape {shape} in {dtype}": array_bytes(shape, dtype)
            } | _working(len(problem.X))
        if sum(fit.values()) > sum(held.values()):
            held, ways, what = fit, ways[:1], "The fit to all samples"
            if dtype == np.float64:
                ways += ["set dtype='float32'"]
        ways += ["fit fewer samples"]
        if self.n_components is None:
            ways += ["approximate (n_components=...)"]
        self._check_held(what, held, f"{', '.join(ways[:-1])}, or {ways[-1]}.")

    def _check_gathered(
        self, X: Any, rows: Rows | DaskRows, totals: LabelTotals | None
    ) -> None:
        """Compare large X with the budget before it is read: the kernel is of all."""
        n = int((self._codes(rows, totals) >= 0).sum())
        own = X.dtype if X.dtype in (np.float32, np.float64) else np.float64
        dtype = np.dtype(self.dtype or own)
        held = {
            f"a Gram matrix of shape {(n, n)} in {dtype}": array_bytes((n, n), dtype)
        }
        if isinstance(rows, DaskRows) or X.dtype != dtype:
            held[f"X of shape {X.shape} in {dtype}"] = array_bytes(X.shape, dtype)
        check_memory(
            held,
            self.max_memory,
            "Raise max_memory, fit fewer samples, or approximate (n_components=...).",
        )

    def _searched(self, problem: RidgeProblem) -> RidgeProblem:
        """Problem that the search solves: with fewer samples, if there are many."""
        size = self._search_size()
        if size is None or self.cv is not None or len(problem.X) <= size:
            return problem
        return problem.subset(spread_rows(problem.y, size, classes=is_classifier(self)))

    def _search_size(self) -> int | None:
        """Largest number of samples of the search; None: all."""
        few = self._is_collection() or self.n_components is not None
        if self.search_samples is None and few:
            return COLLECTION_SAMPLES
        return self.search_samples

    def _check_weight(self, weight: np.ndarray | None) -> None:
        if weight is None:
            return
        if not weight.any():
            raise ValueError(ALL_WEIGHTS_ZERO)
        positive = (weight > 0).sum()
        if positive < 2:
            raise ValueError("Only 1 sample has a positive sample_weight: give 2.")
        if weight.sum() < _LEAST_WEIGHT * positive:
            warn(
                f"sample_weight sums to {weight.sum():.3g} for {positive} samples. A "
                "weight is a number of copies: so few of them are smoothed away. "
                "Multiply the weights, to a mean of 1 if they only tell samples apart.",
            )

    def _search(
        self, problem: RidgeProblem, kernels: list[dict[str, Any]]
    ) -> list[Outcome]:
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
                ", ".join(f"{k}={v!r}" for k, v in named(params).items())
                for params in unstable
            )
            warn(
                f"{len(unstable)} of {len(kernels)} kernels are unstable on these "
                f"data and were left out: {names}.",
                ConvergenceWarning,
            )
        return outcomes

    def _choose(
        self,
        kernels: list[dict[str, Any]],
        alphas: np.ndarray,
        outcomes: Sequence[Outcome],
    ) -> None:
        """Set `cv_results_` and what follows from it."""
        candidates = [
            {**named(params), "alpha": alpha}
            for params in kernels
            for alpha in alphas.tolist()
        ]
        scores = np.concatenate([outcome.scores for outcome in outcomes], axis=1)
        mean = scores.mean(axis=0)
        self.best_index_ = best_index(mean, np.tile(alphas, len(kernels)))
        self.best_score_ = float(mean[self.best_index_])
        self._speak_of_scores(outcomes)
        self.best_params_ = candidates[self.best_index_]
        self.alpha_ = self.best_params_["alpha"]
        worst = np.where(np.isnan(mean), np.inf, -mean)
        self.cv_results_ = {
            "params": candidates,
            **{
                f"param_{name}": objects([p.get(name) for p in candidates])
                for name in (*GRID, "alpha")
            },
            "mean_test_score": mean,
            "rank_test_score": rankdata(worst, method="min").astype(np.int32),
        }
        if self.cv is not None:
            self.cv_results_["std_test_score"] = scores.std(axis=0)
            for i, row in enumerate(scores):
                self.cv_results_[f"split{i}_test_score"] = row

    def _speak_of_scores(self, outcomes: Sequence[Outcome]) -> None:
        """Say once what is not defined; refuse to choose where nothing is."""
        said = dict.fromkeys(each for outcome in outcomes for each in outcome.undefined)
        if not np.isfinite(self.best_score_):
            scoring = self.scoring or self._default_scoring
            folds = "" if self.cv is None else ", or a cv with larger test folds"
            raise ValueError(
                f"scoring={scoring!r} gives no finite score for any candidate. "
                f"{''.join(f'{each} ' for each in said)}Choose another scoring{folds}."
            )
        for each in said:
            warn(each, UndefinedMetricWarning)

    def _best_of(self, kernel: int, outcomes: Sequence[Outcome]) -> dict[str, Any]:
        """Candidate of the best alpha of a kernel."""
        alphas = outcomes[kernel].scores.shape[1]
        own = self.cv_results_["params"][kernel * alphas : (kernel + 1) * alphas]
        scores = outcomes[kernel].scores.mean(axis=0)
        return own[best_index(scores, np.array([params["alpha"] for params in own]))]

    def _members(self, problem: RidgeProblem, outcomes: Sequence[Outcome]) -> list[int]:
        """Kernels that are fitted, the best first."""
        best = self.best_index_ // outcomes[0].scores.shape[1]
        if not self._averages():
            return [best]
        rows = problem.predicted_rows().rows
        copies = factors = None
        if problem.weight is not None:
            # Without weights of the samples all that weighs is their class.
            own = problem.sample_weight
            copies = np.ones(len(rows)) if own is None else own[rows]
            factors = problem.weight[rows] / copies
        others = [
            i
            for i, outcome in enumerate(outcomes)
            if i != best
            and not outcome.unstable
            and as_good_as(
                outcomes[best].losses, outcome.losses, copies, factors=factors
            )
        ]
        return [best, *others]

    def _fit_members(
        self, problem: RidgeProblem, candidates: list[dict[str, Any]]
    ) -> None:
        """Fit candidates to all samples."""
        self.X_fit_ = problem.X
        self.scalings_ = problem.scalings(candidates)
        self._set_members([self._fit_member(problem, each) for each in candidates])

    def _set_members(self, members: list[dict[str, Any]]) -> None:
        """Keep the members; the first ones' attributes are the best's."""
        for name in ("dual_coef_", "coef_"):
            vars(self).pop(name, None)
        for name in ("dual_coef", "coef", "intercept", "tau0", "tau_star", "offset"):
            if name in members[0]:
                setattr(self, f"{name}_", members[0][name])
        self.members_ = members

    def _fit_member(
        self, problem: RidgeProblem, params: dict[str, Any]
    ) -> dict[str, Any]:
        """Coefficients of a candidate, and what its kernel depends on."""
        X = scaled(self.scalings_.get(params.get("scale", "")), problem.X)
        model = problem.equilibrium(params, X)
        dual, intercept = ridge_fit(
            problem.gram(params, model.tau0_, X, X.dtype),
            problem.targets,
            params["alpha"],
            problem.weight,
            fit_intercept=problem.fit_intercept,
        )
        return {
            "params": params,
            "dual_coef": ravel_single(dual, problem.single),
            "intercept": float(intercept[0]) if problem.single else intercept,
            "tau0": model.tau0_,
            "tau_star": model.tau_star_,
            "offset": model.offset_,
        }

    def _values(self, X: Any) -> np.ndarray:
        """Values of the ridge regression at new samples: the mean of its members'."""
        dtype = self._made_with["dtype"]
        prepare = partial(cast, dtype=dtype, remedy="use float64")
        rows: Any = rows_of(self, X, prepare, reset=False)
        values = np.empty((len(rows), *self._output_shape()), self._dtype)
        # An exact kernel has blocks of its own, for each of which X_fit_ is scaled.
        exact = "dual_coef" in self.members_[0]
        step = max(_EXACT_ROWS, len(self.X_fit_)) if exact else BLOCK_ROWS
        with self._solver_warnings_as_sklearn():
            for where, (block, _, _) in rows.blocks(step=step):
                parts = [self._member_values(block, each) for each in self.members_]
                values[where] = np.mean(parts, axis=0)
        return values

    def _output_shape(self) -> tuple[int, ...]:
        """Shape of the value of a sample."""
        return np.shape(self.intercept_)

    def _lazy(self, method: str, X: Any, shape: tuple[int, ...], dtype: Any) -> Any:
        """Apply a method to a dask array, block by block."""
        check_columns(self, X, reset=False)
        return lazy_rows(self, method, X, shape[0] if shape else None, dtype)

    def _member_values(self, X: np.ndarray, member: dict[str, Any]) -> np.ndarray:
        """Values of one kernel's regression, in blocks of rows."""
        if "coef" in member:
            followed = {name: getattr(self, name) for name in self._followed}
            return member_values(self.scalings_, X, member, **followed)
        scaling = self.scalings_.get(member["params"].get("scale", ""))
        X, X_fit = scaled(scaling, X), scaled(scaling, self.X_fit_)
        values = np.empty((len(X), *member["dual_coef"].shape[1:]))
        size = min(_BLOCK_BYTES, memory_budget(self.max_memory))
        step = max(1, int(size) // (8 * len(X_fit)))
        for start in range(0, len(X), step):
            rows = slice(start, start + step)
            K = self._kernel(X[rows], X_fit, member)
            values[rows] = K @ member["dual_coef"] + member["intercept"]
        return values

    def _kernel(
        self, X: np.ndarray, X_fit: np.ndarray, member: dict[str, Any]
    ) -> np.ndarray:
        """Kernel of a member between scaled X and the training samples."""
        return deq_kernel(
            X,
            X_fit,
            **of_kernel(member["params"]),
            tau0=member["tau0"],
            device=self.device,
            dtype="float64",
            max_memory=np.inf,
        )

    def _coding(self, totals: LabelTotals) -> Coding:
        raise AttributeError("A classifier defines _coding.")

    def _finish(self, problem: RidgeProblem, held_out: np.ndarray) -> None:
        """Use the held-out predictions of the best candidate."""
