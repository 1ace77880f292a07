"""Data of the experiments: what the paper has, and what its theory does not promise."""

from __future__ import annotations

import gzip
import pickle
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

from sklearn_deq.datasets import load_idx, make_gaussian_mixture

Split = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def mixture(n_features: int, seed: int, n_samples: int | None = None) -> np.ndarray:
    """Rows of the paper's mixture: means 8 e_a, covariances (1 + 8a/√p) I."""
    n = n_samples or int(0.8 * n_features)
    X, _ = make_gaussian_mixture(
        n, n_features, mean_scale=8.0, covariance_scale=8.0, random_state=seed
    )
    return X


def images(data_home: Path | None, n_train: int, n_test: int, seed: int) -> Split:
    """Train and test images, scaled by one number and centred by one image.

    MNIST or Fashion-MNIST (IDX files) or CIFAR-10 (its Python batches), whichever the
    folder holds; the digits of scikit-learn without one. The mean image and the scale
    are those of the training images; of the test images none is left out.
    """
    if data_home is None:
        X, y = load_digits(return_X_y=True)
    elif (data_home / "data_batch_1").exists():
        X, y = _cifar(data_home)
    else:
        X, y = _idx(data_home)
    order = np.random.default_rng(seed).permutation(len(X))
    if n_train + n_test > len(X):
        n_train, n_test = len(X) * 4 // 5, len(X) - len(X) * 4 // 5
    train, test = order[:n_train], order[n_train : n_train + n_test]
    X = X.reshape(len(X), -1).astype(np.float64)
    mean = X[train].mean(axis=0)
    scale = np.sqrt(np.mean((X[train] - mean) ** 2))
    X = (X - mean) / scale
    return X[train], y[train], X[test], y[test]


def _idx(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """All images of a folder of IDX files, of its training and its test set."""
    parts = []
    for kind in ("train", "t10k"):
        images_, labels = (
            sorted(folder.glob(f"{kind}-{what}*")) for what in ("images", "labels")
        )
        if images_:
            parts.append((load_idx(images_[0]), load_idx(labels[0])))
    if not parts:
        raise FileNotFoundError(f"{folder} has no IDX files and no CIFAR-10 batches.")
    X, y = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return X, y


def _cifar(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    parts = []
    for path in [*sorted(folder.glob("data_batch_*")), folder / "test_batch"]:
        opener = gzip.open if path.suffix == ".gz" else open
        with opener(path, "rb") as file:
            # Data of the user's own, in the format in which CIFAR-10 comes.
            batch = pickle.load(file, encoding="bytes")
        parts.append((batch[b"data"], np.array(batch[b"labels"])))
    X, y = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return X, y


def drawn(name: str, n: int, p: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two classes of a distribution that is not the paper's mixture, unit variance.

    The second has its mean shifted by 3 in one direction, along all features, and
    (1 + 8/√p) times the variance.
    """
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 2
    Z = _draw(name, n, p, rng)
    Z *= np.sqrt(1.0 + y * 8.0 / np.sqrt(p))[:, None]
    return Z + 3.0 * y[:, None] / np.sqrt(p), y


def _draw(name: str, n: int, p: int, rng: np.random.Generator) -> np.ndarray:
    if name == "gaussian":
        return rng.standard_normal((n, p))
    if name.startswith("student-"):
        degrees = float(name.removeprefix("student-"))
        values = rng.standard_t(degrees, (n, p))
        return values * np.sqrt((degrees - 2) / degrees)
    if name == "laplace":
        return rng.laplace(scale=np.sqrt(0.5), size=(n, p))
    if name == "bernoulli":
        return rng.choice([-1.0, 1.0], (n, p))
    if name.startswith("toeplitz-"):
        # Stationary AR(1): covariance r^|i − j|.
        r = float(name.removeprefix("toeplitz-"))
        noise = rng.standard_normal((n, p))
        values = np.empty_like(noise)
        values[:, 0] = noise[:, 0]
        for j in range(1, p):
            values[:, j] = r * values[:, j - 1] + np.sqrt(1 - r * r) * noise[:, j]
        return values
    if name.startswith("low-rank-"):
        rank = int(name.removeprefix("low-rank-"))
        basis = rng.standard_normal((rank, p)) / np.sqrt(rank)
        return rng.standard_normal((n, rank)) @ basis
    if name.startswith("sparse-"):
        # As of a text: a feature is present in a share of the rows.
        share = float(name.removeprefix("sparse-"))
        present = rng.random((n, p)) < share
        return present * rng.exponential(size=(n, p)) / np.sqrt(2 * share)
    raise ValueError(f"Unknown distribution {name!r}.")
