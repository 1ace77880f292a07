"""Nonlinear least squares from many starts at once, with exact Jacobians.

The equations of matching are few and analytic, so that NumPy's overhead is what costs:
all starts advance together, and the Jacobians are complex steps, exact to rounding.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

_STEP = 1e-30
_MOST_STEPS = 200
# Once a start has arrived, the others have this many steps left.
_PATIENCE = 6
# A start is given up when damping this strong does not lower its errors, or when this
# many steps together lower their squares by less than the share asked for.
_MOST_DAMPING = 1e8
_PROGRESS_STEPS = 8

Errors = Callable[[np.ndarray], np.ndarray]


def jacobian(errors: Errors, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Errors at the points x, and their derivatives by complex steps.

    Parameters
    ----------
    errors : callable
        Points (..., n) -> errors (..., m), analytic.
    x : ndarray of shape (s, n)
        Points.

    Returns
    -------
    values, slopes : ndarrays of shapes (s, m) and (s, m, n)
        Where they are not finite, infinite values and slopes of 0.
    """
    n = x.shape[-1]
    with np.errstate(all="ignore"):
        found = errors(x[:, None, :] + 1j * _STEP * np.eye(n))
    values = found[:, 0, :].real
    slopes = np.swapaxes(found.imag, 1, 2) / _STEP
    finite: np.ndarray = np.all(np.isfinite(found), axis=(1, 2))
    values = np.where(finite[:, None], values, np.inf)
    return values, np.where(finite[:, None, None], slopes, 0.0)


def least_squares(
    errors: Errors,
    starts: np.ndarray,
    lower: np.ndarray,
    upper: np.ndarray,
    tol: float,
    progress: float = 0.5,
) -> tuple[np.ndarray, np.ndarray]:
    """Minimise |errors|² from every start by damped Gauss–Newton steps in a box.

    The steps are the shortest ones (by the singular value decomposition), so that
    with more unknowns than equations the solution stays close to its start.

    Parameters
    ----------
    errors : callable
        As for `jacobian`.
    starts : ndarray of shape (s, n)
        Starting points.
    lower, upper : ndarrays of shape (n,)
        The box.
    tol : float
        A start whose largest error is below this has arrived.
    progress : float, default=0.5
        By which share eight steps must lower the sum of squares to go on.

    Returns
    -------
    x, values : ndarrays of shapes (s, n) and (s, m)
        Where every start ended, and the errors there.
    """
    x = np.clip(np.array(starts, dtype=float), lower, upper)
    values, slopes = jacobian(errors, x)
    cost = np.sum(values**2, axis=1)
    damping = np.full(len(x), 1e-3)
    active = np.isfinite(cost)
    left, before = _MOST_STEPS, cost.copy()
    for step in range(_MOST_STEPS):
        active &= (np.abs(values).max(axis=1) > tol) & (damping < _MOST_DAMPING)
        if step % _PROGRESS_STEPS == _PROGRESS_STEPS - 1:
            active &= cost < (1.0 - progress) * before
            before = cost.copy()
        if (np.abs(values).max(axis=1) <= tol).any():
            left = min(left, _PATIENCE)
        left -= 1
        rows = np.flatnonzero(active)
        if not rows.size or left < 0:
            break
        moved = x[rows] + _damped_step(
            slopes[rows], values[rows], damping[rows], x[rows], lower, upper
        )
        moved = np.clip(moved, lower, upper)
        new_values, new_slopes = jacobian(errors, moved)
        new_cost = np.sum(new_values**2, axis=1)
        better = new_cost < cost[rows]
        damping[rows] *= np.where(better, 0.1, 6.0)
        taken = rows[better]
        x[taken], values[taken] = moved[better], new_values[better]
        slopes[taken], cost[taken] = new_slopes[better], new_cost[better]
    return x, values


def _damped_step(
    slopes: np.ndarray,
    values: np.ndarray,
    damping: np.ndarray,
    x: np.ndarray,
    lower: np.ndarray,
    upper: np.ndarray,
) -> np.ndarray:
    """Levenberg–Marquardt steps that do not push against the walls of the box."""
    gradient = np.einsum("smn,sm->sn", slopes, values)
    held = ((x <= lower) & (gradient > 0)) | ((x >= upper) & (gradient < 0))
    free = np.where(held[:, None, :], 0.0, slopes)
    u, s, vt = np.linalg.svd(free, full_matrices=False)
    ridge = (damping[:, None] + 1e-28) * s[:, :1] ** 2 + 1e-300
    shrunk = s / (s**2 + ridge) * np.einsum("smk,sm->sk", u, values)
    return -np.einsum("skn,sk->sn", vt, shrunk)
