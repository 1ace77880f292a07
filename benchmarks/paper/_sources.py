"""Images of the user's own, or of OpenML's: read once, and refused with a reason."""

from __future__ import annotations

import hashlib
import pickle
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from sklearn.datasets import fetch_openml, load_digits

from benchmarks.paper._patches import SETTINGS, patch_features
from sklearn_deq.datasets import load_idx


@dataclass(frozen=True)
class Patches:
    """Images by the features of their patches, which training images give."""

    of: Path | str


# A folder with IDX or CIFAR-10 files, the name of a set of OpenML's, or None: digits.
Source = Path | str | Patches | None
# Sets of images of OpenML's whose last 10,000 are the test set.
OPENML = ("mnist_784", "Fashion-MNIST", "CIFAR_10")
CIFAR_TRAIN = tuple(f"data_batch_{i}" for i in range(1, 6))
CIFAR_TEST = "test_batch"

Part = tuple[np.ndarray, np.ndarray]


@cache
def load(source: Source) -> tuple[np.ndarray, np.ndarray, int]:
    """Images, labels, and how many of the last are a test set of its own.

    Raises
    ------
    OSError, ValueError
        Where there are none, or not what they should be; the message says what to do.
    """
    if source is None:
        return *load_digits(return_X_y=True), 0
    if isinstance(source, Patches):
        X, y, n_tested = load(source.of)
        if not n_tested:
            raise ValueError(
                "Patches are those of training images, and this set has no test set of "
                "its own: give one that has, such as CIFAR-10."
            )
        return patch_features(X, len(X) - n_tested), y, n_tested
    if isinstance(source, str):
        X, y = fetch_openml(source, version=1, return_X_y=True, as_frame=False)
        return X, y, 10_000
    parts = _parts(source)
    sizes = {name: X.shape[1:] for name, (X, _) in parts.items()}
    if len(set(sizes.values())) > 1:
        listed = ", ".join(f"{size} in {name}" for name, size in sizes.items())
        raise ValueError(f"{source} has images of different sizes: {listed}.")
    X, y = (np.concatenate(arrays) for arrays in zip(*parts.values(), strict=True))
    return X, y, len(list(parts.values())[-1][1]) if len(parts) == 2 else 0


def label_of(source: Source) -> str:
    """What it is called, whatever its files hold."""
    if source is None:
        return "digits"
    if isinstance(source, Patches):
        return f"{label_of(source.of)}-patches"
    return source if isinstance(source, str) else source.resolve().name


@cache
def name_of(source: Source) -> str:
    """What results on it are known by; of a folder's files, by what they hold."""
    if isinstance(source, Patches):
        settings = hashlib.sha256(repr(SETTINGS).encode()).hexdigest()[:4]
        return f"{name_of(source.of)}-patches-{settings}"
    if not isinstance(source, Path):
        return label_of(source)
    X, y, n_tested = load(source)
    digest = hashlib.sha256(f"{X.shape} {X.dtype} {n_tested}".encode())
    for values in (X, y):
        digest.update(np.ascontiguousarray(values))
    return f"{label_of(source)}-{digest.hexdigest()[:8]}"


def _parts(folder: Path) -> dict[str, Part]:
    """Training and test set by the names of their files, each where it is there."""
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder}.")
    if _has_cifar(folder):
        return _cifar(folder)
    if parts := _idx(folder):
        return parts
    inner = [
        path
        for path in sorted(folder.iterdir())
        if path.is_dir() and (_has_cifar(path) or any(_idx_files(path)))
    ]
    advice = f"give {inner[0]}" if inner else "give the folder that holds them"
    raise FileNotFoundError(
        f"{folder} has no IDX files (train-images…, train-labels…, t10k-images…, "
        f"t10k-labels…) and no CIFAR-10 batches (data_batch_1, …): {advice}."
    )


def _idx_files(folder: Path) -> list[Path]:
    return [path for kind in ("train", "t10k") for path in folder.glob(f"{kind}-*")]


def _idx(folder: Path) -> dict[str, Part]:
    parts = {}
    for kind in ("train", "t10k"):
        images, labels = (
            sorted(folder.glob(f"{kind}-{what}*")) for what in ("images", "labels")
        )
        if bool(images) != bool(labels):
            there, lacking = ("images", "labels") if images else ("labels", "images")
            raise FileNotFoundError(
                f"{folder} has {kind}-{there}… but no {kind}-{lacking}…: add that file."
            )
        if images:
            X, y = load_idx(images[0]), load_idx(labels[0])
            if X.ndim < 2 or y.shape != (len(X),):
                raise ValueError(
                    f"{images[0]} has {len(X)} images of shape {X.shape[1:]}, and "
                    f"{labels[0]} labels of shape {y.shape}: one is wanted for each."
                )
            parts[images[0].name] = X, y
    return parts


def _has_cifar(folder: Path) -> bool:
    return any((folder / name).exists() for name in (*CIFAR_TRAIN, CIFAR_TEST))


def _cifar(folder: Path) -> dict[str, Part]:
    lacking = [n for n in (*CIFAR_TRAIN, CIFAR_TEST) if not (folder / n).exists()]
    if lacking:
        raise FileNotFoundError(
            f"{folder} lacks {', '.join(lacking)} of CIFAR-10: unpack "
            "cifar-10-python.tar.gz again."
        )
    batches = [_batch(folder / name) for name in CIFAR_TRAIN]
    X, y = (np.concatenate(arrays) for arrays in zip(*batches, strict=True))
    return {"data_batch_*": (X, y), CIFAR_TEST: _batch(folder / CIFAR_TEST)}


def _batch(path: Path) -> Part:
    try:
        with path.open("rb") as file:
            # Data of the user's own, in the format in which CIFAR-10 comes.
            content = pickle.load(file, encoding="bytes")
        X, y = np.asarray(content[b"data"]), np.asarray(content[b"labels"])
    except (pickle.UnpicklingError, EOFError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no batch of CIFAR-10's Python version.") from error
    if X.ndim != 2 or y.shape != (len(X),):
        raise ValueError(
            f"{path} has images of shape {X.shape} and labels of shape {y.shape}: "
            "one is wanted for each."
        )
    return X, y
