"""How far the kernel of a finite network is from that of the infinitely wide DEQ.

Relative distance in operator norm between Z Zᵀ, Z the features at initialisation, and
the exact CK, for the DEQ itself, the paper's two leaky-ReLU layers, and one Hermite
layer; images on a sphere, means and standard errors over seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _images import add_data_home, load_images
from _measure import parser, save
from _tables import relative_distance

from sklearn_deq.kernels import deq_kernel
from sklearn_deq.nn import EquilibriumLayer, ExplicitNetwork
from sklearn_deq.theory import EquilibriumMoments, equilibrium_moments, solve_match
from sklearn_deq.theory._rows import normalize_rows

NAMES = {
    "deq": "the DEQ itself",
    "leaky_relu": "two leaky-ReLU layers",
    "hermite": "one Hermite layer",
}


def make_body(
    name: str, moments: EquilibriumMoments, n_features: int, width: int, seed: int
) -> torch.nn.Module:
    """One of the three networks with weights drawn anew."""
    generator = torch.Generator().manual_seed(seed)
    if name == "deq":
        return EquilibriumLayer(
            n_features,
            width,
            activation=moments.activation,
            recurrent_variance=moments.recurrent_variance,
            input_variance=moments.input_variance,
            offset=moments.offset,
            trainable="readout",
            generator=generator,
        )
    match = solve_match(moments, architecture=name)
    return ExplicitNetwork(n_features, width, match.layers, generator=generator)


def distance(body: torch.nn.Module, X: torch.Tensor, K: np.ndarray) -> float:
    """Relative distance of the kernel of the features from K."""
    with torch.inference_mode():
        Z = body(X).double().numpy()
    return relative_distance(Z @ Z.T, K)


def draw(records: list[dict[str, Any]], data: str, path: Path) -> None:
    """Means with error bars against the width."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(5.5, 3.8), layout="constrained")
    for name, label in NAMES.items():
        rows = [row for row in records if row["network"] == name]
        widths = [row["width"] for row in rows]
        axes.errorbar(
            widths,
            [row["mean"] for row in rows],
            yerr=[row["standard_error"] for row in rows],
            marker="o",
            capsize=3,
            label=label,
        )
    axes.set(xscale="log", yscale="log", xlabel="width", xticks=widths)
    axes.set_xticks(widths, [str(width) for width in widths], minor=False)
    axes.set_xticks([], minor=True)
    axes.set_ylabel("relative distance from the exact CK")
    axes.set_title(f"{data}, ReLU, recurrent_variance 0.2")
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def main(argv: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Run the benchmark; returns its records."""
    arguments = parser(__doc__, "bench_finite_width")
    add_data_home(arguments)
    arguments.add_argument("--figure", type=Path, help="PNG file to draw")
    options = arguments.parse_args(argv)
    X, _, data = load_images(options.data_home)
    n = 200 if options.fast else 2000
    widths = (32, 64) if options.fast else (256, 1024, 4096)
    seeds = range(2 if options.fast else 5)
    X = normalize_rows((X - X.mean(axis=0))[:n])
    K = deq_kernel(X, normalize=True)
    moments = equilibrium_moments("relu")
    rows = torch.from_numpy(X.astype(np.float32))
    print(
        f"{data}, {len(X)} images on the sphere, ReLU, recurrent_variance 0.2: "
        f"relative distance in operator norm from the exact CK, {len(seeds)} seeds"
    )
    records = []
    for width in widths:
        for name, label in NAMES.items():
            make: Callable[[int], torch.nn.Module] = partial(
                make_body, name, moments, X.shape[1], width
            )
            found = np.array([distance(make(seed), rows, K) for seed in seeds])
            error = float(found.std(ddof=1) / np.sqrt(len(found)))
            mean = float(found.mean())
            print(f"width {width:<6}{label:<24}{mean:.4f} ± {error:.4f}", flush=True)
            records.append(
                {
                    "width": width,
                    "network": name,
                    "mean": mean,
                    "standard_error": error,
                    "distances": found.tolist(),
                }
            )
    save(options.output, records, data=data, n_samples=len(X))
    if options.figure:
        draw(records, data, options.figure)
    return records


if __name__ == "__main__":
    main()
