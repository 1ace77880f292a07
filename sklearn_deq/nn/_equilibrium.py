"""The equilibrium layer and its implicit gradient (docs/theory.md, section 6)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import nn

from sklearn_deq._warnings import warn_of_solver
from sklearn_deq.nn._activations import torch_activation
from sklearn_deq.nn._checks import (
    PRECISIONS,
    TRAINABLE,
    check_choice,
    check_numbers,
    check_settings,
    check_weights,
)
from sklearn_deq.nn._implicit import Equilibrium, full_precision
from sklearn_deq.nn._mixed import Lowered, can_lower, lower_pays
from sklearn_deq.nn._recurrence import (
    AdjointRecurrence,
    Recurrence,
    StateRecurrence,
    settle,
)
from sklearn_deq.nn._solvers import FixedPointResult
from sklearn_deq.nn._stability import WellPosed
from sklearn_deq.theory import Activation

# Of backward="phantom" [2]_.
_PHANTOM_STEPS = 5
_PHANTOM_DAMPING = 0.5


class EquilibriumLayer(WellPosed):
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
    solver : {"picard", "damped", "anderson", "broyden"}, default="picard"
        Of both passes, a key of `SOLVERS`; backward="unrolled" takes the plain
        iteration.
    tol : float, default=1e-5
        Relative residual per sample, forward and, unless ``backward_tol`` is larger,
        backward.
    solver_max_iter : int, default=200
        Evaluations at most, forward and backward, in the weights' precision.
    stability : {"project", "jacobian"} or None, default="project"
        What keeps the layer well-posed while it trains: `stabilize`, to be called
        after every update, holds the largest singular value of A at its initial value;
        or `jacobian_penalty`, to be added to the loss; or nothing.
    backward : {"implicit", "phantom", "one_step", "unrolled"}, default="implicit"
        The exact adjoint, solved as a fixed point itself; five of its steps, damped by
        a half [2]_; its first term alone; or autograd through as many iterations as
        the forward pass took.
    backward_tol : float, default=0.0
        Relative residual per sample of the implicit gradient's adjoint, if larger than
        ``tol``.
    generator : torch.Generator, default=None
        Of the initial weights; None: the global one.
    dtype, device
        Of the weights, which are drawn on the CPU in float64 whatever these are.
    precision : {"auto", "full", "mixed"}, default="auto"
        "mixed" iterates in the precision below the weights' (bfloat16 for float32) and
        refines the result, to the same tolerance; "full" never does, and "auto" does
        where it pays: float32 weights of width 512 or more on hardware with matrix
        units for bfloat16 (recent GPUs, AMX), of 1,024 or more with AVX512-BF16.

    Attributes
    ----------
    recurrent_weight : Parameter of shape (m, m)
        A.
    input_weight : Parameter of shape (m, p)
        B.
    bias : Parameter of shape (m,) or None
        c; None without bias variance.
    last_result : FixedPointResult or None
        Outcome of the last forward solve. Where the plain iteration converged, the
        states are one step further than those that were measured.
    last_backward_residual : float
        Largest relative residual of the last adjoint solve; nan before the first, and
        for the other kinds of gradients.
    guard : SpectralGuard or None
        What `stabilize` works with: ``guard.limit`` is what it holds ‖A‖ at.

    Raises
    ------
    ValueError
        For an option that is not among those listed, a size below 1, a variance that
        is negative or not finite, or solver settings that `fixed_point` refuses.

    Notes
    -----
    A row of the states does not depend on the others but by rounding, which may let it
    stop an evaluation earlier or later: in float32 those of different batches agree to
    about ``tol``.

    Memory is that of a few states, whatever the number of iterations. States and
    gradients belong to residuals measured in the weights' own precision, whatever the
    iterations were made in; TF32 is used only if torch is told to. The implicit
    gradient can be differentiated again.

    References
    ----------
    .. [1] Bai, Kolter & Koltun (2019), "Deep Equilibrium Models"; docs/theory.md,
       section 6.
    .. [2] Geng, Zhang, Bai, Wang & Lin (2021), "On Training Implicit Models".
    .. [3] Bai, Koltun & Kolter (2021), "Stabilizing Equilibrium Models by Jacobian
       Regularization".

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
        backward_tol: float = 0.0,
        generator: torch.Generator | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        precision: str = "auto",
    ) -> None:
        super().__init__()
        check_choice("trainable", trainable, TRAINABLE)
        check_choice("precision", precision, PRECISIONS)
        check_settings(solver, tol, solver_max_iter, stability, backward, backward_tol)
        check_weights(n_features, width, dtype)
        check_numbers((recurrent_variance, input_variance, bias_variance), offset)
        self.activation = torch_activation(activation)
        self.offset = offset
        self.precision = precision
        self.recurrent_scale = math.sqrt(recurrent_variance)
        self.input_scale = math.sqrt(input_variance / n_features)
        self.bias_scale = math.sqrt(bias_variance)
        self.output_scale = 1.0 / math.sqrt(width)
        # Of the states times √m, which solvers work with.
        self._alpha = self.recurrent_scale * self.output_scale

        def draw(*shape: int, train: bool) -> nn.Parameter:
            weights = torch.randn(*shape, generator=generator, dtype=torch.float64)
            return nn.Parameter(weights.to(device, dtype), requires_grad=train)

        self.recurrent_weight = draw(width, width, train=trainable != "readout")
        self.input_weight = draw(width, n_features, train=trainable == "all")
        self.bias: nn.Parameter | None = None
        if bias_variance > 0:
            self.bias = draw(width, train=trainable == "all")
        self.guard = None
        self.configure(solver, tol, solver_max_iter, stability, backward, backward_tol)
        self.last_result: FixedPointResult | None = None
        self.last_backward_residual = math.nan
        # Mean φ'² of every unit, and states with their samples, of the last pass.
        self._slopes: torch.Tensor | None = None
        self._last_pass: tuple[torch.Tensor, torch.Tensor] | None = None
        self._probes = 0
        self._low = Lowered()

    def configure(
        self,
        solver: str,
        tol: float,
        solver_max_iter: int,
        stability: str | None,
        backward: str,
        backward_tol: float = 0.0,
    ) -> None:
        """Change how the layer is solved and trained, not what it computes.

        Parameters
        ----------
        solver, tol, solver_max_iter, stability, backward : as in the constructor
            All of them. Projection that begins here holds the norm that A has now.
        backward_tol : float, default=0.0
            As in the constructor.
        """
        check_settings(solver, tol, solver_max_iter, stability, backward, backward_tol)
        self.solver, self.tol, self.solver_max_iter = solver, tol, solver_max_iter
        self.stability = stability
        self.backward_mode, self.backward_tol = backward, max(tol, backward_tol)
        if stability != "project" or not self.recurrent_weight.requires_grad:
            self.guard = None
        elif self.guard is None:
            self.guard = self._make_guard()

    @property
    def effective_solver(self) -> str:
        """Key of `SOLVERS` that solves: what is unrolled is the plain iteration."""
        return "picard" if self.backward_mode == "unrolled" else self.solver

    def drive(
        self,
        x: torch.Tensor,
        input_weight: torch.Tensor | None = None,
        bias: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Compute σ_b B x/√p + σ_c c, what the input adds to every iteration.

        Parameters
        ----------
        x : tensor of shape (n, p)
            Samples.
        input_weight, bias : tensors, default=None
            B and c; None: the layer's own.

        Returns
        -------
        tensor of shape (n, m)
            The drive u.
        """
        if input_weight is None:
            input_weight, bias = self.input_weight, self.bias
        if bias is None:
            nothing = x.new_zeros(())
            return torch.addmm(
                nothing, x, input_weight.T, beta=0, alpha=self.input_scale
            )
        shift = self.bias_scale * bias
        return torch.addmm(shift, x, input_weight.T, alpha=self.input_scale)

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
        return self._emit(self._mix(z, u)) * self.output_scale

    def _mix(self, z: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        return torch.addmm(u, z, self.recurrent_weight.T, alpha=self.recurrent_scale)

    def _emit(self, pre: torch.Tensor) -> torch.Tensor:
        """φ − offset: the states, times √m."""
        y = self.activation(pre)
        if self.offset != 0:
            return y - self.offset
        # Solvers write on states; the identity must not hand them pre.
        return y.clone() if y is pre else y

    def forward(self, x: torch.Tensor, z0: torch.Tensor | None = None) -> torch.Tensor:
        """Solve for the equilibrium states of the rows of x.

        Parameters
        ----------
        x : tensor of shape (n, p)
            Samples.
        z0 : tensor of shape (n, m), default=None
            States to start from, such as those of an earlier epoch; None: φ(u)/√m.

        Returns
        -------
        tensor of shape (n, m)
            The states z.

        Warns
        -----
        SolverWarning
            If a row does not converge.
        """
        n_features = self.input_weight.shape[1]
        if x.ndim != 2 or x.shape[1] != n_features:
            raise ValueError(
                f"x must be of shape (n, {n_features}), got {tuple(x.shape)}."
            )
        with full_precision(self.recurrent_weight):
            x = x.to(self.recurrent_weight.dtype)
            z0 = self._check_start(x, z0)
            if self.backward_mode == "unrolled" and torch.is_grad_enabled():
                z = self._unroll(self.drive(x), z0)
            else:
                weights = (self.recurrent_weight, self.input_weight, self.bias)
                z = Equilibrium.apply(  # type: ignore[no-untyped-call]
                    x, *weights, self, z0
                )
        if self.stability == "jacobian" and torch.is_grad_enabled():
            self._last_pass = x.detach(), z.detach()
        return z

    def _check_start(
        self, x: torch.Tensor, z0: torch.Tensor | None
    ) -> torch.Tensor | None:
        """Refuse starts of another shape; begin anew where one is not finite."""
        shape = (x.shape[0], self.recurrent_weight.shape[0])
        if z0 is None:
            return None
        if z0.shape != shape:
            raise ValueError(f"z0 must be of shape {shape}, got {tuple(z0.shape)}.")
        z0 = z0.to(x)
        finite = torch.isfinite(z0).all(dim=1)
        if bool(finite.all()):
            return z0
        cold = self._emit(self.drive(x)) * self.output_scale
        return torch.where(finite[:, None], z0, cold)

    def _unroll(self, u: torch.Tensor, z0: torch.Tensor | None) -> torch.Tensor:
        """Repeat the iterations of the solve for autograd: of each row, its own."""
        result = self.solve(u.detach(), z0)
        failed = ~result.converged
        # A row that overflowed keeps its best state, without a gradient.
        lost = failed & (result.n_iter < self.solver_max_iter)
        steps = torch.where(lost, 0, result.n_iter)
        start = self._emit(u) * self.output_scale if z0 is None else z0
        z = best = torch.where(lost[:, None], result.z, start)
        least = torch.full_like(result.residual, math.inf)
        for k in range(max(steps.tolist(), default=0)):
            after = self.step(z, u)
            if bool(failed.any()):
                gap, size = ((t.detach()).norm(dim=1) for t in (after - z, z))
                better = gap < least * size
                best = torch.where(better[:, None], z, best)
                least = torch.where(better, gap / size, least)
            z = torch.where((steps > k)[:, None], after, z)
        # Of the others that failed the best, as solvers have it.
        z = torch.where((failed & ~lost)[:, None], best, z)
        with torch.no_grad():
            self._note_slopes(self._mix(z, u))
        return z

    def solve(
        self, u: torch.Tensor, z0: torch.Tensor | None = None
    ) -> FixedPointResult:
        """Solve for the equilibrium under the drive u; warn if a row fails.

        Parameters
        ----------
        u : tensor of shape (n, m)
            The drive.
        z0 : tensor of shape (n, m), default=None
            States to start from; None: φ(u)/√m.

        Returns
        -------
        FixedPointResult
            States, residuals, iterations and success, row by row: see `last_result`.
        """
        with torch.no_grad():
            self.equilibrium(u, self.recurrent_weight, z0)
        return cast(FixedPointResult, self.last_result)

    def equilibrium(
        self,
        u: torch.Tensor,
        weight: torch.Tensor,
        z0: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Solve without a graph for the equilibrium; warn if a row fails.

        Parameters
        ----------
        u : tensor of shape (n, m)
            The drive.
        weight : tensor of shape (m, m)
            A.
        z0 : tensor of shape (n, m), default=None
            States to start from; None: φ(u)/√m.

        Returns
        -------
        z, pre : tensors of shape (n, m)
            States, and the arguments of φ that belong to them.
        """
        matrix = weight.detach().T

        def make(rows: slice) -> Recurrence:
            start = None if z0 is None else z0[rows] / self.output_scale
            return StateRecurrence(
                u[rows], matrix, self._alpha, emit=self._emit, start=start
            )

        low = self._lowered(weight)
        result, pre = self._settle(make, u, None if low is None else low.T, self.tol)
        result.z.mul_(self.output_scale)
        self.last_result = result
        _warn_unconverged(result, "equilibrium")
        return result.z, pre

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
        if weight is None:
            weight = self.recurrent_weight
        matrix = weight.detach()
        self._slopes = pre.new_zeros(pre.shape[1])

        def make(rows: slice) -> AdjointRecurrence:
            slope = self.activation.derivative(pre[rows])
            norms = torch.linalg.vector_norm(slope, dim=0)
            self._slopes += norms.square_().div_(max(pre.shape[0], 1))
            source = torch.mul(slope, gradient[rows]).mul_(self.output_scale)
            return AdjointRecurrence(source, matrix, self._alpha, gain=slope)

        if self.backward_mode == "one_step":
            return make(slice(None)).constant
        if self.backward_mode == "phantom":
            return _phantom(make(slice(None)))
        return self._solve_adjoint(make, pre, weight)

    def solve_adjoint(
        self, source: torch.Tensor, slope: torch.Tensor, weight: torch.Tensor
    ) -> torch.Tensor:
        """Solve v = source + s ∘ (σ_a v A/√m), without a graph; warn if a row fails.

        Parameters
        ----------
        source, slope : tensors of shape (n, m)
            The constant, and s = φ'.
        weight : tensor of shape (m, m)
            A.

        Returns
        -------
        tensor of shape (n, m)
            The solution v.
        """
        matrix = weight.detach()

        def make(rows: slice) -> AdjointRecurrence:
            return AdjointRecurrence(
                source[rows], matrix, self._alpha, gain=slope[rows]
            )

        return self._solve_adjoint(make, source, weight)

    def _solve_adjoint(
        self,
        make: Callable[[slice], Recurrence],
        like: torch.Tensor,
        weight: torch.Tensor,
    ) -> torch.Tensor:
        low = self._lowered(weight)
        result, _ = self._settle(make, like, low, self.backward_tol)
        self.last_backward_residual = max(result.residual.tolist(), default=0.0)
        _warn_unconverged(result, "adjoint")
        return result.z

    def _settle(
        self,
        make: Callable[[slice], Recurrence],
        like: torch.Tensor,
        low: torch.Tensor | None,
        tol: float,
    ) -> tuple[FixedPointResult, torch.Tensor]:
        return settle(
            make,
            like,
            solver=self.effective_solver,
            tol=tol,
            max_iter=self.solver_max_iter,
            low=low,
        )

    def _lowered(self, weight: torch.Tensor) -> torch.Tensor | None:
        """A in a lower precision, if it is of use; None: it is not."""
        if self.precision == "full" or not can_lower(weight):
            return None
        if self.precision == "auto" and not lower_pays(weight):
            return None
        return self._low(weight)

    def extra_repr(self) -> str:
        """Return what the layer is, for its representation.

        Returns
        -------
        str
            Sizes, activation and variances.
        """
        width, n_features = self.input_weight.shape
        variances = {
            "recurrent": self.recurrent_scale**2,
            "input": n_features * self.input_scale**2,
            "bias": self.bias_scale**2,
        }
        # Squares of roots are rounded.
        said = ", ".join(f"{k}_variance={v:.6g}" for k, v in variances.items())
        return (
            f"n_features={n_features}, width={width}, "
            f"activation={self.activation.activation}, {said}"
        )

    def get_extra_state(self) -> dict[str, int]:
        """Beside the weights, the number of the next probe belongs to the state.

        Returns
        -------
        dict of str to int
            Of plain values.
        """
        return {"probes": self._probes}

    def set_extra_state(self, state: dict[str, int]) -> None:
        """Take it from a state dict.

        Parameters
        ----------
        state : dict of str to int
            What `get_extra_state` returned.
        """
        self._probes = state["probes"]

    def __getstate__(self) -> dict[str, Any]:
        """Leave the last pass's tensors out of copies and pickles."""
        gone = ("last_result", "_last_pass", "_slopes")
        return {**self.__dict__, **dict.fromkeys(gone)}


def _phantom(recurrence: AdjointRecurrence) -> torch.Tensor:
    """Some damped steps towards the adjoint, from 0."""
    v = _PHANTOM_DAMPING * recurrence.constant
    for _ in range(_PHANTOM_STEPS - 1):
        v = torch.lerp(v, recurrence.affine(v), _PHANTOM_DAMPING)
    return v


def _warn_unconverged(result: FixedPointResult, what: str) -> None:
    """Warn if a row did not converge, with its residual and what to change."""
    failed = ~result.converged
    if not bool(failed.any()):
        return
    residual = float(result.residual.max())
    advice = (
        "Raise solver_max_iter or tol, lower recurrent_variance, or widen the layer."
    )
    if not math.isfinite(residual):
        advice = "Numbers are not finite or too large: scale X, or look for NaN in it."
    warn_of_solver(
        f"The {what} of {int(failed.sum())} of {failed.numel()} samples did not "
        f"converge: largest relative residual {residual:.1e} after "
        f"{int(result.n_iter.max())} iterations. {advice}",
    )
