"""
Which depth does an activation need?
====================================

How many hidden layers must an explicit network have to stand in for a DEQ?
:func:`~sklearn_deq.theory.minimal_depth` says, with the reason.
"""

# %%
# A kernel is given by four numbers in high dimension, and one hidden layer cannot have
# any four: its α3 is always 2 α2, the coefficients of the fluctuating norms and of the
# squared inner products. Odd activations have neither; others need a second layer, but
# for the tangent kernels, where the learning rates of the layers are free to help.

import matplotlib.pyplot as plt
import numpy as np

from sklearn_deq.theory import ACTIVATIONS, equilibrium_moments, minimal_depth

print(minimal_depth("tanh"))
print(minimal_depth("relu"))
print(minimal_depth("relu", kernel="ntk"))

# %%
# Depths of all built-in activations against the recurrent variance
# (``input_variance`` is one minus that, and norms vary).

names = [name for name in ACTIVATIONS if name != "identity"]
variances = [0.1, 0.2, 0.35, 0.5, 0.7, 0.9]
titles = {"ck": "CK", "ntk": "NTK", "ntk_recurrent": "NTK of readout and A"}

figure, axes = plt.subplots(
    1, 4, figsize=(15, 4.2), layout="constrained", width_ratios=[1.2, 1, 1, 1.3]
)
for ax, (kernel, title) in zip(axes, titles.items(), strict=False):
    depths = np.array(
        [
            [minimal_depth(name, va, 1 - va, kernel=kernel).depth for va in variances]
            for name in names
        ]
    )
    print(f"{kernel}: depths {sorted(set(depths.ravel().tolist()))}")
    ax.imshow(depths, cmap="YlGnBu", vmin=0, vmax=4, aspect="auto")
    for (row, column), depth in np.ndenumerate(depths):
        ax.text(column, row, depth, ha="center", va="center")
    ax.set_xticks(range(len(variances)), [f"{va:g}" for va in variances])
    ax.set_yticks(range(len(names)), names)
    ax.set(title=title, xlabel="recurrent_variance σ_a²")
    if ax is not axes[0]:
        ax.set_yticks([])

# What decides about the CK; both vanish for odd activations, which are left out.
grid = np.linspace(0.02, 0.95, 30)
for name in names:
    found = [equilibrium_moments(name, va, 1 - va).alpha for va in grid]
    second, third = np.array(found)[:, 1:3].T
    if second.min() > 1e-12:
        axes[3].plot(grid, third / (2 * second), label=name)
axes[3].axhline(1.0, color="black", lw=0.8, ls=":")
axes[3].set(title="CK: one layer needs 1", xlabel="recurrent_variance σ_a²")
axes[3].set_ylabel("α3 / (2 α2)")
_ = axes[3].legend(fontsize="small")

# %%
# Two layers are enough everywhere here. Where all samples have one norm the question
# goes away, since nothing fluctuates: one layer made for the kernel will do, whatever
# the activation.

print(minimal_depth("relu", equal_norms=True))

plt.show()
