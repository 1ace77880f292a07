"""MNIST images for the benchmarks: from IDX files, or digits where there are none."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

from sklearn_deq.datasets import load_idx


def add_data_home(arguments: argparse.ArgumentParser) -> None:
    """Option with the folder of the files."""
    arguments.add_argument(
        "--data-home",
        type=Path,
        help="folder with t10k-images and t10k-labels in IDX format (default: the "
        "digits of scikit-learn, which say less)",
    )


def load_mnist(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images in [0, 1] and labels of the IDX files of MNIST's test set."""
    images, labels = (
        load_idx(next(folder.glob(f"t10k-{name}*"))) for name in ("images", "labels")
    )
    return images.reshape(len(images), -1) / 255.0, labels


def load_images(folder: Path | None) -> tuple[np.ndarray, np.ndarray, str]:
    """Images in [0, 1] in a fixed random order, labels, and the name of the data."""
    if folder is None:
        X, y = load_digits(return_X_y=True)
        X, name = X / 16.0, "digits"
    else:
        X, y = load_mnist(folder)
        name = "MNIST"
    order = np.random.default_rng(0).permutation(len(X))
    return X[order], y[order], name
