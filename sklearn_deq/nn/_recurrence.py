"""The two fixed points of the layer, as maps that cost one matrix product.

Row by row, the state is y = φ(u + α y Aᵀ) − offset, where z = y/√m, and its adjoint is
v = source + s ∘ α v A.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace

import torch

from sklearn_deq.nn._mixed import approach
from sklearn_deq.nn._solvers import FixedPointResult, fixed_point

# A limit of iterations below which they are all made in full precision.
_LEAST_ROOM = 40


class Recurrence(ABC):
    """The map z ↦ emit(value), value = constant + … α z W.

    Parameters
    ----------
    constant : tensor of shape (n, m)
        What does not depend on z.
    weight : tensor of shape (m, m)
        W.
    alpha : float
        α.

    Attributes
    ----------
    start : tensor of shape (n, m)
        Where to start.
    value : tensor of shape (n, m)
        The value at the last state at which each row was evaluated.
    """

    start: torch.Tensor

    def __init__(
        self, constant: torch.Tensor, weight: torch.Tensor, alpha: float
    ) -> None:
        self.constant, self.weight, self.alpha = constant, weight, alpha
        self.value = constant
        self._part, self._rows = self, torch.empty(0)

    def __call__(self, z: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Evaluate the map for the rows in work, and note their values."""
        if rows.numel() == self.constant.shape[0]:
            value = self.value = self.affine(z)
        else:
            # Gathered anew only when the rows change.
            if rows is not self._rows:
                self._part, self._rows = self.part(rows), rows
            value = self._part.affine(z)
            self.value[rows] = value
        return self.emit(value)

    @abstractmethod
    def part(self, rows: torch.Tensor) -> Recurrence:
        """The map of some rows."""

    @abstractmethod
    def affine(self, z: torch.Tensor) -> torch.Tensor:
        """Values at the states z."""

    @abstractmethod
    def emit(self, value: torch.Tensor) -> torch.Tensor:
        """States of values."""

    @abstractmethod
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
        φ − offset; it returns a new tensor.
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
        start, emit = self.start[rows], self._emit
        return StateRecurrence(
            self.constant[rows], self.weight, self.alpha, emit=emit, start=start
        )

    def affine(self, z: torch.Tensor) -> torch.Tensor:
        """u + α z Aᵀ."""
        return torch.addmm(self.constant, z, self.weight, alpha=self.alpha)

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
        """See the base class."""
        new = self._emit(value.add_(product, alpha=self.alpha))
        gap = torch.sub(new, z, out=z)
        change.copy_(gap)
        return new, torch.linalg.vector_norm(gap, dim=1)


class AdjointRecurrence(Recurrence):
    """The map of the adjoint, which is linear: its values are its states.

    Parameters
    ----------
    constant : tensor of shape (n, m)
        The source, where it starts.
    weight : tensor of shape (m, m)
        A.
    alpha : float
        α.
    gain : tensor of shape (n, m)
        The slopes s.
    """

    def __init__(
        self,
        constant: torch.Tensor,
        weight: torch.Tensor,
        alpha: float,
        *,
        gain: torch.Tensor,
    ) -> None:
        super().__init__(constant, weight, alpha)
        self.start, self.gain = constant, gain
        self._low_gain: torch.Tensor | None = None

    def part(self, rows: torch.Tensor) -> Recurrence:
        """The map of some rows."""
        constant, gain = self.constant[rows], self.gain[rows]
        return AdjointRecurrence(constant, self.weight, self.alpha, gain=gain)

    def affine(self, z: torch.Tensor) -> torch.Tensor:
        """source + s ∘ α z A."""
        product = z @ self.weight
        return torch.addcmul(
            self.constant, self.gain, product, value=self.alpha, out=product
        )

    def emit(self, value: torch.Tensor) -> torch.Tensor:
        """Return the value."""
        return value

    def advance(
        self,
        z: torch.Tensor,
        value: torch.Tensor,
        product: torch.Tensor,
        change: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See the base class."""
        if self._low_gain is None:
            self._low_gain = (self.gain * self.alpha).to(product.dtype)
        torch.mul(self._low_gain, product, out=change)
        return value.add_(change), torch.linalg.vector_norm(change, dim=1).to(z.dtype)


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
        # The values of the last states seen: go back to the best ones. Of an adjoint
        # value and z are the same.
        best = result.z[bad]
        recurrence.value[bad] = recurrence.part(bad).affine(best)
        z[bad] = best
    return replace(
        result,
        z=z,
        n_iter=result.n_iter + low_iter,
        n_evaluations=result.n_evaluations + evaluations,
    )
