"""Configuration of the documentation site: `make docs` builds it."""

from __future__ import annotations

import html
import re
import sys
import urllib.request
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib
from docutils import nodes

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
    # Examples print what they show: the last value of a cell is no output.
    "capture_repr": (),
    "junit": "../gallery.xml",
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


def _say_times(app: Any, exception: Exception | None) -> None:
    """How long each example took, of the 30 seconds that it has on an idle machine."""
    report = Path(app.outdir) / app.config.sphinx_gallery_conf["junit"]
    if exception is None and report.exists():
        cases = ElementTree.parse(report).findall("testcase")
        times = {case.attrib["file"]: float(case.attrib["time"]) for case in cases}
        for file, seconds in sorted(times.items(), key=lambda item: -item[1]):
            mark = "  over 30 s" if seconds > 30 else ""
            sys.stdout.write(f"{seconds:6.1f} s  {Path(file).name}{mark}\n")


def _name_thumbnails(app: Any, doctree: nodes.document) -> None:
    """Thumbnails are named by the title that follows them, for who cannot see them."""
    for image in doctree.findall(nodes.image):
        if "_thumb" in image["uri"] and not image.get("alt"):
            after = image.parent.next_node(nodes.raw, descend=False, siblings=True)
            title = re.search(r'thumbnail-title">(.*?)</div>', after.astext())
            image["alt"] = f"Figure of: {html.unescape(title[1])}" if title else ""


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


def _mend_backlinks(
    app: Any, pagename: str, templatename: str, context: dict[str, Any], doctree: Any
) -> None:
    """From the source of what is documented under two modules: viewcode takes one."""
    if pagename.startswith("_modules/"):
        context["body"] = re.sub(
            r"generated/([\w.]+)\.html#(?!\1)[\w.]+",
            r"generated/\1.html#\1",
            context["body"],
        )


def setup(app: Any) -> None:
    """Connect the functions above."""
    # Before numpydoc, whose priority is 500.
    app.connect("autodoc-process-docstring", _escape_bars, priority=400)
    app.connect("doctree-read", _name_thumbnails)
    app.connect("html-page-context", _mend_backlinks)
    app.connect("build-finished", _say_times)
