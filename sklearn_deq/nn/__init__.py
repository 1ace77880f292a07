"""Torch modules: the equilibrium layer, its solver, and explicit networks."""

from sklearn_deq.nn._activations import TorchActivation, torch_activation
from sklearn_deq.nn._checks import BACKWARDS
from sklearn_deq.nn._equilibrium import EquilibriumLayer
from sklearn_deq.nn._explicit import (
    ExplicitNetwork,
    draw_weights,
    explicit_features,
    layer_activations,
)
from sklearn_deq.nn._solvers import SOLVERS, FixedPointResult, fixed_point

__all__ = [
    "BACKWARDS",
    "SOLVERS",
    "EquilibriumLayer",
    "ExplicitNetwork",
    "FixedPointResult",
    "TorchActivation",
    "draw_weights",
    "explicit_features",
    "fixed_point",
    "layer_activations",
    "torch_activation",
]
