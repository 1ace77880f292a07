"""The equilibrium of a wide DEQ: τ*, its moments, and the variance of each sample.

Docs/theory.md: section 1 (τ*, stability), and the coefficients of section 3, whose
matrices are in `_equivalents`. The kernels are in `_equilibrium_kernel`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sklearn_deq._warnings import warn_of_solver
from sklearn_deq.theory._activations import Activation, get_activation
from sklearn_deq.theory._checks import check_flag, check_nonnegative, did_you_mean
from sklearn_deq.theory._dual_methods import quadrature_error
from sklearn_deq.theory._moments import (
    mean_derivatives,
    mean_squared_derivative,
    resolved_variances,
    spread_moments,
)
from sklearn_deq.theory._norms import along_norms

KERNELS = ("ck", "ntk", "ntk_recurrent")

_MAX_STEPS = 200
# Error of moments that is warned of.
_POOR = 1e-6
# Squares of larger parameters, and of variances that they lead to, overflow.
_LARGEST = 1e140
# A variance that grows past this multiple of the input's has no fixed point.
_LARGEST_GROWTH = 1e8


@dataclass(frozen=True)
class EquilibriumMoments:
    """What a wide DEQ's kernels depend on, as `equilibrium_moments` computes it.

    Attributes
    ----------
    activation : Activation
        φ, before centring.
    recurrent_variance, input_variance, bias_variance, tau0 : float
        σ_a², σ_b², σ_c² and τ0 = √(mean s_ii).
    center : bool
        Whether φ is replaced by φ − offset.
    tau_star : float
        τ*, the standard deviation of a pre-activation at equilibrium.
    offset : float
        E φ(τ*ξ) if center, else 0.
    gamma2 : float
        γ² = E[(φ(τ*ξ) − offset)²].
    chi : float
        χ = σ_a² E[φ'²]; √χ is the spectral radius of the equilibrium's Jacobian.
    E_dphi, E_d2phi, E_d2phisq, E_dphi2 : float
        E φ', E φ'', E[((φ − offset)²)''] and E[φ'²] at τ*.
    alpha : tuple of 4 floats
        α1 … α4 of the CK's high-dimensional equivalent.
    beta_recurrent, beta_all : tuple of 3 floats
        β1 … β3 of the NTK with A and the readout, or everything, trained.
    kappa2_recurrent, kappa2_all : float
        κ² of the same.

    Notes
    -----
    α, β and κ² are values of the formulas for centred φ without bias; elsewhere they
    are no equivalents (docs/theory.md, section 3).
    """

    activation: Activation
    recurrent_variance: float
    input_variance: float
    bias_variance: float
    tau0: float
    center: bool
    tau_star: float
    offset: float
    gamma2: float
    chi: float
    E_dphi: float
    E_d2phi: float
    E_d2phisq: float
    E_dphi2: float
    alpha: tuple[float, float, float, float] = field(init=False)
    beta_recurrent: tuple[float, float, float] = field(init=False)
    kappa2_recurrent: float = field(init=False)
    beta_all: tuple[float, float, float] = field(init=False)
    kappa2_all: float = field(init=False)

    def __post_init__(self) -> None:
        """Add the coefficients, which follow from the others."""
        for name, value in _coefficients(self).items():
            object.__setattr__(self, name, value)

    @property
    def equations_hold(self) -> bool:
        """Whether the four equations describe this DEQ: centred φ and no bias."""
        return self.center and self.bias_variance == 0.0

    def __str__(self) -> str:
        """Report the setting and its equilibrium."""
        return (
            f"EquilibriumMoments: {self.activation}, "
            f"{'centred' if self.center else 'not centred'}, "
            f"recurrent_variance={self.recurrent_variance:.6g}, "
            f"input_variance={self.input_variance:.6g}, "
            f"bias_variance={self.bias_variance:.6g}, tau0={self.tau0:.6g}\n"
            f"  at equilibrium: tau_star={self.tau_star:.6g}, "
            f"offset={self.offset:.6g}, gamma2={self.gamma2:.6g}, chi={self.chi:.6g}"
        )

    def coefficients(self, kernel: str) -> tuple[float, float, float, float]:
        """Return the coefficients of S, χχᵀ, S∘S and the diagonal of a kernel.

        Parameters
        ----------
        kernel : {"ck", "ntk", "ntk_recurrent"}
            Which kernel.

        Returns
        -------
        tuple of 4 floats
            Values α1, α2, α3 and γ², or β1, β2, β3 and κ².
        """
        check_kernel(kernel)
        if kernel == "ck":
            return (*self.alpha[:3], self.gamma2)
        if kernel == "ntk":
            return (*self.beta_all, self.kappa2_all)
        return (*self.beta_recurrent, self.kappa2_recurrent)


class UnstableError(ValueError):
    """A setting of the variances has no stable equilibrium."""


def check_kernel(kernel: Any) -> None:
    """Raise a ValueError unless kernel is one of the three."""
    if not (isinstance(kernel, str) and kernel in KERNELS):
        hint = did_you_mean(kernel, KERNELS) if isinstance(kernel, str) else ""
        raise ValueError(
            f"kernel must be one of {', '.join(map(repr, KERNELS))}, got {kernel!r}."
            f"{hint}"
        )


def _checked_parameters(**parameters: float) -> list[float]:
    """Parameters as floats; refuse those out of range."""
    for name, value in parameters.items():
        check_nonnegative(name, value)
    # NumPy's numbers would warn of products that overflow.
    values = [float(value) for value in parameters.values()]
    for name, value in zip(parameters, values, strict=True):
        _check_size(name, value)
    _check_size("input_variance * tau0**2 + bias_variance", _drive(*values[1:]))
    return values


def _check_size(name: str, value: float) -> None:
    """Refuse what cannot be squared."""
    if value > _LARGEST:
        raise ValueError(
            f"{name} is {value:.1e}, which is too large to compute with (above "
            f"{_LARGEST:.0e}): scale the data, or lower the variances."
        )


def _drive(input_variance: float, bias_variance: float, tau0: float) -> float:
    # No power: that of a large float raises.
    return input_variance * tau0 * tau0 + bias_variance


def equilibrium_moments(
    activation: str | Activation | Callable[..., Any],
    recurrent_variance: float = 0.2,
    input_variance: float = 0.8,
    *,
    bias_variance: float = 0.0,
    tau0: float = 1.0,
    center: bool = True,
) -> EquilibriumMoments:
    """Solve for the equilibrium of a wide DEQ and the moments that describe it.

    τ*² = σ_a² E[(φ(τ*ξ) − offset)²] + σ_b² τ0² + σ_c², with offset = E φ(τ*ξ) if
    center, else 0.

    Parameters
    ----------
    activation : str, Activation or callable
        The activation φ.
    recurrent_variance : float, default=0.2
        σ_a², variance of the recurrent weights.
    input_variance : float, default=0.8
        σ_b², variance of the input weights.
    bias_variance : float, default=0.0
        σ_c², variance of the bias.
    tau0 : float, default=1.0
        √(mean s_ii), s_ii = |x_i|²/p: the size of the data.
    center : bool, default=True
        Whether φ is centred at τ*, as the theorems of [1]_ assume.

    Returns
    -------
    EquilibriumMoments
        The arguments, τ*, the moments, and the coefficients of the equivalents.

    Raises
    ------
    ValueError
        If a variance is negative or too large to be squared, or the setting is
        unstable at τ*: the message names the condition that fails and the variances.

    Warns
    -----
    SolverWarning
        If the moments of an activation are not accurate to 1e-6, as of one with kinks
        that are not declared.

    References
    ----------
    .. [1] Ling et al. (2024), "Deep Equilibrium Models are Almost Equivalent to Not-so-
       deep Explicit Models for High-dimensional Gaussian Mixtures", Theorems 1 and 2.

    Examples
    --------
    >>> from sklearn_deq.theory import equilibrium_moments
    >>> moments = equilibrium_moments("relu", recurrent_variance=0.2)
    >>> round(moments.tau_star, 6), round(moments.chi, 6)
    (0.926566, 0.1)
    """
    phi = get_activation(activation)
    *variances, tau0 = _checked_parameters(
        recurrent_variance=recurrent_variance,
        input_variance=input_variance,
        bias_variance=bias_variance,
        tau0=tau0,
    )
    recurrent_variance, input_variance, bias_variance = variances
    check_flag("center", center)
    where = f"at τ* (tau0={tau0:.4g})"
    drive = np.array([_drive(input_variance, bias_variance, tau0)])
    offset = None if center else 0.0
    q = _solve_variance(phi, recurrent_variance, drive, offset)
    if not np.isfinite(q[0]):
        _check_finite(phi, np.sqrt(drive[0]))
        _check_stability(where, np.full(1, np.nan), np.full(1, np.nan), *variances)
    at_rest = bool(q[0] == 0.0)
    # Without any drive a DEQ may be at rest: take the limits of small variances.
    q = np.maximum(q, 1e-200)
    spread = spread_moments(phi, q, offset)
    near = resolved_variances(phi, q)
    resolved = spread if near[0] == q[0] else spread_moments(phi, near, offset)
    slope = resolved.slope
    squared = mean_squared_derivative(phi, near)
    if phi.dual is None:
        _check_quadrature(phi, q)
    chi = recurrent_variance * squared
    _check_stability(where, recurrent_variance * slope, chi, *variances)
    first, second = mean_derivatives(phi, q)
    return EquilibriumMoments(
        activation=phi,
        recurrent_variance=recurrent_variance,
        input_variance=input_variance,
        bias_variance=bias_variance,
        tau0=tau0,
        center=bool(center),
        tau_star=float(np.sqrt(q[0])),
        offset=_offset(phi, spread.mean, at_rest) if center else 0.0,
        gamma2=0.0 if at_rest and center else float(spread.value[0]),
        chi=float(chi[0]),
        E_dphi=float(first[0]),
        E_d2phi=float(second[0]),
        E_d2phisq=float(2.0 * slope[0]),
        E_dphi2=float(squared[0]),
    )


def _check_quadrature(phi: Activation, q: np.ndarray) -> None:
    """Warn of moments that the rule misses: of kinks, steps and waves within panels."""
    error = quadrature_error(phi, q)
    if error > _POOR:
        warn_of_solver(
            f"Moments of {phi} are only good to a relative error of about {error:.0e}, "
            "those of its derivative to less: if its slope or curvature jumps "
            "somewhere, declare that (Activation(..., kinks=...)); if it is steep or "
            "oscillates, scale it or the data.",
        )


def _offset(activation: Activation, mean: np.ndarray, at_rest: bool) -> float:
    """E φ(τ*ξ), exactly φ(0) at rest: kernels are then 0."""
    return float(activation.function(np.zeros(1))[0] if at_rest else mean[0])


def _coefficients(m: EquilibriumMoments) -> dict[str, Any]:
    """α, β and κ² by their names [L24, Theorems 1 and 2; docs/theory.md, section 3]."""
    sa, sb, sc = m.recurrent_variance, m.input_variance, m.bias_variance
    drive = _drive(sb, sc, m.tau0)
    g1, g2 = m.E_dphi**2, m.E_d2phi**2
    rest = 1.0 - sa * g1
    a1 = sb * g1 / rest
    a4 = sb / (1.0 - 0.5 * sa * m.E_d2phisq)
    link = sa * a1 + sb
    a2 = 0.25 * g2 * a4 * a4 / rest
    a3 = 0.5 * g2 * link * link / rest
    r1, all1 = a1 / rest, (a1 + sb * g1) / rest
    b2 = a2 / rest
    chain = sa * g2 * link
    return {
        "alpha": (a1, a2, a3, a4),
        "beta_recurrent": (r1, b2, (a3 + r1 * chain) / rest),
        "kappa2_recurrent": m.gamma2 / (1.0 - m.chi),
        "beta_all": (all1, b2, (a3 + sb * g2 * link + all1 * chain) / rest),
        "kappa2_all": (m.gamma2 + drive * m.E_dphi2) / (1.0 - m.chi),
    }


def _solve_variance(
    activation: Activation,
    recurrent_variance: float,
    drive: np.ndarray,
    offset: float | None,
) -> np.ndarray:
    """Fixed points of q = σ_a² E[(φ(√q ξ) − b)²] + drive, shape (n,).

    Newton's method with plain steps where the map is not contracting; it ends at the
    first fixed point above the drive, which is where the network's iteration goes.
    Where there is none, q is returned as inf.
    """
    with np.errstate(all="ignore"):
        origin = float(activation.function(np.zeros(1))[0])
    shift = 0.0 if offset is None else (origin - offset) ** 2
    start = drive + recurrent_variance * shift
    q = start.copy()
    # A zero drive with φ(0) = b is its own fixed point.
    active = np.flatnonzero(start > 0)
    ceiling = _LARGEST_GROWTH * (1.0 + start)
    for _ in range(_MAX_STEPS):
        if not active.size:
            return q
        old = q[active]
        spread = spread_moments(activation, old, offset)
        gap = recurrent_variance * spread.value + drive[active] - old
        slope = recurrent_variance * spread.slope
        contracting = slope < 1.0
        step = np.where(contracting, gap / np.where(contracting, 1 - slope, 1.0), gap)
        # Where the map expands, grow geometrically towards a fixed point above.
        step = np.where(contracting | (gap <= 0), step, np.maximum(gap, old))
        new = np.maximum(old + step, 0.1 * old)
        lost = ~(new < ceiling[active])
        q[active] = np.where(lost, np.inf, new)
        done = lost | (np.abs(new - old) <= 4e-16 * new)
        active = active[~done]
    # Newton's steps end in a cycle of a few ulps: that is convergence.
    spread = spread_moments(activation, q[active], offset)
    gap = recurrent_variance * spread.value + drive[active] - q[active]
    q[active] = np.where(np.abs(gap) <= 1e-11 * q[active], q[active], np.inf)
    return q


def _check_finite(phi: Activation, tau: float) -> None:
    """Refuse an activation that is not finite where it is needed."""
    points = tau * np.linspace(-8.0, 8.0, 65)
    with np.errstate(all="ignore"):
        values = np.asarray(phi.function(points))
    bad = points[~np.isfinite(values)]
    if bad.size:
        raise ValueError(
            f"activation must be finite for all real numbers, but {phi} is not at "
            f"{bad.size} of {points.size} points from {points[0]:.3g} to "
            f"{points[-1]:.3g}, such as x = {bad[0]:.3g}."
        )


def _check_stability(
    where: str,
    slope: np.ndarray,
    chi: np.ndarray,
    recurrent_variance: float,
    input_variance: float,
    bias_variance: float,
) -> None:
    """Raise a ValueError unless both conditions of docs/theory.md, section 1 hold."""
    # NaN, from a variance without fixed point, fails every comparison.
    conditions = [
        (
            "there is no fixed point q = σ_a² E[(φ − b)²] + σ_b² s + σ_c²",
            np.where(np.isnan(slope), np.inf, 0.0),
        ),
        ("the condition σ_a² E[((φ − b)²)'']/2 < 1 (a stable norm) fails", slope),
        ("the condition χ = σ_a² E[φ'²] < 1 (a stable equilibrium) fails", chi),
    ]
    for failure, values in conditions:
        bad = ~(values < 1.0)
        if not np.any(bad):
            continue
        worst = float(values[bad].max())
        found = [f"up to {worst:.4g}"] if np.isfinite(worst) else []
        found += [f"{int(bad.sum())} of {bad.size} rows"] if bad.size > 1 else []
        reasons = f" ({', '.join(found)})" if found else ""
        raise UnstableError(
            f"Unstable DEQ {where}: {failure}{reasons} "
            f"with recurrent_variance={recurrent_variance:.4g}, "
            f"input_variance={input_variance:.4g}, "
            f"bias_variance={bias_variance:.4g}. Lower recurrent_variance, or choose "
            "an activation with smaller slopes."
        )


def equilibrium_variance(moments: EquilibriumMoments, s: np.ndarray) -> np.ndarray:
    """Pre-activation variance q_i of each sample at equilibrium, from s_ii = |x_i|²/p.

    Parameters
    ----------
    moments : EquilibriumMoments
        The DEQ, with its centring constant.
    s : array-like of shape (n,)
        Squared norms of the rows over the number of features, nonnegative.

    Returns
    -------
    ndarray of shape (n,)
        Λ_ii = q_i, the fixed point of q = σ_a² E[(φ(√q ξ) − offset)²] + σ_b² s + σ_c².

    Raises
    ------
    ValueError
        If s is negative, not finite or above 1e140; or if the setting is unstable for
        a sample: the message names the condition and the variances.

    Notes
    -----
    Source: docs/theory.md, sections 1 and 2.

    Examples
    --------
    >>> from sklearn_deq.theory import equilibrium_moments, equilibrium_variance
    >>> moments = equilibrium_moments("tanh")
    >>> equilibrium_variance(moments, [0.5, 1.0]).round(4)
    array([0.4515, 0.874 ])
    """
    s = np.asarray(s, dtype=float)
    if not np.all((s >= 0.0) & (s < np.inf)):
        raise ValueError("s must hold squared norms, finite and not negative.")
    if s.size == 0:
        return s.copy()
    _check_size("|x|²/p", float(s.max()))
    largest = moments.input_variance * float(s.max()) + moments.bias_variance
    _check_size("input_variance * |x|²/p + bias_variance", largest)
    # Divided by its order for small s, so that the relative error is small there too.
    start = _least_variance(moments, s.ravel())

    def functions(s: np.ndarray) -> np.ndarray:
        q, slope, chi = _variance_and_stability(moments, s)
        return np.stack(
            [q / np.maximum(_least_variance(moments, s), 1e-200), slope, chi]
        )

    ratio, slope, chi = along_norms(functions, s.ravel())
    _check_stability(
        f"for samples with |x|²/p in [{s.min():.4g}, {s.max():.4g}]",
        slope,
        chi,
        moments.recurrent_variance,
        moments.input_variance,
        moments.bias_variance,
    )
    return (ratio * start).reshape(s.shape)


def _least_variance(moments: EquilibriumMoments, s: np.ndarray) -> np.ndarray:
    """Variance after the first step of the iteration, which the limit exceeds."""
    drive = moments.input_variance * s + moments.bias_variance
    origin = float(moments.activation.function(np.zeros(1))[0])
    return drive + moments.recurrent_variance * (origin - moments.offset) ** 2


def _variance_and_stability(
    moments: EquilibriumMoments, s: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """q, σ_a² E[(φ²)'']/2 and χ of samples; NaN where there is no fixed point."""
    drive = moments.input_variance * s + moments.bias_variance
    sa = moments.recurrent_variance
    q = _solve_variance(moments.activation, sa, drive, moments.offset)
    slope, chi = np.full_like(q, np.nan), np.full_like(q, np.nan)
    exists = np.isfinite(q)
    # A row at rest (q = 0) has the limits of small q.
    safe = np.maximum(q[exists], 1e-200)
    slope[exists] = sa * spread_moments(moments.activation, safe, moments.offset).slope
    chi[exists] = sa * mean_squared_derivative(moments.activation, safe)
    return q, slope, chi
