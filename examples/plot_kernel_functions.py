"""
The kernel of a DEQ as a function of the angle
==============================================

On samples of one norm the kernel of an infinitely wide DEQ is a function of the cosine
of the angle between them. What do its variances and its activation do to it?
"""

# %%
# Points on a circle have all cosines. Each kernel is divided by its value at equal
# samples, so that shapes can be compared. Left and middle: the CK and the NTK of ReLU
# networks whose two variances sum to one. Right: activations, with large inputs.

import matplotlib.pyplot as plt
import numpy as np

from sklearn_deq.kernels import deq_kernel

angles = np.linspace(0, np.pi, 201)
circle = np.sqrt(2) * np.column_stack([np.cos(angles), np.sin(angles)])


def curve(**parameters):
    """The kernel between the first point and all points, 1 where they are equal."""
    values = deq_kernel(circle[:1], circle, tau0=1.0, **parameters)[0]
    return values / values[0]


figure, axes = plt.subplots(
    1, 3, figsize=(12, 4), sharey=True, sharex=True, layout="constrained"
)
for ax, kernel, title in zip(axes, ("ck", "ntk"), ("CK", "NTK"), strict=False):
    for variance in (0.1, 0.5, 0.9):
        parameters = {"recurrent_variance": variance, "input_variance": 1 - variance}
        ax.plot(
            np.cos(angles),
            curve(kernel=kernel, **parameters),
            label=f"recurrent_variance={variance}",
        )
    ax.set_title(f"{title}, relu")
for activation in ("relu", "tanh", "sin"):
    axes[2].plot(
        np.cos(angles),
        curve(activation=activation, recurrent_variance=0.5, input_variance=4.0),
        label=activation,
    )
axes[2].set_title("CK, input_variance=4")
for ax in axes:
    ax.axhline(0, color="black", lw=0.5)
    ax.set_xlabel("cosine ρ")
    ax.legend(frameon=False)
axes[0].set_ylabel("kernel, relative to equal samples")

# %%
# Activations are centred, so that all kernels vanish at right angles, about where pairs
# of high-dimensional samples are. ``recurrent_variance`` hardly changes the shape of a
# ReLU's CK, and makes its NTK steeper near equal samples. The activation changes more:
# odd ones have odd kernels, and a sine with large inputs looks at near samples alone.

plt.show()
