"""
Quick start
===========

A deep equilibrium model, the shallow network that replaces it, and its kernel, on the
handwritten digits of scikit-learn. All are scikit-learn estimators.
"""

# %%
# A deep equilibrium model
# ------------------------
#
# A DEQ outputs the fixed point of one layer, z = φ(A z + B x), instead of the last of
# many layers. Scale the data: the theory is about features of variance one. ``dtype``
# is that of the weights, and float32 is twice as fast as float64.

import matplotlib.pyplot as plt
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from sklearn_deq import DEQClassifier, DEQKernel, match_deq
from sklearn_deq.inspection import ConvergenceDisplay, TrainingDisplay

X, y = load_digits(return_X_y=True)
X_train, X_test, y_train, y_test = train_test_split(
    X, y, test_size=0.25, stratify=y, random_state=0
)

deq = DEQClassifier(width=256, max_epochs=10, dtype="float32", random_state=0)
model = make_pipeline(StandardScaler(), deq).fit(X_train, y_train)
print(f"DEQ: test accuracy {model.score(X_test, y_test):.3f}")

# %%
# Two displays say whether that went well. On the left the loss falls, and two numbers
# stay below one: as long as they do, there is an equilibrium, and only one. On the
# right the solver reaches it for every test image, to the tolerance asked for.

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
training = TrainingDisplay.from_estimator(model, ax=left)
convergence = ConvergenceDisplay.from_estimator(model, X_test, ax=right)

# %%
# Its explicit equivalent
# -----------------------
#
# :func:`~sklearn_deq.match_deq` configures a shallow network with the same kernel: here
# two hidden layers of leaky ReLUs, whose slopes solve four equations. Nothing is
# iterated when it predicts.

explicit = match_deq(model)
fast = make_pipeline(StandardScaler(), explicit).fit(X_train, y_train)
print(f"explicit equivalent: test accuracy {fast.score(X_test, y_test):.3f}")
print(explicit.match_)

# %%
# The kernel of both
# ------------------
#
# Infinitely wide, both networks are the same kernel method.
# :class:`~sklearn_deq.DEQKernel` is that kernel, for whatever takes one.

svm = make_pipeline(StandardScaler(), SVC(kernel=DEQKernel(), C=10))
svm.fit(X_train, y_train)
print(f"SVM with the DEQ's kernel: test accuracy {svm.score(X_test, y_test):.3f}")

plt.show()
