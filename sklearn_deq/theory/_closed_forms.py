"""Dual activations that have a closed form, on the array namespace of their input.

Each is called with ``(q1, q2, c, derivative)``, arrays that broadcast: the variances of
``u`` and ``v`` and their covariance, and returns ``E[φ(u)φ(v)]`` or, with
``derivative``, ``E[φ'(u)φ'(v)]``. Those of smooth φ are a `ClosedDual`, which has the
derivatives of both beside them. See docs/theory.md, section 2.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import pi, sqrt
from typing import Any

import scipy.special
from array_api_compat import array_namespace, device, is_torch_namespace

# NumPy arrays or torch tensors: whatever the caller's namespace is.
Array = Any


def special(name: str, *x: Array) -> Array:
    """Apply a special function that the array standard lacks, such as ``erf``."""
    xp = array_namespace(*x)
    if not is_torch_namespace(xp):
        return getattr(scipy.special, name)(*x)
    if hasattr(xp.special, name):
        return getattr(xp.special, name)(*x)
    values = getattr(scipy.special, name)(*(each.cpu().numpy() for each in x))
    return xp.asarray(values, device=device(x[0]))


def correlation(q1: Array, q2: Array, c: Array) -> Array:
    """Correlation ``c / √(q1 q2)`` clipped to [−1, 1]; 0 where a variance vanishes."""
    xp = array_namespace(c)
    scale = xp.sqrt(q1 * q2)
    positive = scale > 0
    rho = xp.where(positive, c / xp.where(positive, scale, 1.0), 0.0)
    return xp.clip(rho, -1.0, 1.0)


def _gap(q1: Array, q2: Array, c: Array) -> Array:
    """√(q1 q2 − c²), without cancellation near |ρ| = 1, and without overflow."""
    xp = array_namespace(c)
    large, small = xp.maximum(q1, q2), xp.minimum(q1, q2)
    # Exactly q where both are q.
    root = large * xp.sqrt(small / xp.where(large > 0, large, 1.0))
    return xp.sqrt(xp.clip(root - c, min=0.0)) * xp.sqrt(xp.clip(root + c, min=0.0))


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

    def log_partials(
        self, q1: Array, q2: Array, angle: Array
    ) -> tuple[Array, Array, Array]:
        """Derivatives in log q1 and the angle: see `_dual_partials`."""
        xp = array_namespace(angle)
        value = self(q1, q2, xp.sqrt(q1 * q2) * xp.cos(angle))
        bend = self.right - self.left
        return 0.5 * value, 0.0 * value, 0.0 * value - bend * bend / (2 * pi)


@dataclass(frozen=True)
class ClosedDual:
    """Dual of a smooth φ with its derivatives in the variances and the covariance.

    Attributes
    ----------
    dual : callable
        (q1, q2, c, derivative) -> H = E[φ(u)φ(v)] or Ḋ = ∂H/∂c = E[φ'(u)φ'(v)].
    curvature : callable
        (q1, q2, c) -> ∂H/∂q1 = E[φ''(u)φ(v)]/2, ∂Ḋ/∂q1 and ∂Ḋ/∂c.
    means : callable
        q -> E φ, E φ' and E φ'' at that variance.
    """

    dual: Callable[[Array, Array, Array, bool], Array]
    curvature: Callable[[Array, Array, Array], tuple[Array, Array, Array]]
    means: Callable[[Array], tuple[Array, Array, Array]]

    def __call__(
        self, q1: Array, q2: Array, c: Array, derivative: bool = False
    ) -> Array:
        """Evaluate the dual or its derivative."""
        return self.dual(q1, q2, c, derivative)

    def log_partials(
        self, q1: Array, q2: Array, angle: Array
    ) -> tuple[Array, Array, Array]:
        """Derivatives in log q1 and the angle: see `_dual_partials`."""
        xp = array_namespace(angle)
        root = xp.sqrt(q1 * q2)
        c = root * xp.cos(angle)
        value, slope, bend = self.curvature(q1, q2, c)
        return (
            q1 * value + 0.5 * c * self(q1, q2, c, True),
            q1 * slope + 0.5 * c * bend,
            -root * xp.sin(angle) * bend,
        )


def _erf_dual(q1: Array, q2: Array, c: Array, derivative: bool) -> Array:
    xp = array_namespace(c)
    rest = xp.hypot(xp.sqrt(1.0 + 2.0 * q1 + 2.0 * q2), 2.0 * _gap(q1, q2, c))
    if derivative:
        return (4 / pi) / rest
    # arcsin(2c/√((1 + 2 q1)(1 + 2 q2))), to all digits near ±π/2.
    return (2 / pi) * xp.atan2(2.0 * c, rest)


def _erf_curvature(q1: Array, q2: Array, c: Array) -> tuple[Array, Array, Array]:
    first, second = 1.0 + 2.0 * q1, 1.0 + 2.0 * q2
    slope = _erf_dual(q1, q2, c, True)
    share = (pi / 4) ** 2 * slope**3
    return -c / first * slope, -second * share, 4.0 * c * share


def _erf_means(q: Array) -> tuple[Array, Array, Array]:
    return 0.0 * q, 2.0 / (pi * (1.0 + 2.0 * q)) ** 0.5, 0.0 * q


erf_dual = ClosedDual(_erf_dual, _erf_curvature, _erf_means)
"""Dual of erf, the arc-sine kernel [W97]."""


def _sin_dual(q1: Array, q2: Array, c: Array, derivative: bool) -> Array:
    """e^{−(q1+q2)/2} sinh(c) or cosh(c), in a form that cannot overflow."""
    xp = array_namespace(c)
    mean = 0.5 * (q1 + q2)
    # expm1 keeps the digits where c is small; |c| ≤ mean, so no exponent is > 0.
    if derivative:
        return 0.5 * (xp.exp(c - mean) + xp.exp(-c - mean))
    size = xp.abs(c)
    return xp.sign(c) * (-0.5) * xp.exp(size - mean) * xp.expm1(-2.0 * size)


def _sin_curvature(q1: Array, q2: Array, c: Array) -> tuple[Array, Array, Array]:
    value, slope = _sin_dual(q1, q2, c, False), _sin_dual(q1, q2, c, True)
    return -0.5 * value, -0.5 * slope, value


def _sin_means(q: Array) -> tuple[Array, Array, Array]:
    return 0.0 * q, array_namespace(q).exp(-0.5 * q), 0.0 * q


sin_dual = ClosedDual(_sin_dual, _sin_curvature, _sin_means)
"""Dual of sin."""


def _gelu_parts(q1: Array, q2: Array, c: Array) -> tuple[Array, ...]:
    """What the dual of the GELU and its derivatives share."""
    xp = array_namespace(c)
    scale = (1.0 + q1) * (1.0 + q2)
    gap = _gap(q1, q2, c)
    root = xp.hypot(xp.sqrt(1.0 + q1 + q2), gap)
    # arcsin(c/√scale), to all digits near ±π/2.
    weight = 0.25 + xp.atan2(c, root) / (2 * pi)
    density = 1.0 / (2 * pi * root)
    rest, factor = root * root, (1.0 - q1 * q2) / scale
    # q1 q2 + c² factor.
    quadratic = gap * gap + c * c * ((2.0 + q1 + q2) / scale)
    return weight, density, rest, factor, quadratic


def _gelu_dual(q1: Array, q2: Array, c: Array, derivative: bool) -> Array:
    weight, density, rest, factor, quadratic = _gelu_parts(q1, q2, c)
    if derivative:
        return weight + c * density * (1.0 + quadratic / rest + 2.0 * factor)
    return c * weight + density * quadratic


def _gelu_curvature(q1: Array, q2: Array, c: Array) -> tuple[Array, Array, Array]:
    _, density, rest, factor, quadratic = _gelu_parts(q1, q2, c)
    first, second = 1.0 + q1, 1.0 + q2
    # Derivatives of the logarithm of the density, of `weight` over it, and of the
    # quadratic, in q1; `factor` has −1/first².
    thinner, turn = -0.5 * second / rest, -0.5 * c / first
    growth = q2 - (c / first) ** 2
    inner = 1.0 + quadratic / rest + 2.0 * factor
    value = density * (c * turn + thinner * quadratic + growth)
    slope = density * (
        turn
        + c * thinner * inner
        + c * (growth - second * quadratic / rest) / rest
        - 2.0 * c / (first * first)
    )
    square = c * c / rest
    bend = 1.0 + inner * (1.0 + square) + 2.0 * square * (factor + quadratic / rest)
    return value, slope, density * bend


def _gelu_means(q: Array) -> tuple[Array, Array, Array]:
    width = (1.0 + q) ** 0.5
    bend = (2.0 + q) / (sqrt(2 * pi) * width**3)
    return q / (sqrt(2 * pi) * width), 0.5 + 0.0 * q, bend


gelu_dual = ClosedDual(_gelu_dual, _gelu_curvature, _gelu_means)
"""Dual of the exact GELU, x Φ(x)."""
