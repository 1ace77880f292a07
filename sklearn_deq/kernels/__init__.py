"""Gram matrices of infinitely wide networks: exact, blocked, on CPU or GPU."""

from sklearn_deq.kernels._equilibrium import (
    deq_kernel,
    deq_kernel_diag,
    deq_kernel_gradient,
)
from sklearn_deq.kernels._explicit import explicit_kernel, explicit_kernel_diag
from sklearn_deq.theory import dual_activation

__all__ = [
    "deq_kernel",
    "deq_kernel_diag",
    "deq_kernel_gradient",
    "dual_activation",
    "explicit_kernel",
    "explicit_kernel_diag",
]
