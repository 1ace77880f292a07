"""Shallow explicit networks: their layers, moments and infinite-width kernels.

Docs/theory.md, section 4 (the recursions) and section 5 (three-piece linear layers,
which contain the leaky ReLU and the hard tanh).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from array_api_compat import array_namespace

from sklearn_deq.theory._activations import Activation
from sklearn_deq.theory._closed_forms import correlation, special
from sklearn_deq.theory._duals import dual_function
from sklearn_deq.theory._equilibrium import check_kernel
from sklearn_deq.theory._moments import (
    gaussian_rule,
    legendre_rule,
    mean_squared_derivative,
    spread_moments,
)
from sklearn_deq.theory._pairs import (
    PairKernel,
    Reduction,
    States,
    common_square,
    sphere_reduction,
)

Array = Any
# Nodes of Plackett's integral for pairs of kinks that are not both 0.
_PLACKETT_NODES = 96


@dataclass(frozen=True)
class ThreePiece:
    """σ(x) = slope · x + bend · |x| + rise · clip(x, −knee, knee).

    A frozen callable, so that networks built of it compare, pickle and run on any
    array namespace.

    Parameters
    ----------
    slope : float
        Factor of x.
    bend : float
        Factor of |x|.
    rise : float
        Factor of the clipped x.
    knee : float
        Where it is clipped, positive.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_deq.theory import ThreePiece
    >>> ThreePiece(slope=0.5, bend=0.5, rise=0.0, knee=1.0)(np.array([-2.0, 2.0]))
    array([0., 2.])
    """

    slope: float
    bend: float
    rise: float
    knee: float

    def __call__(self, x: Array) -> Array:
        """Evaluate σ."""
        xp = array_namespace(x)
        value = self.slope * x
        if self.bend:
            value = value + self.bend * xp.abs(x)
        if self.rise:
            value = value + self.rise * xp.clip(x, -self.knee, self.knee)
        return value

    @property
    def kinks(self) -> tuple[float, ...]:
        """Where the slope jumps, ascending."""
        outer = (-self.knee, self.knee) if self.rise else ()
        inner = (0.0,) if self.bend else ()
        return tuple(sorted(outer + inner))

    @property
    def jumps(self) -> tuple[float, ...]:
        """By how much, in the order of the kinks."""
        by_kink = {-self.knee: self.rise, self.knee: -self.rise, 0.0: 2.0 * self.bend}
        return tuple(by_kink[kink] for kink in self.kinks)

    @property
    def left_slope(self) -> float:
        """Slope for x → −∞."""
        return self.slope - self.bend

    def derivative(self, x: Array) -> Array:
        """Evaluate σ'.

        Parameters
        ----------
        x : array
            Where; on any array namespace.

        Returns
        -------
        array
            The slope at x.
        """
        xp = array_namespace(x)
        value = self.left_slope * xp.ones_like(x)
        for kink, jump in zip(self.kinks, self.jumps, strict=True):
            value = value + jump * xp.astype(x > kink, x.dtype)
        return value

    def dual(self, q1: Array, q2: Array, c: Array, derivative: bool = False) -> Array:
        """Dual activation; closed but for one smooth integral (Plackett's identity).

        σ'' is a sum of point masses, so d²/dc² E[σ(u)σ(v)] is a sum of bivariate
        normal densities: integrate them from c = 0, where u and v are independent.

        Parameters
        ----------
        q1, q2, c : arrays
            Variances and covariance, broadcasting.
        derivative : bool, default=False
            Whether E[σ'(u)σ'(v)] is asked for.

        Returns
        -------
        array
            The expectation.
        """
        xp = array_namespace(c)
        root1, root2 = xp.sqrt(q1), xp.sqrt(q2)
        rho = correlation(q1, q2, c)
        mean1, slope1 = self._single(root1)
        mean2, slope2 = self._single(root2)
        value = slope1 * slope2 + 0.0 * rho
        if not derivative:
            value = mean1 * mean2 + value * c
        for kink1, jump1 in zip(self.kinks, self.jumps, strict=True):
            for kink2, jump2 in zip(self.kinks, self.jumps, strict=True):
                a, b = _ratio(kink1, root1), _ratio(kink2, root2)
                integral = _plackett(a, b, rho, derivative)
                weight = 1.0 if derivative else root1 * root2
                value = value + jump1 * jump2 * weight * integral
        return value

    def _single(self, root: Array) -> tuple[Array, Array]:
        """E σ(√q ξ) and E σ'(√q ξ)."""
        xp = array_namespace(root)
        mean = -self.rise * self.knee + 0.0 * root
        slope = self.left_slope + 0.0 * root
        for kink, jump in zip(self.kinks, self.jumps, strict=True):
            z = _ratio(kink, root)
            above = special("ndtr", -z)
            density = xp.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)
            mean = mean + jump * (root * density - kink * above)
            slope = slope + jump * above
        return mean, slope

    def activation(self) -> Activation:
        """Return the same as an `Activation`.

        Returns
        -------
        Activation
            With its derivative, kinks and dual.
        """
        return Activation(
            self,
            _DerivativeOf(self),
            kinks=self.kinks,
            torch_function=self,
            name=str(self),
            dual=_DualOf(self),
        )

    def __str__(self) -> str:
        """Formula with rounded numbers."""
        terms = [f"{self.slope:.6g} x"] if self.slope else []
        terms += [f"{self.bend:.6g} |x|"] if self.bend else []
        if self.rise:
            terms.append(f"{self.rise:.6g} clip(x, ±{self.knee:.6g})")
        return " + ".join(terms).replace("+ -", "- ") or "0"


# Bound methods compare by identity, which copies and pickles lose: these do not.
@dataclass(frozen=True)
class _DerivativeOf:
    """σ' of a three-piece linear σ."""

    sigma: ThreePiece

    def __call__(self, x: Array) -> Array:
        return self.sigma.derivative(x)


@dataclass(frozen=True)
class _DualOf:
    """Dual of a three-piece linear σ."""

    sigma: ThreePiece

    def __call__(
        self, q1: Array, q2: Array, c: Array, derivative: bool = False
    ) -> Array:
        return self.sigma.dual(q1, q2, c, derivative)


def _ratio(kink: float, root: Array) -> Array:
    """kink/√q, limited where q vanishes: out of reach either way."""
    if kink == 0.0:
        return 0.0 * root
    return kink / array_namespace(root).clip(root, min=abs(kink) * 1e-6)


def _plackett(a: Array, b: Array, rho: Array, derivative: bool) -> Array:
    """∫ of the bivariate normal density at (a, b) over correlations from 0 to ρ.

    With t = sin ψ the integrand exp(−(a² − 2ab sin ψ + b²)/(2 cos²ψ))/2π is bounded;
    without ``derivative`` it is weighted by ρ − sin ψ.
    """
    xp = array_namespace(rho)
    end = xp.asin(rho)
    if not (bool(xp.any(a != 0)) or bool(xp.any(b != 0))):
        if derivative:
            return end / (2 * math.pi)
        cosine = xp.sqrt((1.0 - rho) * (1.0 + rho))
        return (rho * end + cosine - 1.0) / (2 * math.pi)
    nodes, weights = legendre_rule(_PLACKETT_NODES)
    total = 0.0 * (rho + a + b)
    for node, weight in zip(nodes, weights, strict=True):
        psi = node * end
        sine, cosine = xp.sin(psi), xp.cos(psi)
        # (a − b sin ψ)² + b² cos²ψ, a sum of squares: no cancellation near ψ = π/2.
        exponent = ((a - b * sine) / cosine) ** 2 + b * b
        term = xp.exp(-0.5 * exponent)
        total = total + weight * (term if derivative else term * (rho - sine))
    return total * end / (2 * math.pi)


@dataclass(frozen=True)
class ExplicitLayer:
    """A layer of an explicit network: σ(x) = activation(x) − offset.

    Attributes
    ----------
    activation : Activation
        Before centring.
    offset : float
        The mean of activation(τ ξ), so that σ is centred at τ.
    tau : float
        Standard deviation of the layer's pre-activations, that of its input.
    """

    activation: Activation
    offset: float
    tau: float

    def __call__(self, x: Array) -> Array:
        """Evaluate σ on any array namespace that the activation takes."""
        return self.activation.function(x) - self.offset

    def __str__(self) -> str:
        """Formula, with the offset."""
        sign = "-" if self.offset >= 0 else "+"
        return f"σ(x) = {self.activation} {sign} {abs(self.offset):.6g}"


@dataclass(frozen=True)
class LayerMoments:
    """Moments of a layer centred at τ.

    Attributes
    ----------
    A, Q : float
        E[σ']² and E[σ'']².
    energy : float
        v = E[σ²].
    growth : float
        ½ E[(σ²)''].
    squared : float
        E[σ'²].
    offset : float
        The centring constant.
    """

    A: float
    Q: float
    energy: float
    growth: float
    squared: float
    offset: float


def layer_moments(activation: Activation, tau: float) -> LayerMoments:
    """Moments of an activation centred at τ: closed for three pieces, else quadrature.

    Parameters
    ----------
    activation : Activation
        The layer's activation, before centring.
    tau : float
        Standard deviation of its input, positive.

    Returns
    -------
    LayerMoments
        The moments of docs/theory.md, section 4.
    """
    if isinstance(activation.function, ThreePiece):
        return three_piece_moments(activation.function, tau)
    q = np.array([tau * tau])
    spread = spread_moments(activation, q, None)
    rule = gaussian_rule(q, activation.kinks)
    values = np.asarray(activation.function(rule.u), dtype=float) - spread.mean
    first = float(rule.mean(rule.x * values)[0]) / tau
    second = float(rule.mean((rule.x**2 - 1.0) * values)[0]) / tau**2
    return LayerMoments(
        A=first**2,
        Q=second**2,
        energy=float(spread.value[0]),
        growth=float(spread.slope[0]),
        squared=float(mean_squared_derivative(activation, q)[0]),
        offset=float(spread.mean[0]),
    )


def three_piece_moments(sigma: ThreePiece, tau: float) -> LayerMoments:
    """Closed-form moments of a three-piece linear layer (docs/theory.md, section 5)."""
    s, q, h, c = sigma.slope, sigma.bend, sigma.rise, sigma.knee
    x = c / tau
    inside = math.erf(x / math.sqrt(2.0))
    density = math.exp(-0.5 * x * x) / math.sqrt(2.0 * math.pi)
    folded = q * q * (1.0 - 2.0 / math.pi)
    clipped = tau**2 * (inside - 2.0 * x * density) + c * c * math.erfc(
        x / math.sqrt(2.0)
    )
    return LayerMoments(
        A=(s + h * inside) ** 2,
        Q=2.0 * q * q / (math.pi * tau**2),
        energy=tau**2 * (s * s + folded + 2.0 * s * h * inside) + h * h * clipped,
        growth=s * s
        + folded
        + h * (2.0 * s + h) * inside
        - 2.0 * h * (s + h) * x * density,
        squared=s * s + q * q + h * (2.0 * s + h) * inside,
        offset=q * tau * math.sqrt(2.0 / math.pi),
    )


@dataclass(frozen=True)
class ExplicitMoments:
    """What the kernels of a wide explicit network depend on.

    Attributes
    ----------
    layers : tuple of ExplicitLayer
        The layers, centred.
    alpha : tuple of 4 floats
        α1 … α4 of the last hidden layer's CK.
    tau2 : float
        τ_L² = E[σ_L²].
    beta : tuple of 3 floats
        β1 … β3 of the NTK with the multipliers given.
    kappa2 : float
        κ² of the same.
    """

    layers: tuple[ExplicitLayer, ...]
    alpha: tuple[float, float, float, float]
    tau2: float
    beta: tuple[float, float, float]
    kappa2: float

    def coefficients(self, kernel: str) -> tuple[float, float, float, float]:
        """Return the coefficients of S, χχᵀ, S∘S and the diagonal of a kernel.

        Parameters
        ----------
        kernel : {"ck", "ntk", "ntk_recurrent"}
            "ck", or one of the others for the network's tangent kernel.

        Returns
        -------
        tuple of 4 floats
            Values α1, α2, α3 and τ_L², or β1, β2, β3 and κ².
        """
        check_kernel(kernel)
        if kernel == "ck":
            return (*self.alpha[:3], self.tau2)
        return (*self.beta, self.kappa2)


def explicit_moments(
    activations: Sequence[Activation],
    *,
    tau0: float = 1.0,
    multipliers: Sequence[float] | None = None,
) -> ExplicitMoments:
    """Follow the kernel's coefficients through the layers of an explicit network.

    Parameters
    ----------
    activations : sequence of Activation
        One for each hidden layer; each is centred at its own τ.
    tau0 : float, default=1.0
        √(mean s_ii) of the data.
    multipliers : sequence of float, default=None
        Learning-rate multipliers of the hidden layers and the readout, for the NTK;
        None means all 1, 0 freezes a layer.

    Returns
    -------
    ExplicitMoments
        The centred layers, α, τ_L², β and κ².

    Raises
    ------
    ValueError
        If a layer is constant, so that nothing reaches the next, or the number of
        multipliers is not that of the layers plus one.

    References
    ----------
    .. [1] Gu et al. (2022), "Lossless compression of deep neural networks: a
       high-dimensional neural tangent kernel approach"; docs/theory.md, section 4.

    Examples
    --------
    >>> from sklearn_deq.theory import explicit_moments, get_activation
    >>> moments = explicit_moments([get_activation("relu")])
    >>> round(moments.alpha[0], 6)
    0.25
    """
    scales = [1.0] * (len(activations) + 1) if multipliers is None else multipliers
    if len(scales) != len(activations) + 1:
        raise ValueError(
            f"multipliers must have {len(activations) + 1} entries (the layers and "
            f"the readout), got {len(scales)}."
        )
    a1, a2, a3, a4 = 1.0, 0.0, 0.0, 1.0
    b1, b2, b3, kappa2 = scales[0], 0.0, 0.0, scales[0] * tau0**2
    tau2 = tau0**2
    layers = []
    for activation, scale in zip(activations, scales[1:], strict=True):
        tau = math.sqrt(tau2)
        if not tau > 0 or not math.isfinite(tau):
            raise ValueError("A layer's input vanishes or overflows: no signal left.")
        m = layer_moments(activation, tau)
        layers.append(ExplicitLayer(activation, m.offset, tau))
        previous = a1
        a1, a2, a3, a4 = (
            m.A * a1,
            m.A * a2 + 0.25 * m.Q * a4**2,
            m.A * a3 + 0.5 * m.Q * a1**2,
            m.growth * a4,
        )
        b1, b2, b3 = (
            scale * a1 + m.A * b1,
            scale * a2 + m.A * b2,
            scale * a3 + m.A * b3 + b1 * previous * m.Q,
        )
        tau2 = m.energy
        kappa2 = scale * tau2 + kappa2 * m.squared
    return ExplicitMoments(tuple(layers), (a1, a2, a3, a4), tau2, (b1, b2, b3), kappa2)


def explicit_pair_kernel(
    layers: Sequence[ExplicitLayer],
    kernel: str = "ck",
    multipliers: Sequence[float] | None = None,
) -> PairKernel:
    """Exact infinite-width kernel of an explicit network, entry by entry.

    Parameters
    ----------
    layers : sequence of ExplicitLayer
        The hidden layers, with their fixed offsets.
    kernel : {"ck", "ntk", "ntk_recurrent"}, default="ck"
        "ck" trains the readout alone, the others every layer.
    multipliers : sequence of float, default=None
        As in `explicit_moments`.

    Returns
    -------
    PairKernel
        The diagonal and the entries.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_deq.theory import (
    ...     equilibrium_moments, explicit_pair_kernel, solve_match)
    >>> match = solve_match(equilibrium_moments("relu"))
    >>> explicit_pair_kernel(match.layers).diagonal(np.array([1.0])).round(6)
    array([0.292624])
    """
    check_kernel(kernel)
    scales = [1.0] * (len(layers) + 1) if multipliers is None else list(multipliers)

    def states(s: np.ndarray) -> tuple[np.ndarray, ...]:
        """Variance and mean of every layer's activation: s, mean_1, τ_1², …."""
        found = [s]
        for layer in layers:
            spread = spread_moments(layer.activation, found[-1], layer.offset)
            found += [spread.mean, spread.value]
        return tuple(found)

    def diagonal(s: np.ndarray) -> np.ndarray:
        variances = states(s)[::2]
        tangent = scales[0] * s
        for layer, scale, q, value in zip(
            layers, scales[1:], variances, variances[1:], strict=False
        ):
            safe = np.maximum(q, 1e-200)
            squared = mean_squared_derivative(layer.activation, safe)
            tangent = scale * value + tangent * squared
        return variances[-1] if kernel == "ck" else tangent

    def entries(states1: States, states2: States, s12: Array) -> Array:
        xp = array_namespace(s12)
        value, tangent = s12, scales[0] * s12
        for i, (layer, scale) in enumerate(zip(layers, scales[1:], strict=True)):
            (q1, mean1, next1), (q2, mean2, next2) = (
                side[2 * i : 2 * i + 3] for side in (states1, states2)
            )
            dual = dual_function(layer.activation, q1, q2)
            if kernel != "ck":
                tangent = tangent * dual(value, derivative=True)
            value = dual(value) + layer.offset * (layer.offset - mean1 - mean2)
            # Rounding must not carry a covariance past its Cauchy–Schwarz bound.
            limit = xp.sqrt(next1 * next2)
            value = xp.clip(value, -limit, limit)
            tangent = tangent + scale * value
        return value if kernel == "ck" else tangent

    def reduce(s: np.ndarray) -> Reduction | None:
        square = common_square(s)
        return None if square is None else sphere_reduction(states, entries, square)

    smooth = not any(layer.activation.kinks for layer in layers)
    return PairKernel(states, diagonal, entries, reduce, smooth)
