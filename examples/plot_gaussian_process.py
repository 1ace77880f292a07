"""
A Gaussian process that learns the variances of its DEQ
=======================================================

An infinitely wide DEQ with random weights is a Gaussian process, and so is one that is
trained by gradient descent on all of them, with its tangent kernel.
:class:`~sklearn_deq.DEQKernel` is the covariance, with gradients in the variances of
the weights, so that scikit-learn's ``GaussianProcessRegressor`` can maximise the
marginal likelihood over them.
"""

# %%
# Friedman's first problem, standardised: 200 samples to learn from, 500 to test. What
# is not explained is noise, whose variance is learnt too.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import make_friedman1
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import WhiteKernel
from sklearn.preprocessing import scale

from sklearn_deq import DEQKernel

X, y = (scale(data) for data in make_friedman1(700, noise=2.0, random_state=0))
X_train, X_test, y_train, y_test = X[:200], X[200:], y[:200], y[200:]

start = DEQKernel(kernel="ntk", recurrent_variance=0.05, input_variance=0.1)
fixed = GaussianProcessRegressor(start + WhiteKernel(0.1), optimizer=None)
learnt = GaussianProcessRegressor(start + WhiteKernel(0.1))
for name, process in (("as given", fixed), ("learnt", learnt)):
    process.fit(X_train, y_train)
    print(f"{name}: log likelihood {process.log_marginal_likelihood_value_:.1f},")
    print(f"  R² {process.score(X_test, y_test):.3f}, {process.kernel_}")

# %%
# The marginal likelihood over the two variances, with the noise as it was learnt. Its
# gradient, by the implicit function theorem, leads from the cross to the star. Along
# the ridge the two stand in for each other: a larger input variance scales the
# process up, and so does a larger recurrent one, which also looks deeper.

recurrent = np.geomspace(0.01, 0.95, 16)
inputs = np.geomspace(0.05, 5.0, 16)
values = np.empty((len(inputs), len(recurrent)))
best, noise = learnt.kernel_.k1, learnt.kernel_.k2
for i, j in np.ndindex(values.shape):
    here = {"recurrent_variance": recurrent[j], "input_variance": inputs[i]}
    kernel = DEQKernel(kernel="ntk", **here) + noise
    values[i, j] = learnt.log_marginal_likelihood(kernel.theta)

figure, ax = plt.subplots(figsize=(6, 4.5), layout="constrained")
levels = values.max() - np.array([50, 20, 10, 5, 2, 1, 0.0])
filled = ax.contourf(recurrent, inputs, values, levels, cmap="YlGnBu", extend="min")
figure.colorbar(filled, label="log marginal likelihood", format="%.0f")
ax.plot(start.recurrent_variance, start.input_variance, "kx", label="start")
ax.plot(best.recurrent_variance, best.input_variance, "r*", ms=12, label="found")
ax.set(xscale="log", yscale="log")
ax.set_xticks([0.01, 0.1, 0.5], ["0.01", "0.1", "0.5"])
ax.set_yticks([0.1, 1, 5], ["0.1", "1", "5"])
ax.minorticks_off()
ax.set(xlabel="recurrent_variance σ_a²", ylabel="input_variance σ_b²")
ax.legend(loc="lower left")

# %%
# A process says how sure it is. Predictions of the test samples with two standard
# deviations, noise included, against what was measured: about 95 % of the bars should
# reach the diagonal.

mean, deviation = learnt.predict(X_test, return_std=True)
covered = np.mean(np.abs(y_test - mean) < 2 * deviation)
figure, ax = plt.subplots(figsize=(5.5, 4.5), layout="constrained")
shown = slice(0, 100)
ax.errorbar(
    y_test[shown], mean[shown], 2 * deviation[shown], fmt=".", ms=4, lw=0.7, alpha=0.7
)
ax.axline((0, 0), slope=1, color="0.5", ls="--")
ax.set(xlabel="measured (standardised)", ylabel="predicted, ± 2 standard deviations")
ax.set_title(f"{covered:.1%} of 500 bars reach the diagonal; 100 of them")

plt.show()
