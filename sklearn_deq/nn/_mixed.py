"""Most iterations of a solve in a lower precision, at the accuracy of the full one.

A product in bfloat16 errs by some 2⁻⁹ of its own size. So the states are iterated with
it until they are as good as such products can make them; there the product is computed
in full, once; and what changes from there on is so small that its products in bfloat16
serve; and so on, row by row, until the error left by them is well below the tolerance.
Whether a row has converged is for the solver to say, which starts from here, in full
precision.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING

import torch

from sklearn_deq._shared import SharedSetting

if TYPE_CHECKING:
    from sklearn_deq.nn._recurrence import Recurrence

_LOWER = {torch.float32: torch.bfloat16, torch.float64: torch.float32}
# Error of a row of products, relative to it, in units of the roundoff 2⁻⁸.
_NOISE = 0.25
# Of the tolerance: what the error of the products may be, since it is not the same for
# every size of the batch, and what the last change may be, with room for that error.
_NOISE_ALLOWED = 0.25
_MARGIN = 0.7
# Rows that contract more slowly than this are not worth the while.
_SLOWEST = 0.9
_MOST_LEVELS = 4
# Narrower products are too short for the difference to matter: on vector units, which
# gain up to a factor of two, sooner than on matrix units.
_LEAST_WIDTH = {"matrix": 512, "vector": 1024}


def can_lower(weight: torch.Tensor) -> bool:
    """Whether there is a precision below this one's."""
    return weight.dtype in _LOWER


class Lowered:
    """The last weight in the precision below its own, until it changes.

    Once for both passes of a step. Changes behind the back of the version counter cost
    iterations, not accuracy. Copies and pickles are empty.
    """

    def __init__(self) -> None:
        # In one piece, as threads may predict side by side.
        self._last: tuple[weakref.ref[torch.Tensor], int, torch.Tensor] | None = None

    def __call__(self, weight: torch.Tensor) -> torch.Tensor:
        """What is returned is written over when the same weight has changed."""
        dtype = _LOWER[weight.dtype]
        if weight.is_inference():
            return weight.to(dtype)
        version = weight._version
        if self._last is not None:
            known, of, low = self._last
            kind = low.dtype, low.device, low.shape
            if known() is weight and kind == (dtype, weight.device, weight.shape):
                if of != version:
                    # New memory for every update would cost as much as two products.
                    low.copy_(weight.detach())
                    self._last = known, version, low
                return low
        # What is made in inference mode could not be written over outside of it.
        with torch.inference_mode(False):
            low = weight.detach().to(dtype)
        self._last = weakref.ref(weight), version, low
        return low

    def __reduce__(self) -> tuple[type[Lowered], tuple[()]]:
        return Lowered, ()


def lower_pays(weight: torch.Tensor) -> bool:
    """Whether products in the precision below are much faster, for this weight.

    So they are for bfloat16 on units of its own: those of recent GPUs, and of CPUs with
    AMX or AVX512-BF16; elsewhere it is emulated. The answer does not depend on the
    batch: a single row is slower, by the time in which the weight is converted.
    """
    least = _LEAST_WIDTH.get(bfloat16_units(weight.device))
    return (
        least is not None and weight.dtype == torch.float32 and weight.shape[0] >= least
    )


def bfloat16_units(device: torch.device) -> str:
    """Return "matrix", "vector", or "" where there are none, or torch does not tell."""
    if device.type == "cuda":
        return "matrix" if torch.cuda.get_device_capability(device) >= (8, 0) else ""
    # Earlier versions of torch do not tell.
    tell = getattr(torch.cpu, "get_capabilities", None)
    if device.type != "cpu" or tell is None:
        return ""
    has = tell()
    if has.get("amx_bf16") and has.get("amx_tile"):
        return "matrix"
    return "vector" if has.get("avx512_bf16") else ""


@contextmanager
def _sums_in_float32() -> Iterator[None]:
    settings = torch.backends.cuda.matmul
    before = settings.allow_bf16_reduced_precision_reduction
    settings.allow_bf16_reduced_precision_reduction = False
    try:
        yield
    finally:
        settings.allow_bf16_reduced_precision_reduction = before


_FULL_SUMS = SharedSetting(_sums_in_float32)


def full_sums(device: torch.device) -> AbstractContextManager[None]:
    """Let products in bfloat16 be summed up in float32 alone, on GPUs as on CPUs."""
    return _FULL_SUMS() if device.type == "cuda" else nullcontext()


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
    z = recurrence.begin()
    n = z.shape[0]
    n_iter = torch.zeros(n, dtype=torch.long, device=z.device)
    full = torch.zeros_like(n_iter)
    # Of the rows in work: numbers, map, states, values and changes.
    rows, part, y = torch.arange(n, device=z.device), recurrence, z
    value, change = recurrence.constant.clone(), z.to(low.dtype)
    for level in range(_MOST_LEVELS):
        most = max_iter // _MOST_LEVELS - 1
        with full_sums(z.device):
            y, steps, done = _descend(part, low, y, value, change, tol, most)
        n_iter[rows] += steps
        z = _put(z, rows, y)
        if level == _MOST_LEVELS - 1 or bool(done.all()):
            break
        if bool(done.any()):
            rows, y, part = rows[~done], y[~done], part.part(~done)
        n_iter[rows] += 1
        full[rows] += 1
        value = part.affine(y)
        new = part.emit(value)
        change = torch.sub(new, y, out=change[: len(y)])
        y = new
    # What is not finite had better begin anew, in full precision.
    finite = torch.isfinite(torch.linalg.vector_norm(z, dim=1))
    if not bool(finite.all()):
        z = torch.where(finite[:, None], z, recurrence.begin())
    return z, n_iter, full


def _put(z: torch.Tensor, rows: torch.Tensor, part: torch.Tensor) -> torch.Tensor:
    if rows.numel() == z.shape[0]:
        return part
    z[rows] = part
    return z


def _descend(
    recurrence: Recurrence,
    low: torch.Tensor,
    z: torch.Tensor,
    value: torch.Tensor,
    change: torch.Tensor,
    tol: float,
    max_iter: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Iterate in the lower precision until every row is lost in its noise, or done.

    What is given is used up. Returns the states, the iterations of each row, and
    whether it is done: near enough to the fixed point, or not to be brought there.
    """
    noise = _NOISE * torch.finfo(low.dtype).eps / 2
    steps = torch.full((z.shape[0],), max_iter, dtype=torch.long, device=z.device)
    product = torch.empty_like(change)
    active = torch.ones_like(steps, dtype=torch.bool)
    last = torch.linalg.vector_norm(change, dim=1).to(z.dtype)
    path, end = last.clone(), last
    allowed = first = last
    for k in range(1, max_iter + 1):
        torch.mm(change, low, out=product)
        z, distance = recurrence.advance(z, value, product, change)
        if k == 1:
            allowed, first = tol * torch.linalg.vector_norm(z, dim=1), distance
        path += distance
        # The next change is to be expected to fall by as much as this one did.
        least = torch.maximum(_MARGIN * allowed, noise * path)
        going = (distance * distance > least * last) & (distance < last) & active
        if not torch.equal(going, active):
            stopped = active & ~going
            steps.masked_fill_(stopped, k)
            end = torch.where(stopped, distance, end)
            active = going
            if not bool(active.any()):
                break
            change.masked_fill_(stopped[:, None], 0.0)
        last = distance
    end = torch.where(active, last, end)
    rate = (end / first).pow_(1.0 / (steps - 1).clamp_(min=1))
    error = noise * path * rate / (1.0 - rate)
    near = error <= _NOISE_ALLOWED * allowed
    return z, steps, near | ~(rate < _SLOWEST)
