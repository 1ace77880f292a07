"""Open question 4: does the pair stay equivalent under regularisation?"""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes

from benchmarks.paper._data import Source, images
from benchmarks.paper._experiment import Cell, Experiment, Row, grouped, mean_error
from benchmarks.paper._figures import band, figure, legend_below, number
from benchmarks.paper._networks import (
    MODELS,
    alignment,
    build,
    features,
    moments_of,
    train,
)

STRENGTHS = {
    "weight_decay": (0.0, 1e-5, 1e-4, 1e-3, 1e-2),
    "dropout": (0.0, 0.1, 0.3, 0.5),
    "label_smoothing": (0.0, 0.05, 0.1, 0.2),
    "patience": (0, 1, 2, 4),
}
# The order that is drawn, where it is not that of the numbers: without early stopping
# patience is 0, and the least there is stops soonest.
STRONGER = {"patience": (0, 4, 2, 1)}
PARTNERS = ("hermite", "paper", "plain", "single")
WIDTH = 256


def cells(quick: bool) -> list[Cell]:
    """Every regulariser, strength and seed."""
    return [
        {"by": by, "strength": strength, "seed": seed, "n": n}
        for seed in range(1 if quick else 5)
        for by, strengths in STRENGTHS.items()
        for strength in (strengths[1:2] if quick else strengths)
        for n in [300 if quick else 2000]
    ]


def compute(cell: Cell, source: Source) -> Row:
    """Train the DEQ and its partners: accuracies, and how alike kernels ended."""
    data = images(source, cell["n"], cell["n"], cell["seed"])
    moments = moments_of(data[0], "relu", 0.2)
    epochs = 2 if cell["n"] < 1000 else 15
    result: Row = {}
    kernels = {}
    for model in ("deq", *PARTNERS):
        body = build(model, moments, data[0], WIDTH, cell["seed"])
        curves = train(
            body,
            data,
            epochs=epochs,
            lr=0.05,
            seed=cell["seed"],
            **{cell["by"]: cell["strength"]},
        )
        Z = features(body, data[2][:500]).astype(float)
        kernels[model] = Z @ Z.T
        result[f"{model} accuracy"] = curves.scores[-1]
        result[f"{model} epochs"] = len(curves.loss)
        result[f"{model} gap"] = curves.scores[-1] - result["deq accuracy"]
        result[f"{model} alignment"] = alignment(kernels["deq"], kernels[model])
    return result


def report(rows: list[Row], path: Path) -> list[Row]:
    """Gap in accuracy, and alignment of the kernels, against strength."""
    groups = grouped(rows, "by", "strength")
    summary = []
    for (by, strength), group in groups.items():
        for partner in PARTNERS:
            line: Row = {"by": by, "strength": strength, "partner": partner}
            names = ("deq accuracy", f"{partner} gap", f"{partner} alignment")
            for name in names:
                mean, error = mean_error(group, name)
                line[name.removeprefix(f"{partner} ")] = f"{mean:.4f} ± {error:.4f}"
            for name in ("deq epochs", f"{partner} epochs"):
                line[name.removeprefix(f"{partner} ")] = mean_error(group, name)[0]
            summary.append({**line, "seeds": len(group)})
    draw(summary, path)
    return summary


def draw(summary: list[Row], path: Path) -> None:
    """Gaps and alignments, a column of panels for each regulariser."""
    size = (3.3 * len(STRENGTHS), 6.0)
    with figure(path, len(STRENGTHS), 2, figsize=size) as axes:
        for column, by in enumerate(STRENGTHS):
            part = [row for row in summary if row["by"] == by]
            for panel, name in zip(axes[:, column], ("gap", "alignment"), strict=True):
                draw_partners(panel, part, name)
                set_strengths(panel, by)
        axes[0, 0].set_ylabel("accuracy, partner − DEQ")
        axes[1, 0].set_ylabel("alignment of the trained kernels")
        for panel in axes[0]:
            panel.axhline(0.0, color="0.7", lw=1, zorder=0)
        legend_below(axes)


def draw_partners(panel: Axes, part: list[Row], name: str) -> None:
    """A line for each partner; apart from it, and open, where no network learns."""
    fails = [
        strength
        for (strength,), group in grouped(part, "strength").items()
        # All are as accurate as the DEQ, on average to the last digit.
        if all(number(row["gap"])[0] == 0.0 for row in group)
    ]
    for (partner,), group in grouped(part, "partner").items():
        color = f"C{MODELS.index(partner)}"
        for failed, style in ((False, {}), (True, {"ls": "", "mfc": "white"})):
            found = [
                (place(row["by"], row["strength"]), *number(row[name]))
                for row in group
                if (row["strength"] in fails) == failed
            ]
            band(panel, found, partner, color=color, **style)
    if fails:
        text = "open: no network learns"
        panel.text(0.04, 0.04, text, fontsize=8, transform=panel.transAxes)


def place(by: str, strength: float) -> float:
    """Where a strength is on its axis."""
    return STRONGER[by].index(strength) if by in STRONGER else strength


def set_strengths(panel: Axes, by: str) -> None:
    """Ticks at the strengths, and what they are."""
    panel.set_xlabel(by)
    if by == "weight_decay":
        panel.set_xscale("symlog", linthresh=1e-5)
    elif by == "patience":
        order = STRONGER[by]
        panel.set_xticks(range(len(order)), [str(s or "none") for s in order])
        panel.set_xlabel("patience in epochs (1 stops soonest)")
    else:
        panel.set_xticks(STRENGTHS[by])


EXPERIMENT = Experiment(
    "regularisation",
    "Do a DEQ and its equivalent stay together under regularisation?",
    cells,
    compute,
    report,
    images=True,
)
