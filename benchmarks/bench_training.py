"""Training on images: accuracies, rates, what saves time, frozen features."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from _images import add_data_home, load_images
from _measure import compare, parser, save, seconds
from joblib import Parallel, delayed
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.preprocessing import StandardScaler

from sklearn_deq import DEQClassifier, ExplicitEquivalentClassifier

ROWS = ("readout", "tolerance", "vanishing", "accuracy", "rates")
RATES = (0.03, 0.05, 0.1, 0.2)
# Gradients vanish once a network is confident: standardised pixels at twice the rate of
# "auto" make it so in a few epochs, pixels as they are do not.
VANISHING_RATE = 0.1
# What is asked for: mean accuracy on MNIST, seconds of all fits, time of a frozen fit
# over that of one pass of solves.
LEAST_ACCURACY, MOST_SECONDS, MOST_PASSES = 0.960, 180.0, 3.0


@dataclass(frozen=True)
class Sizes:
    """Samples, widths, seeds, and turns with the epochs of each."""

    n_samples: int
    width: int
    frozen_width: int
    narrow_width: int
    explicit_width: int
    seeds: int
    rate_seeds: int
    turns: int
    epochs: int
    jobs: int


FULL = Sizes(
    10_000,
    width=512,
    frozen_width=1024,
    narrow_width=128,
    explicit_width=1024,
    seeds=10,
    rate_seeds=2,
    turns=5,
    epochs=5,
    jobs=2,
)
FAST = Sizes(
    300,
    width=32,
    frozen_width=64,
    narrow_width=32,
    explicit_width=32,
    seeds=2,
    rate_seeds=1,
    turns=1,
    epochs=1,
    jobs=1,
)

Split = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def fitted(model: Any, split: Split, n_train: int | None = None) -> dict[str, Any]:
    """Fit on the training rows; seconds, accuracy on the others, and how it ended."""
    X_train, y_train, X_test, y_test = split
    X_train, y_train = X_train[:n_train], y_train[:n_train]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        took = seconds(lambda: model.fit(X_train, y_train))
    return {
        "seconds": took,
        "accuracy": float(model.score(X_test, y_test)),
        "converged": bool(getattr(model, "converged_", True)),
        "warnings": [str(item.message) for item in caught],
    }


def network(kind: type, sizes: Sizes, seed: int, **params: Any) -> Any:
    """A network of one seed, in float32, for rows on the sphere."""
    settings = {"width": sizes.width, "dtype": "float32", "normalize": True}
    return kind(**{**settings, "random_state": seed, **params})


def many(
    models: list[Any], split: Split, jobs: int
) -> tuple[list[dict[str, Any]], float]:
    """Fit models, some at a time on a thread each; and the seconds of all.

    Layers of this size are small for threads: two fits at a time are faster than two
    threads for each.
    """
    with Parallel(n_jobs=jobs) as parallel:
        # The workers' imports are not what is measured.
        small = clone(models[0]).set_params(max_epochs=1)
        parallel(delayed(fitted)(small, split, 50) for _ in range(jobs))
        start = time.perf_counter()
        runs = parallel(delayed(fitted)(model, split) for model in models)
        return runs, time.perf_counter() - start


def accuracy_rows(sizes: Sizes, split: Split) -> Iterator[dict[str, Any]]:
    """All weights trained, and the readout alone: every seed, and their means."""
    for trainable in ("all", "readout"):
        models = [
            network(DEQClassifier, sizes, seed, trainable=trainable)
            for seed in range(sizes.seeds)
        ]
        runs, total = many(models, split, sizes.jobs)
        scores = [run["accuracy"] for run in runs]
        converged = sum(run["converged"] for run in runs)
        mean, deviation = float(np.mean(scores)), float(np.std(scores, ddof=1))
        print(
            f"{trainable}: mean {mean:.4f} ± {deviation:.4f}, from {min(scores):.4f} "
            f"to {max(scores):.4f}, {converged} of {sizes.seeds} converged, "
            f"{total:.0f} s for all, {sizes.jobs} at a time",
            flush=True,
        )
        yield {
            "row": "accuracy",
            "trainable": trainable,
            "mean": mean,
            "deviation": deviation,
            "seconds": total,
            "converged": converged,
            "runs": runs,
        }
    print(
        f"to reach with all weights: {LEAST_ACCURACY:.3f} in {MOST_SECONDS:.0f} s on "
        "two cores, and more than the readout"
    )


def rate_rows(sizes: Sizes, split: Split) -> Iterator[dict[str, Any]]:
    """Accuracy by learning rate, of the DEQ and of the explicit network."""
    for kind in (DEQClassifier, ExplicitEquivalentClassifier):
        for lr in RATES:
            models = [
                network(kind, sizes, seed, lr=lr) for seed in range(sizes.rate_seeds)
            ]
            scores = [run["accuracy"] for run in many(models, split, sizes.jobs)[0]]
            mean = float(np.mean(scores))
            print(f"{kind.__name__}, lr={lr}: {mean:.4f}", flush=True)
            yield {
                "row": "rates",
                "network": kind.__name__,
                "lr": lr,
                "mean": mean,
                "accuracies": scores,
            }


def tolerance_rows(sizes: Sizes, split: Split) -> Iterator[dict[str, Any]]:
    """A fit whose adjoints are solved to `backward_tol` against one to `tol`."""
    # A narrow layer at a large variance contracts least.
    for variance, width in (
        (0.2, sizes.width),
        (0.8, sizes.width),
        (0.8, sizes.narrow_width),
    ):
        yield _tolerance_row(sizes, split, variance, width)


def _tolerance_row(
    sizes: Sizes, split: Split, variance: float, width: int
) -> dict[str, Any]:
    loose: list[float] = []
    exact: list[float] = []

    def fit(scores: list[float], **params: Any) -> float:
        # A seed of its own every turn, the same for both.
        model = network(
            DEQClassifier,
            sizes,
            len(scores),
            width=width,
            recurrent_variance=variance,
            input_variance=1.0 - variance,
            max_epochs=sizes.epochs,
            **params,
        )
        run = fitted(model, split)
        scores.append(run["accuracy"])
        return float(run["seconds"])

    values = compare(
        lambda: fit(loose), lambda: fit(exact, backward_tol=0.0), sizes.turns
    )
    low, high = values["ratio_range"]
    more = np.subtract(loose, exact)
    error = float(more.std(ddof=1) / np.sqrt(len(more)))
    print(
        f"adjoints solved to backward_tol, σ_a² = {variance}, width {width}, "
        f"{sizes.epochs} epochs: {values['seconds']:.2f} s against "
        f"{values['seconds_other']:.2f} s to tol, ratio {values['ratio']:.2f} (in "
        f"turns {low:.2f}–{high:.2f}); accuracy {np.mean(exact):.4f}, and "
        f"{more.mean():+.4f} ± {error:.4f} of {len(more)} seeds",
        flush=True,
    )
    return {
        "row": "tolerance",
        "recurrent_variance": variance,
        "width": width,
        "accuracies": loose,
        "accuracies_other": exact,
        **values,
    }


def vanishing_row(sizes: Sizes, split: Split) -> Iterator[dict[str, Any]]:
    """A fit of two layers against one whose smallest gradients are not dropped."""
    with_them = "sklearn_deq.estimators._training.drop_vanishing"
    params = {
        "width": sizes.explicit_width,
        "architecture": "leaky_relu",
        "lr": VANISHING_RATE,
        "max_epochs": 2 * sizes.epochs,
    }
    X_train, y_train, X_test, y_test = split
    scaler = StandardScaler().fit(X_train)
    scaled = scaler.transform(X_train), y_train, scaler.transform(X_test), y_test
    dropped: list[float] = []
    kept: list[float] = []

    def fit(scores: list[float]) -> float:
        model = network(ExplicitEquivalentClassifier, sizes, 0, **params)
        run = fitted(model, scaled)
        scores.append(run["accuracy"])
        return float(run["seconds"])

    def fit_with_them() -> float:
        with patch(with_them, lambda outputs: None):
            return fit(kept)

    values = compare(lambda: fit(dropped), fit_with_them, (sizes.turns + 1) // 2)
    low, high = values["ratio_range"]
    print(
        f"gradients next to nothing dropped, standardised pixels, two leaky-ReLU "
        f"layers of width {sizes.explicit_width}, rate {VANISHING_RATE}, "
        f"{2 * sizes.epochs} epochs: {values['seconds']:.1f} s against "
        f"{values['seconds_other']:.1f} s, ratio {values['ratio']:.2f} (in turns "
        f"{low:.2f}–{high:.2f}); accuracy {dropped[0]:.4f} and {kept[0]:.4f}",
        flush=True,
    )
    accuracies = {"accuracy": dropped[0], "accuracy_other": kept[0]}
    yield {"row": "vanishing", **params, **accuracies, **values}


def readout_row(sizes: Sizes, split: Split) -> Iterator[dict[str, Any]]:
    """A fit with frozen weights against one pass of equilibrium solves."""
    X_train, y_train, *_ = split
    params = {"width": sizes.frozen_width, "trainable": "readout"}
    model = network(DEQClassifier, sizes, 0, **params).fit(X_train, y_train)
    passes = network(DEQClassifier, sizes, 0, **params).fit(X_train, y_train)
    values = compare(
        lambda: seconds(lambda: model.fit(X_train, y_train)),
        lambda: seconds(lambda: passes.transform(X_train)),
        sizes.turns,
    )
    low, high = values["ratio_range"]
    print(
        f"frozen weights, width {sizes.frozen_width}, n = {len(X_train)}: fit "
        f"{values['seconds']:.2f} s against {values['seconds_other']:.2f} s of a pass "
        f"of solves, ratio {values['ratio']:.2f} (in turns {low:.2f}–{high:.2f}; to "
        f"reach: {MOST_PASSES:.0f})",
        flush=True,
    )
    n_iter = model.readout_.n_iter_
    yield {"row": "readout", "reach": MOST_PASSES, "n_iter": n_iter, **values}


def main(argv: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Run the benchmark; returns its records."""
    arguments = parser(__doc__, "bench_training")
    add_data_home(arguments)
    arguments.add_argument("--only", nargs="+", choices=ROWS, default=ROWS)
    options = arguments.parse_args(argv)
    sizes = FAST if options.fast else FULL
    X, y, data = load_images(options.data_home)
    X, y = X[: sizes.n_samples].astype(np.float32), y[: sizes.n_samples]
    n_train = len(X) * 4 // 5
    split = X[:n_train], y[:n_train], X[n_train:], y[n_train:]
    print(
        f"{data}, {n_train} to train, {len(X) - n_train} to test, float32, "
        f"normalize=True, {torch.get_num_threads()} threads"
        f"{', too small to judge by' if options.fast else ''}"
    )
    rows: dict[str, Callable[[Sizes, Split], Iterator[dict[str, Any]]]] = {
        "readout": readout_row,
        "tolerance": tolerance_rows,
        "vanishing": vanishing_row,
        "accuracy": accuracy_rows,
        "rates": rate_rows,
    }
    records = [row for name in options.only for row in rows[name](sizes, split)]
    save(options.output, records, data=data, sizes=asdict(sizes), dtype="float32")
    return records


if __name__ == "__main__":
    main()
