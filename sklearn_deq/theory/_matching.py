"""Matching: the explicit network whose kernel equals a given DEQ's.

Docs/theory.md, section 5. An architecture is a family of three-piece linear layers
with some parameters free; `ARCHITECTURES` lists them, and is the one place to add one.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import least_squares

from sklearn_deq.exceptions import MatchWarning
from sklearn_deq.theory._equilibrium import EquilibriumMoments, check_kernel
from sklearn_deq.theory._explicit import (
    ExplicitLayer,
    ExplicitMoments,
    explicit_moments,
)
from sklearn_deq.theory._three_piece import ThreePiece

# Targets below this share of the largest count as this share of it.
_FLOOR = 1e-6
# A residual this small ends the search over starts.
_EXACT = 1e-12
# Least-squares steps of one start (with "lm": evaluations).
_MOST_EVALUATIONS = 300
# Parameters beyond this describe activations that no one would train.
_LARGEST = 30.0


@dataclass(frozen=True)
class Architecture:
    """A family of explicit networks.

    Attributes
    ----------
    depth : int
        Hidden layers.
    build : callable
        Parameters of one layer -> ThreePiece.
    starts : callable
        E[φ'] and E[φ''] of the DEQ -> starting parameters of all layers.
    """

    depth: int
    build: Callable[[np.ndarray], ThreePiece]
    starts: Callable[[float, float], Iterator[list[float]]]


def _leaky(p: np.ndarray) -> ThreePiece:
    return ThreePiece(float(p[0]), float(p[1]), 0.0, 1.0)


def _hard(p: np.ndarray) -> ThreePiece:
    return ThreePiece(0.0, 0.0, float(p[0]), float(np.exp(p[1])))


def _three(p: np.ndarray) -> ThreePiece:
    return ThreePiece(float(p[0]), float(p[1]), float(p[2]), float(np.exp(p[3])))


def _leaky_starts(slope: float, bend: float) -> Iterator[list[float]]:
    size = np.sqrt(abs(slope)) + 0.1
    for first in (0.6, 0.2, 1.2):
        for second in (0.6, 0.2, 1.2):
            yield [size, first * size, size, second * size]


def _hard_starts(slope: float, bend: float) -> Iterator[list[float]]:
    for knee in (1.0, 0.3, 3.0):
        yield [abs(slope) + 0.1, float(np.log(knee))]


def _three_starts(slope: float, bend: float) -> Iterator[list[float]]:
    size = np.sqrt(abs(slope)) + 0.1
    bends = (0.5, 0.2) if abs(bend) > 1e-9 else (0.0,)
    for q in bends:
        for rise, knee in ((0.5, 0.0), (-0.5, 0.0), (0.5, 0.7), (0.2, -0.7)):
            layer = [size * (1 - rise), q * size, rise * size, knee]
            yield [*layer, *layer]


ARCHITECTURES: dict[str, Architecture] = {
    "hard_tanh": Architecture(1, _hard, _hard_starts),
    "leaky_relu": Architecture(2, _leaky, _leaky_starts),
    "piecewise_linear": Architecture(2, _three, _three_starts),
}
"""Families of explicit networks by name, shallowest first."""

_EQUATIONS = {
    "ck": ("alpha1", "alpha2", "alpha3", "tau2"),
    "ntk": ("beta1", "beta2", "beta3", "kappa2"),
    "ntk_recurrent": ("beta1", "beta2", "beta3", "kappa2"),
}


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
        The DEQ's coefficients and the network's, equation by equation.
    residual : float
        max_k |achieved_k − target_k| / max(|target_k|, 1e-6 max|target|).
    converged : bool
        Whether the residual is within the tolerance.
    reason : str
        Why this architecture.
    """

    architecture: str
    depth: int
    layers: tuple[ExplicitLayer, ...]
    target: dict[str, float]
    achieved: dict[str, float]
    residual: float
    converged: bool
    reason: str

    def __str__(self) -> str:
        """Report the layers and the equations as a small table."""
        lines = [
            f"MatchResult: {self.architecture}, {self.depth} hidden layer"
            f"{'s' if self.depth > 1 else ''}, residual {self.residual:.1e} "
            f"({'converged' if self.converged else 'NOT converged'})",
            f"  {self.reason}",
        ]
        lines += [f"  layer {i}: {layer}" for i, layer in enumerate(self.layers, 1)]
        lines += [
            f"  {name:<7} target {value: .9f}  achieved {self.achieved[name]: .9f}"
            for name, value in self.target.items()
        ]
        return "\n".join(lines)


def solve_match(
    moments: EquilibriumMoments,
    *,
    kernel: str = "ck",
    architecture: str = "auto",
    tol: float = 1e-6,
) -> MatchResult:
    """Find the explicit network with the same kernel as a DEQ.

    Parameters
    ----------
    moments : EquilibriumMoments
        The DEQ: centred and without bias, as the four equations assume.
    kernel : {"ck", "ntk", "ntk_recurrent"}, default="ck"
        The DEQ's kernel to match: by the network's CK for "ck", else by its NTK with
        every layer trained.
    architecture : str, default="auto"
        A key of `ARCHITECTURES`: "hard_tanh" (one hidden layer), "leaky_relu" or
        "piecewise_linear" (two). "auto" takes the shallowest whose residual is within
        tol, else the best.
    tol : float, default=1e-6
        Largest residual that counts as converged.

    Returns
    -------
    MatchResult
        Layers, targets, achieved values and residual.

    Raises
    ------
    ValueError
        For an unknown kernel or architecture, a DEQ with bias or without centring, or
        one that ignores its input (σ_b² = 0).

    Warns
    -----
    MatchWarning
        If the residual is over tol; the message says which architecture does better.

    Notes
    -----
    Least squares on relative residuals from several fixed starts. Not every target can
    be met: docs/theory.md, section 5.

    References
    ----------
    .. [1] Ling et al. (2024), section on explicit equivalents.

    Examples
    --------
    >>> from sklearn_deq.theory import equilibrium_moments, solve_match
    >>> match = solve_match(equilibrium_moments("relu"))
    >>> match.architecture, match.depth, match.residual < 1e-8
    ('leaky_relu', 2, True)
    """
    check_kernel(kernel)
    if architecture != "auto" and architecture not in ARCHITECTURES:
        raise ValueError(
            f"architecture must be one of {{'auto', "
            f"{', '.join(map(repr, ARCHITECTURES))}}}, got {architecture!r}."
        )
    _check_matchable(moments)
    if architecture == "auto":
        result = _shallowest(moments, kernel, tol)
    else:
        result = _solve(moments, kernel, architecture, tol, "as asked")
    if not result.converged:
        _warn(moments, kernel, architecture, tol, result)
    return result


def _check_matchable(moments: EquilibriumMoments) -> None:
    if not moments.equations_hold:
        raise ValueError(
            "The four matching equations hold for centred activations without bias: "
            f"got center={moments.center}, bias_variance={moments.bias_variance:.4g}. "
            "Set center=True and bias_variance=0."
        )
    if moments.input_variance * moments.tau0 == 0.0:
        raise ValueError(
            "A DEQ that does not see its input has no explicit equivalent: "
            f"input_variance={moments.input_variance:.4g}, tau0={moments.tau0:.4g} "
            "(are all features constant 0?)."
        )


def _shallowest(moments: EquilibriumMoments, kernel: str, tol: float) -> MatchResult:
    """First architecture within tolerance in the order of depth, else the best."""
    found = []
    for name in ARCHITECTURES:
        reason = f"shallowest architecture whose residual is at most {tol:.0e}"
        result = _solve(moments, kernel, name, tol, reason)
        if result.converged:
            return result
        found.append(result)
    best = min(found, key=lambda result: result.residual)
    names = ", ".join(ARCHITECTURES)
    return replace(best, reason=f"best residual of {names}; none is within {tol:.0e}")


def _warn(
    moments: EquilibriumMoments,
    kernel: str,
    architecture: str,
    tol: float,
    result: MatchResult,
) -> None:
    advice = "no architecture of this release meets this target"
    if architecture != "auto":
        other = _shallowest(moments, kernel, tol)
        if other.residual < 0.5 * result.residual:
            advice = f"architecture={other.architecture!r} reaches {other.residual:.1e}"
        else:
            advice = "no other architecture of this release does better"
    warnings.warn(
        f"The explicit network's kernel matches the DEQ's only to a relative residual "
        f"of {result.residual:.1e} (architecture={result.architecture!r}, "
        f"kernel={kernel!r}, tolerance {tol:.0e}): {advice}. A smaller "
        "recurrent_variance or kernel='ck' makes matching easier.",
        MatchWarning,
        stacklevel=3,
    )


def _solve(
    moments: EquilibriumMoments,
    kernel: str,
    architecture: str,
    tol: float,
    reason: str,
) -> MatchResult:
    """Best of several least-squares runs within one architecture."""
    family = ARCHITECTURES[architecture]
    target = np.array(moments.coefficients(kernel))
    scale = np.maximum(np.abs(target), _FLOOR * np.abs(target).max())

    def network(p: np.ndarray) -> ExplicitMoments:
        layers = [family.build(part) for part in np.split(p, family.depth)]
        return explicit_moments(
            [layer.activation() for layer in layers], tau0=moments.tau0
        )

    def errors(p: np.ndarray) -> np.ndarray:
        if np.abs(p).max() > _LARGEST:
            return np.full(target.size, 1e3 * np.abs(p).max())
        try:
            achieved = network(p).coefficients(kernel)
        except ValueError:
            return np.full(target.size, 1e3)
        return (np.array(achieved) - target) / scale

    best, best_residual = None, np.inf
    for start in family.starts(moments.E_dphi, moments.E_d2phi):
        method = "lm" if len(start) <= target.size else "trf"
        run = least_squares(
            errors,
            start,
            method=method,
            xtol=1e-15,
            ftol=1e-15,
            gtol=1e-15,
            max_nfev=_MOST_EVALUATIONS,
        )
        residual = float(np.abs(run.fun).max())
        if residual < best_residual:
            best, best_residual = run.x, residual
        if best_residual < _EXACT:
            break
    result = network(np.asarray(best))
    names = _EQUATIONS[kernel]
    achieved = dict(zip(names, result.coefficients(kernel), strict=True))
    return MatchResult(
        architecture=architecture,
        depth=family.depth,
        layers=result.layers,
        target=dict(zip(names, map(float, target), strict=True)),
        achieved={name: float(value) for name, value in achieved.items()},
        residual=best_residual,
        converged=best_residual <= tol,
        reason=reason,
    )
