"""Which explicit network stands in for which DEQ, and how well on images.

Ten activations, four variances (σ_b² = 1 − σ_a²) and three kernels: what `fit` takes
with architecture="auto", knowing the norms of the images, with its residual and the
error of its exact kernel on images whose norms vary; the same of the best network that
solves the equations; and the error of a Hermite layer on the same images on a sphere,
where it is exact. Errors of matrices are relative, in operator norm; those of
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
# What the kernel of the network taken may be off on the images, in operator norm.
TAKEN = 1e-6
# Share of the logarithm of the ratio of norms that `fit` adds on either side.
WIDER = 0.1


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
    wider = (norms.max() / norms.min()) ** WIDER
    ends = float(norms.min() / wider), float(norms.max() * wider)
    variances = {"recurrent_variance": va, "input_variance": 1.0 - va}
    moments = equilibrium_moments(name, **variances)
    settings = {"kernel": KERNELS, "activation": name, **variances}
    varying, sphere = (
        deq_kernel(X, **settings),
        deq_kernel(X, normalize=True, **settings),
    )
    for kernel, K, on_sphere in zip(KERNELS, varying, sphere, strict=True):
        taken = solve_match(moments, kernel=kernel, norms=ends)
        few = FEW if taken.architecture == "hermite" else len(X)
        solved = solve_match(moments, kernel=kernel)
        exact = solve_match(moments, kernel=kernel, architecture="hermite")
        found = explicit_kernel(X, layers=exact.layers, kernel=kernel, normalize=True)
        difference = np.abs(found - on_sphere) / on_sphere[0, 0]
        diagonal = float(np.diag(difference).max())
        np.fill_diagonal(difference, 0.0)
        yield {
            "activation": name,
            "recurrent_variance": va,
            "kernel": kernel,
            "taken": taken.architecture,
            "taken_depth": taken.depth,
            "taken_residual": taken.residual,
            "taken_error": relative_error(X, K[:few, :few], kernel, taken),
            "solved": solved.architecture,
            "solved_depth": solved.depth,
            "solved_residual": solved.residual,
            "solved_error": relative_error(X, K, kernel, solved),
            "sphere_off_diagonal": float(difference.max()),
            "sphere_diagonal": diagonal,
        }


HEADER = (
    "activation",
    "σ_a²",
    "kernel",
    "auto takes",
    "layers",
    "residual",
    "error",
    "best of the equations",
    "layers",
    "residual",
    "error",
    "Hermite, sphere: off the diagonal",
    "on it",
    "verdict",
)


def verdict(record: dict[str, Any]) -> str:
    """Whether residuals and errors are what they have to be."""
    residual = 1e-8 if record["kernel"] == "ck" else 1e-6
    sphere = 1e-4 if ACTIVATIONS[record["activation"]].kinks else 1e-6
    missed = [
        name
        for name, bound in (
            ("taken_error", TAKEN),
            ("solved_residual", residual),
            ("sphere_off_diagonal", sphere),
            ("sphere_diagonal", sphere),
        )
        if record[name] > bound
    ]
    return f"missed: {', '.join(missed)}" if missed else "met"


def cells(record: dict[str, Any]) -> list[str]:
    """One line of the table."""
    values = list(record.values())
    shown = [f"{v:.0e}" if isinstance(v, float) else str(v) for v in values[2:]]
    return [values[0], str(values[1]), *shown, verdict(record)]


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
        f"largest error of what auto takes: {largest('taken_error', records)} "
        f"(to reach {TAKEN:.0e}); its largest residual: "
        f"{largest('taken_residual', records)}",
        "largest residual of the equations, CK: "
        f"{largest('solved_residual', of['ck'])} (to reach 1e-8)",
        f"NTK: {largest('solved_residual', of['ntk'])}, NTK of readout and A: "
        f"{largest('solved_residual', of['ntk_recurrent'])} (to reach 1e-6)",
        f"Hermite on the sphere, off and on the diagonal, smooth φ: {sphere(smooth)} "
        "(to reach 1e-6)",
        f"kinked φ: {sphere(kinked)} (to reach 1e-4)",
        f"median error where norms vary: what auto takes "
        f"{np.median([r['taken_error'] for r in records]):.1e}, the equations' "
        f"{np.median([r['solved_error'] for r in records]):.1e}",
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
