"""
One hidden layer with the kernel of a DEQ
=========================================

Matching by four equations gives the kernel of a DEQ up to what vanishes in high
dimension. One can do better: whatever the DEQ, there is one hidden layer with its
kernel, exactly, on samples of one norm.
"""

# %%
# On a sphere the kernel of a DEQ is a power series of the cosine whose coefficients a_k
# are not negative. A layer with the activation σ = Σ ±√a_k he_k, in normalised Hermite
# polynomials he_k, has this kernel: E[σ(u)σ(v)] = Σ a_k ρᵏ for Gaussian u and v of
# correlation ρ. ``architecture="hermite"`` makes that layer; beside it the network that
# solves the equations.

import matplotlib.pyplot as plt
import numpy as np

from sklearn_deq import DEQClassifier, ExplicitEquivalentClassifier
from sklearn_deq.inspection import KernelMatchDisplay
from sklearn_deq.kernels import deq_kernel
from sklearn_deq.theory import equilibrium_moments, solve_match

moments = equilibrium_moments("relu", 0.5, 0.5)
matches = {
    name: solve_match(moments, architecture=name) for name in ("leaky_relu", "hermite")
}
figure, axes = plt.subplots(2, 3, figsize=(12, 7), layout="constrained")
for row, match in zip(axes, matches.values(), strict=True):
    KernelMatchDisplay.from_match(moments, match, ax=row)
    print(f"{match.architecture}: {match.depth} hidden layers, ", end="")
    print(f"residual {match.residual:.0e}")
axes[0, 0].set_title("Two leaky-ReLU layers")
axes[1, 0].set_title("One Hermite layer")

# %%
# The upper kernel agrees where most cosines of high-dimensional data are, around 0, and
# is per mille off elsewhere; the lower one is right to rounding but for the very ends,
# where a kinked activation takes endlessly many terms. Its activation turns
# where the ReLU has its corner, and rises again to the left: another function, the same
# kernel. One product with the data replaces the iteration.
#
# In finite networks
# ------------------
#
# An exact kernel at infinite width would be of little use if finite networks were far
# from it. With random weights the features of either network give the kernel with an
# error that falls like one over the root of the width, and so do those of the DEQ
# itself: the shallow network with one layer is the best estimate of the three.

rng = np.random.default_rng(0)
X = rng.standard_normal((200, 100)) * np.geomspace(3, 0.1, 100)
X /= np.sqrt(np.mean(X**2, axis=1, keepdims=True))
y = np.arange(len(X)) % 2
variances = {"recurrent_variance": 0.5, "input_variance": 0.5}
exact = deq_kernel(X, **variances)


def distance(network, seed):
    """Of the kernel of random features from the exact one, relative."""
    network.set_params(trainable="readout", random_state=seed, **variances)
    Z = network.fit(X, y).transform(X)
    return np.linalg.norm(Z @ Z.T - exact, 2) / np.linalg.norm(exact, 2)


networks = {
    "the DEQ itself": DEQClassifier(),
    "two leaky-ReLU layers": ExplicitEquivalentClassifier(architecture="leaky_relu"),
    "one Hermite layer": ExplicitEquivalentClassifier(architecture="hermite"),
}
widths = np.array([64, 256, 1024])
figure, ax = plt.subplots(figsize=(6, 4), layout="constrained")
for (name, network), marker in zip(networks.items(), "osD", strict=True):
    found = np.array(
        [
            [distance(network.set_params(width=int(m)), seed) for seed in range(3)]
            for m in widths
        ]
    )
    error = found.std(axis=1, ddof=1) / np.sqrt(found.shape[1])
    ax.errorbar(
        widths, found.mean(axis=1), error, fmt=f"{marker}-", capsize=3, label=name
    )
ax.plot(widths, 4 / np.sqrt(widths), "k:", label="slope −1/2")
ax.set(xscale="log", yscale="log", xlabel="width")
ax.set_ylabel("distance from the exact kernel\n(relative; mean ± standard error)")
ax.set_xticks(widths, widths)
ax.set_yticks([0.1, 0.2, 0.5, 1.0], ["0.1", "0.2", "0.5", "1"])
ax.minorticks_off()
ax.legend(frameon=False)

plt.show()
