"""Error against the number of samples alone, and with a bias."""

from __future__ import annotations

from pathlib import Path

from benchmarks.paper._data import Source, mixture
from benchmarks.paper._experiment import Cell, Experiment, Row, grouped, mean_error
from benchmarks.paper._figures import (
    LABELS,
    band,
    figure,
    legend_below,
    number,
    ticks_at,
)
from benchmarks.paper._kernels import kernels

ACTIVATIONS = ("relu", "tanh")
VARIANCE, BIAS = 0.4, 0.2
OTHERS = ("asymptotic", "explicit")


def cells(quick: bool) -> list[Cell]:
    """More and more samples of as many features; and both growing, with a bias."""
    p = 100 if quick else 1000
    numbers = (50, 100) if quick else (125, 250, 500, 1000, 2000, 4000)
    sizes = (100, 200) if quick else (250, 500, 1000, 2000)
    series = [("samples", p, n, 0.0) for n in numbers]
    series += [("bias", p, int(0.8 * p), BIAS) for p in sizes]
    return [
        {
            "series": name,
            "p": p,
            "n": n,
            "bias": bias,
            "activation": activation,
            "seed": seed,
        }
        for name, p, n, bias in series
        for activation in (ACTIVATIONS[:1] if quick else ACTIVATIONS)
        for seed in range(2 if quick else 10)
    ]


def compute(cell: Cell, source: Source) -> Row:
    """Errors of the asymptotic and of the explicit CK.

    The four equations are for no bias: with one, the explicit network is a Hermite
    layer made for the norms of the rows.
    """
    X = mixture(cell["p"], cell["seed"], n_samples=cell["n"])
    found = kernels(
        X,
        cell["activation"],
        VARIANCE,
        architecture="hermite" if cell["bias"] else "auto",
        bias_variance=cell["bias"],
    )
    return {
        "asymptotic": found.error(found.asymptotic),
        "explicit": found.error(found.explicit),
        "architecture": found.match.architecture,
    }


def report(rows: list[Row], path: Path) -> list[Row]:
    """Errors by series and size."""
    summary = []
    for (series, activation, p, n), group in grouped(
        rows, "series", "activation", "p", "n"
    ).items():
        line: Row = {"series": series, "activation": activation, "p": p, "n": n}
        line["architecture"] = group[0]["architecture"]
        for other in OTHERS:
            mean, error = mean_error(group, other)
            line[other] = f"{mean:.3g} ± {error:.1g}"
        summary.append({**line, "seeds": len(group)})
    draw(summary, path)
    return summary


def draw(summary: list[Row], path: Path) -> None:
    """A panel for each series, a line for each activation and kernel."""
    with figure(path, 2, sharey=True) as axes:
        panels = dict(zip(("samples", "bias"), axes.ravel(), strict=True))
        for (series, activation), part in grouped(
            summary, "series", "activation"
        ).items():
            panel, x = panels[series], "n" if series == "samples" else "p"
            for other, style in zip(OTHERS, ("-", "--"), strict=True):
                found = [(row[x], *number(row[other])) for row in part]
                color = f"C{ACTIVATIONS.index(activation)}"
                label = f"{activation}, {LABELS[other]}"
                band(panel, found, label, ls=style, color=color)
            without = f"p = {part[0]['p']}, no bias"
            title = without if series == "samples" else f"σ_c² = {BIAS:g}"
            panel.set(xscale="log", yscale="log", title=title)
            ticks_at(panel, sorted({row[x] for row in part}))
        panels["samples"].set_xlabel("number of samples n")
        panels["samples"].set_ylabel("relative error of the CK")
        panels["bias"].set_xlabel("number of features p (n = 0.8 p)")
        legend_below(axes)


EXPERIMENT = Experiment(
    "samples",
    "How does the error depend on the number of samples, and on a bias?",
    cells,
    compute,
    report,
)
