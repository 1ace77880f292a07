"""The scikit-learn estimators."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sklearn_deq.estimators._equilibrium import DEQClassifier, DEQRegressor
    from sklearn_deq.estimators._explicit import (
        ExplicitEquivalentClassifier,
        ExplicitEquivalentRegressor,
    )
    from sklearn_deq.estimators._gp_kernel import DEQKernel
    from sklearn_deq.estimators._kernel import DEQKernelTransformer
    from sklearn_deq.estimators._matching import match_deq
    from sklearn_deq.estimators._ridge_classifier import DEQKernelRidgeClassifierCV
    from sklearn_deq.estimators._ridge_regressor import DEQKernelRidgeCV

__all__ = [
    "DEQClassifier",
    "DEQKernel",
    "DEQKernelRidgeCV",
    "DEQKernelRidgeClassifierCV",
    "DEQKernelTransformer",
    "DEQRegressor",
    "ExplicitEquivalentClassifier",
    "ExplicitEquivalentRegressor",
    "match_deq",
]

# Importing the kernel transformer must not load skorch: names are loaded on demand.
_MODULES = {
    "DEQClassifier": "_equilibrium",
    "DEQRegressor": "_equilibrium",
    "ExplicitEquivalentClassifier": "_explicit",
    "ExplicitEquivalentRegressor": "_explicit",
    "DEQKernel": "_gp_kernel",
    "DEQKernelTransformer": "_kernel",
    "DEQKernelRidgeCV": "_ridge_regressor",
    "DEQKernelRidgeClassifierCV": "_ridge_classifier",
    "match_deq": "_matching",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
