"""Error against size: does it fall like p^(−1/2)?"""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import linregress
from scipy.stats import t as student

from benchmarks.paper._data import Source, mixture
from benchmarks.paper._experiment import Cell, Experiment, Row, grouped, mean_error
from benchmarks.paper._figures import LABELS, band, figure, legend_below, ticks_at
from benchmarks.paper._kernels import kernels

# Some coincide: the marks of one must leave those of the others to be seen.
STYLES: dict[str, dict[str, Any]] = {
    "relu": {"marker": "o", "ms": 10, "mfc": "none"},
    "leaky_relu": {"marker": "s", "ms": 6, "mfc": "none", "ls": "--"},
    "tanh": {"marker": "^", "ms": 5},
    "elu": {"marker": "v", "ms": 5, "ls": "--"},
    "silu": {"marker": "x", "ms": 8, "ls": ":"},
}
ACTIVATIONS = tuple(STYLES)
KERNELS = ("ck", "ntk_recurrent", "ntk")
OTHERS = ("asymptotic", "explicit")
VARIANCE = 0.4


def cells(quick: bool) -> list[Cell]:
    """Every size, activation, kernel and seed; the large ones first."""
    sizes = (100, 200, 400) if quick else (250, 500, 1000, 2000, 4000)
    return [
        {"p": p, "activation": activation, "kernel": kernel, "seed": seed}
        for p in reversed(sizes)
        for activation in (ACTIVATIONS[:1] if quick else ACTIVATIONS)
        for kernel in KERNELS
        for seed in range(3 if quick else 10)
    ]


def compute(cell: Cell, source: Source) -> Row:
    """Errors of the asymptotic and of the explicit kernel."""
    X = mixture(cell["p"], cell["seed"])
    found = kernels(X, cell["activation"], VARIANCE, kernel=cell["kernel"])
    return {
        "asymptotic": found.error(found.asymptotic),
        "explicit": found.error(found.explicit),
        "architecture": found.match.architecture,
        "residual": found.match.residual,
    }


def _slope(rows: list[Row], name: str) -> str | None:
    """Slope of a value against p, both logarithmic, with its 95 % interval."""
    if len(rows) < 3 or len(grouped(rows, "p")) < 2:
        return None
    line = linregress(
        np.log([row["p"] for row in rows]), np.log([row[name] for row in rows])
    )
    half = student.ppf(0.975, len(rows) - 2) * line.stderr
    return f"{line.slope:.3f} ± {half:.3f}"


def _summary(rows: list[Row]) -> list[Row]:
    sizes = sorted(p for (p,) in grouped(rows, "p"))
    middle = sizes[len(sizes) // 2]
    summary = []
    for (kernel, activation), group in grouped(rows, "kernel", "activation").items():
        large = [row for row in group if row["p"] >= middle]
        for other in OTHERS:
            line = {
                "kernel": kernel,
                "activation": activation,
                "other": other,
                "slope": _slope(group, other),
                f"slope from p={middle}": _slope(large, other),
            }
            for p in sizes:
                found = [row for row in group if row["p"] == p]
                mean, error = mean_error(found, other) if found else (None, None)
                line[f"error at p={p}"] = mean and float(f"{mean:.3g}")
                line[f"± at p={p}"] = error and float(f"{error:.2g}")
            if other == "explicit":
                line["architecture"] = _architectures(group)
                residual = max(row["residual"] for row in group)
                line["largest residual"] = float(f"{residual:.1e}")
            summary.append(line | {"cells": len(group)})
    return summary


def _architectures(group: list[Row]) -> str:
    """Which solve the equations, and from which size on."""
    found, last = [], ""
    for p in sorted({row["p"] for row in group}):
        used = {row["architecture"] for row in group if row["p"] == p}
        names = " or ".join(sorted(used))
        if names != last:
            found.append(f"{names} from p={p}" if last else names)
        last = names
    return ", ".join(found)


def report(rows: list[Row], path: Path) -> list[Row]:
    """Slopes in log–log, and the errors at every size."""
    summary = _summary(rows)
    draw(summary, path)
    return summary


def draw(summary: list[Row], path: Path) -> None:
    """Errors at every size: a row of panels for each kernel."""
    at = "error at p="
    sizes = [int(name.removeprefix(at)) for name in summary[0] if name.startswith(at)]
    with figure(path, 2, 3, sharex=True, sharey=True) as axes:
        for (i, kernel), (j, other) in product(enumerate(KERNELS), enumerate(OTHERS)):
            title = f"{kernel}, {LABELS[other]}"
            axes[i, j].set(xscale="log", yscale="log", title=title)
        for row in summary:
            panel = axes[KERNELS.index(row["kernel"]), OTHERS.index(row["other"])]
            # Of sizes that are not there yet nothing is known.
            found = [
                (p, row[f"{at}{p}"], row[f"± at p={p}"])
                for p in sizes
                if row[f"{at}{p}"]
            ]
            band(panel, found, row["activation"], **STYLES[row["activation"]])
        for panel in axes[-1]:
            ticks_at(panel, sizes)
            panel.set_xlabel("number of features p (n = 0.8 p)")
        for panel in axes[:, 0]:
            panel.set_ylabel("relative error")
        legend_below(axes)


EXPERIMENT = Experiment(
    "size",
    "How does the error of the asymptotic and of the explicit kernel fall with p?",
    cells,
    compute,
    report,
)
