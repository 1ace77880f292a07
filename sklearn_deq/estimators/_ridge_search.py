"""The search of the kernel ridge estimators: over kernels and penalties."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
from joblib import effective_n_jobs
from scipy.stats import rankdata
from sklearn.base import is_classifier
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
from sklearn_deq.estimators._held_out import checked_splits
from sklearn_deq.estimators._kernel import DEQKernelTransformer
from sklearn_deq.estimators._ridge_collection import (
    COLLECTION_SAMPLES,
    GRID,
    grid_candidates,
    named,
    objects,
    of_kernel,
    scaled,
    spread_rows,
)
from sklearn_deq.estimators._ridge_problem import (
    Outcome,
    RidgeProblem,
    best_index,
    ravel_single,
)
from sklearn_deq.kernels import deq_kernel
from sklearn_deq.kernels._memory import array_bytes, check_memory, memory_budget
from sklearn_deq.linear import SCALINGS, as_good_as, ridge_fit
from sklearn_deq.theory import get_activation

OneOrMore = Any  # a value, or a list, tuple or array of values
_SEQUENCES = (list, tuple, np.ndarray)
_POSITIVE = Interval(Real, 0, None, closed="neither")
_SCALE = [None, StrOptions(set(SCALINGS))]
# Bytes of the kernel between new and training samples that is held at once.
_BLOCK_BYTES = 2**25


class KernelRidgeCV(DEQParameters):
    """Base of the two: the search over kernels and alphas, and the fit.

    Subclasses provide `_set_targets` and `_finish`.
    """

    _default_scoring: ClassVar[str]

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **{
            name: [*constraints, *((None, *_SEQUENCES) if name in GRID else ())]
            for name, constraints in DEQKernelTransformer._parameter_constraints.items()
            if name not in ("n_components", "approximation", "random_state")
        },
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
        problem = self._problem(X, y, sample_weight, groups, alphas)
        searched = self._searched(problem)
        self._check_memory(problem, searched, len(kernels))
        outcomes = self._search(searched, kernels)
        self._choose(kernels, alphas, outcomes)
        members = self._members(searched, outcomes)
        with self._solver_warnings_as_sklearn():
            self._fit_members(problem, [self._best_of(i, outcomes) for i in members])
        held_out = np.mean([outcomes[i].held_out for i in members], axis=0)
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
            splits = checked_splits(splitter.split(X, y, groups), weight, len(X))
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
        held, ways = searched.held(), ["Raise max_memory"]
        if n_jobs > 1:
            held = {f"in {n_jobs} jobs: {k}": n_jobs * v for k, v in held.items()}
            ways += ["set n_jobs=1"]
        if self.cv is not None:
            ways += ["set cv=None"]
        elif len(searched.X) > COLLECTION_SAMPLES:
            ways += [f"search on fewer (search_samples={COLLECTION_SAMPLES})"]
        shape, dtype = (len(problem.X), len(problem.X)), problem.X.dtype
        size = array_bytes(shape, dtype)
        if size > sum(held.values()):
            held, ways = {f"a Gram matrix of shape {shape} in {dtype}": size}, ways[:1]
            if dtype == np.float64:
                ways += ["set dtype='float32'"]
        ridge = "RidgeClassifierCV" if is_classifier(self) else "RidgeCV"
        check_memory(
            held,
            self.max_memory,
            f"{', '.join(ways)}, fit fewer samples, or approximate: "
            f"make_pipeline(DEQKernelTransformer(n_components=...), {ridge}()).",
        )

    def _searched(self, problem: RidgeProblem) -> RidgeProblem:
        """Problem that the search solves: with fewer samples, if there are many."""
        size = self.search_samples
        if size is None and self._is_collection():
            size = COLLECTION_SAMPLES
        if size is None or self.cv is not None or len(problem.X) <= size:
            return problem
        return problem.subset(spread_rows(problem.y, size))

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
        if not np.isfinite(self.best_score_):
            raise ValueError("scoring gives no finite score for any candidate.")
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
        weight = problem.weight
        if weight is not None:
            weight = weight[np.concatenate(problem.held_out_rows())]
        others = [
            i
            for i, outcome in enumerate(outcomes)
            if i != best
            and not outcome.unstable
            and as_good_as(outcomes[best].losses, outcome.losses, weight)
        ]
        return [best, *others]

    def _fit_members(
        self, problem: RidgeProblem, candidates: list[dict[str, Any]]
    ) -> None:
        """Fit candidates to all samples; the first ones' attributes are the best's."""
        self.X_fit_ = problem.X
        methods = dict.fromkeys(
            params["scale"] for params in candidates if "scale" in params
        )
        self.scalings_ = {method: problem.scaling(method) for method in methods}
        self.members_ = [self._fit_member(problem, params) for params in candidates]
        for name in ("dual_coef", "intercept", "tau0", "tau_star", "offset"):
            setattr(self, f"{name}_", self.members_[0][name])

    def _fit_member(
        self, problem: RidgeProblem, params: dict[str, Any]
    ) -> dict[str, Any]:
        """Coefficients of a candidate, and what its kernel depends on."""
        X = scaled(self.scalings_.get(params.get("scale")), problem.X)
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
        check_is_fitted(self)
        X = self._check_data(X, reset=False)
        values = np.zeros((len(X), *self.dual_coef_.shape[1:]))
        with self._solver_warnings_as_sklearn():
            for member in self.members_:
                values += self._member_values(X, member)
        return (values / len(self.members_)).astype(self.X_fit_.dtype, copy=False)

    def _member_values(self, X: np.ndarray, member: dict[str, Any]) -> np.ndarray:
        """Values of one kernel's regression, in blocks of rows."""
        scaling = self.scalings_.get(member["params"].get("scale"))
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

    def _set_targets(self, y: np.ndarray) -> np.ndarray:
        raise AttributeError("A kernel ridge estimator defines _set_targets.")

    def _finish(self, problem: RidgeProblem, held_out: np.ndarray) -> None:
        """Use the held-out predictions of the best candidate."""

    def __sklearn_is_fitted__(self) -> bool:
        """Whether there are coefficients: a fit that failed half-way leaves none."""
        return hasattr(self, "dual_coef_")
