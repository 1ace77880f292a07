"""Explicit networks: the shallow stand-ins of a DEQ (docs/theory.md, section 4)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from numbers import Integral

import torch
from torch import nn

from sklearn_deq.nn._activations import TorchActivation, torch_activation
from sklearn_deq.nn._hermite import HermiteActivation
from sklearn_deq.theory import ExplicitLayer
from sklearn_deq.theory._explicit import check_multipliers
from sklearn_deq.theory._hermite import HermiteFunction
from sklearn_deq.theory._hermite_mixture import HermiteMixture


def draw_weights(
    n_features: int, widths: Sequence[int], generator: torch.Generator | None = None
) -> list[torch.Tensor]:
    """Draw weights of unit variance, W_1 … W_L, on the CPU in float64.

    Parameters
    ----------
    n_features : int
        p.
    widths : sequence of int
        Width of each hidden layer.
    generator : torch.Generator, default=None
        Of the numbers; None: the global one.

    Returns
    -------
    list of tensors of shape (m_l, m_{l−1})
        The weights.

    Examples
    --------
    >>> from sklearn_deq.nn import draw_weights
    >>> [tuple(weight.shape) for weight in draw_weights(3, [8, 5])]
    [(8, 3), (5, 8)]
    """
    return [
        torch.randn(width, fan_in, generator=generator, dtype=torch.float64)
        for fan_in, width in zip([n_features, *widths], widths, strict=False)
    ]


# Rows whose activations are evaluated at once where no graph is kept.
_ROWS = 256


class ExplicitNetwork(nn.Module):
    """x_l = σ_l(W_l x_{l−1})/√m_l, the first layer on x/√p; weights of unit variance.

    Parameters
    ----------
    n_features : int
        p.
    widths : int or sequence of int
        Width of each hidden layer; a number serves for all.
    layers : sequence of ExplicitLayer
        Activations with their offsets, such as ``MatchResult.layers``.
    trainable : {"all", "readout"}, default="all"
        Whether the weights take gradients.
    multipliers : sequence of float, default=None
        Learning-rate multipliers of the layers and, last, the readout's, such as
        ``MatchResult.multipliers``; only their ratios to the readout's count. None: all
        alike; 0 freezes a layer.
    generator : torch.Generator, default=None
        Of the initial weights; None: the global one.
    dtype, device
        Of the weights, which are drawn on the CPU in float64 whatever these are.

    Attributes
    ----------
    weights : ParameterList
        V_1 … V_L, where W_l = ``scales[l]`` V_l.
    scales : list of float
        Square roots of the multipliers; 1 for a layer that is frozen or has none.

    Notes
    -----
    Gradient descent on V moves W by the multiplier λ times its own gradient, so that
    the tangent kernel of V is Σ_l λ_l (∂f/∂W_l)(∂f/∂W_l)ᵀ. So does SGD; optimizers that
    divide gradients by their size, such as Adam, move V alike whatever λ, and so W by
    √λ times what they would.

    Examples
    --------
    >>> import torch
    >>> from sklearn_deq.nn import ExplicitNetwork
    >>> from sklearn_deq.theory import equilibrium_moments, solve_match
    >>> layers = solve_match(equilibrium_moments("relu")).layers
    >>> network = ExplicitNetwork(4, 32, layers)
    >>> network(torch.ones(2, 4)).shape
    torch.Size([2, 32])
    """

    def __init__(
        self,
        n_features: int,
        widths: int | Sequence[int],
        layers: Sequence[ExplicitLayer],
        *,
        trainable: str = "all",
        multipliers: Sequence[float] | None = None,
        generator: torch.Generator | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__()
        if trainable not in ("all", "readout"):
            raise ValueError(
                f"trainable must be 'all' or 'readout', got {trainable!r}."
            )
        if isinstance(widths, Integral):
            widths = [int(widths)] * len(layers)
        sizes: list[int] = list(widths)  # type: ignore[arg-type]
        if not layers or len(sizes) != len(layers):
            raise ValueError(
                f"There must be one width for each of the layers, got {len(sizes)} "
                f"widths and {len(layers)} layers."
            )
        if n_features < 1 or min(sizes) < 1:
            raise ValueError(
                f"n_features and widths must be at least 1, got {n_features} and "
                f"{sizes}."
            )
        self.activations = layer_activations(layers)
        self._names = [str(layer.activation) for layer in layers]
        self.offsets = [layer.offset for layer in layers]
        self.input_scale = 1.0 / math.sqrt(n_features)
        rates = _relative_rates(multipliers, len(layers), trainable)
        self.scales = [math.sqrt(rate) if rate else 1.0 for rate in rates]
        self.weights = nn.ParameterList()
        drawn = draw_weights(n_features, sizes, generator)
        for weight, scale, rate in zip(drawn, self.scales, rates, strict=True):
            moved = (weight / scale).to(device, dtype)
            self.weights.append(nn.Parameter(moved, requires_grad=rate > 0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute the features of the last hidden layer.

        Parameters
        ----------
        x : tensor of shape (n, p)
            Samples.

        Returns
        -------
        tensor of shape (n, m_L)
            The features.
        """
        return explicit_features(
            x * self.input_scale, self.matrices(), self.activations, self.offsets
        )

    @torch.no_grad()
    def tangent_kernel(self, x: torch.Tensor, n_readouts: int = 8) -> torch.Tensor:
        """Compute the tangent kernel of this network with readouts of unit variance.

        Parameters
        ----------
        x : tensor of shape (n, p)
            Samples.
        n_readouts : int, default=8
            Readouts to average over where there is more than one hidden layer (for the
            last one the average is exact); they are always the same.

        Returns
        -------
        tensor of shape (n, n), float64
            Σ_l λ_l (∂f/∂W_l)(∂f/∂W_l)ᵀ with the multipliers λ_l, the readout's being 1.

        References
        ----------
        .. [1] docs/theory.md, section 4.

        Examples
        --------
        >>> import torch
        >>> from sklearn_deq.nn import ExplicitNetwork
        >>> from sklearn_deq.theory import equilibrium_moments, solve_match
        >>> match = solve_match(equilibrium_moments("tanh"), kernel="ntk")
        >>> network = ExplicitNetwork(4, 32, match.layers)
        >>> network.tangent_kernel(torch.ones(2, 4)).shape
        torch.Size([2, 2])
        """
        states, slopes = [x * self.input_scale], []
        matrices = self.matrices()
        for weight, activation, offset in zip(
            matrices, self.activations, self.offsets, strict=True
        ):
            pre = states[-1] @ weight.T
            scale = 1.0 / math.sqrt(weight.shape[0])
            slope = _apply(activation.derivative, activation, states[-1], pre)
            slopes.append(slope * scale)
            value = _apply(activation, activation, states[-1], pre)
            states.append((value - offset) * scale)
        kernel = _gram(states[-1])
        generator = torch.Generator().manual_seed(0)
        width = slopes[-1].shape[1]
        backs = [slopes[-1]]
        for layer in range(len(matrices) - 1, -1, -1):
            rate = self.scales[layer] ** 2 if self.weights[layer].requires_grad else 0.0
            tangents = sum(map(_gram, backs)) / len(backs)
            kernel += rate * _gram(states[layer]) * tangents
            if layer == 0:
                break
            if layer == len(matrices) - 1:
                drawn = torch.randn(n_readouts, width, generator=generator)
                backs = [slopes[-1] * a for a in drawn.to(slopes[-1])]
            backs = [(b @ matrices[layer]) * slopes[layer - 1] for b in backs]
        return kernel

    def extra_repr(self) -> str:
        """Return what the network is, for its representation.

        Returns
        -------
        str
            Sizes and activations.
        """
        widths = [weight.shape[0] for weight in self.weights]
        return (
            f"n_features={self.weights[0].shape[1]}, widths={widths}, "
            f"activations=[{', '.join(self._names)}]"
        )

    def matrices(self) -> list[torch.Tensor]:
        """Return W_1 … W_L.

        Returns
        -------
        list of tensors of shape (m_l, m_{l−1})
            The weights as they act, whatever the multipliers.
        """
        return [
            weight if scale == 1.0 else scale * weight
            for weight, scale in zip(self.weights, self.scales, strict=True)
        ]


def _relative_rates(
    multipliers: Sequence[float] | None, n_layers: int, trainable: str
) -> list[float]:
    """Learning rates of the layers in units of the readout's; 0: frozen."""
    if trainable == "readout":
        return [0.0] * n_layers
    *rates, readout = check_multipliers(multipliers, n_layers, readout=True)
    return [rate / readout for rate in rates]


LayerActivation = TorchActivation | HermiteActivation


def layer_activations(layers: Iterable[ExplicitLayer]) -> list[LayerActivation]:
    """Return the activations of layers as functions of tensors.

    Parameters
    ----------
    layers : iterable of ExplicitLayer
        The layers.

    Returns
    -------
    list
        One for each, without its offset; picklable, with a ``derivative`` method.

    Examples
    --------
    >>> from sklearn_deq.nn import layer_activations
    >>> from sklearn_deq.theory import equilibrium_moments, solve_match
    >>> match = solve_match(equilibrium_moments("tanh"), architecture="hermite")
    >>> layer_activations(match.layers)[0].conditioned
    False
    """
    return [_layer_activation(layer) for layer in layers]


def _layer_activation(layer: ExplicitLayer) -> LayerActivation:
    function = layer.activation.function
    if isinstance(function, HermiteFunction | HermiteMixture):
        return HermiteActivation(function)
    return torch_activation(layer.activation)


def explicit_features(
    x: torch.Tensor,
    weights: Iterable[torch.Tensor],
    activations: Iterable[LayerActivation],
    offsets: Iterable[float],
) -> torch.Tensor:
    """Apply the layers x ← (activation(W x) − offset)/√m.

    Parameters
    ----------
    x : tensor of shape (n, p)
        Samples over √p.
    weights, activations, offsets : iterables
        Of every layer.

    Returns
    -------
    tensor of shape (n, m_L)
        The features.

    Examples
    --------
    >>> import torch
    >>> from sklearn_deq.nn import explicit_features, torch_activation
    >>> relu = torch_activation("relu")
    >>> explicit_features(torch.ones(1, 2), [torch.eye(2)], [relu], [0.0])
    tensor([[0.7071, 0.7071]])
    """
    for weight, activation, offset in zip(weights, activations, offsets, strict=True):
        scale = 1.0 / math.sqrt(weight.shape[0])
        pre = x @ weight.T
        if torch.is_grad_enabled() and pre.requires_grad:
            x = (_apply(activation, activation, x, pre) - offset) * scale
            continue
        # A few rows at a time stay in the cache, and memory is used again.
        for start in range(0, len(x), _ROWS):
            rows = slice(start, start + _ROWS)
            value = _apply(activation, activation, x[rows], pre[rows])
            torch.mul(value - offset if offset else value, scale, out=pre[rows])
        x = pre
    return x


def _apply(
    function: Callable[..., torch.Tensor],
    activation: LayerActivation,
    x: torch.Tensor,
    pre: torch.Tensor,
) -> torch.Tensor:
    """An activation or its derivative at W x, which may depend on the norm of x."""
    if getattr(activation, "conditioned", False):
        return function(pre, torch.linalg.vector_norm(x, dim=1, keepdim=True))
    return function(pre)


def _gram(x: torch.Tensor) -> torch.Tensor:
    x = x.double()
    return x @ x.T
