"""What reports on the paper's experiments make of their rows."""

import copy
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from sklearn.metrics import accuracy_score, r2_score

TABLES = Path(__file__).parents[1] / "docs" / "paper"

pytestmark = pytest.mark.usefixtures("benchmarks")

published = pytest.mark.skipif(
    not TABLES.exists(), reason="no docs in this distribution"
)


@published
def test_claims_are_those_of_the_published_tables(tmp_path, capsys):
    from benchmarks.paper.claims import main

    folder = shutil.copytree(TABLES, tmp_path / "paper")
    (folder / "claims.csv").unlink()
    assert main([str(folder)]) == 0
    capsys.readouterr()
    new, old = ((f / "claims.csv").read_text("utf-8") for f in (folder, TABLES))
    assert new == old, "run python -m benchmarks.paper.claims"


def write_table(folder, name, *rows):
    from benchmarks.paper._results import write_csv

    write_csv(folder / f"{name}.csv", list(rows))


def test_claims_of_accuracies_are_those_of_tables_made_by_hand(tmp_path):
    from benchmarks.paper.claims import IMAGES, Tables, accuracies, control

    def row(model, accuracy, less, activation="relu", **more):
        return {
            "activation": activation,
            "σ_a²": 0.2,
            "trainable": "readout",
            "model": model,
            "width": 32,
            "accuracy": accuracy,
            "less DEQ": less,
            **more,
        }

    for k, images in enumerate(IMAGES):
        write_table(
            tmp_path,
            f"accuracy-{images}",
            row("kernel", 0.99, "nan", width=0),
            row("paper", 0.8, -0.01 * (k + 1)),
            row("plain", 0.7 - 0.01 * k, -0.2),
            row("hermite", 0.8, 0.001 * k),
            row("hermite", 0.8, 0.5, trainable="all"),
            row("hermite", 0.8, 0.5, trainable="all", width=64),
            row("single", 0.8, -0.6 + 0.1 * k, trainable="all"),
            row("hermite", 0.8, -0.004, activation="tanh"),
            *(row("single", 0.8, 0.02 * k, **{"σ_a²": v}) for v in (0.2, 0.8)),
            *(row("plain", 0.8, 0.01, "tanh", **{"σ_a²": v}) for v in (0.2, 0.8)),
            *(row("paper", 0.8, 0.03, width=w) for w in (128, 256, 1024, 4096)),
            *(
                row("paper", 0.8, 0.04, width=w, activation="tanh")
                for w in (32, 128, 256, 1024, 4096)
            ),
        )
    tables = Tables(tmp_path)
    said = {what: value for _, what, value, _ in accuracies(tables)}
    assert said["hermite, relu, readout (4 settings)"] == "+0.00 to +0.30 points"
    assert said["hermite, tanh, readout (4 settings)"] == "-0.40 to -0.40 points"
    assert said["paper, relu, readout, width 32 (4)"] == "-4.00 to -1.00 points"
    assert said["paper, tanh, readout, width 4096 (4)"] == "+4.00 to +4.00 points"
    assert said["hermite, relu, all weights, CIFAR-10 (4)"] == "+50.00 to +50.00 points"
    said = {what: value for _, what, value, _ in control(tables)}
    assert said["paper less plain, ReLU, readout (4)"] == "+10.00 to +13.00 points"
    assert said["plain less DEQ, ReLU, readout (4)"] == "-20.00 to -20.00 points"
    # By 0.1 on the first set and by nothing on the second, at the one width of both.
    what = "hermite nearer to the DEQ than single, relu, all weights, the two MNISTs"
    assert said[what] == "1 of 2"
    what = "single less DEQ, relu, readout, σ_a² = 0.8, CIFAR-10 (2)"
    assert said[what] == "+4.00 to +6.00 points"


def test_claims_of_rates_are_those_of_tables_made_by_hand(tmp_path):
    from benchmarks.paper.claims import IMAGES, Tables, own_rates
    from benchmarks.paper.rates import CHOICE

    given, own, best = CHOICE.ways

    for k, images in enumerate(IMAGES):
        rows = [
            {
                "activation": activation,
                "model": model,
                f"less DEQ, {given}": -0.01 * (k + 1),
                f"less DEQ, {own}": 0.02 * k,
                f"less DEQ, {best}": 0.03,
            }
            for activation, model in (("relu", "single"), ("tanh", "paper"))
        ]
        write_table(tmp_path, f"rates-{images}", *rows)
    said = {what: value for _, what, value, _ in own_rates(Tables(tmp_path))}
    assert len(said) == 12
    for model in ("single less DEQ, relu", "paper less DEQ, tanh"):
        for some, rate, expected in (
            ("the two MNISTs", given, "-2.00 to -1.00 points"),
            ("the two MNISTs", own, "+0.00 to +2.00 points"),
            ("CIFAR-10", given, "-4.00 to -3.00 points"),
            ("CIFAR-10", own, "+4.00 to +6.00 points"),
            ("CIFAR-10", best, "+3.00 to +3.00 points"),
        ):
            assert said[f"{model}, {some}, {rate}"] == expected


def test_sequences_are_scored_on_the_test_rows_after_a_fit_to_all_others(monkeypatch):
    from benchmarks.paper import sequence

    seen = []

    def ridge(data, penalty):
        seen.append((penalty, *(len(part) for part in data)))
        return -abs(penalty - 1.0)

    monkeypatch.setattr(sequence, "_ridge", ridge)
    cell = next(
        c
        for c in sequence.cells(quick=True)
        if (c["task"], c["model"]) == ("digits", "linear")
    )
    assert sequence.compute(cell, None) == {"score": 0.0, "chosen": 1.0}
    n = 1797
    fitted = n * 3 // 4
    held = fitted * 9 // 10
    parts = (held, held, fitted - held, fitted - held)
    assert seen[:-1] == [(value, *parts) for value in sequence.PENALTIES]
    assert seen[-1] == (1.0, fitted, fitted, n - fitted, n - fitted)


def test_rates_are_chosen_by_held_out_images_and_judged_by_test_images(tmp_path):
    from benchmarks.paper.rates import CHOICE, report

    given, own, best = CHOICE.ways
    rates = ("0.05", "0.1", "0.2")
    held_out = {
        # The third seed's best rate by rounding alone is 0.2.
        "deq": [(0.1, 0.9, 0.8), (0.1, 0.5, 0.8), (0.3, 0.5, 0.5 + 1e-12)],
        "single": [(0.0, 0.7, 0.1), (0.9, 0.8, 0.9), (0.2, 0.1, 0.6)],
    }
    test = {
        "deq": [(0.1, 0.2, 0.3), (0.3, 0.4, 0.5), (0.5, 0.6, 0.4)],
        "single": [(0.2, 0.5, 0.1), (0.4, 0.1, 0.7), (0.6, 0.2, 0.8)],
    }
    rows = [
        {
            "activation": "relu",
            "model": model,
            "seed": seed,
            "held out": dict(zip(rates, found, strict=True)),
            "test": dict(zip(rates, test[model][seed], strict=True)),
        }
        for model, seeds in held_out.items()
        for seed, found in enumerate(seeds)
    ]
    deq, single = report(rows, tmp_path / "figure.png")
    assert (deq[best], single[best]) == (0.2, 0.1)
    assert deq["own rate, seeds"] == "0.1 (2), 0.2 (1)"
    assert single["own rate, seeds"] == "0.05 (1), 0.1 (1), 0.2 (1)"
    for what, at in {
        "accuracy": {
            given: (0.2, 0.4, 0.6),
            own: (0.5, 0.4, 0.8),
            best: (0.5, 0.1, 0.2),
        },
        "less DEQ": {
            given: (0.1, 0.1, 0.1),
            own: (0.3, -0.1, 0.2),
            best: (0.2, -0.4, -0.2),
        },
        "gain": {own: (0.3, 0.0, 0.2), best: (0.3, -0.3, -0.4)},
    }.items():
        for name, values in at.items():
            error = np.std(values, ddof=1) / np.sqrt(3)
            found = (
                single[f"{what}, {name}"],
                single[f"standard error of {what}, {name}"],
            )
            assert_allclose(found, (np.mean(values), error), atol=1e-5)
    assert (single["held out, rate 0.1"], single["test, rate 0.2"]) == (
        0.53333,
        0.53333,
    )


def test_claims_of_finite_networks_are_those_of_tables_made_by_hand(tmp_path):
    from benchmarks.paper._networks import models_of
    from benchmarks.paper.claims import IMAGES, Tables, widths

    def cell(activation, model):
        return {"activation": activation, "model": model, "kernel": "ck"}

    places = [(a, m, k) for a in ("relu", "tanh") for k, m in enumerate(models_of(a))]
    write_table(
        tmp_path,
        "width-mnist10k",
        *(
            {
                **cell(activation, model),
                "data": data,
                "of": of,
                "variance": 0.2,
                # Farther with every model, on other rows of the table by ten times.
                **{f"width {w}": f"{(1 + k) / w * off} ± 1" for w in (256, 1024, 4096)},
                "width ∞": "0.25 ± 0" if k else None,
            }
            for data, of, off in (
                ("images", "scaled", 1),
                ("mixture", "scaled", 10),
                ("images", "as it is", 10),
            )
            for activation, model, k in places
        ),
    )
    for images in IMAGES:
        write_table(
            tmp_path,
            f"accuracy-{images}",
            *(
                {
                    **cell(activation, model),
                    "σ_a²": 0.2,
                    "trainable": "readout",
                    "width": width,
                    # Less accurate by it for the ReLU, more for tanh.
                    "less DEQ": (1 if activation == "tanh" else -1) * k,
                }
                for width in (256, 1024, 4096)
                for activation, model, k in places
            ),
        )
    said = {what: value for _, what, value, _ in widths(Tables(tmp_path))}
    assert said["deq, relu, CK of images, width 1024"] == "0.0977 %"
    assert said["paper, relu, CK of images, width 1024"] == "0.195 %"
    assert said["paper, tanh, CK of images, width ∞"] == "25 %"
    assert "deq, relu, CK of images, width ∞" not in said
    what = "{}: rank correlation of distance and accuracy, cifar10"
    assert said[what.format("relu")] == "-1.00 (12 settings)"
    assert said[what.format("tanh")] == "1.00 (9 settings)"


def test_nothing_is_claimed_of_a_single_seed(tmp_path):
    from benchmarks.paper.claims import Tables

    rows = ["width,less DEQ,pairs", "32,0.1,1", "64,0.2,2"]
    (tmp_path / "made.csv").write_text("\n".join(rows), encoding="utf-8")
    assert Tables(tmp_path).numbers("made", "less DEQ") == [0.2]


def test_claims_of_costs_are_those_of_a_table_made_by_hand(tmp_path):
    from benchmarks.paper.claims import Tables, costs
    from benchmarks.paper.cost import RESOURCES, TIMES

    def row(model, width, cost, equal, activation="relu", trainable="readout"):
        line = {
            "activation": activation,
            "trainable": trainable,
            "model": model,
            "width": width,
        }
        for name in (*TIMES, *RESOURCES):
            line |= {name: cost, f"{name}, of the DEQ as accurate": equal}
        return line

    write_table(
        tmp_path,
        "cost-mnist10k",
        *(
            row(model, width, cost * width, equal, trainable=trainable)
            for trainable in ("readout", "all")
            for width in (128, 256)
            for model, cost, equal in (
                ("deq", 2.0, 1.0),
                ("hermite", width / 256, width / 1000),
                ("paper", 1.0, 0.5),
                ("single", 0.5, None),
                ("plain", 0.25, 0.125),
            )
        ),
        row("deq", 128, 8.0, 1.0, "tanh"),
        row("hermite", 128, 2.0, 0.75, "tanh"),
        row("kernel", 0, 1.0, None),
    )
    said = {what: value for _, what, value, _ in costs(Tables(tmp_path))}
    what = "predict microseconds, hermite, relu, readout, at equal width"
    assert said[what] == "128: 0.25, 256: 0.5"
    what = "fit seconds, hermite, tanh, readout, at equal width"
    assert said[what] == "128: 0.25"
    what = "MB of a fit, plain, relu, all, at equal width"
    assert said[what] == "128: 0.125, 256: 0.125"
    what = "fit seconds, hermite, readout, as accurate (3)"
    assert said[what] == "0.128 to 0.75"
    what = "MB of a fit, plain and single, all, as accurate (2)"
    assert said[what] == "0.125"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kernel,activation\nck,relu\n", "size.csv has a row without 'other'"),
        (
            "other,slope from p=1000\nasymptotic,0.0x7 ± 1\n",
            "size.csv has a row in which 'slope from p=1000' is '0.0x7 ± 1', no number",
        ),
        ("", "size.csv has no number in 'slope from p=1000'"),
    ],
    ids=["column", "number", "empty"],
)
def test_claims_say_what_is_wrong_with_a_table(text, message, tmp_path, capsys):
    from benchmarks.paper.claims import main

    (tmp_path / "size.csv").write_text(text, encoding="utf-8")
    with pytest.raises(SystemExit):
        main([str(tmp_path)])
    assert message in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([str(tmp_path / "size.csv")])
    assert "Not a directory" in capsys.readouterr().err


def test_claims_ask_for_tables_that_are_missing(tmp_path, capsys):
    from benchmarks.paper.claims import main

    with pytest.raises(SystemExit):
        main([str(tmp_path)])
    assert "has no size.csv: publish it first" in capsys.readouterr().err


@pytest.fixture(scope="module")
def digits():
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((120, 6)), np.arange(120) % 3
    return X[:80], y[:80], X[80:], y[80:]


@pytest.mark.parametrize("model", ["deq", "single"])
def test_accuracy_at_the_end_is_the_last_one_of_the_curve(model, digits):
    from benchmarks.paper._networks import build, moments_of, train

    moments = moments_of(digits[0], "relu", 0.2)
    body = build(model, moments, digits[0], 16, seed=0)
    bodies = {every: copy.deepcopy(body) for every in (True, False)}
    curves = {
        every: train(each, digits, epochs=3, lr=0.05, seed=0, every_epoch=every)
        for every, each in bodies.items()
    }
    assert len(curves[True].scores) == 3
    assert curves[False].scores == curves[True].scores[-1:]
    assert curves[False].loss == curves[True].loss
    assert torch.equal(curves[False].readout, curves[True].readout)


def test_numbers_are_fitted_by_least_squares(digits):
    from benchmarks.paper._networks import build, features, moments_of, train

    X, _, X_test, _ = digits
    Y, Y_test = (np.tanh(rows[:, :2] + rows[:, 1:3]) for rows in (X, X_test))
    body = build("single", moments_of(X, "relu", 0.2), X, 64, seed=0)
    curves = train(body, (X, Y, X_test, Y_test), epochs=40, lr=0.03, seed=0)
    outputs = features(body, X_test) @ curves.readout.numpy().T
    expected = r2_score(Y_test, outputs, multioutput="variance_weighted")
    assert_allclose(curves.scores[-1], expected, atol=1e-5)
    assert curves.loss[-1] < 0.1 * curves.loss[0]


def test_scores_are_those_of_scikit_learn():
    from benchmarks.paper._networks import score

    rng = np.random.default_rng(0)
    y, outputs = rng.integers(0, 3, 50), rng.standard_normal((50, 3))
    assert score(outputs, y) == accuracy_score(y, outputs.argmax(axis=1))
    Y = rng.standard_normal((50, 3)) * [1.0, 2.0, 3.0] + 5.0
    expected = r2_score(Y, Y + outputs, multioutput="variance_weighted")
    assert_allclose(score(Y + outputs, Y), expected, rtol=1e-12)


def test_costs_are_medians_over_seeds(tmp_path):
    from benchmarks.paper.cost import report

    kind = {"activation": "relu", "trainable": "readout", "n": 9}

    def row(model, seed, seconds, accuracy, width=32):
        return {
            **kind,
            "measure": "time",
            "model": model,
            "width": width,
            "seed": seed,
            "fit seconds": seconds,
            "predict microseconds": 4.0 * seconds,
            "FLOPs per sample": 10.0 + seed,
            "accuracy": accuracy,
        }

    memory = {**kind, "measure": "memory", "model": "deq", "MB of a fit": 7.0}
    rows = [
        {**memory, "width": 32},
        # A width of which there are no times yet.
        {**memory, "width": 16},
        *(
            {**kind, "measure": "making", "model": m, "width": w, "making seconds": t}
            for m, w, t in (
                ("deq", 32, 0.5),
                ("deq", 64, 2.0),
                ("single", 32, 1.5),
                ("plain", 32, 0.25),
                ("paper", 32, 0.25),
            )
        ),
        *(row("deq", s, t, 0.8) for s, t in enumerate((1.0, 9.0, 2.0))),
        row("deq", 0, 8.0, 0.9, width=64),
        *(row("single", s, 1.0, a) for s, a in enumerate((0.75, 0.85, 0.95))),
        row("plain", 0, 1.0, 0.7),
        row("paper", 0, 1.0, 0.95),
    ]
    deq, untimed, wide, single, plain, paper = report(rows, tmp_path / "figure.png")
    assert (deq["fit seconds"], deq["fit seconds, range"]) == (2.5, "1.5 to 9.5")
    assert deq["of which making"] == 0.5
    assert (deq["FLOPs per sample"], deq["MB of a fit"], deq["seeds"]) == (11.0, 7.0, 3)
    assert (untimed["FLOPs per sample"], untimed["MB of a fit"]) == (None, 7.0)
    assert wide["MB of a fit"] is None
    assert_allclose(single["accuracy"], 0.85)
    assert_allclose(single["standard error"], 0.1 / np.sqrt(3), rtol=1e-3)
    # Half way from 0.8 to 0.9: the geometric mean, of 2.5 and 10 seconds.
    assert_allclose(single["fit seconds, of the DEQ as accurate"], 0.5)
    assert_allclose(single["predict microseconds, of the DEQ as accurate"], 0.25)
    # Less than any DEQ, and more.
    assert plain["fit seconds, of the DEQ as accurate"] == 0.5
    assert paper["fit seconds, of the DEQ as accurate"] is None


@pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="Linux alone tells of memory"
)
def test_memory_that_is_gone_is_not_counted():
    from benchmarks._measure import measured

    np.ones(30_000_000).sum()  # 240 MB, and gone.
    found = measured(lambda: np.ones(5_000_000).sum())
    # Pages that were there already may serve, and some are Python's own.
    assert found["bytes_above"] < 80e6
    found = measured(lambda: np.ones(30_000_000).sum())
    assert found["bytes_above"] > 230e6


def test_operations_are_those_of_the_trained_network():
    from benchmarks.paper import cost

    cell = {"model": "deq", "trainable": "all", "width": 16, "seed": 0, "n": 60}
    cell |= {"activation": "relu", "measure": "time"}
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((60, 5)), np.arange(60) % 10
    work = cost.work_of(cell, (X, y, X, y), epochs=3)
    before = work.flops()
    # One product with the inputs, one with the readout, and those of the iterations.
    iterations = (before - 2 * 16 * (5 + 10)) / (2 * 16 * 16)
    assert 3 < iterations < 60
    work.fit()
    assert work.flops() != before


def test_curves_are_compared_with_the_deq_of_their_seed(tmp_path):
    from benchmarks.paper.dynamics import report

    def row(model, seed, loss, accuracy):
        return {
            "activation": "relu",
            "model": model,
            "optimizer": "sgd",
            "width": 32,
            "lr": 1.0,
            "seed": seed,
            "loss": loss,
            "accuracy": accuracy,
            "NTK drift": 0.5,
            "NTK alignment": 0.9,
        }

    rows = [
        row("deq", 0, [4.0, 2.0], [0.5, 0.625]),
        row("deq", 1, [2.0, 1.0], [0.5, 0.75]),
        row("single", 0, [5.0, 1.0], [0.5, 0.75]),
        row("single", 1, [2.0, 2.0], [0.5, 0.625]),
    ]
    deq, single = report(rows, tmp_path / "figure.png")
    assert deq["loss from DEQ"] == "0 ± 0"
    # (1/4 + 1/2)/2 and (0 + 1)/2.
    assert single["loss from DEQ"] == "0.4375 ± 0.062"
    # The losses would begin at log 10.
    falls = abs(np.log(10) - np.array([[4.0, 2.0], [2.0, 1.0]]))
    apart = np.array([[1.0, 1.0], [0.0, 1.0]]) / falls
    assert single["loss from DEQ, of its fall"].startswith(f"{apart.mean():.4g} ±")
    assert single["accuracy less DEQ"] == "0 ± 0.12"
    assert single["loss, epoch 1"] == "3.5 ± 1.5"
    assert single["last loss"] == "1.5 ± 0.5"
