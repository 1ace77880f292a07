"""A kernel on a sphere, tabulated as a function of the angle.

Where all samples have the same norm, a kernel of this package is a function of the
angle θ between them alone, and a smooth one: for kinked activations too, since
θ = arccos ρ takes up their square-root singularity at |ρ| = 1. It is solved once on a
few Chebyshev nodes and evaluated everywhere else as a series.
"""

from __future__ import annotations

import numpy as np

from sklearn_deq.theory import PairKernel
from sklearn_deq.theory._chebyshev import (
    chebyshev_coefficients,
    chebyshev_nodes,
    sufficient_size,
)

# Relative size of the last coefficients. Near θ = 0 rounding of cos θ limits what a
# finer grid could gain.
_TOLERANCE = 1e-13
_SIZES = (16, 24, 32, 48, 64, 96, 128)


def angle_coefficients(kernel: PairKernel, norm: float) -> np.ndarray:
    """Chebyshev coefficients of K in 2θ/π − 1, for samples with |x|/√p = norm."""

    def sample(size: int) -> np.ndarray:
        cosine = np.cos(0.5 * np.pi * (1.0 + chebyshev_nodes(size)))
        states = kernel.states(np.array([norm**2]))
        return kernel.entries(states, states, norm**2 * cosine)

    return chebyshev_coefficients(sample(sufficient_size(_SIZES, sample, _TOLERANCE)))
