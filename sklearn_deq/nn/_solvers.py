"""Fixed-point solvers that treat every row by itself.

A solver takes ``(f, z0, tol, max_iter)`` and returns a `FixedPointResult`. A row
freezes when it converges and leaves the work, at once or with others soon after; no row
sees another, so that results do not depend on the batch. `SOLVERS` is the one place to
add a solver.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

# Rows that are done leave the work once no more than this part of it is active.
_COMPACT_BELOW = 0.9

# f(z, rows): z holds the active rows, rows are their numbers in the batch.
FixedPointMap = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class FixedPointResult:
    """Outcome of a solve, row by row.

    Attributes
    ----------
    z : tensor of shape (n, m)
        f(z) of the state z that met the tolerance; of a row that did not converge the
        best state seen, z0 if no evaluation was finite.
    residual : tensor of shape (n,)
        ‖f(z) − z‖ / max(‖z‖, ‖f(z)‖) where it was measured: one step before what is
        returned of a converged row, at the very state returned of another. 0 at rest,
        inf for a row that was never finite.
    n_iter : tensor of shape (n,)
        Evaluations of f spent on the row.
    converged : tensor of shape (n,), bool
        Whether the residual is within the tolerance.
    """

    z: torch.Tensor
    residual: torch.Tensor
    n_iter: torch.Tensor
    converged: torch.Tensor


def _relative(gap: torch.Tensor, size: torch.Tensor) -> torch.Tensor:
    """Gap over size; a state at rest in 0 has none."""
    return torch.where(gap == 0, gap, gap / size)


def _picard(
    f: FixedPointMap, z0: torch.Tensor, tol: float, max_iter: int
) -> FixedPointResult:
    """Plain iteration z ← f(z); one evaluation per iteration."""
    n = z0.shape[0]
    out = z0.clone()
    residual = torch.full((n,), math.inf, dtype=z0.dtype, device=z0.device)
    n_iter = torch.full((n,), max_iter, dtype=torch.long, device=z0.device)
    # Of the rows in work: which they are, which still count, and their best states.
    rows = torch.arange(n, device=z0.device)
    active = torch.ones(n, dtype=torch.bool, device=z0.device)
    z, best, lowest = z0, z0, residual
    size = torch.linalg.vector_norm(z0, dim=1)
    n_active = n
    for k in range(1, max_iter + 1):
        if n_active == 0:
            break
        new = f(z, rows)
        new_size = torch.linalg.vector_norm(new, dim=1)
        gap = torch.linalg.vector_norm(new - z, dim=1)
        relative = _relative(gap, torch.maximum(size, new_size))
        better = relative < lowest  # never so for NaN
        if bool(better.all()):
            best, lowest = z, relative
        else:
            best = torch.where(better[:, None], z, best)
            lowest = torch.where(better, relative, lowest)
        going = active & torch.isfinite(relative) & (relative > tol)
        z, size, left = new, new_size, int(going.sum())
        if left == n_active:
            continue
        stop = active & ~going
        met = (relative <= tol)[stop, None]
        out[rows[stop]] = torch.where(met, new[stop], best[stop])
        residual[rows[stop]] = lowest[stop]
        n_iter[rows[stop]] = k
        active, n_active = going, left
        # Copying has a price: done rows stay in the work until there are enough.
        if left <= _COMPACT_BELOW * rows.numel():
            z, size, rows = z[going], size[going], rows[going]
            best, lowest, active = best[going], lowest[going], active[going]
    out[rows[active]] = best[active]
    residual[rows[active]] = lowest[active]
    return FixedPointResult(out, residual, n_iter, residual <= tol)


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
        ``f(z, rows)`` for the rows in work, z of shape (n_rows, m), whose numbers in
        the batch are rows: the same tensor until rows leave. It must treat rows
        independently.
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
    check_solver(solver, tol, max_iter)
    with torch.no_grad():
        return SOLVERS[solver](f, z0, tol, max_iter)


def check_solver(solver: str, tol: float, max_iter: int) -> None:
    """Refuse an unknown solver and settings with which none can work.

    Parameters
    ----------
    solver, tol, max_iter : as in `fixed_point`
        What to check.

    Raises
    ------
    ValueError
        If one of them is not allowed.
    """
    if solver not in SOLVERS:
        raise ValueError(f"solver must be one of {tuple(SOLVERS)}, got {solver!r}.")
    if not tol > 0 or max_iter < 1:
        raise ValueError(
            f"tol must be positive and max_iter at least 1, got {tol} and {max_iter}."
        )
