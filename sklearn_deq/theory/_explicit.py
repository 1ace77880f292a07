"""Shallow explicit networks: their moments and infinite-width kernels.

Docs/theory.md, section 4 (the recursions). The layers are in `_layers`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from array_api_compat import array_namespace

from sklearn_deq.theory._activations import Activation, get_activation
from sklearn_deq.theory._duals import dual_function
from sklearn_deq.theory._equilibrium import check_kernel
from sklearn_deq.theory._hermite import HermiteFunction
from sklearn_deq.theory._hermite_kernel import hermite_pair_kernel
from sklearn_deq.theory._hermite_mixture import HermiteMixture
from sklearn_deq.theory._layers import Array, LayerMoments, layer_moments
from sklearn_deq.theory._moments import mean_squared_derivative, spread_moments
from sklearn_deq.theory._pairs import (
    PairKernel,
    Reduction,
    States,
    common_square,
    scaled,
    sphere_reduction,
)

_HERMITE = (HermiteFunction, HermiteMixture)


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
        if self.offset == 0.0:
            return f"σ(x) = {self.activation}"
        sign = "-" if self.offset >= 0 else "+"
        return f"σ(x) = {self.activation} {sign} {abs(self.offset):.6g}"


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
    activations: Sequence[Activation | str],
    *,
    tau0: float = 1.0,
    multipliers: Sequence[float] | None = None,
) -> ExplicitMoments:
    """Follow the kernel's coefficients through the layers of an explicit network.

    Parameters
    ----------
    activations : sequence of Activation or str
        One for each hidden layer, or its name; each is centred at its own τ.
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
        If there is no layer, one is constant, so that nothing reaches the next, or
        `check_multipliers` refuses the multipliers.

    References
    ----------
    .. [1] Gu et al. (2022), "Lossless compression of deep neural networks: a
       high-dimensional neural tangent kernel approach"; docs/theory.md, section 4.

    Examples
    --------
    >>> from sklearn_deq.theory import explicit_moments
    >>> moments = explicit_moments(["relu"])
    >>> round(moments.alpha[0], 6)
    0.25
    """
    scales = check_multipliers(multipliers, len(activations))
    layers = []

    def centred(activation: Activation, tau: float) -> LayerMoments:
        if not tau > 0 or not math.isfinite(tau):
            raise ValueError("A layer's input vanishes or overflows: no signal left.")
        m = layer_moments(activation, tau)
        layers.append(ExplicitLayer(activation, m.offset, tau))
        return m

    given = [get_activation(each) for each in activations]
    found = propagate([partial(centred, each) for each in given], tau0, scales)
    alpha, tau2, beta, kappa2 = found
    return ExplicitMoments(tuple(layers), alpha, tau2, beta, kappa2)


def check_multipliers(
    multipliers: Sequence[float] | None, n_layers: int, *, readout: bool = False
) -> list[float]:
    """Learning-rate multipliers of the layers and the readout, all 1 if not given.

    Parameters
    ----------
    multipliers : sequence of float or None
        What to check.
    n_layers : int
        Number of hidden layers.
    readout : bool, default=False
        Whether the readout must be trained.

    Returns
    -------
    list of float
        Of n_layers + 1 entries.

    Raises
    ------
    ValueError
        Unless these are so many numbers, finite and not negative; or if there is no
        layer.
    """
    if n_layers < 1:
        raise ValueError("layers must hold at least one layer.")
    if multipliers is None:
        return [1.0] * (n_layers + 1)
    scales = [float(each) for each in multipliers]
    fine = len(scales) == n_layers + 1 and all(0.0 <= x < math.inf for x in scales)
    if not fine or (readout and scales[-1] == 0.0):
        raise ValueError(
            f"multipliers must be {n_layers + 1} numbers, of the layers (at least 0) "
            f"and of the readout ({'positive' if readout else 'at least 0'}), got "
            f"{multipliers!r}."
        )
    return scales


def propagate(
    layers: Sequence[Callable[[Array], LayerMoments]],
    tau0: float,
    multipliers: Sequence[Array],
) -> tuple[tuple[Array, ...], Array, tuple[Array, ...], Array]:
    """Recursions of docs/theory.md, section 4, for one network or for many at once.

    Parameters
    ----------
    layers : sequence of callable
        The moments of each layer as a function of its τ.
    tau0 : float
        √(mean s_ii) of the data.
    multipliers : sequence of float or array
        Of the layers and the readout.

    Returns
    -------
    alpha, tau2, beta, kappa2
        Tuples of 4 and 3, and two numbers; arrays if the moments are.
    """
    a1, a2, a3, a4, tau2 = 1.0, 0.0, 0.0, 1.0, tau0**2
    b1, b2, b3, kappa2 = multipliers[0], 0.0, 0.0, multipliers[0] * tau2
    for moments, scale in zip(layers, multipliers[1:], strict=True):
        m = moments(tau2**0.5)
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
    return (a1, a2, a3, a4), tau2, (b1, b2, b3), kappa2


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

    Raises
    ------
    ValueError
        For an unknown kernel, no layers, or multipliers that are not as they should
        be; that of the readout of a Hermite layer must be positive.

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
    made = any(isinstance(each.activation.function, _HERMITE) for each in layers)
    scales = check_multipliers(multipliers, len(layers), readout=made)
    if made:
        if kernel == "ck":
            return _hermite_kernel(layers, 0.0)
        return scaled(_hermite_kernel(layers, scales[0] / scales[1]), scales[-1])

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


def _hermite_kernel(layers: Sequence[ExplicitLayer], rate: float) -> PairKernel:
    """Kernel of one layer made for it, in units of the readout's rate."""
    function = layers[0].activation.function
    if len(layers) > 1 or not isinstance(function, _HERMITE):
        raise NotImplementedError("A Hermite layer must be a network's only one.")
    return hermite_pair_kernel(function.kinds, rate)
