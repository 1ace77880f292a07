"""What all solvers share: stopping row by row, the best state, rows that leave."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch

# f(z, rows): z holds the rows in work, rows are their numbers in the batch.
FixedPointMap = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class Rule(Protocol):
    """How a solver goes on: the next states of the rows in work, from this one's."""

    def propose(
        self, z: torch.Tensor, image: torch.Tensor, gap: torch.Tensor
    ) -> torch.Tensor:
        """Return the next states, where image = f(z) and gap = f(z) − z.

        All are of shape (n_rows, m), and a row of the result depends on the same row
        alone. The arguments may be remembered, not changed.
        """

    def keep(self, going: torch.Tensor) -> None:
        """Forget the rows that leave: going, of shape (n_rows,), is False for them."""


@dataclass(frozen=True)
class FixedPointResult:
    """Outcome of a solve, row by row.

    Attributes
    ----------
    z : tensor of shape (n, m)
        The state with the smallest residual of all that were seen; z0 if no evaluation
        was finite.
    residual : tensor of shape (n,)
        ‖f(z) − z‖/‖z‖ of this very state. 0 at rest, inf for a row that was never
        finite.
    n_iter : tensor of shape (n,)
        Iterations spent on the row.
    n_evaluations : tensor of shape (n,)
        Evaluations of f, in its own precision, spent on the row.
    converged : tensor of shape (n,), bool
        Whether ‖f(z) − z‖ ≤ max(tol ‖z‖, atol).
    """

    z: torch.Tensor
    residual: torch.Tensor
    n_iter: torch.Tensor
    n_evaluations: torch.Tensor
    converged: torch.Tensor


class _Work:
    """The rows in work with the best state of each, and what came of the others."""

    def __init__(
        self, z0: torch.Tensor, tol: float, atol: float, max_iter: int
    ) -> None:
        n = z0.shape[0]
        self.tol = tol
        number = torch.finfo(z0.dtype)
        self.rounding = _rounding(z0)
        self.least_allowed = max(atol, self.rounding)
        # Below it squares may underflow in a norm.
        self.least_norm = math.sqrt(number.tiny / number.eps)
        self.z = z0
        self.residual = torch.full((n,), math.inf, dtype=z0.dtype, device=z0.device)
        self.n_iter = torch.full((n,), max_iter, dtype=torch.long, device=z0.device)
        self.converged = torch.zeros(n, dtype=torch.bool, device=z0.device)
        self.rows = torch.arange(n, device=z0.device)
        # Of the rows in work. The error is the gap over the largest one allowed.
        self.best, self.error = z0, self.residual
        self.gap, self.size = self.residual, torch.ones_like(self.residual)
        self._whole: torch.Tensor | None = None

    def judge(self, z: torch.Tensor, gaps: torch.Tensor) -> torch.Tensor | None:
        """Note better states; returns which rows go on, None if all do."""
        size = torch.linalg.vector_norm(z, dim=1)
        gap = torch.linalg.vector_norm(gaps, dim=1)
        error, better, going = self._compare(size, gap)
        measured = gap > self.least_norm
        outcome = torch.stack([better, going, measured])
        all_better, all_going, all_measured = outcome.all(dim=1).tolist()
        if not all_measured:
            size, gap = _safe_norms(z), _safe_norms(gaps)
            error, better, going = self._compare(size, gap)
            all_better, all_going = bool(better.all()), bool(going.all())
        if all_better:
            self.best, self.error, self.gap, self.size = z, error, gap, size
        else:
            self.best = torch.where(better[:, None], z, self.best)
            self.error = torch.where(better, error, self.error)
            self.gap = torch.where(better, gap, self.gap)
            self.size = torch.where(better, size, self.size)
        return None if all_going else going

    def _compare(
        self, size: torch.Tensor, gap: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Errors of states, which of them are better, and which rows go on."""
        error = gap / (self.tol * size).clamp_(min=self.least_allowed)
        # A state too large to be measured is no state to be at.
        error = torch.where(size < math.inf, error, math.inf)
        # Better is never so for NaN.
        return error, error < self.error, (error > 1.0) & (gap < math.inf)

    def dismiss(self, going: torch.Tensor, k: int) -> None:
        """Take rows out of the work, at iteration k, with their best states."""
        self.n_iter[self.rows[~going]] = k
        self._store(~going)
        self.rows, self.best = self.rows[going], self.best[going]
        self.error = self.error[going]
        self.gap, self.size = self.gap[going], self.size[going]

    def result(self) -> FixedPointResult:
        """End the work."""
        if self.rows.numel():
            self._store(torch.ones_like(self.rows, dtype=torch.bool))
        n_iter = self.n_iter
        return FixedPointResult(self.z, self.residual, n_iter, n_iter, self.converged)

    def _store(self, part: torch.Tensor) -> None:
        rows = self.rows[part]
        if rows.numel() == self.z.shape[0]:
            self.z = self.best
        else:
            if self._whole is None:
                self.z = self._whole = self.z.clone()
            self._whole[rows] = self.best[part]
        residual = _ratio(self.gap, self.size, self.rounding)
        self.residual[rows] = residual[part]
        self.converged[rows] = self.error[part] <= 1.0


def row_dot(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Products of rows with rows, shape (n, 1)."""
    return torch.linalg.vecdot(a, b, dim=1).unsqueeze(1)


def relative_residual(z: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    """Measure states as solvers do.

    Parameters
    ----------
    z, image : tensors of shape (n, m)
        States, and f(z).

    Returns
    -------
    tensor of shape (n,)
        ‖f(z) − z‖/‖z‖; 0 for a state at rest, even in 0.
    """
    return _ratio(_safe_norms(image - z), _safe_norms(z), _rounding(z))


def _ratio(gap: torch.Tensor, size: torch.Tensor, rounding: float) -> torch.Tensor:
    return torch.where(gap <= rounding, 0.0, gap / size)


def _rounding(z: torch.Tensor) -> float:
    """Gap of numbers below the smallest normal one, as that of a state at rest in 0."""
    return math.sqrt(z.shape[1]) * torch.finfo(z.dtype).tiny


def _safe_norms(x: torch.Tensor) -> torch.Tensor:
    """Norms of the rows without squares that underflow."""
    largest = x.abs().amax(dim=1)
    small = (largest > 0.0) & (largest < 1.0)
    scale = torch.where(small, largest, 1.0)
    return torch.linalg.vector_norm(x / scale[:, None], dim=1) * scale


def iterate(
    rule: Rule,
    f: FixedPointMap,
    z0: torch.Tensor,
    tol: float,
    atol: float,
    max_iter: int,
) -> FixedPointResult:
    """Solve z = f(z) from z0 by a rule.

    A row is evaluated for the last time when it converges, or is no longer finite, and
    leaves the work at once.
    """
    work = _Work(z0, tol, atol, max_iter)
    z = z0
    for k in range(1, max_iter + 1):
        if work.rows.numel() == 0:
            break
        image = f(z, work.rows)
        if image.shape != z.shape:
            raise ValueError(
                f"f returns shape {tuple(image.shape)} for states of shape "
                f"{tuple(z.shape)}: it must keep it."
            )
        gap = image - z
        going = work.judge(z, gap)
        if going is not None:
            work.dismiss(going, k)
            if work.rows.numel() == 0:
                break
            z, image, gap = z[going], image[going], gap[going]
            rule.keep(going)
        if k < max_iter:
            z = rule.propose(z, image, gap)
    return work.result()
