"""The equilibrium layer and its implicit gradient (docs/theory.md, section 6)."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from sklearn_deq.exceptions import SolverWarning
from sklearn_deq.nn._activations import torch_activation
from sklearn_deq.nn._solvers import FixedPointResult, check_solver, fixed_point
from sklearn_deq.theory import Activation

# Power iterations for the norm of the initial A, and per update.
_FIRST_POWER_STEPS = 100
# The estimate comes from below: slack, so that the initial weights are left alone.
_SLACK = 1.02
_POWER_STEPS = 2
# Singular pairs above the limit that one update may need to have cut.
_MOST_DEFLATIONS = 4

BACKWARDS = ("implicit", "one_step", "unrolled")
STABILITIES = ("project", None)
TRAINABLE = ("all", "recurrent", "readout")


class EquilibriumLayer(nn.Module):
    """z = (φ(σ_a A z + σ_b B x/√p + σ_c c) − offset)/√m, solved for z.

    Parameters
    ----------
    n_features : int
        p.
    width : int
        m.
    activation : str, Activation or callable, default="relu"
        φ.
    recurrent_variance, input_variance, bias_variance : float
        σ_a² (0.2), σ_b² (0.8) and σ_c² (0.0). The weights themselves have unit
        variance.
    offset : float, default=0.0
        Centring constant, that of `sklearn_deq.theory.equilibrium_moments`.
    trainable : {"all", "recurrent", "readout"}, default="all"
        Which weights take gradients: all, A alone, or none.
    solver : str, default="picard"
        Of the forward pass, a key of `SOLVERS`.
    tol : float, default=1e-5
        Relative residual per sample, forward and backward.
    solver_max_iter : int, default=200
        Iterations at most, forward and backward.
    stability : {"project"} or None, default="project"
        What `stabilize`, called after every update, does: "project" holds the largest
        singular value of A at its initial value.
    backward : {"implicit", "one_step", "unrolled"}, default="implicit"
        The exact adjoint, solved as a fixed point itself; its first term alone; or
        autograd through as many iterations as the forward pass took.
    generator : torch.Generator, default=None
        Of the initial weights; None: the global one.
    dtype, device
        Of the weights, which are drawn on the CPU in float64 whatever these are.

    Attributes
    ----------
    recurrent_weight : Parameter of shape (m, m)
        A.
    input_weight : Parameter of shape (m, p)
        B.
    bias : Parameter of shape (m,) or None
        c; None without bias variance.
    last_result : FixedPointResult or None
        Outcome of the last forward solve.
    last_backward_residual : float
        Largest relative residual of the last adjoint solve.

    Raises
    ------
    ValueError
        For an option that is not among those listed, a size below 1, a variance that
        is negative or not finite, or solver settings that `fixed_point` refuses.

    Notes
    -----
    Memory is that of a few states, whatever the number of iterations.

    References
    ----------
    .. [1] Bai, Kolter & Koltun (2019), "Deep Equilibrium Models"; docs/theory.md,
       section 6.

    Examples
    --------
    >>> import torch
    >>> from sklearn_deq.nn import EquilibriumLayer
    >>> layer = EquilibriumLayer(4, 64, generator=torch.Generator().manual_seed(0))
    >>> layer(torch.ones(2, 4)).shape
    torch.Size([2, 64])
    """

    def __init__(
        self,
        n_features: int,
        width: int,
        *,
        activation: str | Activation | Callable[..., Any] = "relu",
        recurrent_variance: float = 0.2,
        input_variance: float = 0.8,
        bias_variance: float = 0.0,
        offset: float = 0.0,
        trainable: str = "all",
        solver: str = "picard",
        tol: float = 1e-5,
        solver_max_iter: int = 200,
        stability: str | None = "project",
        backward: str = "implicit",
        generator: torch.Generator | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__()
        _check_choice("backward", backward, BACKWARDS)
        _check_choice("trainable", trainable, TRAINABLE)
        _check_choice("stability", stability, STABILITIES)
        check_solver(solver, tol, solver_max_iter)
        if n_features < 1 or width < 1:
            raise ValueError(
                "n_features and width must be at least 1, "
                f"got {n_features} and {width}."
            )
        variances = (recurrent_variance, input_variance, bias_variance)
        if not all(0 <= variance < math.inf for variance in variances):
            raise ValueError(
                "recurrent_variance, input_variance and bias_variance must be "
                f"nonnegative and finite, got {variances}."
            )
        self.activation = torch_activation(activation)
        self.stability = stability
        self.offset = offset
        self.solver, self.tol, self.solver_max_iter = solver, tol, solver_max_iter
        self.backward_mode = backward
        self.recurrent_scale = math.sqrt(recurrent_variance)
        self.input_scale = math.sqrt(input_variance / n_features)
        self.bias_scale = math.sqrt(bias_variance)
        self.output_scale = 1.0 / math.sqrt(width)

        def draw(*shape: int, train: bool) -> nn.Parameter:
            weights = torch.randn(*shape, generator=generator, dtype=torch.float64)
            return nn.Parameter(weights.to(device, dtype), requires_grad=train)

        self.recurrent_weight = draw(width, width, train=trainable != "readout")
        self.input_weight = draw(width, n_features, train=trainable == "all")
        self.bias: nn.Parameter | None = None
        if bias_variance > 0:
            self.bias = draw(width, train=trainable == "all")
        self.register_buffer("_direction", None)
        self._norm_limit = math.inf
        if stability == "project" and trainable != "readout":
            self._direction = torch.ones(width, dtype=dtype, device=device)
            self._norm_limit = _SLACK * self._norm_estimate(_FIRST_POWER_STEPS)[0]
        self.last_result: FixedPointResult | None = None
        self.last_backward_residual = 0.0

    def drive(self, x: torch.Tensor) -> torch.Tensor:
        """Compute σ_b B x/√p + σ_c c, what the input adds to every iteration.

        Parameters
        ----------
        x : tensor of shape (n, p)
            Samples.

        Returns
        -------
        tensor of shape (n, m)
            The drive u.
        """
        u = torch.mul(x @ self.input_weight.T, self.input_scale)
        return u if self.bias is None else u + self.bias_scale * self.bias

    def step(self, z: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        """Apply the layer once to the states z with the drive u.

        Parameters
        ----------
        z, u : tensors of shape (n, m)
            States and drive.

        Returns
        -------
        tensor of shape (n, m)
            The next states.
        """
        return self._emit(self._mix(z, u))

    def _mix(self, z: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        return torch.addmm(u, z, self.recurrent_weight.T, alpha=self.recurrent_scale)

    def _emit(self, pre: torch.Tensor) -> torch.Tensor:
        return (self.activation(pre) - self.offset) * self.output_scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Solve for the equilibrium states of the rows of x.

        Parameters
        ----------
        x : tensor of shape (n, p)
            Samples.

        Returns
        -------
        tensor of shape (n, m)
            The states z.

        Warns
        -----
        SolverWarning
            If a row does not converge.
        """
        u = self.drive(x)
        if self.backward_mode == "unrolled" and torch.is_grad_enabled():
            return self._unroll(u)
        z: torch.Tensor = _Equilibrium.apply(  # type: ignore[no-untyped-call]
            u, self.recurrent_weight, self
        )
        return z

    def _unroll(self, u: torch.Tensor) -> torch.Tensor:
        """Repeat the iterations of the solve for autograd: of each row, its own."""
        result = self.solve(u.detach())
        # A row that overflowed keeps its best state, without a gradient.
        lost = ~result.converged & (result.n_iter < self.solver_max_iter)
        steps = torch.where(lost, 0, result.n_iter)
        z = torch.where(lost[:, None], result.z, self._emit(u))
        for k in range(max(steps.tolist(), default=0)):
            z = torch.where((steps > k)[:, None], self.step(z, u), z)
        return z

    def solve(self, u: torch.Tensor) -> FixedPointResult:
        """Solve for the equilibrium under the drive u; warn if a row fails.

        Parameters
        ----------
        u : tensor of shape (n, m)
            The drive.

        Returns
        -------
        FixedPointResult
            States, residuals, iterations and success, row by row.
        """
        weight = self.recurrent_weight.detach().T
        parts = _Rows(u)

        def f(z: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
            (part,) = parts(rows)
            return self._emit(torch.addmm(part, z, weight, alpha=self.recurrent_scale))

        with torch.no_grad():
            start = self._emit(u)
        result = fixed_point(
            f, start, solver=self.solver, tol=self.tol, max_iter=self.solver_max_iter
        )
        self.last_result = result
        _warn_unconverged(result, "equilibrium")
        return result

    def adjoint(
        self,
        pre: torch.Tensor,
        gradient: torch.Tensor,
        weight: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Solve v = d ∘ (g + σ_a Aᵀ v), d = φ'(pre)/√m, for the rows of g.

        Parameters
        ----------
        pre : tensor of shape (n, m)
            Pre-activations at equilibrium.
        gradient : tensor of shape (n, m)
            g, the gradient with respect to the states.
        weight : tensor of shape (m, m), default=None
            A of the forward pass; None: the layer's own.

        Returns
        -------
        tensor of shape (n, m)
            The gradient v with respect to the drive.
        """
        slope = self.activation.derivative(pre) * self.output_scale
        source = slope * gradient
        if self.backward_mode == "one_step":
            return source
        weight = (self.recurrent_weight if weight is None else weight).detach()
        parts = _Rows(slope, source)

        def f(v: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
            s, g = parts(rows)
            return torch.addcmul(g, s, v @ weight, value=self.recurrent_scale)

        result = fixed_point(f, source, tol=self.tol, max_iter=self.solver_max_iter)
        self.last_backward_residual = max(result.residual.tolist(), default=0.0)
        _warn_unconverged(result, "adjoint")
        return result.z

    def stabilize(self) -> None:
        """Hold the largest singular value of A at its initial value.

        To be called after every update. Where 2 σ_a Lip(φ) < 1 this keeps the layer a
        contraction while it trains (docs/theory.md, section 1). Only the part of the
        leading singular pair that exceeds the limit is taken away, so that the weights
        that were drawn, which carry the kernel, are never touched.
        """
        if not math.isfinite(self._norm_limit):
            return
        for _ in range(_MOST_DEFLATIONS):
            norm, left, right = self._norm_estimate(_POWER_STEPS)
            if norm <= self._norm_limit:
                return
            with torch.no_grad():
                self.recurrent_weight.addr_(left, right, alpha=self._norm_limit - norm)

    @torch.no_grad()
    def _norm_estimate(self, steps: int) -> tuple[float, torch.Tensor, torch.Tensor]:
        """Leading singular value of A and its vectors, by power iteration."""
        weight, right = self.recurrent_weight, self._direction
        for _ in range(steps):
            left = torch.nn.functional.normalize(weight @ right, dim=0)
            right = weight.T @ left
            norm = float(torch.linalg.vector_norm(right))
            right = right / max(norm, 1e-30)
        self._direction = right
        return norm, left, right

    def get_extra_state(self) -> dict[str, float]:
        """Beside the weights, the limit of the projection belongs to the state.

        Returns
        -------
        dict of str to float
            Of plain values.
        """
        return {"norm_limit": self._norm_limit}

    def set_extra_state(self, state: dict[str, float]) -> None:
        """Take the limit of the projection from a state dict.

        Parameters
        ----------
        state : dict of str to float
            What `get_extra_state` returned.
        """
        self._norm_limit = state["norm_limit"]

    def __getstate__(self) -> dict[str, Any]:
        """Leave the last solve's tensors out of copies and pickles."""
        return {**self.__dict__, "last_result": None}


class _Equilibrium(torch.autograd.Function):
    """Implicit differentiation of the equilibrium: no graph of the solver."""

    @staticmethod
    def forward(
        ctx: Any, u: torch.Tensor, weight: torch.Tensor, layer: EquilibriumLayer
    ) -> torch.Tensor:
        z = layer.solve(u).z
        ctx.layer = layer
        # With A: backward uses the one of this pass, and refuses one changed in place.
        ctx.save_for_backward(u, z, weight)
        return z

    @staticmethod
    def backward(
        ctx: Any, gradient: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None, None]:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "The implicit gradient cannot be differentiated again "
                "(create_graph=True): use backward='unrolled' for second derivatives."
            )
        u, z, weight = ctx.saved_tensors
        layer: EquilibriumLayer = ctx.layer
        pre = torch.addmm(u, z, weight.T, alpha=layer.recurrent_scale)
        v = layer.adjoint(pre, gradient, weight)
        if not ctx.needs_input_grad[1]:
            return v, None, None
        return v, (v.T @ z).mul_(layer.recurrent_scale), None


class _Rows:
    """Rows of tensors, gathered anew only when the rows in work change."""

    def __init__(self, *wholes: torch.Tensor) -> None:
        self._wholes = self._parts = wholes
        self._rows: torch.Tensor | None = None

    def __call__(self, rows: torch.Tensor) -> tuple[torch.Tensor, ...]:
        if rows.numel() == self._wholes[0].shape[0]:
            return self._wholes
        if rows is not self._rows:
            self._parts = tuple(whole[rows] for whole in self._wholes)
            self._rows = rows
        return self._parts


def _check_choice(name: str, value: object, allowed: tuple[object, ...]) -> None:
    """Refuse a value that is not among the allowed ones."""
    if value not in allowed:
        raise ValueError(f"{name} must be one of {allowed}, got {value!r}.")


def _warn_unconverged(result: FixedPointResult, what: str) -> None:
    """Warn if a row did not converge, with its residual and what to change."""
    failed = ~result.converged
    if not bool(failed.any()):
        return
    warnings.warn(
        f"The {what} of {int(failed.sum())} of {failed.numel()} samples did not "
        f"converge: largest relative residual {float(result.residual.max()):.1e} after "
        f"{int(result.n_iter.max())} iterations. Raise solver_max_iter or tol, lower "
        "recurrent_variance, or widen the layer.",
        SolverWarning,
        stacklevel=4,
    )
