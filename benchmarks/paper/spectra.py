"""Spectra of the exact, finite-width, asymptotic and explicit kernels."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.paper._data import Source, images, mixture
from benchmarks.paper._experiment import Cell, Experiment, Row
from benchmarks.paper._figures import figure
from benchmarks.paper._kernels import kernels
from benchmarks.paper._networks import finite_width_kernel

OTHERS = ("finite", "asymptotic", "explicit")


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
        X = mixture(int(cell["n"] / 0.8), seed=0)
    else:
        X = images(source, cell["n"], 100, seed=0)[0]
    found = kernels(X, cell["activation"], 0.4, kernel=cell["kernel"])
    candidates = {
        "exact": found.exact,
        "asymptotic": found.asymptotic,
        "explicit": found.explicit,
    }
    candidates["finite"] = finite_width_kernel(
        X, found.moments, cell["kernel"], width=2 * len(X), draws=10
    )
    result: Row = {}
    top = None
    for name, K in candidates.items():
        values, vectors = np.linalg.eigh(K)
        result[f"{name} eigenvalues"] = [float(f"{v:.5g}") for v in values]
        if top is None:
            top = vectors[:, -2:]
            continue
        result[f"{name} error"] = found.error(K)
        overlap = np.linalg.svd(top.T @ vectors[:, -2:], compute_uv=False)
        # Cosine of the largest angle between the planes of the two leading vectors.
        result[f"{name} overlap"] = float(overlap.min())
    return result


def report(rows: list[Row], path: Path) -> list[Row]:
    """Histograms of all eigenvalues but the largest few, which are dots."""
    summary = []
    with figure(path, 2, (len(rows) + 1) // 2) as axes:
        for panel, row in zip(axes.ravel(), rows, strict=False):
            exact = np.array(row["exact eigenvalues"])
            edges = np.linspace(exact.min(), np.quantile(exact, 0.97), 50)
            panel.hist(exact, edges, color="0.75", label="exact DEQ kernel")
            for name, color in zip(
                OTHERS, ("tab:green", "tab:orange", "tab:blue"), strict=True
            ):
                values = np.array(row[f"{name} eigenvalues"])
                panel.hist(
                    values, edges, histtype="step", lw=0.8, color=color, label=name
                )
                outliers = values[values > edges[-1]]
                panel.plot(
                    np.minimum(outliers, 4 * edges[-1]), 0 * outliers, ".", color=color
                )
                summary.append(
                    {
                        "data": row["data"],
                        "kernel": row["kernel"],
                        "activation": row["activation"],
                        "other": name,
                        "error": float(f"{row[f'{name} error']:.3g}"),
                        "overlap": float(f"{row[f'{name} overlap']:.4g}"),
                    }
                )
            panel.set_title(f"{row['data']}, {row['activation']}, {row['kernel']}")
            panel.set(xlabel="eigenvalue", ylabel="number")
        axes.ravel()[0].legend(fontsize=8)
    return summary


EXPERIMENT = Experiment(
    "spectra",
    "Do the kernels have the same eigenvalues, outliers and leading eigenvectors?",
    cells,
    compute,
    report,
    images=True,
)
