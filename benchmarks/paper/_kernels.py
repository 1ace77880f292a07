"""The exact kernel of a DEQ beside its asymptotic and its explicit equivalent."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np

from benchmarks._tables import operator_norm
from sklearn_deq.estimators._norms import matched_norms
from sklearn_deq.exceptions import MatchWarning
from sklearn_deq.kernels import deq_kernel, explicit_kernel
from sklearn_deq.theory import (
    EquilibriumMoments,
    MatchResult,
    equilibrium_moments,
    high_dimensional_equivalent,
    solve_match,
)


@dataclass(frozen=True)
class Kernels:
    """Three kernels on the same rows, and the match behind the last."""

    exact: np.ndarray
    asymptotic: np.ndarray
    explicit: np.ndarray
    match: MatchResult
    moments: EquilibriumMoments

    def error(self, other: np.ndarray) -> float:
        """Relative distance from the exact kernel, in operator norm."""
        return operator_norm(other - self.exact) / operator_norm(self.exact)


def kernels(
    X: np.ndarray,
    activation: str,
    recurrent_variance: float,
    *,
    kernel: str = "ck",
    architecture: str = "auto",
    bias_variance: float = 0.0,
    train: np.ndarray | slice = slice(None),
) -> Kernels:
    """The kernels of one DEQ on some rows, with σ_b² = 1 − σ_a².

    τ0 is that of the training rows, and a Hermite layer is made for norms as estimators
    make it that are fitted on them.
    """
    norms = np.sqrt(np.mean(X[train] ** 2, axis=1))
    variances = {
        "recurrent_variance": recurrent_variance,
        "input_variance": 1.0 - recurrent_variance,
        "bias_variance": bias_variance,
    }
    moments = equilibrium_moments(
        activation, tau0=float(np.sqrt(np.mean(norms**2))), **variances
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MatchWarning)
        match = solve_match(
            moments,
            kernel=kernel,
            architecture=architecture,
            norms=matched_norms(moments, norms) if architecture == "hermite" else None,
        )
    return Kernels(
        exact=deq_kernel(
            X, kernel=kernel, activation=activation, tau0=moments.tau0, **variances
        ),
        asymptotic=high_dimensional_equivalent(X, moments, kernel=kernel),
        explicit=explicit_kernel(
            X, layers=match.layers, kernel=kernel, multipliers=match.multipliers
        ),
        match=match,
        moments=moments,
    )
