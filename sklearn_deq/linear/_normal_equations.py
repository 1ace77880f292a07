"""Ridge regression on features of more rows than memory holds, by sums over blocks.

Minimises Σ_i w_i (y_i − z_i·β − b)² + α‖β‖². Of the rows the fit needs Σ w z zᵀ,
Σ w z yᵀ and the sums of weights, features and targets, which are added up block by
block, on one machine or on many. One eigendecomposition of the centred sum serves all
α, and a second pass gives what each row is predicted when it is left out.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from scipy.linalg import eigh


@dataclass(frozen=True)
class NormalEquations:
    """Sums over rows; those of two sets of rows add up to those of both.

    Attributes
    ----------
    gram : ndarray of shape (m, m)
        Σ w z zᵀ.
    moment : ndarray of shape (m, n_targets)
        Σ w z yᵀ.
    features, targets : ndarrays of shapes (m,) and (n_targets,)
        Σ w z and Σ w y.
    weight : float
        Σ w.
    n_rows : int
        Number of rows.
    """

    gram: np.ndarray
    moment: np.ndarray
    features: np.ndarray
    targets: np.ndarray
    weight: float
    n_rows: int

    @classmethod
    def of(
        cls, Z: np.ndarray, Y: np.ndarray, sample_weight: np.ndarray | None = None
    ) -> NormalEquations:
        """Sums over one block of rows, in float64.

        Parameters
        ----------
        Z : ndarray of shape (n, m)
            Features.
        Y : ndarray of shape (n, n_targets)
            Targets.
        sample_weight : ndarray of shape (n,), default=None
            Weights w, not negative; None: ones.

        Returns
        -------
        NormalEquations
            The sums.
        """
        Z, Y = Z.astype(np.float64, copy=False), Y.astype(np.float64, copy=False)
        weighted, weight = Z, np.ones(len(Z))
        if sample_weight is not None:
            weight = np.asarray(sample_weight, dtype=np.float64)
            weighted = Z * weight[:, None]
        return cls(
            gram=weighted.T @ Z,
            moment=weighted.T @ Y,
            features=weighted.sum(axis=0),
            targets=weight @ Y,
            weight=float(weight.sum()),
            n_rows=len(Z),
        )

    def __add__(self, other: NormalEquations) -> NormalEquations:
        """Sums over the rows of both."""
        return NormalEquations(
            **{f.name: getattr(self, f.name) + getattr(other, f.name) for f in _FIELDS}
        )

    def __radd__(self, other: int) -> NormalEquations:
        """Return self for 0, with which `sum` begins."""
        if other != 0:
            return NotImplemented
        return self


_FIELDS = fields(NormalEquations)


@dataclass(frozen=True)
class FeatureRidge:
    """Ridge regressions on features, for all penalties.

    Attributes
    ----------
    coef : ndarray of shape (n_alphas, m, n_targets)
        β for every penalty.
    intercept : ndarray of shape (n_alphas, n_targets)
        b.
    alphas : ndarray of shape (n_alphas,)
        Penalties.
    """

    coef: np.ndarray
    intercept: np.ndarray
    alphas: np.ndarray
    _values: np.ndarray
    _vectors: np.ndarray
    _mean: np.ndarray
    _mean_weight: float

    def leave_one_out(
        self, Z: np.ndarray, Y: np.ndarray, sample_weight: np.ndarray | None = None
    ) -> np.ndarray:
        """Predict rows of the fit, each from all the others.

        Parameters
        ----------
        Z : ndarray of shape (n, m)
            Features of some rows of those that were summed.
        Y : ndarray of shape (n, n_targets)
            Their targets.
        sample_weight : ndarray of shape (n,), default=None
            Their weights; None: ones.

        Returns
        -------
        ndarray of shape (n_alphas, n, n_targets)
            Predictions, as of refits without the row, each with its own intercept.
        """
        Z = Z.astype(np.float64, copy=False)
        weight = np.ones(len(Z)) if sample_weight is None else sample_weight
        squares = np.square((Z - self._mean) @ self._vectors)
        leverage = squares @ (1.0 / (self._values[:, None] + self.alphas))
        leverage = (leverage + self._mean_weight) * weight[:, None]
        out = np.empty((len(self.alphas), *Y.shape))
        for a, predicted in enumerate(out):
            fitted = Z @ self.coef[a] + self.intercept[a]
            rest = np.maximum(1.0 - leverage[:, a, None], _LEAST_REST)
            predicted[:] = Y - (Y - fitted) / rest
        return out


# Of 1 − h_ii: below this a row decides its own prediction, and the rest is rounding.
_LEAST_REST = 1e-12


def feature_ridge(
    sums: NormalEquations, alphas: np.ndarray, *, fit_intercept: bool = True
) -> FeatureRidge:
    """Solve the ridge problem on features for every penalty.

    Parameters
    ----------
    sums : NormalEquations
        Sums over all rows.
    alphas : array-like of shape (n_alphas,)
        Positive penalties.
    fit_intercept : bool, default=True
        Whether there is an intercept, which is not penalised.

    Returns
    -------
    FeatureRidge
        Coefficients, and what leave-one-out predictions need.

    See Also
    --------
    ridge_path : The same with a Gram matrix, for few rows.

    Notes
    -----
    The sum is centred after the fact, Σ w z zᵀ − W z̄ z̄ᵀ, which is right to about
    1e-16 W |z̄|² in each entry: penalties should be well above that.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_deq.linear import NormalEquations, feature_ridge
    >>> Z, y = np.array([[0.0], [1.0], [2.0]]), np.array([[1.0], [3.0], [5.0]])
    >>> sums = NormalEquations.of(Z[:2], y[:2]) + NormalEquations.of(Z[2:], y[2:])
    >>> feature_ridge(sums, [2.0]).coef.ravel()
    array([1.])
    """
    alphas = np.asarray(alphas, dtype=np.float64)
    gram, moment = sums.gram, sums.moment
    mean, average = np.zeros_like(sums.features), np.zeros_like(sums.targets)
    if fit_intercept:
        mean, average = sums.features / sums.weight, sums.targets / sums.weight
        gram = gram - np.outer(sums.features, mean)
        moment = moment - np.outer(sums.features, average)
    values, vectors = eigh(gram, check_finite=False)
    values = np.maximum(values, 0.0)
    projected = vectors.T @ moment
    coef = np.stack([vectors @ (projected / (values + a)[:, None]) for a in alphas])
    return FeatureRidge(
        coef=coef,
        intercept=average - mean @ coef,
        alphas=alphas,
        _values=values,
        _vectors=vectors,
        _mean=mean,
        _mean_weight=1.0 / sums.weight if fit_intercept else 0.0,
    )
