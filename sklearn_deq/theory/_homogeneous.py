"""Positively homogeneous activations: φ(x) = right · x for x > 0, left · x for x < 0.

The ReLU, leaky ReLUs, |x| and the identity, and whatever a user writes that is one of
these. All their moments are closed, and so is the equation of their DEQ: on the scale
of √(q_i q_j) an entry of its kernels depends on one number (docs/theory.md, section 2).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import pi, sqrt

import numpy as np

from sklearn_deq.theory._activations import Activation
from sklearn_deq.theory._remembered import remembered

# Where homogeneity is tested: on both sides, over six decades.
_PROBES = np.array([1e-3, 0.07, 0.3, 0.9, 1.7, 3.3, 6.5, 29.0, 1e3])
_ROUNDING = 1e-15


@dataclass(frozen=True)
class Slopes:
    """Slopes of a positively homogeneous φ, with its moments at variance 1.

    Attributes
    ----------
    right, left : float
        φ' for positive and for negative arguments.
    """

    right: float
    left: float

    @property
    def mean(self) -> float:
        """E φ(ξ)."""
        return (self.right - self.left) / sqrt(2 * pi)

    @property
    def squared(self) -> float:
        """E φ(ξ)², which is E φ'(ξ)² too."""
        return 0.5 * (self.right**2 + self.left**2)


@remembered(128)
def homogeneous_slopes(activation: Activation) -> Slopes | None:
    """Slopes of φ if it is positively homogeneous, else None.

    Parameters
    ----------
    activation : Activation
        φ; found out by evaluating it at some twenty points.

    Returns
    -------
    Slopes or None
        The slopes on both sides of 0.
    """
    if any(kink != 0.0 for kink in activation.kinks):
        return None
    points = np.concatenate([[1.0, -1.0], _PROBES, -_PROBES, [0.0]])
    # exp and its like overflow here: they are not homogeneous.
    with np.errstate(all="ignore"):
        values = np.asarray(activation.function(points), dtype=float)
        right, left = float(values[0]), -float(values[1])
        line = np.where(points > 0, right, left) * points
        same = np.abs(values - line) <= _ROUNDING * np.abs(line)
    return Slopes(right, left) if np.all(same) else None
