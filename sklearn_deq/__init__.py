"""Deep equilibrium models, their kernels and their explicit equivalents.

Names are imported when they are first used, so that the kernels load neither skorch nor
the training code.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sklearn_deq.estimators import (
        DEQClassifier,
        DEQKernel,
        DEQKernelRidgeClassifierCV,
        DEQKernelRidgeCV,
        DEQKernelTransformer,
        DEQRegressor,
        ExplicitEquivalentClassifier,
        ExplicitEquivalentRegressor,
        match_deq,
    )
    from sklearn_deq.theory import Activation

__version__ = "0.1.0.dev0"

_EXPORTS = {
    "Activation": "sklearn_deq.theory",
    "DEQClassifier": "sklearn_deq.estimators",
    "DEQKernel": "sklearn_deq.estimators",
    "DEQKernelRidgeCV": "sklearn_deq.estimators",
    "DEQKernelRidgeClassifierCV": "sklearn_deq.estimators",
    "DEQKernelTransformer": "sklearn_deq.estimators",
    "DEQRegressor": "sklearn_deq.estimators",
    "ExplicitEquivalentClassifier": "sklearn_deq.estimators",
    "ExplicitEquivalentRegressor": "sklearn_deq.estimators",
    "match_deq": "sklearn_deq.estimators",
}
_SUBMODULES = (
    "datasets",
    "estimators",
    "exceptions",
    "inspection",
    "kernels",
    "nn",
    "theory",
)

__all__ = [
    "Activation",
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


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(import_module(_EXPORTS[name]), name)
    if name in _SUBMODULES:
        return import_module(f"sklearn_deq.{name}")
    raise AttributeError(f"module 'sklearn_deq' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, *_SUBMODULES, "__version__"])
