"""
Probabilities and calibration
=============================

A classifier that says 80 % should be right four times out of five. Kernel ridge has no
probabilities of its own: :class:`~sklearn_deq.DEQKernelRidgeClassifierCV` makes them
from its decisions, by log odds that fit the samples left out. Networks are
trained on the log loss; a large one that is trained for long gets too sure.
"""

# %%
# A problem with noise, in which nobody can always be right: two classes in twenty
# dimensions, and a fifth of the labels drawn at random. The same network is trained for
# forty epochs, and until the loss on held-out samples no longer falls.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.calibration import CalibrationDisplay
from sklearn.datasets import make_classification
from sklearn.metrics import accuracy_score, log_loss
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_deq import DEQKernelRidgeClassifierCV, ExplicitEquivalentClassifier

X, y = make_classification(
    5000, n_features=20, n_informative=6, flip_y=0.2, random_state=0
)
X_train, X_test, y_train, y_test = X[:800], X[800:], y[:800], y[800:]

network = {"width": 256, "max_epochs": 40, "random_state": 0}
models = {
    "kernel ridge": DEQKernelRidgeClassifierCV(),
    "network, 40 epochs": ExplicitEquivalentClassifier(**network),
    "network, stopped early": ExplicitEquivalentClassifier(
        **network, early_stopping=True, validation_fraction=0.2
    ),
}
probabilities = {}
print(f"{'':>24}  accuracy  log loss  mean confidence")
for name, model in models.items():
    model = make_pipeline(StandardScaler(), model).fit(X_train, y_train)
    found = model.predict_proba(X_test)
    probabilities[name] = found[:, 1]
    right = accuracy_score(y_test, found.argmax(axis=1))
    sure = found.max(axis=1).mean()
    print(f"{name:>24}  {right:8.3f}  {log_loss(y_test, found):8.3f}  {sure:15.3f}")
print(
    f"base rate: log loss {log_loss(y_test, np.full(len(y_test), y_train.mean())):.3f}"
)

# %%
# On the left what was said against how often it came true. Kernel ridge and the network
# that was stopped are near the diagonal. The one that went on says "never" or "always"
# most of the time (right), and is then wrong once in five to eight times: its log loss
# is worse than that of the base rate, though it is right far more often.

figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
for k, (name, found) in enumerate(probabilities.items()):
    CalibrationDisplay.from_predictions(
        y_test, found, n_bins=10, strategy="quantile", name=name, ax=left, color=f"C{k}"
    )
    right.hist(
        found, np.linspace(0, 1, 21), histtype="step", lw=1.5, color=f"C{k}", label=name
    )
left.set(xlabel="probability said", ylabel="share of class 1")
right.set(xlabel="probability said", ylabel="test samples")
right.legend(frameon=False, loc="upper center")

plt.show()
