"""
The main job on the handwritten digits
======================================

``make demo`` trains a DEQ, matches and trains its explicit equivalent, fits kernel
ridge on the exact DEQ kernel, prints one table and draws the spectra of the two kernels
and the table.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from tqdm import tqdm

from sklearn_deq import DEQClassifier, DEQKernelTransformer, match_deq
from sklearn_deq.inspection import SpectrumDisplay
from sklearn_deq.kernels import deq_kernel, explicit_kernel


@dataclass
class Row:
    """One line of the table."""

    model: str
    accuracy: float
    fit_seconds: float
    predict_microseconds: float
    mismatch: str = ""


class KernelRidgeOnDEQ:
    """Kernel ridge with one-hot targets on the DEQ kernel."""

    def fit(self, X, y):
        """Fit on the Gram matrix of X."""
        self.transformer_ = DEQKernelTransformer()
        self.ridge_ = KernelRidge(kernel="precomputed", alpha=1e-3)
        self.ridge_.fit(self.transformer_.fit_transform(X), np.eye(10)[y])
        return self

    def predict(self, X):
        """Class of the largest output."""
        return self.ridge_.predict(self.transformer_.transform(X)).argmax(axis=1)


def evaluate(name, model, data):
    """Fit, time and score one model."""
    X_train, X_test, y_train, y_test = data
    start = time.perf_counter()
    model.fit(X_train, y_train)
    fitted = time.perf_counter()
    model.predict(X_test[:32])
    seconds = []
    for _ in range(3):
        begin = time.perf_counter()
        predicted = model.predict(X_test)
        seconds.append(time.perf_counter() - begin)
    return Row(
        name,
        float(np.mean(predicted == y_test)),
        fitted - start,
        1e6 * float(np.median(seconds)) / len(X_test),
    )


def distance(A, B):
    """Operator-norm distance of A from B, relative to B."""
    return float(np.linalg.norm(A - B, 2) / np.linalg.norm(B, 2))


def kernels(deq, explicit, X, seed):
    """Exact kernels of both, and how far this finite network is from the DEQ's."""
    exact = deq_kernel(X, tau0=deq.tau0_)
    matched = explicit_kernel(X, layers=explicit.match_.layers)
    # The features of the initial weights: a network whose readout alone is trained.
    y = np.arange(len(X)) % 2
    finite = []
    for model in (deq, explicit):
        frozen = type(model)(**{**model.get_params(), "trainable": "readout"})
        Z = frozen.set_params(tau0=deq.tau0_, random_state=seed).fit(X, y).transform(X)
        finite.append(distance(Z @ Z.T, exact))
    return exact, matched, finite


def draw(path, exact, matched, rows):
    """Spectra of the two kernels beside the table."""
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(12, 4.2), width_ratios=(1, 1.35), layout="constrained"
    )
    kernels = {"DEQ": exact, "explicit": matched}
    SpectrumDisplay.from_kernels(kernels, kernel="ck", ax=left)
    left.set_title("Spectra of the exact CKs")
    right.axis("off")
    cells = [
        [
            row.model,
            f"{row.accuracy:.3f}",
            f"{row.fit_seconds:.2f}",
            f"{row.predict_microseconds:.0f}",
            row.mismatch,
        ]
        for row in rows
    ]
    table = right.table(
        cells,
        colLabels=["model", "test acc.", "fit s", "predict µs", "kernel mismatch"],
        loc="center",
        cellLoc="center",
        colWidths=[0.32, 0.12, 0.1, 0.13, 0.33],
    )
    table.auto_set_font_size(False)
    table.set_fontsize(9)
    table.scale(1, 1.7)
    right.set_title("Digits, 25 % test split")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def report(rows, match):
    """Print the table."""
    print(
        f"\n{'model':<26}{'test acc.':>10}{'fit s':>9}{'predict µs':>12}"
        "  kernel mismatch (infinite / this finite network)"
    )
    for row in rows:
        print(
            f"{row.model:<26}{row.accuracy:>10.4f}{row.fit_seconds:>9.2f}"
            f"{row.predict_microseconds:>12.1f}  {row.mismatch}"
        )
    print(f"\n{match}")


def main(argv=None):
    """Run the demo; returns the rows of the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--fast", action="store_true", help="a tenth of the work")
    parser.add_argument("--output", type=Path, default=Path("out/demo.png"))
    options = parser.parse_args(argv)

    X, y = load_digits(return_X_y=True)
    if options.fast:
        X, y = X[:600], y[:600]
    X_train, X_test, y_train, y_test = train_test_split(
        X, y, test_size=0.25, stratify=y, random_state=0
    )
    scaler = StandardScaler().fit(X_train)
    data = scaler.transform(X_train), scaler.transform(X_test), y_train, y_test

    deq = DEQClassifier(
        width=64 if options.fast else 512,
        activation="relu",
        max_epochs=3 if options.fast else 20,
        dtype="float32",
        random_state=0,
    )
    explicit = match_deq(deq)
    models = {
        "DEQ": deq,
        "explicit equivalent": explicit,
        "kernel ridge, DEQ kernel": KernelRidgeOnDEQ(),
        "logistic regression": LogisticRegression(max_iter=2000),
        "SVM, RBF kernel": SVC(C=10),
        "random forest, 500 trees": RandomForestClassifier(
            20 if options.fast else 500, n_jobs=2, random_state=0
        ),
    }
    rows = []
    for name in (bar := tqdm(models, desc="demo")):
        bar.set_postfix_str(name)
        rows.append(evaluate(name, models[name], data))
    exact, matched, finite = kernels(deq, explicit, data[0], seed=0)
    rows[0].mismatch = f"0 / {finite[0]:.1%}"
    rows[1].mismatch = f"{distance(matched, exact):.2%} / {finite[1]:.1%}"
    rows[2].mismatch = "0"
    report(rows, explicit.match_)
    draw(options.output, exact, matched, rows)
    print(f"\nFigure written to {options.output}")
    return rows


if __name__ == "__main__":
    main()
