"""Real text that every installation has: what scipy's functions say they do."""

from __future__ import annotations

import inspect
from functools import cache
from importlib import import_module

import numpy as np

# Modules of scipy, which are the classes.
MODULES = (
    "fft",
    "integrate",
    "interpolate",
    "linalg",
    "ndimage",
    "optimize",
    "signal",
    "sparse",
    "spatial",
    "special",
    "stats",
)
# Shorter ones say too little to tell a module by.
LEAST_WORDS = 10


@cache
def docstrings() -> tuple[np.ndarray, np.ndarray]:
    """What docstrings say before they list parameters, and the modules as numbers.

    A text that several functions share counts once, for the first module.
    """
    modules: dict[str, str] = {}
    for module in MODULES:
        found = import_module(f"scipy.{module}")
        for name in sorted(found.__all__):
            text = _opening(getattr(found, name, None))
            if len(text.split()) >= LEAST_WORDS:
                modules.setdefault(text, module)
    _, classes = np.unique(list(modules.values()), return_inverse=True)
    return np.array(list(modules), dtype=object), classes


def _opening(thing: object) -> str:
    """The docstring of a function or a class up to its parameters, if it has one."""
    if thing is None or inspect.ismodule(thing):
        return ""
    text = (inspect.getdoc(thing) or "").split("\nParameters\n")[0]
    # Those of compiled functions begin with their signature.
    first, _, rest = text.partition("\n")
    return rest if first.endswith(")") and "(" in first else text
