"""
Accuracy against width
======================

Infinitely wide, a DEQ and its explicit equivalent are the same kernel method. How wide
do they have to be until that shows? Both get better with the width and approach what
kernel ridge on their kernel does.
"""

# %%
# Digits; the readout is trained alone, which is the kernel CK. Every width is fitted to
# three divisions of the data, with new random weights in each;
# :class:`~sklearn_deq.inspection.AccuracyWidthDisplay` does that and shows means with
# their standard errors. Kernel ridge has no width: it is the line.

import matplotlib.pyplot as plt
from sklearn.datasets import load_digits
from sklearn.model_selection import StratifiedShuffleSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_deq import (
    DEQClassifier,
    DEQKernelRidgeClassifierCV,
    ExplicitEquivalentClassifier,
)
from sklearn_deq.inspection import AccuracyWidthDisplay

X, y = load_digits(return_X_y=True)
frozen = {"trainable": "readout", "dtype": "float32", "normalize": True}
models = {
    "DEQ": DEQClassifier(**frozen),
    "two leaky-ReLU layers": ExplicitEquivalentClassifier(
        **frozen, architecture="leaky_relu"
    ),
    "one Hermite layer": ExplicitEquivalentClassifier(**frozen, architecture="hermite"),
    "kernel ridge": DEQKernelRidgeClassifierCV(recurrent_variance=0.2, normalize=True),
}
display = AccuracyWidthDisplay.from_estimators(
    {name: make_pipeline(StandardScaler(), model) for name, model in models.items()},
    X,
    y,
    widths=[16, 64, 256],
    cv=StratifiedShuffleSplit(3, test_size=0.3, random_state=0),
)
for name, scores in display.scores.items():
    print(f"{name}: {scores.mean(axis=-1).round(3)}")

# %%
# The three networks climb together; at a width of 256 they are within some standard
# errors of the kernel and of each other.

plt.show()
