"""
Nyström against random features
===============================

An exact kernel matrix grows with the square of the number of samples. Features whose
inner products approximate it grow linearly, and feed any linear model.
:class:`~sklearn_deq.DEQKernelTransformer` has two kinds: from the kernel with a subset
of the samples, or from a random network with the kernel.
"""

# %%
# How well do m features give the kernel? Digits, scaled to one norm: the network is
# then one Hermite layer with exactly the DEQ's kernel at infinite width.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import RidgeClassifier
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

from sklearn_deq import DEQKernelRidgeClassifierCV, DEQKernelTransformer

X, y = load_digits(return_X_y=True)
X_train, X_test, y_train, y_test = train_test_split(
    X, y, test_size=0.25, stratify=y, random_state=0
)
scaler = StandardScaler().fit(X_train)
X_train, X_test = scaler.transform(X_train), scaler.transform(X_test)

deq = {"activation": "gelu", "normalize": True, "recurrent_variance": 0.5}
K = DEQKernelTransformer(**deq).fit_transform(X_train)
exact = DEQKernelRidgeClassifierCV(alphas=1e-2, **deq).fit(X_train, y_train)


def evaluate(approximation, m, seed):
    """Error of the kernel, and test accuracy of ridge on the features."""
    transformer = DEQKernelTransformer(
        n_components=m, approximation=approximation, random_state=seed, **deq
    )
    Z = transformer.fit_transform(X_train)
    ridge = RidgeClassifier(alpha=1e-2).fit(Z, y_train)
    error = np.linalg.norm(Z @ Z.T - K) / np.linalg.norm(K)
    return error, ridge.score(transformer.transform(X_test), y_test)


sizes = [32, 64, 128, 256, 512]
names = {"nystroem": "Nyström", "random_features": "random features"}
found = {
    name: np.array([[evaluate(name, m, seed) for seed in range(3)] for m in sizes])
    for name in names
}

# %%
# Nyström looks at the data: it spends its features where they are, and its error falls
# with the eigenvalues of the kernel. Random features know nothing of the data but its
# norm, and their error falls like one over the root of their number. For the same
# accuracy they take two to four times as many, but they take no samples along: the
# model that is kept is a network. Means and standard errors of three draws.

figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
labels = ("relative error of the kernel, Frobenius", "test accuracy")
for name, values in found.items():
    mean = values.mean(axis=1)
    error = values.std(axis=1, ddof=1) / np.sqrt(values.shape[1])
    for ax, centre, bar in zip(axes, mean.T, error.T, strict=True):
        ax.errorbar(sizes, centre, bar, fmt="o-", capsize=3, label=names[name])
accuracy = exact.score(X_test, y_test)
axes[1].axhline(accuracy, color="0.5", ls="--", label="exact kernel")
for ax, label in zip(axes, labels, strict=True):
    ax.set_xscale("log", base=2)
    ax.set_xticks(sizes, sizes)
    ax.set(xlabel="number of features", ylabel=label)
axes[0].set_yscale("log")
axes[1].legend(frameon=False)

plt.show()
