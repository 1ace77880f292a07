"""Open question 2: the depth that is needed, with a measured check of each verdict."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks._tables import best_scale, relative_distance
from benchmarks.paper._data import Source, mixture
from benchmarks.paper._experiment import Cell, Experiment, Row, grouped
from benchmarks.paper._figures import figure
from sklearn_deq.kernels import deq_kernel, explicit_kernel
from sklearn_deq.theory import (
    ACTIVATIONS,
    ARCHITECTURES,
    MatchResult,
    equilibrium_moments,
    explicit_moments,
    minimal_depth,
)
from sklearn_deq.theory._equations import Problem

VARIANCES = (0.1, 0.2, 0.35, 0.5, 0.7, 0.9)
# Columns of errors that are compared: of the nearest of a kernel's multiples.
MATCHED = "error of its best multiple"
ITSELF = "error of φ itself, one layer, best multiple"


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
    """The verdict, and of every depth the best residual and distance of the kernel.

    Every family is solved at every depth it has: the verdict's own solution is none of
    them. Below what residual no network of a family gets is proven, not searched for.
    """
    variance, kernel = cell["variance"], cell["kernel"]
    verdict = minimal_depth(cell["activation"], variance, 1 - variance, kernel=kernel)
    moments = equilibrium_moments(cell["activation"], variance, 1 - variance)
    problem = Problem(moments, kernel, 1e-6, multipliers=True, equal_norms=False)
    X = mixture(400, seed=0)
    exact = deq_kernel(
        X,
        kernel=kernel,
        activation=cell["activation"],
        recurrent_variance=variance,
        input_variance=1 - variance,
        tau0=moments.tau0,
    )
    row: Row = {"depth": verdict.depth, "reason": verdict.reason, "by depth": {}}
    for depth in (1, 2):
        found = [
            (problem.solve(candidate, ""), problem.distance(candidate))
            for candidate in problem.candidates(list(ARCHITECTURES))
            if candidate.depth == depth
        ]
        least = min(match.residual for match, _ in found)
        measured = [_measured(match, X, kernel, exact) for match, _ in found]
        # Solutions are not equal off the equations: the closest of those as good, and
        # that of all, which may be no solution.
        limit = max(1e-6, 1.1 * least)
        closest = _closest([each for each in measured if each["residual"] <= limit])
        row["by depth"][str(depth)] = {
            **closest,
            "residual": least,
            "bound": min(bound for _, bound in found),
            "closest of all": _closest(measured),
        }
    # No equations: one layer of the activation itself.
    own = explicit_moments([moments.activation], tau0=moments.tau0).layers
    K = explicit_kernel(X, layers=own, kernel=kernel)
    row["error of itself"] = _distance_of_multiple(K, exact)
    return row


def _distance_of_multiple(K: np.ndarray, exact: np.ndarray) -> float:
    """Distance of what is the nearest of all multiples; a readout can multiply, too."""
    return relative_distance(best_scale(K, exact) * K, exact)


def _measured(match: MatchResult, X: np.ndarray, kernel: str, exact: np.ndarray) -> Row:
    """What a network is, how it solves the equations, and how far its kernel is."""
    K = explicit_kernel(
        X, layers=match.layers, kernel=kernel, multipliers=match.multipliers
    )
    return {
        "architecture": match.architecture,
        "residual": match.residual,
        "error": relative_distance(K, exact),
        "error of a multiple": _distance_of_multiple(K, exact),
    }


def _closest(measured: list[Row]) -> Row:
    return min(measured, key=lambda row: row["error"])


def report(rows: list[Row], path: Path) -> list[Row]:
    """A verdict is confirmed if its depth matches, and no shallower network can."""
    summary = []
    for row in rows:
        depth = row["depth"]
        found = {int(d): values for d, values in row["by depth"].items()}
        meets = min((d for d in found if found[d]["residual"] < 1e-6), default=None)
        line = {name: row[name] for name in ("activation", "variance", "kernel")}
        line |= {"depth": depth, "depth that matched": meets}
        line["architecture"] = found[depth]["architecture"]
        line["error at p=400"] = _short(found[depth]["error"])
        line[MATCHED] = _short(found[depth]["error of a multiple"])
        if depth > 1:
            line |= {
                "residual of one layer": _short(found[1]["residual"]),
                "proven to be at least": _short(found[1]["bound"]),
                "its error at p=400": _short(found[1]["error"]),
            }
        line[ITSELF] = _short(row["error of itself"])
        nearest = found[depth]["closest of all"]
        line |= {
            "closest, solution or not": nearest["architecture"],
            "its residual": _short(nearest["residual"]),
            "its error": _short(nearest["error"]),
            "error of its best multiple, solution or not": _short(
                nearest["error of a multiple"]
            ),
        }
        possible = depth > 1 and found[1]["bound"] < 1e-6
        line["confirmed"] = meets == depth and not possible
        summary.append(line)
    draw(summary, path)
    return summary


def _short(value: float) -> float:
    return float(f"{value:.3g}")


def draw(summary: list[Row], path: Path) -> None:
    """Depths, with errors of multiples of the matched network's kernel and φ's own."""
    kinds = [name for (name,) in grouped(summary, "kernel")]
    names = [name for (name,) in grouped(summary, "activation")]
    variances = [value for (value,) in grouped(summary, "variance")]
    with figure(path, len(kinds), 1) as axes:
        for panel, kernel in zip(np.atleast_1d(axes).ravel(), kinds, strict=True):
            own = {
                (row["activation"], row["variance"]): row
                for row in summary
                if row["kernel"] == kernel
            }
            grid = np.full((len(names), len(variances)), np.nan)
            for (name, variance), row in own.items():
                where = names.index(name), variances.index(variance)
                grid[where] = row["depth"]
                # Two figures would not leave room between cells where errors are small.
                errors = [
                    f"{100 * row[key]:.{1 if row[key] < 1e-4 else 2}g}"
                    for key in (MATCHED, ITSELF)
                ]
                text = f"{row['depth']}\n{' | '.join(errors)}"
                panel.text(*where[::-1], text, ha="center", va="center", fontsize=6)
            panel.imshow(grid, vmin=0, vmax=4, cmap="YlGnBu", aspect="auto")
            panel.set_xticks(range(len(variances)), [f"{v:g}" for v in variances])
            panel.set_yticks(range(len(names)), names)
            panel.set(xlabel="recurrent_variance")
            panel.set_title(f"{kernel}: depth; % off, matched | φ itself", fontsize=10)


EXPERIMENT = Experiment(
    "depth",
    "How many hidden layers does each activation need?",
    cells,
    compute,
    report,
    settings=("activation", "variance", "kernel"),
    draw=draw,
)
