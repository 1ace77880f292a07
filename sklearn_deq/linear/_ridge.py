"""Weighted kernel ridge regression with an intercept that is not penalised.

Minimises Σ_i w_i (y_i − f(x_i) − b)² + α‖f‖². With v = √w/‖√w‖, P = I − vvᵀ (P = I
without intercept) and K̃ = P W^½ K W^½ P = Q Λ Qᵀ, the eigenvectors and eigenvalues give
the solution, and what it predicts for each sample when that is left out, for every α.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_factor, cho_solve, eigh

from sklearn_deq.linear._blocks import row_blocks
from sklearn_deq.linear._single import solve_single


@dataclass(frozen=True)
class RidgeSpectrum:
    """Eigendecomposition of a weighted and centred Gram matrix K̃.

    Attributes
    ----------
    values : ndarray of shape (m,)
        Eigenvalues, not negative; m = n − 1 with an intercept, which takes the
        direction v, else n.
    vectors : ndarray of shape (n, m)
        Eigenvectors Q.
    root_weight : ndarray of shape (n,)
        √w.
    mean : ndarray of shape (n,)
        The direction v of the weighted mean; zeros without intercept.
    kernel_mean : ndarray of shape (n,)
        W^½ K W^½ v.
    """

    values: np.ndarray
    vectors: np.ndarray
    root_weight: np.ndarray
    mean: np.ndarray
    kernel_mean: np.ndarray

    def _average(self, Y: np.ndarray) -> np.ndarray:
        """Return the weighted mean of the rows of Y; zero without intercept."""
        average: np.ndarray = (self.mean * self.root_weight) @ Y
        return average / np.linalg.norm(self.root_weight)

    def _coordinates(self, Y: np.ndarray) -> np.ndarray:
        """Return Qᵀ W^½ Y, shape (m, n_targets)."""
        centred = (Y - self._average(Y)) * self.root_weight[:, None]
        coordinates: np.ndarray = self.vectors.T @ centred
        return coordinates

    def _inverse(self, alphas: np.ndarray) -> np.ndarray:
        """Return 1/(λ + α), shape (m, n_alphas)."""
        inverse: np.ndarray = 1.0 / (self.values[:, None] + np.asarray(alphas))
        return inverse


def ridge_spectrum(
    K: np.ndarray,
    sample_weight: np.ndarray | None = None,
    *,
    fit_intercept: bool = True,
) -> RidgeSpectrum:
    """Decompose a Gram matrix for ridge regression; K is overwritten.

    Parameters
    ----------
    K : ndarray of shape (n, n)
        Symmetric, positive semidefinite Gram matrix; if float64 and C-contiguous, it is
        used as workspace, so that two Gram matrices are held at the peak.
    sample_weight : ndarray of shape (n,), default=None
        Positive weights w; None: ones.
    fit_intercept : bool, default=True
        Whether there is an intercept.

    Returns
    -------
    RidgeSpectrum
        Eigenvalues, eigenvectors, and what the intercept needs.

    See Also
    --------
    leave_one_out : Predictions of samples that are left out.
    ridge_path : Coefficients.

    Notes
    -----
    With an intercept v is an eigenvector of K̃ to the eigenvalue zero. It is moved to
    the top of the spectrum, K̃ + s vvᵀ with s > λ_max, and dropped: what is left of
    1 − h_ii is a sum of positive terms, which does not cancel.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_deq.linear import ridge_spectrum
    >>> ridge_spectrum(np.diag([1.0, 2.0]), fit_intercept=False).values
    array([1., 2.])
    >>> ridge_spectrum(np.diag([1.0, 2.0])).values.round(12)
    array([1.5])
    """
    K = _square(K, np.float64)
    root = _root_weight(K, sample_weight)
    _scale(K, root)
    mean = np.zeros_like(root)
    kernel_mean = np.zeros_like(root)
    if fit_intercept:
        mean = root / np.linalg.norm(root)
        kernel_mean = K @ mean
        shift = 2.0 * np.linalg.norm(K) or 1.0
        half = kernel_mean - 0.5 * (mean @ kernel_mean + shift) * mean
        for rows in row_blocks(len(K)):
            K[rows] -= mean[rows, None] * half
            K[rows] -= half[rows, None] * mean
    # The transpose is in Fortran's order: LAPACK works in K itself.
    values, vectors = eigh(K.T, overwrite_a=True, check_finite=False, driver="evr")
    if fit_intercept:
        values, vectors = values[:-1], vectors[:, :-1]
    return RidgeSpectrum(np.maximum(values, 0.0), vectors, root, mean, kernel_mean)


def leave_one_out(
    spectrum: RidgeSpectrum, Y: np.ndarray, alphas: np.ndarray
) -> np.ndarray:
    """Predict every sample from all the others, for every penalty.

    Parameters
    ----------
    spectrum : RidgeSpectrum
        From `ridge_spectrum`.
    Y : ndarray of shape (n, n_targets)
        Targets.
    alphas : array-like of shape (n_alphas,)
        Positive penalties.

    Returns
    -------
    ndarray of shape (n_alphas, n, n_targets)
        Predictions, equal to those of n refits, each with its own intercept.

    See Also
    --------
    ridge_path : The fits to all samples.

    Notes
    -----
    The residual of a sample that is left out is that of the fit to all samples over
    1 − h_ii, or [Q (Λ + α)⁻¹ Qᵀ W^½ y]_i / (√w_i Σ_k Q_ik²/(λ_k + α)) [1]_. A sample of
    weight k is left out as a whole, as are k copies of it held out together. O(n²) for
    each penalty and target.

    References
    ----------
    .. [1] Cook & Weisberg (1982), "Residuals and Influence in Regression", section 2.2.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_deq.linear import leave_one_out, ridge_spectrum
    >>> y = np.array([[1.0], [2.0], [6.0]])
    >>> leave_one_out(ridge_spectrum(np.zeros((3, 3))), y, [1.0])[0].ravel()
    array([4. , 3.5, 1.5])
    """
    coordinates, inverse = spectrum._coordinates(Y), spectrum._inverse(alphas)
    vectors, root = spectrum.vectors, spectrum.root_weight[:, None]
    rest = np.empty((len(vectors), inverse.shape[1]))
    for rows in row_blocks(len(vectors)):
        rest[rows] = np.square(vectors[rows]) @ inverse
    out = np.empty((inverse.shape[1], *Y.shape))
    for predicted, scale, denominator in zip(out, inverse.T, rest.T, strict=True):
        residual = vectors @ (coordinates * scale[:, None])
        predicted[:] = Y - residual / (denominator[:, None] * root)
    return out


def ridge_path(
    spectrum: RidgeSpectrum, Y: np.ndarray, alphas: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Solve the ridge problem for every penalty.

    Parameters
    ----------
    spectrum : RidgeSpectrum
        From `ridge_spectrum`.
    Y : ndarray of shape (n, n_targets)
        Targets.
    alphas : array-like of shape (n_alphas,)
        Positive penalties.

    Returns
    -------
    dual : ndarray of shape (n_alphas, n, n_targets)
        Coefficients: f(x) = Σ_i K(x, x_i) dual_i.
    intercept : ndarray of shape (n_alphas, n_targets)
        Intercepts b.

    See Also
    --------
    ridge_fit : One penalty, by Cholesky's decomposition.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_deq.linear import ridge_path, ridge_spectrum
    >>> spectrum = ridge_spectrum(np.eye(2), fit_intercept=False)
    >>> dual, intercept = ridge_path(spectrum, np.array([[2.0], [4.0]]), [1.0, 3.0])
    >>> dual[..., 0]
    array([[1. , 2. ],
           [0.5, 1. ]])
    """
    coordinates, inverse = spectrum._coordinates(Y), spectrum._inverse(alphas)
    root, norm = spectrum.root_weight, np.linalg.norm(spectrum.root_weight)
    dual = np.empty((inverse.shape[1], *Y.shape))
    intercept = np.empty((inverse.shape[1], Y.shape[1]))
    for a, scale in enumerate(inverse.T):
        scaled = spectrum.vectors @ (coordinates * scale[:, None])
        dual[a] = root[:, None] * scaled
        intercept[a] = spectrum._average(Y) - spectrum.kernel_mean @ scaled / norm
    return dual, intercept


def ridge_fit(
    K: np.ndarray,
    Y: np.ndarray,
    alpha: float,
    sample_weight: np.ndarray | None = None,
    *,
    fit_intercept: bool = True,
) -> tuple[np.ndarray, np.ndarray]:
    """Solve the ridge problem for one penalty; K is overwritten.

    Parameters
    ----------
    K : ndarray of shape (n, n)
        Gram matrix, as in `ridge_spectrum`, of which one is held. If it is float32 so
        is the decomposition, and conjugate gradients make up for its rounding.
    Y : ndarray of shape (n, n_targets)
        Targets.
    alpha : float
        The penalty α.
    sample_weight : ndarray of shape (n,), default=None
        Positive weights w; None: ones.
    fit_intercept : bool, default=True
        Whether there is an intercept.

    Returns
    -------
    dual : ndarray of shape (n, n_targets)
        Coefficients: f(x) = Σ_i K(x, x_i) dual_i.
    intercept : ndarray of shape (n_targets,)
        Intercepts b.

    Raises
    ------
    numpy.linalg.LinAlgError
        If K + α/w is not positive definite to working precision.

    See Also
    --------
    ridge_path : All penalties at once.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_deq.linear import ridge_fit
    >>> ridge_fit(np.eye(2), np.array([[2.0], [4.0]]), 1.0)
    (array([[-0.5],
           [ 0.5]]), array([3.]))
    """
    K = _square(K, np.float32 if K.dtype == np.float32 else np.float64)
    root = _root_weight(K, sample_weight)
    if not fit_intercept:
        scaled = _solve(K, root, alpha, root[:, None] * Y)
        return root[:, None] * scaled, np.zeros(Y.shape[1])
    average = np.average(Y, axis=0, weights=root**2)
    sides = np.column_stack([root[:, None] * (Y - average), root])
    solved = _solve(K, root, alpha, sides)
    shift = root @ solved[:, :-1] / (root @ solved[:, -1])
    scaled = solved[:, :-1] - solved[:, -1:] * shift
    return root[:, None] * scaled, average + shift


def _solve(K: np.ndarray, root: np.ndarray, alpha: float, B: np.ndarray) -> np.ndarray:
    """Solve (W^½ K W^½ + α) x = B; K is overwritten."""
    if K.dtype == np.float32:
        return solve_single(K, root, alpha, B)
    _scale(K, root)
    solution: np.ndarray = cho_solve(cholesky(K, alpha), B, check_finite=False)
    return solution


def cholesky(K: np.ndarray, alpha: float) -> tuple[np.ndarray, bool]:
    """Factor K + α in place; no pivot may be what rounding has left of it.

    Parameters
    ----------
    K : ndarray of shape (n, n)
        Symmetric, of float64 and C-contiguous; it is overwritten.
    alpha : float
        Positive number.

    Returns
    -------
    tuple
        What `scipy.linalg.cho_solve` takes.

    Raises
    ------
    numpy.linalg.LinAlgError
        If K + α is not positive definite to working precision.
    """
    K.flat[:: len(K) + 1] += alpha
    noise = len(K) * np.finfo(K.dtype).eps * K.diagonal().max()
    try:
        factor, lower = cho_factor(K.T, True, overwrite_a=True, check_finite=False)
        definite = factor.diagonal().min() ** 2 > noise
    except np.linalg.LinAlgError:
        definite = False
    if not definite:
        raise np.linalg.LinAlgError(
            f"The kernel matrix with alpha={alpha:.4g} on its diagonal is singular to "
            f"working precision: raise alpha, above {noise:.1g} at least."
        )
    return factor, lower


def _square(K: np.ndarray, dtype: type) -> np.ndarray:
    """Return K in C's order, itself where it can be, or raise a ValueError."""
    K = np.ascontiguousarray(K, dtype=dtype)
    if K.ndim != 2 or K.shape[0] != K.shape[1]:
        raise ValueError(f"K must be a square matrix, got shape {K.shape}.")
    return K


def _root_weight(K: np.ndarray, sample_weight: np.ndarray | None) -> np.ndarray:
    """√w, ones without weights."""
    if sample_weight is None:
        return np.ones(len(K))
    weight = np.asarray(sample_weight, dtype=np.float64)
    if weight.shape != (len(K),) or not (np.isfinite(weight) & (weight > 0)).all():
        raise ValueError(
            "sample_weight must be positive numbers, one for each row of K: leave out "
            "rows of zero weight."
        )
    return np.sqrt(weight)


def _scale(K: np.ndarray, root: np.ndarray) -> None:
    """Make K W^½ K W^½."""
    if (root != 1.0).any():
        K *= root
        K *= root[:, None]
