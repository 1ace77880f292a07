"""φ beside 0, where differences φ(u) − φ(0) are rounding: its series on both sides.

Moments at small variances need these differences to all digits. Where φ(0) ≠ 0, and
in formulas such as exp(u) − 1, values of φ do not have them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.polynomial.polynomial import polyval

from sklearn_deq.theory._activations import Activation
from sklearn_deq.theory._jumps import MOST_ORDERS, one_sided, significant
from sklearn_deq.theory._remembered import remembered

# Of the width on which φ is resolved: there the series of order 4 errs by 1e-14.
_SHARE = 2.0**-11
_FACTORIALS = np.array([math.factorial(m) for m in range(1 + MOST_ORDERS)], dtype=float)


@dataclass(frozen=True)
class Germ:
    """One-sided Taylor polynomials of φ − φ(0) at 0.

    Attributes
    ----------
    left, right : ndarrays of shape (5,)
        Derivatives from order 0 at 0− and 0+; equal but for jumps.
    reach : float
        The polynomials serve for |u| below it; 0 if φ has no series.
    """

    left: np.ndarray
    right: np.ndarray
    reach: float

    def __call__(self, u: np.ndarray, order: int = 0) -> np.ndarray:
        """Derivative of an order at points u within reach."""
        shares = _FACTORIALS[: 1 + MOST_ORDERS - order]
        left, right = (
            polyval(u, side[order:] / shares) for side in (self.left, self.right)
        )
        return np.where(u > 0, right, left)


@remembered(128)
def germ(activation: Activation) -> Germ:
    """Find the series of an activation, which need not be smooth at 0."""
    gap = min([1.0, *(abs(kink) for kink in activation.kinks if kink)])
    with np.errstate(all="ignore"):
        origin = float(activation.function(np.zeros(1))[0])
        left, left_error, left_width = one_sided(activation, 0.0, -gap)
        right, right_error, right_width = one_sided(activation, 0.0, gap)
        left[0] -= origin
        right[0] -= origin
        error = left_error + right_error
        # Sides that differ by rounding are one, and what may be rounding is none.
        jump = significant(right - left, error)
        middle = significant(0.5 * (left + right), error)
    reach = _SHARE * min(left_width, right_width)
    return Germ(left=middle - 0.5 * jump, right=middle + 0.5 * jump, reach=reach)


def within_reach(activation: Activation, u: np.ndarray) -> np.ndarray:
    """Whether points are so close to 0 that the series serves, elementwise."""
    near = np.abs(u) < _SHARE
    return np.abs(u) < germ(activation).reach if np.any(near) else near


def rise(activation: Activation, u: np.ndarray) -> np.ndarray:
    """φ(u) − φ(0) at points u, to all digits beside 0."""
    values = np.asarray(activation.function(u), dtype=float)
    values = values - float(activation.function(np.zeros(1))[0])
    near = within_reach(activation, u)
    if np.any(near):
        values[near] = germ(activation)(u[near])
    return values
