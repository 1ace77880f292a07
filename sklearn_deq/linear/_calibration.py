"""Probabilities from decision values of samples that were held out."""

from __future__ import annotations

import numpy as np
from scipy.optimize import brentq, minimize
from scipy.special import expit, log_expit, log_softmax, softmax, xlogy

# Largest and least slope of the probabilities, relative to the decision values.
_STEEPEST, _FLATTEST = 1e4, 1e-4
# Classes up to which all their values decide on each: the coefficients are a square.
_MOST_CLASSES = 1000


def class_probabilities(values: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Softmax of the decision values times a temperature.

    Parameters
    ----------
    values : ndarray of shape (n,) or (n, n_classes)
        Decision values; of the second class, if one-dimensional.
    temperature : float, default=1.0
        Positive factor of the values.

    Returns
    -------
    ndarray of shape (n, n_classes)
        Probabilities, ordered as the values.

    See Also
    --------
    fit_temperature : The factor that fits data.
    fit_calibration : Log odds that fit data.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_deq.linear import class_probabilities
    >>> class_probabilities(np.array([0.0, np.log(3.0)]), 1.0)
    array([[0.5 , 0.5 ],
           [0.25, 0.75]])
    """
    scores = temperature * values
    if values.ndim == 1:
        return np.column_stack([expit(-scores), expit(scores)])
    probabilities: np.ndarray = softmax(scores, axis=1)
    return probabilities


def class_log_probabilities(values: np.ndarray) -> np.ndarray:
    """Compute logarithms of `class_probabilities`, also of what rounds to 0 or 1.

    Parameters
    ----------
    values : ndarray of shape (n,) or (n, n_classes)
        Decision values; of the second class, if one-dimensional.

    Returns
    -------
    ndarray of shape (n, n_classes)
        Natural logarithms, ordered as the values.

    See Also
    --------
    class_probabilities : The probabilities themselves.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_deq.linear import class_log_probabilities
    >>> class_log_probabilities(np.array([[800.0, 0.0]]))
    array([[   0., -800.]])
    """
    if values.ndim == 1:
        return np.column_stack([log_expit(-values), log_expit(values)])
    logarithms: np.ndarray = log_softmax(values, axis=1)
    return logarithms


def fit_temperature(
    values: np.ndarray, codes: np.ndarray, sample_weight: np.ndarray | None = None
) -> float:
    """Fit the temperature of `class_probabilities` by the least log loss.

    Parameters
    ----------
    values : ndarray of shape (n,) or (n, n_classes)
        Decision values of samples that the classifier was not fitted to.
    codes : ndarray of shape (n,)
        Their classes, as indices.
    sample_weight : ndarray of shape (n,), default=None
        Weights of the samples; None: ones.

    Returns
    -------
    float
        Positive factor of the values.

    See Also
    --------
    class_probabilities : What it is used for.

    Notes
    -----
    The loss is convex in the factor. Labels are smoothed as Platt [1]_ does, with N_k
    the weight of class k: (N_k + 1)/(N_k + 2) for the class of the sample, the others
    share the rest. The optimum is finite even where the values separate the classes;
    where they are worse than chance it is a small positive bound.

    References
    ----------
    .. [1] Platt (1999), "Probabilistic Outputs for Support Vector Machines".

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_deq.linear import fit_temperature
    >>> values = np.array([-1.0, 1.0, 1.0, -1.0, 1.0, -1.0])
    >>> round(fit_temperature(values, np.array([0, 1, 1, 0, 0, 1])), 3)
    0.405
    """
    scores = _columns(values)
    scores = scores - scores.mean(axis=1, keepdims=True)
    weight = np.ones(len(codes)) if sample_weight is None else sample_weight
    targets = _smoothed_targets(codes, weight, scores.shape[1])
    size = np.abs(scores).max()
    if size == 0.0:
        return 1.0
    scores = scores / size

    def slope(log_factor: float) -> float:
        """Derivative of the loss with respect to the factor."""
        excess = softmax(np.exp(log_factor) * scores, axis=1) - targets
        return float(weight @ np.sum(excess * scores, axis=1))

    low, high = np.log(_FLATTEST), np.log(_STEEPEST)
    if slope(low) >= 0:
        return float(_FLATTEST / size)
    if slope(high) <= 0:
        return float(_STEEPEST / size)
    return float(np.exp(brentq(slope, low, high, xtol=1e-13)) / size)


def fit_calibration(
    values: np.ndarray,
    codes: np.ndarray,
    sample_weight: np.ndarray | None = None,
    *,
    penalty: float = 30.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Fit log odds that are linear in the decision values, near a common factor.

    Parameters
    ----------
    values : ndarray of shape (n,) or (n, n_classes)
        Decision values of samples that the classifier was not fitted to, of size 1.
    codes : ndarray of shape (n,)
        Their classes, as indices.
    sample_weight : ndarray of shape (n,), default=None
        Weights of the samples; None: ones.
    penalty : float, default=30.0
        λ: deviations from a common factor are of size λ^(−1/2) a priori.

    Returns
    -------
    coef : ndarray of shape () or (n_classes, n_classes)
        Coefficients M.
    intercept : ndarray of shape () or (n_classes,)
        Intercepts b: the probabilities are those of ``values @ M + b``, for one column
        of ``values * M + b``.

    See Also
    --------
    class_probabilities : What log odds are turned into.
    fit_temperature : The common factor alone.

    Notes
    -----
    Minimises Σ_i w_i ℓ(Mᵀz_i + b, t_i) + λ/2 (‖M − βI‖² + ‖b‖²) over β > 0, M and b, ℓ
    the cross-entropy of the softmax. A class can be told by what is said of others,
    which one against the rest cannot see, and a rare one is not lost to larger
    neighbours. Labels are smoothed as in `fit_temperature`. With more than 1,000
    classes M = βI.

    Decisions are not turned around, as values of held-out samples ask for that are
    worse than chance (those of leave-one-out are, where there is nothing to learn: they
    fall with the share of the sample's own class). Where vᵀMv is not positive for a
    direction v of mean 0, an eigenvector, log odds along it follow the values along it
    alone, and by the least factor; b is fitted anew then, and not penalised, so that
    the shares of the classes are kept.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_deq.linear import fit_calibration
    >>> values = np.array([-1.0, -0.8, 0.1, -0.1, 1.0, 0.4])
    >>> coef, intercept = fit_calibration(values, np.array([0, 0, 0, 1, 1, 1]))
    >>> round(float(coef), 2), abs(float(intercept)) < 0.1
    (1.47, True)
    """
    scores = _columns(values)
    weight = np.ones(len(codes)) if sample_weight is None else sample_weight
    factor = fit_temperature(values, codes, weight)
    coef, intercept = _penalised_fit(scores, codes, weight, factor, penalty)
    least = _FLATTEST / (np.abs(scores).max() or 1.0)
    wrong = _wrong_directions(coef, least)
    if wrong.shape[1]:
        rest = np.eye(len(coef)) - wrong @ wrong.T
        coef = rest @ coef @ rest
        # It went with the coefficients that are gone. Where none are left it is that of
        # the shares of the classes: 0 of equal ones, so that the least slopes decide.
        intercept = _fit_intercept(scores @ coef, codes, weight)
        coef += least * wrong @ wrong.T
    if values.ndim == 1:
        signs = np.array([-1.0, 1.0])
        return 0.5 * signs @ coef @ signs, signs @ intercept
    return coef, intercept


def _penalised_fit(
    scores: np.ndarray,
    codes: np.ndarray,
    weight: np.ndarray,
    factor: float,
    penalty: float,
) -> tuple[np.ndarray, np.ndarray]:
    """M and b of the least penalised loss, from M = factor · I on."""
    n_classes = scores.shape[1]
    targets = _smoothed_targets(codes, weight, n_classes)
    entropy = -float(weight @ xlogy(targets, targets).sum(axis=1))
    mixes = n_classes <= _MOST_CLASSES

    def loss(x: np.ndarray) -> tuple[float, np.ndarray]:
        """Penalised loss, less that of the best probabilities, and its gradient."""
        value, slopes = _cross_entropy(x, scores, targets, weight)
        slopes[1:] += penalty * x[1:]
        return value - entropy + 0.5 * penalty * float(x[1:] @ x[1:]), slopes

    start = np.zeros(1 + n_classes + mixes * n_classes**2)
    start[0] = factor
    size = np.abs(scores).max() or 1.0
    bounds = [(_FLATTEST / size, _STEEPEST / size)] + [(None, None)] * (len(start) - 1)
    options = {"maxiter": 1000, "maxfun": 2000, "ftol": 1e-14, "gtol": 1e-7}
    found = minimize(
        loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options
    )
    factor, intercept, mixing = _unpack(found.x, n_classes)
    coef = factor * np.eye(n_classes)
    return coef + mixing if mixes else coef, intercept


def _wrong_directions(coef: np.ndarray, least: float) -> np.ndarray:
    """Directions of mean 0 along which log odds rise by less than the least slope.

    Orthonormal columns: eigenvectors of the symmetric part of M among such directions.
    """
    n_classes = len(coef)
    centring = np.eye(n_classes) - 1.0 / n_classes
    centred = centring @ (0.5 * (coef + coef.T)) @ centring
    # A number that all share changes nothing: above[i, j] = above/n is that multiple of
    # the projection on it, which lifts its slope of 0 above all others.
    above = n_classes * np.abs(centred).max() + least
    slopes, directions = np.linalg.eigh(centred + above / n_classes)
    # The common factor may be the least one itself, but for rounding.
    return directions[:, slopes < (1.0 - 1e-6) * least]


def _fit_intercept(
    logits: np.ndarray, codes: np.ndarray, weight: np.ndarray
) -> np.ndarray:
    """b of the least loss for given coefficients; smoothed labels keep it finite."""
    n_classes = logits.shape[1]
    targets = _smoothed_targets(codes, weight, n_classes)

    def loss(intercept: np.ndarray) -> tuple[float, np.ndarray]:
        x = np.concatenate([[1.0], intercept])
        value, slopes = _cross_entropy(x, logits, targets, weight)
        return value, slopes[1:]

    options = {"ftol": 1e-14, "gtol": 1e-9}
    found: np.ndarray = minimize(
        loss, np.zeros(n_classes), jac=True, method="L-BFGS-B", options=options
    ).x
    return found


def _unpack(x: np.ndarray, n_classes: int) -> tuple[float, np.ndarray, np.ndarray]:
    """Common factor, intercepts, and deviations of the coefficients, if there are."""
    return x[0], x[1 : 1 + n_classes], x[1 + n_classes :].reshape(-1, n_classes)


def _cross_entropy(
    x: np.ndarray, scores: np.ndarray, targets: np.ndarray, weight: np.ndarray
) -> tuple[float, np.ndarray]:
    """Cross-entropy of the probabilities with the targets, and its gradient."""
    factor, intercept, mixing = _unpack(x, scores.shape[1])
    logits = factor * scores + intercept
    if mixing.size:
        logits += scores @ mixing
    logs = log_softmax(logits, axis=1)
    excess = weight[:, None] * (np.exp(logs) - targets)
    gradient = [[np.vdot(excess, scores)], excess.sum(axis=0)]
    if mixing.size:
        gradient.append((scores.T @ excess).ravel())
    return -float(weight @ np.sum(targets * logs, axis=1)), np.concatenate(gradient)


def calibrated(
    values: np.ndarray, coef: np.ndarray, intercept: np.ndarray
) -> np.ndarray:
    """Turn decision values into log odds.

    Parameters
    ----------
    values : ndarray of shape (n,) or (n, n_classes)
        Decision values.
    coef, intercept : ndarrays
        From `fit_calibration`.

    Returns
    -------
    ndarray of the shape of values
        Log odds, of several classes but for a number that all share.

    See Also
    --------
    class_probabilities : What log odds are turned into.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_deq.linear import calibrated
    >>> calibrated(np.array([-1.0, 1.0]), np.array(2.0), np.array(0.5))
    array([-1.5,  2.5])
    """
    return (values @ coef if values.ndim == 2 else values * coef) + intercept


def _columns(values: np.ndarray) -> np.ndarray:
    """A column for each class: the softmax of ±f/2 is the logistic function of f."""
    if values.ndim == 1:
        return np.column_stack([-0.5 * values, 0.5 * values])
    return values


def _smoothed_targets(
    codes: np.ndarray, weight: np.ndarray, n_classes: int
) -> np.ndarray:
    """Return Platt's targets, shape (n, n_classes)."""
    total = np.bincount(codes, weights=weight, minlength=n_classes)[codes]
    others = 1.0 / ((total + 2.0) * (n_classes - 1))
    targets = np.repeat(others, n_classes).reshape(-1, n_classes)
    targets[np.arange(len(codes)), codes] = (total + 1.0) / (total + 2.0)
    return targets
