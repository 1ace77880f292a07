"""Open question 4: does the pair stay equivalent under regularisation?"""

from __future__ import annotations

from pathlib import Path

from benchmarks.paper._data import images
from benchmarks.paper._experiment import Cell, Experiment, Row, grouped, mean_error
from benchmarks.paper._figures import band, figure
from benchmarks.paper._networks import alignment, build, features, moments_of, train

STRENGTHS = {
    "weight_decay": (0.0, 1e-5, 1e-4, 1e-3, 1e-2),
    "dropout": (0.0, 0.1, 0.3, 0.5),
    "label_smoothing": (0.0, 0.05, 0.1, 0.2),
    "patience": (1, 2, 4),
}
PARTNERS = ("hermite", "paper", "plain")


def cells(quick: bool) -> list[Cell]:
    """Every partner, regulariser and strength."""
    return [
        {"partner": partner, "by": by, "strength": strength, "seed": seed, "n": n}
        for partner in (PARTNERS[:1] if quick else PARTNERS)
        for by, strengths in STRENGTHS.items()
        for strength in (strengths[1:2] if quick else strengths)
        for seed in range(1 if quick else 5)
        for n in [300 if quick else 2000]
    ]


def compute(cell: Cell, data_home: Path | None) -> Row:
    """Train both of a pair; their accuracies, and how alike their kernels ended."""
    data = images(data_home, cell["n"], cell["n"], cell["seed"])
    moments = moments_of(data[0], "relu", 0.2)
    epochs = 2 if cell["n"] < 1000 else 15
    result: Row = {}
    kernels = []
    for model in ("deq", cell["partner"]):
        body = build(model, moments, data[0], 256, cell["seed"])
        curves = train(
            body,
            data,
            epochs=epochs,
            lr=0.05,
            seed=cell["seed"],
            **{cell["by"]: cell["strength"]},
        )
        side = "deq" if model == "deq" else "partner"
        result[f"{side} accuracy"] = curves.accuracy[-1]
        result[f"{side} epochs"] = len(curves.loss)
        Z = features(body, data[2][:500]).astype(float)
        kernels.append(Z @ Z.T)
    result["gap"] = result["partner accuracy"] - result["deq accuracy"]
    result["alignment"] = alignment(*kernels)
    return result


def report(rows: list[Row], path: Path) -> list[Row]:
    """Gap in accuracy, and alignment of the kernels, against strength."""
    groups = grouped(rows, "partner", "by", "strength")
    summary = []
    for (partner, by, strength), group in groups.items():
        line: Row = {"partner": partner, "by": by, "strength": strength}
        for name in ("deq accuracy", "gap", "alignment"):
            mean, error = mean_error(group, name)
            line[name] = f"{mean:.4f} ± {error:.4f}"
        summary.append(line)
    with figure(path, len(STRENGTHS), 2, sharey="row") as axes:
        for column, by in enumerate(STRENGTHS):
            for row, name in enumerate(("gap", "alignment")):
                panel = axes[row, column]
                for (partner,) in grouped(rows, "partner"):
                    found = [
                        (s, *mean_error(group, name))
                        for (who, how, s), group in groups.items()
                        if (who, how) == (partner, by)
                    ]
                    band(panel, *zip(*sorted(found), strict=True), partner)
                panel.set(xlabel=by)
                if by == "weight_decay":
                    panel.set_xscale("symlog", linthresh=1e-5)
        axes[0, 0].set_ylabel("accuracy, partner − DEQ")
        axes[1, 0].set_ylabel("alignment of the trained kernels")
        axes[0, 0].axhline(0.0, color="0.7", lw=1)
        axes[0, 0].legend(fontsize=8)
    return summary


EXPERIMENT = Experiment(
    "regularisation",
    "Do a DEQ and its equivalent stay together under regularisation?",
    cells,
    compute,
    report,
)
