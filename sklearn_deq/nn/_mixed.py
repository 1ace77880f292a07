"""Most iterations of a solve in a lower precision, at the accuracy of the full one.

A product in bfloat16 errs by some 2⁻⁸ of its own size. So z is brought within 2⁻⁸ of
the fixed point from nothing; there its product is computed in full, once; and what
changes from there on is so small that its products in bfloat16 do to 2⁻¹⁸ of z; and so
on. Whether a row has converged is for the solver to say, which starts from here, in
full precision.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from sklearn_deq.nn._recurrence import Recurrence

_LOWER = {torch.float32: torch.bfloat16, torch.float64: torch.float32}
# A row whose change does not fall to this part of the last one has reached the noise,
# or contracts too slowly for this to be of use.
_STAGNATION = 0.9
# Of the tolerance: room for the error of the last products, so that the first
# evaluation in full finds that the row has converged.
_MARGIN = 0.7
# Narrower products are too short for the difference to matter.
_LEAST_WIDTH = 512


def can_lower(weight: torch.Tensor) -> bool:
    """Whether there is a precision below this one's."""
    return weight.dtype in _LOWER


def lower(weight: torch.Tensor) -> torch.Tensor:
    """A weight in the precision below its own."""
    return weight.detach().to(_LOWER[weight.dtype])


def lower_pays(weight: torch.Tensor) -> bool:
    """Whether products in the precision below are much faster, for this weight.

    So they are for bfloat16 on matrix units: those of recent GPUs, and of CPUs with
    AMX; elsewhere it is emulated. The answer does not depend on the batch.
    """
    if weight.dtype != torch.float32 or weight.shape[0] < _LEAST_WIDTH:
        return False
    if weight.device.type == "cuda":
        return torch.cuda.get_device_capability(weight.device) >= (8, 0)
    return weight.device.type == "cpu" and _cpu_has_matrix_units()


def _cpu_has_matrix_units() -> bool:
    # Earlier versions of torch do not tell; then they are not used.
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("amx_bf16")) and bool(capabilities.get("amx_tile"))


def approach(
    recurrence: Recurrence, low: torch.Tensor, tol: float, max_iter: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Go from the start to within about tol of the fixed point.

    Parameters
    ----------
    recurrence : Recurrence
        The map.
    low : tensor of shape (m, m)
        Its weight in a lower precision.
    tol : float
        Relative residual that the solver will ask for.
    max_iter : int
        Iterations at most.

    Returns
    -------
    z : tensor of shape (n, m)
        States.
    n_iter, n_evaluations : tensors of shape (n,)
        Iterations in either precision, and evaluations in full precision, spent.
    """
    z = recurrence.start.clone()
    goals = _goals(_MARGIN * tol, low.dtype)
    n_iter = torch.zeros(z.shape[0], dtype=torch.long, device=z.device)
    value, change = recurrence.constant.clone(), z.to(low.dtype)
    for level, goal in enumerate(goals):
        if level:
            anchor, value = z, recurrence.affine(z)
            z = recurrence.emit(value)
            torch.sub(z, anchor, out=change)
        budget = max_iter // len(goals) - 1
        z, steps = _descend(recurrence, low, z, value, change, goal, budget)
        n_iter += steps
    # What is not finite had better begin anew, in full precision.
    finite = torch.isfinite(torch.linalg.vector_norm(z, dim=1))
    if not bool(finite.all()):
        z = torch.where(finite[:, None], z, recurrence.start)
    full = len(goals) - 1
    return z, n_iter + full, torch.full_like(n_iter, full)


def _goals(least: float, dtype: torch.dtype) -> list[float]:
    """Relative changes to reach between one evaluation in full and the next."""
    unit = 0.5 * torch.finfo(dtype).eps
    goals = [max(unit, least)]
    while goals[-1] > least:
        # A quarter, since the noise of the last products has been contracted as well.
        goals.append(max(0.25 * unit * goals[-1], least))
    return goals


def _descend(
    recurrence: Recurrence,
    low: torch.Tensor,
    z: torch.Tensor,
    value: torch.Tensor,
    change: torch.Tensor,
    goal: float,
    max_iter: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Iterate in the lower precision until every row is about to reach the goal.

    What is given is used up. Returns the states and the iterations of each row; one
    that is done changes no more.
    """
    steps = torch.full((z.shape[0],), max_iter, dtype=torch.long, device=z.device)
    product = torch.empty_like(change)
    active = torch.ones_like(steps, dtype=torch.bool)
    last: torch.Tensor | None = None
    for k in range(1, max_iter + 1):
        torch.mm(change, low, out=product)
        z, distance = recurrence.advance(z, value, product, change)
        if last is None:
            least = goal * torch.linalg.vector_norm(z, dim=1)
            going = distance > least
        else:
            # The next change is to be expected to fall by as much as this one did.
            going = distance * distance > least * last
            going &= distance < _STAGNATION * last
        last = distance
        going &= active
        if not torch.equal(going, active):
            stopped = active & ~going
            steps[stopped], change[stopped] = k, 0.0
            active = going
            if not bool(active.any()):
                break
    return z, steps
