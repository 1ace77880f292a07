"""What kernel ridge says of the data where its own choice gives them away."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from sklearn_deq._warnings import warn
from sklearn_deq.estimators._ridge_problem import Outcome, RidgeProblem, best_index

# Share of the scores by which all penalties may differ and count as equally good.
_FLAT = 1e-6
# Share of copies among the samples that is spoken of, if nothing is smoothed.
_MANY_COPIES = 0.1
# Share of different values that some column of samples has, which are only equal if
# copied.
_VARIED = 0.25


def judge_copies(problem: RidgeProblem, params: dict[str, Any]) -> None:
    """Warn if leave-one-out smooths nothing for the copies that are left in."""
    alphas = problem.alphas
    if problem.splits is not None or len(alphas) < 2:
        return
    if params["alpha"] > alphas.min():
        return
    samples = np.hstack([problem.X, problem.targets])
    _, rows, sample = np.unique(samples, axis=0, return_index=True, return_inverse=True)
    n, copies = len(samples), len(samples) - len(rows)
    if copies < _MANY_COPIES * n:
        return
    # Where columns have few values, samples are equal by nature.
    varied = max(len(np.unique(column)) for column in problem.X.T)
    if varied < _VARIED * n:
        return
    weight, own = (
        np.bincount(sample.ravel(), weights=each)
        for each in (problem.weight, problem.sample_weight)
    )
    once = replace(problem.subset(rows), weight=weight, sample_weight=own)
    if _smooths_nothing(once, params):
        return
    # By the scores of the user it was chosen for other reasons, maybe.
    if problem.scorer is not None and not _smooths_nothing(problem, params):
        return
    warn(
        f"{copies} of {n} samples are copies of others, by which they are predicted "
        f"where they are held out: so the smallest alpha ({params['alpha']:.3g}) was "
        "chosen. If they were copied, as by oversampling, give each sample once, with "
        "the number of copies as sample_weight; or hold copies out together "
        "(cv=GroupKFold(), and groups).",
    )


def _smooths_nothing(problem: RidgeProblem, params: dict[str, Any]) -> bool:
    """Whether the least alpha has the least losses: a scorer may take no weights."""
    scores = replace(problem, scorer=None).evaluate(params).scores.mean(axis=0)
    best = problem.alphas[best_index(scores, problem.alphas)]
    return bool(best == problem.alphas.min())


def judge_size(problem: RidgeProblem, params: dict[str, Any], outcome: Outcome) -> None:
    """Warn of features that are so small that every penalty is too large."""
    scores = outcome.scores.mean(axis=0)
    flat = bool(np.ptp(scores) <= _FLAT * np.abs(scores).max())
    if flat or params["alpha"] == problem.alphas.min():
        model = problem.equilibrium(params, problem.scaled(params))
        model._warn_of_small_features()
