"""Families of explicit networks: what is free in a layer, and where the search starts.

`ARCHITECTURES` is the one place to add a family.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np

from sklearn_deq.theory._layers import LayerFunction, LayerMoments
from sklearn_deq.theory._rounded import RoundedPiece
from sklearn_deq.theory._three_piece import ThreePiece

# Slopes beyond this times the typical one make activations that no one would train.
_LARGEST_SLOPE = 6.0
# Knees between a fiftieth and twenty times the standard deviation of the input.
_KNEES = (math.log(0.02), math.log(20.0))
# Multipliers (√λ is free) beyond 100 times the readout's.
_LARGEST_ROOT = 10.0


@dataclass(frozen=True)
class Architecture:
    """A family of explicit networks.

    Attributes
    ----------
    depths : tuple of int
        Numbers of hidden layers to try, in this order.
    layer : type
        `ThreePiece` or `RoundedPiece`.
    free : tuple of str
        Its fields that are free; the others are 0, and the knee 1.
    starts : tuple of tuple of float
        Where the search for a layer starts: √A, τ√(Q/2), the rise and knee/τ, in the
        units of `Units`.
    """

    depths: tuple[int, ...]
    layer: type[LayerFunction]
    free: tuple[str, ...]
    starts: tuple[tuple[float, float, float, float], ...]


_FIELDS = ("slope", "bend", "rise", "knee")
_ALL_STARTS = (
    (1.0, 0.7, 1.0, 1.0),
    (1.0, 0.7, -1.0, 1.0),
    (1.0, 0.7, 2.0, 0.5),
    (1.0, 0.7, 0.5, 1.5),
    (1.0, 0.7, -0.5, 1.5),
)

ARCHITECTURES: dict[str, Architecture] = {
    "hard_tanh": Architecture(
        depths=(1,),
        layer=ThreePiece,
        free=("rise", "knee"),
        starts=((0.0, 0.0, 1.2, 1.0), (0.0, 0.0, 2.0, 0.3), (0.0, 0.0, 1.0, 3.0)),
    ),
    "leaky_relu": Architecture(
        depths=(2,),
        layer=ThreePiece,
        free=("slope", "bend"),
        starts=tuple((1.0, bend, 0.0, 1.0) for bend in (0.7, 0.3, 1.5)),
    ),
    "piecewise_linear": Architecture(
        depths=(1, 2), layer=ThreePiece, free=_FIELDS, starts=_ALL_STARTS
    ),
    "rounded": Architecture(
        depths=(1, 2, 3), layer=RoundedPiece, free=_FIELDS, starts=_ALL_STARTS
    ),
}
"""Families of explicit networks by name; in each depth, simplest first."""


@dataclass(frozen=True)
class Units:
    """The sizes that a target suggests for the unknowns of a layer.

    Attributes
    ----------
    slope : float
        Of σ.
    bend : float
        Of τ√(Q/2), if one layer bends.
    rise : float
        Such that a clip carries the energy beyond degree two.
    knee : float
        In units of τ, such that a rounded |x| carries it.
    tilt : float
        ½ E[(σ_l²)'']/A_l − 1 of the layers before the last, if only that bends.
    """

    slope: float
    bend: float
    rise: float
    knee: float
    tilt: float

    @classmethod
    def of(cls, energies: np.ndarray, tau0: float, depth: int, tilt: float) -> Units:
        """From the energies of degree one, of degree two, and of the rest.

        The tilt is that of all the layers before the last together.
        """
        linear, square, rest = np.maximum(energies, 1e-9 * energies.sum()) / tau0**2
        slope = (linear + square + rest) ** (0.5 / depth)
        others = slope ** (depth - 1)
        # x erf(x/√2k) has the share τ⁴/3k⁴ beyond degree two.
        knee = (3.0 * rest / square) ** -0.25
        return cls(
            slope=float(slope),
            bend=float(np.sqrt(square) / others),
            rise=float(min(3.0 * np.sqrt(rest) / others, slope)),
            knee=float(np.clip(knee, 0.5, 10.0)),
            tilt=(1.0 + tilt) ** (1.0 / max(depth - 1, 1)) - 1.0,
        )


@dataclass(frozen=True)
class Family:
    """An architecture at one depth: from a vector of unknowns to layers and λ.

    Attributes
    ----------
    architecture : Architecture
        Which layers.
    depth : int
        How many.
    bent : bool
        Whether the bend is free: without it the layers are odd.
    multiplied : bool
        Whether the multipliers of the hidden layers are free (the readout's is 1).
    units : Units
        Of the unknowns.
    """

    architecture: Architecture
    depth: int
    bent: bool
    multiplied: bool
    units: Units

    @property
    def free(self) -> tuple[str, ...]:
        """The free fields of a layer."""
        return tuple(
            name for name in self.architecture.free if self.bent or name != "bend"
        )

    def starts(self, ratio: float) -> np.ndarray:
        """Starting points (s, n); `ratio` guesses λ of the hidden layers."""
        layers = np.array(self.architecture.starts) * astuple(self.units)[:4]
        layers[:, 3] = np.log(layers[:, 3])
        columns = [_FIELDS.index(name) for name in self.free]
        if self.depth == 1:
            points = layers[:, columns]
        else:
            chains = np.array(list(self._chains(layers)))
            points = chains[:, :, columns].reshape(len(chains), -1)
        if self.multiplied:
            roots = np.full((len(points), self.depth), math.sqrt(ratio))
            points = np.concatenate([points, roots], axis=1)
        return points

    def _chains(self, layers: np.ndarray) -> Iterator[list[np.ndarray]]:
        """Equal layers; chains of which one layer bends; tilted lines before a bend.

        A clip with little rise tilts ½ E[(σ²)'']/A by −rise/(slope · knee²).
        """
        more = self.depth - 1
        for layer in layers:
            yield [layer] * self.depth
            straight = layer * [1.0, 0.1, 1.0, 1.0]
            yield [straight] * more + [layer]
            yield [layer] + [straight] * more
        units = self.units
        bent = np.array([units.slope, units.bend, 0.0, math.log(units.knee)])
        for knee in (1.0, 2.0):
            rise = -units.tilt * units.slope * knee**2
            yield [np.array([units.slope, 0.0, rise, math.log(knee)])] * more + [bent]

    def box(self) -> tuple[np.ndarray, np.ndarray]:
        """Bounds that keep slopes tame and multipliers in reach."""
        slope = _LARGEST_SLOPE * self.units.slope
        upper = [_KNEES[1] if name == "knee" else slope for name in self.free]
        lower = [_KNEES[0] if name == "knee" else -slope for name in self.free]
        extra = self.depth if self.multiplied else 0
        return (
            np.array(lower * self.depth + [0.0] * extra),
            np.array(upper * self.depth + [_LARGEST_ROOT] * extra),
        )

    def moments(self, x: np.ndarray) -> list[Callable[[np.ndarray], LayerMoments]]:
        """Moments of each layer as functions of its τ, for points (..., n)."""
        return [self._moments(x, layer) for layer in range(self.depth)]

    def _moments(
        self, x: np.ndarray, layer: int
    ) -> Callable[[np.ndarray], LayerMoments]:
        slope, bend, rise, knee = self._fields(x, layer)

        def moments(tau: np.ndarray) -> LayerMoments:
            closed = self.architecture.layer.closed_moments
            return closed(slope, bend, rise, tau * knee, tau)

        return moments

    def _fields(self, x: np.ndarray, layer: int) -> list[np.ndarray]:
        """Slope, bend, rise and knee/τ of a layer.

        The unknowns are √A, τ√(Q/2) and the rise, that is two Hermite coefficients and
        what adds energy beyond them: the equations are nearly solved for them.
        """
        values: dict[str, Any] = {"slope": 0.0, "bend": 0.0, "rise": 0.0, "knee": 0.0}
        first = layer * len(self.free)
        for column, name in enumerate(self.free, first):
            values[name] = x[..., column]
        knee = np.exp(values["knee"])
        clip_slope, curvature = self.architecture.layer.unit_moments(knee)
        slope = values["slope"]
        if "slope" in self.free:
            slope = slope - values["rise"] * clip_slope
        bend = math.sqrt(2.0) * values["bend"] / curvature
        return [slope, bend, values["rise"], knee]

    def multipliers(self, x: np.ndarray) -> list[np.ndarray]:
        """λ_1 … λ_L and the readout's 1, for points (..., n)."""
        ones = np.ones_like(x[..., 0])
        if not self.multiplied:
            return [ones] * (self.depth + 1)
        return [*(x[..., k] ** 2 for k in range(-self.depth, 0)), ones]

    def rates(self, x: np.ndarray) -> tuple[float, ...] | None:
        """The multipliers of one point (n,); None: they are all 1 by design."""
        if not self.multiplied:
            return None
        return tuple(map(float, self.multipliers(x)))

    def gain(self, x: np.ndarray, tau0: float) -> np.ndarray:
        """Product over the layers of E[σ'²]: how steep the networks are, (...).

        It does not change when one layer is scaled up and the next down.
        """
        gain, tau = np.ones(x.shape[:-1]), np.full(x.shape[:-1], tau0)
        for moments in self.moments(x):
            found = moments(tau)
            gain, tau = gain * found.squared, np.sqrt(found.energy)
        return gain

    def functions(self, x: np.ndarray, tau0: float) -> list[LayerFunction]:
        """The layers of one point (n,)."""
        functions, tau = [], tau0
        for layer in range(self.depth):
            slope, bend, rise, knee = map(float, self._fields(x, layer))
            function = self.architecture.layer(slope, bend, rise, knee * tau)
            functions.append(function)
            tau = math.sqrt(function.moments(tau).energy)
        return functions
