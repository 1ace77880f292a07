"""Accuracy of each network at a learning rate of its own, and at one for all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torch import nn

from benchmarks.paper._choice import by_rate, choose, often
from benchmarks.paper._data import Source, images
from benchmarks.paper._experiment import (
    Cell,
    Experiment,
    Row,
    grouped,
    mean_error,
    paired,
)
from benchmarks.paper._figures import figure, legend_below
from benchmarks.paper._networks import build, models_of, moments_of
from benchmarks.paper.accuracy import EPOCHS, RATE, VARIANCES

# What is tried, with the rate of `accuracy` among them.
RATES = (0.01, 0.02, RATE, 0.1, 0.2)
# Of accuracies: at that rate, at the one of a seed, and of held-out rows at the one of
# all seeds.
GIVEN, OWN, BEST = f"rate {RATE:g}", "own rate", "held out, best rate"


def cells(quick: bool) -> list[Cell]:
    """Every model and seed, of one width."""
    return [
        {
            "n": 300 if quick else 8000,
            "model": model,
            "activation": activation,
            "width": 32 if quick else 256,
            "epochs": 1 if quick else EPOCHS,
            "seed": seed,
        }
        for seed in range(1 if quick else 5)
        for activation in (("relu",) if quick else ("relu", "tanh"))
        for model in models_of(activation)
    ]


def compute(cell: Cell, source: Source, device: str = "cpu") -> Row:
    """Accuracy on all test images at the rate of `accuracy`, and at the one chosen."""
    data = images(source, cell["n"], cell["n"] // 4, cell["seed"])

    def body(X: np.ndarray) -> nn.Module:
        moments = moments_of(X, cell["activation"], VARIANCES[0])
        width, seed = cell["width"], cell["seed"]
        return build(cell["model"], moments, X, width, seed, device=device)

    fit = by_rate(body, cell["epochs"], cell["seed"])
    chosen, scores = choose(RATES, fit, data)
    given = fit(data, RATE)
    own = given if chosen == RATE else fit(data, chosen)
    held_out = {f"{rate:g}": score for rate, score in scores.items()}
    return {GIVEN: given, OWN: own, "chosen": chosen, "held out": held_out}


def report(rows: list[Row], path: Path) -> list[Row]:
    """Accuracies at the rates, less the DEQ's, and those of held-out rows by rate.

    The tenth of a seed hardly tells rates apart; those of all seeds do, so that what
    held-out rows have at the best rate of all seeds is in the table, too: by networks
    fitted to nine tenths, and a little more than other rows would have, as the rate is
    the best of these.
    """
    groups = {
        kind: _with_best(group)
        for kind, group in grouped(rows, "activation", "model").items()
    }
    summary = []
    for (activation, model), group in groups.items():
        line: Row = {"activation": activation, "model": model}
        deqs = groups.get((activation, "deq"), [])
        for name in (GIVEN, OWN, BEST):
            mean, error = mean_error(group, name)
            less, less_error, pairs = paired(group, deqs, name)
            line[f"accuracy, {name}"] = round(mean, 5)
            line[f"standard error, {name}"] = round(error, 5)
            line[f"less DEQ, {name}"] = round(less, 5)
            line[f"its standard error, {name}"] = round(less_error, 5)
        for rate in group[0]["held out"]:
            found = [row["held out"][rate] for row in group]
            line[f"held out, rate {rate}"] = round(float(np.mean(found)), 4)
        line |= {"chosen": often(group), "seeds": len(group), "pairs": pairs}
        summary.append(line)
    draw(summary, path)
    return summary


def _with_best(group: list[Row]) -> list[Row]:
    """Add the held-out accuracy at the rate that is best for all seeds."""
    best = max(
        group[0]["held out"],
        key=lambda rate: sum(row["held out"][rate] for row in group),
    )
    return [row | {BEST: row["held out"][best]} for row in group]


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
                values = [line[f"less DEQ, {name}"] for line in lines]
                errors = [line[f"its standard error, {name}"] for line in lines]
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
            panel.set(title=kind, ylabel="accuracy less the DEQ's")
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
