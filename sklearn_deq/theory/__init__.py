"""The theory: activations, Gaussian moments, duals, equilibria and matching.

Everything here is a plain function of NumPy arrays (or of whatever array namespace its
input has) that returns arrays or frozen dataclasses; no estimator, no torch.
"""

from sklearn_deq.theory._activations import (
    ACTIVATIONS,
    Activation,
    get_activation,
)
from sklearn_deq.theory._depth import DepthResult, minimal_depth
from sklearn_deq.theory._duals import dual_activation
from sklearn_deq.theory._equilibrium import (
    KERNELS,
    EquilibriumMoments,
    equilibrium_moments,
    equilibrium_variance,
)
from sklearn_deq.theory._equilibrium_kernel import equilibrium_kernel
from sklearn_deq.theory._equivalents import high_dimensional_equivalent
from sklearn_deq.theory._explicit import (
    ExplicitLayer,
    ExplicitMoments,
    explicit_moments,
    explicit_pair_kernel,
)
from sklearn_deq.theory._families import ARCHITECTURES
from sklearn_deq.theory._lipschitz import lipschitz_constant
from sklearn_deq.theory._match_result import MatchResult
from sklearn_deq.theory._matching import solve_match
from sklearn_deq.theory._pairs import PairKernel, Reduction
from sklearn_deq.theory._rounded import RoundedPiece
from sklearn_deq.theory._three_piece import ThreePiece

__all__ = [
    "ACTIVATIONS",
    "ARCHITECTURES",
    "KERNELS",
    "Activation",
    "DepthResult",
    "EquilibriumMoments",
    "ExplicitLayer",
    "ExplicitMoments",
    "MatchResult",
    "PairKernel",
    "Reduction",
    "RoundedPiece",
    "ThreePiece",
    "dual_activation",
    "equilibrium_kernel",
    "equilibrium_moments",
    "equilibrium_variance",
    "explicit_moments",
    "explicit_pair_kernel",
    "get_activation",
    "high_dimensional_equivalent",
    "lipschitz_constant",
    "minimal_depth",
    "solve_match",
]
