"""For which norms a network is matched, and samples that have others."""

from __future__ import annotations

import numpy as np

from sklearn_deq._warnings import warn
from sklearn_deq.theory import EquilibriumMoments, MatchResult, equilibrium_variance
from sklearn_deq.theory._moments import spread_moments
from sklearn_deq.theory._rows import mean_squares

# New samples have norms a little outside of those of the training rows: this share of
# the logarithm of their ratio.
_WIDER = 0.1
# And some far above, which weigh most in the kernel unless φ saturates. But the table's
# accuracy is shared among all norms: at kinks it is over 1e-6 where they differ more.
_WIDER_ABOVE = 0.5
_MOST_ABOVE = 3.0
_MOST_APART = 20.0
# Close to where a DEQ is unstable, its kernel cannot be tabulated either.
_STABLE_UP_TO = 1.5
# Where a norm is this share outside of the range kernels err by about one per cent.
_MARGIN = 0.03
# A share of the rows that is not worth a warning: there are outliers in most data.
_RARE = 0.05


def matched_norms(
    moments: EquilibriumMoments, norms: np.ndarray
) -> tuple[float, float]:
    """Range of norms that a network must serve if the training rows have these.

    Parameters
    ----------
    moments : EquilibriumMoments
        The DEQ.
    norms : ndarray
        Norms √(|x|²/p) of the training rows, or the least and the largest; zero rows
        have none.

    Returns
    -------
    low, high : float
        The range: wider by a tenth of the logarithm of their ratio on either side, and
        above by half of it, up to three times the largest and twenty times the least,
        if the states of the DEQ grow with the norm there.
    """
    norms = norms[norms > 0] if np.any(norms) else np.ones(1)
    low, high = float(norms.min()), float(norms.max())
    wider = (high / low) ** _WIDER
    above = min(
        (high / low) ** _WIDER_ABOVE, _MOST_ABOVE, _MOST_APART * low / (high * wider)
    )
    if above > wider and _grows(moments, high, above):
        return low / wider, high * above
    return low / wider, high * wider


def _grows(moments: EquilibriumMoments, norm: float, factor: float) -> bool:
    """Whether E[z²] grows as the norm at least: where φ saturates it does not.

    Nor does it where the DEQ is unstable, or would be at somewhat larger norms.
    """
    places = norm * np.array([1.0, factor, _STABLE_UP_TO * factor])
    try:
        q = equilibrium_variance(moments, places**2)
    except ValueError:
        return False
    squares = spread_moments(moments.activation, q, moments.offset).value
    return bool(squares[1] >= factor * squares[0])


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
    norms = np.sqrt(mean_squares(X))
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
    warn_of_norms(match, outside_norms(match, X), len(X), remedy)


def warn_of_norms(
    match: MatchResult, norms: np.ndarray, n_rows: int, remedy: str
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
    """
    if match.norms is None or len(norms) <= _RARE * n_rows:
        return
    low, high = match.norms
    warn(
        f"{len(norms)} of {n_rows} samples have norms √(|x|²/p) from {norms.min():.3g} "
        f"to {norms.max():.3g}, outside of those from {low:.3g} to {high:.3g} that the "
        "Hermite layer was made for: it treats them as those at the end of the range, "
        "and its kernel is not the DEQ's. Fit on data with these norms, or set "
        f"normalize=True, or {remedy}.",
    )
