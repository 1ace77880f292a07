"""The two fixed points of the layer, as maps whose one matrix product is all that costs.

Both are z ↦ emit(constant + gain ∘ α z W), row by row: the state,
y = φ(u + α y Aᵀ) − offset with z = y/√m, and its adjoint, v = s ∘ (g + α v A).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from sklearn_deq.nn._mixed import approach
from sklearn_deq.nn._solvers import FixedPointResult, fixed_point

# A limit of iterations below which they are all made in full precision.
_LEAST_ROOM = 40


class Recurrence:
    """What both maps share; this one is linear, the adjoint.

    Parameters
    ----------
    constant : tensor of shape (n, m)
        What does not depend on z, and where the adjoint starts.
    weight : tensor of shape (m, m)
        W.
    alpha : float
        α.
    gain : tensor of shape (n, m), default=None
        Factors of the product; None: one.

    Attributes
    ----------
    start : tensor of shape (n, m)
        Where to start.
    value : tensor of shape (n, m)
        constant + gain ∘ α z W at the last state at which each row was evaluated.
    """

    def __init__(
        self,
        constant: torch.Tensor,
        weight: torch.Tensor,
        alpha: float,
        *,
        gain: torch.Tensor | None = None,
    ) -> None:
        self.constant, self.weight, self.alpha = constant, weight, alpha
        self.gain = gain
        self.start = self.value = constant
        self._parts: tuple[torch.Tensor, torch.Tensor | None] = (constant, gain)
        self._rows: torch.Tensor | None = None

    def __call__(self, z: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Evaluate the map for the rows in work, and note their values."""
        if rows.numel() == self.constant.shape[0]:
            value = self.value = self.affine(z)
        else:
            value = self.affine(z, rows)
            self.value[rows] = value
        return self.emit(value)

    def affine(
        self, z: torch.Tensor, rows: torch.Tensor | None = None
    ) -> torch.Tensor:
        """constant + gain ∘ α z W, of some rows or all."""
        constant, gain = self._of(rows)
        if gain is None:
            return torch.addmm(constant, z, self.weight, alpha=self.alpha)
        return torch.addcmul(constant, gain, z @ self.weight, value=self.alpha)

    def _of(
        self, rows: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Constant and gain of some rows, gathered anew only when the rows change."""
        if rows is None:
            return self.constant, self.gain
        if rows is not self._rows:
            gain = None if self.gain is None else self.gain[rows]
            self._parts, self._rows = (self.constant[rows], gain), rows
        return self._parts

    def part(self, rows: torch.Tensor) -> Recurrence:
        """The map of some rows."""
        constant, gain = self._of(rows)
        return Recurrence(constant, self.weight, self.alpha, gain=gain)

    def emit(self, value: torch.Tensor) -> torch.Tensor:
        """States of values."""
        return value

    def advance(
        self,
        z: torch.Tensor,
        value: torch.Tensor,
        product: torch.Tensor,
        change: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Add to the value what a product in lower precision adds to it.

        Returns the states, and the norms of what they changed by; change receives this
        in the lower precision. Value and z are used up.
        """
        torch.mul(self._low_gain(product.dtype), product, out=change)
        return value.add_(change), torch.linalg.vector_norm(change, dim=1).to(z.dtype)

    def _low_gain(self, dtype: torch.dtype) -> torch.Tensor:
        if self._low is None:
            self._low = (self.gain * self.alpha).to(dtype)
        return self._low

    _low: torch.Tensor | None = None


class StateRecurrence(Recurrence):
    """The map of the states.

    Parameters
    ----------
    constant : tensor of shape (n, m)
        The drive u.
    weight : tensor of shape (m, m)
        Aᵀ.
    alpha : float
        α.
    emit : callable
        φ − offset.
    start : tensor of shape (n, m), default=None
        Where to start; None: emit(constant).
    """

    def __init__(
        self,
        constant: torch.Tensor,
        weight: torch.Tensor,
        alpha: float,
        *,
        emit: Callable[[torch.Tensor], torch.Tensor],
        start: torch.Tensor | None = None,
    ) -> None:
        super().__init__(constant, weight, alpha)
        self._emit = emit
        self.start = emit(constant) if start is None else start

    def part(self, rows: torch.Tensor) -> Recurrence:
        """The map of some rows."""
        return StateRecurrence(
            self.constant[rows],
            self.weight,
            self.alpha,
            emit=self._emit,
            start=self.start[rows],
        )

    def emit(self, value: torch.Tensor) -> torch.Tensor:
        """φ(value) − offset."""
        return self._emit(value)

    def advance(
        self,
        z: torch.Tensor,
        value: torch.Tensor,
        product: torch.Tensor,
        change: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As the linear map's."""
        new = self._emit(value.add_(product, alpha=self.alpha))
        gap = torch.sub(new, z, out=z)
        change.copy_(gap)
        return new, torch.linalg.vector_norm(gap, dim=1)


def settle(
    recurrence: Recurrence,
    *,
    solver: str,
    tol: float,
    max_iter: int,
    low: torch.Tensor | None = None,
) -> FixedPointResult:
    """Solve for the fixed point of a recurrence.

    Parameters
    ----------
    recurrence : Recurrence
        The map; its ``value`` is left at the solution.
    solver, tol, max_iter : as in `fixed_point`
        Of the solve.
    low : tensor of shape (m, m), default=None
        The weight in a lower precision, in which most of the iterations are made then;
        what converges does so at an evaluation in full precision.

    Returns
    -------
    FixedPointResult
        Its states are f of those that the residuals belong to, one step further at no
        cost; of rows that did not converge, the best ones seen.
    """
    start = recurrence.start
    low_iter = evaluations = torch.zeros(1, dtype=torch.long, device=start.device)
    if low is not None and max_iter >= _LEAST_ROOM:
        start, low_iter, evaluations = approach(recurrence, low, tol, max_iter)
    result = fixed_point(recurrence, start, solver=solver, tol=tol, max_iter=max_iter)
    z = recurrence.emit(recurrence.value)
    bad = ~result.converged
    if bool(bad.any()):
        # The values of the last states seen: go back to the best ones.
        z[bad] = best = result.z[bad]
        recurrence.value[bad] = recurrence.affine(best, bad)
    return replace(
        result,
        z=z,
        n_iter=result.n_iter + low_iter,
        n_evaluations=result.n_evaluations + evaluations,
    )
