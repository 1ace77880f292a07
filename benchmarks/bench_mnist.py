"""Accuracy of kernel ridge on the DEQ kernel on MNIST images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from _measure import parser, save, seconds
from sklearn.kernel_ridge import KernelRidge

from sklearn_deq import DEQKernel
from sklearn_deq.datasets import load_idx

ALPHAS = (1e-3, 1e-2, 3e-2)


def load(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images in [0, 1] and labels of the IDX files of MNIST's test set."""
    images, labels = (
        load_idx(next(folder.glob(f"t10k-{name}*"))) for name in ("images", "labels")
    )
    return images.reshape(len(images), -1) / 255.0, labels


def main(argv: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Train on four fifths, the training mean subtracted, and test on the rest."""
    arguments = parser(__doc__, "bench_mnist")
    arguments.add_argument("--data-home", type=Path, help="folder of the IDX files")
    options = arguments.parse_args(argv)
    if options.data_home is None:
        print("bench_mnist: skipped, give --data-home with t10k-images and t10k-labels")
        return []
    X, y = load(options.data_home)
    if options.fast:
        X, y = X[:500], y[:500]
    n_train = len(X) * 4 // 5
    X = X - X[:n_train].mean(axis=0)
    targets = np.eye(10)[y[:n_train]]
    records = []
    for alpha in ALPHAS:
        model = KernelRidge(kernel=DEQKernel(normalize=True), alpha=alpha)
        took = seconds(lambda model=model: model.fit(X[:n_train], targets))
        accuracy = np.mean(model.predict(X[n_train:]).argmax(axis=1) == y[n_train:])
        print(
            f"CK, ReLU, recurrent_variance=0.2, normalize, n={n_train}, alpha={alpha}: "
            f"accuracy {accuracy:.4f}, fit {took:.1f} s"
        )
        records.append(
            {"alpha": alpha, "accuracy": float(accuracy), "fit_seconds": took}
        )
    save(options.output, records)
    return records


if __name__ == "__main__":
    main()
