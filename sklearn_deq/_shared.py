"""Settings of the whole process that calls in overlapping threads need otherwise."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any


class SharedSetting:
    """A setting of the process, changed by the first of the calls that need it so.

    The last of them puts it back; where each did so by itself, the second to begin
    would leave the process with what the first had set.

    Parameters
    ----------
    change : callable
        Returns a context manager that changes the setting, and puts back what was
        there before.
    """

    def __init__(self, change: Callable[[], AbstractContextManager[Any]]) -> None:
        self._change = change
        self._lock = threading.Lock()
        self._inside = 0
        self._changed = ExitStack()

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Have the setting changed for a while."""
        with self._lock:
            if not self._inside:
                self._changed.enter_context(self._change())
            self._inside += 1
        try:
            yield
        finally:
            with self._lock:
                self._inside -= 1
                if not self._inside:
                    self._changed.close()
