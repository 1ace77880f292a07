"""Results of functions, remembered where their arguments can be hashed."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import ParamSpec, TypeVar

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def remembered(
    maxsize: int,
) -> Callable[[Callable[Arguments, Result]], Callable[Arguments, Result]]:
    """Decorate with a `functools.lru_cache` that what has no hash goes around.

    Such as an activation whose function is an instance with ``__eq__`` alone.
    """

    def decorate(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
        known = lru_cache(maxsize)(function)

        @wraps(function)
        def call(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
            try:
                hash((args, *kwargs.values()))
            except TypeError:
                return function(*args, **kwargs)
            return known(*args, **kwargs)  # type: ignore[arg-type]

        return call

    return decorate
