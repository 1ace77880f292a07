"""What the deep equilibrium models share: their layer, its solves, and its history."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np

from sklearn_deq._compat import Interval, StrOptions
from sklearn_deq._warnings import solver_warnings
from sklearn_deq.estimators._monitoring import (
    amend_history,
    solver_history,
    summarise,
)
from sklearn_deq.estimators._network import NetworkEstimator
from sklearn_deq.estimators._solves import Solves, bring_back
from sklearn_deq.estimators._training import BLOCK
from sklearn_deq.kernels._samples import as_tensor
from sklearn_deq.nn import BACKWARDS, SOLVERS, EquilibriumLayer
from sklearn_deq.nn._checks import STABILITIES
from sklearn_deq.theory import EquilibriumMoments

# Units of rounding below which a residual says nothing.
_LEAST_TOL = 64.0


class EquilibriumNetworkEstimator(NetworkEstimator):
    """Network estimator whose body is an equilibrium layer."""

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **NetworkEstimator._parameter_constraints,
        "solver": [StrOptions(set(SOLVERS))],
        "tol": [Interval(Real, 0, None, closed="neither")],
        "solver_max_iter": [Interval(Integral, 1, None, closed="left")],
        "stability": [StrOptions({s for s in STABILITIES if s is not None}), None],
        "backward": [StrOptions(set(BACKWARDS))],
        "backward_tol": [Interval(Real, 0, None, closed="left")],
    }
    _followed = NetworkEstimator._followed.union(
        (
            "solver",
            "tol",
            "solver_max_iter",
            "stability",
            "backward",
            "backward_tol",
        )
    )
    _body_class = EquilibriumLayer

    def _body_settings(
        self, n_features: int, moments: EquilibriumMoments, dtype: np.dtype
    ) -> dict[str, Any]:
        return {
            "n_features": n_features,
            "width": int(self.width),
            "activation": moments.activation,
            "recurrent_variance": self.recurrent_variance,
            "input_variance": self.input_variance,
            "bias_variance": self.bias_variance,
            "offset": moments.offset,
            "trainable": self.trainable,
            **self._solver_settings(dtype),
        }

    def _solver_settings(self, dtype: np.dtype) -> dict[str, Any]:
        return {
            "solver": self.solver,
            "tol": max(self.tol, _LEAST_TOL * float(np.finfo(dtype).eps)),
            "solver_max_iter": self.solver_max_iter,
            "stability": self.stability,
            "backward": self.backward,
            "backward_tol": self.backward_tol,
        }

    def _follow(self, X: np.ndarray) -> None:
        before, settings = self._settings, self._solver_settings(X.dtype)
        self._settings = {**before, **settings}
        self._body.configure(**settings)
        if before != self._settings:
            self._check_start(X)

    def _frozen_features(self, X: np.ndarray) -> np.ndarray:
        """Features at the initial weights, which have to be stable."""
        solves = Solves.of(self._body, X)
        self._require_stable(X, solves)
        self._record(solves)
        parts = (as_tensor(part[:BLOCK]) for part in (X, solves.features))
        weight = self._body.recurrent_weight
        self._body.measure_slopes(*(part.to(weight) for part in parts))
        summary = summarise(solves.statuses, self._body)
        # Of all rows alike, though the last block has fewer.
        summary["n_iter"] = float(solves.n_iter.mean())
        self.solver_history_ = {name: [value] for name, value in summary.items()}
        return solves.features

    def _check_start(self, X: np.ndarray) -> None:
        with solver_warnings():
            self._require_stable(X, Solves.of(self._body, X))

    def _require_stable(self, X: np.ndarray, solves: Solves) -> None:
        """Refuse weights without an equilibrium that the solver reaches in time."""
        if self.stability is None or solves.converged.all():
            return
        raise ValueError(
            "Unstable: at the weights that training begins with the solver does not "
            f"converge for {(~solves.converged).sum()} of {len(X)} samples (largest "
            f"relative residual {solves.residual.max():.1e}, "
            f"tol={self._body.tol:.1e}), although an infinitely wide layer settles. "
            f"Raise solver_max_iter={self.solver_max_iter} or tol, lower "
            f"recurrent_variance={self.recurrent_variance:.4g}, raise "
            f"width={self.width}, try another solver or random_state, or set "
            "stability=None to go on nevertheless."
        )

    def _settle(self, X: np.ndarray) -> list[str]:
        solves, shrinks, lost = bring_back(self._body, X)
        amend_history(self.net_.history, self._body, shrinks)
        self.solver_history_ = solver_history(self.net_.history)
        self._record(solves)
        if not np.isfinite(solves.features).all():
            raise ValueError(
                "Training diverged: features are not finite. Lower lr, or scale X."
            )
        if self.stability is not None and not solves.converged.all():
            raise ValueError(
                "Training diverged: the equilibria of "
                f"{(~solves.converged).sum()} of {len(X)} training samples were lost "
                "and could not be brought back. Lower lr, or scale X."
            )
        said = [solves.complaint(self._body) or ""]
        if shrinks:
            said.append(
                f"The last updates lost the equilibrium of {lost} of {len(X)} training "
                f"samples: {shrinks} steps of A towards 0 brought it back. Lower lr or "
                "recurrent_variance."
            )
        return said

    def _record(self, solves: Solves) -> None:
        self.solver_n_iter_ = solves.n_iter
        self.converged_ = bool(solves.converged.all())
        self.residual_ = float(solves.residual.max())
