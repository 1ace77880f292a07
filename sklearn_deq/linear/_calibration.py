"""Probabilities from decision values, by a single temperature."""

from __future__ import annotations

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit, softmax

# Largest and least slope of the probabilities, relative to the decision values.
_STEEPEST, _FLATTEST = 1e4, 1e-4


def class_probabilities(values: np.ndarray, temperature: float) -> np.ndarray:
    """Softmax of the decision values times a temperature.

    Parameters
    ----------
    values : ndarray of shape (n,) or (n, n_classes)
        Decision values; of the second class, if one-dimensional.
    temperature : float
        Positive factor of the values.

    Returns
    -------
    ndarray of shape (n, n_classes)
        Probabilities, ordered as the values.

    See Also
    --------
    fit_temperature : The factor that fits data.

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
    the weight of class k: (N_k + 1)/(N_k + n_classes) for the class of the sample,
    1/(N_k + n_classes) for the others. The optimum is finite even where the values
    separate the classes; where they are worse than chance it is a small positive bound.

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
    # Two classes with values ±f/2 have the same softmax as the logistic of f.
    if values.ndim == 1:
        values = np.column_stack([-0.5 * values, 0.5 * values])
    scores = values - values.mean(axis=1, keepdims=True)
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


def _smoothed_targets(
    codes: np.ndarray, weight: np.ndarray, n_classes: int
) -> np.ndarray:
    """Return Platt's targets, shape (n, n_classes)."""
    total = np.bincount(codes, weights=weight, minlength=n_classes)[codes]
    targets = np.repeat(1.0 / (total + n_classes), n_classes).reshape(-1, n_classes)
    targets[np.arange(len(codes)), codes] *= total + 1.0
    return targets
