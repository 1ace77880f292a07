"""Real text that every installation has: what scipy's functions say they do."""

from __future__ import annotations

import inspect
import re
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


# One or two, before the text of a compiled function; numpydoc's heading of a section;
# and what names a module, which is to be told by the rest.
SIGNATURE = re.compile(r"\A(?:[\w.]+\((?:[^()]|\([^()]*\))*\)\s*\n)+")
SECTION = re.compile(r"^[ \t]*[A-Z][A-Za-z ]+\n[ \t]*-{3,}", re.MULTILINE)
OWN_NAMES = re.compile(r"\bscipy(?:\.\w+)*")


@cache
def docstrings() -> tuple[np.ndarray, np.ndarray]:
    """What docstrings say before their first section, and the modules as numbers.

    A text that several functions share counts once, for the first module.
    """
    modules: dict[str, str] = {}
    for module in MODULES:
        found = import_module(f"scipy.{module}")
        for name in sorted(found.__all__):
            thing = getattr(found, name, None)
            doc = None if inspect.ismodule(thing) else inspect.getdoc(thing)
            text = opening(doc or "")
            if len(text.split()) >= LEAST_WORDS:
                modules.setdefault(text, module)
    _, classes = np.unique(list(modules.values()), return_inverse=True)
    return np.array(list(modules), dtype=object), classes


def opening(doc: str) -> str:
    """A docstring without its signature, its sections and the names of modules."""
    text = SECTION.split(SIGNATURE.sub("", doc), maxsplit=1)[0]
    return OWN_NAMES.sub("", text).strip()
