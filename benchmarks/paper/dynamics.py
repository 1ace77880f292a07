"""Open question 3: do a DEQ and its explicit equivalent train alike?"""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import torch
from torch import nn

from benchmarks.paper._data import Source, images
from benchmarks.paper._experiment import Cell, Experiment, Row, grouped, mean_error
from benchmarks.paper._figures import band, figure
from benchmarks.paper._networks import alignment, build, moments_of, train

MODELS = ("deq", "hermite", "paper", "plain")
EPOCHS = 15


def cells(quick: bool) -> list[Cell]:
    """Every model over widths; and over learning rates at one width."""
    widths = (32, 64) if quick else (128, 256, 512, 1024, 2048)
    rates = (0.05,) if quick else (0.005, 0.02, 0.05, 0.1, 0.2)
    pairs = [(width, 0.05) for width in widths]
    pairs += [(256, rate) for rate in rates if rate != 0.05]
    return [
        {"model": model, "width": width, "lr": lr, "seed": seed, "n": n}
        for width, lr in sorted(pairs)
        for seed in range(1 if quick else (3 if width > 512 else 5))
        for model in MODELS
        for n in [300 if quick else 2000]
    ]


def compute(cell: Cell, source: Source) -> Row:
    """Curves of loss and accuracy, and how far the tangent kernel has moved."""
    data = images(source, cell["n"], cell["n"], cell["seed"])
    moments = moments_of(data[0], "relu", 0.2)
    body = build(cell["model"], moments, data[0], cell["width"], cell["seed"])
    start = copy.deepcopy(body)
    epochs = 2 if cell["n"] < 1000 else EPOCHS
    curves = train(body, data, epochs=epochs, lr=cell["lr"], seed=cell["seed"])
    rows = torch.from_numpy(data[2][:30]).float()
    K, L = (_tangent_kernel(net, curves.readout, rows) for net in (start, body))
    return {
        "loss": curves.loss,
        "accuracy": curves.accuracy,
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
    """Final values by model, width and rate; curves of the widest."""
    for row in rows:
        row["last loss"], row["last accuracy"] = row["loss"][-1], row["accuracy"][-1]
    summary = []
    groups = grouped(rows, "model", "width", "lr")
    for (model, width, lr), group in groups.items():
        line: Row = {"model": model, "width": width, "lr": lr}
        for name in ("last loss", "last accuracy", "NTK drift", "NTK alignment"):
            mean, error = mean_error(group, name)
            line[name] = f"{mean:.4g} ± {error:.1g}"
        summary.append(line)
    widths = [w for (w,) in grouped(rows, "width")]
    # The widest of which all models are there.
    width = max(w for w in widths if all((m, w, 0.05) in groups for m in MODELS))
    with figure(path, 3) as axes:
        curves, drift, rates = axes.ravel()
        for model in MODELS:
            found = groups[model, width, 0.05]
            losses = np.array([row["loss"] for row in found])
            epochs = np.arange(1, losses.shape[1] + 1)
            error = losses.std(axis=0) / np.sqrt(len(losses))
            band(
                curves,
                list(zip(epochs, losses.mean(axis=0), error, strict=True)),
                model,
            )
            own = [
                (w, *mean_error(g, "NTK drift"))
                for (m, w, lr), g in groups.items()
                if m == model and lr == 0.05
            ]
            band(drift, own, model)
            chosen = 256 if 256 in widths else width
            own = [
                (lr, *mean_error(g, "last accuracy"))
                for (m, w, lr), g in groups.items()
                if m == model and w == chosen
            ]
            band(rates, own, model)
        curves.set(xlabel="epoch", ylabel="training loss", title=f"width {width}")
        curves.set(yscale="log")
        drift.set(xlabel="width", ylabel="relative change of the NTK", xscale="log")
        drift.set_xticks(sorted(widths), [str(w) for w in sorted(widths)])
        drift.set_xticks([], minor=True)
        rates.set(xlabel="learning rate", ylabel="test accuracy", xscale="log")
        curves.legend(fontsize=8)
    return summary


EXPERIMENT = Experiment(
    "dynamics",
    "Do loss, accuracy, tangent kernel and best learning rate agree in training?",
    cells,
    compute,
    report,
    images=True,
)
