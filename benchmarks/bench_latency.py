"""Predictions of the matched one-layer network against those of the DEQ.

Both with random weights and a convex readout (trainable="readout"), at the same width:
accuracy over seeds, and the processor time of `predict` in turns, for a DEQ that solves
in the precision that suits the machine (bfloat16 where its units are fast) and for one
that computes in float32 alone, as the explicit network does. Then the networks between
which "auto" decides where norms vary, and the product with the input weights alone.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from _images import add_data_home, load_images
from _measure import compare, parser, processor_seconds, save
from sklearn.exceptions import ConvergenceWarning

from sklearn_deq import DEQClassifier, ExplicitEquivalentClassifier, match_deq

Data = tuple[np.ndarray, np.ndarray]
VARIANCES = (0.2, 0.5, 0.9)


def fit(
    train: Data, width: int, seed: int, variance: float = 0.2
) -> tuple[DEQClassifier, ExplicitEquivalentClassifier]:
    """A DEQ and its explicit equivalent, their readouts trained."""
    deq = DEQClassifier(
        width=width,
        recurrent_variance=variance,
        input_variance=1.0 - variance,
        trainable="readout",
        normalize=True,
        weight_decay=1e-4,
        random_state=seed,
    )
    explicit = match_deq(deq, architecture="hermite")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return deq.fit(*train), explicit.fit(*train)


def accuracies(
    train: Data, test: Data, width: int, n_seeds: int
) -> Iterator[dict[str, Any]]:
    """Scores of both, seed by seed."""
    for seed in range(n_seeds):
        deq, explicit = fit(train, width, seed)
        scores = {"deq": deq.score(*test), "hermite": explicit.score(*test)}
        print(
            f"seed {seed}: accuracy of the DEQ {scores['deq']:.4f}, of one Hermite "
            f"layer {scores['hermite']:.4f}",
            flush=True,
        )
        yield {"seed": seed, **scores}


def times(train: Data, X: np.ndarray, width: int, repeats: int) -> Iterator[Any]:
    """Ratios of the times of `predict` at several variances and both precisions."""
    for variance in VARIANCES:
        # How the readouts are trained does not matter here.
        deq, explicit = fit((train[0][:1000], train[1][:1000]), width, 0, variance)
        for precision in ("auto", "full"):
            deq._body.precision = precision
            found = compare(
                lambda explicit=explicit: processor_seconds(
                    lambda: explicit.predict(X)
                ),
                lambda deq=deq: processor_seconds(lambda: deq.predict(X)),
                repeats,
            )
            low, high = found["ratio_range"]
            print(
                f"recurrent_variance {variance}, DEQ in {precision} precision: "
                f"{found['seconds']:.4f} s against {found['seconds_other']:.4f} s, "
                f"ratio {found['ratio']:.3f} (in turns {low:.3f}–{high:.3f}; to reach: "
                "0.1)",
                flush=True,
            )
            settings = {"recurrent_variance": variance, "precision": precision}
            yield {**settings, **found}


def choices(train: Data, X: np.ndarray, repeats: int) -> Iterator[Any]:
    """Times of `predict` of networks for norms that vary, at several sizes."""
    some = train[0][:1000], train[1][:1000]
    for activation, width, batch in itertools.product(
        ("relu", "gelu"), (512, 1024), (128, 2000)
    ):
        rows = X[:batch]
        for architecture in ("hermite", "leaky_relu", "rounded"):
            if (architecture, activation) in (
                ("leaky_relu", "gelu"),
                ("rounded", "relu"),
            ):
                continue
            model = ExplicitEquivalentClassifier(
                activation=activation,
                width=width,
                architecture=architecture,
                trainable="readout",
                weight_decay=1e-2,
                random_state=0,
            ).fit(*some)
            weight = np.ones((width, rows.shape[1]), dtype=rows.dtype)
            found = compare(
                lambda model=model, rows=rows: processor_seconds(
                    lambda: model.predict(rows)
                ),
                lambda rows=rows, weight=weight: processor_seconds(
                    lambda: rows @ weight.T
                ),
                repeats,
            )
            print(
                f"{activation}, width {width}, {len(rows)} rows, {architecture} "
                f"({model.match_.depth}): {1e3 * found['seconds']:.1f} ms, the first "
                f"product {1e3 * found['seconds_other']:.1f} ms",
                flush=True,
            )
            settings = {"activation": activation, "width": width, "rows": len(rows)}
            yield {**settings, "architecture": architecture, **found}


def main(argv: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Run the benchmark; returns its records."""
    arguments = parser(__doc__, "bench_latency")
    add_data_home(arguments)
    arguments.add_argument("--seeds", type=int, default=10)
    options = arguments.parse_args(argv)
    X, y, data = load_images(options.data_home)
    width = 64 if options.fast else 1024
    n_seeds = 2 if options.fast else options.seeds
    if options.fast:
        X, y = X[:400], y[:400]
    n_train = len(X) * 4 // 5
    X = (X - X[:n_train].mean(axis=0)).astype(np.float32)
    train, test = (X[:n_train], y[:n_train]), (X[n_train:], y[n_train:])
    print(
        f"{data}, {n_train} to train, {len(test[1])} to test, width {width}, float32, "
        f"readout trained, {torch.get_num_threads()} threads"
    )
    records = list(accuracies(train, test, width, n_seeds))
    for name in ("deq", "hermite"):
        scores = [row[name] for row in records]
        error = np.std(scores, ddof=1) / np.sqrt(n_seeds) if n_seeds > 1 else np.nan
        print(f"{name}: {np.mean(scores):.4f} ± {error:.4f} ({n_seeds} seeds)")
    records += times(train, test[0], width, 3 if options.fast else 15)
    records += choices(train, test[0], 3 if options.fast else 15)
    save(options.output, records, data=data, width=width)
    return records


if __name__ == "__main__":
    main()
