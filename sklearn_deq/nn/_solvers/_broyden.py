"""Broyden's method with limited memory, every row with a Jacobian of its own."""

from __future__ import annotations

import torch

from sklearn_deq.nn._solvers._driver import row_dot

# Updates remembered; when there are more the method starts anew.
MEMORY = 30


class Broyden:
    """z ← z + H g, g = f(z) − z, where H approximates (I − f')⁻¹ as I + Σ_j u_j v_jᵀ.

    The "good" update: H ← H + (Δz + H Δg)(Hᵀ Δz)ᵀ/(−Δzᵀ H Δg). Where its denominator
    nearly vanishes, relative to what it is made of, the row leaves the update out.

    References
    ----------
    .. [1] Broyden (1965), "A class of methods for solving nonlinear simultaneous
       equations".
    """

    def __init__(self) -> None:
        self._columns: list[torch.Tensor] = []  # u_j
        self._rows: list[torch.Tensor] = []  # v_j
        self._last: tuple[torch.Tensor, torch.Tensor] | None = None

    def propose(
        self, z: torch.Tensor, image: torch.Tensor, gap: torch.Tensor
    ) -> torch.Tensor:
        """Return the zero of the linear model at z."""
        if self._last is not None:
            self._update(z - self._last[0], gap - self._last[1])
        self._last = z, gap
        return z + self._apply(gap, self._columns, self._rows)

    def _update(self, step: torch.Tensor, change: torch.Tensor) -> None:
        if len(self._columns) == MEMORY:
            self._columns.clear()
            self._rows.clear()
        # H Δg and Hᵀ Δz.
        moved = self._apply(change, self._columns, self._rows)
        row = self._apply(step, self._rows, self._columns)
        below = -row_dot(row, change)
        number = torch.finfo(step.dtype)
        least = number.eps * _size(row) * _size(change)
        # Nor is there an update of numbers whose products underflow.
        least.clamp_(min=number.tiny / number.eps)
        scale = torch.where(below.abs() > least, 1.0 / below, 0.0)
        self._columns.append((step + moved).mul_(scale))
        self._rows.append(row)

    @staticmethod
    def _apply(
        x: torch.Tensor, columns: list[torch.Tensor], rows: list[torch.Tensor]
    ) -> torch.Tensor:
        """x + Σ_j u_j (v_j·x)."""
        out = x.clone()
        for column, row in zip(columns, rows, strict=True):
            out.add_(row_dot(row, x) * column)
        return out

    def keep(self, going: torch.Tensor) -> None:
        """Forget the other rows."""
        self._columns = [part[going] for part in self._columns]
        self._rows = [part[going] for part in self._rows]
        if self._last is not None:
            self._last = self._last[0][going], self._last[1][going]


def _size(a: torch.Tensor) -> torch.Tensor:
    """Norms of the rows, shape (n, 1)."""
    return torch.linalg.vector_norm(a, dim=1, keepdim=True)
