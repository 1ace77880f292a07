"""Dual activations of continuous piecewise linear functions, wherever they bend.

φ'' is then a sum of point masses, so that d²/dc² E[φ(u)φ(v)] is a sum of bivariate
normal densities (Plackett's identity): one smooth integral for each pair of kinks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from array_api_compat import array_namespace

from sklearn_deq.theory._activations import Activation
from sklearn_deq.theory._closed_forms import correlation, special
from sklearn_deq.theory._remembered import remembered

Array = Any

# Nodes of Plackett's integral for pairs of kinks that are not both 0, and up to which
# |ρ| so many suffice for 1e-13.
_NODES = ((24, 0.97), (40, 0.99), (96, 1.0))
# Where a piece is tested for being linear: shares of its length; of the outer ones,
# distances from the kink.
_SHARES = np.array([0.03, 0.11, 0.21, 0.29, 0.42, 0.5, 0.61, 0.73, 0.85, 0.94])
_DISTANCES = np.array([0.01, 0.1, 0.3, 0.7, 1.3, 2.1, 3.7, 6.1, 29.0, 1e3])
_ROUNDING = 1e-13
# Instead of infinity.
_STEEP = 1e30


@dataclass(frozen=True)
class PiecewiseLinearDual:
    """Dual of φ(x) = intercept + left_slope · x + Σ jump_k relu(x − kink_k).

    Attributes
    ----------
    intercept : float
        Value at 0 of the leftmost piece.
    left_slope : float
        Its slope.
    kinks, jumps : tuples of float
        Where the slope jumps, ascending, and by how much.
    """

    intercept: float
    left_slope: float
    kinks: tuple[float, ...]
    jumps: tuple[float, ...]

    def __call__(
        self, q1: Array, q2: Array, c: Array, derivative: bool = False
    ) -> Array:
        """Evaluate the dual or its derivative."""
        xp = array_namespace(c)
        root1, root2 = xp.sqrt(q1), xp.sqrt(q2)
        rho = correlation(q1, q2, c)
        mean1, slope1 = self._single(root1)
        mean2, slope2 = self._single(root2)
        pairs = self._pairs()
        kinks = [(_ratio(k1, root1), _ratio(k2, root2)) for k1, k2 in pairs]
        value = slope1 * slope2 + 0.0 * rho
        if derivative:
            for (a, b), product in zip(kinks, pairs.values(), strict=True):
                independent = special("ndtr", -a) * special("ndtr", -b)
                value = value + product * (orthant(a, b, rho) - independent)
            return value
        value = mean1 * mean2 + value * c
        return value + root1 * root2 * _plackett(kinks, list(pairs.values()), rho)

    def _pairs(self) -> dict[tuple[float, float], float]:
        """Products of jumps at pairs of kinks; (a, b) and (−a, −b) are one pair."""
        pairs: dict[tuple[float, float], float] = {}
        for kink1, jump1 in zip(self.kinks, self.jumps, strict=True):
            for kink2, jump2 in zip(self.kinks, self.jumps, strict=True):
                side = -1.0 if (kink1, kink2) < (0.0, 0.0) else 1.0
                pair = side * kink1, side * kink2
                pairs[pair] = pairs.get(pair, 0.0) + jump1 * jump2
        return pairs

    def log_partials(
        self, q1: Array, q2: Array, angle: Array
    ) -> tuple[Array, Array, Array]:
        """Derivatives in log q1 and the angle: see `_dual_partials`.

        u φ''(u) and φ''(u) are point masses at the kinks of u, where v has a normal
        distribution of mean ρ √(q2/q1) u and variance q2 sin²θ.
        """
        xp = array_namespace(angle)
        root1, root2 = xp.sqrt(q1), xp.sqrt(q2)
        rho, sine = xp.cos(angle), xp.sin(angle)
        value = slope = turn = 0.0 * (root1 + root2 + angle)
        for kink, jump in zip(self.kinks, self.jumps, strict=True):
            a = _ratio(kink, root1)
            mass = 0.5 * jump * density(a)
            mean, steepness = self._single(root2 * sine, rho * root2 * a)
            value = value + mass * root1 * mean
            slope = slope + mass * a * steepness
            for other, change in zip(self.kinks, self.jumps, strict=True):
                b = _ratio(other, root2)
                part = deviations(apart(a, b * rho), sine)
                both = xp.exp(-0.5 * (part * part + b * b))
                turn = turn - jump * change / (2 * math.pi) * both
        c = root1 * root2 * rho
        return value + 0.5 * c * self(q1, q2, c, derivative=True), slope, turn

    def _single(self, root: Array, shift: Array | float = 0.0) -> tuple[Array, Array]:
        """E φ(w) and E φ'(w) for a normal w of standard deviation root, mean shift."""
        mean = self.intercept + self.left_slope * shift + 0.0 * root
        slope = self.left_slope + 0.0 * mean
        for kink, jump in zip(self.kinks, self.jumps, strict=True):
            rest = apart(kink + 0.0 * root, shift + 0.0 * root)
            z = deviations(rest, root)
            above = special("ndtr", -z)
            mean = mean + jump * (root * density(z) - rest * above)
            slope = slope + jump * above
        return mean, slope


def density(z: Array) -> Array:
    """Standard normal density."""
    return array_namespace(z).exp(-0.5 * z * z) / math.sqrt(2 * math.pi)


@remembered(128)
def piecewise_linear_dual(activation: Activation) -> PiecewiseLinearDual | None:
    """Dual of φ if it is continuous and linear between its declared kinks, else None.

    Parameters
    ----------
    activation : Activation
        φ; found out by evaluating it at a few points of every piece.

    Returns
    -------
    PiecewiseLinearDual or None
        The dual.
    """
    kinks = np.array(activation.kinks)
    if not kinks.size:
        return None
    inner = kinks[:-1, None] + np.diff(kinks)[:, None] * _SHARES
    outer = kinks[0] - _DISTANCES[::-1], kinks[-1] + _DISTANCES
    points = np.vstack([outer[0], inner, outer[1]])
    with np.errstate(all="ignore"):
        values = np.asarray(activation.function(points.ravel()), dtype=float)
        at_kinks = np.asarray(activation.function(kinks), dtype=float)
        values = values.reshape(points.shape)
        slopes = (values[:, -1] - values[:, 0]) / (points[:, -1] - points[:, 0])
        starts = values[:, 0] - slopes * points[:, 0]
        lines = starts[:, None] + slopes[:, None] * points
        size = np.abs(values).max() + np.abs(kinks).max()
        both = [starts[k] + slopes[k] * kinks for k in (slice(0, -1), slice(1, None))]
        errors = [values - lines, at_kinks - both[0], at_kinks - both[1]]
    # NaN, from a function that overflows, is an error as well.
    if not all(np.all(np.abs(error) <= _ROUNDING * size) for error in errors):
        return None
    return PiecewiseLinearDual(
        float(starts[0]),
        float(slopes[0]),
        activation.kinks,
        tuple(float(jump) for jump in np.diff(slopes)),
    )


def _ratio(kink: float, root: Array) -> Array:
    """kink/√q, limited where q vanishes."""
    return deviations(kink + 0.0 * root, root)


def deviations(rest: Array, root: Array) -> Array:
    """rest/root, at most 1e6, which is out of a normal variable's reach; 0 for 0/0."""
    xp = array_namespace(rest, root)
    size = xp.abs(rest)
    least = xp.where(size > 0, 1e-6 * size, xp.ones_like(size))
    return rest / xp.maximum(root, least)


def apart(x: Array, y: Array) -> Array:
    """x − y, and 0 where that is their rounding: it may be divided by sin θ = 0."""
    xp = array_namespace(x, y)
    rest, size = x - y, xp.maximum(xp.abs(x), xp.abs(y))
    return xp.where(xp.abs(rest) <= 8 * xp.finfo(rest.dtype).eps * size, 0.0, rest)


def orthant(a: Array, b: Array, rho: Array) -> Array:
    """P(x > a, z > b) for standard normal x and z of correlation ρ.

    By Owen's T function [Owen 1956], which is good to rounding up to |ρ| = 1.
    """
    xp = array_namespace(rho)
    sine = xp.sqrt((1.0 - rho) * (1.0 + rho))
    a, b = a + 0.0 * rho, b + 0.0 * rho
    # Instead of 0 as a divisor.
    least = xp.ones_like(a * b) * (1e8 * xp.finfo(rho.dtype).smallest_normal)
    total = 0.5 * (special("ndtr", -a) + special("ndtr", -b))
    for own, other in ((a, b), (b, a)):
        # (other/own − ρ)/sin θ, also where own or sin θ is 0.
        across, along = other - rho * own, own * sine
        signed = xp.where(own < 0, -least, least)
        along = xp.where(xp.abs(along) < least, signed, along)
        steepness = xp.clip(across / along, -_STEEP, _STEEP)
        total = total - special("owens_t", own, steepness)
    apart = (a * b < 0) | ((a * b == 0) & (a + b < 0))
    found = xp.where(apart, total - 0.5, total)
    return xp.where((a == 0) & (b == 0), 0.25 + xp.asin(rho) / (2 * math.pi), found)


def _plackett(
    kinks: list[tuple[Array, Array]], products: list[float], rho: Array
) -> Array:
    """Sum of ∫ (ρ − t) n(a, b; t) dt from 0 to ρ, n the bivariate normal density.

    With t = sin ψ the integrand exp(−(a² − 2ab sin ψ + b²)/(2 cos²ψ))/2π is bounded.
    """
    xp = array_namespace(rho)
    end = xp.asin(rho)
    total = 0.0 * rho
    bent = []
    for (a, b), product in zip(kinks, products, strict=True):
        if bool(xp.any(a != 0)) or bool(xp.any(b != 0)):
            bent.append((a, b, b * b, product))
            total = total + 0.0 * (a + b)
            continue
        both = rho * end + xp.sqrt((1.0 - rho) * (1.0 + rho)) - 1.0
        total = total + product / (2 * math.pi) * both
    for node, weight in _rule(rho) if bent else ():
        psi = node * end
        sine, inverse = xp.sin(psi), 1.0 / xp.cos(psi)
        bump = 0.0 * total
        for a, b, square, product in bent:
            # (a − b sin ψ)² + b² cos²ψ, a sum of squares: no cancellation near π/2.
            part = (a - b * sine) * inverse
            bump = bump + product * xp.exp(-0.5 * (part * part + square))
        total = total + weight / (2 * math.pi) * end * (rho - sine) * bump
    return total


def _rule(rho: Array) -> list[tuple[float, float]]:
    """Gauss–Legendre nodes in [0, 1] and weights, as many as ρ asks for."""
    xp = array_namespace(rho)
    most = float(xp.max(xp.abs(rho))) if math.prod(rho.shape) else 0.0
    size = next((size for size, limit in _NODES if most <= limit), _NODES[-1][0])
    nodes, weights = np.polynomial.legendre.leggauss(size)
    return list(zip(0.5 * (nodes + 1.0), 0.5 * weights, strict=True))
