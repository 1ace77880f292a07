"""Time, operations and memory, at equal width and at equal accuracy."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks._measure import median_seconds, seconds
from benchmarks.paper._data import Source, images
from benchmarks.paper._experiment import Cell, Experiment, Row
from benchmarks.paper._figures import figure
from benchmarks.paper._networks import MODELS, build, features, moments_of
from sklearn_deq.kernels import deq_kernel
from sklearn_deq.linear import fit_ridge, ridge_fit

VARIANCE = 0.2
ALPHA = 0.01


def cells(quick: bool) -> list[Cell]:
    """Every model at every width; timed one after the other."""
    widths = (32, 64) if quick else (128, 256, 512, 1024, 2048, 4096)
    n = 500 if quick else 8000
    networks = [
        {"model": model, "width": width, "n": n} for width in widths for model in MODELS
    ]
    return [*networks, {"model": "kernel", "width": 0, "n": n}]


def compute(cell: Cell, source: Source) -> Row:
    """Seconds of a fit of the readout and of predictions, FLOPs per sample, bytes."""
    X, y, X_test, y_test = images(source, cell["n"], cell["n"] // 4, seed=0)
    moments = moments_of(X, "relu", VARIANCE)
    targets = np.eye(y.max() + 1)[y]
    settings = {
        "recurrent_variance": VARIANCE,
        "input_variance": 1 - VARIANCE,
        "tau0": moments.tau0,
    }
    if cell["model"] == "kernel":
        flops = 2.0 * X.shape[1] * len(X)

        def fit() -> tuple[np.ndarray, np.ndarray]:
            return ridge_fit(deq_kernel(X, **settings), targets, ALPHA)

        def scores(rows: np.ndarray) -> np.ndarray:
            return deq_kernel(rows, X, **settings) @ coef + intercept

    else:
        body = build(
            cell["model"], moments, X, cell["width"], seed=0, trainable="readout"
        )
        with FlopCounterMode(display=False) as counter:
            features(body, X_test[:100])
        flops = counter.get_total_flops() / 100

        def fit() -> tuple[np.ndarray, np.ndarray]:
            Z = features(body, X).astype(np.float64)
            weights, offset = fit_ridge(Z, targets, ALPHA / len(Z))
            return weights.T, offset

        def scores(rows: np.ndarray) -> np.ndarray:
            return features(body, rows) @ coef + intercept

    fit_seconds = seconds(fit)
    coef, intercept = fit()
    tracemalloc.start()
    accuracy = float(np.mean(scores(X_test).argmax(axis=1) == y_test))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return {
        "fit seconds": fit_seconds,
        "predict microseconds": 1e6
        * median_seconds(lambda: scores(X_test), 5)
        / len(X_test),
        "FLOPs per sample": flops,
        "NumPy bytes of a prediction": peak,
        "threads": torch.get_num_threads(),
        "accuracy": accuracy,
    }


def report(rows: list[Row], path: Path) -> list[Row]:
    """Accuracy against time; and what each model needs for the DEQ's accuracies."""
    with figure(path, 2) as axes:
        for panel, name in zip(
            axes.ravel(), ("predict microseconds", "fit seconds"), strict=True
        ):
            for model in (*MODELS, "kernel"):
                found = sorted(
                    (row[name], row["accuracy"])
                    for row in rows
                    if row["model"] == model
                )
                panel.plot(*zip(*found, strict=True), "o-", label=model)
            panel.set(xscale="log", xlabel=name, ylabel="test accuracy")
        axes.ravel()[0].legend(fontsize=8)
    summary = [
        {key: _short(value) for key, value in row.items() if key != "n"} for row in rows
    ]
    deqs = [row for row in rows if row["model"] == "deq"]
    for row, line in zip(rows, summary, strict=True):
        # The cheapest DEQ that is at least as accurate.
        equal = [d for d in deqs if d["accuracy"] >= row["accuracy"]]
        line["predict, of the DEQ as accurate"] = (
            _short(
                row["predict microseconds"]
                / min(d["predict microseconds"] for d in equal)
            )
            if equal
            else None
        )
    return summary


def _short(value: object) -> object:
    return float(f"{value:.3g}") if isinstance(value, float) else value


EXPERIMENT = Experiment(
    "cost",
    "What do fits and predictions cost, at equal width and at equal accuracy?",
    cells,
    compute,
    report,
    parallel=False,
    images=True,
)
