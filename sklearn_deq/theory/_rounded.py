"""Rounded three-piece layers, for DEQs whose activation is smooth.

A layer's energy is at least τ²A + τ⁴Q/2 (Parseval), and |x| carries a seventh of its
energy beyond degree two: too much to imitate GELU, SiLU or softplus. Here |x| and the
clip have corners rounded over a width; as that grows the excess goes to 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from array_api_compat import array_namespace

from sklearn_deq.theory._closed_forms import erf_dual, gelu_dual, special
from sklearn_deq.theory._layers import Array, LayerFunction, LayerMoments

_ROOT_TWO_OVER_PI = math.sqrt(2.0 / math.pi)


@dataclass(frozen=True)
class RoundedPiece(LayerFunction):
    """σ(x) = slope · x + bend · x erf(x/√2k) + rise · √(π/2) k erf(x/√2k), k = knee.

    A `ThreePiece` with rounded corners: x erf(x/√2k) tends to |x| for small k, and
    √(π/2) k erf(x/√2k) has slope 1 at 0 and the limits ±1.25 k. GELU is one of them.

    Parameters
    ----------
    slope : float
        Factor of x.
    bend : float
        Factor of the rounded |x|.
    rise : float
        Factor of the rounded clip.
    knee : float
        Width of the corners, positive.

    Examples
    --------
    GELU:

    >>> import numpy as np
    >>> from sklearn_deq.theory import RoundedPiece
    >>> sigma = RoundedPiece(slope=0.5, bend=0.5, rise=0.0, knee=1.0)
    >>> sigma(np.array([-1.0, 1.0])).round(4)
    array([-0.1587,  0.8413])
    """

    _names: ClassVar[tuple[str, str]] = (
        "x erf(x/(√2 · {}))",
        "√(π/2) · {0} erf(x/(√2 · {0}))",
    )

    def __call__(self, x: Array) -> Array:
        """Evaluate σ."""
        if not self.bend and not self.rise:
            return self.slope * x
        bent = self.bend * x + self.rise * self.knee / _ROOT_TWO_OVER_PI
        return self.slope * x + bent * special("erf", x / (math.sqrt(2.0) * self.knee))

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
        y = x / self.knee
        bell = array_namespace(x).exp(-0.5 * y * y)
        bent = special("erf", y / math.sqrt(2.0)) + _ROOT_TWO_OVER_PI * y * bell
        return self.slope + self.bend * bent + self.rise * bell

    def dual(self, q1: Array, q2: Array, c: Array, derivative: bool = False) -> Array:
        """Dual activation in closed form, from those of GELU and erf.

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
        area = self.knee**2
        t1, t2, r = q1 / area, q2 / area, c / area
        gelu = 4.0 * gelu_dual(t1, t2, r, derivative)
        clip = erf_dual(0.5 * t1, 0.5 * t2, 0.5 * r, derivative)
        mixed = 1.0 / xp.sqrt(1.0 + t1) + 1.0 / xp.sqrt(1.0 + t2)
        line = self.slope * (self.slope + self.rise * mixed)
        if derivative:
            curved = self.bend**2 * (gelu - 1.0)
            return line + curved + (0.25 * math.pi * self.rise**2) * clip
        curved = self.bend**2 * (gelu - r) + (0.5 * math.pi * self.rise**2) * clip
        return line * c + area * curved

    @classmethod
    def unit_moments(cls, knee: Array) -> tuple[Array, Array]:
        """E[r'(ξ)] and E[b''(ξ)] of the rounded clip and |x|, at τ = 1."""
        one = 1.0 + knee**2
        curvature = _ROOT_TWO_OVER_PI * (2.0 * knee**2 + 1.0) / one**1.5
        return knee / np.sqrt(one), curvature

    @classmethod
    def closed_moments(
        cls, slope: Array, bend: Array, rise: Array, knee: Array, tau: Array
    ) -> LayerMoments:
        """Moments of many layers at once, with t = τ²/k².

        Parameters
        ----------
        slope, bend, rise, knee, tau : arrays
            The parameters and τ, broadcasting; complex ones for derivatives.

        Returns
        -------
        LayerMoments
            Of arrays.
        """
        t = (tau / knee) ** 2
        one, two = 1.0 + t, 1.0 + 2.0 * t
        arc = np.arcsin(t / one)
        root = np.sqrt(two)
        # Moments of x erf(x/√2k) and their derivatives in τ² ...
        mean = _ROOT_TWO_OVER_PI * tau * np.sqrt(t / one)
        mean_slope = _ROOT_TWO_OVER_PI * (1.0 + 0.5 * t) / (knee * one**1.5)
        square = (2.0 / math.pi) * (arc + 2.0 * t / (one * root))
        square_slope = (2.0 / math.pi) * (
            arc + t * (5.0 - 2.0 * t / one - 2.0 * t / two) / (one * root)
        )
        bent_squared = (2.0 / math.pi) * (
            arc + 2.0 * t / (one * root) + t / (two * root)
        )
        # ... and of the clip, alone and with x.
        clip_slope = 1.0 / (one * root)
        line = slope**2
        cross = 2.0 * slope * rise / np.sqrt(one)
        return LayerMoments(
            A=(slope + rise / np.sqrt(one)) ** 2,
            Q=(2.0 * bend * mean_slope) ** 2,
            energy=tau**2 * (line + bend**2 * square + cross)
            + rise**2 * knee**2 * arc
            - (bend * mean) ** 2,
            growth=line
            + bend**2 * (square_slope - 2.0 * mean * mean_slope)
            + rise**2 * clip_slope
            + cross * (1.0 - 0.5 * t / one),
            squared=line + bend**2 * bent_squared + rise**2 / root + cross,
            offset=bend * mean,
        )
