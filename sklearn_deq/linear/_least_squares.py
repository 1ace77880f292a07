"""Ridge regression on features, by the smaller of its two systems of equations."""

from __future__ import annotations

import numpy as np
from scipy.linalg import cho_factor, cho_solve

# Share of the trace that is added to the penalty: far above what rounding may take
# from the smallest eigenvalues, so that directions without features get nothing.
_LEAST = 1e-12


def fit_ridge(
    Z: np.ndarray, Y: np.ndarray, penalty: float
) -> tuple[np.ndarray, np.ndarray]:
    """Minimise ‖Y − Z Wᵀ − b‖²/n + penalty ‖W‖².

    Parameters
    ----------
    Z : ndarray of shape (n, m)
        Features.
    Y : ndarray of shape (n, n_targets)
        Targets.
    penalty : float
        Of the squared coefficients, not negative; of equal minimisers the one that it
        tends to as it vanishes is found.

    Returns
    -------
    coef : ndarray of shape (n_targets, m)
        The coefficients W.
    intercept : ndarray of shape (n_targets,)
        The intercept b, which is not penalised.

    Raises
    ------
    ValueError
        If shapes do not fit, or the penalty is negative.

    Notes
    -----
    In float64 whatever the features are: the equations square their condition. The cost
    is that of the Gram matrix of the rows or of the columns, whichever is smaller.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_deq.linear import fit_ridge
    >>> Z = np.array([[0.0], [1.0], [2.0]])
    >>> coef, intercept = fit_ridge(Z, 3.0 * Z + 1.0, 0.0)
    >>> coef.round(6).tolist(), intercept.round(6).tolist()
    ([[3.0]], [1.0])
    """
    if Z.ndim != 2 or Y.ndim != 2 or len(Z) != len(Y) or not penalty >= 0.0:
        raise ValueError(
            "Z and Y must be matrices with as many rows and penalty not negative, got "
            f"shapes {Z.shape} and {Y.shape} and penalty {penalty!r}."
        )
    n, m = Z.shape
    mean, target = Z.mean(axis=0, dtype=np.float64), Y.mean(axis=0, dtype=np.float64)
    rows, targets = Z - mean, Y - target
    gram = rows @ rows.T if n < m else rows.T @ rows
    least = _LEAST * np.trace(gram)
    gram[np.diag_indices(len(gram))] += n * penalty + (least or 1.0)
    factor = cho_factor(gram, lower=True, overwrite_a=True, check_finite=False)
    if n < m:
        coef = cho_solve(factor, targets, check_finite=False).T @ rows
    else:
        coef = cho_solve(factor, rows.T @ targets, check_finite=False).T
    return coef, target - coef @ mean
