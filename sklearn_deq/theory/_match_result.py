"""What a match comes to: layers, target, residual and reason."""

from __future__ import annotations

from dataclasses import dataclass

from sklearn_deq.theory._explicit import ExplicitLayer

# Of the largest number, what counts as 0 where numbers are printed.
_ROUNDING = 1e-14


@dataclass(frozen=True)
class MatchResult:
    """Outcome of `solve_match`.

    Attributes
    ----------
    architecture : str
        The family.
    depth : int
        Number of hidden layers.
    layers : tuple of ExplicitLayer
        The layers, centred.
    target, achieved : dict of str to float
        The DEQ's coefficients and the network's, equation by equation; of "hermite" the
        kernels at three cosines.
    residual : float
        max_k |achieved_k − target_k| / max(|target_k|, 1e-6 max|target|), each times
        τ0², τ0⁴, τ0⁴ and 1, which makes them of one unit; of "hermite" the largest
        error of the kernel itself, relative to √(K_ii K_jj), but for samples of
        different norms with cosines beyond ±0.95.
    converged : bool
        Whether the residual is within the tolerance.
    reason : str
        Why this architecture.
    multipliers : tuple of float or None
        Learning-rate multipliers of the hidden layers and the readout (whose is 1) with
        which the network's NTK is the one achieved; 0 freezes a layer. None: all alike.
    distance : float
        How far the target is out of reach: the residual of any network of this
        architecture is at least this, by the bounds of docs/theory.md, section 5. 0.0
        if they leave room, as they do for whatever converged.
    norms : tuple of 2 floats or None
        Range of √s_ii that a "hermite" layer is made for; samples outside of it are
        treated as those at its end. None: any norms.
    residual_parallel : float
        The error of a "hermite" layer's kernel for those samples of different norms
        that are nearly parallel, which the residual leaves out; it is per cents for
        tangent kernels of kinked activations.
    """

    architecture: str
    depth: int
    layers: tuple[ExplicitLayer, ...]
    target: dict[str, float]
    achieved: dict[str, float]
    residual: float
    converged: bool
    reason: str
    multipliers: tuple[float, ...] | None = None
    distance: float = 0.0
    norms: tuple[float, float] | None = None
    residual_parallel: float = 0.0

    def __str__(self) -> str:
        """Report the layers and the equations as a small table."""
        lines = [
            f"MatchResult: {self.architecture}, {self.depth} hidden layer"
            f"{'s' if self.depth > 1 else ''}, residual {self.residual:.1e} "
            f"({'converged' if self.converged else 'NOT converged'})",
            f"  {self.reason}",
        ]
        if self.distance:
            lines.append(f"  out of reach: no residual below {self.distance:.1e}")
        if self.residual_parallel:
            lines.append(
                "  nearly parallel samples of different norms: error up to "
                f"{self.residual_parallel:.1e}"
            )
        lines += [f"  layer {i}: {layer}" for i, layer in enumerate(self.layers, 1)]
        if self.multipliers is not None:
            rates = ", ".join(f"{value:.6g}" for value in self.multipliers)
            lines.append(f"  learning-rate multipliers, readout last: {rates}")
        least = _ROUNDING * max(map(abs, self.target.values()))

        def shown(value: float) -> str:
            return f"{value if abs(value) > least else 0.0: .9g}"

        lines += [
            f"  {name:<7} target {shown(value)}  achieved {shown(self.achieved[name])}"
            for name, value in self.target.items()
        ]
        return "\n".join(lines)
