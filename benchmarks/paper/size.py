"""Error against size: does it fall like p^(−1/2)?"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy.stats import linregress
from scipy.stats import t as student

from benchmarks.paper._data import Source, mixture
from benchmarks.paper._experiment import Cell, Experiment, Row, grouped, mean_error
from benchmarks.paper._figures import band, figure
from benchmarks.paper._kernels import kernels

ACTIVATIONS = ("relu", "leaky_relu", "tanh", "elu", "silu")
KERNELS = ("ck", "ntk_recurrent", "ntk")
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


def _slope(rows: list[Row], name: str) -> str:
    """Slope of a value against p, both logarithmic, with its 95 % interval."""
    line = linregress(
        np.log([row["p"] for row in rows]), np.log([row[name] for row in rows])
    )
    half = student.ppf(0.975, len(rows) - 2) * line.stderr
    return f"{line.slope:.3f} ± {half:.3f}"


def report(rows: list[Row], path: Path) -> list[Row]:
    """Slopes in log–log, and the errors at the largest size."""
    summary = []
    sizes = sorted(p for (p,) in grouped(rows, "p"))
    with figure(path, 2, 3, sharex=True, sharey=True) as axes:
        for (kernel, activation), group in grouped(
            rows, "kernel", "activation"
        ).items():
            for column, other in enumerate(("asymptotic", "explicit")):
                found = {
                    p: mean_error(part, other)
                    for (p,), part in grouped(group, "p").items()
                }
                large = [row for row in group if row["p"] >= sizes[len(sizes) // 2]]
                summary.append(
                    {
                        "kernel": kernel,
                        "activation": activation,
                        "other": other,
                        "slope": _slope(group, other),
                        f"slope from p={sizes[len(sizes) // 2]}": _slope(large, other),
                        f"error at p={sizes[-1]}": float(f"{found[sizes[-1]][0]:.3g}"),
                        "standard error": float(f"{found[sizes[-1]][1]:.2g}"),
                    }
                )
                panel = axes[KERNELS.index(kernel), column]
                panel.set(xscale="log", yscale="log", title=f"{kernel}, {other}")
                band(panel, [(p, *values) for p, values in found.items()], activation)
        for panel in axes[-1]:
            panel.set_xticks(sizes, [str(p) for p in sizes])
            panel.set_xticks([], minor=True)
            panel.set_xlabel("number of features p (n = 0.8 p)")
        for panel in axes[:, 0]:
            panel.set_ylabel("relative error")
        axes[0, 1].legend(fontsize=8)
    return summary


EXPERIMENT = Experiment(
    "size",
    "How does the error of the asymptotic and of the explicit kernel fall with p?",
    cells,
    compute,
    report,
)
