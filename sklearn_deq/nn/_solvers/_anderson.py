"""Anderson acceleration, every row with weights of its own."""

from __future__ import annotations

import torch

from sklearn_deq.nn._solvers._driver import row_dot

# Pairs remembered; their memory is taken as they come.
MEMORY = 30
# A pair of which less than this power of the roundoff is new, relative to its size, is
# noise, and left out.
_LEAST_NEW = 2.0 / 3.0


class Anderson:
    """Type II: z ← f(z) − Σ_j γ_j Δf_j, γ minimising ‖g − Σ_j γ_j Δg_j‖, g = f − z.

    The Δg_j of a row are kept orthonormal (Gram–Schmidt, twice), with the same
    combinations of the Δf_j beside them: then γ_j = Δg_j·g, no system is solved, and
    none can be singular. What is new in a Δg, and how little of it is too little, is
    measured relative to the Δg itself, so that the scale of the problem has no say.

    References
    ----------
    .. [1] Walker & Ni (2011), "Anderson acceleration for fixed-point iterations".
    """

    def __init__(self) -> None:
        self._directions: list[torch.Tensor] = []  # orthonormal Δg
        self._images: list[torch.Tensor] = []  # the same combinations of Δf
        self._last: tuple[torch.Tensor, torch.Tensor] | None = None

    def propose(
        self, z: torch.Tensor, image: torch.Tensor, gap: torch.Tensor
    ) -> torch.Tensor:
        """Return the combination of the values of f with the smallest residual."""
        if self._last is not None:
            self._remember(gap - self._last[0], image - self._last[1])
        self._last = gap, image
        proposal = image.clone()
        for direction, moved in zip(self._directions, self._images, strict=True):
            proposal.sub_(row_dot(direction, gap) * moved)
        return proposal

    def _remember(self, direction: torch.Tensor, moved: torch.Tensor) -> None:
        """Add a pair, made orthogonal to those there are."""
        size = torch.linalg.vector_norm(direction, dim=1, keepdim=True)
        for _ in range(2):
            for known, image in zip(self._directions, self._images, strict=True):
                part = row_dot(known, direction)
                direction.sub_(part * known)
                moved.sub_(part * image)
        rest = torch.linalg.vector_norm(direction, dim=1, keepdim=True)
        least = torch.finfo(size.dtype).eps ** _LEAST_NEW
        scale = torch.where(rest > least * size, 1.0 / rest, 0.0)
        self._directions.append(direction.mul_(scale))
        self._images.append(moved.mul_(scale))
        if len(self._directions) > MEMORY:
            del self._directions[0], self._images[0]

    def keep(self, going: torch.Tensor) -> None:
        """Forget the other rows."""
        self._directions = [part[going] for part in self._directions]
        self._images = [part[going] for part in self._images]
        if self._last is not None:
            self._last = self._last[0][going], self._last[1][going]
