"""Ridge regressions on low-rank features: their maps, and their sums over blocks."""

from __future__ import annotations

from dataclasses import dataclass
from sys import getsizeof
from typing import Any

import numpy as np

from sklearn_deq.estimators._kernel import DEQKernelTransformer
from sklearn_deq.estimators._ridge_collection import of_kernel, scaled
from sklearn_deq.estimators._ridge_problem import RidgeProblem, ravel_single
from sklearn_deq.estimators._ridge_targets import Coding
from sklearn_deq.linear import NormalEquations, solve_normal_equations


@dataclass(frozen=True)
class FeatureMap:
    """Features of one kernel.

    Attributes
    ----------
    scaling : dict or None
        Of the columns, as of `sklearn_deq.linear.fit_scaling`.
    transformer : DEQKernelTransformer
        Of the scaled columns, fitted.
    """

    scaling: dict[str, Any] | None
    transformer: DEQKernelTransformer

    def __call__(self, X: np.ndarray) -> np.ndarray:
        """Features of rows."""
        return self.transformer.transform(scaled(self.scaling, X))

    def __sizeof__(self) -> int:
        """Bytes with those of the arrays, by which schedulers judge what to move."""
        parts = [self.scaling, vars(self.transformer)]
        return object.__sizeof__(self) + _array_bytes(parts)


def _array_bytes(value: Any) -> int:
    """Bytes of the arrays in lists and dictionaries: what grows with the settings."""
    if isinstance(value, np.ndarray):
        return value.nbytes
    if isinstance(value, dict):
        value = list(value.values())
    return sum(map(_array_bytes, value)) if isinstance(value, list | tuple) else 0


def feature_map(
    problem: RidgeProblem,
    scalings: dict[str, dict[str, Any]],
    params: dict[str, Any],
    n_components: int,
    **options: Any,
) -> FeatureMap:
    """Features of a candidate's kernel, by a sample of the rows.

    Parameters
    ----------
    problem : RidgeProblem
        The sample.
    scalings : dict
        Scalings, by name.
    params : dict
        The candidate.
    n_components : int
        Number of features, at most that of distinct rows for Nyström's.
    **options : dict
        Other parameters of `DEQKernelTransformer`.

    Returns
    -------
    FeatureMap
        The map.

    Notes
    -----
    Nyström's subset is chosen among distinct rows, so that copies of a row count like
    its weight; its features are of float64, as roots of small eigenvalues enlarge
    rounding.
    """
    scaling = scalings.get(params.get("scale", ""))
    X = scaled(scaling, problem.X)
    tau0, X = problem.equilibrium(params, X).tau0_, np.unique(X, axis=0)
    nystroem = options["approximation"] == "nystroem"
    transformer = DEQKernelTransformer(
        **of_kernel(params),
        n_components=min(n_components, len(X)) if nystroem else n_components,
        tau0=tau0,
        device=problem.device,
        dtype="float64" if nystroem else None,
        **options,
    )
    return FeatureMap(scaling, transformer.fit(X))


def solved_member(
    problem: RidgeProblem,
    params: dict[str, Any],
    features: FeatureMap,
    sums: NormalEquations,
) -> dict[str, Any]:
    """Coefficients of a candidate, and what its features depend on.

    Parameters
    ----------
    problem : RidgeProblem
        Its settings.
    params : dict
        The candidate.
    features : FeatureMap
        Its features.
    sums : NormalEquations
        Sums over all rows.

    Returns
    -------
    dict
        As of the estimators' ``members_``.
    """
    coef, intercept = solve_normal_equations(
        sums, params["alpha"], fit_intercept=problem.fit_intercept
    )
    transformer = features.transformer
    return {
        "params": params,
        "coef": ravel_single(coef, problem.single),
        "intercept": float(intercept[0]) if problem.single else intercept,
        "tau0": transformer.tau0_,
        "tau_star": transformer.tau_star_,
        "offset": transformer.offset_,
        "transformer": transformer,
    }


def member_values(
    scalings: dict[str, dict[str, Any]],
    X: np.ndarray,
    member: dict[str, Any],
    **followed: Any,
) -> np.ndarray:
    """Values of a member's regression.

    Parameters
    ----------
    scalings : dict
        Scalings, by name.
    X : ndarray of shape (n, p)
        Rows.
    member : dict
        From `solved_member`.
    **followed : dict
        Parameters that a fitted estimator follows, as they are now.

    Returns
    -------
    ndarray of shape (n,) or (n, n_targets)
        The values.
    """
    scaling = scalings.get(member["params"].get("scale", ""))
    transformer = member["transformer"]._as_fitted().set_params(**followed)
    features = FeatureMap(scaling, transformer)(X)
    values: np.ndarray = features @ member["coef"] + member["intercept"]
    return values


@dataclass(frozen=True)
class FeatureSums:
    """Normal equations of several ridge regressions, over the same rows.

    Attributes
    ----------
    members : list of NormalEquations
        One for each.
    """

    members: list[NormalEquations]

    def __add__(self, other: FeatureSums) -> FeatureSums:
        """Sums over the rows of both."""
        pairs = zip(self.members, other.members, strict=True)
        return FeatureSums([mine + theirs for mine, theirs in pairs])

    def __sizeof__(self) -> int:
        """Bytes with those of the members."""
        return object.__sizeof__(self) + sum(map(getsizeof, self.members))


@dataclass(frozen=True)
class SumsOfBlock:
    """What is summed of a block of rows; it travels to the workers.

    Attributes
    ----------
    maps : list of FeatureMap
        Features of each ridge regression.
    coding : Coding
        Targets of the ridge regression, and weights.
    """

    maps: list[FeatureMap]
    coding: Coding

    def __call__(self, block: Any) -> FeatureSums:
        """Sums over a block."""
        targets = self.coding.targets(block.y)
        weight = self.coding.weight(block.y, block.weight)
        return FeatureSums(
            [NormalEquations.of(f(block.X), targets, weight) for f in self.maps]
        )

    def __sizeof__(self) -> int:
        """Bytes with those of the maps."""
        return object.__sizeof__(self) + sum(map(getsizeof, self.maps))
