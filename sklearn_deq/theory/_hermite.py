"""The exact equivalent of one hidden layer: an activation made for one kernel.

On a sphere a kernel is Σ a_k ρᵏ with a_k ≥ 0, and σ = Σ c_k he_k has the CK Σ c_k² ρᵏ
and, with both layers trained, the NTK Σ (1 + k) c_k² ρᵏ: c_k² = a_k, or a_k/(1 + k).
Where norms vary, the c_k are those of each sample's norm; `_hermite_mixture` is made
of several such functions. Docs/theory.md, section 5.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
from array_api_compat import array_namespace

from sklearn_deq.theory._chebyshev import chebyshev_coefficients
from sklearn_deq.theory._hermite_series import (
    HermiteSeries,
    coefficient_rows,
    evaluate_series,
)
from sklearn_deq.theory._hermite_table import CUBICS, LIMIT, LINES, Cells
from sklearn_deq.theory._moments import hermite_coefficients
from sklearn_deq.theory._norms import (
    along_norms,
    norm_basis,
    norm_coordinate,
    norm_nodes,
)

Array = Any

# Coefficients of a sample; what is beyond is put into the last.
_TERMS = 2048
# The same at norms for which the function was not made, by quadrature.
_QUADRATURE_TERMS = 512
# Norms this close to the range are in it.
_SLACK = 2e-6
# Where norms vary, σ is a Chebyshev series in their coordinate: to this share.
_TOLERANCE = 1e-7


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

    @property
    def cells(self) -> Cells:
        """Of the table."""
        return cells_of(self.series)

    @cached_property
    def table(self) -> np.ndarray:
        """Polynomials of k functions of t = x/r in the `cells` of a table.

        Shape (n_rows, k, degree + 1): σ(x; r) is their sum with `weights` at t.
        """
        return _tabulate(continued_series(self.series))

    @classmethod
    def combine(
        cls, functions: Sequence[HermiteFunction], coefficients: np.ndarray
    ) -> list[HermiteFunction]:
        """Linear combinations of functions for the same norms, with their tables.

        Parameters
        ----------
        functions : sequence of HermiteFunction
            What to combine; the series of each are evaluated once.
        coefficients : ndarray of shape (n, len(functions))
            A row for each combination.

        Returns
        -------
        list of HermiteFunction
            As many as there are rows.
        """
        first = functions[0]
        nodes = list(zip(*(each.series for each in functions), strict=True))
        values = np.stack([continued_series(each.series) for each in functions])
        found = []
        for row in coefficients:
            series = tuple(HermiteSeries.combine(node, row) for node in nodes)
            function = cls(series, first.low, first.high)
            # As the cached property would, from what is at hand.
            function.__dict__["table"] = _tabulate(np.tensordot(row, values, 1))
            found.append(function)
        return found

    @property
    def ends(self) -> tuple[float, float]:
        """Coordinates arsinh(4r) of the range of norms."""
        low, high = (float(norm_coordinate(np.array(r))) for r in (self.low, self.high))
        return low, high

    def weights(self, norms: Array) -> Array:
        """Weights of the functions at norms of any shape, shape (*norms.shape, k).

        Chebyshev polynomials of the coordinate.
        """
        xp = array_namespace(norms)
        low, high = self.ends
        place = xp.asinh(4.0 * xp.clip(norms, self.low, self.high))
        # Rounding must not leave the range, where polynomials grow.
        place = xp.clip((2.0 * place - low - high) / max(high - low, 1e-300), -1.0, 1.0)
        terms = [0.0 * place + 1.0, place]
        for _ in range(self.table.shape[1] - 2):
            terms.append(2.0 * place * terms[-1] - terms[-2])
        return xp.stack(terms[: self.table.shape[1]], axis=-1)

    def parts(self, t: np.ndarray) -> np.ndarray:
        """Evaluate the k functions of which σ is made at t (m,), shape (m, k)."""
        found = self.table[self.cells.rows(self.cells.numbers(t))]
        return np.asarray(_horner(found, t[:, None]))

    def scales(self, norms: Array | None) -> tuple[Array, Array]:
        """What x is divided by, and σ multiplied with; norms None: the only one."""
        if norms is None or not self.conditioned:
            return self.high, (self.high if self.homogeneous else 1.0)
        xp = array_namespace(norms)
        if self.homogeneous:
            return xp.where(norms > 0, norms, xp.ones_like(norms)), norms
        return xp.clip(norms, self.low, self.high), 1.0

    def __call__(self, x: np.ndarray, norms: np.ndarray | None = None) -> np.ndarray:
        """Evaluate σ at x of samples of these norms (None: 1, or the largest)."""
        size, factor = self.scales(norms)
        t = np.asarray(x, dtype=float) / size
        return np.asarray(_horner(self._polynomials_at(t, norms), t) * factor)

    def derivative(self, x: np.ndarray, norms: np.ndarray | None = None) -> np.ndarray:
        """Evaluate dσ/dx."""
        size, factor = self.scales(norms)
        t = np.asarray(x, dtype=float) / size
        found = self._polynomials_at(t, norms)
        slopes = found[..., 1:] * np.arange(1, found.shape[-1])
        return np.asarray(_horner(slopes, t) * (factor / size))

    def _polynomials_at(self, t: np.ndarray, norms: np.ndarray | None) -> np.ndarray:
        """Coefficients at every t, shape (*t.shape, degree + 1)."""
        rows = self.cells.rows(self.cells.numbers(t))
        if len(self.series) == 1:
            return np.asarray(self.table[rows, 0])
        r = np.asarray(self.high if norms is None else norms, dtype=float)
        # Of one norm for many t it is less work to weigh the table.
        if r.ndim == 0 and t.size > len(self.table):
            return np.asarray(np.einsum("rkl,k->rl", self.table, self.weights(r))[rows])
        weights = self.weights(np.broadcast_to(r, t.shape))
        return np.einsum("...kl,...k->...l", self.table[rows], weights)

    def at(self, norm: float) -> HermiteSeries | None:
        """Return the series of a norm of the range, else None."""
        if abs(norm - np.clip(norm, self.low, self.high)) > _SLACK * norm:
            return None
        if len(self.series) == 1:
            return self.series[0]
        weights = self._lagrange(np.array([norm]))[0]
        return HermiteSeries.combine(self.series, weights)

    def _lagrange(self, norms: np.ndarray) -> np.ndarray:
        """Weights (n, n_series) that interpolate between the series."""
        low, high = self.ends
        size = len(self.series)
        nodes = np.sqrt(norm_nodes(low, high, size))
        basis = norm_basis(nodes, low, high, size)
        return norm_basis(norms, low, high, size) @ np.linalg.inv(basis)

    @property
    def kinds(self) -> tuple[HermiteFunction, ...]:
        """What units there are: of one kind."""
        return (self,)

    @property
    def groups(self) -> tuple[HermiteFunction, ...]:
        """The function of each group of units: of the one that there is."""
        return (self,)

    def columns(self, width: int) -> list[slice]:
        """Return the units of each group among so many."""
        return [slice(0, width)]

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
        made = self.inside(norms)
        size = self._n_terms if made.all() else max(self._n_terms, _QUADRATURE_TERMS)
        found = np.zeros((len(norms), size))
        found[made, : self._n_terms] = self._made(norms[made], rate)
        found[np.isnan(norms)] = np.nan
        for end in {self.low, self.high}:
            part = ~made & (np.clip(norms, self.low, self.high) == end)
            if part.any():
                measure = partial(self._measured, rate, end)
                other = along_norms(measure, norms[part] ** 2)
                found[part, :_QUADRATURE_TERMS] = other.T
        return found

    @property
    def _n_terms(self) -> int:
        """Coefficients that matter; of kinked functions as many as are used."""
        if any(series.rough for series in self.series):
            return _TERMS
        return max(len(series.differences) for series in self.series)

    def inside(self, norms: np.ndarray) -> np.ndarray:
        """Whether norms are in the range, which rounding may leave."""
        gaps = np.abs(norms - np.clip(norms, self.low, self.high))
        return np.asarray(gaps <= _SLACK * norms)

    def _made(self, norms: np.ndarray, rate: float) -> np.ndarray:
        """Features at norms in the range."""
        return self.node_weights(norms) @ self.node_features(rate)

    def node_weights(self, norms: np.ndarray) -> np.ndarray:
        """Weights (n, n_series) of the series at norms in the range."""
        if len(self.series) == 1:
            return np.ones((len(norms), 1))
        return self._lagrange(norms)

    def node_features(self, rate: float) -> np.ndarray:
        """Features of the series themselves, shape (n_series, n_terms)."""
        size = self._n_terms
        weights = np.sqrt(1.0 + rate * np.arange(size))
        nodes = coefficient_rows(self.series, size) * weights
        totals = [float(s.kernel(np.ones(1), rate)[0]) for s in self.series]
        rest = np.maximum(np.array(totals) - np.sum(nodes**2, axis=1), 0.0)
        nodes[:, -1] = np.hypot(nodes[:, -1], np.sqrt(rest))
        return nodes

    def _measured(self, rate: float, end: float, squares: np.ndarray) -> np.ndarray:
        """Features (512, n) by quadrature, beyond the end whose function is used."""
        found = np.empty((_QUADRATURE_TERMS, len(squares)))
        # A rule for each octave, so that other samples do not change it.
        octaves = np.ceil(0.5 * np.log2(np.maximum(squares, 1.0)))
        for octave in np.unique(octaves):
            part = octaves == octave
            found[:, part] = hermite_coefficients(
                partial(self, norms=np.asarray(end)),
                (0.0,),
                squares[part],
                _QUADRATURE_TERMS,
            ).T
        return found * np.sqrt(1.0 + rate * np.arange(_QUADRATURE_TERMS))[:, None]

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the table, which is made again."""
        return {name: v for name, v in self.__dict__.items() if name != "table"}

    def __repr__(self) -> str:
        """Show the size and the norms."""
        terms = max(len(series.differences) for series in self.series)
        norms = f"norm {self.low:.6g}"
        if self.high > self.low:
            norms = f"norms {self.low:.4g} to {self.high:.4g}"
        if self.homogeneous:
            norms = "all norms"
        return f"HermiteFunction({terms} terms, {norms})"


def cells_of(series: Sequence[HermiteSeries]) -> Cells:
    """Cells for a function of one norm, or of several."""
    return LINES if len(series) == 1 else CUBICS


def continued_series(series: Sequence[HermiteSeries]) -> np.ndarray:
    """Values at the nodes of a table up to LIMIT, tangents beyond: (k, 2, n_nodes)."""
    nodes, step = cells_of(series).nodes(), 1e-4
    inner = nodes[nodes < LIMIT]
    found = evaluate_series(series, np.append(inner, [LIMIT - step, LIMIT]))
    before, last = found[..., -2:-1], found[..., -1:]
    beyond = last + (last - before) / step * (nodes[len(inner) :] - LIMIT)
    return np.concatenate([found[..., :-2], beyond], axis=-1)


def _tabulate(values: np.ndarray) -> np.ndarray:
    """Tables of the functions that make those of all norms.

    Parameters
    ----------
    values : ndarray of shape (n_norms, 2, n_nodes)
        Of one function at Chebyshev nodes of its norms, as `continued_series` gives.

    Returns
    -------
    ndarray of shape (n_rows, k, degree + 1)
        The table of the one, or of the leading terms of the Chebyshev series.
    """
    if len(values) == 1:
        return LINES.polynomials(values)
    terms = chebyshev_coefficients(values)
    sizes = np.sqrt(np.mean(terms**2, axis=(1, 2)))
    last = np.flatnonzero(sizes > _TOLERANCE * sizes[0])[-1]
    return CUBICS.polynomials(terms[: last + 1])


def _horner(coefficients: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Polynomials (..., degree + 1) at t."""
    value = coefficients[..., -1]
    for k in range(coefficients.shape[-1] - 2, -1, -1):
        value = value * t + coefficients[..., k]
    return np.asarray(value)
