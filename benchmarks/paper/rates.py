"""Accuracy of each network at a learning rate of its own, and at one for all."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.paper._choice import best, often
from benchmarks.paper._data import Source, images_to_choose_by
from benchmarks.paper._experiment import (
    Cell,
    Experiment,
    Row,
    grouped,
    mean_error,
    paired,
)
from benchmarks.paper._figures import figure, legend_below
from benchmarks.paper._networks import build, evaluate, models_of, moments_of, train
from benchmarks.paper.accuracy import EPOCHS, RATE, VARIANCES

# What is tried, with the rate of `accuracy` among them.
RATES = (0.01, 0.02, RATE, 0.1, 0.2)
# Of a seed; rates differ by little, and what 1,000 images say of that is mostly chance.
HELD_OUT = 10_000
# Accuracies at that rate, at the one that a seed's held-out images choose, and at the
# one that those of all seeds do.
GIVEN, OWN, BEST = f"rate {RATE:g}", "own rate", "best rate"


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
    groups = {
        kind: _at_rates(group)
        for kind, group in grouped(rows, "activation", "model").items()
    }
    summary = []
    for (activation, model), group in groups.items():
        line: Row = {"activation": activation, "model": model}
        deqs = groups.get((activation, "deq"), [])
        for name in (GIVEN, OWN, BEST):
            found = {
                "accuracy": mean_error(group, name),
                "less DEQ": paired(group, deqs, name)[:2],
            }
            if name != GIVEN:
                gains = [{name: row[name] - row[GIVEN]} for row in group]
                found["gain"] = mean_error(gains, name)
            for what, (mean, error) in found.items():
                line[f"{what}, {name}"] = round(mean, 5)
                line[f"standard error of {what}, {name}"] = round(error, 5)
        line |= {"own rates": often(group), BEST: best(_by_rate(group, "held out"))}
        for images in ("held out", "test"):
            for rate, mean in _by_rate(group, images).items():
                line[f"{images}, rate {rate:g}"] = round(mean, 5)
        pairs = paired(group, deqs, GIVEN)[2]
        summary.append(line | {"seeds": len(group), "pairs": pairs})
    draw(summary, path)
    return summary


def _by_rate(group: list[Row], images: str) -> dict[float, float]:
    """Mean accuracies of held-out or of test images by rate."""
    return {
        float(rate): float(np.mean([row[images][rate] for row in group]))
        for rate in group[0][images]
    }


def _at_rates(group: list[Row]) -> list[Row]:
    """Add test accuracies at the rate of `accuracy`, and at those that are chosen.

    By the held-out images of a seed, and by those of all seeds.
    """
    shared = best(_by_rate(group, "held out"))
    found = []
    for row in group:
        chosen, test = best(_by_rate([row], "held out")), row["test"]
        rates = {GIVEN: RATE, OWN: chosen, BEST: shared}
        at = {name: test[f"{rate:g}"] for name, rate in rates.items()}
        found.append(row | at | {"chosen": chosen})
    return found


def draw(summary: list[Row], path: Path) -> None:
    """Differences from the DEQ at the rates, side by side."""
    kinds = [name for (name,) in grouped(summary, "activation")]
    with figure(path, len(kinds), 1) as axes:
        for panel, kind in zip(np.atleast_1d(axes).ravel(), kinds, strict=True):
            lines = [
                line
                for line in summary
                if line["activation"] == kind and line["model"] != "deq"
            ]
            places = np.arange(len(lines), dtype=float)
            for shift, name in ((-0.15, GIVEN), (0.0, OWN), (0.15, BEST)):
                values = [100 * line[f"less DEQ, {name}"] for line in lines]
                errors = [
                    100 * line[f"standard error of less DEQ, {name}"] for line in lines
                ]
                panel.errorbar(
                    places + shift,
                    values,
                    yerr=np.nan_to_num(errors),
                    fmt="o",
                    capsize=4,
                    label=name,
                )
            panel.axhline(0.0, color="0.6", lw=1)
            panel.set_xticks(places, [line["model"] for line in lines])
            panel.set(title=kind, ylabel="accuracy less the DEQ's, points")
        legend_below(axes)


EXPERIMENT = Experiment(
    "rates",
    "How accurate is each network at a learning rate of its own?",
    cells,
    compute,
    report,
    images=True,
    devices=True,
)
