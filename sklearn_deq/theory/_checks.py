"""Checks of arguments that all rooms share: what is allowed, and the likely typo."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from numbers import Real
from typing import Any

import numpy as np


def did_you_mean(name: str, valid: Iterable[str]) -> str:
    """Return a hint at the closest valid name, or an empty string."""
    close = difflib.get_close_matches(name.lower(), list(valid), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


def check_flag(name: str, value: Any) -> None:
    """Raise a ValueError unless the value is a bool: any string would count as true."""
    if not isinstance(value, bool | np.bool_):
        raise ValueError(f"{name} must be True or False, got {value!r}.")


def check_nonnegative(name: str, value: Any) -> None:
    """Raise a ValueError unless the value is a number, finite and not negative."""
    if not (isinstance(value, Real) and 0.0 <= float(value) < np.inf):
        raise ValueError(
            f"{name} must be a finite number that is not negative, got {value!r}."
        )
