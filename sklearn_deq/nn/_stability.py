"""What keeps the equilibrium layer well-posed while it trains."""

from __future__ import annotations

import functools
import math

import torch
from torch import nn

from sklearn_deq.nn._activations import TorchActivation
from sklearn_deq.nn._implicit import full_precision
from sklearn_deq.nn._spectral import SpectralGuard, norm_bound
from sklearn_deq.theory import lipschitz_constant


class WellPosed(nn.Module):
    """The part of an `EquilibriumLayer` that measures and holds its stability."""

    recurrent_weight: nn.Parameter
    activation: TorchActivation
    stability: str | None
    recurrent_scale: float
    guard: SpectralGuard | None
    _alpha: float
    _slopes: torch.Tensor | None
    _last_pass: tuple[torch.Tensor, torch.Tensor] | None
    _probes: int

    def drive(self, x: torch.Tensor) -> torch.Tensor:
        """What the input adds to every iteration."""
        raise NotImplementedError

    def _mix(self, z: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        """Pre-activations at the states z."""
        raise NotImplementedError

    def stabilize(self) -> None:
        """Hold the largest singular value of A at its initial value.

        To be called after every update; without effect unless ``stability="project"``.
        Where the initial weights are certified to be a contraction, as they are for 2
        σ_a Lip(φ) < 1 (``guard.certified``: σ_a Lip(φ) ‖A‖/√m < 1; docs/theory.md,
        section 1), so they are after every call. Only what exceeds the limit is taken
        away, so that the weights that were drawn, which carry the kernel, are never
        touched.

        Notes
        -----
        What is new can exceed the limit by some per cent for an update or two, but
        never ``guard.ceiling``: 1.15 times the limit, or less where that would be no
        contraction. That is proved in every call from random probes, with a probability
        of error of 1e-9; what cannot be proved is scaled down until it can.
        """
        if self.guard is not None:
            self.guard.project(self.recurrent_weight)

    def _make_guard(self) -> SpectralGuard:
        slope = self._alpha * self._lipschitz
        critical = 1.0 / slope if slope > 0.0 else math.inf
        return SpectralGuard(self.recurrent_weight.detach(), critical)

    @torch.no_grad()
    def measure_slopes(self, x: torch.Tensor, z: torch.Tensor) -> None:
        """Measure what `chi` is made of, where no gradients do.

        Parameters
        ----------
        x : tensor of shape (n, p)
            Samples.
        z : tensor of shape (n, m)
            Their states.
        """
        self._note_slopes(self._mix(z, self.drive(x)))

    def _note_slopes(self, pre: torch.Tensor) -> None:
        self._slopes = self.activation.derivative(pre).square().mean(dim=0)

    @property
    def chi(self) -> float:
        """σ_a² E[φ'²], averaged over the last batch that gradients went through.

        ‖J‖²_F/m of the Jacobian J = diag(φ') σ_a A/√m with the present A, whose
        spectral radius tends to √χ; nan before the first such batch.
        """
        if self._slopes is None:
            return math.nan
        rows = torch.linalg.vector_norm(self.recurrent_weight.detach(), dim=1)
        total = torch.dot(self._slopes, rows.square())
        return float(total) * self.recurrent_scale**2 / rows.numel() ** 2

    @property
    def spectral_bound(self) -> float:
        """Upper bound of σ_a Lip(φ) ‖A‖/√m: below 1 the layer is a contraction.

        Tight to some 0.2 %; computed anew from random vectors, in the time of some 130
        products of A with eight of them. inf if φ has no largest slope.
        """
        norm = norm_bound(self.recurrent_weight.detach())
        return self._alpha * self._lipschitz * norm

    @functools.cached_property
    def _lipschitz(self) -> float:
        try:
            return lipschitz_constant(self.activation.activation)
        except ValueError:
            return math.inf

    def jacobian_penalty(self) -> torch.Tensor:
        """Estimate χ of the last batch by a random probe, for the loss.

        Mean over the samples of ‖Jᵀε‖²/m with J = diag(φ') σ_a A/√m at the states that
        `forward` found last, taken as constants, and signs ε, new ones in every call.

        Returns
        -------
        tensor of shape ()
            The penalty, whose expectation is χ; gradients reach all weights.

        Raises
        ------
        RuntimeError
            Unless ``stability="jacobian"`` and `forward` ran with gradients enabled.
        """
        if self._last_pass is None:
            raise RuntimeError(
                "jacobian_penalty needs stability='jacobian' and the states of a "
                f"forward pass with gradients enabled (stability={self.stability!r})."
            )
        with full_precision(self.recurrent_weight):
            return self._estimate_chi(*self._last_pass)

    def _estimate_chi(self, x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        pre = self._mix(z, self.drive(x))
        (slope,) = torch.autograd.grad(
            self.activation(pre).sum(), pre, create_graph=True
        )
        generator = torch.Generator().manual_seed(self._probes)
        self._probes += 1
        signs = torch.randint(2, z.shape, generator=generator, dtype=torch.int8)
        probe = signs.mul_(2).sub_(1).to(z.device, z.dtype)
        probed = (slope * probe) @ self.recurrent_weight
        return (self._alpha * probed).square().sum() / max(z.numel(), 1)
