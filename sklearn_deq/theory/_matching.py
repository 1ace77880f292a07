"""Matching: the explicit network whose kernel equals a given DEQ's.

What "auto" takes, and what is said of it; docs/theory.md, section 5. The equations are
solved in `_equations`, Hermite layers made in `_hermite_match`.
"""

from __future__ import annotations

import math
from dataclasses import replace
from numbers import Real

import numpy as np

from sklearn_deq._warnings import warn
from sklearn_deq.exceptions import MatchWarning
from sklearn_deq.theory._equations import Problem
from sklearn_deq.theory._equilibrium import EquilibriumMoments, check_kernel
from sklearn_deq.theory._families import ARCHITECTURES
from sklearn_deq.theory._hermite_match import (
    is_homogeneous,
    kernel_error,
    match_hermite,
)
from sklearn_deq.theory._homogeneous import homogeneous_slopes
from sklearn_deq.theory._match_result import MatchResult

# Norms that differ by a smaller share count as one in what is printed.
_NEARLY_EQUAL = 0.02
# Share by which norms may be off τ0 before that is warned of.
_OFF_SIZE = 0.05
# Where "auto" takes a "hermite" layer, as nothing is closer, this residual is no news.
_CLOSE = 1e-3
# Where the error of nearly parallel samples is worth a warning: above that of the NTK
# of a ReLU with weak recurrence at norms that differ two-fold.
_APART = 0.03
# Kernels of smaller sizes are too small to be squared, and no Hermite layer is made
# where single norms are.
_TINY = 1e-70
# Those of larger ones are too large.
_HUGE = 1e70
# An activation with a smaller mean squared derivative is constant.
_FLAT = 1e-20
# Below this recurrent variance series of tangent kernels with kinks end too early.
_WEAK = 0.05


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
        "piecewise_linear" (as few of one or two as meet the target) or "rounded" (up to
        three); or "hermite", one hidden layer made for this kernel: exact where all
        samples have one norm, and for uncentred positively homogeneous activations.
        "auto" takes the shallowest whose residual is within tol, else the best. With
        norms given that is "hermite", unless its residual is over tol, or that of
        nearly parallel samples over 1e-3, and the kernel of a network that solves the
        equations is closer at these norms. Where the four equations do not hold (bias,
        or no centring), "hermite".
    tol : float, default=1e-6
        Largest residual that counts as converged.
    multipliers : bool, default=True
        Whether the layers may have learning rates of their own where a network trained
        with a single rate does not have the NTK asked for.
    norms : tuple of 2 floats or None, default=None
        Smallest and largest √s_ii of the data, for which "hermite" is made. Where they
        are τ0 up to tol the coefficient of χχᵀ is no equation, as χ = 0. None: norms
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
        Where "auto" takes "hermite", as nothing is closer: if that is over 1e-3. Of
        any "hermite" layer if `MatchResult.residual_parallel` is over 0.03. Of others
        if norms are given, and τ0 is no size of data between them.

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
    check_settings(moments, tol)
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
    alone = not moments.equations_hold or (kernel != "ck" and trainable == "readout")
    # Homogeneous functions serve any norms, and others those that were measured.
    known = norms is not None or is_homogeneous(moments)
    if architecture == "hermite" or (architecture == "auto" and alone and known):
        result = _match_hermite(moments, kernel, trainable, norms, tol)
    else:
        _check_matchable(moments, kernel, trainable)
        # χ = s_ii − τ0² is 0 where all norms are τ0.
        near = np.abs(np.array(norms or np.inf) / moments.tau0 - 1.0).max() <= tol
        problem = Problem(moments, kernel, tol, multipliers, equal_norms=bool(near))
        if architecture == "auto":
            result = _match_auto(problem, trainable, norms)
        else:
            result = problem.shallowest([architecture])
        if result.architecture != "hermite":
            _warn_of_equations(problem, architecture, result, norms)
            return result
    bound = max(tol, _CLOSE) if architecture == "auto" else tol
    if result.residual > bound or result.residual_parallel > _APART:
        _warn_of(result, kernel, tol, _hermite_advice(moments, kernel, norms))
    return result


def _match_auto(
    problem: Problem, trainable: str, norms: tuple[float, float] | None
) -> MatchResult:
    """The layer made for the norms, unless another network is closer to the kernel."""
    names = list(ARCHITECTURES)
    if norms is None or norms[0] < _TINY:
        return problem.shallowest(names)
    moments, kernel = problem.moments, problem.kernel
    made = _match_hermite(moments, kernel, trainable, norms, problem.tol)
    own = max(made.residual, made.residual_parallel)
    if made.converged and own <= _CLOSE:
        return made
    other = problem.shallowest(names)
    error = kernel_error(other.layers, other.multipliers, moments, kernel, norms)
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
        reason="one hidden layer made for this kernel, "
        + _which(moments, norms, found.shown),
        multipliers=(0.0, 1.0) if frozen else None,
        norms=None
        if is_homogeneous(moments)
        else norms or (moments.tau0, moments.tau0),
    )


def _check_norms(norms: tuple[float, float] | None) -> tuple[float, float] | None:
    if norms is None:
        return None
    try:
        ends = np.asarray(norms, dtype=float)
    except (TypeError, ValueError):
        ends = np.empty(0)
    if ends.shape != (2,) or not 0.0 < ends[0] <= ends[1] < np.inf:
        raise ValueError(
            "norms must be the smallest and the largest √s_ii of the data, positive "
            f"and in this order, got {norms!r}."
        )
    _check_size("norms", ends[1])
    return float(ends[0]), float(ends[1])


def off_size(tau0: float, low: float, high: float) -> bool:
    """Whether τ0 is no size of data between these."""
    return bool(tau0 * (1.0 + _OFF_SIZE) < low or tau0 > high * (1.0 + _OFF_SIZE))


def _warn_of_size(tau0: float, norms: tuple[float, float]) -> None:
    if off_size(tau0, *norms):
        warn(
            f"The four equations are solved for data of size tau0={tau0:.3g}, but "
            f"norms are from {norms[0]:.3g} to {norms[1]:.3g}: the network's kernel on "
            "such rows may be far from the DEQ's, whatever the residual. Scale the "
            "rows to tau0, or match a DEQ for data of their size (tau0=None in an "
            "estimator, else tau0= of equilibrium_moments), or set "
            "architecture='hermite', which is made for their norms.",
            MatchWarning,
        )


def _which(
    moments: EquilibriumMoments, norms: tuple[float, float] | None, shown: float
) -> str:
    """For which norms a Hermite layer is made, and of which its kernel is shown."""
    where = f" (K is that at norm {shown:.3g})"
    if is_homogeneous(moments):
        return "at any norms" + where
    low, high = norms or (moments.tau0, moments.tau0)
    if high - low <= _NEARLY_EQUAL * high:
        return f"at norms of {high:.3g}"
    return f"at norms from {low:.3g} to {high:.3g}{where}"


def check_settings(moments: EquilibriumMoments, tol: float) -> None:
    """Refuse what is no DEQ, or no tolerance."""
    if not isinstance(moments, EquilibriumMoments):
        raise ValueError(
            "moments must be the EquilibriumMoments of a DEQ, such as "
            f"equilibrium_moments('relu'), got {moments!r}."
        )
    _check_size("tau0", moments.tau0)
    check_tolerance(tol)


def check_tolerance(tol: float) -> None:
    """Refuse what is no tolerance; a bool is none."""
    number = isinstance(tol, Real) and not isinstance(tol, bool)
    if not (number and 0.0 < float(tol) < math.inf):
        raise ValueError(f"tol must be a positive finite number, got {tol!r}.")


def _check_size(name: str, size: float) -> None:
    """Refuse data whose kernel cannot be squared."""
    too = "large" if size > _HUGE else "small"
    if size > _HUGE or (name == "tau0" and 0.0 < size < _TINY):
        raise ValueError(
            f"The data are too {too} for a match: {name} {size:.1e} is not between "
            f"{_TINY:.0e} and {_HUGE:.0e}. Scale the data, for example by "
            "StandardScaler, or set normalize=True."
        )


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
            "made for the norms of the data (norms= of solve_match), exactly if they "
            "are equal."
        )
    if kernel != "ck" and trainable == "readout":
        raise ValueError(
            f"kernel={kernel!r} with the readout trained alone needs "
            "architecture='hermite'."
        )


def _warn_of_equations(
    problem: Problem,
    architecture: str,
    result: MatchResult,
    norms: tuple[float, float] | None,
) -> None:
    if not result.converged:
        advice = _advice(problem, architecture, result)
        _warn_of(result, problem.kernel, problem.tol, advice)
    # Kernels of two networks that are homogeneous but for offsets grow alike.
    alike = result.architecture == "leaky_relu" and (
        homogeneous_slopes(problem.moments.activation) is not None
    )
    if norms is not None and not alike:
        _warn_of_size(problem.moments.tau0, norms)


def _advice(problem: Problem, architecture: str, result: MatchResult) -> str:
    """What solves the equations better."""
    advice = "no architecture of this release meets this target"
    if architecture != "auto":
        other = problem.shallowest(list(ARCHITECTURES))
        if other.residual < 0.5 * result.residual:
            advice = f"architecture={other.architecture!r} reaches {other.residual:.1e}"
        else:
            advice = "no other architecture solves the equations better"
    advice += (
        "; architecture='hermite', made for the norms of the data (norms= of "
        "solve_match), has the kernel itself; a smaller recurrent_variance makes "
        "matching easier"
    )
    if problem.kernel != "ck":
        advice += ", as kernel='ck' does"
    return advice


def _hermite_advice(
    moments: EquilibriumMoments, kernel: str, norms: tuple[float, float] | None
) -> str:
    """What makes a Hermite layer better that is not good enough."""
    if norms is not None and norms[1] > norms[0] * (1.0 + _NEARLY_EQUAL):
        exact = "it is exact where all norms are equal (normalize=True)"
        return exact if kernel == "ck" else f"{exact}; kernel='ck' has smaller errors"
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


def _warn_of(result: MatchResult, kernel: str, tol: float, advice: str) -> None:
    bound = ""
    if result.distance:
        bound = f", which cannot be below {result.distance:.1e}"
    if result.residual_parallel > _CLOSE:
        bound = (
            f", and to {result.residual_parallel:.1e} for nearly parallel samples of "
            "different norms"
        )
    warn(
        f"The explicit network's kernel matches the DEQ's only to a relative residual "
        f"of {result.residual:.1e}{bound} (architecture={result.architecture!r}, "
        f"kernel={kernel!r}, tolerance {tol:.0e}): {advice}.",
        MatchWarning,
    )
