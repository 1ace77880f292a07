"""Functions with a single kink at 0, and their Hermite coefficients in closed form."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import digamma, gamma


@dataclass(frozen=True)
class Rough:
    """|x|ˢ or |x|ˢ log|x|, even or odd: Hermite coefficients of size k^{−s/2−3/4}.

    Attributes
    ----------
    order : int
        s ≥ 0.
    parity : int
        0: even, 1: odd (times the sign of x). With log|x| where it would be a power.
    """

    order: int
    parity: int

    @property
    def logarithmic(self) -> bool:
        """Whether the function has the logarithm."""
        return (self.order + self.parity) % 2 == 0

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Evaluate it; at 0 it is 0, log|x| too."""
        size = np.abs(x)
        value = size**self.order
        if self.logarithmic:
            value = value * np.log(np.where(size > 0, size, 1.0))
        return np.sign(x) * value if self.parity else value

    def coefficients(self, size: int) -> np.ndarray:
        """E[f(ξ) he_k(ξ)] for k < size, with he_k orthonormal.

        E[|ξ|ˢ He_{2j}] = E|ξ|ˢ Π_{i<j} (s − 2i) and E[sign(ξ)|ξ|ˢ He_{2j+1}] =
        E|ξ|^{s+1} Π_{i<j} (s − 1 − 2i), as each pair of derivatives brings down a
        factor. With log|x| it is their derivative in s.
        """
        power = self.order + self.parity
        first = 2 ** (0.5 * power) * gamma(0.5 * (power + 1)) / math.sqrt(math.pi)
        pairs = np.arange((size - self.parity + 1) // 2 - 1)
        factors = self.order - self.parity - 2.0 * pairs
        # Of a product with a factor 0 the derivative leaves that factor out.
        vanishing = factors == 0.0
        orders = 2.0 * pairs + self.parity
        steps = np.where(vanishing, 1.0, factors) / np.sqrt(
            (orders + 1.0) * (orders + 2.0)
        )
        values = first * np.cumprod(np.concatenate([[1.0], steps]))
        if self.logarithmic:
            sums = np.cumsum(
                np.where(vanishing, 0.0, 1.0 / np.where(vanishing, 1.0, factors))
            )
            slope = 0.5 * (math.log(2.0) + digamma(0.5 * (power + 1)))
            slopes = slope + np.concatenate([[0.0], sums])
            passed = np.concatenate([[False], np.cumsum(vanishing) > 0])
            values = np.where(passed, values, values * slopes)
        found = np.zeros(size)
        found[self.parity :: 2] = values
        return found
