"""The README's Python blocks run, in order, in one namespace."""

import doctest
import re
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"


def _blocks():
    text = README.read_text(encoding="utf-8")
    return re.findall(
        r"^```(?:python|pycon)\n(.*?)^```", text, re.DOTALL | re.MULTILINE
    )


@pytest.mark.slow
def test_readme_examples_run(tmp_path, monkeypatch):
    # Whatever the examples write stays out of the repository.
    monkeypatch.chdir(tmp_path)
    blocks = _blocks()
    assert blocks, "the README has no example"
    namespace = {"__name__": "readme"}
    for number, block in enumerate(blocks, 1):
        if ">>>" in block:
            _run_doctest(block, namespace, number)
        else:
            exec(compile(block, f"README.md, block {number}", "exec"), namespace)


def _run_doctest(block, namespace, number):
    flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    test = doctest.DocTestParser().get_doctest(
        block, namespace, f"README block {number}", str(README), 0
    )
    runner = doctest.DebugRunner(optionflags=flags)
    runner.run(test, clear_globs=False)
    namespace.update(test.globs)
