"""Duals of truncated powers: what makes the dual of a kinked φ singular.

Where φ or a derivative of it jumps away from 0, its dual has a cone where two kinks
meet, at √q1 : √q2 = kink1 : kink2 and ρ = 1, and no table is accurate there. Without a
spline that jumps as φ does, what is left of the dual is smooth.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from array_api_compat import array_namespace

from sklearn_deq.theory._activations import Activation
from sklearn_deq.theory._closed_forms import correlation, special
from sklearn_deq.theory._jumps import MOST_ORDERS, kink_jumps
from sklearn_deq.theory._piecewise_linear import apart, density, deviations, orthant

Array = Any

# Powers of q that the growth of the spline beyond that of φ may cost.
_LARGEST_GROWTH = 1e5


@dataclass(frozen=True)
class Atom:
    """weight · T(side · x − place), with T(x) = x₊ʲ/j! of order j."""

    place: float
    side: float
    order: int
    weight: float


@dataclass(frozen=True)
class SplineDual:
    """Dual of a sum of truncated powers, which point away from 0.

    Attributes
    ----------
    atoms : tuple of Atom
        The terms.
    """

    atoms: tuple[Atom, ...]

    def function(self, x: np.ndarray, derivative: bool = False) -> np.ndarray:
        """Evaluate the spline itself, or its derivative between the kinks."""
        total = np.zeros_like(x)
        for atom in self.atoms:
            order = atom.order - derivative
            if order < 0:
                continue
            weight = atom.weight * atom.side**derivative / math.factorial(order)
            rest = atom.side * x - atom.place
            total += np.where(rest > 0, weight * np.maximum(rest, 0.0) ** order, 0.0)
        return total

    def __call__(
        self, q1: Array, q2: Array, c: Array, derivative: bool = False
    ) -> Array:
        """Evaluate the dual or its derivative."""
        rho = correlation(q1, q2, c)
        total = 0.0 * (q1 + q2 + c)
        for first, second, moment in self._pairs(q1, q2, rho):
            weight = first.weight * second.weight
            if derivative:
                weight *= first.side * second.side
            total = total + weight * moment(
                first.order - derivative, second.order - derivative
            )
        return total

    def log_partials(
        self, q1: Array, q2: Array, angle: Array
    ) -> tuple[Array, Array, Array]:
        """Derivatives in log q1 and the angle: see `_dual_partials`."""
        value = slope = turn = 0.0 * (q1 + q2 + angle)
        for first, second, moment in self._pairs(
            q1, q2, array_namespace(angle).cos(angle)
        ):
            weight, (i, j) = first.weight * second.weight, (first.order, second.order)
            value = value + weight * moment.growth(i, j)
            rate = moment.growth(i - 1, j - 1)
            slope = slope + weight * first.side * second.side * rate
            turn = turn - weight * moment.turn(i - 2, j - 2)
        return value, slope, turn

    def _pairs(
        self, q1: Array, q2: Array, rho: Array
    ) -> Iterator[tuple[Atom, Atom, _Moments]]:
        known: dict[tuple[float, float, float], _Moments] = {}
        for first in self.atoms:
            for second in self.atoms:
                side = first.side * second.side
                key = first.place, second.place, side
                if key not in known:
                    known[key] = _Moments(first.place, second.place, q1, q2, side * rho)
                yield first, second, known[key]


class _Moments:
    """E[T_i(u − a) T_j(v − b)] with T_{−1} a point mass, for i, j ≥ −1.

    From u T_i(u) and Stein's identity i M_ij = −a M_{i−1,j} + q1 M_{i−2,j} +
    c M_{i−1,j−1}.

    Parameters
    ----------
    a, b : float
        Kinks, nonnegative.
    q1, q2, rho : arrays
        Variances and correlation.
    """

    def __init__(self, a: float, b: float, q1: Array, q2: Array, rho: Array) -> None:
        xp = array_namespace(rho)
        least = xp.finfo(rho.dtype).smallest_normal
        self.kinks = a, b
        self.q = tuple(xp.clip(q, min=least) for q in (q1, q2))
        self.roots = tuple(xp.sqrt(q) for q in self.q)
        self.rho, self.sine = rho, xp.sqrt((1.0 - rho) * (1.0 + rho))
        self.c = self.roots[0] * self.roots[1] * rho
        places = zip(self.kinks, self.roots, strict=True)
        self.places = tuple(
            deviations(kink + 0.0 * root, root) for kink, root in places
        )
        self.known: dict[tuple[int, int], Array] = {}

    def __call__(self, i: int, j: int) -> Array:
        """M_ij; 0 for what a derivative between the kinks lacks."""
        if (i, j) not in self.known:
            self.known[i, j] = self._find(i, j)
        return self.known[i, j]

    def _find(self, i: int, j: int) -> Array:
        a, b = self.kinks
        if i == -1:
            return self._at_kink(0, j)
        if j == -1:
            return self._at_kink(1, i)
        if i == j == 0:
            return orthant(self.places[0], self.places[1], self.rho)
        if i >= j:
            rest = self.q[0] * self(i - 2, j) + self.c * self(i - 1, j - 1)
            return (rest - a * self(i - 1, j)) / i
        rest = self.q[1] * self(i, j - 2) + self.c * self(i - 1, j - 1)
        return (rest - b * self(i, j - 1)) / j

    def _at_kink(self, side: int, order: int) -> Array:
        """M_{−1,order}, or its mirror image: a normal law of v where u is a."""
        mean, spread = self._conditional(side)
        z = deviations(mean, spread)
        before, power = density(z), special("ndtr", z)
        # j m_j = mean m_{j−1} + spread² m_{j−2}; before is spread · m_{−1}.
        moments = [power, mean * power + spread * before]
        for j in range(2, order + 1):
            moments.append((mean * moments[-1] + spread**2 * moments[-2]) / j)
        return density(self.places[side]) / self.roots[side] * moments[order]

    def _conditional(self, side: int) -> tuple[Array, Array]:
        """Mean of v − b and standard deviation of v where u is a."""
        root = self.roots[1 - side]
        mean = self.rho * root * self.places[side]
        return apart(mean, self.kinks[1 - side] + 0.0 * mean), root * self.sine

    def growth(self, i: int, j: int) -> Array:
        """Derivative of M_ij in log q1 at fixed ρ."""
        if i == 0:
            # q1 M_{−2,j} = a M_{−1,j} − c M_{−1,j−1}.
            return 0.5 * self.kinks[0] * self(-1, j)
        return 0.5 * (self.q[0] * self(i - 2, j) + self.c * self(i - 1, j - 1))

    def turn(self, i: int, j: int) -> Array:
        """√(q1 q2) sin θ M_ij, which is finite for i = j = −1 as well."""
        if i == j == -1:
            z = deviations(*self._conditional(0))
            return density(self.places[0]) * density(z)
        return self.roots[0] * self.roots[1] * self.sine * self(i, j)


def spline_dual(activation: Activation, largest: float) -> SplineDual | None:
    """Dual of the spline that jumps as φ does; None where none is needed.

    Parameters
    ----------
    activation : Activation
        φ.
    largest : float
        Largest variance: large ones bear fewer orders, as the spline grows faster
        than φ.

    Returns
    -------
    SplineDual or None
        None if all kinks are at 0 and φ is continuous: there the dual is smooth in
        the angle.
    """
    jumps = kink_jumps(activation)
    if not np.any(activation.kinks) and not np.any(jumps[:, 0]):
        return None
    powers = math.log(_LARGEST_GROWTH) / max(math.log(max(largest, 1.0)), 1e-3)
    orders = range(1 + min(MOST_ORDERS, 1 + int(min(powers, MOST_ORDERS))))
    atoms = []
    for kink, jump in zip(activation.kinks, jumps, strict=True):
        side = 1.0 if kink >= 0 else -1.0
        for order in orders:
            if jump[order] != 0.0:
                sign = 1.0 if side > 0 else (-1.0) ** (order + 1)
                atoms.append(Atom(abs(kink), side, order, float(sign * jump[order])))
    return SplineDual(tuple(atoms))
