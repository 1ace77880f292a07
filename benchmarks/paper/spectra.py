"""Spectra of the exact, finite-width, asymptotic and explicit kernels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.paper._data import Source, images, labelled_mixture
from benchmarks.paper._experiment import Cell, Experiment, Row
from benchmarks.paper._figures import LABELS, figure, legend_below
from benchmarks.paper._kernels import kernels
from benchmarks.paper._networks import finite_width_kernel

# As they are drawn, from the top.
KERNELS = {
    "exact": "0.3",
    "finite": "tab:green",
    "asymptotic": "tab:orange",
    "explicit": "tab:blue",
}
# Rows whose places in the leading eigenvectors are kept and drawn.
DRAWN = 250


def cells(quick: bool) -> list[Cell]:
    """Both data sets, both kernels, an activation with and one without symmetry."""
    n = 200 if quick else 1000
    return [
        {"data": data, "kernel": kernel, "activation": activation, "n": n}
        for data in ("mixture", "images")
        for kernel in ("ck", "ntk_recurrent")
        for activation in (("relu",) if quick else ("relu", "tanh"))
    ]


def compute(cell: Cell, source: Source) -> Row:
    """Eigenvalues of each kernel, its distance, and the overlap of its top vectors."""
    if cell["data"] == "mixture":
        X, y = labelled_mixture(int(cell["n"] / 0.8), seed=0)
    else:
        X, y = images(source, cell["n"], 100, seed=0)[:2]
    found = kernels(X, cell["activation"], 0.4, kernel=cell["kernel"])
    candidates = {
        "exact": found.exact,
        "asymptotic": found.asymptotic,
        "explicit": found.explicit,
    }
    candidates["finite"] = finite_width_kernel(
        X, found.moments, cell["kernel"], width=2 * len(X), draws=10
    )
    some = np.linspace(0, len(X) - 1, min(len(X), DRAWN)).astype(int)
    result: Row = {"classes": y[some].tolist()}
    top = None
    for name, K in candidates.items():
        values, vectors = np.linalg.eigh(K)
        own = vectors[:, -2:]
        if top is None:
            # The entries of a vector sum to something positive, where that says which.
            top = own * np.where(own.sum(axis=0) < 0, -1.0, 1.0)
        own = own * np.where(np.sum(own * top, axis=0) < 0, -1.0, 1.0)
        result[f"{name} eigenvalues"] = [float(f"{v:.5g}") for v in values]
        result[f"{name} vectors"] = [
            [float(f"{v:.3g}") for v in vector] for vector in own[some].T[::-1]
        ]
        if name == "exact":
            continue
        result[f"{name} error"] = found.error(K)
        overlap = np.linalg.svd(top.T @ own, compute_uv=False)
        # Cosine of the largest angle between the planes of the two leading vectors.
        result[f"{name} overlap"] = float(overlap.min())
    return result


def report(rows: list[Row], path: Path) -> list[Row]:
    """Eigenvalues where they are, and rows in the plane of the leading eigenvectors."""
    columns = 1 + len(KERNELS)
    ratios = {"width_ratios": [2.2, *[1] * len(KERNELS)]}
    size = (13.0, 2.4 * len(rows))
    with figure(path, columns, len(rows), figsize=size, gridspec_kw=ratios) as axes:
        for (spectrum, *planes), row in zip(axes, rows, strict=True):
            _draw_spectrum(spectrum, row)
            for panel, name in zip(planes, KERNELS, strict=True):
                _draw_plane(panel, row, name)
        for panel, name in zip(axes[0, 1:], KERNELS, strict=True):
            title = f"{LABELS.get(name, name)}: first\nand second eigenvector"
            panel.set_title(title, fontsize=9)
        axes[-1, 0].set_xlabel("eigenvalue")
        for k in sorted({k for row in rows for k in row["classes"]}):
            axes[0, 1].plot([], [], "o", ms=4, color=f"C{k}", label=f"class {k}")
        legend_below(axes)
    return [_line(row, name) for row in rows for name in KERNELS]


def _line(row: Row, name: str) -> Row:
    """Errors of a kernel, if it is not the exact one, and what its spectrum is."""
    line: Row = {key: row[key] for key in ("data", "kernel", "activation")}
    line["other"] = name
    for key, digits in (("error", 3), ("overlap", 4)):
        value = row.get(f"{name} {key}")
        line[key] = value if value is None else float(f"{value:.{digits}g}")
    values = np.sort(row[f"{name} eigenvalues"])[::-1]
    for place in range(3):
        line[f"eigenvalue {place + 1}"] = float(f"{values[place]:.4g}")
    line["median eigenvalue"] = float(f"{np.median(values):.3g}")
    line["further left"] = int(np.sum(values < _least(row)))
    return line


def _least(row: Row) -> float:
    """A third of the exact kernel's least eigenvalue: left of it is far too small."""
    exact = np.array(row["exact eigenvalues"])
    return float(exact[exact > 0].min() / 3)


def _draw_spectrum(panel: Any, row: Row) -> None:
    """A line for each kernel: a stroke for every eigenvalue, and how dense they are."""
    exact = np.array(row["exact eigenvalues"])
    least, largest = _least(row), exact.max() * 3
    edges = np.geomspace(least, largest, 120)
    for place, (name, color) in enumerate(KERNELS.items()):
        values = np.array(row[f"{name} eigenvalues"])
        counts = np.histogram(values, edges)[0]
        panel.fill_between(
            edges[:-1],
            place,
            place - 0.7 * counts / max(counts.max(), 1),
            step="post",
            color=color,
            alpha=0.4,
            lw=0,
        )
        panel.plot(values, np.full(len(values), place + 0.1), "|", ms=6, color=color)
        if below := int(np.sum(values < least)):
            where = {"xy": (0.01, place - 0.15), "xycoords": ("axes fraction", "data")}
            panel.annotate(f"+ {below} further left", **where, fontsize=7)
    panel.set(xscale="log", xlim=(least, largest), ylim=(len(KERNELS) - 0.5, -0.9))
    names = [LABELS.get(name, name).replace(" ", "\n") for name in KERNELS]
    panel.set_yticks(range(len(KERNELS)), names)
    panel.set_title(f"{row['data']}, {row['activation']}, {row['kernel']}", fontsize=9)


def _draw_plane(panel: Any, row: Row, name: str) -> None:
    """A dot for each row of the data, by class; the axes are those of all kernels."""
    panel.scatter(*row[f"{name} vectors"], c=[f"C{k}" for k in row["classes"]], s=5)
    every = np.concatenate([row[f"{other} vectors"] for other in KERNELS], axis=1)
    low, high = every.min(axis=1), every.max(axis=1)
    low, high = low - 0.08 * (high - low), high + 0.08 * (high - low)
    panel.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), xticks=[], yticks=[])


EXPERIMENT = Experiment(
    "spectra",
    "Do the kernels have the same eigenvalues, outliers and leading eigenvectors?",
    cells,
    compute,
    report,
    images=True,
)
