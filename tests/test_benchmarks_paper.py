"""The experiments on the paper: what is kept, what is said of it, what is refused."""

import csv
import json
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
from joblib import parallel_config

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"

if not BENCHMARKS.exists():
    pytest.skip("no benchmarks in this distribution", allow_module_level=True)


@pytest.fixture(autouse=True)
def benchmarks_are_found(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS.parent)


def write_idx(path, values):
    """An IDX file of bytes, as load_idx reads them."""
    values = np.asarray(values, dtype=np.uint8)
    shape = b"".join(length.to_bytes(4, "big") for length in values.shape)
    path.write_bytes(bytes([0, 0, 8, values.ndim]) + shape + values.tobytes())


def write_images(folder, kind="train", n=30, side=3, seed=0, labels=None):
    """Images and labels of a set, by default as many of each."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    write_idx(folder / f"{kind}-images", rng.integers(0, 256, (n, side, side)))
    write_idx(folder / f"{kind}-labels", rng.integers(0, 10, labels or n))
    return folder


def compute_root(cell, source):
    """No number for negative ones, and a warning of it."""
    if cell["x"] < 0:
        warnings.warn("negative", RuntimeWarning, stacklevel=1)
    return {"root": float("nan") if cell["x"] < 0 else cell["x"] ** 0.5}


def report_roots(rows, path):
    path.write_bytes(b"\x89PNG")
    return [{"x": row["x"], "root": row["root"]} for row in rows]


@pytest.fixture
def roots():
    """An experiment of two cells."""
    from benchmarks.paper._experiment import Experiment

    return Experiment(
        name="roots",
        question="What are the roots?",
        cells=lambda quick: [{"x": 4.0, "seed": 3}, {"x": -1.0, "seed": 1}],
        compute=compute_root,
        report=report_roots,
    )


def strict(text):
    """JSON in which NaN is none."""

    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    return json.loads(text, parse_constant=refuse)


def run(experiment, folder, **more):
    from benchmarks.paper._experiment import run

    return run(experiment, folder, True, None, 1, **more)


def test_every_line_says_where_it_is_from(roots, tmp_path):
    from benchmarks._measure import commit, processor

    run(roots, tmp_path)
    lines = (tmp_path / "roots-quick.jsonl").read_text().splitlines()
    first, second = (strict(line) for line in lines if line)
    assert first["cell"] == {"x": 4.0, "seed": 3}
    assert first["row"] == {"root": 2.0}
    assert first["at"] == second["at"]
    assert first["at"]["commit"] == commit()
    assert first["at"]["processor"] == processor()
    assert {"python", "numpy", "scipy", "scikit-learn", "torch"} < first["at"].keys()
    assert (first["at"]["threads"], first["at"]["threads_blas"]) == (1, [1])
    # Warnings are counted, and not shown.
    assert "warned" not in first
    assert second["warned"] == {"RuntimeWarning": 1}


def test_no_number_is_null_in_the_files_and_nan_for_the_report(roots, tmp_path):
    for _ in range(2):
        # The first computes, the second reads.
        summary = run(roots, tmp_path)["summary"]
        assert summary[0]["root"] == 2.0
        assert np.isnan(summary[1]["root"])
        content = strict((tmp_path / "roots-quick.json").read_text())
        assert content["summary"][1]["root"] is None
        assert content["rows"][1]["root"] is None


def test_the_circumstances_are_those_of_the_cells(roots, tmp_path):
    kept = tmp_path / "roots-quick.jsonl"
    kept.write_text('{"cell": {"x": 4.0, "seed": 3}, "row": {"root": -2.0}}\n')
    about = run(roots, tmp_path)["about"]
    assert about["cells"] == {"there": 2, "missing": 0}
    assert about["seeds"] == [1, 3]
    assert about["warned"] == {"RuntimeWarning": 1}
    assert [at["cells"] for at in about["circumstances"]] == [1, 1]
    old, new = about["circumstances"]
    assert old == {"cells": 1, "commit": "unknown"}
    assert new["commit"] != "unknown" or not (BENCHMARKS.parent / ".git").exists()


def test_what_is_published_says_what_it_is_from(roots, tmp_path):
    from benchmarks.paper.__main__ import publish

    about = run(roots, tmp_path)["about"]
    publish(tmp_path / "roots-quick", tmp_path / "page" / "roots", about)
    published = sorted(path.name for path in (tmp_path / "page").iterdir())
    assert published == ["roots.csv", "roots.json", "roots.png"]
    found = strict((tmp_path / "page" / "roots.json").read_text())
    assert found == about
    with (tmp_path / "page" / "roots.csv").open() as file:
        assert [row["x"] for row in csv.DictReader(file)] == ["4.0", "-1.0"]


def test_other_images_are_other_results(tmp_path):
    from benchmarks.paper._data import name_of

    one = write_images(tmp_path / "a" / "images", seed=0)
    same = write_images(tmp_path / "b" / "images", seed=0)
    other = write_images(tmp_path / "c" / "images", seed=1)
    assert name_of(one) == name_of(same) != name_of(other)
    assert name_of(one).startswith("images-")
    assert name_of(None) == "digits"
    # Other labels alone make other results, too.
    write_idx(same / "train-labels", np.zeros(30))
    name_of.cache_clear()
    from benchmarks.paper._data import _load

    _load.cache_clear()
    assert name_of(one) != name_of(same)


def test_a_cell_is_kept_before_a_slower_one_ends(roots, monkeypatch):
    from benchmarks.paper import _experiment

    received = threading.Event()

    def compute(experiment, cell, source):
        # The first ends when what the second gave has come through.
        if cell["x"] == 4.0:
            assert received.wait(timeout=60)
        return cell, {}, {}

    monkeypatch.setattr(_experiment, "_compute_alone", compute)
    order = []
    with parallel_config(backend="threading"):
        for cell, _, _ in _experiment._results(roots, roots.cells(True), None, 2):
            order.append(cell["x"])
            received.set()
    assert order == [-1.0, 4.0]
