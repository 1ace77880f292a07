"""Open question 2: the depth that is needed, with a measured check of each verdict."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np

from benchmarks.paper._data import Source, mixture
from benchmarks.paper._experiment import Cell, Experiment, Row, grouped
from benchmarks.paper._figures import figure
from benchmarks.paper._kernels import kernels
from sklearn_deq.exceptions import MatchWarning
from sklearn_deq.theory import (
    ACTIVATIONS,
    ARCHITECTURES,
    equilibrium_moments,
    minimal_depth,
    solve_match,
)

VARIANCES = (0.1, 0.2, 0.35, 0.5, 0.7, 0.9)


def cells(quick: bool) -> list[Cell]:
    """Every activation, variance and kernel."""
    names = [name for name in ACTIVATIONS if name != "identity"]
    return [
        {"activation": name, "variance": variance, "kernel": kernel}
        for name in (names[:2] if quick else names)
        for variance in (VARIANCES[1:2] if quick else VARIANCES)
        for kernel in (("ck",) if quick else ("ck", "ntk", "ntk_recurrent"))
    ]


def compute(cell: Cell, source: Source) -> Row:
    """The verdict, the best residual by depth, and the distance of the kernels."""
    variance = cell["variance"]
    verdict = minimal_depth(
        cell["activation"], variance, 1 - variance, kernel=cell["kernel"]
    )
    moments = equilibrium_moments(cell["activation"], variance, 1 - variance)
    best: dict[int, float] = {}
    for architecture in ARCHITECTURES:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", MatchWarning)
            match = solve_match(
                moments, kernel=cell["kernel"], architecture=architecture
            )
        best[match.depth] = min(best.get(match.depth, np.inf), match.residual)
    X = mixture(400, seed=0)
    found = kernels(X, cell["activation"], variance, kernel=cell["kernel"])
    return {
        "depth": verdict.depth,
        "reason": verdict.reason,
        "residuals": {str(depth): residual for depth, residual in best.items()},
        "error at p=400": found.error(found.explicit),
    }


def report(rows: list[Row], path: Path) -> list[Row]:
    """A verdict is confirmed if its depth matches, and no shallower one tried does."""
    summary = []
    for row in rows:
        residuals = {int(depth): value for depth, value in row["residuals"].items()}
        meets = min((d for d, r in residuals.items() if r < 1e-6), default=None)
        shallower = [r for d, r in residuals.items() if d < row["depth"]]
        summary.append(
            {
                "activation": row["activation"],
                "variance": row["variance"],
                "kernel": row["kernel"],
                "depth": row["depth"],
                "depth that matched": meets,
                "best residual of a shallower one": float(f"{min(shallower):.2g}")
                if shallower
                else None,
                "error at p=400": float(f"{row['error at p=400']:.2g}"),
                "confirmed": meets == row["depth"],
            }
        )
    kernels_ = list(grouped(rows, "kernel"))
    names = [name for (name,) in grouped(rows, "activation")]
    variances = [value for (value,) in grouped(rows, "variance")]
    with figure(path, len(kernels_), 1) as axes:
        for panel, (kernel,) in zip(np.atleast_1d(axes).ravel(), kernels_, strict=True):
            depths = {
                (row["activation"], row["variance"]): row["depth"]
                for row in rows
                if row["kernel"] == kernel
            }
            grid = [[depths[name, value] for value in variances] for name in names]
            panel.imshow(grid, vmin=0, vmax=4, cmap="YlGnBu", aspect="auto")
            for (i, j), depth in np.ndenumerate(np.array(grid)):
                panel.text(j, i, depth, ha="center", va="center")
            panel.set_xticks(range(len(variances)), [f"{v:g}" for v in variances])
            panel.set_yticks(range(len(names)), names)
            panel.set(title=kernel, xlabel="recurrent_variance")
    return summary


EXPERIMENT = Experiment(
    "depth",
    "How many hidden layers does each activation need?",
    cells,
    compute,
    report,
)
