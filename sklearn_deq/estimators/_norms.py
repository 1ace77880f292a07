"""Samples whose norms are not those that a matched network was made for."""

from __future__ import annotations

import warnings

import numpy as np

from sklearn_deq.theory import MatchResult

# Where a norm is this share outside of the range kernels err by about one per cent.
_MARGIN = 0.03
# A share of the rows that is not worth a warning: there are outliers in most data.
_RARE = 0.05


def outside_norms(match: MatchResult, X: np.ndarray) -> np.ndarray:
    """Norms √(|x|²/p) of rows that are outside of a match's range.

    Parameters
    ----------
    match : MatchResult
        The network; one that is made for any norms has none outside.
    X : ndarray of shape (n, n_features)
        Rows as the network sees them; zero rows have no norm.

    Returns
    -------
    ndarray
        The norms, by more than three per cent below or above.
    """
    if match.norms is None:
        return np.empty(0)
    low, high = match.norms
    norms = np.sqrt(np.einsum("ij,ij->i", X, X) / X.shape[1])
    below = (norms > 0) & (norms < low * (1.0 - _MARGIN))
    return np.asarray(norms[below | (norms > high * (1.0 + _MARGIN))])


def warn_outside(match: MatchResult, X: np.ndarray, remedy: str) -> None:
    """Warn of rows for which a network was not made, if they are not a few outliers.

    Parameters
    ----------
    match, X
        As in `outside_norms`.
    remedy : str
        What else can be done than to fit on such rows or to normalise.
    """
    warn_of_norms(match, outside_norms(match, X), len(X), remedy, stacklevel=6)


def warn_of_norms(
    match: MatchResult, norms: np.ndarray, n_rows: int, remedy: str, stacklevel: int = 5
) -> None:
    """Do so where the norms outside have been collected.

    Parameters
    ----------
    match : MatchResult
        The network.
    norms : ndarray
        Norms outside of its range.
    n_rows : int
        Of how many rows they are.
    remedy : str
        As in `warn_outside`.
    stacklevel : int, default=5
        Of the warning.
    """
    if match.norms is None or len(norms) <= _RARE * n_rows:
        return
    low, high = match.norms
    warnings.warn(
        f"{len(norms)} of {n_rows} samples have norms √(|x|²/p) from {norms.min():.3g} "
        f"to {norms.max():.3g}, outside of those from {low:.3g} to {high:.3g} that the "
        "Hermite layer was made for: it treats them as those at the end of the range, "
        "and its kernel is not the DEQ's. Fit on data with these norms, or set "
        f"normalize=True, or {remedy}.",
        UserWarning,
        stacklevel=stacklevel,
    )
