"""Damped plain iteration."""

from __future__ import annotations

import torch

# Half-way: converges where every eigenvalue λ of the Jacobian has |1 + λ| < 2, such as
# −1.5, where the plain iteration does not.
_DAMPING = 0.5


class DampedPicard:
    """z ← z + ½(f(z) − z); slower, but it takes expanding maps that oscillate."""

    def propose(
        self, z: torch.Tensor, image: torch.Tensor, gap: torch.Tensor
    ) -> torch.Tensor:
        """Return the state half-way to f(z)."""
        return torch.add(z, gap, alpha=_DAMPING)

    def keep(self, going: torch.Tensor) -> None:
        """Nothing is remembered."""
