"""Layers of explicit networks: what a layer's function is, and its moments.

Docs/theory.md, section 4. The families with closed-form moments are in `_three_piece`
and `_rounded`; any other activation is integrated numerically.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, ClassVar

import numpy as np

from sklearn_deq.theory._activations import Activation
from sklearn_deq.theory._moments import (
    gaussian_rule,
    mean_squared_derivative,
    spread_moments,
)

Array = Any


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


@dataclass(frozen=True)
class LayerFunction:
    """σ(x) = slope · x + bend · b(x) + rise · r(x), with b like |x| and r like a clip.

    The common part of `ThreePiece` and `RoundedPiece`: frozen callables, so that
    networks built of them compare, pickle and run on any array namespace.
    """

    slope: float
    bend: float
    rise: float
    knee: float

    # How b and r are written in a formula; {} is the knee.
    _names: ClassVar[tuple[str, str]] = ("b(x)", "r(x, {})")
    # The least v of a layer is τ²A + least_energy τ⁴Q/2; by Parseval at least 1.
    least_energy: ClassVar[float] = 1.0

    def __call__(self, x: Array) -> Array:
        """Evaluate σ."""
        raise NotImplementedError

    @property
    def kinks(self) -> tuple[float, ...]:
        """Where the slope jumps, ascending."""
        return ()

    def derivative(self, x: Array) -> Array:
        """Evaluate σ'."""
        raise NotImplementedError

    def dual(self, q1: Array, q2: Array, c: Array, derivative: bool = False) -> Array:
        """Evaluate E[σ(u)σ(v)], or E[σ'(u)σ'(v)]."""
        raise NotImplementedError

    @classmethod
    def closed_moments(
        cls, slope: Array, bend: Array, rise: Array, knee: Array, tau: Array
    ) -> LayerMoments:
        """Moments of many layers at once; NumPy arrays, complex ones too."""
        raise NotImplementedError

    @classmethod
    def unit_moments(cls, knee: Array) -> tuple[Array, Array]:
        """E[r'(ξ)] and E[b''(ξ)] of the rounded or sharp clip and |x|, at τ = 1."""
        raise NotImplementedError

    def moments(self, tau: float) -> LayerMoments:
        """Return the moments of the layer centred at τ.

        Parameters
        ----------
        tau : float
            Standard deviation of the input, positive.

        Returns
        -------
        LayerMoments
            In closed form.
        """
        found = self.closed_moments(self.slope, self.bend, self.rise, self.knee, tau)
        return LayerMoments(
            *(float(getattr(found, field.name)) for field in fields(LayerMoments))
        )

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
        bent, risen = (name.format(f"{self.knee:.6g}") for name in self._names)
        terms = [f"{self.slope:.6g} x"] if self.slope else []
        terms += [f"{self.bend:.6g} {bent}"] if self.bend else []
        terms += [f"{self.rise:.6g} {risen}"] if self.rise else []
        return " + ".join(terms).replace("+ -", "- ") or "0"


# Bound methods compare by identity, which copies and pickles lose: these do not.
@dataclass(frozen=True)
class _DerivativeOf:
    """σ' of a layer function σ."""

    sigma: LayerFunction

    def __call__(self, x: Array) -> Array:
        return self.sigma.derivative(x)


@dataclass(frozen=True)
class _DualOf:
    """Dual of a layer function σ."""

    sigma: LayerFunction

    def __call__(
        self, q1: Array, q2: Array, c: Array, derivative: bool = False
    ) -> Array:
        return self.sigma.dual(q1, q2, c, derivative)


def layer_moments(activation: Activation, tau: float) -> LayerMoments:
    """Moments of an activation centred at τ: closed for a layer function.

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
    if isinstance(activation.function, LayerFunction):
        return activation.function.moments(tau)
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
