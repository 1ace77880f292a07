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


@contextmanager
def solver_warnings() -> Iterator[list[str]]:
    """Collect the messages of solvers, and keep them from being warned of.

    Of this thread, and of threads that `listen` to the list.
    """
    heard: list[str] = []
    token = _LISTENER.set(heard)
    try:
        yield heard
    finally:
        _LISTENER.reset(token)


def listener() -> list[str] | None:
    """Return the list that this thread's messages go to, for `listen` in another."""
    return _LISTENER.get()


@contextmanager
def heard_by(heard: list[str] | None) -> Iterator[None]:
    """Send messages to a list for a while; None: where they go now.

    For backward passes, which autograd may run on a thread of its own.
    """
    if heard is None:
        yield
        return
    token = _LISTENER.set(heard)
    try:
        yield
    finally:
        _LISTENER.reset(token)


def listen(heard: list[str] | None) -> None:
    """Send this thread's messages to a list from now on; None: warn."""
    _LISTENER.set(heard)
