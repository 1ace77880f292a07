"""
Error of the high-dimensional equivalent
========================================

The theory behind matching says that the kernel of a DEQ tends to a simple matrix, with
four numbers in it, as samples and features grow together. How fast? The relative error
in operator norm falls like one over the root of the number of features.
"""

# %%
# The exact kernel is :func:`~sklearn_deq.kernels.deq_kernel`, the equivalent
# :func:`~sklearn_deq.theory.high_dimensional_equivalent`. Three draws of the paper's
# two-class mixture for each number of features p, with 0.8 p samples.

import matplotlib.pyplot as plt
import numpy as np

from sklearn_deq.datasets import make_gaussian_mixture
from sklearn_deq.kernels import deq_kernel, explicit_kernel
from sklearn_deq.theory import (
    equilibrium_moments,
    high_dimensional_equivalent,
    solve_match,
)

NAMES = {"ck": "CK", "ntk": "NTK", "ntk_recurrent": "NTK of readout and A"}
KERNELS = tuple(NAMES)
VARIANCES = {"recurrent_variance": 0.4, "input_variance": 0.6}


def distance(found, exact):
    """Relative, in operator norm."""
    return np.linalg.norm(found - exact, 2) / np.linalg.norm(exact, 2)


def errors(p, seed):
    """Of the equivalents of the three kernels, and of the explicit network's CK."""
    X, _ = make_gaussian_mixture(int(0.8 * p), p, random_state=seed)
    tau0 = np.sqrt(np.mean(X**2))
    moments = equilibrium_moments("relu", **VARIANCES, tau0=tau0)
    exact = deq_kernel(X, kernel=KERNELS, tau0=tau0, **VARIANCES)
    found = [
        distance(high_dimensional_equivalent(X, moments, kernel=name), K)
        for name, K in zip(KERNELS, exact, strict=True)
    ]
    layers = solve_match(moments).layers
    return [*found, distance(explicit_kernel(X, layers=layers), exact[0])]


sizes = np.array([100, 200, 400, 800])
found = np.array([[errors(p, seed) for seed in range(3)] for p in sizes])
mean = found.mean(axis=1)
error = found.std(axis=1, ddof=1) / np.sqrt(found.shape[1])

# %%
# All three kernels follow the slope −1/2, more or less: a fit to four sizes is no
# proof. The explicit network has the equivalent's four numbers, and is hundreds of
# times closer to the DEQ than the equivalent is to either: the two have much in common
# that the equivalent leaves out.

figure, ax = plt.subplots(figsize=(6.5, 4.5), layout="constrained")
for k, name in enumerate(KERNELS):
    slope = np.polyfit(np.log(sizes), np.log(mean[:, k]), 1)[0]
    label = f"equivalent of the {NAMES[name]}: slope {slope:.2f}"
    ax.errorbar(sizes, mean[:, k], error[:, k], fmt="o-", capsize=3, label=label)
slope = np.polyfit(np.log(sizes), np.log(mean[:, 3]), 1)[0]
label = f"explicit network, CK: slope {slope:.2f}"
ax.errorbar(sizes, mean[:, 3], error[:, 3], fmt="s--", capsize=3, label=label)
ax.plot(sizes, 0.9 / np.sqrt(sizes), "k:", label="slope −1/2")
ax.set(xscale="log", yscale="log", xlabel="number of features p")
ax.set_ylabel("relative distance from the exact kernel\n(mean ± standard error)")
ax.set_xticks(sizes, sizes)
ax.minorticks_off()
ax.legend(frameon=False, fontsize="small")

plt.show()
