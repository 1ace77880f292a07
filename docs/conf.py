"""Configuration of the documentation site: `make docs` builds it."""

from __future__ import annotations

import re
import sys
import urllib.request
from pathlib import Path
from typing import Any

import matplotlib

import sklearn_deq

matplotlib.use("Agg")
# For gallery_order.
sys.path.insert(0, str(Path(__file__).parent))

project = "sklearn-deq"
author = "The sklearn-deq developers"
copyright = f"2026, {author}"
release = version = sklearn_deq.__version__

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.intersphinx",
    "sphinx.ext.viewcode",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
]
templates_path = ["_templates"]
exclude_patterns = ["_build", "**.ipynb"]

# -- Pages ------------------------------------------------------------------------
myst_enable_extensions = ["attrs_inline", "colon_fence", "deflist"]
myst_heading_anchors = 3

# -- The API ----------------------------------------------------------------------
autosummary_generate = True
autodoc_typehints = "none"
numpydoc_show_class_members = False
numpydoc_xref_param_type = False

# -- Other projects ---------------------------------------------------------------
_INVENTORIES = {
    "numpy": "https://numpy.org/doc/stable/",
    "python": "https://docs.python.org/3/",
    "scipy": "https://docs.scipy.org/doc/scipy/",
    "sklearn": "https://scikit-learn.org/stable/",
    "skorch": "https://skorch.readthedocs.io/en/stable/",
    "torch": "https://docs.pytorch.org/docs/stable/",
}


def _reachable(url: str) -> bool:
    """Whether an inventory can be fetched: offline, its links are left out."""
    try:
        request = urllib.request.Request(url + "objects.inv", method="HEAD")
        with urllib.request.urlopen(request, timeout=5):
            return True
    except OSError:
        return False


intersphinx_mapping = {
    name: (url, None) for name, url in _INVENTORIES.items() if _reachable(url)
}
# Docstrings that are inherited have references which only those inventories know.
suppress_warnings = [] if "sklearn" in intersphinx_mapping else ["ref.ref"]

# -- The gallery ------------------------------------------------------------------
sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "auto_examples",
    "filename_pattern": r"/plot_",
    "within_subsection_order": "gallery_order.ByReader",
    "ignore_pattern": r"(^|/)demo\.py$",
    "doc_module": ("sklearn_deq",),
    "backreferences_dir": "generated/backreferences",
    "reference_url": {"sklearn_deq": None},
    "show_memory": False,
    "show_signature": False,
    "download_all_examples": False,
    "min_reported_time": 1,
    "abort_on_example_error": True,
    "plot_gallery": "True",
}

# -- The look ---------------------------------------------------------------------
html_theme = "pydata_sphinx_theme"
html_title = f"sklearn-deq {release}"
html_static_path = ["_static"]
html_show_sourcelink = False
html_theme_options = {
    "navigation_with_keys": False,
    "show_toc_level": 2,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": ["theme-version"],
}
html_sidebars = {"index": [], "changelog": [], "api": []}


# -- Docstrings -------------------------------------------------------------------
def _escape_bars(
    app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]
) -> None:
    """Keep |x| as it is: to docutils bars are the marks of a substitution."""
    for number, line in enumerate(lines):
        if not line.lstrip().startswith((">>>", "...")):
            parts = re.split(r"(``.*?``)", line)
            parts[::2] = [re.sub(r"(?<!\\)\|", r"\|", part) for part in parts[::2]]
            lines[number] = "".join(parts)


def setup(app: Any) -> None:
    """Before numpydoc, whose priority is 500."""
    app.connect("autodoc-process-docstring", _escape_bars, priority=400)
