"""Ridge regression on features of more rows than memory holds, by sums over blocks.

Minimises Σ_i w_i (y_i − z_i·β − b)² + α‖β‖². Of the rows the fit needs Σ w z zᵀ,
Σ w z yᵀ and the sums of weights, features and targets, which are added up block by
block, on one machine or on many.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from scipy.linalg import cho_solve

from sklearn_deq.linear._ridge import cholesky


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
    weight : ndarray of shape ()
        Σ w.
    """

    gram: np.ndarray
    moment: np.ndarray
    features: np.ndarray
    targets: np.ndarray
    weight: np.ndarray

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
        root = np.ones(len(Z))
        if sample_weight is not None:
            root = np.sqrt(sample_weight, dtype=np.float64)
        # A product of a matrix with its own transpose takes half the time.
        Z = Z * root[:, None]
        Y = Y * root[:, None]
        return cls(
            gram=Z.T @ Z,
            moment=Z.T @ Y,
            features=root @ Z,
            targets=root @ Y,
            weight=np.asarray(root @ root),
        )

    def __add__(self, other: NormalEquations) -> NormalEquations:
        """Sums over the rows of both."""
        return NormalEquations(
            **{name: getattr(self, name) + getattr(other, name) for name in SUMS}
        )

    def __sizeof__(self) -> int:
        """Bytes, by which schedulers judge what is better moved: sums, or rows."""
        arrays = sum(getattr(self, name).nbytes for name in SUMS)
        return object.__sizeof__(self) + arrays


SUMS = tuple(field.name for field in fields(NormalEquations))


def solve_normal_equations(
    sums: NormalEquations, alpha: float, *, fit_intercept: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Solve the ridge problem on features.

    Parameters
    ----------
    sums : NormalEquations
        Sums over all rows.
    alpha : float
        The penalty α.
    fit_intercept : bool, default=True
        Whether there is an intercept, which is not penalised.

    Returns
    -------
    coef : ndarray of shape (m, n_targets)
        Coefficients β.
    intercept : ndarray of shape (n_targets,)
        Intercepts b.

    Raises
    ------
    numpy.linalg.LinAlgError
        If the sums plus α are not positive definite to working precision.

    See Also
    --------
    ridge_fit : The same with a Gram matrix, for few rows.

    Notes
    -----
    The sum is centred after the fact, Σ w z zᵀ − W z̄ z̄ᵀ, which is right to about
    1e-16 W |z̄|² in each entry: penalties should be well above that.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_deq.linear import NormalEquations, solve_normal_equations
    >>> Z, y = np.array([[0.0], [1.0], [2.0]]), np.array([[1.0], [3.0], [5.0]])
    >>> sums = NormalEquations.of(Z[:2], y[:2]) + NormalEquations.of(Z[2:], y[2:])
    >>> solve_normal_equations(sums, 2.0)
    (array([[1.]]), array([2.]))
    """
    gram, moment = sums.gram.copy(), sums.moment
    mean, average = np.zeros_like(sums.features), np.zeros_like(sums.targets)
    if fit_intercept:
        mean, average = sums.features / sums.weight, sums.targets / sums.weight
        gram -= np.outer(sums.features, mean)
        moment = moment - np.outer(sums.features, average)
    coef: np.ndarray = cho_solve(cholesky(gram, alpha), moment, check_finite=False)
    return coef, average - mean @ coef
