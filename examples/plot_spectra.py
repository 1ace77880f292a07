"""
Spectra on a Gaussian mixture
=============================

High-dimensional samples of a few classes give a kernel matrix whose eigenvalues form a
bulk, which is noise, and some outliers, which carry the classes. Three matrices have
the same: the kernel of a DEQ, that of its explicit equivalent, and the simple matrix
to which both tend. This is Figure 1 of Ling et al. (2024), arXiv 2402.02697.
"""

# %%
# The paper's mixture: class a has its mean along an axis of its own, and covariances
# that differ by 1/√p. The display is given the DEQ and the samples; it matches the
# explicit network (two leaky-ReLU layers here) and evaluates the three kernels.

import matplotlib.pyplot as plt
import numpy as np

from sklearn_deq import DEQClassifier
from sklearn_deq.datasets import make_gaussian_mixture
from sklearn_deq.inspection import SpectrumDisplay
from sklearn_deq.kernels import deq_kernel

X, y = make_gaussian_mixture(800, 1000, n_classes=3, random_state=0)

figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4), layout="constrained")
ck = SpectrumDisplay.from_estimator(DEQClassifier(), X, ax=left)
ntk = SpectrumDisplay.from_estimator(DEQClassifier(), X, kernel="ntk", ax=right)

# %%
# Bulk and outliers agree, for the CK (of networks whose readout is trained) and the NTK
# (all weights trained). What is left at 1,000 features is seen at the lower end, where
# the equivalent's bulk begins a little higher: in operator norm that is little. The
# markers are the eigenvalues that the display counts as outliers, those above the last
# wide gap.
#
# What the outliers know
# ----------------------
#
# In the eigenvectors of the first two outliers the means of the classes (black lines)
# differ by more than the noise; the third is about the same for all samples. From the
# bulk on there is noise alone, which is wider where the covariance is larger.

tau0 = np.sqrt(np.mean(X**2))
eigenvalues, vectors = np.linalg.eigh(deq_kernel(X, tau0=tau0))
figure, axes = plt.subplots(1, 4, figsize=(12, 3), sharey=True, layout="constrained")
titles = ("largest", "second", "third", "tenth, in the bulk")
for ax, k, title in zip(axes, (1, 2, 3, 10), titles, strict=True):
    vector = vectors[:, -k] * np.sign(vectors[:, -k][y == 0].mean())
    for label in np.unique(y):
        own = np.flatnonzero(y == label)
        ax.plot(own, vector[own], ".", ms=3, label=f"class {label}")
        ax.plot(own, np.full(len(own), vector[own].mean()), "k-", lw=1.5)
    ax.set(title=f"{title}: {eigenvalues[-k]:.2f}", xlabel="sample")
axes[0].set_ylabel("eigenvector")
axes[0].legend(frameon=False, markerscale=3)

plt.show()
