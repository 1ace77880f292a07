"""The largest singular values of a matrix that changes a little at a time."""

from __future__ import annotations

import math

import torch

# Singular vectors followed from update to update; an update of Adam's pushes some ten
# singular values of A over a limit that holds them.
BLOCK = 24
# Krylov dimension of a measurement from a random start, and what it may miss.
_STEPS = 40
_FIRST_STEPS = 100
# Probability with which a bound may fail.
_FAILURE = 1e-5

Triplets = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


class SpectralGuard(torch.nn.Module):
    """Holds the singular values of a matrix at or below the largest of the first ones.

    Every update is followed by a block power iteration on `BLOCK` vectors that are
    kept, and what it finds above the limit is cut off; after updates 1, 2, 4, … 64 and
    every 64th a measurement from a random start finds what it may have missed.

    Parameters
    ----------
    weight : tensor of shape (m, m)
        The matrix, which is not changed here.

    Attributes
    ----------
    limit : float
        Upper bound of the singular values of the first matrix, tight to some 0.5 %.
    """

    block: torch.Tensor

    # An excess is cut off to a little below the limit, so that directions near it do
    # not exceed it again at every update.
    _DEPTH = 0.98
    # The largest excess after which one iteration is enough, and iterations at most.
    _SMALL = 1.02
    _ROUNDS = 4
    _INTERVAL = 64

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        values, _, right = lanczos(weight, _FIRST_STEPS)
        self.limit = float(values[0]) * missed(weight.shape[1], _FIRST_STEPS)
        self.updates = 0
        self.register_buffer("block", right[:, :BLOCK].clone())

    def get_extra_state(self) -> dict[str, float]:
        """Beside the vectors, the limit and the updates belong to the state.

        Returns
        -------
        dict of str to float
            Of plain values.
        """
        return {"limit": self.limit, "updates": self.updates}

    def set_extra_state(self, state: dict[str, float]) -> None:
        """Take them from a state dict.

        Parameters
        ----------
        state : dict of str to float
            What `get_extra_state` returned.
        """
        self.limit, self.updates = state["limit"], int(state["updates"])

    @torch.no_grad()
    def project(self, weight: torch.Tensor) -> None:
        """Cut off, in place, what is above the limit."""
        self.updates += 1
        if self.updates % min(self._INTERVAL, _power_of_two(self.updates)) == 0:
            self._cut(weight, *lanczos(weight, _STEPS))
        for _ in range(self._ROUNDS):
            largest = self._cut(weight, *block_power(weight, self.block))
            if not largest > self._SMALL * self.limit:
                return

    def _cut(
        self,
        weight: torch.Tensor,
        values: torch.Tensor,
        left: torch.Tensor,
        right: torch.Tensor,
    ) -> float:
        """Cut off the excess and follow the vectors; returns the largest value."""
        largest, target = float(values[0]), self._DEPTH * self.limit
        if not math.isfinite(largest):
            # Nothing can be told of such weights; the forward pass will tell.
            return largest
        over = int((values > self.limit).sum())
        if over >= self.block.shape[1]:
            # As many as are followed: there may be any number of others.
            weight.mul_(target / largest)
        elif over:
            excess = target - values[:over]
            weight.addmm_(left[:, :over] * excess, right[:, :over].T)
        self.block = right[:, : self.block.shape[1]].contiguous()
        return largest


def _power_of_two(number: int) -> int:
    """The largest power of two up to a number."""
    return 1 << (number.bit_length() - 1)


def missed(width: int, steps: int) -> float:
    """Factor by which the norm may exceed the largest value found by `lanczos`.

    With a random start the relative error of the largest eigenvalue of AᵀA is above ε
    with a probability of at most 1.648 √m exp(−√ε(2k − 1)) [1]_; the factor is 1/√(1−ε)
    at a probability of 1e-5.

    References
    ----------
    .. [1] Kuczyński & Woźniakowski (1992), "Estimating the largest eigenvalue by the
       power and Lanczos algorithms with a random start", theorem 4.2.
    """
    if steps >= width:
        return 1.0 + 1e-6
    root = math.log(1.648 * math.sqrt(width) / _FAILURE) / (2 * steps - 1)
    return 1.0 / math.sqrt(1.0 - min(root * root, 0.99))


def norm_bound(weight: torch.Tensor) -> float:
    """Upper bound of the spectral norm, tight to some 2 %, from a random start."""
    with torch.no_grad():
        largest = float(lanczos(weight, _STEPS)[0][0])
    return largest * missed(weight.shape[1], _STEPS)


@torch.no_grad()
def lanczos(weight: torch.Tensor, steps: int) -> Triplets:
    """Largest singular values, left and right vectors, from a random start.

    Krylov space of AᵀA, orthogonalised in full.
    """
    width = weight.shape[1]
    steps = min(steps, width)
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(width, generator=generator, dtype=torch.float64)
    vector = start.to(weight.device, weight.dtype)
    basis = weight.new_empty(width, steps)
    image = weight.new_empty(weight.shape[0], steps)
    for k in range(steps):
        known = basis[:, :k]
        for _ in range(2):
            vector = vector - known @ (known.T @ vector)
            # Of a space that is exhausted the norm is rounding; any direction serves.
            vector = torch.nn.functional.normalize(vector, dim=0)
        basis[:, k] = vector
        image[:, k] = weight @ vector
        vector = weight.T @ image[:, k]
    return _ritz(image, basis)


@torch.no_grad()
def block_power(weight: torch.Tensor, block: torch.Tensor) -> Triplets:
    """One step of block power iteration from right vectors, and what it finds.

    Singular values of A restricted to the new left space, so that they err by excess
    of none: each is at most the one of A.
    """
    space = torch.linalg.qr(weight @ block).Q
    values, right, left = _ritz(weight.T @ space, space)
    return values, left, right


def _ritz(image: torch.Tensor, basis: torch.Tensor) -> Triplets:
    """Values, left and right vectors of a matrix A from image = A basis."""
    # Small, in float64 and on the CPU, so that squaring loses nothing.
    gram = (image.T @ image).double().cpu()
    if not bool(torch.isfinite(gram).all()):
        nothing = image.new_full((gram.shape[0],), math.nan)
        return nothing, image, basis
    squares, turn = torch.linalg.eigh(gram)
    values = squares.flip(0).clamp_(min=0.0).sqrt().to(image)
    turn = turn.flip(1).to(image)
    left = (image @ turn) / values.clamp(min=torch.finfo(image.dtype).tiny)
    return values, left, basis @ turn
