"""How deep the explicit equivalent of a DEQ has to be, and why (docs/theory.md, 5)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from sklearn_deq.theory._activations import Activation
from sklearn_deq.theory._equations import Problem, bend_gap, share_of_kernel
from sklearn_deq.theory._equilibrium import (
    EquilibriumMoments,
    check_kernel,
    equilibrium_moments,
)
from sklearn_deq.theory._families import ARCHITECTURES
from sklearn_deq.theory._matching import check_sees_input, check_settings

# τ²A/v of a clip falls from 1 to this as its knee goes to 0.
_HARD_TANH = 2.0 / math.pi
# E[φ'']² τ⁴ below this share of the energy is 0: φ is odd, up to its offset.
_ODD = 1e-12


@dataclass(frozen=True)
class DepthResult:
    """Outcome of `minimal_depth`.

    Attributes
    ----------
    depth : int
        Number of hidden layers.
    reason : str
        Why as many, and why not fewer.
    quantities : dict of str to float
        What decides it, such as α3/(2 α2).
    """

    depth: int
    reason: str
    quantities: dict[str, float]

    def __str__(self) -> str:
        """Report the depth, the reason and the quantities."""
        layers = f"{self.depth} hidden layer{'s' if self.depth > 1 else ''}"
        lines = [f"DepthResult: {layers}", f"  {self.reason}"]
        lines += [f"  {name} = {value:.6g}" for name, value in self.quantities.items()]
        return "\n".join(lines)


def minimal_depth(
    activation: str | Activation | Callable[..., Any],
    recurrent_variance: float = 0.2,
    input_variance: float = 0.8,
    *,
    tau0: float = 1.0,
    kernel: str = "ck",
    equal_norms: bool = False,
    tol: float = 1e-6,
) -> DepthResult:
    """Return how many hidden layers the explicit equivalent of a DEQ needs, and why.

    Parameters
    ----------
    activation : str, Activation or callable
        The DEQ's activation φ, centred.
    recurrent_variance : float, default=0.2
        σ_a².
    input_variance : float, default=0.8
        σ_b².
    tau0 : float, default=1.0
        √(mean s_ii).
    kernel : {"ck", "ntk", "ntk_recurrent"}, default="ck"
        The kernel of the DEQ to equal: by the CK of the explicit network for "ck", else
        by its NTK, whose layers may learn at different rates.
    equal_norms : bool, default=False
        Whether all samples have the same norm.
    tol : float, default=1e-6
        Relative tolerance of the equations.

    Returns
    -------
    DepthResult
        The depth, the reason, and the quantities that decide.

    Raises
    ------
    ValueError
        If the DEQ is unstable, or does not see its input.

    Notes
    -----
    With A = E[σ']², Q = E[σ'']², v = E[σ²], one layer's CK has the coefficients
    (A, Q/4, Q/2, v). By Parseval v ≥ τ²A + τ⁴Q/2, every such (A, Q, v) belongs to some
    σ, and the DEQ's coefficients meet the inequality, since its kernel on the sphere is
    a power series with nonnegative coefficients. So one layer suffices if and only if
    α3 = 2 α2.

    The NTK of one layer with multipliers λ1 and, for the readout, λ2 = 1 has
    ((1 + λ1)A, Q/4, (½ + λ1)Q, v + λ1 τ² E[σ'²]); the last is at least
    τ²β1 + τ⁴β3 and can be any larger number. So one layer suffices if and only if
    β3 ≥ 2 β2, with a single learning rate only if β3 = 6 β2, or if both vanish.

    Where one layer is not enough, that a larger number suffices is shown by a network
    that `solve_match` finds; that a still smaller one above 1 would not, by its search
    alone.

    Examples
    --------
    >>> from sklearn_deq.theory import minimal_depth
    >>> minimal_depth("tanh").depth, minimal_depth("relu").depth
    (1, 2)
    >>> minimal_depth("relu", kernel="ntk").depth
    1
    >>> minimal_depth("relu", equal_norms=True).depth
    1
    """
    check_kernel(kernel)
    moments = equilibrium_moments(
        activation, recurrent_variance, input_variance, tau0=tau0
    )
    check_settings(moments, tol)
    check_sees_input(moments)
    if equal_norms:
        return DepthResult(
            1,
            "norms are equal: the kernel is a power series in the cosine, with "
            "nonnegative coefficients a_k, and one layer with σ = Σ √a_k he_k has it, "
            "exactly, for any activation",
            {},
        )
    square = 0.5 * (moments.E_d2phi * moments.tau_star**2) ** 2
    if square <= _ODD * moments.gamma2:
        return _odd(moments, kernel)
    coefficients = moments.coefficients(kernel)
    _, second, third, _ = coefficients
    # Of coefficients that are nearly 0 as solve_match sees it.
    gap = bend_gap(share_of_kernel(np.array(coefficients), tau0), 2.0)
    if kernel == "ck":
        ratio = third / (2.0 * second)
        quantities = {"alpha3/(2 alpha2)": ratio}
        if abs(gap) <= tol:
            return DepthResult(1, "α3 = 2 α2, as for any single layer", quantities)
        failing = f"α3/(2 α2) = {ratio:.4g}, and 1 for any single layer"
        return _searched(moments, kernel, tol, failing, quantities)
    quantities = {"beta3/beta2": third / second}
    if gap <= tol:
        rate = max(0.25 * third / second - 0.5, 0.0)
        return DepthResult(
            1,
            f"β3 ≥ 2 β2: one layer that learns at {rate:.4g} times the readout's rate "
            "(a single rate would need β3 = 6 β2)",
            {**quantities, "lambda1/lambda2": rate},
        )
    failing = f"β3/β2 = {third / second:.4g}, and at least 2 for any single layer"
    return _searched(moments, kernel, tol, failing, quantities)


def _odd(moments: EquilibriumMoments, kernel: str) -> DepthResult:
    """One layer: only the slope and the energy are left to match."""
    first, _, _, last = moments.coefficients(kernel)
    linear = first * moments.tau0**2 / last
    reason = "E[φ''] = 0, as for odd φ: no coefficients but that of S and the diagonal"
    if kernel == "ck":
        family = "a hard tanh" if linear >= _HARD_TANH else "a layer that turns back"
        sign = "≥" if linear >= _HARD_TANH else "<"
        reason += f"; {family} has them, as α1 τ0²/γ² = {linear:.4g} {sign} 2/π"
        return DepthResult(1, reason, {"alpha1 tau0^2/gamma2": linear})
    return DepthResult(1, reason, {"beta1 tau0^2/kappa2": linear})


def _searched(
    moments: EquilibriumMoments,
    kernel: str,
    tol: float,
    failing: str,
    quantities: dict[str, float],
) -> DepthResult:
    """More than one layer: as many as the shallowest network found has."""
    problem = Problem(moments, kernel, tol, multipliers=True, equal_norms=False)
    match = problem.shallowest(list(ARCHITECTURES))
    quantities = {**quantities, "residual": match.residual}
    if match.converged:
        reason = (
            f"{failing}; {match.depth} layers ({match.architecture}) have the kernel "
            f"to {match.residual:.0e}"
        )
        return DepthResult(match.depth, reason, quantities)
    reason = (
        f"{failing}: at least 2, but no network found has the kernel (best residual "
        f"{match.residual:.1e}, {match.architecture}, {match.depth} layers)"
    )
    return DepthResult(2, reason, quantities)
