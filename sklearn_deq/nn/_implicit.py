"""The equilibrium as a function that autograd can differentiate, as often as asked.

No graph of the solver is kept: the derivatives are fixed points themselves
(docs/theory.md, section 6).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any

import torch

from sklearn_deq._warnings import heard_by, listener

if TYPE_CHECKING:
    from sklearn_deq.nn._equilibrium import EquilibriumLayer

Gradient = torch.Tensor | None


def full_precision(like: torch.Tensor) -> torch.autocast:
    """Within it products are as precise as their factors, whatever is around it."""
    return torch.autocast(like.device.type, enabled=False)


def _in_full_precision(pass_: Callable[..., Any]) -> Callable[..., Any]:
    """A pass of an autograd function, which autocast must not change.

    What its solver says goes where that of the forward pass went.
    """

    @wraps(pass_)
    def wrapped(ctx: Any, first: torch.Tensor, *others: Any) -> Any:
        with full_precision(first), heard_by(getattr(ctx, "heard", None)):
            return pass_(ctx, first, *others)

    return wrapped


class Equilibrium(torch.autograd.Function):
    """(x, A, B, c) ↦ z."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        input_weight: torch.Tensor,
        bias: torch.Tensor | None,
        layer: EquilibriumLayer,
        start: torch.Tensor | None,
    ) -> torch.Tensor:
        """Solve; of the states, and what went into φ, nothing else is kept."""
        u = layer.drive(x, input_weight, bias)
        z, pre = layer.equilibrium(u, weight, start)
        ctx.layer, ctx.heard = layer, listener()
        # With A: backward uses the one of this pass, and refuses one changed in place.
        ctx.save_for_backward(x, weight, input_weight, bias, z, pre)
        return z

    @staticmethod
    @_in_full_precision
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[Gradient, ...]:
        """Solve the adjoint; with a graph, so that it can be differentiated, if asked.

        With v = s ∘ (g/√m + α v A), s = φ': ∂x = v B σ_b/√p, ∂A = σ_a vᵀ z,
        ∂B = σ_b vᵀ x/√p and ∂c = σ_c Σ v.
        """
        x, weight, input_weight, _, z, pre = ctx.saved_tensors
        layer: EquilibriumLayer = ctx.layer
        if torch.is_grad_enabled():
            v = _differentiable_adjoint(ctx, gradient)
        else:
            v = layer.adjoint(pre, gradient, weight)
        need_x, need_weight, need_input, need_bias, *_ = ctx.needs_input_grad
        return (
            _product(v, input_weight, layer.input_scale) if need_x else None,
            _product(v.T, z, layer.recurrent_scale) if need_weight else None,
            _product(v.T, x, layer.input_scale) if need_input else None,
            v.sum(dim=0) * layer.bias_scale if need_bias else None,
            None,
            None,
        )


def _product(a: torch.Tensor, b: torch.Tensor, scale: float) -> torch.Tensor:
    """scale · a b in one pass."""
    nothing = a.new_zeros(())
    return torch.addmm(nothing, a, b, beta=0, alpha=scale)


def _differentiable_adjoint(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
    """The adjoint as a function of all that it depends on."""
    layer: EquilibriumLayer = ctx.layer
    if layer.backward_mode != "implicit":
        raise RuntimeError(
            f"The {layer.backward_mode!r} gradient cannot be differentiated again "
            "(create_graph=True): use backward='implicit' or 'unrolled'."
        )
    x, weight, input_weight, bias, z, _ = ctx.saved_tensors
    u = layer.drive(x, input_weight, bias)
    pre = torch.addmm(u, z, weight.T, alpha=layer.recurrent_scale)
    phi = layer.activation(pre)
    (slope,) = torch.autograd.grad(phi.sum(), pre, create_graph=True)
    source = slope * gradient * layer.output_scale
    v: torch.Tensor = Adjoint.apply(  # type: ignore[no-untyped-call]
        source, slope, weight, layer
    )
    return v


class Adjoint(torch.autograd.Function):
    """(source, s, A) ↦ v = source + s ∘ α v A."""

    @staticmethod
    @_in_full_precision
    def forward(
        ctx: Any,
        source: torch.Tensor,
        slope: torch.Tensor,
        weight: torch.Tensor,
        layer: EquilibriumLayer,
    ) -> torch.Tensor:
        """Solve."""
        v = layer.solve_adjoint(source, slope, weight)
        ctx.layer, ctx.heard = layer, listener()
        ctx.save_for_backward(slope, weight, v)
        return v

    @staticmethod
    @_in_full_precision
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[Gradient, ...]:
        """Solve the equation with Aᵀ, μ = s ∘ (w + α μ Aᵀ); with it λ = w + α μ Aᵀ.

        ∂source = λ, ∂s = λ ∘ (α v A) and ∂A = α vᵀ μ: differentiable themselves.
        """
        slope, weight, v = ctx.saved_tensors
        layer: EquilibriumLayer = ctx.layer
        alpha = layer.recurrent_scale * layer.output_scale
        mu: torch.Tensor = Adjoint.apply(  # type: ignore[no-untyped-call]
            slope * gradient, slope, weight.T, layer
        )
        multiplier = torch.addmm(gradient, mu, weight.T, alpha=alpha)
        return (
            multiplier,
            multiplier * _product(v, weight, alpha),
            _product(v.T, mu, alpha),
            None,
        )
