"""The experiments on the paper: what is kept, what is said of it, what is refused."""

import copy
import csv
import json
import pickle
import shutil
import subprocess
import threading
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from joblib import parallel_config
from numpy.testing import assert_allclose
from threadpoolctl import threadpool_info

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


# What cells give: of numbers, "MODEL" standing for every model, and of other things.
KINDS = ("exact", "finite", "asymptotic", "explicit", "hermite")
NUMBERS = {
    "spectra": [f"{kind} {what}" for kind in KINDS for what in ("error", "overlap")],
    "size": ["asymptotic", "explicit"],
    "samples": ["asymptotic", "explicit"],
    "accuracy": ["accuracy"],
    "cost": [
        "fit seconds",
        "predict microseconds",
        "FLOPs per sample",
        "accuracy",
        "MB of a fit",
        "making seconds",
    ],
    "data": [f"{kind} {what}" for kind in KINDS for what in ("error", "accuracy")],
    "depth": ["error of itself"],
    "dynamics": ["NTK drift", "NTK alignment"],
    "regularisation": ["MODEL accuracy", "MODEL gap", "MODEL alignment"],
    "sequence": ["score"],
}


def made_up(name, rng):
    """What a cell might give, without computing it."""
    from benchmarks.paper._networks import MODELS

    def number():
        return float(rng.uniform(0.1, 1.0))

    names = (k.replace("MODEL", m) for k in NUMBERS[name] for m in MODELS)
    row = {name: number() for name in names}
    if name == "spectra":
        row["classes"] = list(range(10))
        for kind in KINDS:
            # An asymptotic kernel may have eigenvalues below zero.
            row[f"{kind} eigenvalues"] = [-number(), number(), 10.0 * number()]
            row[f"{kind} vectors"] = rng.standard_normal((2, 10)).tolist()
    if name == "depth":
        found = {"residual": number(), "bound": number(), "error": number()}
        row |= {"depth": 2, "by depth": {"1": found, "2": found}}
    if name == "dynamics":
        row |= {kind: [number() for _ in range(3)] for kind in ("loss", "accuracy")}
    if name == "samples":
        row["architecture"] = "hermite"
    return row


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


def refused(capsys, *arguments):
    """What the command says of what the user gave wrong."""
    from benchmarks.paper.__main__ import main

    with pytest.raises(SystemExit) as stopped:
        main([*arguments])
    assert stopped.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


def write_results(name, path, n=40):
    """Made-up results of some cells of an experiment in full."""
    from benchmarks.paper.__main__ import experiment

    rng = np.random.default_rng(0)
    path.parent.mkdir(exist_ok=True)
    with path.open("w") as file:
        for cell in experiment(name).cells(quick=False)[:n]:
            file.write(json.dumps({"cell": cell, "row": made_up(name, rng)}) + "\n")


def test_full_results_are_published(tmp_path, capsys):
    from benchmarks.paper.__main__ import main

    write_results("size", tmp_path / "out" / "size-full.jsonl")
    arguments = ["size", "--full", "--report", "--output", str(tmp_path / "out")]
    assert main([*arguments, "--publish", str(tmp_path / "page")]) == 0
    about = strict((tmp_path / "page" / "size.json").read_text())
    assert about["size"] == "full"
    assert about["source"] is None
    assert about["cells"] == {"there": 40, "missing": 710}
    assert about["circumstances"] == [{"cells": 40, "commit": "unknown"}]
    assert "40 cells at commit unknown" in capsys.readouterr().out


def test_results_on_images_are_published_by_their_name(tmp_path):
    from benchmarks.paper.__main__ import main
    from benchmarks.paper._sources import name_of

    out, page = tmp_path / "out", tmp_path / "page"
    folder = write_images(tmp_path / "photographs", side=8)
    for source in (None, folder):
        write_results("accuracy", out / f"accuracy-full-{name_of(source)}.jsonl")
        arguments = ["accuracy", "--full", "--report", "--output", str(out)]
        images = [] if source is None else ["--data-home", str(source)]
        assert main([*arguments, *images, "--publish", str(page)]) == 0
    published = {path.stem for path in page.iterdir()}
    assert published == {"accuracy-digits", "accuracy-photographs"}
    about = strict((page / "accuracy-photographs.json").read_text())
    assert about["source"] == name_of(folder)


def test_quick_results_are_not_published(tmp_path, capsys):
    said = refused(capsys, "depth", "--quick", "--publish", str(tmp_path / "page"))
    assert "give --full" in said
    assert not (tmp_path / "page").exists()


@pytest.mark.parametrize("option", ["--output", "--publish"])
def test_results_are_not_written_to_a_file(option, tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    said = refused(capsys, "depth", "--full", option, str(tmp_path / "file"))
    assert "is a file, and must be a folder" in said
    assert (tmp_path / "file").read_text() == "mine"


def test_a_report_on_nothing_fails(tmp_path, capsys):
    from benchmarks.paper.__main__ import main

    assert main(["depth", "--full", "--report", "--output", str(tmp_path)]) == 1
    said = capsys.readouterr().out.splitlines()
    assert said[-1] == "depth: nothing is there; without --report it is computed"


@pytest.mark.parametrize("jobs", ["0", "-3", "two"])
def test_there_is_one_job_at_least(jobs, capsys):
    said = refused(capsys, "depth", "--quick", "--jobs", jobs)
    assert f"'{jobs}' is no number from 1 on" in said


def write_batches(folder, names):
    folder.mkdir(parents=True)
    for name in names:
        batch = {b"data": np.zeros((4, 12), np.uint8), b"labels": [0, 1, 2, 3]}
        (folder / name).write_bytes(pickle.dumps(batch))


def no_folder(folder):
    return "There is no folder"


def empty_folder(folder):
    folder.mkdir()
    return "give the folder that holds them"


def fewer_labels(folder):
    write_images(folder, n=70, labels=60)
    return "train-images has 70 images of shape (3, 3)"


def no_labels(folder):
    (write_images(folder) / "train-labels").unlink()
    return "no train-labels…: add that file"


def images_of_two_sizes(folder):
    write_images(folder, "train", side=3)
    write_images(folder, "t10k", side=4)
    return "(3, 3) in train-images, (4, 4) in t10k-images"


def images_in_a_folder_inside(folder):
    write_images(folder / "raw")
    return f"give {folder / 'raw'}"


def batches_in_a_folder_inside(folder):
    write_batches(folder / "cifar-10-batches-py", ["data_batch_1"])
    return f"give {folder / 'cifar-10-batches-py'}"


def two_batches(folder):
    write_batches(folder, ["data_batch_1", "data_batch_2", "test_batch"])
    return "lacks data_batch_3, data_batch_4, data_batch_5 of CIFAR-10"


def no_test_batch(folder):
    write_batches(folder, [f"data_batch_{i}" for i in range(1, 6)])
    return "lacks test_batch of CIFAR-10"


def no_batch(folder):
    write_batches(folder, [f"data_batch_{i}" for i in range(1, 6)])
    (folder / "test_batch").write_bytes(b"no pickle")
    return "test_batch is no batch of CIFAR-10's"


@pytest.mark.parametrize(
    "write",
    [
        no_folder,
        empty_folder,
        fewer_labels,
        no_labels,
        images_of_two_sizes,
        images_in_a_folder_inside,
        batches_in_a_folder_inside,
        two_batches,
        no_test_batch,
        no_batch,
    ],
)
def test_images_that_will_not_do_are_refused_before_any_cell(write, tmp_path, capsys):
    expected = write(tmp_path / "images")
    output = ["--output", str(tmp_path / "out")]
    said = refused(
        capsys, "all", "--quick", "--data-home", str(tmp_path / "images"), *output
    )
    assert "error: --data-home: " in said
    assert expected in said
    assert not (tmp_path / "out").exists()


def test_all_batches_are_read(tmp_path):
    from benchmarks.paper._sources import load

    batches = [f"data_batch_{i}" for i in range(1, 6)]
    write_batches(tmp_path / "images", [*batches, "test_batch"])
    X, y, n_tested = load(tmp_path / "images")
    assert (X.shape, y.shape, n_tested) == ((24, 12), (24,), 4)


def test_a_stop_says_that_it_goes_on(roots, monkeypatch, tmp_path, capsys):
    from benchmarks.paper import __main__ as command

    def stop(cell, source):
        if cell["x"] < 0:
            raise KeyboardInterrupt
        return {"root": 2.0}

    stopped = replace(roots, compute=stop)
    monkeypatch.setattr(command, "experiment", lambda name: stopped)
    arguments = ["size", "--quick", "--jobs", "1", "--output", str(tmp_path)]
    assert command.main(arguments) == 130
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("Stopped: what is there is kept in")
    kept = (tmp_path / "roots-quick.jsonl").read_text().strip().splitlines()
    assert [json.loads(line)["cell"]["x"] for line in kept] == [4.0]


def test_nothing_is_taken_from_test_rows(monkeypatch):
    from benchmarks.paper import data

    cell = {"data": "wine", "activation": "relu", "p": 0, "seed": 0}
    X, y = data.data_of(cell)
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
    monkeypatch.setattr(data, "data_of", lambda cell: (X, y))
    data.compute(cell, None)
    for (tau0, K), (tau0_again, K_again) in zip(taken[:2], taken[2:], strict=True):
        assert tau0 == tau0_again
        assert_allclose(K, K_again, rtol=1e-12)
    # Standardised training rows have mean square 1.
    assert_allclose(taken[0][0], 1.0)


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


def test_patches_need_a_test_set(tmp_path, capsys):
    from benchmarks.paper.__main__ import main
    from benchmarks.paper._sources import Patches, label_of, load, name_of

    folder = write_images(tmp_path / "images", side=8)
    with pytest.raises(SystemExit):
        main(["accuracy", "--quick", "--patches", "--data-home", str(folder)])
    assert "no test set of its own" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["accuracy", "--quick", "--patches"])
    assert "give --data-home" in capsys.readouterr().err
    write_images(folder, "t10k", side=8, n=10, seed=1)
    load.cache_clear()
    name_of.cache_clear()
    X, y, n_tested = load(Patches(folder))
    assert len(X) == len(y) == 40
    assert n_tested == 10
    assert name_of(Patches(folder)).startswith(name_of(folder) + "-patches-")
    assert label_of(Patches(folder)) == "images-patches"
