"""Logistic regression with a ridge penalty, preconditioned for correlated features."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from scipy.linalg import cholesky, qr, solve_triangular
from scipy.optimize import minimize
from scipy.special import expit, softmax

from sklearn_deq.linear._threads import one_blas_thread

# Pairs of vectors that L-BFGS keeps.
_MEMORY = 20
# Scores held at once: rows are taken in blocks if there are more.
_MOST_SCORES = 2**24
# Iterations before the coordinates are adapted, and the least that a row counts then.
_FIRST_ITERATIONS = 10
_LEAST_CURVATURE = 1e-6
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
    tol: float = 2e-4,
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
    tol : float, default=2e-4
        Largest entry of the gradient at which it ends, in coordinates in which the
        curvature is about 1: probabilities are then within some 3e-4 of the optimum's,
        which is what products in float32 allow.
    max_iter : int, default=1000
        Iterations at most.

    Returns
    -------
    LogisticFit
        Coefficients, and how the solver fared.

    Notes
    -----
    The Hessian is at most c ZᵀZ/n + penalty, c = 1/2 (softmax) or 1/4. In coordinates
    in which this bound is the identity, and later the Hessian at an early iterate
    averaged over the outputs, L-BFGS needs some fifty iterations, each of two products
    with Z, whatever the spectrum of the features.

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
    basis = None
    if len(Z) < Z.shape[1]:
        # The coefficients lie in the span of the centred rows.
        shift = np.average(Z, axis=0, weights=weight).astype(Z.dtype)
        basis, rows = qr((Z - shift).T, mode="economic", check_finite=False)
        Z = rows.T
    fit = _solve(_Problem(Z, targets, penalty, weight), tol, max_iter)
    if basis is None:
        return fit
    coef = fit.coef @ basis.T
    return replace(fit, coef=coef, intercept=fit.intercept - coef @ shift)


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
    """

    def __init__(
        self, Z: np.ndarray, targets: np.ndarray, penalty: float, weight: np.ndarray
    ) -> None:
        self.Z, self.targets, self.penalty = Z, targets, penalty
        self.weight = (weight / len(Z)).astype(Z.dtype)
        self.exclusive = targets.ndim == 1
        self.n_outputs = int(targets.max()) + 1 if self.exclusive else targets.shape[1]
        self.rows = max(1, _MOST_SCORES // self.n_outputs)
        bound = _CURVATURES[0] if self.exclusive else _CURVATURES[1]
        self._precondition(bound * self.weight)

    def _precondition(self, curvature: np.ndarray) -> None:
        """Take coordinates in which Σ_i curvature_i z_i z_iᵀ + penalty is one.

        Around the mean with these weights W and b do not mix in it.
        """
        self.scale = float(np.sqrt(curvature.sum()))
        self.mean = (curvature @ self.Z) / curvature.sum()
        centred = self.Z - self.mean
        centred *= np.sqrt(curvature)[:, None]
        hessian = (centred.T @ centred).astype(np.float64)
        # What rounding has taken from the smallest eigenvalues is given back.
        ridge = self.penalty + 4.0 * np.finfo(self.Z.dtype).eps * np.trace(hessian)
        hessian[np.diag_indices(len(hessian))] += ridge
        self.factor = cholesky(
            hessian, lower=True, overwrite_a=True, check_finite=False
        )

    def adapt(self, theta: np.ndarray) -> np.ndarray:
        """Take the curvature at θ in place of its bound; the same point there."""
        coef, intercept = self.unpack(theta)
        curvature = np.empty_like(self.weight)
        for part in self._parts():
            scores = self._scores(coef, intercept, part)
            if self.exclusive:
                scores = softmax(scores, axis=1)
            else:
                expit(scores, out=scores)
            scores *= 1.0 - scores
            curvature[part] = self.weight[part] * scores.mean(axis=1)
        # Rows that are certain still count a little.
        self._precondition(curvature + _LEAST_CURVATURE * self.weight)
        shifted = (intercept + coef @ self.mean) * self.scale
        return np.column_stack([coef @ self.factor, shifted]).ravel()

    def _parts(self) -> Iterator[slice]:
        for start in range(0, len(self.Z), self.rows):
            yield slice(start, start + self.rows)

    def _scores(
        self, coef: np.ndarray, intercept: np.ndarray, part: slice
    ) -> np.ndarray:
        scores: np.ndarray = self.Z[part] @ coef.T.astype(self.Z.dtype)
        scores += intercept.astype(self.Z.dtype)
        return scores

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
        slope, total = self.penalty * coef, np.zeros(self.n_outputs)
        for part in self._parts():
            scores = self._scores(coef, intercept, part)
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


def _solve(problem: _Problem, tol: float, max_iter: int) -> LogisticFit:
    """L-BFGS from zero; coordinates are adapted to where the first steps have led."""
    latest = np.zeros(problem.n_outputs * (problem.Z.shape[1] + 1))
    n_iter, converged = 0, False

    def note(theta: np.ndarray) -> None:
        nonlocal latest, n_iter
        latest, n_iter = theta.copy(), n_iter + 1

    def descend(limit: int) -> None:
        nonlocal latest, converged
        options = {"maxcor": _MEMORY, "maxiter": limit, "maxfun": 20 * limit}
        found = minimize(
            problem,
            latest,
            jac=True,
            method="L-BFGS-B",
            callback=note,
            options=options | {"gtol": tol, "ftol": 0.0},
        )
        latest, converged = found.x, bool(np.abs(found.jac).max() <= tol)

    try:
        # Products with a few columns are as fast as the memory, and threads that wait
        # for each other in hundreds of them cost far more than they bring.
        with one_blas_thread():
            descend(min(_FIRST_ITERATIONS, max_iter))
            if not converged and max_iter > _FIRST_ITERATIONS:
                latest = problem.adapt(latest)
                descend(max_iter - _FIRST_ITERATIONS)
    except KeyboardInterrupt:
        return LogisticFit(*problem.unpack(latest), n_iter, False, True)
    return LogisticFit(*problem.unpack(latest), n_iter, converged, False)
