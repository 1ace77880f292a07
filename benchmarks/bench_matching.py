"""Which explicit network stands in for which DEQ, and how well on images.

Ten activations, four variances (σ_b² = 1 − σ_a²) and three kernels: the architecture
that "auto" chooses of those that solve the equations, with its residual and the error
of its exact kernel on images whose norms vary, beside that of one Hermite layer
conditioned on the norm; and the error of a Hermite layer on the same images on a
sphere, where it is exact. Errors of matrices are relative, in operator norm; those of
entries relative to the diagonal.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from _images import add_data_home, load_images
from _measure import parser, save
from _tables import add_markdown, relative_distance, replace_table

from sklearn_deq.exceptions import MatchWarning
from sklearn_deq.kernels import deq_kernel, explicit_kernel
from sklearn_deq.theory import (
    ACTIVATIONS,
    MatchResult,
    equilibrium_moments,
    solve_match,
)

KERNELS = ("ck", "ntk", "ntk_recurrent")
VARIANCES = (0.1, 0.2, 0.5, 0.9)
# Images for Hermite layers where norms vary: long series, entry by entry.
FEW = 500


def relative_error(
    X: np.ndarray, K: np.ndarray, kernel: str, match: MatchResult
) -> float:
    """Error of the explicit network's exact kernel on the samples of K."""
    found = explicit_kernel(
        X[: len(K)],
        layers=match.layers,
        kernel=kernel,
        multipliers=match.multipliers,
    )
    return relative_distance(found, K)


def rows(X: np.ndarray, name: str, va: float) -> Iterator[dict[str, Any]]:
    """Three cells of the table: X has norms that vary, of size 1 on average."""
    norms = np.sqrt(np.mean(X**2, axis=1))
    ends = float(norms.min()), float(norms.max())
    variances = {"recurrent_variance": va, "input_variance": 1.0 - va}
    moments = equilibrium_moments(name, **variances)
    settings = {"kernel": KERNELS, "activation": name, **variances}
    varying, sphere = (
        deq_kernel(X, **settings),
        deq_kernel(X, normalize=True, **settings),
    )
    for kernel, K, on_sphere in zip(KERNELS, varying, sphere, strict=True):
        auto = solve_match(moments, kernel=kernel)
        hermite = {"kernel": kernel, "architecture": "hermite"}
        conditioned = solve_match(moments, norms=ends, **hermite)
        exact = solve_match(moments, **hermite)
        found = explicit_kernel(X, layers=exact.layers, kernel=kernel, normalize=True)
        difference = np.abs(found - on_sphere) / on_sphere[0, 0]
        diagonal = float(np.diag(difference).max())
        np.fill_diagonal(difference, 0.0)
        yield {
            "activation": name,
            "recurrent_variance": va,
            "kernel": kernel,
            "architecture": auto.architecture,
            "depth": auto.depth,
            "residual": auto.residual,
            "error": relative_error(X, K, kernel, auto),
            "hermite_error": relative_error(X, K[:FEW, :FEW], kernel, conditioned),
            "sphere_off_diagonal": float(difference.max()),
            "sphere_diagonal": diagonal,
        }


HEADER = (
    "activation",
    "σ_a²",
    "kernel",
    "auto",
    "layers",
    "residual",
    "error",
    "Hermite, norms vary",
    "Hermite, sphere: off the diagonal",
    "on it",
    "verdict",
)


def verdict(record: dict[str, Any]) -> str:
    """Whether residual and errors on the sphere are what they have to be."""
    residual = 1e-8 if record["kernel"] == "ck" else 1e-6
    sphere = 1e-4 if ACTIVATIONS[record["activation"]].kinks else 1e-6
    missed = [
        name
        for name, bound in (
            ("residual", residual),
            ("sphere_off_diagonal", sphere),
            ("sphere_diagonal", sphere),
        )
        if record[name] > bound
    ]
    return f"missed: {', '.join(missed)}" if missed else "met"


def cells(record: dict[str, Any]) -> list[str]:
    """One line of the table."""
    first = ("activation", "recurrent_variance", "kernel", "architecture", "depth")
    errors = ("residual", "error", "hermite_error")
    sphere = ("sphere_off_diagonal", "sphere_diagonal")
    return [
        *(str(record[name]) for name in first),
        *(f"{record[name]:.0e}" for name in (*errors, *sphere)),
        verdict(record),
    ]


def summary(records: list[dict[str, Any]]) -> list[str]:
    """Largest figures of all cells, as the targets ask for them."""
    smooth = [r for r in records if not ACTIVATIONS[r["activation"]].kinks]
    kinked = [r for r in records if ACTIVATIONS[r["activation"]].kinks]

    def largest(name: str, rows: list[dict[str, Any]]) -> str:
        return f"{max((r[name] for r in rows), default=np.nan):.1e}"

    def sphere(rows: list[dict[str, Any]]) -> str:
        names = ("sphere_off_diagonal", "sphere_diagonal")
        return ", ".join(largest(name, rows) for name in names)

    of = {k: [r for r in records if r["kernel"] == k] for k in KERNELS}
    return [
        f"largest residual of auto, CK: {largest('residual', of['ck'])} "
        "(to reach 1e-8)",
        f"NTK: {largest('residual', of['ntk'])}, NTK of readout and A: "
        f"{largest('residual', of['ntk_recurrent'])} (to reach 1e-6)",
        f"Hermite on the sphere, off and on the diagonal, smooth φ: {sphere(smooth)} "
        "(to reach 1e-6)",
        f"kinked φ: {sphere(kinked)} (to reach 1e-4)",
        f"median error where norms vary: auto "
        f"{np.median([r['error'] for r in records]):.1e}, one Hermite layer "
        f"{np.median([r['hermite_error'] for r in records]):.1e}",
    ]


def main(argv: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Run the benchmark; returns its records."""
    arguments = parser(__doc__, "bench_matching")
    add_data_home(arguments)
    add_markdown(arguments)
    options = arguments.parse_args(argv)
    X, _, data = load_images(options.data_home)
    n = 100 if options.fast else 2000
    X = (X - X.mean(axis=0))[:n]
    X /= np.sqrt(np.mean(X**2))
    names = [name for name in ACTIVATIONS if name != "identity"]
    variances: tuple[float, ...] = VARIANCES
    if options.fast:
        names, variances = ["relu", "tanh"], (0.2,)
    print(f"{data}, {len(X)} images, mean image subtracted")
    records = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MatchWarning)
        for name in names:
            for va in variances:
                for record in rows(X, name, va):
                    print("  ".join(cells(record)), flush=True)
                    records.append(record)
    print("\n".join(summary(records)))
    save(options.output, records, data=data, n_samples=len(X))
    if options.markdown:
        lines = [cells(record) for record in records]
        replace_table(options.markdown, Path(__file__), HEADER, lines, summary(records))
    return records


if __name__ == "__main__":
    main()
