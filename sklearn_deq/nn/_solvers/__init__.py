"""Fixed-point solvers that treat every row by itself.

A solver is a rule for the next state, a class in a file of its own; what they share, in
`_driver`, is one implementation: a row leaves the work when it has converged, and no
row sees another, so that results do not depend on the batch but by the rounding of
products of another shape. Where that lets a row stop an evaluation earlier or later its
state is another one within the tolerance: in float32, whose rounding is near the usual
one, states of different batches agree to about it and not better. `SOLVERS` is the one
place to add a solver.
"""

from __future__ import annotations

import inspect
from numbers import Integral, Real

import torch

from sklearn_deq.nn._solvers._anderson import Anderson
from sklearn_deq.nn._solvers._broyden import Broyden
from sklearn_deq.nn._solvers._damped import DampedPicard
from sklearn_deq.nn._solvers._driver import (
    FixedPointMap,
    FixedPointResult,
    Rule,
    iterate,
    relative_residual,
)
from sklearn_deq.nn._solvers._picard import Picard

SOLVERS: dict[str, type[Rule]] = {
    "picard": Picard,
    "damped": DampedPicard,
    "anderson": Anderson,
    "broyden": Broyden,
}
"""Solvers by name."""


def fixed_point(
    f: FixedPointMap,
    z0: torch.Tensor,
    *,
    solver: str = "picard",
    tol: float = 1e-5,
    max_iter: int = 200,
    atol: float = 0.0,
) -> FixedPointResult:
    """Solve z = f(z) for every row of z0, without a graph.

    Parameters
    ----------
    f : callable
        ``f(z, rows)`` for the rows in work, z of shape (n_rows, m), whose numbers in
        the batch are rows: the same tensor until rows leave. It must treat rows
        independently, and return a new tensor.
    z0 : tensor of shape (n, m)
        Where to start: the solution of a similar problem saves iterations.
    solver : {"picard", "damped", "anderson", "broyden"}, default="picard"
        A key of `SOLVERS`: the plain iteration; half-way steps, for maps that
        oscillate; Anderson acceleration and Broyden's method, which remember 30 pairs
        of states per row, for slow problems.
    tol : float, default=1e-5
        Relative residual ‖f(z) − z‖/‖z‖ of a row at which it is done.
    max_iter : int, default=200
        Iterations at most; each evaluates f once.
    atol : float, default=0.0
        A row is done at ‖f(z) − z‖ ≤ atol, too.

    Returns
    -------
    FixedPointResult
        State, residual, iterations, evaluations and success of each row.

    Raises
    ------
    ValueError
        For an unknown solver, a tolerance that is not positive (atol: negative), or
        max_iter < 1, and for a z0 that is not a matrix of floats.
    TypeError
        If f does not take two arguments.

    Notes
    -----
    Evaluations to 1e-8 for random ReLU DEQs, σ_a² = 0.2 and 0.9, the slowest of 64
    rows at m = 256: Picard 18 and 59, Anderson 17 and 43, Broyden 17 and 47.

    Examples
    --------
    >>> import torch
    >>> from sklearn_deq.nn import fixed_point
    >>> result = fixed_point(lambda z, rows: 0.5 * z + 1, torch.zeros(3, 2))
    >>> bool(result.converged.all()), round(float(result.z[0, 0]), 3)
    (True, 2.0)
    """
    check_solver(solver, tol, max_iter, atol)
    fine = isinstance(z0, torch.Tensor) and z0.is_floating_point()
    if not fine or z0.ndim != 2 or z0.shape[1] < 1:
        found = (getattr(z0, "dtype", type(z0)), tuple(getattr(z0, "shape", ())))
        raise ValueError(
            "z0 must be a torch tensor of real floating-point numbers, of shape "
            f"(n, m) with m ≥ 1, got {found[0]} of shape {found[1]}."
        )
    with torch.no_grad():
        try:
            return iterate(SOLVERS[solver](), f, z0, tol, atol, max_iter)
        except TypeError as error:
            # Looked at afterwards, as a signature takes longer than a small product.
            if _takes_states_and_rows(f):
                raise
            raise TypeError(
                "f must be a function of the states and of the numbers of their rows, "
                f"such as lambda z, rows: 0.5 * z + u[rows]; got {f!r}."
            ) from error


def _takes_states_and_rows(f: object) -> bool:
    """Whether f can be called with two arguments, as far as Python knows."""
    try:
        inspect.signature(f).bind(None, None)  # type: ignore[arg-type]
    except TypeError:
        return False
    except ValueError:
        # Of some functions that are not written in Python it knows no signature.
        return True
    return True


def check_solver(solver: str, tol: float, max_iter: int, atol: float = 0.0) -> None:
    """Refuse an unknown solver and settings with which none can work.

    Parameters
    ----------
    solver, tol, max_iter, atol : as in `fixed_point`
        What to check.

    Raises
    ------
    ValueError
        If one of them is not allowed.
    """
    if solver not in SOLVERS:
        raise ValueError(f"solver must be one of {tuple(SOLVERS)}, got {solver!r}.")
    numbers = isinstance(tol, Real) and isinstance(atol, Real)
    if not numbers or not tol > 0 or not atol >= 0:
        raise ValueError(
            f"tol must be positive and atol nonnegative, got {tol!r} and {atol!r}."
        )
    if not isinstance(max_iter, Integral) or max_iter < 1:
        raise ValueError(
            f"max_iter must be an integer of at least 1, got {max_iter!r}."
        )


__all__ = [
    "SOLVERS",
    "FixedPointResult",
    "Rule",
    "check_solver",
    "fixed_point",
    "relative_residual",
]
