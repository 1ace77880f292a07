"""The largest singular values of a matrix that changes a little at a time."""

from __future__ import annotations

import math
import struct
from typing import NamedTuple

import torch

# Singular vectors followed from update to update; an update of Adam's pushes some ten
# singular values of A over a limit that holds them.
BLOCK = 24
# Krylov dimensions of a measurement from a random start.
_STEPS = 40
_FIRST_STEPS = 100
# Probes of a bound, and the probability with which it may fail; the degree of its
# polynomial at most.
_PROBES = 8
_FAILURE = 1e-9
_DEGREE = 64
# P(|g| < _FAINT) ** _PROBES = _FAILURE for a standard normal g.
_FAINT = math.sqrt(2.0) * float(
    torch.erfinv(torch.tensor(_FAILURE ** (1.0 / _PROBES), dtype=torch.float64))
)
# Numbers of a matrix that a CPU has at hand for a second product.
_CACHED = 2**18
# By this factor the norm of a matrix may exceed the first one's, at most.
SLACK = 1.15

Triplets = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


class SpectralGuard(torch.nn.Module):
    """Holds the singular values of a matrix at or below the largest of the first ones.

    Every update is followed by a block power iteration on `BLOCK` vectors that are
    kept, and what it finds above the limit is cut off. What it may have missed is then
    bounded, by fresh random probes: only with a proof that the norm is below `ceiling`
    is the matrix left as it is.

    Parameters
    ----------
    weight : tensor of shape (m, m)
        The matrix, which is not changed here.
    critical : float, default=inf
        Norm that must not be reached if the first matrix is below it.

    Attributes
    ----------
    limit : float
        Upper bound of the singular values of the first matrix, tight to some 0.1 %.
    certified : bool
        Whether the first matrix is below the critical norm; all later ones are then.
    ceiling : float
        What no norm exceeds after `project`: 1.15 times the limit, and the critical
        norm if the first one is certified.
    degree : int
        Of the polynomials of the proofs, at most.
    """

    block: torch.Tensor

    # An excess is cut off to a little below the limit, so that directions near it do
    # not exceed it again at every update.
    _DEPTH = 0.98
    # The largest excess after which one iteration is enough, and iterations at most.
    _SMALL = 1.02
    _ROUNDS = 4

    def __init__(self, weight: torch.Tensor, critical: float = math.inf) -> None:
        super().__init__()
        values, _, right = lanczos(weight, _FIRST_STEPS)
        self.limit = polynomial_bound(weight, float(values[0])).value
        # With room for the rounding of the matrix.
        self.ceiling = min((1.0 - 1e-5) * critical, SLACK * self.limit)
        proof = polynomial_bound(weight, self.limit, self.ceiling)
        self.certified = proof.value <= self.ceiling
        if not self.certified:
            self.ceiling = SLACK * self.limit
            proof = polynomial_bound(weight, self.limit, self.ceiling)
        self.degree = proof.degree + 2
        self.register_buffer("block", right[:, :BLOCK].clone())

    _PLAIN = ("limit", "certified", "ceiling", "degree")

    def get_extra_state(self) -> dict[str, float]:
        """Beside the vectors, plain numbers belong to the state.

        Returns
        -------
        dict of str to float
            Of plain values.
        """
        return {name: getattr(self, name) for name in self._PLAIN}

    def set_extra_state(self, state: dict[str, float]) -> None:
        """Take them from a state dict.

        Parameters
        ----------
        state : dict of str to float
            What `get_extra_state` returned.
        """
        for name in self._PLAIN:
            setattr(self, name, state[name])

    @torch.no_grad()
    def project(self, weight: torch.Tensor) -> None:
        """Cut off, in place, what is above the limit, and prove that it is gone."""
        for _ in range(self._ROUNDS):
            largest = self._cut(weight, self.block)
            if not math.isfinite(largest):
                # Nothing can be told of such weights; the forward pass will tell.
                return
            if largest <= self._SMALL * self.limit:
                break
        for remaining in reversed(range(self._ROUNDS)):
            bound = polynomial_bound(weight, self.limit, self.ceiling, self.degree)
            if bound.value <= self.ceiling:
                return
            if remaining:
                both = torch.cat([bound.vectors.T, self.block], dim=1)
                self._cut(weight, torch.linalg.qr(both).Q)
            else:
                weight.mul_(self.ceiling / bound.value)

    def holds(self, weight: torch.Tensor) -> bool:
        """Whether the ceiling can be proved of A as it is.

        Parameters
        ----------
        weight : tensor of shape (m, m)
            A.

        Returns
        -------
        bool
            False also where A is not finite.
        """
        bound = polynomial_bound(weight, self.limit, self.ceiling, self.degree)
        return bound.value <= self.ceiling

    def _cut(self, weight: torch.Tensor, block: torch.Tensor) -> float:
        """Cut off the excess that vectors lead to, and follow those it is seen in.

        Returns the largest singular value found.
        """
        values, left, right = block_power(weight, block)
        largest, target = float(values[0]), self._DEPTH * self.limit
        if not math.isfinite(largest):
            return largest
        over = int((values > self.limit).sum())
        if over >= block.shape[1]:
            # As many as are looked at: there may be any number of others.
            weight.mul_(target / largest)
        elif over:
            excess = target - values[:over]
            weight.addmm_(left[:, :over] * excess, right[:, :over].T)
        self.block = right[:, : self.block.shape[1]].contiguous()
        return largest


def norm_bound(weight: torch.Tensor) -> float:
    """Upper bound of the spectral norm, tight to some 0.2 %."""
    return polynomial_bound(weight, float(lanczos(weight, _STEPS)[0][0])).value


class Bound(NamedTuple):
    """Upper bound of a spectral norm.

    Attributes
    ----------
    value : float
        The bound; nan if the matrix is not finite.
    vectors : tensor of shape (8, m)
        What the probes became: rows along singular vectors that are above the top.
    degree : int
        Of the polynomial.
    """

    value: float
    vectors: torch.Tensor
    degree: int


@torch.no_grad()
def polynomial_bound(
    weight: torch.Tensor, top: float, enough: float = 0.0, degree: int = _DEGREE
) -> Bound:
    """Upper bound of the spectral norm of A, of at least top.

    Chebyshev's polynomials of the fourth kind [1]_, W of AᵀA, are orthogonal over the
    singular values of a normal matrix, up to top, and grow fast beyond. A singular
    value σ > top leaves |W(σ) g₁| ≤ ‖W(AᵀA) g‖ for every normal vector g, where g₁, the
    component along its vector, is a normal number. That all 8 of them are so small that
    σ is above the bound has a probability of 1e-9, whatever the matrix.

    Parameters
    ----------
    weight : tensor of shape (m, m)
        A.
    top : float
        What the norm is expected to be at most.
    enough : float, default=0.0
        A bound as small as this is returned as soon as it is found.
    degree : int, default=64
        Of the polynomial, at most.

    Returns
    -------
    Bound
        The bound, and what it is from.

    References
    ----------
    .. [1] Mason & Handscomb (2003), "Chebyshev Polynomials", section 1.2.
    """
    if top == 0.0 and not bool(weight.any()):
        return Bound(0.0, weight[:0], 0)
    top = max(top, torch.finfo(weight.dtype).tiny ** 0.25)
    before = _probes(weight, _PROBES)
    now, log_scale, value = before, 0.0, math.inf
    for k in range(1, degree + 1):
        after = _add_gram(-before, weight, now, 4.0 / (top * top))
        if k > 1:
            after.sub_(now, alpha=2.0)
        before, now = now, after
        size = float(torch.linalg.vector_norm(now, dim=1).max())
        if not math.isfinite(size):
            return Bound(math.nan, now, k)
        growth = _growth(math.log(max(size / _FAINT, 1.0)) + log_scale, k)
        value = top * math.cosh(0.5 * growth)
        if value <= enough:
            break
        if size > 1e12:
            # Far above top it would overflow.
            before, now = before / size, now / size
            log_scale += math.log(size)
    return Bound(value, now, k)


def _growth(log_value: float, degree: int) -> float:
    """Upper bound of the η at which W(cosh η) has a value.

    W(cosh η) = sinh((k + 1/2) η)/sinh(η/2) = e^{kη} (1 − e^{−(2k+1)η})/(1 − e^{−η}),
    whose last factor falls with η: put in at a bound of η, it leaves one.
    """
    growth = log_value / degree
    for _ in range(4):
        if growth <= 0.0:
            return 0.0
        factor = math.expm1(-growth) / math.expm1(-(2 * degree + 1) * growth)
        growth = (log_value + math.log(factor)) / degree
    return max(growth, 0.0)


def _add_gram(
    total: torch.Tensor, weight: torch.Tensor, vectors: torch.Tensor, alpha: float
) -> torch.Tensor:
    """Add α v AᵀA in place: of rows of A that stay in a CPU's cache from Aᵀ to A."""
    rows = weight.shape[0]
    if weight.device.type == "cpu":
        rows = max(_CACHED // weight.shape[1], 1)
    for part in weight.split(rows):
        total.addmm_(vectors @ part.T, part, alpha=alpha)
    return total


def _probes(weight: torch.Tensor, count: int) -> torch.Tensor:
    """Normal rows, others for every matrix: no direction escapes for long."""
    trace = float(weight.diagonal().double().sum())
    (seed,) = struct.unpack("<q", struct.pack("<d", trace))
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, weight.shape[1], generator=generator).to(weight)


@torch.no_grad()
def lanczos(weight: torch.Tensor, steps: int) -> Triplets:
    """Largest singular values, left and right vectors, from a random start.

    Krylov space of AᵀA, orthogonalised in full.
    """
    width = weight.shape[1]
    steps = min(steps, width)
    vector = _probes(weight, 1).squeeze(0)
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
    # Orthonormal by its own Gram matrix, which is well conditioned for vectors near the
    # leading ones; a QR of few columns costs a loaded machine more than the products.
    _, space, _ = _ritz(weight @ block, block)
    values, right, left = _ritz((space.T @ weight).T, space)
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
    eps, tiny = torch.finfo(image.dtype).eps, torch.finfo(image.dtype).tiny
    left = (image @ turn) / values.clamp(min=max(eps * float(values[0]), tiny))
    return values, left, basis @ turn
