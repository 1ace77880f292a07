"""Which predictions of held-out samples are as good as the best."""

from __future__ import annotations

import numpy as np


def prediction_losses(
    values: np.ndarray, targets: np.ndarray, *, classes: bool
) -> np.ndarray:
    """Compute losses of predictions, sample by sample.

    Parameters
    ----------
    values : ndarray of shape (..., n, n_columns)
        Predictions, or decision values.
    targets : ndarray of shape (n, n_columns)
        Targets; of classes −1 and 1, one column each or, for two, one.
    classes : bool
        Whether the largest value decides on a class.

    Returns
    -------
    ndarray of shape (..., n)
        Mean squared error over the columns and, for classes, 1 more for an error:
        errors are what counts, but many candidates make as many of them.

    See Also
    --------
    as_good_as : What the losses are compared for.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_deq.linear import prediction_losses
    >>> targets = np.array([[1.0], [-1.0]])
    >>> prediction_losses(np.array([[0.5], [0.5]]), targets, classes=True)
    array([0.25, 3.25])
    """
    losses: np.ndarray = np.mean((values - targets) ** 2, axis=-1)
    if not classes:
        return losses
    if targets.shape[1] == 1:
        return losses + ((values > 0) != (targets > 0))[..., 0]
    return losses + (values.argmax(axis=-1) != targets.argmax(axis=-1))


def as_good_as(
    best: np.ndarray,
    losses: np.ndarray,
    sample_weight: np.ndarray | None = None,
    *,
    factors: np.ndarray | None = None,
    errors: float = 2.0,
) -> bool:
    """Whether losses exceed the best ones by no more than chance explains.

    Parameters
    ----------
    best, losses : ndarray of shape (n,)
        Losses of two candidates on the same samples.
    sample_weight : ndarray of shape (n,), default=None
        Weights of the samples, as numbers of copies; None: ones.
    factors : ndarray of shape (n,), default=None
        What the copies count for in the mean, such as weights of their classes, which
        make no more samples of them; None: ones.
    errors : float, default=2.0
        Standard errors of the mean difference that count as chance.

    Returns
    -------
    bool
        Whether the mean difference is at most that many standard errors.

    See Also
    --------
    prediction_losses : Losses of predictions.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_deq.linear import as_good_as
    >>> best = np.zeros(4)
    >>> as_good_as(best, np.array([1.0, -1.0, 1.0, 0.0])), as_good_as(best, best + 1.0)
    (True, False)
    """
    difference = losses - best
    copies = np.ones(len(best)) if sample_weight is None else sample_weight
    one = np.ones(len(best)) if factors is None else factors
    # Of each copy; a sample without any counts for nothing.
    share = one / (one @ copies)
    mean = (share * copies) @ difference
    # Var Σ s d of independent copies.
    variance = (share**2 * copies) @ (difference - mean) ** 2
    return bool(mean <= errors * np.sqrt(variance))
