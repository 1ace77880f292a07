"""Logistic regression with a ridge penalty, preconditioned for correlated features."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import cholesky, qr, solve_triangular
from scipy.optimize import minimize
from scipy.special import expit

# Pairs of vectors that L-BFGS keeps.
_MEMORY = 20
# Scores held at once: rows are taken in blocks if there are more.
_MOST_SCORES = 2**24
# Largest curvature of the loss in the scores (Böhning 1992): softmax, single labels.
_CURVATURES = (0.5, 0.25)


@dataclass(frozen=True)
class LogisticFit:
    """Solution of a logistic regression.

    Attributes
    ----------
    coef : ndarray of shape (n_outputs, m)
        Coefficients.
    intercept : ndarray of shape (n_outputs,)
        Intercepts, which are not penalised.
    n_iter : int
        Iterations of L-BFGS.
    converged : bool
        Whether the gradient is within the tolerance.
    interrupted : bool
        Whether a KeyboardInterrupt ended it: the best coefficients until then.
    """

    coef: np.ndarray
    intercept: np.ndarray
    n_iter: int
    converged: bool
    interrupted: bool


def fit_logistic(
    Z: np.ndarray,
    targets: np.ndarray,
    penalty: float,
    *,
    sample_weight: np.ndarray | None = None,
    tol: float = 1e-4,
    max_iter: int = 1000,
) -> LogisticFit:
    """Minimise Σ_i w_i ℓ(W z_i + b, t_i)/n + penalty/2 ‖W‖².

    Parameters
    ----------
    Z : ndarray of shape (n, m)
        Features, float32 or float64: products with them are in their precision.
    targets : ndarray of shape (n,) or (n, n_outputs)
        Integer codes 0 … n_outputs − 1 of exclusive classes (ℓ is the cross-entropy of
        their softmax), or zeros and ones of independent labels (ℓ is the sum of their
        logistic losses); a single column is a classification into two.
    penalty : float
        Of the squared coefficients, positive.
    sample_weight : ndarray of shape (n,), default=None
        w, not negative; None: all 1.
    tol : float, default=1e-4
        Largest entry of the gradient at which it ends, in coordinates in which no
        curvature exceeds 1.
    max_iter : int, default=1000
        Iterations at most.

    Returns
    -------
    LogisticFit
        Coefficients, and how the solver fared.

    Notes
    -----
    The Hessian is at most c ZᵀZ/n + penalty, c = 1/2 (softmax) or 1/4. In coordinates
    in which this bound is the identity L-BFGS needs some hundred iterations, each of
    two products with Z, whatever the spectrum of the features.

    References
    ----------
    .. [1] Böhning (1992), "Multinomial logistic regression algorithm", Annals of the
       Institute of Statistical Mathematics 44.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_deq.linear import fit_logistic
    >>> Z = np.array([[-2.0], [-1.0], [1.0], [2.0]])
    >>> fit = fit_logistic(Z, np.array([0, 0, 1, 1]), 0.1)
    >>> (Z @ fit.coef.T + fit.intercept).argmax(axis=1)
    array([0, 0, 1, 1])
    """
    _check(Z, targets, penalty)
    weight = np.ones(len(Z)) if sample_weight is None else np.asarray(sample_weight)
    mean = np.average(Z, axis=0, weights=weight).astype(Z.dtype)
    basis = None
    if len(Z) < Z.shape[1]:
        # The coefficients lie in the span of the centred rows.
        basis, rows = qr((Z - mean).T, mode="economic", check_finite=False)
        Z, mean, shift = rows.T, np.zeros(len(Z), dtype=Z.dtype), mean
    problem = _Problem(Z, targets, penalty, weight, mean)
    theta, outcome = _minimise(problem, tol, max_iter)
    coef, intercept = problem.unpack(theta)
    if basis is not None:
        coef = coef @ basis.T
        intercept = intercept - coef @ shift
    return LogisticFit(coef, intercept, *outcome)


def _check(Z: np.ndarray, targets: np.ndarray, penalty: float) -> None:
    if Z.ndim != 2 or Z.dtype not in (np.float32, np.float64):
        raise ValueError(
            f"Z must be a matrix of floats, got shape {Z.shape} and dtype {Z.dtype}."
        )
    if targets.ndim not in (1, 2) or len(targets) != len(Z):
        raise ValueError(
            f"targets must be codes ({len(Z)},) or labels ({len(Z)}, n_outputs), got "
            f"shape {targets.shape}."
        )
    if not 0.0 < penalty < np.inf:
        raise ValueError(f"penalty must be positive and finite, got {penalty!r}.")


class _Problem:
    """The objective in coordinates (θ, β): W = θ L⁻¹, b = β/scale − W·mean.

    Parameters
    ----------
    Z : ndarray of shape (n, m)
        Features.
    targets : ndarray of shape (n,) or (n, n_outputs)
        Codes or labels.
    penalty : float
        Of the squared coefficients.
    weight : ndarray of shape (n,)
        Of the rows.
    mean : ndarray of shape (m,)
        Weighted mean of the features: around it W and b do not mix in the bound.
    """

    def __init__(
        self,
        Z: np.ndarray,
        targets: np.ndarray,
        penalty: float,
        weight: np.ndarray,
        mean: np.ndarray,
    ) -> None:
        self.Z, self.targets, self.penalty, self.mean = Z, targets, penalty, mean
        n, m = Z.shape
        self.weight = (weight / n).astype(Z.dtype)
        self.exclusive = targets.ndim == 1
        self.n_outputs = int(targets.max()) + 1 if self.exclusive else targets.shape[1]
        curvature = _CURVATURES[0] if self.exclusive else _CURVATURES[1]
        self.scale = float(np.sqrt(curvature * self.weight.sum()))
        centred = Z - mean
        bound = ((curvature * self.weight)[:, None] * centred).T @ centred
        bound = bound.astype(np.float64)
        # What rounding has taken from the smallest eigenvalues is given back.
        ridge = penalty + 4.0 * np.finfo(Z.dtype).eps * np.trace(bound)
        bound[np.diag_indices(m)] += ridge
        self.factor = cholesky(bound, lower=True, overwrite_a=True, check_finite=False)
        self.rows = max(1, _MOST_SCORES // self.n_outputs)

    def unpack(self, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Coefficients (n_outputs, m) and intercepts (n_outputs,)."""
        theta = theta.reshape(self.n_outputs, -1)
        coef = solve_triangular(
            self.factor, theta[:, :-1].T, trans="T", lower=True, check_finite=False
        ).T
        return coef, theta[:, -1] / self.scale - coef @ self.mean

    def __call__(self, theta: np.ndarray) -> tuple[float, np.ndarray]:
        """Loss and gradient."""
        coef, intercept = self.unpack(theta)
        loss = 0.5 * self.penalty * float(np.sum(coef**2))
        weights, shift = coef.T.astype(self.Z.dtype), intercept.astype(self.Z.dtype)
        slope, total = self.penalty * coef, np.zeros(self.n_outputs)
        for start in range(0, len(self.Z), self.rows):
            part = slice(start, start + self.rows)
            scores = self.Z[part] @ weights
            scores += shift
            loss += self._residuals(scores, part)
            slope += scores.T @ self.Z[part]
            total += scores.sum(axis=0, dtype=np.float64)
        slope -= np.outer(total, self.mean)
        gradient = np.empty((self.n_outputs, self.Z.shape[1] + 1))
        gradient[:, :-1] = solve_triangular(
            self.factor, slope.T, lower=True, check_finite=False
        ).T
        gradient[:, -1] = total / self.scale
        return loss, gradient.ravel()

    def _residuals(self, scores: np.ndarray, part: slice) -> float:
        """Turn scores into weighted residuals in place; return their weighted loss."""
        targets, weight = self.targets[part], self.weight[part]
        if self.exclusive:
            here = np.arange(len(targets))
            scores -= scores.max(axis=1, keepdims=True)
            losses = -scores[here, targets].astype(np.float64)
            np.exp(scores, out=scores)
            sums = scores.sum(axis=1, keepdims=True)
            losses += np.log(sums[:, 0])
            scores /= sums
            scores[here, targets] -= 1.0
        else:
            losses = np.sum(np.logaddexp(0.0, scores) - targets * scores, axis=1)
            expit(scores, out=scores)
            scores -= targets
        scores *= weight[:, None]
        return float(losses @ weight)


def _minimise(
    problem: _Problem, tol: float, max_iter: int
) -> tuple[np.ndarray, tuple[int, bool, bool]]:
    """L-BFGS from zero: coordinates; iterations, converged, interrupted."""
    theta = np.zeros(problem.n_outputs * (problem.Z.shape[1] + 1))
    best, n_iter = theta, 0

    def note(current: np.ndarray) -> None:
        nonlocal best, n_iter
        best, n_iter = current.copy(), n_iter + 1

    options = {
        "maxcor": _MEMORY,
        "maxiter": max_iter,
        "maxfun": 20 * max_iter,
        "gtol": tol,
        "ftol": 0.0,
    }
    try:
        found = minimize(
            problem, theta, jac=True, method="L-BFGS-B", callback=note, options=options
        )
    except KeyboardInterrupt:
        return best, (n_iter, False, True)
    converged = bool(np.abs(found.jac).max() <= tol)
    return found.x, (int(found.nit), converged, False)
