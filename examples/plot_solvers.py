"""
Fixed-point solvers compared
============================

A DEQ is as fast as its solver. Four are there: the plain iteration (``picard``), the
same with half steps (``damped``), Anderson acceleration and Broyden's method. Which
one to take depends on how contracting the layer is.
"""

# %%
# A random layer, 64 random samples, and two recurrent variances σ_a². The iteration of
# a wide layer contracts by about √χ per step, where χ grows with σ_a²
# (:func:`~sklearn_deq.theory.equilibrium_moments`).
# :class:`~sklearn_deq.inspection.ConvergenceDisplay` shows the residuals ‖f(z) − z‖/‖z‖
# of the samples: their median, a band with 90 % of them, and the largest.

import time

import matplotlib.pyplot as plt
import numpy as np
import torch

from sklearn_deq import DEQClassifier
from sklearn_deq.inspection import ConvergenceDisplay
from sklearn_deq.nn import SOLVERS, fixed_point
from sklearn_deq.theory import equilibrium_moments

rng = np.random.default_rng(0)
X = rng.standard_normal((64, 50))
y = rng.integers(2, size=64)
shared = {"trainable": "readout", "width": 256, "tol": 1e-8, "random_state": 0}

figure, axes = plt.subplots(
    2, 4, figsize=(14, 6.5), sharey=True, sharex="row", layout="constrained"
)
for row, variance in zip(axes, (0.2, 1.2), strict=True):
    chi = equilibrium_moments("relu", variance).chi
    for ax, solver in zip(row, SOLVERS, strict=True):
        deq = DEQClassifier(solver=solver, recurrent_variance=variance, **shared)
        ConvergenceDisplay.from_estimator(deq.fit(X, y), X, ax=ax)
        ax.set_title(f"{solver}, σ_a² = {variance:g}, √χ = {chi**0.5:.2f}")
        ax.get_legend().remove()
    for ax in row[1:]:
        ax.set_ylabel("")
axes[0, 0].legend(frameon=False)

# %%
# At σ_a² = 0.2 nothing beats the plain iteration. At 1.2 it takes twice as many steps
# as the two methods that extrapolate from the states that they have seen. Half steps
# are for maps that oscillate, which this one does not: they only cost.
#
# Fewer steps are not yet less time: a step of Anderson's or Broyden's does more than
# evaluate the layer, and here the plain iteration is the fastest throughout.
# Iterations of the slowest sample, and milliseconds for all:

print(f"{'':>10}" + "".join(f"   σ_a² = {v:<10g}" for v in (0.2, 0.8, 1.2)))
for solver in SOLVERS:
    cells = []
    for variance in (0.2, 0.8, 1.2):
        deq = DEQClassifier(solver=solver, recurrent_variance=variance, **shared)
        deq.fit(X, y)
        seconds = []
        for _ in range(3):
            start = time.perf_counter()
            deq.transform(X)
            seconds.append(time.perf_counter() - start)
        cells.append(f"{deq.solver_n_iter_.max():>6} {1e3 * min(seconds):>7.1f} ms")
    print(f"{solver:>10}" + "    ".join(["", *cells]))

# %%
# Solvers by themselves
# ---------------------
#
# :func:`~sklearn_deq.nn.fixed_point` solves z = f(z) for the rows of any batch. Each
# row is solved by itself and leaves the work when it is done, so that results do not
# depend on who else is in the batch. Here rows z = c cos z, whose slope at the solution
# is negative: iterates jump from side to side of it, more slowly closer for larger c,
# and from c = 1.3 on, where the slope is steeper than −1, the plain iteration does not
# converge. Now half steps help, as do the others.

factors = torch.linspace(0.1, 1.6, 61, dtype=torch.float64)[:, None]


def cosine(z, rows):
    """Evaluate c cos z for the rows that are still in work."""
    return factors[rows] * torch.cos(z)


figure, ax = plt.subplots(figsize=(6.5, 4), layout="constrained")
for solver in SOLVERS:
    result = fixed_point(
        cosine, torch.zeros_like(factors), solver=solver, tol=1e-10, max_iter=500
    )
    steps = np.where(result.converged, result.n_iter, np.nan)
    ax.plot(factors[:, 0], steps, label=solver)
    print(f"{solver}: {int(result.converged.sum())} of {len(factors)} rows converged")
ax.set(yscale="log", xlabel="c in z = c cos z", ylabel="iterations to 1e-10")
ax.legend(frameon=False)

plt.show()
