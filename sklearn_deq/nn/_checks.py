"""Arguments of the layer: what they may be, and what is said of others."""

from __future__ import annotations

import math
from numbers import Integral, Real

import torch

from sklearn_deq.nn._solvers import check_solver

BACKWARDS = ("implicit", "phantom", "one_step", "unrolled")
STABILITIES = ("project", "jacobian", None)
PRECISIONS = ("auto", "full", "mixed")
TRAINABLE = ("all", "recurrent", "readout")


def check_choice(name: str, value: object, allowed: tuple[object, ...]) -> None:
    """Refuse a value that is not among the allowed ones."""
    if value not in allowed:
        raise ValueError(f"{name} must be one of {allowed}, got {value!r}.")


def check_settings(
    solver: str,
    tol: float,
    max_iter: int,
    stability: str | None,
    backward: str,
    backward_tol: float,
) -> None:
    """Refuse settings of solves and training that are not among those known."""
    check_choice("backward", backward, BACKWARDS)
    check_choice("stability", stability, STABILITIES)
    check_solver(solver, tol, max_iter)
    if not (isinstance(backward_tol, Real) and 0 <= backward_tol < math.inf):
        raise ValueError(
            f"backward_tol must be nonnegative and finite, got {backward_tol!r}."
        )


def check_weights(n_features: int, width: int, dtype: torch.dtype) -> None:
    """Refuse sizes and types that no weights have."""
    for name, size in (("n_features", n_features), ("width", width)):
        if not isinstance(size, Integral) or size < 1:
            raise ValueError(f"{name} must be an integer of at least 1, got {size!r}.")
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise ValueError(
            f"dtype must be one of torch's, such as torch.float32, got {dtype!r}."
        )


def check_numbers(variances: tuple[float, ...], offset: float) -> None:
    """Refuse variances and centring constants with which there is no layer."""
    if not all(0 <= variance < math.inf for variance in variances):
        raise ValueError(
            "recurrent_variance, input_variance and bias_variance must be nonnegative "
            f"and finite, got {variances}."
        )
    if not math.isfinite(offset):
        raise ValueError(f"offset must be finite, got {offset!r}.")
