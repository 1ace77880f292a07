"""Equilibria of many rows, block by block, with the outcome of each solve."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from sklearn_deq._warnings import solver_warnings
from sklearn_deq.estimators._monitoring import shrink, solver_status
from sklearn_deq.estimators._training import BLOCK, in_blocks
from sklearn_deq.nn import EquilibriumLayer

# Steps of A towards 0 that a trained layer may need: little is left of it then.
_MOST_SHRINKS = 20


@dataclass(frozen=True)
class Solves:
    """Equilibria of some rows, and how it was with each.

    Attributes
    ----------
    features : ndarray of shape (n, width)
        The states.
    n_iter, residual, converged : ndarray of shape (n,)
        Of every row.
    statuses : list of dict
        What `solver_status` says of every block.
    """

    features: np.ndarray
    n_iter: np.ndarray
    residual: np.ndarray
    converged: np.ndarray
    statuses: list[dict[str, float]]

    @classmethod
    def of(cls, body: EquilibriumLayer, X: np.ndarray) -> Solves:
        """Solve for the equilibria of some rows, in blocks.

        Parameters
        ----------
        body : EquilibriumLayer
            What to solve.
        X : ndarray of shape (n, p)
            The rows.

        Returns
        -------
        Solves
            All of them.
        """
        blocks: list[tuple[np.ndarray, ...]] = []
        statuses = []
        for start in range(0, len(X), BLOCK):
            features = in_blocks(body, X[start : start + BLOCK])
            result: Any = body.last_result
            parts = (result.n_iter, result.residual, result.converged)
            blocks.append((features, *(part.cpu().numpy() for part in parts)))
            statuses.append(solver_status(body))
        features, n_iter, residual, converged = map(
            np.concatenate, zip(*blocks, strict=True)
        )
        return cls(features, n_iter, residual, converged, statuses)

    def complaint(self, body: EquilibriumLayer) -> str | None:
        """Say which rows did not converge; None if all did.

        Parameters
        ----------
        body : EquilibriumLayer
            What was solved.

        Returns
        -------
        str or None
            One sentence, with advice.
        """
        failed = int((~self.converged).sum())
        if not failed:
            return None
        return (
            f"With the final weights the equilibrium of {failed} of {len(self.n_iter)} "
            "training samples did not converge: largest relative residual "
            f"{self.residual.max():.1e} after {body.solver_max_iter} iterations. Raise "
            "solver_max_iter or tol, or lower recurrent_variance."
        )


def bring_back(body: EquilibriumLayer, X: np.ndarray) -> tuple[Solves, int, int]:
    """Leave a body with what its `stability` promises, changing it no more than needed.

    A is projected again if its certificate does not hold, and shrunk until the solver
    reaches the equilibrium of every row. With ``stability=None`` it is not touched.

    Parameters
    ----------
    body : EquilibriumLayer
        Changed in place.
    X : ndarray of shape (n, p)
        The rows.

    Returns
    -------
    solves : Solves
        With the A there is now.
    shrinks, lost : int
        How often it was shrunk, and rows that did not converge before.
    """
    shrinks = lost = 0
    if body.guard is not None and not body.guard.holds(body.recurrent_weight):
        body.stabilize()
    # Rows that do not converge are counted.
    with solver_warnings():
        solves = Solves.of(body, X)
        while (
            shrinks < _MOST_SHRINKS
            and body.stability is not None
            and not solves.converged.all()
        ):
            lost = lost or int((~solves.converged).sum())
            shrink(body, shrinks)
            shrinks += 1
            solves = Solves.of(body, X)
    return solves, shrinks, lost
