"""The demo runs; in full (slow) it reaches the figures that it is there to show."""

import importlib.util
import sys
from pathlib import Path

import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("tqdm")

DEMO = Path(__file__).parents[1] / "examples" / "demo.py"


@pytest.fixture
def demo(monkeypatch):
    """The module examples/demo.py, which belongs to no package."""
    spec = importlib.util.spec_from_file_location("demo", DEMO)
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up while it is being executed.
    monkeypatch.setitem(sys.modules, "demo", module)
    spec.loader.exec_module(module)
    return module


def test_demo_runs_fast(demo, tmp_path, capsys):
    picture = tmp_path / "folder" / "demo.png"
    rows = demo.main(["--fast", "--output", str(picture)])
    assert picture.read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    for row in rows:
        assert row.model in printed
        assert 0.5 < row.accuracy <= 1.0
        assert row.fit_seconds > 0


@pytest.mark.slow
def test_demo_reaches_its_figures(demo, tmp_path):
    rows = demo.main(["--output", str(tmp_path / "demo.png")])
    deq, explicit, ridge = rows[:3]
    assert deq.accuracy >= 0.97
    assert explicit.accuracy >= 0.97
    assert ridge.accuracy >= 0.98
    infinite = explicit.mismatch.partition("/")[0].strip()
    assert infinite.endswith("%")
    assert float(infinite.removesuffix("%")) < 1.0
