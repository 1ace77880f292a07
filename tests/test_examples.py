"""The gallery runs, draws, and uses nothing but what is public.

Most examples take some seconds: one is run by default, the others are `slow`.
"""

import ast
import runpy
from pathlib import Path

import pytest

plt = pytest.importorskip("matplotlib.pyplot")

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("plot_*.py"))
QUICK = {"plot_minimal_depth"}
NEEDS = {"plot_match_onnx": ("onnx", "onnxruntime")}


RUNS = [
    pytest.param(
        path, id=path.stem, marks=() if path.stem in QUICK else pytest.mark.slow
    )
    for path in EXAMPLES
]


@pytest.mark.parametrize("path", RUNS)
def test_example_runs(path, tmp_path, monkeypatch):
    for module in NEEDS.get(path.stem, ()):
        pytest.importorskip(module)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plt, "show", lambda: None)
    plt.close("all")
    runpy.run_path(str(path), run_name="__main__")
    figures = [plt.figure(number) for number in plt.get_fignums()]
    try:
        assert figures
        for figure in figures:
            # Every panel has something in it, and says what.
            for ax in figure.axes:
                assert ax.has_data()
                assert ax.get_title() or ax.get_xlabel() or ax.get_ylabel()
            figure.savefig(tmp_path / "figure.png", dpi=40)
    finally:
        plt.close("all")


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_is_a_page_of_the_gallery(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    title, underline, blank = ast.get_docstring(tree).splitlines()[:3]
    assert underline == "=" * len(title)
    assert not blank
    assert "# %%\n# " in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_is_made_of_public_names(path):
    names = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            names += [*node.module.split("."), *(alias.name for alias in node.names)]
        elif isinstance(node, ast.Attribute):
            names.append(node.attr)
    assert [name for name in names if name.startswith("_")] == []
