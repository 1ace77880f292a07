"""Accuracy against width, with the exact kernel as the limit and a control."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.paper._data import Source, images
from benchmarks.paper._experiment import Cell, Experiment, Row, grouped, mean_error
from benchmarks.paper._figures import band, figure
from benchmarks.paper._networks import MODELS, build, features, moments_of, train
from sklearn_deq.kernels import deq_kernel
from sklearn_deq.linear import fit_ridge, ridge_fit

VARIANCE = 0.2
# Penalty of the readout, and of kernel ridge.
ALPHA = 0.01


def cells(quick: bool) -> list[Cell]:
    """Every model, width and seed; and kernel ridge."""
    widths = (32, 64) if quick else (32, 128, 256, 1024, 4096)
    seeds = range(2 if quick else 10)
    common = {"n": 500 if quick else 8000}
    networks = [
        {
            **common,
            "model": model,
            "activation": activation,
            "trainable": trainable,
            "width": width,
            "seed": seed,
        }
        # What takes longest last: all weights of the widest networks.
        for trainable in ("readout", "all")
        for width in widths
        for seed in seeds
        for activation in (("relu",) if quick else ("relu", "tanh"))
        for model in MODELS
    ]
    limits = [
        {
            **common,
            "model": "kernel",
            "activation": activation,
            "trainable": "readout",
            "width": 0,
            "seed": seed,
        }
        for seed in seeds
        for activation in (("relu",) if quick else ("relu", "tanh"))
    ]
    return limits + networks


def compute(cell: Cell, source: Source) -> Row:
    """Accuracy on all test images."""
    data = images(source, cell["n"], cell["n"] // 4, cell["seed"])
    X, y, X_test, y_test = data
    moments = moments_of(X, cell["activation"], VARIANCE)
    targets = np.eye(y.max() + 1)[y]
    if cell["model"] == "kernel":
        settings = {
            "activation": cell["activation"],
            "recurrent_variance": VARIANCE,
            "input_variance": 1 - VARIANCE,
            "tau0": moments.tau0,
        }
        dual, intercept = ridge_fit(deq_kernel(X, **settings), targets, ALPHA)
        scores = deq_kernel(X_test, X, **settings) @ dual + intercept
        return {"accuracy": float(np.mean(scores.argmax(axis=1) == y_test))}
    body = build(
        cell["model"],
        moments,
        X,
        cell["width"],
        cell["seed"],
        trainable=cell["trainable"],
    )
    if cell["trainable"] == "all":
        curves = train(body, data, epochs=10, lr=0.05, seed=cell["seed"])
        return {"accuracy": curves.accuracy[-1]}
    Z, Z_test = (features(body, rows).astype(np.float64) for rows in (X, X_test))
    coef, intercept = fit_ridge(Z, targets, ALPHA / len(Z))
    scores = Z_test @ coef.T + intercept
    return {"accuracy": float(np.mean(scores.argmax(axis=1) == y_test))}


def report(rows: list[Row], path: Path) -> list[Row]:
    """Mean and standard error of every curve."""
    groups = grouped(rows, "activation", "trainable", "model", "width")
    summary = []
    for (activation, trainable, model, width), group in groups.items():
        mean, error = mean_error(group, "accuracy")
        summary.append(
            {
                "activation": activation,
                "trainable": trainable,
                "model": model,
                "width": width,
                "accuracy": round(mean, 4),
                "standard error": round(error, 4),
                "seeds": len(group),
            }
        )
    activations = [name for (name,) in grouped(rows, "activation")]
    with figure(path, 2, len(activations), sharey=True) as axes:
        for (i, activation), (j, trainable) in (
            (a, t)
            for a in enumerate(activations)
            for t in enumerate(("readout", "all"))
        ):
            panel = axes[i, j]
            for model in MODELS:
                found = [
                    (row["width"], row["accuracy"], row["standard error"])
                    for row in summary
                    if (row["activation"], row["trainable"], row["model"])
                    == (activation, trainable, model)
                ]
                band(panel, found, model)
            for row in summary:
                if row["model"] == "kernel" and row["activation"] == activation:
                    panel.axhline(row["accuracy"], color="0.5", ls="--", label="kernel")
            panel.set(xscale="log", title=f"{activation}, {trainable} trained")
            panel.set(xlabel="width", ylabel="test accuracy")
        axes[0, 0].legend(fontsize=8)
    return summary


EXPERIMENT = Experiment(
    "accuracy",
    "How accurate are the DEQ, its equivalents, and networks that are not matched?",
    cells,
    compute,
    report,
    images=True,
)
