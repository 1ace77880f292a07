"""How a warning of a solver reaches whoever called for the solve.

Not by `warnings.catch_warnings`, which changes the filters of the whole process and,
when two threads overlap, for good: models are served from several threads.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from sklearn_deq.exceptions import SolverWarning

# Of this thread; None: nobody collects, so that Python's own warnings do.
_LISTENER: ContextVar[list[str] | None] = ContextVar("_LISTENER", default=None)


def warn_of_solver(message: str, *, stacklevel: int) -> None:
    """Tell the innermost `solver_warnings`, else warn with a `SolverWarning`.

    Parameters
    ----------
    message : str
        What failed, and what to change.
    stacklevel : int
        As in `warnings.warn`.
    """
    heard = _LISTENER.get()
    if heard is None:
        warnings.warn(message, SolverWarning, stacklevel=stacklevel + 1)
    else:
        heard.append(message)


def listener() -> list[str] | None:
    """Return the list that this thread's messages go to, for `heard_by` in another."""
    return _LISTENER.get()


@contextmanager
def heard_by(heard: list[str] | None) -> Iterator[None]:
    """Send this thread's messages to a list for a while; None: where they go now."""
    if heard is None:
        yield
        return
    token = _LISTENER.set(heard)
    try:
        yield
    finally:
        _LISTENER.reset(token)


@contextmanager
def solver_warnings() -> Iterator[list[str]]:
    """Collect the messages of solvers, and keep them from being warned of.

    Those of other threads where these work under `heard_by`: backward passes, which
    autograd may run on a thread of its own, and blocks of Gram matrices.
    """
    heard: list[str] = []
    with heard_by(heard):
        yield heard
