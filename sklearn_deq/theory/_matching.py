"""Matching: the explicit network whose kernel equals a given DEQ's.

Docs/theory.md, section 5. The families of networks are in `_families`.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, replace
from numbers import Real

import numpy as np

from sklearn_deq.exceptions import MatchWarning
from sklearn_deq.theory._equilibrium import EquilibriumMoments, check_kernel
from sklearn_deq.theory._explicit import ExplicitLayer, explicit_moments, propagate
from sklearn_deq.theory._families import ARCHITECTURES, Family, Units
from sklearn_deq.theory._hermite_match import (
    is_homogeneous,
    kernel_error,
    match_hermite,
)
from sklearn_deq.theory._least_squares import least_squares

# Targets below this share of the largest count as this share of it.
_FLOOR = 1e-6
# Coefficients of χχᵀ and S∘S below this share of the largest are 0: φ is odd.
_ODD = 1e-12
# A residual this small counts as an exact solution.
_EXACT = 1e-12
# For a target that is not met: go on while eight steps gain this share.
_POLISH = 1e-3
# Norms that differ by a smaller share count as one in what is printed.
_NEARLY_EQUAL = 0.02
# Where "auto" takes a "hermite" layer, as nothing is closer, this residual is no news.
_CLOSE = 1e-3
# Kernels of smaller norms are too small to be squared: no Hermite layer is made.
_TINY = 1e-70
# An activation with a smaller mean squared derivative is constant.
_FLAT = 1e-20
# Below this recurrent variance series of tangent kernels with kinks end too early.
_WEAK = 0.05
# Where the search for multipliers starts, unless the target says.
_RATIO = 0.3
_RATIOS = (1e-3, 50.0)

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
        The DEQ's coefficients and the network's, equation by equation; of "hermite" the
        kernels at three cosines.
    residual : float
        max_k |achieved_k − target_k| / max(|target_k|, 1e-6 max|target|); of "hermite"
        the largest error of the kernel itself, relative to √(K_ii K_jj), but for
        samples of different norms with cosines beyond ±0.95.
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
    multipliers: bool = True,
    norms: tuple[float, float] | None = None,
    trainable: str = "all",
) -> MatchResult:
    """Find the explicit network with the same kernel as a DEQ.

    Parameters
    ----------
    moments : EquilibriumMoments
        The DEQ: centred and without bias, as the equations assume; not so "hermite".
    kernel : {"ck", "ntk", "ntk_recurrent"}, default="ck"
        The DEQ's kernel to match: by the network's CK for "ck", else by its NTK with
        every layer trained.
    architecture : str, default="auto"
        A key of `ARCHITECTURES`: "hard_tanh" (one hidden layer), "leaky_relu" (two),
        "piecewise_linear" or "rounded" (as few of one or two as meet the target); or
        "hermite", one hidden layer made for this kernel: exact where all samples have
        one norm, and for uncentred positively homogeneous activations. "auto" takes
        the shallowest whose residual is within tol, else the best. With norms given
        that is "hermite", unless its residual is over tol and the kernel of a network
        that solves the equations is closer at these norms. Where the four equations do
        not hold (bias, or no centring), "hermite".
    tol : float, default=1e-6
        Largest residual that counts as converged.
    multipliers : bool, default=True
        Whether the layers may have learning rates of their own where a network trained
        with a single rate does not have the NTK asked for.
    norms : tuple of 2 floats or None, default=None
        Smallest and largest √s_ii of the data, for which "hermite" is made. Where they
        are equal up to tol the coefficient of χχᵀ is no equation, as χ = 0. None: norms
        vary, in a way that is not known, so that "auto" does not take "hermite"; asked
        for, it is made for τ0 alone.
    trainable : {"all", "readout"}, default="all"
        What of the network is to be trained for the NTKs: with "readout" its CK is
        matched, which "hermite" alone can do.

    Returns
    -------
    MatchResult
        Layers, targets, achieved values and residual.

    Raises
    ------
    ValueError
        For an unknown kernel or architecture, norms that are none, a DEQ with bias or
        without centring (but by "hermite"), or one that ignores its input (σ_b² = 0).

    Warns
    -----
    MatchWarning
        If the residual is over tol; the message says which architecture does better.
        Where "auto" takes "hermite", as nothing is closer: if that is over 1e-3.

    Notes
    -----
    Damped Gauss–Newton steps on relative residuals, from several fixed starts at once;
    of the solutions found that with the least Π E[σ_l'²] is returned. Which targets can
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

    The NTK needs one hidden layer, if its two layers learn at different rates:

    >>> match = solve_match(equilibrium_moments("relu"), kernel="ntk")
    >>> match.depth, round(match.multipliers[0], 4), match.multipliers[1]
    (1, 0.9432, 1.0)
    """
    check_kernel(kernel)
    _check_settings(moments, tol)
    names = (*ARCHITECTURES, "hermite")
    if architecture != "auto" and architecture not in names:
        raise ValueError(
            f"architecture must be one of {{'auto', {', '.join(map(repr, names))}}}, "
            f"got {architecture!r}."
        )
    if trainable not in ("all", "readout"):
        raise ValueError(f"trainable must be 'all' or 'readout', got {trainable!r}.")
    check_sees_input(moments)
    norms = _check_norms(norms)
    spread = norms[1] / norms[0] - 1.0 if norms else np.inf
    alone = not moments.equations_hold or (kernel != "ck" and trainable == "readout")
    # Homogeneous functions serve any norms, and others those that were measured.
    known = norms is not None or is_homogeneous(moments)
    if architecture == "hermite" or (architecture == "auto" and alone and known):
        result = _match_hermite(moments, kernel, trainable, norms, tol)
    else:
        _check_matchable(moments, kernel, trainable)
        problem = _Problem(moments, kernel, tol, multipliers, equal_norms=spread <= tol)
        if architecture == "auto":
            result = _match_auto(problem, trainable, norms)
        else:
            result = problem.shallowest([architecture])
        if result.architecture != "hermite":
            if not result.converged:
                _warn(problem, architecture, result)
            return result
    if result.residual > (max(tol, _CLOSE) if architecture == "auto" else tol):
        _warn_of(
            result, kernel, tol, _hermite_advice(moments, kernel, norms), stacklevel=3
        )
    return result


def _match_auto(
    problem: _Problem, trainable: str, norms: tuple[float, float] | None
) -> MatchResult:
    """The layer made for the norms, unless another network is closer to the kernel."""
    names = list(ARCHITECTURES)
    if norms is None or norms[0] < _TINY:
        return problem.shallowest(names)
    moments, kernel = problem.moments, problem.kernel
    made = _match_hermite(moments, kernel, trainable, norms, problem.tol)
    if made.converged:
        return made
    other = problem.shallowest(names)
    error = kernel_error(other.layers, other.multipliers, moments, kernel, norms)
    own = max(made.residual, made.residual_parallel)
    if own < error:
        also = f"{other.architecture!r}, which goes by equations, by {error:.1e}"
        reason = f"{made.reason}; it errs by {own:.1e}, {also}"
        return replace(made, reason=reason)
    also = f"it errs by {error:.1e}, a 'hermite' layer by {own:.1e}"
    return replace(other, reason=f"{other.reason}; at the norms of the data {also}")


def _match_hermite(
    moments: EquilibriumMoments,
    kernel: str,
    trainable: str,
    norms: tuple[float, float] | None,
    tol: float,
) -> MatchResult:
    """The layer made for the kernel."""
    frozen = kernel != "ck" and trainable == "readout"
    rate = 0.0 if kernel == "ck" or frozen else 1.0
    found = match_hermite(moments, kernel, rate=rate, norms=norms)
    return MatchResult(
        architecture="hermite",
        depth=1,
        layers=(found.layer,),
        target=found.target,
        achieved=found.achieved,
        residual=found.residual,
        residual_parallel=found.residual_parallel,
        converged=found.residual <= tol,
        reason=f"one hidden layer made for this kernel, {_which(moments, norms)}",
        multipliers=(0.0, 1.0) if frozen else None,
        norms=None
        if is_homogeneous(moments)
        else norms or (moments.tau0, moments.tau0),
    )


def _check_norms(norms: tuple[float, float] | None) -> tuple[float, float] | None:
    if norms is None:
        return None
    ends = np.asarray(norms, dtype=float)
    if ends.shape != (2,) or not 0.0 < ends[0] <= ends[1] < np.inf:
        raise ValueError(
            "norms must be the smallest and the largest √s_ii of the data, positive "
            f"and in this order, got {norms!r}."
        )
    return float(ends[0]), float(ends[1])


def _which(moments: EquilibriumMoments, norms: tuple[float, float] | None) -> str:
    """For which norms a Hermite layer is made."""
    if is_homogeneous(moments):
        return "at any norms"
    low, high = norms or (moments.tau0, moments.tau0)
    if high - low <= _NEARLY_EQUAL * high:
        return f"at norms of {high:.3g}"
    return f"at norms from {low:.3g} to {high:.3g}"


def _check_settings(moments: EquilibriumMoments, tol: float) -> None:
    """Refuse what is no DEQ, or no tolerance."""
    if not isinstance(moments, EquilibriumMoments):
        raise ValueError(
            "moments must be the EquilibriumMoments of a DEQ, such as "
            f"equilibrium_moments('relu'), got {moments!r}."
        )
    if not (isinstance(tol, Real) and 0.0 < float(tol) < math.inf):
        raise ValueError(f"tol must be a positive finite number, got {tol!r}.")


def check_sees_input(moments: EquilibriumMoments) -> None:
    """Refuse a DEQ whose states do not depend on its input."""
    if moments.E_dphi2 < _FLAT:
        raise ValueError(
            f"A constant activation has no explicit equivalent: {moments.activation} "
            f"has E[φ'²] = {moments.E_dphi2:.1e} at equilibrium."
        )
    if moments.input_variance * moments.tau0 == 0.0:
        raise ValueError(
            "A DEQ that does not see its input has no explicit equivalent: "
            f"input_variance={moments.input_variance:.4g}, tau0={moments.tau0:.4g} "
            "(are all features constant 0?)."
        )


def _check_matchable(moments: EquilibriumMoments, kernel: str, trainable: str) -> None:
    if not moments.equations_hold:
        raise ValueError(
            "The four matching equations hold for centred activations without bias: "
            f"got center={moments.center}, bias_variance={moments.bias_variance:.4g}. "
            "Set center=True and bias_variance=0, or architecture='hermite', which is "
            "made for the norms of the data, and exact if they are equal."
        )
    if kernel != "ck" and trainable == "readout":
        raise ValueError(
            f"kernel={kernel!r} with the readout trained alone needs "
            "architecture='hermite'."
        )


def _warn(problem: _Problem, architecture: str, result: MatchResult) -> None:
    advice = "no architecture of this release meets this target"
    if architecture != "auto":
        other = problem.shallowest(list(ARCHITECTURES))
        if other.residual < 0.5 * result.residual:
            advice = f"architecture={other.architecture!r} reaches {other.residual:.1e}"
        else:
            advice = "no other architecture of this release does better"
    advice += "; a smaller recurrent_variance or kernel='ck' makes matching easier"
    _warn_of(result, problem.kernel, problem.tol, advice, stacklevel=4)


def _hermite_advice(
    moments: EquilibriumMoments, kernel: str, norms: tuple[float, float] | None
) -> str:
    """What makes a Hermite layer better that is not good enough."""
    if norms is not None and norms[1] > norms[0] * (1.0 + _NEARLY_EQUAL):
        return "it is exact where all norms are equal (normalize=True)"
    kinks = moments.activation.kinks
    less = "" if kernel == "ck" else "; kernel='ck' has a smaller residual"
    if any(kinks):
        which = "an activation with kinks away from 0"
    elif kinks and kernel != "ck":
        which = "a tangent kernel with kinks"
        if moments.recurrent_variance < _WEAK:
            which += f" and a weak recurrence (recurrent_variance below {_WEAK})"
    else:
        which = "an activation with kinks that are not declared, if it has some,"
    return f"the series of {which} ends too early{less}"


def _warn_of(
    result: MatchResult, kernel: str, tol: float, advice: str, *, stacklevel: int
) -> None:
    bound = ""
    if result.distance:
        bound = f", which cannot be below {result.distance:.1e}"
    if result.residual_parallel > _CLOSE:
        bound = (
            f", and to {result.residual_parallel:.1e} for nearly parallel samples of "
            "different norms"
        )
    warnings.warn(
        f"The explicit network's kernel matches the DEQ's only to a relative residual "
        f"of {result.residual:.1e}{bound} (architecture={result.architecture!r}, "
        f"kernel={kernel!r}, tolerance {tol:.0e}): {advice}.",
        MatchWarning,
        stacklevel=stacklevel,
    )


@dataclass(frozen=True)
class _Candidate:
    """What may be tried: an architecture, its depth, and whether rates may differ."""

    architecture: str
    depth: int
    multiplied: bool


@dataclass(frozen=True)
class _Problem:
    """The equations of one match, and the search for their solution."""

    moments: EquilibriumMoments
    kernel: str
    tol: float
    multipliers: bool
    equal_norms: bool

    @property
    def target(self) -> np.ndarray:
        """The DEQ's four coefficients."""
        return np.array(self.moments.coefficients(self.kernel))

    @property
    def counted(self) -> list[int]:
        """Which of the four are equations."""
        return [0, 2, 3] if self.equal_norms else [0, 1, 2, 3]

    @property
    def bent(self) -> bool:
        """Whether anything but an odd network is called for."""
        target = np.abs(self.target)
        return bool((target[1:3] > _ODD * target.max()).any())

    def relative(self, achieved: np.ndarray) -> np.ndarray:
        """Errors of coefficients (..., 4), as the residual counts them."""
        target = self.target[self.counted]
        scale = np.maximum(np.abs(target), _FLOOR * np.abs(target).max())
        return (achieved[..., self.counted] - target) / scale

    def candidates(self, names: list[str]) -> list[_Candidate]:
        """Shallowest first, with one learning rate before several, simplest first."""
        rates = (False, True) if self.multipliers and self.kernel != "ck" else (False,)
        return [
            _Candidate(name, depth, multiplied)
            for depth in (1, 2, 3)
            for multiplied in rates
            for name in names
            if depth in ARCHITECTURES[name].depths
        ]

    def first_converged(self, names: list[str]) -> MatchResult | None:
        """The first candidate that is within tolerance."""
        chosen = "as asked" if len(names) == 1 else self._reason()
        for candidate in self.candidates(names):
            if self.distance(candidate) <= self.tol:
                result = self.solve(candidate, chosen)
                if result.converged:
                    return result
        return None

    def shallowest(self, names: list[str]) -> MatchResult:
        """The first candidate within tolerance, else the one with the best residual."""
        found = self.first_converged(names)
        if found is not None:
            return found
        candidates, chosen = self.candidates(names), "as asked"
        if len(names) > 1:
            chosen = (
                f"best residual of {', '.join(names)}; none is within {self.tol:.0e}"
            )
        # Bounds on the residual say where the best one is not.
        polished: list[MatchResult] = []
        for candidate in sorted(candidates, key=self.distance):
            least = min((result.residual for result in polished), default=np.inf)
            if self.distance(candidate) < least:
                polished.append(self.solve(candidate, chosen, progress=_POLISH))
        best = min(polished, key=lambda result: result.residual)
        return replace(best, distance=min(map(self.distance, candidates)))

    def _reason(self) -> str:
        reason = f"shallowest architecture whose residual is at most {self.tol:.0e}"
        if self.equal_norms:
            return f"{reason}, norms being equal"
        return (
            f"{reason} in equations for high-dimensional data; architecture='hermite' "
            "has the kernel itself, at the norms of the data"
        )

    def distance(self, candidate: _Candidate) -> float:
        """Lower bound of the residual of any network of this kind.

        An error e in every equation lets a target t be anything in t(1 ± e).
        """
        first, second, third, last = target = self.target
        architecture = ARCHITECTURES[candidate.architecture]
        bends = "bend" in architecture.free
        if not bends and np.abs(target[1:3]).max() > _FLOOR * target.max():
            return 1.0
        size = self.moments.tau0**2
        least = size * (first + architecture.layer.least_energy * size * third)
        gaps = [0.0, (least - last) / (least + last)]
        if bends and self.bent and not self.equal_norms:
            # One layer has the coefficients Q/4 and Q/2, for the NTK (2 + 4 λ1/λ2) Q/4.
            ratio = 2.0 if self.kernel == "ck" or candidate.multiplied else 6.0
            gap = (ratio * second - third) / (ratio * second + third)
            if candidate.depth == 1:
                gaps.append(gap if candidate.multiplied else abs(gap))
            elif "rise" not in architecture.free and self.kernel == "ck":
                # Without a clip ½ E[(σ²)''] ≥ A, so that α3 ≤ 2 α2.
                gaps.append(-gap)
        return float(max(gaps))

    def solve(
        self, candidate: _Candidate, reason: str, progress: float = 0.5
    ) -> MatchResult:
        """The least steep solution of one candidate, else its best approximation."""
        family, ratio = self._family(candidate)
        tau0 = self.moments.tau0

        def errors(x: np.ndarray) -> np.ndarray:
            alpha, tau2, beta, kappa2 = propagate(
                family.moments(x), tau0, family.multipliers(x)
            )
            found = (*alpha[:3], tau2) if self.kernel == "ck" else (*beta, kappa2)
            return self.relative(np.stack(np.broadcast_arrays(*found), axis=-1))

        points, values = least_squares(
            errors, family.starts(ratio), *family.box(), tol=_EXACT, progress=progress
        )
        worst = np.abs(values).max(axis=1)
        if worst.min() <= _EXACT:
            gain = family.gain(points, tau0)
            best = int(np.argmin(np.where(worst <= _EXACT, gain, np.inf)))
        else:
            best = int(np.argmin(worst))
        return self._result(candidate, family, points[best], reason)

    def _family(self, candidate: _Candidate) -> tuple[Family, float]:
        """The unknowns of a candidate, and where to start with multipliers."""
        first, second, third, last = self.target
        ratio = _RATIO if candidate.multiplied else 1.0
        if candidate.depth == 1 and candidate.multiplied and self.bent:
            ratio = float(np.clip(0.25 * third / second - 0.5, *_RATIOS))
        # Training all layers adds to the energy of degree k about k times each.
        extra = 0.0 if self.kernel == "ck" else ratio * candidate.depth
        size = self.moments.tau0**2
        energies = np.array([first, third * size, last / size - first - third * size])
        energies *= size / (1.0 + extra * np.array([1.0, 2.0, 3.0]))
        tilt = math.sqrt(2.0 * second / third) - 1.0 if self.bent else 0.0
        units = Units.of(energies, self.moments.tau0, candidate.depth, tilt)
        architecture = ARCHITECTURES[candidate.architecture]
        family = Family(
            architecture, candidate.depth, self.bent, candidate.multiplied, units
        )
        return family, ratio

    def _result(
        self, candidate: _Candidate, family: Family, x: np.ndarray, reason: str
    ) -> MatchResult:
        """Check a solution by the moments of its layers."""
        functions = family.functions(x, self.moments.tau0)
        multipliers = None
        if family.multiplied:
            multipliers = tuple(map(float, family.multipliers(x)))
        found = explicit_moments(
            [function.activation() for function in functions],
            tau0=self.moments.tau0,
            multipliers=multipliers,
        )
        achieved = np.array(found.coefficients(self.kernel))
        residual = float(np.abs(self.relative(achieved)).max())
        names = _EQUATIONS[self.kernel]
        return MatchResult(
            architecture=candidate.architecture,
            depth=candidate.depth,
            layers=found.layers,
            target={names[k]: float(self.target[k]) for k in self.counted},
            achieved={names[k]: float(achieved[k]) for k in self.counted},
            residual=residual,
            converged=residual <= self.tol,
            reason=reason,
            multipliers=multipliers,
        )
