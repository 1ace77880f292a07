"""Three-piece linear layers, which contain the leaky ReLU and the hard tanh.

Docs/theory.md, section 5.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import scipy.special
from array_api_compat import array_namespace

from sklearn_deq.theory._layers import Array, LayerFunction, LayerMoments
from sklearn_deq.theory._piecewise_linear import PiecewiseLinearDual


@dataclass(frozen=True)
class ThreePiece(LayerFunction):
    """σ(x) = slope · x + bend · |x| + rise · clip(x, −knee, knee).

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

    _names: ClassVar[tuple[str, str]] = ("|x|", "clip(x, ±{})")
    # |x| has the energy (1 − 2/π)τ², and Q = 2/πτ².
    least_energy: ClassVar[float] = math.pi - 2.0

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
        # The leftmost piece goes on to −rise · knee at 0.
        pieces = PiecewiseLinearDual(
            -self.rise * self.knee, self.left_slope, self.kinks, self.jumps
        )
        return pieces(q1, q2, c, derivative)

    @classmethod
    def unit_moments(cls, knee: Array) -> tuple[Array, Array]:
        """E[r'(ξ)] and E[b''(ξ)] of the clip and |x|, at τ = 1."""
        inside = scipy.special.erf(knee / math.sqrt(2.0))
        return inside, math.sqrt(2.0 / math.pi)

    @classmethod
    def closed_moments(
        cls, slope: Array, bend: Array, rise: Array, knee: Array, tau: Array
    ) -> LayerMoments:
        """Moments of many layers at once (docs/theory.md, section 5).

        Parameters
        ----------
        slope, bend, rise, knee, tau : arrays
            The parameters and τ, broadcasting; complex ones for derivatives.

        Returns
        -------
        LayerMoments
            Of arrays.
        """
        x = knee / tau
        inside = scipy.special.erf(x / math.sqrt(2.0))
        outside = scipy.special.erfc(x / math.sqrt(2.0))
        density = np.exp(-0.5 * x * x) / math.sqrt(2.0 * math.pi)
        folded = slope**2 + bend**2 * (1.0 - 2.0 / math.pi)
        clipped = tau**2 * (inside - 2.0 * x * density) + knee**2 * outside
        mixed = rise * (2.0 * slope + rise) * inside
        return LayerMoments(
            A=(slope + rise * inside) ** 2,
            Q=2.0 * bend**2 / (math.pi * tau**2),
            energy=tau**2 * (folded + 2.0 * slope * rise * inside) + rise**2 * clipped,
            growth=folded + mixed - 2.0 * rise * (slope + rise) * x * density,
            squared=slope**2 + bend**2 + mixed,
            offset=bend * tau * math.sqrt(2.0 / math.pi),
        )
