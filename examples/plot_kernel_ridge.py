"""
Kernel ridge, chosen by leave-one-out
=====================================

Leaving out one sample after the other and predicting it from the rest sounds like n
fits. For kernel ridge there is a formula: one eigendecomposition of the kernel matrix
gives the held-out predictions for every penalty.
:class:`~sklearn_deq.DEQKernelRidgeCV` searches the variances of the DEQ and the
penalty that way.
"""

# %%
# Friedman's first problem: ten features, of which five matter, and noise of standard
# deviation two.

import time

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import make_friedman1
from sklearn.model_selection import LeaveOneOut
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_deq import DEQKernelRidgeCV

X, y = make_friedman1(1300, noise=2.0, random_state=0)
X_train, X_test, y_train, y_test = X[:300], X[300:], y[:300], y[300:]

variances = (0.05, 0.4, 0.8)
alphas = np.logspace(-4, 1, 11)
ridge = DEQKernelRidgeCV(recurrent_variance=variances, alphas=alphas)
model = make_pipeline(StandardScaler(), ridge)
start = time.perf_counter()
model.fit(X_train, y_train)
seconds = time.perf_counter() - start
n_candidates = len(alphas) * len(variances)
print(f"{n_candidates} candidates, {len(X_train)} samples: {seconds:.2f} s")
chosen = ridge.best_params_
print(f"alpha {chosen['alpha']:.2g}, recurrent_variance {chosen['recurrent_variance']}")

# %%
# ``cv_results_`` has the mean held-out score of every candidate. Next to it, what each
# candidate does on a thousand fresh samples: leave-one-out finds nearly the best one
# from the training data alone. Neither error can fall below the variance of the noise.

results = ridge.cv_results_
figure, axes = plt.subplots(
    1, 2, figsize=(10, 4), sharex=True, sharey=True, layout="constrained"
)
for k, variance in enumerate(variances):
    own = results["param_recurrent_variance"] == variance
    held_out = -results["mean_test_score"][own]
    fresh = []
    for alpha in alphas:
        candidate = DEQKernelRidgeCV(recurrent_variance=variance, alphas=alpha)
        candidate = make_pipeline(StandardScaler(), candidate).fit(X_train, y_train)
        fresh.append(np.mean((candidate.predict(X_test) - y_test) ** 2))
    label = f"recurrent_variance {variance:g}"
    axes[0].plot(alphas, held_out, ".-", color=f"C{k}", label=label)
    axes[1].plot(alphas, fresh, ".-", color=f"C{k}", label=label)
for ax, title in zip(axes, ("left out, one by one", "fresh samples"), strict=True):
    ax.axhline(4.0, color="0.5", ls=":", label="variance of the noise")
    ax.axvline(ridge.alpha_, color="0.5", lw=0.8)
    ax.set(xscale="log", xlabel="penalty alpha", title=title)
axes[0].set_ylabel("mean squared error")
axes[0].legend(frameon=False)
print(f"R² on fresh samples: {model.score(X_test, y_test):.3f}")

# %%
# The formula is exact: a hundred samples, really left out, give the same score, in more
# time.

small = {"recurrent_variance": 0.4, "alphas": (0.1, 1.0)}
closed = DEQKernelRidgeCV(**small).fit(X_train[:100], y_train[:100])
literal = DEQKernelRidgeCV(**small, cv=LeaveOneOut()).fit(X_train[:100], y_train[:100])
difference = closed.best_score_ - literal.best_score_
print(f"mean squared error {-closed.best_score_:.6f}, difference {difference:.0e}")

plt.show()
