"""Dual activations that have a closed form, on the array namespace of their input.

Each function takes ``(q1, q2, c, derivative)``, arrays that broadcast: the variances of
``u`` and ``v`` and their covariance, and returns ``E[φ(u)φ(v)]`` or, with
``derivative``, ``E[φ'(u)φ'(v)]``. See docs/theory.md, section 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import pi
from typing import Any

import scipy.special
from array_api_compat import array_namespace, is_torch_namespace

# NumPy arrays or torch tensors: whatever the caller's namespace is.
Array = Any


def special(name: str, x: Array) -> Array:
    """Apply a special function that the array standard lacks, such as ``erf``."""
    xp = array_namespace(x)
    if is_torch_namespace(xp):
        return getattr(xp.special, name)(x)
    return getattr(scipy.special, name)(x)


def correlation(q1: Array, q2: Array, c: Array) -> Array:
    """Correlation ``c / √(q1 q2)`` clipped to [−1, 1]; 0 where a variance vanishes."""
    xp = array_namespace(c)
    scale = xp.sqrt(q1 * q2)
    positive = scale > 0
    rho = xp.where(positive, c / xp.where(positive, scale, 1.0), 0.0)
    return xp.clip(rho, -1.0, 1.0)


def identity_dual(q1: Array, q2: Array, c: Array, derivative: bool = False) -> Array:
    """Dual of φ(x) = x."""
    xp = array_namespace(c)
    value = c + 0.0 * (q1 + q2)
    return xp.ones_like(value) if derivative else value


def relu_dual(q1: Array, q2: Array, c: Array, derivative: bool = False) -> Array:
    """Dual of the ReLU: the arc-cosine kernels of order 1 and 0 [CS09]."""
    xp = array_namespace(c)
    rho = correlation(q1, q2, c)
    angle = pi - xp.acos(rho)
    if derivative:
        return angle / (2 * pi)
    # (1 − ρ)(1 + ρ) keeps the digits that 1 − ρ² loses near |ρ| = 1.
    sine = xp.sqrt((1.0 - rho) * (1.0 + rho))
    return xp.sqrt(q1 * q2) * (sine + rho * angle) / (2 * pi)


@dataclass(frozen=True)
class HomogeneousDual:
    """Dual of φ(x) = right · x for x > 0, left · x for x < 0, from the ReLU's.

    φ(x) = left · x + (right − left) relu(x), so that
    E[φφ] = left · right · c + (right − left)² E[relu relu].
    """

    right: float
    left: float

    def __call__(
        self, q1: Array, q2: Array, c: Array, derivative: bool = False
    ) -> Array:
        """Evaluate the dual or its derivative."""
        linear = identity_dual(q1, q2, c, derivative)
        kinked = relu_dual(q1, q2, c, derivative)
        bend = self.right - self.left
        return self.left * self.right * linear + bend * bend * kinked


def erf_dual(q1: Array, q2: Array, c: Array, derivative: bool = False) -> Array:
    """Dual of erf, the arc-sine kernel [W97]."""
    xp = array_namespace(c)
    scale = (1.0 + 2.0 * q1) * (1.0 + 2.0 * q2)
    if derivative:
        return (4 / pi) / xp.sqrt(scale - 4.0 * c * c)
    return (2 / pi) * xp.asin(2.0 * c / xp.sqrt(scale))


def sin_dual(q1: Array, q2: Array, c: Array, derivative: bool = False) -> Array:
    """Dual of sin: e^{−(q1+q2)/2} sinh(c), in a form that cannot overflow."""
    xp = array_namespace(c)
    mean = 0.5 * (q1 + q2)
    # expm1 keeps the digits where c is small; |c| ≤ mean, so no exponent is > 0.
    if derivative:
        return 0.5 * (xp.exp(c - mean) + xp.exp(-c - mean))
    size = xp.abs(c)
    return xp.sign(c) * (-0.5) * xp.exp(size - mean) * xp.expm1(-2.0 * size)


def gelu_dual(q1: Array, q2: Array, c: Array, derivative: bool = False) -> Array:
    """Dual of the exact GELU, x Φ(x)."""
    xp = array_namespace(c)
    scale = (1.0 + q1) * (1.0 + q2)
    rest = scale - c * c
    weight = 0.25 + xp.asin(c / xp.sqrt(scale)) / (2 * pi)
    density = 1.0 / (2 * pi * xp.sqrt(rest))
    factor = (1.0 - q1 * q2) / scale
    quadratic = q1 * q2 + c * c * factor
    if derivative:
        return (
            weight + c * density * (1.0 + quadratic / rest) + 2.0 * c * density * factor
        )
    return c * weight + density * quadratic
