"""Accuracy of each network at a learning rate of its own, and at one for all."""

from __future__ import annotations

from pathlib import Path

from benchmarks.paper._choice import Choice
from benchmarks.paper._data import Source, images_to_choose_by
from benchmarks.paper._experiment import Cell, Experiment, Row
from benchmarks.paper._networks import build, evaluate, models_of, moments_of, train
from benchmarks.paper.accuracy import EPOCHS, RATE, VARIANCES

# What is tried, with the rate of `accuracy` among them.
RATES = (0.01, 0.02, RATE, 0.1, 0.2)
# Of a seed; rates differ by little, and what 1,000 images say of that is mostly chance.
HELD_OUT = 10_000
CHOICE = Choice("rate", f"rate {RATE:g}", ("activation", "model"))


def cells(quick: bool) -> list[Cell]:
    """Every model and seed, of one width."""
    return [
        {
            "n": 300 if quick else 8000,
            "model": model,
            "activation": activation,
            "width": 32 if quick else 256,
            "epochs": 1 if quick else EPOCHS,
            "held_out": HELD_OUT,
            "seed": seed,
        }
        for seed in range(1 if quick else 5)
        for activation in (("relu",) if quick else ("relu", "tanh"))
        for model in models_of(activation)
    ]


def compute(cell: Cell, source: Source, device: str = "cpu") -> Row:
    """Accuracy at every rate: on images to choose one by, and on all test images."""
    data, held = images_to_choose_by(
        source, cell["n"], cell["n"] // 4, cell["seed"], cell["held_out"]
    )
    X, y, *test = data
    moments = moments_of(X, cell["activation"], VARIANCES[0])
    fit = {"epochs": cell["epochs"], "seed": cell["seed"], "every_epoch": False}
    row: Row = {"held out": {}, "test": {}}
    for rate in RATES:
        body = build(
            cell["model"], moments, X, cell["width"], cell["seed"], device=device
        )
        curves = train(body, (X, y, *held), lr=rate, **fit)
        row["held out"][f"{rate:g}"] = curves.scores[-1]
        row["test"][f"{rate:g}"] = evaluate(body, curves.readout, *test)
    return row


def report(rows: list[Row], path: Path) -> list[Row]:
    """Accuracies of test images at the rates, less the DEQ's; all by rate."""
    given = ({"given": row["test"][f"{RATE:g}"]} for row in rows)
    summary = CHOICE.report([row | one for row, one in zip(rows, given, strict=True)])
    CHOICE.draw(summary, path)
    return summary


EXPERIMENT = Experiment(
    "rates",
    "How accurate is each network at a learning rate of its own?",
    cells,
    compute,
    report,
    images=True,
    devices=True,
)
