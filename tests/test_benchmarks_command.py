"""The command of the experiments on the paper: what it takes, writes and refuses."""

import json
import pickle
from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_equal

from tests.experiments import made_up, roots_experiment, strict, write_images

pytestmark = pytest.mark.usefixtures("benchmarks")


@pytest.fixture
def roots():
    return roots_experiment()


def refused(capsys, *arguments):
    """What the command says of what the user gave wrong."""
    from benchmarks.paper.__main__ import main

    with pytest.raises(SystemExit) as stopped:
        main([*arguments])
    assert stopped.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


def write_results(name, path, n=40, commit="unknown", **where):
    """Made-up results of the first cells of an experiment in full, or of some."""
    from benchmarks.paper.__main__ import experiment

    rng = np.random.default_rng(0)
    path.parent.mkdir(exist_ok=True)
    cells = [
        cell
        for cell in experiment(name).cells(quick=False)
        if all(cell[setting] in values for setting, values in where.items())
    ]
    with path.open("w") as file:
        for cell in cells[:n]:
            entry = {"cell": cell, "row": made_up(name, rng), "at": {"commit": commit}}
            file.write(json.dumps(entry) + "\n")


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


def test_seeds_are_added_to_what_was_published(tmp_path):
    from benchmarks.paper.__main__ import main
    from benchmarks.paper._results import read_csv

    page = tmp_path / "page"

    def publish(run, **where):
        kept = tmp_path / run / "accuracy-full-digits.jsonl"
        write_results("accuracy", kept, None, run, trainable=("all",), **where)
        arguments = ["accuracy", "--full", "--report", "--output", str(kept.parent)]
        assert main([*arguments, "--publish", str(page)]) == 0
        table = read_csv(page / "accuracy-digits.csv")
        return table, strict((page / "accuracy-digits.json").read_text())

    before, first = publish("first", width=(32,), seed=range(4))
    assert {row["seeds"] for row in before} == {4}
    figure = (page / "accuracy-digits.png").read_bytes()
    # Another width, and fewer seeds of the first one; then more of them.
    for seeds in (2, 3):
        table, about = publish("second", width=(32, 128), seed=range(seeds))
        assert_equal(table[: len(before)], before)
        assert [row["seeds"] for row in table[len(before) :]] == [seeds] * len(before)
        assert about["runs of rows"] == [1] * len(before) + [0] * len(before)
        assert about["earlier runs"] == [first]
        # The first run's four seeds count, and the second's of the other width.
        assert about["cells"]["there"] == (4 + seeds) * len(before)
        assert sum(about["cells"].values()) == sum(first["cells"].values())
        assert about["cells of this run"]["there"] == 2 * seeds * len(before)
        assert about["seeds"] == first["seeds"]
    assert (page / "accuracy-digits.png").read_bytes() != figure
    # More seeds of the first.
    table, about = publish("third", width=(32,), seed=range(5))
    assert [row["seeds"] for row in table] == [5] * len(before) + [3] * len(before)
    assert about["runs of rows"] == [0] * len(before) + [1] * len(before)
    (second,) = about["earlier runs"]
    assert second["circumstances"][0]["commit"] == "second"


@pytest.mark.parametrize(
    ("name", "said"),
    [("depth", "depth is computed on the CPU alone"), ("accuracy", "no CUDA device")],
)
def test_devices_that_cannot_be_had_are_refused(name, said, capsys, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert said in refused(capsys, name, "--quick", "--device", "cuda")


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


def test_a_folder_that_cannot_be_made_is_refused_before_any_cell(tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    below = tmp_path / "file" / "results"
    said = refused(capsys, "depth", "--quick", "--output", str(below))
    assert "error: --output: " in said
    assert str(below) in said


def test_cells_of_some_settings_alone(roots, monkeypatch, tmp_path, capsys):
    from benchmarks.paper import __main__ as command

    monkeypatch.setattr(command, "experiment", lambda name: roots)
    arguments = ["size", "--quick", "--jobs", "1", "--output", str(tmp_path)]
    assert command.main([*arguments, "--only", "x=4.0,-1.0", "seed=3"]) == 0
    kept = (tmp_path / "roots-quick.jsonl").read_text().strip().splitlines()
    assert [json.loads(line)["cell"]["x"] for line in kept] == [4.0]
    # What is left goes on from there.
    assert command.main(arguments) == 0
    kept = (tmp_path / "roots-quick.jsonl").read_text().strip().splitlines()
    assert [json.loads(line)["cell"]["x"] for line in kept if line] == [4.0, -1.0]
    said = refused(capsys, *arguments, "--only", "x=4.0", "seed=1")
    assert said.endswith(
        "no cell of size with --quick has them all; there are x: 4.0, -1.0; seed: 1, 3"
    )
    assert "'width' is not like width=1024" in refused(
        capsys, *arguments, "--only", "width"
    )


@pytest.mark.parametrize(
    ("name", "given", "said"),
    [
        (
            "accuracy",
            "model=deq,hermit",
            "'hermit' is no model of accuracy with --quick; there are deq, paper, "
            "plain, kernel, single, hermite. Did you mean 'hermite'?",
        ),
        # That of --full.
        (
            "accuracy",
            "width=32,4096",
            "'4096' is no width of accuracy with --quick; there are 0, 32, 64.",
        ),
        (
            "depth",
            "activations=relu",
            "'activations' is no setting of depth with --quick; there are activation, "
            "variance, kernel. Did you mean 'activation'?",
        ),
        (
            "all",
            "optimizer=sdg",
            "'sdg' is no optimizer of any of these experiments with --quick; there are "
            "sgd, adam. Did you mean 'sgd'?",
        ),
    ],
)
def test_settings_that_no_cell_has_are_named(name, given, said, capsys):
    found = refused(capsys, name, "--quick", "--only", "activation=relu", given)
    assert found.endswith(f"error: --only: {said}")


def test_of_several_experiments_one_may_have_a_setting(tmp_path, capsys):
    from benchmarks.paper.__main__ import NAMES, main

    for name, width in (("width", 64), ("accuracy", 64), ("accuracy", 32)):
        kept = tmp_path / f"{name}-full-digits.jsonl"
        write_results(name, kept, n=2, width=(width,))
    arguments = ["all", "--full", "--report", "--output", str(tmp_path), "--only"]
    assert main([*arguments, "width=32", "variance=0.2"]) == 0
    said = capsys.readouterr().out
    assert "1 experiment in" in said
    assert "\naccuracy: How accurate" in said
    left_out = said.splitlines()[0].removeprefix("no cells with what --only asks for: ")
    assert {*left_out.split(", "), "accuracy"} == set(NAMES)
    # Each has one of them, none has both.
    said = refused(capsys, *arguments, "optimizer=sgd", "variance=0.2")
    assert "no cell of any of these experiments with --full has them all" in said


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
