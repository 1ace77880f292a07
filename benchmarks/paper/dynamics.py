"""Open question 3: do a DEQ and its explicit equivalent train alike?"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from torch import nn

from benchmarks.paper._data import Source, images
from benchmarks.paper._experiment import Cell, Experiment, Row, grouped, mean_error
from benchmarks.paper._figures import band, figure, legend_below
from benchmarks.paper._networks import (
    MODELS,
    alignment,
    build,
    models_of,
    moments_of,
    train,
)

EPOCHS = 15
# Rate of Adam at every width; the others are tried at one. What is said of kernels of
# networks is said of gradient descent, at a small rate, and of wide networks.
RATE, RATES = 0.05, (0.005, 0.02, 0.05, 0.1, 0.2)
DESCENT = ((256, 0.1), (256, 1.0), (1024, 1.0))
# Epochs that are in the table; the last one is, too.
SHOWN = (1, 3, 7)
# And, as what differences are to be compared with, the DEQ with other weights.
COMPARED = (*MODELS, "redrawn")
# Training loss of a readout of zeros, of ten classes.
FIRST_LOSS = float(np.log(10.0))
# Of every row of the table, before its curves.
GIVEN = (
    "last loss",
    "loss from DEQ",
    "loss from DEQ, of its fall",
    "last accuracy",
    "accuracy less DEQ",
    "NTK drift",
    "NTK alignment",
)


def cells(quick: bool) -> list[Cell]:
    """Every model over widths, over learning rates, and by gradient descent."""
    widths = (32, 64) if quick else (128, 256, 512, 1024, 2048)
    kinds = [("adam", width, RATE) for width in widths]
    kinds += [("sgd", *pair) for pair in (((32, 1.0),) if quick else DESCENT)]
    kinds += [("adam", 256, rate) for rate in RATES if rate != RATE and not quick]
    return [
        {
            "activation": activation,
            "model": model,
            "optimizer": optimizer,
            "width": width,
            "lr": lr,
            "seed": seed,
            "n": 300 if quick else 2000,
        }
        for activation in (("relu",) if quick else ("relu", "tanh"))
        for optimizer, width, lr in sorted(kinds, key=lambda kind: kind[1])
        for seed in range(1 if quick else (3 if width > 512 else 5))
        for model in (*models_of(activation), "redrawn")
    ]


def compute(cell: Cell, source: Source) -> Row:
    """Curves of loss and accuracy, and how far the tangent kernel has moved."""
    data = images(source, cell["n"], cell["n"], cell["seed"])
    moments = moments_of(data[0], cell["activation"], 0.2)
    model, weights = cell["model"], cell["seed"]
    if model == "redrawn":
        model, weights = "deq", 1000 + weights
    body = build(model, moments, data[0], cell["width"], weights)
    start = copy.deepcopy(body)
    epochs = 2 if cell["n"] < 1000 else EPOCHS
    curves = train(
        body,
        data,
        epochs=epochs,
        lr=cell["lr"],
        seed=cell["seed"],
        optimizer=cell["optimizer"],
    )
    rows = torch.from_numpy(data[2][:30]).float()
    K, L = (_tangent_kernel(net, curves.readout, rows) for net in (start, body))
    return {
        "loss": curves.loss,
        "accuracy": curves.scores,
        "NTK drift": float(np.linalg.norm(L - K) / np.linalg.norm(K)),
        "NTK alignment": alignment(K, L),
    }


def _tangent_kernel(
    body: nn.Module, readout: torch.Tensor | None, rows: torch.Tensor
) -> np.ndarray:
    """Of one output whose readout has random signs: that of all weights, row by row.

    The trained readout would make the kernel before and after training differ by what
    the readout has learnt; with the same signs in both, what moves is the body's.
    """
    assert readout is not None
    signs = torch.sign(
        torch.randn(readout.shape[1], generator=torch.Generator().manual_seed(0))
    )
    weights = [p for p in body.parameters() if p.requires_grad]
    gradients = []
    for row in rows:
        z = body(row[None])
        found = torch.autograd.grad((z @ signs).sum(), weights)
        gradients.append(torch.cat([z.detach().ravel(), *(g.ravel() for g in found)]))
    J = torch.stack(gradients).double()
    return (J @ J.T).numpy()


def report(rows: list[Row], path: Path) -> list[Row]:
    """Curves by model, optimizer, width and rate, and how far they part."""
    names = ("activation", "model", "optimizer", "width", "lr")
    groups = grouped(rows, *names)
    summary = []
    for kind, group in groups.items():
        line: Row = dict(zip(names, kind, strict=True))
        deqs = groups.get((line["activation"], "deq", *kind[2:]), [])
        add_differences(group, deqs)
        for name in (*GIVEN, *group[0]):
            if name in GIVEN or name.startswith(("loss, epoch", "accuracy, epoch")):
                mean, error = mean_error(group, name)
                known = f" ± {error:.2g}" if np.isfinite(error) else ""
                line[name] = f"{mean:.4g}{known}"
        summary.append({**line, "seeds": len(group)})
    draw(rows, path)
    return summary


def add_differences(group: list[Row], deqs: list[Row]) -> None:
    """Add to each row how its curves differ from those of the DEQ of its seed."""
    found = {row["seed"]: row for row in deqs}
    nothing = {"loss": [np.nan], "accuracy": [np.nan]}
    for row in group:
        deq = found.get(row["seed"], nothing)
        loss, other = np.array(row["loss"]), np.array(deq["loss"])
        row["last loss"], row["last accuracy"] = row["loss"][-1], row["accuracy"][-1]
        apart = np.abs(loss - other)
        row["loss from DEQ"] = float(np.mean(apart / other))
        row["loss from DEQ, of its fall"] = float(
            np.mean(apart / np.abs(FIRST_LOSS - other))
        )
        # Accuracies are multiples of one over the number of test rows.
        less = row["accuracy"][-1] - deq["accuracy"][-1]
        row["accuracy less DEQ"] = round(less, 6)
        for epoch in SHOWN:
            if epoch < len(loss):
                row[f"loss, epoch {epoch}"] = row["loss"][epoch - 1]
                row[f"accuracy, epoch {epoch}"] = row["accuracy"][epoch - 1]


def draw(rows: list[Row], path: Path) -> None:
    """For each activation, two rows of panels."""
    groups = grouped(rows, "activation")
    with figure(path, 3, 2 * len(groups)) as axes:
        for place, ((activation,), group) in enumerate(groups.items()):
            draw_activation(axes[2 * place : 2 * place + 2], group, activation)
        legend_below(axes)


def draw_activation(axes: Any, rows: list[Row], activation: str) -> None:
    """Curves by both optimizers, then the kernel's change and the rates of Adam."""
    for column, optimizer in enumerate(("adam", "sgd")):
        own = [row for row in rows if row["optimizer"] == optimizer]
        draw_curves(axes[0, column], own, "loss")
        draw_curves(axes[1, column], own, "accuracy")
    axes[0, 0].set(yscale="log")
    adam = [row for row in rows if row["optimizer"] == "adam"]
    drift, rates = axes[0, 2], axes[1, 2]
    for (model,), group in grouped(adam, "model").items():
        wide = [row for row in group if row["lr"] == RATE]
        found = [
            (w, *mean_error(part, "NTK drift"))
            for (w,), part in grouped(wide, "width").items()
        ]
        band(drift, found, model, color=_color(model))
        found = [
            (lr, *mean_error(part, "last accuracy"))
            for (lr,), part in grouped(
                [row for row in group if row["width"] == 256], "lr"
            ).items()
        ]
        band(rates, found, model, color=_color(model))
    drift.set(xlabel="width", ylabel="relative change of the NTK", xscale="log")
    drift.set_title(f"{activation}, adam, lr {RATE:g}")
    widths = sorted({row["width"] for row in adam})
    drift.set_xticks(widths, [str(w) for w in widths])
    drift.set_xticks([], minor=True)
    rates.set(xlabel="learning rate", ylabel="test accuracy", xscale="log")
    rates.set_title(f"{activation}, adam, width 256")
    rates.set_xticks(RATES, [f"{lr:g}" for lr in RATES])
    rates.set_xticks([], minor=True)


def draw_curves(panel: Axes, rows: list[Row], name: str) -> None:
    """Means over seeds, of the width of which there are most seeds, then the widest."""
    groups = grouped(rows, "width", "lr")
    if not groups:
        return
    (width, lr), group = max(
        groups.items(), key=lambda item: (len(item[1]), item[0][0], item[0][1])
    )
    for (model,), part in grouped(group, "model").items():
        values = np.array([row[name] for row in part])
        mean, error = values.mean(axis=0), np.zeros(values.shape[1])
        if len(part) > 1:
            error = values.std(axis=0, ddof=1) / np.sqrt(len(part))
        epochs = np.arange(1, values.shape[1] + 1)
        band(
            panel,
            list(zip(epochs, mean, error, strict=True)),
            model,
            color=_color(model),
        )
    label = {"loss": "training loss", "accuracy": "test accuracy"}[name]
    panel.set(xlabel="epoch", ylabel=label)
    first = group[0]
    title = f"{first['activation']}, {first['optimizer']}, width {width}, lr {lr:g}"
    panel.set_title(title)


def _color(model: str) -> str:
    return f"C{COMPARED.index(model)}"


EXPERIMENT = Experiment(
    "dynamics",
    "Do loss, accuracy, tangent kernel and best learning rate agree in training?",
    cells,
    compute,
    report,
    images=True,
)
