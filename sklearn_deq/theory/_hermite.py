"""The exact equivalent of one hidden layer: an activation made for one kernel.

On a sphere a kernel is Σ a_k ρᵏ with a_k ≥ 0, and σ = Σ c_k he_k has the CK Σ c_k² ρᵏ
and, with both layers trained, the NTK Σ (1 + k) c_k² ρᵏ: c_k² = a_k, or a_k/(1 + k).
Where norms vary, the c_k are those of each sample's norm. Docs/theory.md, section 5.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
from array_api_compat import array_namespace

from sklearn_deq.theory._chebyshev import chebyshev_nodes
from sklearn_deq.theory._hermite_series import HermiteSeries
from sklearn_deq.theory._moments import hermite_coefficients
from sklearn_deq.theory._norms import along_norms, norm_coordinate
from sklearn_deq.theory._pairs import (
    PairKernel,
    Reduction,
    States,
    common_square,
    sphere_reduction,
)

Array = Any

# σ goes on linearly beyond this many standard deviations of its input.
_LIMIT = 6.0
# Its table: cells on either side of 0, where it ends, and rows for norms that vary.
_CELLS = 4096
_END = 16.0
_ROWS = 129
# Coefficients of a sample; what is beyond is put into the last.
_TERMS = 2048
# The same at norms for which the function was not made, by quadrature.
_QUADRATURE_TERMS = 512
# Norms this close to the range are in it.
_SLACK = 1e-9


@dataclass(frozen=True, repr=False)
class HermiteFunction:
    """σ(x; r) = Σ c_k(r) he_k(x/r) for samples of norm r, evaluated from a table.

    Attributes
    ----------
    series : tuple of HermiteSeries
        The c_k at Chebyshev nodes of a range of norms; one series for a single norm.
    low, high : float
        The range of r = √s_ii. Other norms have the function of the end.
    homogeneous : bool
        Whether σ(x; r) = r σ(x/r; 1) at every norm, with the one series that of r = 1.

    Examples
    --------
    >>> from sklearn_deq.theory import equilibrium_moments, solve_match
    >>> match = solve_match(equilibrium_moments("relu"), architecture="hermite")
    >>> match.layers[0].activation.function
    HermiteFunction(2048 terms, norm 1)
    """

    series: tuple[HermiteSeries, ...]
    low: float
    high: float
    homogeneous: bool = False

    @property
    def conditioned(self) -> bool:
        """Whether the norm of the sample matters, beside x."""
        return self.homogeneous or len(self.series) > 1

    def coordinate(self, norms: Array) -> Array:
        """Place of norms in the range, from −1 to 1."""
        xp = array_namespace(norms)
        low, high = (float(norm_coordinate(np.array(r))) for r in (self.low, self.high))
        if high <= low:
            return 0.0 * norms
        place = xp.asinh(4.0 * xp.clip(norms, self.low, self.high))
        return (2.0 * place - low - high) / (high - low)

    @cached_property
    def grid(self) -> np.ndarray:
        """Points of the table in sign(t) √|t|, t = x/r: fine near 0, where σ bends."""
        return np.linspace(-1.0, 1.0, 2 * _CELLS + 1) * np.sqrt(_END)

    @cached_property
    def table(self) -> np.ndarray:
        """Values of σ on `grid`, linear between; rows for norms, uniform in coordinate.

        Shape (1 or 129, 8193).
        """
        t = np.sign(self.grid) * self.grid**2
        values = np.stack([_continued(series, t) for series in self.series])
        if len(self.series) == 1:
            return values
        places = np.linspace(-1.0, 1.0, _ROWS)
        return _lagrange(places, len(self.series)) @ values

    @cached_property
    def slopes(self) -> np.ndarray:
        """Values of dσ/dt on `grid`, linear between."""
        t = np.sign(self.grid) * self.grid**2
        return np.asarray(np.gradient(self.table, t, axis=1))

    def __call__(self, x: np.ndarray, norms: np.ndarray | None = None) -> np.ndarray:
        """Evaluate σ at x of samples of these norms (None: 1, or the only one)."""
        r, factor = self.scales(norms, np)
        t = np.asarray(x, dtype=float) / r
        value = self._interpolate(self.table, t, norms)
        beyond = t - np.clip(t, -_END, _END)
        if np.any(beyond):
            value = value + beyond * self._interpolate(self.slopes, t, norms)
        return value * factor

    def derivative(self, x: np.ndarray, norms: np.ndarray | None = None) -> np.ndarray:
        """Evaluate dσ/dx."""
        r, factor = self.scales(norms, np)
        return self._interpolate(self.slopes, np.asarray(x, float) / r, norms) * (
            factor / r
        )

    def scales(self, norms: Array | None, xp: Any) -> tuple[Array, Array]:
        """What x is divided by, and σ multiplied with."""
        if norms is None or not self.conditioned:
            return self.high, (self.high if self.homogeneous else 1.0)
        if self.homogeneous:
            positive = xp.where(norms > 0, norms, 1.0)
            return positive, norms
        return xp.clip(norms, self.low, self.high), 1.0

    def _interpolate(
        self, table: np.ndarray, t: np.ndarray, norms: np.ndarray | None
    ) -> np.ndarray:
        u = np.clip(np.sign(t) * np.sqrt(np.abs(t)) / np.sqrt(_END), -1.0, 1.0)
        column = np.minimum(((u + 1.0) * _CELLS).astype(int), 2 * _CELLS - 1)
        share = (u + 1.0) * _CELLS - column
        if len(table) == 1:
            return table[0, column] * (1 - share) + table[0, column + 1] * share
        place = self.coordinate(np.asarray(self.high if norms is None else norms))
        place = 0.5 * (place + 1.0) * (_ROWS - 1)
        row = np.minimum(place.astype(int), _ROWS - 2)
        rest = place - row
        row, rest = np.broadcast_arrays(row, rest)
        below, above = (
            table[row + k, column] * (1 - share) + table[row + k, column + 1] * share
            for k in (0, 1)
        )
        return below * (1 - rest) + above * rest

    def at(self, norm: float) -> HermiteSeries | None:
        """Return the series of a norm of the range, else None."""
        if abs(norm - np.clip(norm, self.low, self.high)) > _SLACK * norm:
            return None
        if len(self.series) == 1:
            return self.series[0]
        weights = _lagrange(self.coordinate(np.array([norm])), len(self.series))[0]
        return HermiteSeries.combine(self.series, weights)

    def features(self, norms: np.ndarray, rate: float) -> np.ndarray:
        """f_k(r) with K_ij = Σ f_k(r_i) f_k(r_j) ρᵏ, shape (n, n_terms).

        Parameters
        ----------
        norms : ndarray of shape (n,)
            r of the samples.
        rate : float
            Learning rate of the hidden layer, in units of the readout's: 0 for the CK.

        Returns
        -------
        ndarray of shape (n, n_terms)
            Exact within the range of norms; elsewhere 512 terms by quadrature.
        """
        if self.homogeneous:
            return norms[:, None] * self._made(np.ones(1), rate)
        made = np.abs(norms - np.clip(norms, self.low, self.high)) <= _SLACK * norms
        found = np.zeros((len(norms), _TERMS))
        found[made] = self._made(norms[made], rate)
        if not made.all():
            other = along_norms(
                lambda s: self._measured(np.sqrt(s), rate).T, norms[~made] ** 2
            ).T
            found[~made, : other.shape[1]] = other
        return found

    def _made(self, norms: np.ndarray, rate: float) -> np.ndarray:
        """Features at norms in the range."""
        weights = np.sqrt(1.0 + rate * np.arange(_TERMS))
        nodes = np.stack([series.coefficients(_TERMS) for series in self.series])
        nodes = nodes * weights
        totals = [float(s.kernel(np.ones(1), rate)[0]) for s in self.series]
        rest = np.maximum(np.array(totals) - np.sum(nodes**2, axis=1), 0.0)
        nodes[:, -1] = np.hypot(nodes[:, -1], np.sqrt(rest))
        if len(self.series) == 1:
            return np.repeat(nodes, len(norms), axis=0)
        return _lagrange(self.coordinate(norms), len(self.series)) @ nodes

    def _measured(self, norms: np.ndarray, rate: float) -> np.ndarray:
        """Features at other norms, by quadrature."""
        weights = np.sqrt(1.0 + rate * np.arange(_QUADRATURE_TERMS))
        rows = [
            hermite_coefficients(
                partial(self, norms=r), (0.0,), np.array([r * r]), _QUADRATURE_TERMS
            )[0]
            for r in norms
        ]
        return np.array(rows) * weights

    def __repr__(self) -> str:
        """Show the size and the norms."""
        terms = max(len(series.differences) for series in self.series)
        norms = f"norm {self.low:.6g}"
        if self.high > self.low:
            norms = f"norms {self.low:.4g} to {self.high:.4g}"
        if self.homogeneous:
            norms = "all norms"
        return f"HermiteFunction({terms} terms, {norms})"


def _homogeneous_reduction(series: HermiteSeries, rate: float) -> Reduction:
    """K_ij = r_i r_j f(ρ_ij)."""

    def states(s: np.ndarray) -> States:
        norms = np.sqrt(s)
        return norms, np.divide(1.0, norms, out=np.zeros_like(norms), where=norms > 0)

    def argument(first: States, second: States, s12: Array) -> Array:
        s12 *= first[1]
        s12 *= second[1]
        return s12

    def profiles(x: np.ndarray) -> np.ndarray:
        return series.kernel(x, rate)[None]

    def assemble(first: States, second: States, values: Array) -> Array:
        return values[0] * first[0] * second[0]

    return Reduction(states, argument, profiles, assemble)


def _continued(series: HermiteSeries, t: np.ndarray) -> np.ndarray:
    """The function up to ±_LIMIT standard deviations, its tangents beyond."""
    inside = np.abs(t) <= _LIMIT
    values = np.empty_like(t)
    values[inside] = series(t[inside])
    for side in (-1.0, 1.0):
        step = 1e-4
        end = side * np.array([_LIMIT, _LIMIT - step])
        last, before = series(end)
        outside = side * t > _LIMIT
        slope = side * (last - before) / step
        values[outside] = last + slope * (t[outside] - end[0])
    return values


def _lagrange(places: np.ndarray, size: int) -> np.ndarray:
    """Values (n, size) of the Lagrange polynomials of Chebyshev nodes at places."""
    vander = np.polynomial.chebyshev.chebvander
    nodes = vander(chebyshev_nodes(size), size - 1)
    return vander(places, size - 1) @ np.linalg.inv(nodes)


def hermite_pair_kernel(function: HermiteFunction, rate: float) -> PairKernel:
    """Kernel of one infinitely wide hidden layer with this function.

    Parameters
    ----------
    function : HermiteFunction
        σ.
    rate : float
        Learning rate of the hidden layer, in units of the readout's: 0 for the CK.

    Returns
    -------
    PairKernel
        Entry by entry.
    """

    def states(s: np.ndarray) -> States:
        norms = np.sqrt(s)
        inverse = np.divide(1.0, norms, out=np.zeros_like(norms), where=norms > 0)
        features = function.features(norms, rate)
        return inverse, features

    def diagonal(s: np.ndarray) -> np.ndarray:
        return np.sum(function.features(np.sqrt(s), rate) ** 2, axis=1)

    def entries(first: States, second: States, s12: Array) -> Array:
        xp = array_namespace(s12)
        rho = xp.clip(s12 * first[0] * second[0], -1.0, 1.0)
        value = 0.0 * rho
        for k in range(first[1].shape[-1] - 1, -1, -1):
            value = value * rho + first[1][..., k] * second[1][..., k]
        return value

    def reduce(s: np.ndarray) -> Reduction | None:
        if function.homogeneous:
            return _homogeneous_reduction(function.series[0], rate)
        square = common_square(s)
        series = None if square is None else function.at(np.sqrt(square))
        if square is None or series is None:
            return None

        def exact(_first: States, _second: States, s12: np.ndarray) -> np.ndarray:
            return series.kernel(np.clip(s12 / square, -1.0, 1.0), rate)

        return sphere_reduction(states, exact, square)

    return PairKernel(states, diagonal, entries, reduce)
