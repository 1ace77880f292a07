"""Dual activations by quadrature in the plane, pair by pair: slow, for any kinks."""

import numpy as np

from sklearn_deq.theory._dual_methods import plane_expectation
from sklearn_deq.theory._moments import differentiate


def plane_dual(phi, q1, q2, angles, derivative=False):
    """E[φ(u)φ(v)], or of φ', of shape (n1, n2, n_angles)."""
    out = np.empty((len(q1), len(q2), len(angles)))

    def function(x):
        return differentiate(phi, x) if derivative else phi.function(x)

    for i, j, k in np.ndindex(out.shape):
        pair = q1[i : i + 1], q2[j : j + 1]
        out[i, j, k] = plane_expectation(function, phi.kinks, *pair, angles[k])[0, 0]
    return out
