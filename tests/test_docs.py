"""The Python blocks of the README and of the site run, page by page, in order."""

import doctest
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def _blocks(page):
    text = page.read_text(encoding="utf-8")
    return re.findall(
        r"^```(?:python|pycon)\n(.*?)^```", text, re.DOTALL | re.MULTILINE
    )


@pytest.mark.slow
@pytest.mark.parametrize("page", [*filter(_blocks, PAGES)], ids=lambda page: page.stem)
def test_python_blocks_run(page, tmp_path, monkeypatch):
    # Whatever the examples write stays out of the repository.
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": page.stem}
    for number, block in enumerate(_blocks(page), 1):
        name = f"{page.name}, block {number}"
        if ">>>" in block:
            _run_doctest(block, namespace, name)
        else:
            exec(compile(block, name, "exec"), namespace)


def _run_doctest(block, namespace, name):
    flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    test = doctest.DocTestParser().get_doctest(block, namespace, name, name, 0)
    runner = doctest.DebugRunner(optionflags=flags)
    runner.run(test, clear_globs=False)
    namespace.update(test.globs)
