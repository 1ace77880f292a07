"""Fixed-point solvers that treat every row by itself.

A solver takes ``(f, z0, tol, max_iter)`` and returns a `FixedPointResult`. A row
freezes when it converges and leaves the work; no row sees another, so that results do
not depend on the batch. `SOLVERS` is the one place to add a solver.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

# f(z, rows): z holds the active rows, rows are their numbers in the batch.
FixedPointMap = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class FixedPointResult:
    """Outcome of a solve, row by row.

    Attributes
    ----------
    z : tensor of shape (n, m)
        The best state seen of each row; finite.
    residual : tensor of shape (n,)
        ‖f(z) − z‖/‖z‖ of that state (absolute where f(z) = 0); inf for a row that was
        never finite.
    n_iter : tensor of shape (n,)
        Evaluations of f spent on the row.
    converged : tensor of shape (n,), bool
        Whether the residual is within the tolerance.
    """

    z: torch.Tensor
    residual: torch.Tensor
    n_iter: torch.Tensor
    converged: torch.Tensor


def _picard(
    f: FixedPointMap, z0: torch.Tensor, tol: float, max_iter: int
) -> FixedPointResult:
    """Plain iteration z ← f(z); one evaluation per iteration."""
    n = z0.shape[0]
    best = z0.clone()
    residual = torch.full((n,), float("inf"), dtype=z0.dtype, device=z0.device)
    n_iter = torch.zeros(n, dtype=torch.long, device=z0.device)
    rows = torch.arange(n, device=z0.device)
    z = z0
    for k in range(1, max_iter + 1):
        if not rows.numel():
            break
        new = f(z, rows)
        size = torch.linalg.vector_norm(new, dim=1)
        gap = torch.linalg.vector_norm(new - z, dim=1)
        relative = torch.where(size > 0, gap / size, gap)
        finite = torch.isfinite(relative)
        # What is kept is f(z): one step nearer than the z that was measured.
        better = finite & (relative < residual[rows])
        if bool(better.all()) and rows.numel() == n:
            best, residual = new, relative
        else:
            chosen = rows[better]
            best = best.index_copy(0, chosen, new[better])
            residual = residual.index_copy(0, chosen, relative[better])
        n_iter[rows] = k
        going = finite & (relative > tol)
        if bool(going.all()):
            z = new
        else:
            z, rows = new[going], rows[going]
    return FixedPointResult(best, residual, n_iter, residual <= tol)


SOLVERS: dict[
    str, Callable[[FixedPointMap, torch.Tensor, float, int], FixedPointResult]
] = {"picard": _picard}
"""Solvers by name."""


def fixed_point(
    f: FixedPointMap,
    z0: torch.Tensor,
    *,
    solver: str = "picard",
    tol: float = 1e-5,
    max_iter: int = 200,
) -> FixedPointResult:
    """Solve z = f(z) for every row of z0, without a graph.

    Parameters
    ----------
    f : callable
        ``f(z, rows)`` for the active rows z of shape (n_active, m), whose numbers in
        the batch are rows. It must treat rows independently.
    z0 : tensor of shape (n, m)
        Where to start.
    solver : str, default="picard"
        A key of `SOLVERS`.
    tol : float, default=1e-5
        Relative residual of a row at which it is done.
    max_iter : int, default=200
        Evaluations of f at most.

    Returns
    -------
    FixedPointResult
        State, residual, iterations and success of each row.

    Raises
    ------
    ValueError
        For an unknown solver, a tolerance that is not positive, or max_iter < 1.

    Examples
    --------
    >>> import torch
    >>> from sklearn_deq.nn import fixed_point
    >>> result = fixed_point(lambda z, rows: 0.5 * z + 1, torch.zeros(3, 2))
    >>> bool(result.converged.all()), round(float(result.z[0, 0]), 3)
    (True, 2.0)
    """
    if solver not in SOLVERS:
        raise ValueError(f"solver must be one of {set(SOLVERS)}, got {solver!r}.")
    if not tol > 0 or max_iter < 1:
        raise ValueError(
            f"tol must be positive and max_iter at least 1, got {tol} and {max_iter}."
        )
    with torch.no_grad():
        return SOLVERS[solver](f, z0, tol, max_iter)
