"""Distance of networks of finite width from the exact kernel, and of their limits."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from benchmarks._tables import best_scale, relative_distance
from benchmarks.paper._data import Source, images, mixture
from benchmarks.paper._experiment import Cell, Experiment, Row, grouped, mean_error
from benchmarks.paper._figures import band, figure, legend_below, number, ticks_at
from benchmarks.paper._networks import (
    MODELS,
    build,
    explicit_layers,
    models_of,
    moments_of,
    network_kernel,
)
from sklearn_deq.kernels import deq_kernel, explicit_kernel

# Of the CK the readout is trained, of the NTK all weights.
TRAINABLE = {"ck": "readout", "ntk": "all"}
# Of which tangent kernels are the mean; of one hidden layer it is exact.
READOUTS = 8
# What the distance is of: the kernel as it is, or times a number.
KINDS = ("as it is", "scaled")
SETTINGS = ("data", "kernel", "activation", "variance")


def cells(quick: bool) -> list[Cell]:
    """Every model at every width, 0 being infinite, where a DEQ needs no cell.

    The widest are left out at the larger variance, as in the experiment on accuracy.
    """
    widths = (32, 64, 0) if quick else (64, 256, 1024, 4096, 0)
    return [
        {
            "data": data,
            "kernel": kernel,
            "activation": activation,
            "variance": variance,
            "width": width,
            "model": model,
            "seed": seed,
            "n": 100 if quick else 500,
        }
        for seed in range(1 if quick else 5)
        for data in ("mixture", "images")
        for kernel in TRAINABLE
        for activation in (("relu",) if quick else ("relu", "tanh"))
        for variance in ((0.2,) if quick else (0.2, 0.8))
        for model in models_of(activation)
        for width in widths
        if (width or model != "deq") and (width <= 1024 or variance == 0.2)
    ]


def compute(cell: Cell, source: Source) -> Row:
    """Relative distance from the DEQ's exact kernel, in operator norm.

    A readout can multiply a kernel by a number, so that also times what brings the
    network's own limit nearest: 1 of networks that have the DEQ's kernel there.
    """
    model, kernel = cell["model"], cell["kernel"]
    trainable = TRAINABLE[kernel]
    shared = {name: value for name, value in cell.items() if name != "width"}
    X, moments, exact, limit, scale = _limit(tuple(shared.items()), source)
    if cell["width"]:
        body = build(
            model, moments, X, cell["width"], cell["seed"], trainable=trainable
        )
        found = network_kernel(body, X, kernel, cell["seed"], n_readouts=READOUTS)
    else:
        found = limit
    distances = (relative_distance(K, exact) for K in (found, scale * found))
    return dict(zip(KINDS, distances, strict=True))


@lru_cache(maxsize=1)
def _limit(cell: tuple[tuple[str, Any], ...], source: Source) -> tuple[Any, ...]:
    """What cells of all widths share: rows, moments, kernels, and the number."""
    shared = dict(cell)
    n, seed, kernel = shared["n"], shared["seed"], shared["kernel"]
    if shared["data"] == "mixture":
        X = mixture(int(n / 0.8), seed, n_samples=n)
    else:
        X = images(source, n, 100, seed)[0]
    moments = moments_of(X, shared["activation"], shared["variance"])
    exact = deq_kernel(
        X,
        kernel=kernel,
        activation=moments.activation,
        recurrent_variance=moments.recurrent_variance,
        input_variance=moments.input_variance,
        tau0=moments.tau0,
    )
    if shared["model"] == "deq":
        return X, moments, exact, exact, 1.0
    layers, multipliers = explicit_layers(
        shared["model"], moments, X, TRAINABLE[kernel]
    )
    limit = explicit_kernel(X, layers=layers, kernel=kernel, multipliers=multipliers)
    scale = 1.0 if shared["model"] == "hermite" else best_scale(limit, exact)
    return X, moments, exact, limit, scale


def report(rows: list[Row], path: Path) -> list[Row]:
    """Two lines for every network: its distances at every width."""
    widths = sorted({row["width"] for row in rows}, key=lambda width: width or np.inf)
    summary = []
    for (*settings, model), group in grouped(rows, *SETTINGS, "model").items():
        by_width = grouped(group, "width")
        for kind in KINDS:
            line: Row = dict(zip(SETTINGS, settings, strict=True))
            line |= {"model": model, "of": kind}
            for width in widths:
                part = by_width.get((width,), [])
                line[f"width {width or '∞'}"] = _text(part, kind)
            summary.append({**line, "seeds": min(map(len, by_width.values()))})
    draw(summary, path)
    return summary


def _text(rows: list[Row], kind: str) -> str | None:
    """Mean and standard error of a distance, if there are any."""
    if not rows:
        return None
    mean, error = mean_error(rows, kind)
    return f"{mean:.3g} ± {error:.1g}"


def draw(summary: list[Row], path: Path) -> None:
    """A panel for each kernel, data, activation and variance."""
    rows = [row for row in summary if row["of"] == "scaled"]
    lines = list(grouped(rows, "kernel", "data"))
    columns = list(grouped(rows, "activation", "variance"))
    names = [name.removeprefix("width ") for name in rows[0]]
    widths = [int(name) for name in names if name.isdecimal()]
    size = (3.3 * len(columns), 2.7 * len(lines))
    with figure(path, len(columns), len(lines), figsize=size) as axes:
        panels = np.atleast_1d(axes).reshape(len(lines), len(columns))
        for (kernel, data, activation, variance), part in grouped(
            rows, "kernel", "data", "activation", "variance"
        ).items():
            place = lines.index((kernel, data)), columns.index((activation, variance))
            draw_models(panels[place], part, widths)
            title = f"{kernel.upper()}, {data}, {activation}, σ_a² = {variance:g}"
            panels[place].set_title(title, fontsize=9)
        for panel in panels[:, 0]:
            panel.set_ylabel("distance × √width")
        for panel in panels[-1]:
            panel.set_xlabel("width")
        dotted = {"ls": ":", "color": "0.2", "label": "what is left at width ∞"}
        panels[-1, -1].plot([], [], **dotted)
        legend_below(panels)


def draw_models(panel: Axes, rows: list[Row], widths: list[int]) -> None:
    """Every model, times √width: level while chance is all; of its limit, dotted."""
    roots = np.sqrt(widths)
    for row in rows:
        color = f"C{MODELS.index(row['model'])}"
        points = [
            (width, *np.multiply(number(row[f"width {width}"]), root))
            for width, root in zip(widths, roots, strict=True)
            if row[f"width {width}"]
        ]
        band(panel, points, row["model"], color=color)
        if limit := row.get("width ∞"):
            panel.plot(widths, number(limit)[0] * roots, ls=":", color=color)
    panel.set(xscale="log", ylim=(0.0, None))
    ticks_at(panel, widths)


EXPERIMENT = Experiment(
    "width",
    "How wide must a network be for its kernel to be the DEQ's?",
    cells,
    compute,
    report,
    images=True,
)
