"""How deep must the explicit equivalent of a DEQ be?

Draws the depth of the shallowest explicit network with the same kernel as a DEQ, over
activations and variances (σ_b² = 1 − σ_a²), and what decides it: the ratio α3/(2 α2),
which is 1 for every single hidden layer.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from sklearn_deq.theory import ACTIVATIONS, equilibrium_moments, minimal_depth

KERNELS = {"ck": "CK", "ntk": "NTK", "ntk_recurrent": "NTK, readout and A"}


def depths(activations, variances, kernel):
    """Depth of every cell, shape (n_activations, n_variances)."""
    return np.array(
        [
            [minimal_depth(name, va, 1 - va, kernel=kernel).depth for va in variances]
            for name in activations
        ]
    )


def ratios(name, variances):
    """α3/(2 α2) at each variance; NaN where both vanish."""
    found = []
    for va in variances:
        _, second, third, _ = equilibrium_moments(name, va, 1 - va).coefficients("ck")
        found.append(third / (2 * second) if second > 1e-12 else np.nan)
    return found


def draw_depths(axes, values, activations, variances, title):
    """One cell for each activation and variance, with its depth in it."""
    axes.imshow(values, cmap="YlGnBu", vmin=0, vmax=4, aspect="auto")
    for (row, column), depth in np.ndenumerate(values):
        axes.text(column, row, depth, ha="center", va="center")
    axes.set_xticks(range(len(variances)), [f"{va:g}" for va in variances])
    axes.set_yticks(range(len(activations)), activations)
    axes.set(title=title, xlabel="recurrent_variance σ_a²")


def main(argv=None):
    """Draw the figure; returns the depths by kernel."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fast", action="store_true", help="a few cells only")
    parser.add_argument("--output", type=Path, default=Path("out/minimal_depth.png"))
    options = parser.parse_args(argv)
    activations = [name for name in ACTIVATIONS if name != "identity"]
    variances = [0.1, 0.2, 0.35, 0.5, 0.7, 0.9]
    if options.fast:
        activations, variances = ["relu", "tanh"], [0.2, 0.9]
    found = {k: depths(activations, variances, k) for k in KERNELS}
    figure, axes = plt.subplots(
        1, 4, figsize=(15, 4.2), layout="constrained", width_ratios=[1.2, 1, 1, 1.3]
    )
    for column, (kernel, title) in enumerate(KERNELS.items()):
        draw_depths(axes[column], found[kernel], activations, variances, title)
        if column:
            axes[column].set_yticks([])
    grid = np.linspace(0.02, 0.95, 8 if options.fast else 40)
    for name in activations:
        values = ratios(name, grid)
        if not np.all(np.isnan(values)):
            axes[3].plot(grid, values, label=name)
    axes[3].axhline(1.0, color="black", lw=0.8, ls=":")
    axes[3].set(title="CK: one layer needs 1", xlabel="recurrent_variance σ_a²")
    axes[3].set_ylabel("α3 / (2 α2)")
    axes[3].legend(fontsize="small")
    figure.suptitle("Hidden layers of the explicit equivalent, norms that vary")
    options.output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.output, dpi=80)
    plt.close(figure)
    for kernel, values in found.items():
        print(f"{kernel}: depths {sorted(set(values.ravel().tolist()))}")
    return found


if __name__ == "__main__":
    main()
