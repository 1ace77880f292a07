"""Warnings of the package: modules below the estimators warn with these."""

__all__ = ["MatchWarning", "SolverWarning"]


class SolverWarning(UserWarning):
    """Warn that a solve or a table ended before it reached its tolerance.

    The result is returned all the same; the message has the residual and says what to
    change. Estimators turn it into scikit-learn's
    `sklearn.exceptions.ConvergenceWarning`.

    See Also
    --------
    MatchWarning : The same for the matching equations.

    Examples
    --------
    Turn non-convergence into an error:

    >>> import warnings
    >>> from sklearn_deq.exceptions import SolverWarning
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("error", SolverWarning)
    ...     warnings.warn("residual 2.1e-03", SolverWarning)
    Traceback (most recent call last):
    sklearn_deq.exceptions.SolverWarning: residual 2.1e-03
    """


class MatchWarning(UserWarning):
    """Warn that the matching equations are met only up to a residual over tolerance.

    The best match found is returned all the same; the message has its residual and the
    architecture that would do better.

    See Also
    --------
    SolverWarning : The same for fixed points.

    Examples
    --------
    >>> import warnings
    >>> from sklearn_deq.exceptions import MatchWarning
    >>> with warnings.catch_warnings(record=True) as caught:
    ...     warnings.simplefilter("always")
    ...     warnings.warn("residual 2.1e-03", MatchWarning)
    >>> caught[0].category.__name__
    'MatchWarning'
    """
