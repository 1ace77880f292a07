"""Equilibria of many rows, block by block, with the outcome of each solve."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from sklearn_deq.estimators._monitoring import solver_status
from sklearn_deq.estimators._training import BLOCK, in_blocks
from sklearn_deq.exceptions import SolverWarning
from sklearn_deq.nn import EquilibriumLayer


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
    def of(
        cls, body: EquilibriumLayer, X: np.ndarray, max_iter: int | None = None
    ) -> Solves:
        """Solve for the equilibria of some rows, in blocks.

        Parameters
        ----------
        body : EquilibriumLayer
            What to solve.
        X : ndarray of shape (n, p)
            The rows.
        max_iter : int, default=None
            Iterations at most; None: as many as the body is set to.

        Returns
        -------
        Solves
            All of them.
        """
        limit = body.solver_max_iter
        blocks: list[tuple[np.ndarray, ...]] = []
        statuses = []
        try:
            body.solver_max_iter = max_iter or limit
            for start in range(0, len(X), BLOCK):
                features = in_blocks(body, X[start : start + BLOCK])
                result: Any = body.last_result
                parts = (result.n_iter, result.residual, result.converged)
                blocks.append((features, *(part.cpu().numpy() for part in parts)))
                statuses.append(solver_status(body))
        finally:
            body.solver_max_iter = limit
        features, n_iter, residual, converged = map(
            np.concatenate, zip(*blocks, strict=True)
        )
        return cls(features, n_iter, residual, converged, statuses)


@contextmanager
def without_solver_warnings() -> Iterator[None]:
    """Keep silent about rows that do not converge: they are counted."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SolverWarning)
        yield
