"""Accuracy against width, with the exact kernel as the limit and a control."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from benchmarks.paper._data import Source, images
from benchmarks.paper._experiment import (
    Cell,
    Experiment,
    Row,
    grouped,
    mean_error,
    paired,
)
from benchmarks.paper._figures import band, figure, legend_below, ticks_at
from benchmarks.paper._networks import (
    MODELS,
    build,
    control_of,
    features,
    models_of,
    moments_of,
    train,
)
from sklearn_deq.kernels import deq_kernel
from sklearn_deq.linear import fit_ridge, ridge_fit

VARIANCES = (0.2, 0.8)
# Of all weights, by Adam.
EPOCHS, RATE = 10, 0.05
# Of kernels, which are level lines, and close: each leaves the others to be seen.
DASHES = (":", "--", "-.")
# Penalty of kernel ridge, and of the readout (there by sample, as `fit_ridge` has it).
ALPHA = 0.01


def cells(quick: bool) -> list[Cell]:
    """Every model, width and seed; and kernel ridge."""
    widths = (32, 64) if quick else (32, 128, 256, 1024, 4096)
    seeds = range(2 if quick else 10)
    activations = ("relu",) if quick else ("relu", "tanh")
    # At the small variance a DEQ is nearly shallow, at the large one it is deep.
    kinds = [
        ("readout", VARIANCES[0]),
        ("readout", VARIANCES[1]),
        ("all", VARIANCES[0]),
    ]
    networks = [
        {
            "n": 500 if quick else 8000,
            "model": model,
            "activation": activation,
            "variance": variance,
            "trainable": trainable,
            "width": width,
            "seed": seed,
        }
        # What takes longest last: all weights of the widest networks.
        for trainable, variance in kinds
        for width in widths
        if variance == VARIANCES[0] or width <= 1024
        for seed in seeds
        for activation in activations
        for model in models_of(activation)
    ]
    limits = [
        {**cell, "model": "kernel", "width": 0}
        for cell in networks
        if (cell["model"], cell["width"]) == ("deq", widths[0])
    ]
    return limits + networks


def compute(cell: Cell, source: Source, device: str = "cpu") -> Row:
    """Accuracy on all test images."""
    data = images(source, cell["n"], cell["n"] // 4, cell["seed"])
    X, y, X_test, y_test = data
    moments = moments_of(X, cell["activation"], cell["variance"])
    targets = np.eye(y.max() + 1)[y]
    if cell["model"] == "kernel":
        settings = {
            # Of all weights it is that of gradient flow at infinite width.
            "kernel": "ck" if cell["trainable"] == "readout" else "ntk",
            "activation": cell["activation"],
            "recurrent_variance": cell["variance"],
            "input_variance": 1 - cell["variance"],
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
        device=device,
    )
    if cell["trainable"] == "all":
        fit = {"epochs": EPOCHS, "lr": RATE, "seed": cell["seed"]}
        curves = train(body, data, **fit, every_epoch=False)
        return {"accuracy": curves.scores[-1]}
    Z, Z_test = (features(body, rows).astype(np.float64) for rows in (X, X_test))
    coef, intercept = fit_ridge(Z, targets, ALPHA / len(Z))
    scores = Z_test @ coef.T + intercept
    return {"accuracy": float(np.mean(scores.argmax(axis=1) == y_test))}


def report(rows: list[Row], path: Path) -> list[Row]:
    """Mean accuracies, and differences from the DEQ of the same seeds and images."""
    summary = []
    groups = grouped(rows, "activation", "variance", "trainable", "model", "width")
    for (activation, variance, trainable, model, width), group in groups.items():
        mean, error = mean_error(group, "accuracy")
        deqs = groups.get((activation, variance, trainable, "deq", width), [])
        less, less_error, pairs = paired(group, deqs, "accuracy")
        # What matching is worth, with the same weights drawn.
        control = control_of(model, activation)
        others = groups.get((activation, variance, trainable, control, width), [])
        gain, gain_error, _ = paired(group, others, "accuracy")
        summary.append(
            {
                "activation": activation,
                "σ_a²": variance,
                "trainable": trainable,
                "model": model,
                "width": width,
                "accuracy": round(mean, 5),
                "standard error": round(error, 5),
                "less DEQ": round(less, 5),
                "its standard error": round(less_error, 5),
                "less unmatched": round(gain, 5),
                "standard error of less unmatched": round(gain_error, 5),
                "seeds": len(group),
                "pairs": pairs,
                # Of DEQs that did not converge on some images.
                "warned": sum(row.get("warnings", 0) > 0 for row in group),
            }
        )
    draw(summary, path)
    return summary


def draw(summary: list[Row], path: Path) -> None:
    """The DEQ and the kernel themselves, then what others have less or more."""
    kinds = list(grouped(summary, "σ_a²", "trainable"))
    activations = [name for (name,) in grouped(summary, "activation")]
    # Of kernel ridge there may be more.
    most = max((row["seeds"] for row in summary if row["width"]), default=0)
    size = (3.3 * (1 + len(kinds)), 3.0 * len(activations) + 0.5)
    with figure(path, 1 + len(kinds), len(activations), figsize=size) as axes:
        panels = np.atleast_2d(axes)
        for row, activation in enumerate(activations):
            own = [line for line in summary if line["activation"] == activation]
            for column, (variance, trainable) in enumerate(kinds):
                part = [
                    line
                    for line in own
                    if (line["σ_a²"], line["trainable"]) == (variance, trainable)
                ]
                title = f"σ_a² = {variance:g}, {trainable}"
                style = {"color": f"C{len(MODELS) + column}", "ls": DASHES[column]}
                draw_own(panels[row, 0], part, title, style, most)
                draw_others(panels[row, column + 1], part, title, most)
            panels[row, 0].set(title=activation, ylabel="test accuracy")
            panels[row, 1].set_ylabel("accuracy less the DEQ's")
        widths = sorted({row["width"] for row in summary if row["width"]})
        for panel in panels.ravel():
            panel.set(xscale="log", xlabel="width")
            ticks_at(panel, widths)
        if any(row["seeds"] < most for row in summary if row["width"]):
            marks = {"marker": "o", "ms": 4, "mfc": "white", "color": "0.3", "ls": ""}
            panels[-1, -1].plot([], [], label=f"fewer than {most} seeds", **marks)
        legend_below(panels)


def draw_own(
    panel: Axes, part: list[Row], title: str, style: dict[str, Any], most: int
) -> None:
    """Accuracy of the DEQ, and of the kernel."""
    own = [row for row in part if row["model"] == "deq"]
    names = ("width", "accuracy", "standard error", "seeds")
    draw_line(panel, own, names, most, f"deq, {title}", style["color"])
    for row in part:
        if row["model"] == "kernel":
            panel.axhline(row["accuracy"], label=f"kernel, {title}", **style)


def draw_others(panel: Axes, part: list[Row], title: str, most: int) -> None:
    """Differences of the others from the DEQ."""
    names = ("width", "less DEQ", "its standard error", "pairs")
    for place, model in enumerate(MODELS[1:], 1):
        own = [row for row in part if row["model"] == model]
        own = [row for row in own if np.isfinite(row["less DEQ"])]
        draw_line(panel, own, names, most, model, f"C{place}")
    panel.axhline(0.0, color="0.6", lw=1)
    panel.set_title(title)


def draw_line(
    panel: Axes,
    rows: list[Row],
    names: Sequence[str],
    most: int,
    label: str,
    color: str,
) -> None:
    """A line, with open marks where fewer seeds than elsewhere are behind a point."""
    points = [tuple(row[name] for name in names) for row in rows]
    band(panel, [point[:3] for point in points], label, color=color)
    fewer = [point[:3] for point in points if point[3] < most]
    band(panel, fewer, label, color=color, ls="", mfc="white")


EXPERIMENT = Experiment(
    "accuracy",
    "How accurate are the DEQ, its equivalents, and networks that are not matched?",
    cells,
    compute,
    report,
    images=True,
    devices=True,
    settings=("activation", "σ_a²", "trainable", "model", "width"),
    draw=draw,
)
