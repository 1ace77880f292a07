"""Where a warning points, and how one of a solver reaches who called for the solve.

Not by `warnings.catch_warnings`, which changes the filters of the whole process and,
when two threads overlap, for good: models are served from several threads.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import FrameType

from sklearn_deq.exceptions import SolverWarning

# Ours, and what calls us for a user: their lines do not say where to look.
_BETWEEN = frozenset(
    (
        "contextlib",
        "copy",
        "dask",
        "distributed",
        "functools",
        "joblib",
        "pickle",
        "scipy",
        "sklearn",
        "sklearn_deq",
        "skops",
        "skorch",
        "torch",
    )
)
# Of this thread; None: nobody collects, so that Python's own warnings do.
_LISTENER: ContextVar[list[str] | None] = ContextVar("_LISTENER", default=None)


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn at the user's line, however many calls of ours and of libraries are between.

    Parameters
    ----------
    message : str
        What is wrong, and what to change.
    category : type of Warning, default=UserWarning
        Its kind.
    """
    # Where all frames are between, the outermost one serves.
    frame, level = sys._getframe(), 1
    while _package(frame) in _BETWEEN and frame.f_back is not None:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)


def _package(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__")).partition(".")[0]


def warn_of_solver(message: str) -> None:
    """Tell the innermost `solver_warnings`, else warn with a `SolverWarning`.

    Parameters
    ----------
    message : str
        What failed, and what to change.
    """
    heard = _LISTENER.get()
    if heard is None:
        warn(message, SolverWarning)
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
