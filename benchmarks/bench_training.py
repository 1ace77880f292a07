"""Training of DEQs on images: accuracy over seeds, learning rates, frozen features."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from _images import add_data_home, load_images
from _measure import compare, parser, save, seconds
from sklearn.exceptions import ConvergenceWarning

from sklearn_deq import DEQClassifier, ExplicitEquivalentClassifier

ROWS = ("readout", "accuracy", "rates")
RATES = (0.03, 0.05, 0.1, 0.2)
# What is asked for: mean accuracy on MNIST, seconds of all fits, time of a frozen fit
# over that of one pass of solves.
LEAST_ACCURACY, MOST_SECONDS, MOST_PASSES = 0.960, 180.0, 3.0


@dataclass(frozen=True)
class Sizes:
    """Samples, widths, seeds and turns."""

    n_samples: int
    width: int
    frozen_width: int
    seeds: int
    rate_seeds: int
    turns: int


FULL = Sizes(10_000, width=512, frozen_width=1024, seeds=10, rate_seeds=2, turns=5)
FAST = Sizes(300, width=32, frozen_width=64, seeds=2, rate_seeds=1, turns=1)

Split = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def fitted(model: Any, split: Split) -> dict[str, Any]:
    """Fit on the training rows; seconds, accuracy on the others, and how it ended."""
    X_train, y_train, X_test, y_test = split
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


def accuracy_rows(sizes: Sizes, split: Split) -> Iterator[dict[str, Any]]:
    """All weights trained against the readout alone, seed by seed, and their means."""
    rows = []
    for seed in range(sizes.seeds):
        row: dict[str, Any] = {"row": "accuracy", "seed": seed}
        for trainable in ("all", "readout"):
            model = network(DEQClassifier, sizes, seed, trainable=trainable)
            row[trainable] = fitted(model, split)
        rows.append(row)
        print(
            f"seed {seed}: all weights {row['all']['accuracy']:.4f} in "
            f"{row['all']['seconds']:.1f} s, readout {row['readout']['accuracy']:.4f}",
            flush=True,
        )
        yield row
    summary: dict[str, Any] = {"row": "accuracy, all seeds", "seeds": sizes.seeds}
    for trainable in ("all", "readout"):
        runs = [row[trainable] for row in rows]
        scores = [run["accuracy"] for run in runs]
        summary[trainable] = {
            "mean": float(np.mean(scores)),
            "deviation": float(np.std(scores, ddof=1)),
            "lowest": min(scores),
            "seconds": sum(run["seconds"] for run in runs),
            "converged": sum(run["converged"] for run in runs),
        }
        print(
            f"{trainable}: mean {summary[trainable]['mean']:.4f} ± "
            f"{summary[trainable]['deviation']:.4f}, lowest {min(scores):.4f}, "
            f"{summary[trainable]['converged']} of {sizes.seeds} converged, "
            f"{summary[trainable]['seconds']:.0f} s in all"
        )
    print(f"to reach: {LEAST_ACCURACY} in under {MOST_SECONDS:.0f} s on two cores")
    yield summary


def rate_rows(sizes: Sizes, split: Split) -> Iterator[dict[str, Any]]:
    """Accuracy by learning rate, of the DEQ and of the explicit network."""
    for kind in (DEQClassifier, ExplicitEquivalentClassifier):
        for lr in RATES:
            scores = [
                fitted(network(kind, sizes, seed, lr=lr), split)["accuracy"]
                for seed in range(sizes.rate_seeds)
            ]
            mean = float(np.mean(scores))
            print(f"{kind.__name__}, lr={lr}: {mean:.4f}", flush=True)
            yield {
                "row": "rates",
                "network": kind.__name__,
                "lr": lr,
                "mean": mean,
                "accuracies": scores,
            }


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
        "accuracy": accuracy_rows,
        "rates": rate_rows,
    }
    records = [row for name in options.only for row in rows[name](sizes, split)]
    save(options.output, records, data=data, sizes=asdict(sizes), dtype="float32")
    return records


if __name__ == "__main__":
    main()
