"""Kernels between samples of two norms as power series of the cosine, Σ a_k(r, r') ρᵏ.

As `_power_series` for a single norm; only the first coefficients, which are those by
which norms differ (docs/theory.md, section 5.1).
"""

from __future__ import annotations

import numpy as np

from sklearn_deq.theory._closed_forms import HomogeneousDual
from sklearn_deq.theory._equilibrium import EquilibriumMoments, equilibrium_variance
from sklearn_deq.theory._equilibrium_kernel import moment_means
from sklearn_deq.theory._homogeneous import homogeneous_slopes
from sklearn_deq.theory._moments import hermite_coefficients
from sklearn_deq.theory._power_series import (
    DiscDual,
    HomogeneousDisc,
    SeriesDisc,
    derived,
    kernel_on_disc,
)

# The circle, and its points: aliasing is of the order of _RADIUS to their number.
_RADIUS = 0.95
_POINTS = 1024
# Terms of the series of φ: on the circle their powers are below rounding.
_HERMITE_TERMS = 512
_ROUNDING = 1e-17


def pair_power_series(
    moments: EquilibriumMoments,
    kernel: str,
    norms: np.ndarray,
    others: np.ndarray,
    n_terms: int,
) -> np.ndarray:
    """Coefficients a_k(r, r') of a DEQ's kernel for pairs of norms.

    Parameters
    ----------
    moments : EquilibriumMoments
        The DEQ; with bias or without centring too.
    kernel : {"ck", "ntk", "ntk_recurrent"}
        Which kernel.
    norms, others : ndarrays of shape (n,)
        r and r', √s_ii of the two samples of each pair, positive.
    n_terms : int
        How many, at most 256.

    Returns
    -------
    ndarray of shape (n, n_terms)
        Of the k-th power a function that is positive semidefinite in (r, r'), up to
        `pair_rounding`.
    """
    q1, q2 = (equilibrium_variance(moments, r**2) for r in (norms, others))
    mean, offset = moment_means(moments, q1) + moment_means(moments, q2), moments.offset
    root = np.sqrt(q1 * q2)[:, None]
    shift = (offset * (offset - mean))[:, None]
    slopes = homogeneous_slopes(moments.activation)
    dual: DiscDual
    if slopes is not None:
        dual = HomogeneousDisc(HomogeneousDual(slopes.right, slopes.left), root)
    else:
        dual = _pair_disc(moments, q1, q2)
    turn = np.exp(2j * np.pi * np.arange(_POINTS // 2 + 1) / _POINTS)
    square = (norms * others)[:, None]
    values, _ = kernel_on_disc(
        moments, kernel, square, root, shift, dual, _RADIUS * turn
    )
    series = np.fft.irfft(values.conj(), _POINTS)[:, :n_terms]
    return np.asarray(series / _RADIUS ** np.arange(n_terms))


def pair_rounding(n_terms: int) -> np.ndarray:
    """Error of a_k(r, r') by rounding, over √(K K'), shape (n_terms,)."""
    return np.asarray(1e-15 / _RADIUS ** np.arange(n_terms))


def _pair_disc(
    moments: EquilibriumMoments, q1: np.ndarray, q2: np.ndarray
) -> SeriesDisc:
    """Σ h_k(q_i) h_k(q_j) ρᵏ of many pairs, from the coefficients of every φ(√q ξ)."""
    phi = moments.activation
    q, places = np.unique(np.concatenate([q1, q2]), return_inverse=True)
    h = hermite_coefficients(phi.function, phi.kinks, q, _HERMITE_TERMS)
    sizes = np.abs(h).max(axis=0) * _RADIUS ** (0.5 * np.arange(_HERMITE_TERMS))
    count = 1 + int(np.flatnonzero(sizes > _ROUNDING * sizes.max())[-1])
    first, second = np.split(places, [len(q1)])
    value = (h[first] * h[second])[:, :count]
    return SeriesDisc(value, derived(value) / np.sqrt(q1 * q2)[:, None])
