"""Polynomials of one number per pair of samples, evaluated on torch blocks.

A kernel that is one function of the angle is a short Chebyshev series in the angle, or
in its cosine if that is shorter. A block then costs one pass per term.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.polynomial import chebyshev

from sklearn_deq.theory._chebyshev import (
    chebyshev_coefficients,
    chebyshev_nodes,
    last_coefficients,
)

# A series ends where the rest is below this share of its largest value. Near θ = 0
# rounding of cos θ limits what a finer grid could gain.
_TOLERANCE = 1e-13
_SIZES = (24, 48, 96, 192)
# The angle is not tried where the cosine needs no more terms than this.
_SHORT = 32
# The arc cosine costs as much as this many terms.
_ANGLE_COST = 8
# Horner's rule loses digits where the coefficients are this large: Clenshaw's then.
_GROWTH = 1e3

# Cosines closer to 1 than this are 1.
_PARALLEL = 4e-15

Function = Callable[[np.ndarray], np.ndarray]


def arc_sine(x: torch.Tensor) -> torch.Tensor:
    """Replace cosines by π/2 − θ, in place.

    Within rounding of 1 they are 1: equal rows have equal entries, for kinked
    activations too, whose tangent kernels fall off like θ.
    """
    return x.masked_fill_(x > 1.0 - _PARALLEL, 1.0).asin_()


def series_in(
    function: Function, angle: bool, sizes: tuple[int, ...] = _SIZES
) -> np.ndarray | None:
    """Chebyshev coefficients along axis 0 of a function of x in [−1, 1].

    Parameters
    ----------
    function : callable
        x (m,) -> values (m, ...).
    angle : bool
        Whether the series is in 2 arccos(x)/π − 1 instead of x.
    sizes : tuple of int
        Numbers of terms to try.

    Returns
    -------
    ndarray of shape (n_terms, ...) or None
        The coefficients, cut where the rest is negligible; None: no convergence.
    """
    for size in sizes:
        t = chebyshev_nodes(size)
        values = function(np.cos(0.5 * np.pi * (1.0 + t)) if angle else t)
        if last_coefficients(values) <= _TOLERANCE:
            coefficients = chebyshev_coefficients(values)
            return coefficients[: _needed(coefficients)]
    return None


def _needed(coefficients: np.ndarray) -> int:
    """Number of terms up to which the rest matters."""
    sizes = np.abs(coefficients).reshape(coefficients.shape[0], -1)
    rest = np.cumsum(sizes[::-1], axis=0)[::-1].max(axis=1)
    return max(1, int(np.sum(rest > _TOLERANCE * sizes.max())))


def shorter_series(function: Function, smooth: bool) -> tuple[np.ndarray, bool]:
    """Series in the cosine or in the angle, whichever is cheaper to evaluate.

    Parameters
    ----------
    function : callable
        x (m,) -> values (m, ...).
    smooth : bool
        Whether the function is smooth in the cosine: without that, only the angle is
        tried.

    Returns
    -------
    coefficients : ndarray of shape (n_terms, ...)
        Chebyshev coefficients.
    angle : bool
        Whether they belong to the angle.
    """
    in_cosine = series_in(function, angle=False) if smooth else None
    if in_cosine is not None and len(in_cosine) <= _SHORT:
        return in_cosine, False
    in_angle = series_in(function, angle=True)
    if in_angle is None and in_cosine is None:
        t = chebyshev_nodes(_SIZES[-1])
        values = function(np.cos(0.5 * np.pi * (1.0 + t)))
        return chebyshev_coefficients(values), True
    if in_angle is None or (
        in_cosine is not None and len(in_cosine) <= len(in_angle) + _ANGLE_COST
    ):
        return in_cosine, False  # type: ignore[return-value]
    return in_angle, True


@dataclass(frozen=True)
class Polynomial:
    """A Chebyshev series on [−1, 1] with the rule that evaluates it.

    Attributes
    ----------
    coefficients : ndarray of shape (n_terms,)
        In powers for Horner's rule, else in Chebyshev polynomials.
    horner : bool
        Which rule.
    scale : float
        What the argument is multiplied by; of Horner's rule, part of the powers.
    """

    coefficients: np.ndarray
    horner: bool
    scale: float

    @classmethod
    def build(cls, series: np.ndarray, angle: bool = False) -> Polynomial:
        """Choose the rule: Horner's takes half the passes, where it is accurate.

        Parameters
        ----------
        series : ndarray of shape (n_terms,)
            Chebyshev coefficients.
        angle : bool, default=False
            Whether they belong to 2θ/π − 1; the argument is then `arc_sine`'s.

        Returns
        -------
        Polynomial
            The same function.
        """
        scale = -2.0 / np.pi if angle else 1.0
        powers = chebyshev.cheb2poly(series)
        if np.abs(powers).sum() <= _GROWTH * np.abs(series).max():
            return cls(powers * scale ** np.arange(len(powers)), True, scale)
        return cls(series, False, scale)

    def __call__(self, t: torch.Tensor) -> torch.Tensor:
        """Evaluate at every entry."""
        c = [torch.tensor(v, dtype=t.dtype, device=t.device) for v in self.coefficients]
        if len(c) == 1:
            return c[0].expand(t.shape)
        if self.horner:
            value = torch.addcmul(c[-2], t, c[-1])
            for coefficient in c[-3::-1]:
                torch.addcmul(coefficient, value, t, out=value)
            return value
        t = self.scale * t
        twice = 2.0 * t
        last, before = torch.zeros_like(t), torch.zeros_like(t)
        for coefficient in c[:0:-1]:
            # before ← c + 2t · last − before, and swap.
            torch.sub(coefficient, before, out=before).addcmul_(twice, last)
            last, before = before, last
        return torch.sub(c[0], before, out=before).addcmul_(t, last)
