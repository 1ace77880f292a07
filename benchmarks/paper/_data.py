"""Data of the experiments: what the paper has, and what its theory does not promise."""

from __future__ import annotations

import numpy as np

from benchmarks.paper._sources import Part, Source, load
from sklearn_deq.datasets import make_gaussian_mixture

__all__ = [
    "Source",
    "Split",
    "drawn",
    "images",
    "images_to_choose_by",
    "labelled_mixture",
    "mixture",
]

Split = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def mixture(n_features: int, seed: int, n_samples: int | None = None) -> np.ndarray:
    """Rows of the paper's mixture: means 8 e_{8a}, covariances (1 + 8a/√p) I."""
    return labelled_mixture(n_features, seed, n_samples)[0]


def labelled_mixture(
    n_features: int, seed: int, n_samples: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the paper's mixture, and their classes."""
    n = n_samples or int(0.8 * n_features)
    X, y = make_gaussian_mixture(
        n, n_features, mean_scale=8.0, covariance_scale=8.0, random_state=seed
    )
    return X, y


def images(source: Source, n_train: int, n_test: int, seed: int) -> Split:
    """Train and test images, scaled by one number and centred by one image.

    Training images are drawn by the seed. A set that comes in two parts keeps them, and
    all of its test images count; of others `n_test` are drawn with the training images.
    The mean image and the scale are those of the training images.
    """
    train, test, _ = _shuffled(source, n_train, n_test, seed)
    return _scaled(source, train, test)


def images_to_choose_by(
    source: Source, n_train: int, n_test: int, seed: int, n_held_out: int
) -> tuple[Split, Part]:
    """The images of `images`, and others to choose settings by.

    These are training images that were not drawn, at most `n_held_out`. Where fewer are
    left than a tenth of those that were, they are the last tenth of these instead,
    which are then not trained on.
    """
    train, test, others = _shuffled(source, n_train, n_test, seed)
    held = others[:n_held_out]
    if len(others) < len(train) // 10:
        train, held = np.split(train, [len(train) * 9 // 10])
    *data, X, y = _scaled(source, train, test, held)
    return tuple(data), (X, y)


def _shuffled(
    source: Source, n_train: int, n_test: int, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which images to train on, to test on, and which of the others are no test set."""
    X, _, n_tested = load(source)
    rng = np.random.default_rng(seed)
    if n_tested:
        order = rng.permutation(len(X) - n_tested)
        test = np.arange(len(X) - n_tested, len(X))
        return order[:n_train], test, order[n_train:]
    order = rng.permutation(len(X))
    n_train, n_test = _shares(len(X), n_train, n_test)
    train, test, others = np.split(order, [n_train, n_train + n_test])
    return train, test, others


def _scaled(source: Source, *parts: np.ndarray) -> tuple[np.ndarray, ...]:
    """Images and labels of some parts, scaled and centred as the first one needs."""
    X, y, _ = load(source)
    rows = [X[part].reshape(len(part), -1).astype(np.float64) for part in parts]
    mean = rows[0].mean(axis=0)
    scale = np.sqrt(np.mean((rows[0] - mean) ** 2))
    labels = (y[part].astype(int) for part in parts)
    pairs = zip(rows, labels, strict=True)
    return tuple(a for part, y in pairs for a in ((part - mean) / scale, y))


def _shares(n: int, n_train: int, n_test: int) -> tuple[int, int]:
    """As many as wanted; four fifths and one fifth of a set that has fewer."""
    return (n_train, n_test) if n_train + n_test <= n else (n * 4 // 5, n - n * 4 // 5)


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
