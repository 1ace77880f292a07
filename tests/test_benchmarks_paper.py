"""The experiments on the paper: what is kept, what is said of it, what is refused."""

import copy
import csv
import importlib
import json
import shutil
import subprocess
import threading
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from joblib import parallel_config
from numpy.testing import assert_allclose, assert_array_equal, assert_equal
from threadpoolctl import threadpool_info

from tests.experiments import (
    NUMBERS,
    made_up,
    roots_experiment,
    strict,
    write_idx,
    write_images,
)

pytestmark = pytest.mark.usefixtures("benchmarks")


@pytest.fixture
def roots():
    return roots_experiment()


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
    assert first["at"]["bfloat16_units"] in ("matrix", "vector", "")
    assert first["at"]["memory_GB"] > 0
    # Warnings are counted, and not shown.
    assert "warned" not in first
    assert second["warned"] == {"RuntimeWarning": 1}


def test_a_commit_during_a_run_is_not_its_commit(monkeypatch):
    from benchmarks import _measure
    from benchmarks.paper._results import here

    before = here()["commit"]
    monkeypatch.setattr(_measure, "commit", lambda: "later")
    assert here()["commit"] == before


def test_no_number_is_null_in_the_files_and_nan_for_the_report(roots, tmp_path):
    for _ in range(2):
        # The first computes, the second reads.
        summary = run(roots, tmp_path)["summary"]
        assert summary[0]["root"] == 2.0
        assert np.isnan(summary[1]["root"])
        content = strict((tmp_path / "roots-quick.json").read_text())
        assert content["summary"][1]["root"] is None
        assert content["rows"][1]["root"] is None


def test_the_circumstances_are_those_of_the_cells(roots, benchmarks, tmp_path):
    kept = tmp_path / "roots-quick.jsonl"
    kept.write_text('{"cell": {"x": 4.0, "seed": 3}, "row": {"root": -2.0}}\n')
    about = run(roots, tmp_path)["about"]
    assert about["cells"] == {"there": 2, "missing": 0}
    assert about["seeds"] == [1, 3]
    assert about["warned"] == {"RuntimeWarning": 1}
    assert [at["cells"] for at in about["circumstances"]] == [1, 1]
    old, new = about["circumstances"]
    assert old == {"cells": 1, "commit": "unknown"}
    assert new["commit"] != "unknown" or not (benchmarks.parent / ".git").exists()


def test_lines_that_are_no_cells_are_named(roots, tmp_path, capsys):
    kept = tmp_path / "roots-quick.jsonl"
    cell = '{"cell": {"x": 4.0, "seed": 3}, "row": {"root": -2.0}}'
    # Two in a line, as of files put together, and one cut off by a stop.
    kept.write_text(f"{cell}\n{cell}{cell}\n{cell[:30]}")
    assert run(roots, tmp_path)["about"]["cells"] == {"there": 2, "missing": 0}
    said = capsys.readouterr().err
    assert "line 2 is no cell, skipped" in said
    assert "line 3 is no cell, skipped" in said
    assert "line 1 is" not in said


def test_what_is_published_says_what_it_is_from(roots, tmp_path):
    from benchmarks.paper._publish import publish

    done = run(roots, tmp_path)
    publish(roots, done, tmp_path / "roots-quick", tmp_path / "page" / "roots")
    published = sorted(path.name for path in (tmp_path / "page").iterdir())
    assert published == ["roots.csv", "roots.json", "roots.png"]
    found = strict((tmp_path / "page" / "roots.json").read_text())
    assert found == done["about"]
    with (tmp_path / "page" / "roots.csv").open() as file:
        assert [row["x"] for row in csv.DictReader(file)] == ["4.0", "-1.0"]


def test_of_rows_published_before_those_of_more_seeds_stay(benchmarks):
    from benchmarks.paper._publish import joined

    def row(width, seeds, pairs, value):
        return {"width": width, "value": value, "seeds": seeds, "pairs": pairs}

    before = [
        row(1, 10, 10, 0.1),
        row(2, 1, 1, 0.2),
        row(3, 5, 5, 0.3),
        row(4, 2, 2, 0),
    ]
    now = [row(5, 1, 0, 0.5), row(3, 6, 1, 0.9), row(2, 3, 3, 0.4), row(1, 2, 2, 0.7)]
    rows, places = joined(before, now, ("width",))
    assert {each["width"]: each["value"] for each in rows} == {
        1: 0.1,  # more seeds
        2: 0.4,
        3: 0.3,  # more that it is compared with
        4: 0,
        5: 0.5,
    }
    assert places == [0, None, 2, 3, None]
    assert joined(before, before, ("width",)) == (before, [None] * 4)
    assert joined([], now, ("width",)) == (now, [None] * 4)


def test_rows_are_traced_to_the_run_that_they_are_from(benchmarks):
    from benchmarks.paper._publish import origins

    first = {"run": 1} | origins({"run": 0}, [0, None, 2])
    assert first == {"run": 1, "runs of rows": [1, 0, 1], "earlier runs": [{"run": 0}]}
    second = {"run": 2} | origins(first, [0, 1, None, None])
    assert second["runs of rows"] == [2, 1, 0, 0]
    assert second["earlier runs"] == [{"run": 1}, {"run": 0}]
    # The first run's last row is replaced.
    third = origins(second, [0, None, 2, 3])
    assert third["runs of rows"] == [2, 0, 1, 1]
    assert third["earlier runs"] == [{"run": 2}, {"run": 0}]


def test_a_table_is_read_as_it_was_written(benchmarks, tmp_path):
    from benchmarks.paper._results import read_csv, write_csv

    rows = [
        {"model": "deq", "width": 32, "accuracy": 0.1 + 0.2, "error": float("nan")},
        {"model": "inverse", "width": 0, "accuracy": -1e-300, "error": 1.0},
    ]
    write_csv(tmp_path / "table.csv", rows)
    found = read_csv(tmp_path / "table.csv")
    assert_equal(found, rows)
    assert [type(value) for value in found[1].values()] == [str, int, float, float]


def test_other_images_are_other_results(tmp_path):
    from benchmarks.paper._sources import load, name_of

    one = write_images(tmp_path / "a" / "images", seed=0)
    same = write_images(tmp_path / "b" / "images", seed=0)
    other = write_images(tmp_path / "c" / "images", seed=1)
    assert name_of(one) == name_of(same) != name_of(other)
    assert name_of(one).startswith("images-")
    assert name_of(None) == "digits"
    # Other labels alone make other results, too.
    write_idx(same / "train-labels", np.zeros(30))
    name_of.cache_clear()
    load.cache_clear()
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


@pytest.mark.filterwarnings("ignore:No artists with labels found:UserWarning")
@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize(
    "part",
    [slice(1), slice(2), slice(7), slice(-1, None), slice(3, None, 7), slice(None)],
    ids=["first", "two", "seven", "last", "seventh", "all"],
)
def test_a_report_takes_what_is_there(name, part, tmp_path):
    from benchmarks.paper.__main__ import experiment

    found, rng = experiment(name), np.random.default_rng(0)
    cells = found.cells(quick=False)[part]
    rows = [{**cell, **made_up(name, rng)} for cell in cells]
    summary = found.report(rows, tmp_path / "figure.png")
    assert summary
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
    for line in summary:
        # Nothing but strings, numbers and None; JSON has it all.
        json.dumps(line)


@pytest.mark.parametrize(
    "name", ["accuracy", "data", "regularisation", "samples", "size", "width"]
)
def test_a_figure_is_drawn_anew_from_its_table(name, tmp_path):
    from benchmarks.paper import __main__, _results

    experiment, rng = __main__.experiment(name), np.random.default_rng(0)
    cells = experiment.cells(quick=False)[::3]
    cells = [cell for cell in cells if cell.get("activation") != "tanh"]
    rows = [{**cell, **made_up(name, rng)} for cell in cells]
    summary = experiment.report(rows, tmp_path / "report.png")
    _results.write_csv(tmp_path / "table.csv", summary)
    table = _results.read_csv(tmp_path / "table.csv")
    importlib.import_module(f"benchmarks.paper.{name}").draw(
        table, tmp_path / "drawn.png"
    )
    first, second = (tmp_path / f"{of}.png" for of in ("report", "drawn"))
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize(("seeds", "opened"), [(10, set()), (4, {1024})])
def test_points_of_fewer_seeds_are_open(seeds, opened, monkeypatch, tmp_path):
    from benchmarks.paper import accuracy

    points, legends = set(), []

    def band(panel, found, label, **more):
        if more.get("mfc") == "white":
            points.update(width for width, *_ in found)

    def legend(panels):
        legends.extend(panels[-1, -1].get_legend_handles_labels()[1])

    monkeypatch.setattr(accuracy, "band", band)
    monkeypatch.setattr(accuracy, "legend_below", legend)
    cells = [c for c in accuracy.cells(quick=False) if c["trainable"] == "readout"]
    cells = [c for c in cells if c["width"] != 1024 or c["seed"] < seeds]
    rows = [{**cell, "accuracy": 0.1 * cell["seed"]} for cell in cells]
    accuracy.report(rows, tmp_path / "figure.png")
    assert points == opened
    assert ("fewer than 10 seeds" in legends) == bool(opened)


def test_strengths_at_which_no_network_learns_are_off_the_line(monkeypatch, tmp_path):
    from benchmarks.paper import regularisation

    def row(by, strength, gap):
        gaps = {f"{model} gap": gap for model in regularisation.PARTNERS}
        return {**made, "by": by, "strength": strength, "seed": 0, **gaps}

    made = made_up("regularisation", np.random.default_rng(0))
    found = []
    monkeypatch.setattr(
        regularisation,
        "band",
        lambda panel, points, label, **more: found.append(
            ([x for x, *_ in points], more.get("ls"))
        ),
    )
    rows = [row("weight_decay", 1e-3, 0.1), row("weight_decay", 1e-2, 0.0)]
    rows += [row("patience", strength, 0.1) for strength in (0, 1, 2, 4)]
    regularisation.report(rows, tmp_path / "figure.png")
    decay, off, patience = ([1e-3], None), ([1e-2], ""), ([0, 3, 2, 1], None)
    for drawn in (decay, off, patience):
        assert found.count(drawn) == 2 * len(regularisation.PARTNERS)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:No artists with labels found:UserWarning")
@pytest.mark.parametrize("name", NUMBERS)
def test_a_report_takes_the_first_cells(name, tmp_path):
    from benchmarks.paper.__main__ import experiment
    from benchmarks.paper._experiment import one_thread

    found = experiment(name)
    cells = found.cells(quick=True)[:4]
    with one_thread(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rows = [{**cell, **found.compute(cell, None)} for cell in cells]
    for k in range(1, len(rows) + 1):
        assert found.report(copy.deepcopy(rows[:k]), tmp_path / f"{k}.png")
        assert (tmp_path / f"{k}.png").exists()


def test_every_experiment_is_tested():
    from benchmarks.paper.__main__ import NAMES

    assert set(NUMBERS) == set(NAMES)


def test_of_nothing_there_is_no_report(roots, tmp_path):
    folder = tmp_path / "none"
    assert run(roots, folder, only_report=True) is None
    assert not folder.exists()


def test_nothing_is_taken_from_test_rows(monkeypatch):
    from benchmarks.paper import data

    cell = {"data": "wine", "activation": "relu", "p": 0, "seed": 0}
    X, y = data.data_of("wine", 0, 0)
    split = data.StratifiedShuffleSplit(1, test_size=0.3, random_state=0)
    train, test = next(split.split(X, y))
    taken = []

    def kernels(X, *arguments, **settings):
        found = own(X, *arguments, **settings)
        taken.append((found.moments.tau0, found.exact[np.ix_(train, train)]))
        return found

    own = data.kernels
    monkeypatch.setattr(data, "kernels", kernels)
    data.compute(cell, None)
    # Test rows of another scale change nothing between training rows.
    X = X.copy()
    X[test] *= 10.0
    monkeypatch.setattr(data, "data_of", lambda *_: (X, y))
    data.compute(cell, None)
    for (tau0, K), (tau0_again, K_again) in zip(taken[:2], taken[2:], strict=True):
        assert tau0 == tau0_again
        # Rounding only: tables of the kernel are for the norms of all rows.
        assert_allclose(K, K_again, rtol=1e-12, atol=1e-14)
    # Standardised training rows have mean square 1.
    assert_allclose(taken[0][0], 1.0)


def test_texts_are_of_the_modules_and_their_words_of_the_training_rows():
    from benchmarks.paper import data
    from benchmarks.paper._texts import MODULES, docstrings

    texts, modules = docstrings()
    assert len(texts) == len(set(texts)) == len(modules) > 500
    assert list(np.unique(modules)) == list(range(len(MODULES)))
    for text, module in zip(texts, modules, strict=True):
        if text.startswith("Convolve two"):
            assert MODULES[module] == "signal"
    assert not any("\n---" in text for text in texts)
    assert not any("scipy." in text for text in texts)
    texts = np.array(["one two two", "two three", "three", "four four"], dtype=object)
    for name in data.TEXTS:
        X = data.prepared(name, texts, np.arange(3), 10)
        assert X.shape == (4, 3)  # of the training rows: one, three, two
        assert_allclose(np.mean(X[:3] ** 2), 1.0)
        assert_array_equal(X > 0, [[1, 0, 1], [0, 1, 1], [0, 1, 0], [0, 0, 0]])
        assert data.prepared(name, texts, np.arange(3), 2).shape == (4, 2)


def test_of_a_docstring_its_own_words_are_taken():
    from benchmarks.paper._texts import opening

    words = "Bessel function K(z)\n\nof the second kind (real)"
    for signature in (
        "",
        "kv(v, z)\n\n",
        "kv(x1, out=(None, None),\n   x2)\nkv(v)\n\n",
    ):
        for section in ("", "\n\nMethods\n-------\nz", "\n\n  See Also\n  ---\n"):
            assert opening(signature + words + section) == words
    assert opening("as `scipy.special.kv` of scipy") == "as `` of"


@pytest.mark.parametrize("name", ["unit-wine", "unit-student-3"])
def test_norms_alone_differ_between_sets_with_and_without_them(name, monkeypatch):
    from benchmarks.paper import data

    taken = []

    def kernels(X, *arguments, **settings):
        taken.append(X)
        return own(X, *arguments, **settings)

    own = data.kernels
    monkeypatch.setattr(data, "kernels", kernels)
    cell = {"activation": "tanh", "p": 50, "seed": 0}
    unit, other = (
        data.compute({**cell, "data": each}, None)
        for each in (name, name.removeprefix("unit-"))
    )
    assert unit["norm spread"] < 1e-14 < other["norm spread"]
    X, _, before, _ = taken
    assert_allclose(np.mean(X**2, axis=1), 1.0)
    ratio = np.linalg.norm(before, axis=1) / np.sqrt(before.shape[1])
    assert_allclose(X * ratio[:, None], before)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("trainable", ["readout", "all"])
@pytest.mark.parametrize("model", ["deq", "paper", "hermite"])
def test_networks_are_as_accurate_on_another_device(model, trainable):
    from benchmarks.paper.accuracy import cells, compute

    settings = {"model": model, "trainable": trainable, "width": 64, "variance": 0.2}
    cell = next(c for c in cells(quick=True) if settings.items() <= c.items())
    found, wanted = (compute(cell, None, each) for each in ("cuda", "cpu"))
    # The same weights and order of rows; rounding may move a few of 360 test images
    # after many updates.
    assert abs(found["accuracy"] - wanted["accuracy"]) < 0.02


def test_a_device_is_handed_to_what_can_use_it(roots, tmp_path):
    given = []

    def compute(cell, source, **more):
        given.append(more)
        return {"root": 1.0}

    for devices in (False, True):
        experiment = replace(roots, compute=compute, devices=devices)
        run(experiment, tmp_path / str(devices), device="cpu")
    assert given == [{}, {}, {"device": "cpu"}, {"device": "cpu"}]


def test_work_is_timed_on_one_thread():
    from benchmarks.paper._experiment import one_thread

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    with one_thread():
        assert torch.get_num_threads() == 1
        infos = threadpool_info()
        assert {i["num_threads"] for i in infos if i["user_api"] == "blas"} == {1}
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before)


@pytest.mark.skipif(shutil.which("git") is None, reason="needs Git")
def test_tables_do_not_make_the_commit_dirty(tmp_path, monkeypatch):
    from benchmarks import _measure

    def git(*arguments):
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        command = ["git", "-C", str(tmp_path), *who, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True)

    monkeypatch.setattr(_measure, "__file__", str(tmp_path / "code.py"))
    git("init")
    for name in ("code.py", "table.csv"):
        (tmp_path / name).write_text("1")
    git("add", ".")
    git("commit", "-m", "first")
    first = git("rev-parse", "HEAD").stdout.strip()
    (tmp_path / "table.csv").write_text("2")
    assert _measure.commit() == first
    (tmp_path / "code.py").write_text("2")
    assert _measure.commit() == f"{first}-dirty"


def test_differences_are_paired_by_seed():
    from benchmarks.paper._experiment import paired

    rows = [{"seed": s, "x": 10.0 * s + d} for s, d in enumerate((1.0, 2.0, 3.0))]
    others = [{"seed": s, "x": 10.0 * s} for s in (0, 1, 7)]
    mean, error, number = paired(rows, others, "x")
    assert (mean, number) == (1.5, 2)
    # Without the seeds, whose spread is ten times that.
    assert_allclose(error, 0.5)
    assert paired(rows, [], "x")[2] == 0


@pytest.mark.parametrize(("trainable", "kernel"), [("readout", "ck"), ("all", "ntk")])
def test_the_limit_has_the_kernel_of_what_is_trained(trainable, kernel, monkeypatch):
    from benchmarks.paper import accuracy

    def spy(*arguments, **settings):
        asked.add(settings["kernel"])
        return accuracy_kernel(*arguments, **settings)

    asked, accuracy_kernel = set(), accuracy.deq_kernel
    monkeypatch.setattr(accuracy, "deq_kernel", spy)
    cells = [c for c in accuracy.cells(quick=True) if c["model"] == "kernel"]
    cell = next(c for c in cells if c["trainable"] == trainable)
    # Digits are easy: one in five hundred is a standard error of 0.02.
    assert accuracy.compute(cell | {"n": 300}, None)["accuracy"] > 0.9
    assert asked == {kernel}


def test_tables_count_cells_that_were_warned_of(tmp_path):
    from benchmarks.paper import accuracy

    cells = [c for c in accuracy.cells(quick=True) if c["model"] == "deq"]
    rows = [{**c, "accuracy": 0.5, "warnings": 3 * c["seed"]} for c in cells]
    summary = accuracy.report(rows, tmp_path / "figure.png")
    assert {(line["seeds"], line["warned"]) for line in summary} == {(2, 1)}


def test_architectures_are_those_of_the_sizes():
    from benchmarks.paper.size import _architectures

    found = {250: "three_piece", 500: "three_piece", 1000: "rounded"}
    rows = [{"p": p, "architecture": name} for p, name in found.items()]
    assert _architectures(rows[::-1]) == "three_piece, rounded from p=1000"
    rows.append({"p": 1000, "architecture": "three_piece"})
    assert _architectures(rows) == "three_piece, rounded or three_piece from p=1000"


def test_the_pendulum_is_predicted_from_what_is_known():
    from benchmarks.paper.sequence import _pendulum

    X, Y = _pendulum(np.random.default_rng(0))
    assert (len(X), Y.shape) == (4000 - 5 - 31, (len(X), 3))
    # The window of five samples later ends with what was to be predicted.
    last = X[:, 31 * 4 : 31 * 4 + 3]
    assert_allclose(last[5:], Y[:-5])
    # The drive between is known: it is that of later windows.
    drive = X[:, 31 * 4 + 3]
    for step in range(4):
        assert_allclose(X[: -step - 1, 32 * 4 + step], drive[step + 1 :])


def test_values_are_chosen_on_the_last_tenth_of_the_training_rows():
    from benchmarks.paper._choice import best, choose, often

    asked = []

    def fit(data, value):
        asked.append([part.tolist() for part in data])
        return -abs(value - 2.0)

    X, y = np.arange(20.0), np.arange(20)
    data = X, y, np.array([99.0]), np.array([99])
    assert choose((1.0, 2.5, 4.0), fit, data) == 2.5
    parts = [list(range(18)), list(range(18)), [18, 19], [18, 19]]
    assert asked == [parts] * 3
    # Of equals the least, though rounding may tell them apart; never NaN.
    assert best({2.5: 0.1 + 0.2, 1.0: 0.3, 4.0: float("nan")}) == 1.0
    chosen = [{"chosen": value} for value in (1.0, 0.5, 0.25, 0.25)]
    assert often(chosen) == "0.25 (2), 0.5 (1), 1 (1)"


def test_rates_are_scored_on_images_that_were_not_trained_on(monkeypatch):
    from benchmarks.paper import rates
    from benchmarks.paper._networks import Curves

    tried, tested = [], []

    def train(body, data, *, epochs, lr, seed, every_epoch):
        tried.append((lr, *(len(part) for part in data)))
        return Curves(scores=[lr], readout=lr)

    def evaluate(body, readout, X, y):
        tested.append((readout, len(X), len(y)))
        return 2 * readout

    monkeypatch.setattr(rates, "train", train)
    monkeypatch.setattr(rates, "evaluate", evaluate)
    cell = next(c for c in rates.cells(quick=True) if c["model"] == "single")
    # Cells of another choice are other cells: results of it are not taken for these.
    assert cell["held_out"] == rates.HELD_OUT
    row = rates.compute(cell | {"held_out": 7}, None)
    assert row["held out"] == {f"{rate:g}": rate for rate in rates.RATES}
    assert row["test"] == {f"{rate:g}": 2 * rate for rate in rates.RATES}
    n, n_test = cell["n"], cell["n"] // 4
    assert tried == [(rate, n, n, 7, 7) for rate in rates.RATES]
    assert tested == [(rate, n_test, n_test) for rate in rates.RATES]


@pytest.mark.parametrize("n_tested", [0, 20])
@pytest.mark.parametrize("n_train", [50, 72, 73, 80])
@pytest.mark.parametrize("n_held_out", [5, 1000])
def test_images_to_choose_by_are_no_others(monkeypatch, n_tested, n_train, n_held_out):
    """Where few are left they are a tenth of those to train on."""
    from benchmarks.paper import _data

    # Of images of one brightness each, which is their label.
    X, y = np.repeat(np.arange(100.0)[:, None], 2, axis=1), np.arange(100)
    monkeypatch.setattr(_data, "load", lambda source: (X, y, n_tested))
    sizes = n_train, 20, 3
    drawn = _data.images(None, *sizes)
    data, held = _data.images_to_choose_by(None, *sizes, n_held_out)
    left = 80 - n_train
    if left >= n_train // 10:
        for ours, theirs in zip(data, drawn, strict=True):
            assert_array_equal(ours, theirs)
        assert len(held[1]) == min(n_held_out, left)
        assert not set(held[1]) & {*data[1], *data[3]}
    else:
        assert_array_equal(np.concatenate([data[1], held[1]]), drawn[1])
        assert len(data[1]) == n_train * 9 // 10
    assert_array_equal(data[3], drawn[3])
    # The mean and the scale are those of the images to train on.
    mean, scale = data[1].mean(), data[1].std()
    for rows, labels in (data[:2], data[2:], held):
        assert_allclose(rows.T, [(labels - mean) / scale] * 2, atol=1e-14)


def test_rates_are_those_of_the_accuracies():
    """What is told of one rate must be what the other experiment has."""
    from benchmarks.paper import accuracy, rates

    settings = {"model": "paper", "trainable": "all", "width": 32, "seed": 0}
    cell = next(c for c in accuracy.cells(quick=True) if settings.items() <= c.items())
    ours = next(c for c in rates.cells(quick=True) if c["model"] == "paper")
    ours |= {"n": cell["n"], "width": 32, "epochs": 10}
    found = rates.compute(ours, None)
    full = {cell["epochs"] for cell in rates.cells(quick=False)}
    assert full == {10}
    expected = accuracy.compute(cell, None)["accuracy"]
    assert found["test"][f"{accuracy.RATE:g}"] == expected


@pytest.mark.parametrize("model", ["deq", "paper", "kernel"])
def test_penalties_are_multiples_of_the_size_and_one_is_that_of_the_accuracies(
    monkeypatch, model
):
    from benchmarks.paper import accuracy, penalties

    settings = {"model": model, "trainable": "readout", "variance": 0.2, "seed": 0}
    cell = next(c for c in accuracy.cells(quick=True) if settings.items() <= c.items())
    ours = next(
        c
        for c in penalties.cells(quick=True)
        if (c["model"], c["variance"]) == (model, 0.2)
    )
    ours |= {"n": cell["n"], "held_out": 100}
    row = penalties.compute(ours, None)
    assert row["given"] == accuracy.compute(cell, None)["accuracy"]
    # As if that one had been the multiple.
    monkeypatch.setattr(penalties, "PENALTIES", (accuracy.ALPHA / row["size"],))
    again = penalties.compute(ours, None)
    assert list(again["test"].values()) == [row["given"]]
    assert len(row["test"]) == len(row["held out"]) == 11


def test_kernels_of_other_sizes_are_compared_by_their_nearest_multiples():
    from benchmarks.paper.depth import _distance_of_multiple

    rng = np.random.default_rng(0)
    Z = rng.standard_normal((30, 40))
    K = Z @ Z.T
    assert _distance_of_multiple(3.0 * K, K) < 1e-8
    # 0.8 times eigenvalues 1 and 4 are 1.2 from 2 on either side.
    found = _distance_of_multiple(np.diag([1.0, 4.0, 1.0]), np.diag([2.0, 2.0, 2.0]))
    assert_allclose(found, 0.6, rtol=1e-6)
