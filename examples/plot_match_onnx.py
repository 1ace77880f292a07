"""
Match a DEQ, export it to ONNX
==============================

A DEQ iterates when it predicts. Its explicit equivalent is a shallow network with the
same kernel: a few matrix products, which every runtime can do. Here the whole path,
from data to a file that takes raw features.
"""

# %%
# A DEQ, trained on digits with their scaler before it. With ``normalize=True`` each
# sample is scaled to the same norm as well, which costs no accuracy on images.

import tempfile
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import onnxruntime
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_deq import DEQClassifier, match_deq
from sklearn_deq.inspection import KernelMatchDisplay

X, y = load_digits(return_X_y=True)
X_train, X_test, y_train, y_test = train_test_split(
    X, y, test_size=0.25, stratify=y, random_state=0
)
deq = make_pipeline(
    StandardScaler(),
    DEQClassifier(
        activation="gelu",
        normalize=True,
        width=256,
        max_epochs=8,
        dtype="float32",
        random_state=0,
    ),
).fit(X_train, y_train)
print(f"DEQ: test accuracy {deq.score(X_test, y_test):.3f}")

# %%
# :func:`~sklearn_deq.match_deq` configures an equivalent, and ``match_report`` says how
# far its kernel is from the DEQ's on data, at infinite width. Samples of one norm have
# an exact equivalent with one hidden layer, which is the default for them. For
# comparison: the network that solves the paper's four equations, on the same samples,
# and if their norms were left as they are, from 0.6 to 6.

Z_train = deq[0].transform(X_train)
for params in (
    {},
    {"architecture": "rounded"},
    {"architecture": "rounded", "normalize": False, "tau0": None},
):
    explicit = match_deq(deq, **params)
    report = explicit.match_report(Z_train, max_samples=500)
    print(
        f"{params}: {report.match.architecture}, {report.match.depth} hidden layer(s),"
    )
    print(f"    relative distance {report.infinite.operator:.1e}")

# %%
# The two kernels as functions of the cosine ρ of two samples, their difference, which
# is the rounding of float32, and the activations. Those of the two networks differ: it
# is their kernels that agree.

explicit = match_deq(deq)
display = KernelMatchDisplay.from_estimator(explicit, Z_train)

# %%
# What ``match_deq`` returns is configured, not fitted: it learns from the data itself,
# not from the DEQ.

explicit = make_pipeline(StandardScaler(), explicit).fit(X_train, y_train)
print(f"explicit: test accuracy {explicit.score(X_test, y_test):.3f}")

# %%
# The file has the scaler inside. Its input "X" takes raw features, its output is the
# probabilities, in the order of ``classes_``.

path = Path(tempfile.mkdtemp()) / "explicit.onnx"
explicit[-1].export_onnx(path, preprocessing=explicit[0])
session = onnxruntime.InferenceSession(path)
(probabilities,) = session.run(None, {"X": X_test.astype(np.float32)})
difference = np.abs(probabilities - explicit.predict_proba(X_test)).max()
print(f"{path.stat().st_size / 1024:.0f} kB, largest difference {difference:.0e}")

# %%
# Time of a prediction, of all test samples at once and of a single one: medians of
# thirty.


def latency(predict, rows):
    """Median time in ms of predicting these rows."""
    seconds = []
    for _ in range(30):
        start = time.perf_counter()
        predict(rows)
        seconds.append(time.perf_counter() - start)
    return 1e3 * float(np.median(seconds))


def run_onnx(rows):
    """Predict by the file alone."""
    return session.run(None, {"X": rows.astype(np.float32)})


ways = {
    "DEQ": deq.predict_proba,
    "explicit": explicit.predict_proba,
    "explicit, ONNX": run_onnx,
}
figure, axes = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
for ax, rows in zip(axes, (X_test, X_test[:1]), strict=True):
    times = [latency(predict, rows) for predict in ways.values()]
    bars = ax.barh(list(ways), times, color=["C0", "C1", "C2"])
    ax.bar_label(bars, fmt="%.2f", padding=3)
    ax.margins(x=0.15)
    ax.invert_yaxis()
    samples = f"{len(rows)} samples" if len(rows) > 1 else "one sample"
    ax.set(xlabel="ms", title=f"predict_proba of {samples}")

plt.show()
