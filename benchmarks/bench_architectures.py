"""Every architecture side by side with the paper's two, where norms vary.

Relative error in operator norm of the explicit network's exact CK, on images (mean
image subtracted, not normalised) and on the Gaussian mixture of the theory, whose
classes differ in covariance. The paper has two leaky-ReLU layers for the ReLU and one
hard tanh for tanh.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from _images import add_data_home, load_images
from _measure import SEED, parser, save
from _tables import add_markdown, relative_distance, replace_table

from sklearn_deq.datasets import make_gaussian_mixture
from sklearn_deq.exceptions import MatchWarning
from sklearn_deq.kernels import deq_kernel, explicit_kernel
from sklearn_deq.theory import ARCHITECTURES, equilibrium_moments, solve_match

PAPERS = {"relu": "leaky_relu", "tanh": "hard_tanh"}
NAMES = [*ARCHITECTURES, "hermite"]
VARIANCES = (0.2, 0.5, 0.9)


def rows(X: np.ndarray, data: str) -> Iterator[dict[str, Any]]:
    """Errors of all architectures, one row for each activation and variance."""
    norms = np.sqrt(np.mean(X**2, axis=1))
    ends = float(norms.min()), float(norms.max())
    tau0 = float(np.sqrt(np.mean(norms**2)))
    for name, papers in PAPERS.items():
        for va in VARIANCES:
            variances = {"recurrent_variance": va, "input_variance": 1.0 - va}
            moments = equilibrium_moments(name, tau0=tau0, **variances)
            K = deq_kernel(X, activation=name, tau0=tau0, **variances)
            errors, depths = {}, {}
            for architecture in NAMES:
                match = solve_match(
                    moments,
                    architecture=architecture,
                    norms=ends if architecture == "hermite" else None,
                )
                found = explicit_kernel(X, layers=match.layers)
                errors[architecture] = relative_distance(found, K)
                depths[architecture] = match.depth
            single = min(errors[a] for a in NAMES if depths[a] == 1)
            best = min(errors.values())
            yield {
                "data": data,
                "activation": name,
                "recurrent_variance": va,
                "errors": errors,
                "depths": depths,
                "papers": papers,
                "best_to_papers": best / errors[papers],
                "one_layer_to_best": single / best,
            }


HEADER = [
    "data",
    "activation",
    "σ_a²",
    *NAMES,
    "best / the paper's",
    "one layer / best",
]


def cells(record: dict[str, Any]) -> list[str]:
    """One line of the table; layers in parentheses, the paper's in italics."""
    errors = []
    for name, error in record["errors"].items():
        text = f"{error:.0e} ({record['depths'][name]})"
        errors.append(f"*{text}*" if name == record["papers"] else text)
    return [
        record["data"],
        record["activation"],
        str(record["recurrent_variance"]),
        *errors,
        f"{record['best_to_papers']:.0e}",
        f"{record['one_layer_to_best']:.1f}",
    ]


def summary(records: list[dict[str, Any]]) -> list[str]:
    """The worst of both ratios."""
    papers = max(record["best_to_papers"] for record in records)
    single = max(record["one_layer_to_best"] for record in records)
    return [
        f"our best over the paper's, at most: {papers:.1e} (to reach: 1)",
        f"our best of one layer over that of either depth, at most: {single:.1f} "
        "(to reach: 10)",
    ]


def main(argv: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Run the benchmark; returns its records."""
    arguments = parser(__doc__, "bench_architectures")
    add_data_home(arguments)
    add_markdown(arguments)
    options = arguments.parse_args(argv)
    X, _, data = load_images(options.data_home)
    n, p = (60, 100) if options.fast else (2000, 1000)
    X = (X - X.mean(axis=0))[:n]
    mixture, _ = make_gaussian_mixture(4 * p // 5, p, random_state=SEED)
    print(f"{data}, {n} images; mixture of {len(mixture)} samples, p = {p}")
    records = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MatchWarning)
        for samples, label in ((X, data), (mixture, "mixture")):
            for record in rows(samples, label):
                print("  ".join(cells(record)), flush=True)
                records.append(record)
    print("\n".join(summary(records)))
    save(options.output, records, n_samples=n, n_features=p)
    if options.markdown:
        lines = [cells(record) for record in records]
        replace_table(options.markdown, Path(__file__), HEADER, lines, summary(records))
    return records


if __name__ == "__main__":
    main()
