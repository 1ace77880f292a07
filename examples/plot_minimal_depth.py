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
# The most layers that each built-in activation needs, over recurrent variances from 0.1
# to 0.9 (``input_variance`` is one minus that, and norms vary); beside it the ratio
# that decides about the CK. For odd activations both of its terms vanish: they are
# left out.

names = [name for name in ACTIVATIONS if name != "identity"]
variances = [0.1, 0.2, 0.35, 0.5, 0.7, 0.9]
kernels = {"ck": "CK", "ntk": "NTK", "ntk_recurrent": "NTK of\nreadout and A"}
depths = np.array(
    [
        [
            max(minimal_depth(name, v, 1 - v, kernel=kernel).depth for v in variances)
            for kernel in kernels
        ]
        for name in names
    ]
)

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.5), layout="constrained")
left.imshow(depths, cmap="YlGnBu", vmin=0, vmax=4, aspect="auto")
for (row, column), depth in np.ndenumerate(depths):
    left.text(column, row, depth, ha="center", va="center")
left.set_xticks(range(len(kernels)), kernels.values())
left.set_yticks(range(len(names)), names)
left.set_title("Hidden layers, at most")

grid = np.linspace(0.02, 0.95, 30)
for name in names:
    found = [equilibrium_moments(name, v, 1 - v).alpha for v in grid]
    second, third = np.array(found)[:, 1:3].T
    if second.min() > 1e-12:
        right.plot(grid, third / (2 * second), label=name)
right.axhline(1.0, color="black", lw=0.8, ls=":")
right.set(title="CK: one layer has 1", xlabel="recurrent_variance σ_a²")
right.set_ylabel("α3 / (2 α2)")
right.legend(frameon=False)

# %%
# Two layers are enough everywhere here. Where all samples have one norm the question
# goes away, since nothing fluctuates: one layer made for the kernel will do, whatever
# the activation.

print(minimal_depth("relu", equal_norms=True))

plt.show()
