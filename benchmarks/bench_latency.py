"""Predictions of the matched one-layer network against those of the DEQ.

Both with random weights and a convex readout (trainable="readout"), at the same width:
accuracy over seeds, and the time of `predict` in turns.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from _images import add_data_home, load_images
from _measure import compare, parser, save, seconds
from sklearn.exceptions import ConvergenceWarning

from sklearn_deq import DEQClassifier, match_deq


def main(argv: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Run the benchmark; returns its records."""
    arguments = parser(__doc__, "bench_latency")
    add_data_home(arguments)
    options = arguments.parse_args(argv)
    X, y, data = load_images(options.data_home)
    width = 64 if options.fast else 1024
    n_seeds = 2 if options.fast else 10
    if options.fast:
        X, y = X[:400], y[:400]
    n_train = len(X) * 4 // 5
    X = (X - X[:n_train].mean(axis=0)).astype(np.float32)
    train, test = (X[:n_train], y[:n_train]), (X[n_train:], y[n_train:])
    records = []
    for seed in range(n_seeds):
        deq = DEQClassifier(
            width=width,
            trainable="readout",
            normalize=True,
            weight_decay=1e-4,
            random_state=seed,
        )
        explicit = match_deq(deq, architecture="hermite")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            deq.fit(*train)
            explicit.fit(*train)
        scores = {"deq": deq.score(*test), "hermite": explicit.score(*test)}
        records.append({"seed": seed, **scores})
        print(
            f"seed {seed}: accuracy of the DEQ {scores['deq']:.4f}, of one Hermite "
            f"layer {scores['hermite']:.4f}",
            flush=True,
        )
    means = {
        name: np.mean([row[name] for row in records]) for name in ("deq", "hermite")
    }
    errors = {
        name: np.std([row[name] for row in records], ddof=1) / np.sqrt(n_seeds)
        for name in means
    }
    # Of the last seed.
    times = compare(
        lambda: seconds(lambda: explicit.predict(test[0])),
        lambda: seconds(lambda: deq.predict(test[0])),
        3 if options.fast else 15,
    )
    low, high = times["ratio_range"]
    print(
        f"{data}, {n_train} to train, {len(test[1])} to test, width {width}, float32, "
        "readout trained:\n"
        f"DEQ {means['deq']:.4f} ± {errors['deq']:.4f}, one Hermite layer "
        f"{means['hermite']:.4f} ± {errors['hermite']:.4f} ({n_seeds} seeds)\n"
        f"predict: {times['seconds']:.4f} s against {times['seconds_other']:.4f} s, "
        f"ratio {times['ratio']:.3f} (in turns {low:.3f}–{high:.3f}; to reach: 0.1)"
    )
    save(options.output, [*records, {"times": times}], data=data, width=width)
    return records


if __name__ == "__main__":
    main()
