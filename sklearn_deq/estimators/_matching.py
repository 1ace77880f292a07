"""From a DEQ estimator to its explicit equivalent."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.utils.validation import check_array, check_is_fitted

from sklearn_deq.estimators._base import final_step
from sklearn_deq.estimators._equilibrium import DEQClassifier, DEQRegressor
from sklearn_deq.estimators._explicit import (
    ExplicitEquivalentClassifier,
    ExplicitEquivalentRegressor,
)
from sklearn_deq.theory._checks import did_you_mean
from sklearn_deq.theory._rows import mean_squares, normalize_rows

_EQUIVALENTS = {
    DEQClassifier: ExplicitEquivalentClassifier,
    DEQRegressor: ExplicitEquivalentRegressor,
}


def match_deq(
    estimator: Any,
    X: Any = None,
    *,
    kernel: str = "ck",
    architecture: str = "auto",
    **params: Any,
) -> ExplicitEquivalentClassifier | ExplicitEquivalentRegressor:
    """Configure the shallow explicit network with the same kernel as a DEQ.

    Parameters
    ----------
    estimator : DEQClassifier, DEQRegressor, Pipeline or search
        The DEQ, or a pipeline or a search such as GridSearchCV that ends in one; of a
        fitted search the best estimator counts. A TransformedTargetRegressor of one
        does, too: the equivalent is to be wrapped alike.
    X : array-like of shape (n_samples, n_features), default=None
        Data whose size is measured: it becomes the equivalent's ``tau0``. The other
        steps of a pipeline, which must be fitted, are applied first; with a bare DEQ
        give X as the DEQ would see it.
    kernel : {"ck", "ntk", "ntk_recurrent"}, default="ck"
        Which kernel of the DEQ to match.
    architecture : str, default="auto"
        As in `ExplicitEquivalentClassifier`.
    **params : dict
        Other parameters of the equivalent, in place of those copied from the DEQ.

    Returns
    -------
    ExplicitEquivalentClassifier or ExplicitEquivalentRegressor
        Unfitted. Shared parameters are those of the DEQ, ``trainable`` among them;
        ``tau0`` is the ``tau0_`` of a fitted DEQ, unless X is given or ``normalize`` is
        another. The matching equations are solved when it is fitted.

    Raises
    ------
    TypeError
        If the estimator ends in no DEQ, or a parameter is unknown.
    ValueError
        If a parameter has no valid value, or X not the features of a fitted DEQ.
    NotFittedError
        If X is given together with a pipeline that is not fitted.

    See Also
    --------
    sklearn_deq.theory.solve_match : The matching itself.

    Examples
    --------
    >>> from sklearn_deq import DEQClassifier, match_deq
    >>> explicit = match_deq(DEQClassifier(activation="tanh", width=256))
    >>> explicit.activation, explicit.width
    ('tanh', 256)
    """
    deq, steps = _find_deq(estimator)
    equivalent = next(
        explicit for kind, explicit in _EQUIVALENTS.items() if isinstance(deq, kind)
    )
    valid = equivalent().get_params()
    for name in params:
        if name not in valid:
            raise TypeError(
                f"{equivalent.__name__} has no parameter {name!r}."
                f"{did_you_mean(name, valid)}"
            )
    # As clone does: the equivalent shares no callback with the DEQ.
    shared = {
        k: clone(v, safe=False) for k, v in deq.get_params().items() if k in valid
    }
    explicit = equivalent(
        **{**shared, "kernel": kernel, "architecture": architecture, **params}
    )
    explicit._validate_params()
    tau0 = explicit.tau0
    # Rows that are projected are of another size.
    if hasattr(deq, "tau0_") and deq._as_fitted().normalize == explicit.normalize:
        tau0 = deq.tau0_
    if X is not None:
        tau0 = _size(X, steps, deq, explicit.normalize)
    return explicit if "tau0" in params else explicit.set_params(tau0=tau0)


def _find_deq(estimator: Any) -> tuple[Any, list[Any]]:
    """Return the DEQ at the end, and the transformers before it."""
    deq, steps = final_step(estimator)
    if not isinstance(deq, tuple(_EQUIVALENTS)):
        raise TypeError(
            "match_deq needs a DEQClassifier or DEQRegressor, or a Pipeline or search "
            f"that ends in one; got {estimator!r}."
        )
    return deq, steps


def _size(X: Any, steps: list[Any], deq: Any, normalize: bool) -> float:
    """√(mean |x|²/p) of X after the steps before the DEQ, on the sphere or not."""
    for step in steps:
        try:
            check_is_fitted(step)
        except NotFittedError as error:
            raise NotFittedError(
                f"To measure X, {type(step).__name__} must be fitted: fit the pipeline "
                "first, or leave X out (the size is then measured by fit)."
            ) from error
        X = step.transform(X)
    X = check_array(X, dtype=np.float64)
    expected = getattr(deq, "n_features_in_", X.shape[1])
    if X.shape[1] != expected:
        raise ValueError(
            f"X has {X.shape[1]} features, but {type(deq).__name__} is expecting "
            f"{expected} features as input."
        )
    if normalize:
        X = normalize_rows(X)
    size = float(np.sqrt(mean_squares(X).mean()))
    if not np.isfinite(size):
        raise ValueError(
            "X is too large: its mean squares overflow. Scale X, or set normalize=True."
        )
    return size
