"""What is left of the dual of a kinked φ without that of a spline with its jumps.

Mehler's series Σ (h_k(q1) h_k(q2) − s_k(q1) s_k(q2)) ρᵏ with the coefficients h of φ
and s of the spline: the terms that fall off slowly cancel.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from sklearn_deq.theory._activations import Activation
from sklearn_deq.theory._moments import differentiate, hermite_coefficients
from sklearn_deq.theory._spline_dual import SplineDual

# Terms tried at first and at most, and the share that their last quarter may hold.
_FIRST_TERMS = 64
_MOST_TERMS = 8192
_TOLERANCE = 1e-12
_ROUNDING = 1e-16


class SplineRemainder:
    """Remainder of the dual of φ, or of φ', up to some variance.

    Parameters
    ----------
    activation : Activation
        φ.
    spline : SplineDual
        Its spline.
    largest : float
        Largest variance.
    derivative : bool
        Whether φ' takes the place of φ.

    Attributes
    ----------
    n_terms : int
        Terms of the series.
    error : float
        Share that they leave out at ρ = 1: where jumps of higher derivatives remain,
        the terms fall off like a power of their number, and the rest is of the order
        of the last quarter.
    """

    def __init__(
        self,
        activation: Activation,
        spline: SplineDual,
        largest: float,
        derivative: bool,
    ) -> None:
        self.kinks, self.spline, self.derivative = activation.kinks, spline, derivative
        self.function = activation.function
        if derivative:
            self.function = partial(differentiate, activation)
        self.n_terms = _FIRST_TERMS
        while True:
            (h, s) = self._coefficients(np.array([largest]), self.n_terms)
            rest = np.abs(h * h - s * s)[0, -self.n_terms // 4 :].sum()
            self.error = float(rest / max(float((h * h).sum()), 1e-300))
            if self.error <= _TOLERANCE or self.n_terms >= _MOST_TERMS:
                break
            self.n_terms *= 2
        self._known: dict[bytes, np.ndarray] = {}

    def __call__(
        self, q: np.ndarray, angles: np.ndarray, n_terms: int | None = None
    ) -> np.ndarray:
        """Evaluate it, shape (n, n, n_angles); by fewer terms for a rough idea."""
        n_terms = min(n_terms or self.n_terms, self.n_terms)
        key = q.tobytes() + bytes(str(n_terms), "ascii")
        if key not in self._known:
            self._known = {key: self._coefficients(q, n_terms)}
        h, s = self._known[key]
        out = np.empty((q.size, q.size, angles.size))
        for k, rho in enumerate(np.cos(angles)):
            powers = rho ** np.arange(n_terms)
            some = slice(int(np.sum(np.abs(powers) > _ROUNDING)))
            left, right = h[:, some], s[:, some]
            weights = powers[some]
            out[:, :, k] = (left * weights) @ left.T - (right * weights) @ right.T
        return out

    def _coefficients(self, q: np.ndarray, n_terms: int) -> np.ndarray:
        """Hermite coefficients of φ and of the spline, shape (2, n, n_terms)."""

        def both(u: np.ndarray) -> np.ndarray:
            values = np.asarray(self.function(u), dtype=float)
            return np.stack([values, self.spline.function(u, self.derivative)])

        return hermite_coefficients(both, self.kinks, q, n_terms)
