"""All private imports from scikit-learn, in one place."""

import inspect
from collections.abc import Callable

from sklearn.base import _fit_context as fit_context
from sklearn.utils._param_validation import (
    Interval,
    StrOptions,
    validate_parameter_constraints,
)
from sklearn.utils.validation import _check_sample_weight as check_sample_weight

__all__ = [
    "Interval",
    "StrOptions",
    "check_sample_weight",
    "fit_context",
    "takes_sample_weight",
    "validate_parameter_constraints",
]


def takes_sample_weight(scorer: Callable[..., float]) -> bool:
    """Whether a scorer, by name or a user's own, can be given sample_weight."""
    metric = getattr(scorer, "_score_func", scorer)
    parameters = inspect.signature(metric).parameters.values()
    return any(p.name == "sample_weight" or p.kind is p.VAR_KEYWORD for p in parameters)
