"""Polynomials of one number per pair of samples, evaluated on torch blocks.

A kernel that is one function of the angle is a short Chebyshev series in the angle, or
in its cosine if that is shorter. A block then costs one pass per term.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

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
# The angle is not tried where the cosine needs no more passes than this.
_SHORT = 32
# The arc cosine costs as much as this many passes.
_ANGLE_COST = 8
# Horner's rule loses digits where the coefficients are this large: Clenshaw's then.
_GROWTH = 1e3

# Cosines closer to 1 than this are 1.
_PARALLEL = 4e-15

Function = Callable[[np.ndarray], np.ndarray]


def angle_of(x: torch.Tensor) -> torch.Tensor:
    """Replace cosines by θ − π/2, in place.

    Within rounding of 1 they are 1: equal rows have equal entries, for kinked
    activations too, whose tangent kernels fall off like θ.
    """
    x = torch.threshold_(x.neg_(), _PARALLEL - 1.0, -1.0)
    return x.clamp_(max=1.0).asin_()


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


@dataclass(frozen=True)
class Orders:
    """Which orders a series has: start, start + step, …; an odd one no even ones.

    Attributes
    ----------
    start, step : int
        (0, 1), or (0, 2) and (1, 2) for even and odd functions.
    """

    start: int = 0
    step: int = 1

    @classmethod
    def of(cls, series: np.ndarray) -> Orders:
        """Orders whose coefficients, along axis 0, matter."""
        sizes = np.abs(series).reshape(len(series), -1)
        for start in (0, 1):
            if sizes[1 - start :: 2].sum() <= _TOLERANCE * sizes.max():
                return cls(start, 2)
        return cls()

    def __call__(self, series: Any) -> Any:
        """Those of a series."""
        return series[self.start :: self.step]


def _passes(series: np.ndarray) -> int:
    """Passes over a block that the series costs."""
    return len(Orders.of(series)(series))


def shorter_series(function: Function, smooth: bool) -> tuple[np.ndarray, bool] | None:
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
    None
        If neither series converges.
    """
    in_cosine = series_in(function, angle=False) if smooth else None
    if in_cosine is not None and _passes(in_cosine) <= _SHORT:
        return in_cosine, False
    in_angle = series_in(function, angle=True)
    if in_angle is None:
        return None if in_cosine is None else (in_cosine, False)
    if in_cosine is not None and (
        _passes(in_cosine) <= _passes(in_angle) + _ANGLE_COST
    ):
        return in_cosine, False
    return in_angle, True


def clenshaw(
    t: torch.Tensor,
    n_terms: int,
    reflect: Callable[[int, torch.Tensor], torch.Tensor],
    orders: Orders,
) -> torch.Tensor:
    """Σ_k c_k T_{start + k·step}(t) by Clenshaw's rule.

    Parameters
    ----------
    t : tensor
        In [−1, 1].
    n_terms : int
        Number of c_k.
    reflect : callable
        (k, x) -> c_k − x, in place.
    orders : Orders
        Start and step. In steps of two, T_{k+2} = 2 T_2 T_k − T_{k−2}.

    Returns
    -------
    tensor
        The sum, of t's shape.
    """
    x = t if orders.step == 1 else torch.addcmul(t.new_tensor(-1.0), t, t, value=2.0)
    twice = 2.0 * x
    last, before = torch.zeros_like(t), torch.zeros_like(t)
    for k in range(n_terms - 1, 0, -1):
        # before ← c_k + 2x · last − before, and swap.
        reflect(k, before).addcmul_(twice, last)
        last, before = before, last
    reflect(0, before)
    if orders.start == 0:
        return before.addcmul_(x, last)
    # T_{−1} = T_1 = t.
    return before.addcmul_(twice, last).sub_(last).mul_(t)


@dataclass(frozen=True)
class Polynomial:
    """A Chebyshev series on [−1, 1] with the rule that evaluates it.

    Attributes
    ----------
    coefficients : ndarray of shape (n_terms,) or (n_terms, k, 1, 1)
        In powers for Horner's rule, else in Chebyshev polynomials; of the orders only.
        With k of each, k polynomials of a block at once.
    orders : Orders
        Which powers or polynomials.
    horner : bool
        Which rule.
    scale : float
        What the argument is multiplied by; of Horner's rule, part of the powers.
    """

    coefficients: np.ndarray
    orders: Orders
    horner: bool
    scale: float
    _tensors: dict[Any, list[torch.Tensor]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @classmethod
    def build(cls, series: np.ndarray, angle: bool = False) -> Polynomial:
        """Choose the rule: Horner's takes half the passes, where it is accurate.

        Parameters
        ----------
        series : ndarray of shape (n_terms,)
            Chebyshev coefficients.
        angle : bool, default=False
            Whether they belong to 2θ/π − 1; the argument is then `angle_of`'s.

        Returns
        -------
        Polynomial
            The same function.
        """
        scale = 2.0 / np.pi if angle else 1.0
        orders = Orders.of(series)
        powers = chebyshev.cheb2poly(series)
        if np.abs(powers).sum() <= _GROWTH * np.abs(series).max():
            powers = powers * scale ** np.arange(len(powers))
            return cls(orders(powers), orders, True, scale)
        return cls(orders(series), orders, False, scale)

    def __call__(self, t: torch.Tensor) -> torch.Tensor:
        """Evaluate at every entry."""
        c = self._scalars(t)
        if self.horner:
            return self._horner(t, c)
        return clenshaw(
            t if self.scale == 1.0 else self.scale * t,
            len(c),
            lambda k, x: torch.sub(c[k], x, out=x),
            self.orders,
        )

    def _scalars(self, t: torch.Tensor) -> list[torch.Tensor]:
        """Coefficients as tensors, made once and not for every block."""
        key = t.dtype, t.device
        if key not in self._tensors:
            self._tensors[key] = list(torch.tensor(self.coefficients).to(t).unbind())
        return self._tensors[key]

    def _horner(self, t: torch.Tensor, c: list[torch.Tensor]) -> torch.Tensor:
        x = t if self.orders.step == 1 else t * t
        if len(c) == 1:
            value = c[0].expand(t.shape).clone()
        else:
            value = torch.addcmul(c[-2], x, c[-1])
        for coefficient in c[-3::-1]:
            torch.addcmul(coefficient, value, x, out=value)
        return value.mul_(t) if self.orders.start == 1 else value


def together(
    polynomials: Sequence[Polynomial],
) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return what evaluates several polynomials of a block, shape (k, rows, columns).

    In the same passes where Horner's rule serves for all of them.

    Parameters
    ----------
    polynomials : sequence of k Polynomial
        Of the same argument.

    Returns
    -------
    callable
        t (rows, columns) -> their values.
    """
    first = polynomials[0]
    if not all(each.horner and each.orders == first.orders for each in polynomials):
        return lambda t: torch.stack([polynomial(t) for polynomial in polynomials])
    size = max(2, *(len(each.coefficients) for each in polynomials))
    columns = np.zeros((size, len(polynomials), 1, 1))
    for column, each in zip(columns.swapaxes(0, 1), polynomials, strict=True):
        column[: len(each.coefficients), 0, 0] = each.coefficients
    return replace(first, coefficients=columns)
