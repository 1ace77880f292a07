"""The Python blocks of the README and of the site run, page by page, in order."""

import csv
import doctest
import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def _blocks(page):
    text = page.read_text(encoding="utf-8")
    return re.findall(
        r"^```(?:python|pycon)\n(.*?)^```", text, re.DOTALL | re.MULTILINE
    )


def _printed(page):
    """Pairs of a block and of what the page says it prints."""
    text = page.read_text(encoding="utf-8")
    pattern = r"^```python\n(.*?)^```\n\nIt prints\n\n```\n(.*?)^```"
    return re.findall(pattern, text, re.DOTALL | re.MULTILINE)


@pytest.mark.slow
@pytest.mark.parametrize("page", [*filter(_printed, PAGES)], ids=lambda page: page.stem)
def test_python_blocks_print_what_is_said(page, tmp_path, monkeypatch, capsys):
    """Words to the letter; numbers to a tenth, as other machines round otherwise."""
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": page.stem}
    number = r"-?\d+(?:\.\d+)?(?:e[-+]\d+)?"
    for block, expected in _printed(page):
        exec(compile(block, page.name, "exec"), namespace)
        found = capsys.readouterr().out
        assert re.sub(number, "#", found) == re.sub(number, "#", expected)
        values = (map(float, re.findall(number, text)) for text in (found, expected))
        for one, other in zip(*values, strict=True):
            assert one == pytest.approx(other, rel=0.1)


def test_accuracies_of_the_readme_are_those_of_the_table():
    with (ROOT / "docs" / "small_data.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    text = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    said = re.search(
        r"on (\d+) UCI sets its mean accuracy is ([\d.]+) %, that of an NTK machine "
        r"([\d.]+) % and of a forest ([\d.]+) %",
        text,
    )
    columns = ("DEQ kernel ridge", "NTK, SVM, published", "random forest")
    means = [np.mean([float(row[name]) for row in rows]) for name in columns]
    assert said.groups() == (str(len(rows)), *(f"{mean:.1f}" for mean in means))


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


def test_dead_links_and_unnamed_images_of_the_site_are_found(tmp_path):
    spec = importlib.util.spec_from_file_location(
        "check_site", ROOT / "docs" / "check_site.py"
    )
    check_site = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(check_site)
    assert check_site.faults(tmp_path) == [f"no pages in {tmp_path}"]
    page = tmp_path / "index.html"
    page.write_text('<a href="#top"></a><p id="top"></p><a href="https://x.org/y">')
    other = tmp_path / "folder" / "other.html"
    other.parent.mkdir()
    other.write_text('<a href="../index.html#top"></a><img src="../a%20b.png" alt="b">')
    (tmp_path / "a b.png").touch()
    assert check_site.faults(tmp_path) == []
    page.write_text('<a href="folder/other.html#top"></a><img src="missing.png">')
    assert sorted(check_site.faults(tmp_path)) == [
        "folder/other.html: dead link: ../index.html#top",
        "index.html: dead link: folder/other.html#top",
        "index.html: dead link: missing.png",
        "index.html: image without a text: missing.png",
    ]
