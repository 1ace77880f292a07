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

# Numbers in the states of the rows that are solved at once, on other devices and on
# CPUs: there a block of them stays in the cache, and memory is that of a few blocks.
_AT_ONCE = (2**26, 2**18)
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
    value : tensor of shape (n, m)
        The value at the last state at which each row was evaluated.
    """

    def __init__(
        self, constant: torch.Tensor, weight: torch.Tensor, alpha: float
    ) -> None:
        self.constant, self.weight, self.alpha = constant, weight, alpha
        self.value = constant
        self._part: tuple[torch.Tensor, Recurrence] | None = None

    def __call__(self, z: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Evaluate the map for the rows in work, and note their values."""
        if rows.numel() == self.constant.shape[0]:
            value = self.value = self.affine(z)
        else:
            # Gathered anew only when the rows change.
            if self._part is None or rows is not self._part[0]:
                self._part = rows, self.part(rows)
            value = self._part[1].affine(z)
            self.value[rows] = value
        return self.emit(value)

    @abstractmethod
    def part(self, rows: torch.Tensor) -> Recurrence:
        """The map of some rows."""

    @abstractmethod
    def begin(self) -> torch.Tensor:
        """Where to start."""

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
        in the lower precision. Value is used up, and so is z, unless it was the start
        of an adjoint.
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
        self._emit, self._start = emit, start

    def part(self, rows: torch.Tensor) -> Recurrence:
        """The map of some rows."""
        start = None if self._start is None else self._start[rows]
        constant, emit = self.constant[rows], self._emit
        return StateRecurrence(
            constant, self.weight, self.alpha, emit=emit, start=start
        )

    def begin(self) -> torch.Tensor:
        """The start that was given, or emit(u); a tensor of its own."""
        if self._start is None:
            return self._emit(self.constant)
        return self._start.clone()

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
        self.gain = gain
        self._low_gain: torch.Tensor | None = None

    def part(self, rows: torch.Tensor) -> Recurrence:
        """The map of some rows."""
        constant, gain = self.constant[rows], self.gain[rows]
        return AdjointRecurrence(constant, self.weight, self.alpha, gain=gain)

    def begin(self) -> torch.Tensor:
        """The source."""
        return self.constant

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
    make: Callable[[slice], Recurrence],
    like: torch.Tensor,
    *,
    solver: str,
    tol: float,
    max_iter: int,
    low: torch.Tensor | None = None,
) -> tuple[FixedPointResult, torch.Tensor]:
    """Solve for the fixed points of a recurrence, some rows at a time.

    Parameters
    ----------
    make : callable
        The map of some rows.
    like : tensor of shape (n, m)
        Of the shape and kind of the states.
    solver, tol, max_iter : as in `fixed_point`
        Of the solve.
    low : tensor of shape (m, m), default=None
        The weight in a lower precision, in which most of the iterations are made then;
        what converges does so at an evaluation in full precision.

    Returns
    -------
    result : FixedPointResult
        Its states are those that the residuals belong to, the best ones seen. Where the
        plain iteration converged they are its next ones, f of those, at no cost: it
        converges where f contracts alone, so that their residuals are smaller.
    values : tensor of shape (n, m)
        Of which they are the states.
    """
    n, width = like.shape
    at_once = max(_AT_ONCE[like.device.type == "cpu"] // width, 1)

    def solve(rows: slice) -> tuple[FixedPointResult, torch.Tensor]:
        return _settle_block(make(rows), solver, tol, max_iter, low)

    if n <= at_once:
        return solve(slice(n))
    parts = []
    z = values = torch.empty_like(like)
    for first in range(0, n, at_once):
        rows = slice(first, first + at_once)
        part, part_values = solve(rows)
        if first == 0 and part_values is not part.z:
            values = torch.empty_like(like)
        z[rows], values[rows] = part.z, part_values
        # Its states have been copied.
        parts.append(replace(part, z=z[:0]))
    fields = ("residual", "n_iter", "n_evaluations", "converged")
    whole = {name: torch.cat([getattr(p, name) for p in parts]) for name in fields}
    return FixedPointResult(z, **whole), values


def _settle_block(
    recurrence: Recurrence,
    solver: str,
    tol: float,
    max_iter: int,
    low: torch.Tensor | None,
) -> tuple[FixedPointResult, torch.Tensor]:
    """The solve of rows that are taken at once."""
    start = recurrence.begin()
    low_iter = evaluations = torch.zeros(1, dtype=torch.long, device=start.device)
    if low is not None and max_iter >= _LEAST_ROOM:
        start, low_iter, evaluations = approach(recurrence, low, tol, max_iter)
    result = fixed_point(recurrence, start, solver=solver, tol=tol, max_iter=max_iter)
    # Other solvers get to states that f leads away from.
    further = solver == "picard"
    z = recurrence.emit(recurrence.value) if further else result.z
    bad = ~result.converged
    if bool(bad.any()):
        # The values of the last states seen: go back to the best ones. Where states are
        # values both are the same tensor.
        best = result.z[bad]
        recurrence.value[bad] = recurrence.part(bad).affine(best)
        z[bad] = best
    result = replace(
        result,
        z=z,
        n_iter=result.n_iter + low_iter,
        n_evaluations=result.n_evaluations + evaluations,
    )
    return result, recurrence.value
