"""Time, operations and memory, at equal width and at equal accuracy."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks._measure import measured, median_seconds
from benchmarks.paper._data import Source, Split, images
from benchmarks.paper._experiment import Cell, Experiment, Row, grouped, one_thread
from benchmarks.paper._figures import figure, legend_below
from benchmarks.paper._networks import (
    MODELS,
    build,
    features,
    models_of,
    moments_of,
    train,
)
from sklearn_deq.kernels import deq_kernel
from sklearn_deq.linear import fit_ridge, ridge_fit
from sklearn_deq.theory import EquilibriumMoments

VARIANCE = 0.2
ALPHA = 0.01
# Of training all weights, as in the experiment on accuracy.
EPOCHS = 10


def cells(quick: bool) -> list[Cell]:
    """Every model at every width, with the readout or all trained; and the kernel."""
    widths = (32,) if quick else (128, 256, 512, 1024, 2048, 4096)
    activations = ("relu",) if quick else ("relu", "tanh")
    kinds = [("readout", width) for width in widths]
    kinds += [("all", width) for width in widths if width <= 1024]
    return [
        {
            "activation": activation,
            "model": model,
            "trainable": trainable,
            "width": width,
            "n": 500 if quick else 8000,
        }
        for activation in activations
        for trainable, width in [*kinds, ("", 0)]
        for model in (models_of(activation) if width else ["kernel"])
    ]


@dataclass(frozen=True)
class Work:
    """A model to fit, and to predict with.

    Attributes
    ----------
    fit : callable
        Fits, and returns what `scores` needs.
    scores : callable
        Decision values of rows.
    flops : float
        Of the prediction of one row, matrix products only.
    """

    fit: Callable[[], Any]
    scores: Callable[[np.ndarray, Any], np.ndarray]
    flops: float


def kernel_work(data: Split, moments: EquilibriumMoments) -> Work:
    """Kernel ridge on the exact CK."""
    X, y, *_ = data
    settings = {
        "activation": moments.activation,
        "recurrent_variance": moments.recurrent_variance,
        "input_variance": moments.input_variance,
        "tau0": moments.tau0,
    }

    def fit() -> tuple[np.ndarray, np.ndarray]:
        return ridge_fit(deq_kernel(X, **settings), np.eye(y.max() + 1)[y], ALPHA)

    def scores(rows: np.ndarray, fitted: Any) -> np.ndarray:
        return deq_kernel(rows, X, **settings) @ fitted[0] + fitted[1]

    return Work(fit, scores, 2.0 * (X.shape[1] + y.max() + 1) * len(X))


def network_work(cell: Cell, data: Split, moments: EquilibriumMoments) -> Work:
    """A network with its readout in closed form, or all weights trained."""
    X, y, *_ = data
    settings = {"trainable": cell["trainable"]}
    body = build(cell["model"], moments, X, cell["width"], seed=0, **settings)
    n_classes = y.max() + 1
    with FlopCounterMode(display=False) as counter:
        width = features(body, X[:100]).shape[1]
    flops = counter.get_total_flops() / 100 + 2.0 * width * n_classes
    # What training does not need is not timed: accuracies on test images.
    rows = X, y, X[:1], y[:1]

    def fit() -> tuple[np.ndarray, np.ndarray]:
        if cell["trainable"] == "all":
            readout = train(body, rows, epochs=EPOCHS, lr=0.05, seed=0).readout
            assert readout is not None
            return readout.T.numpy(), np.zeros(len(readout))
        Z = features(body, X).astype(np.float64)
        coef, intercept = fit_ridge(Z, np.eye(n_classes)[y], ALPHA / len(Z))
        return coef.T, intercept

    def scores(rows: np.ndarray, fitted: Any) -> np.ndarray:
        return features(body, rows) @ fitted[0] + fitted[1]

    return Work(fit, scores, flops)


def work_of(cell: Cell, data: Split) -> Work:
    """What a cell fits."""
    moments = moments_of(data[0], cell["activation"], VARIANCE)
    if cell["model"] == "kernel":
        return kernel_work(data, moments)
    return network_work(cell, data, moments)


def peak_bytes(cell: Cell, source: Source) -> float:
    """Memory of a fit above what the process held; in a process of its own."""
    data = images(source, cell["n"], cell["n"] // 4, seed=0)
    few = data[0][:100], data[1][:100], data[2][:100], data[3][:100]
    with one_thread():
        # Modules and threads are there before anything is measured.
        work_of(cell, few).fit()
        return measured(work_of(cell, data).fit)["bytes_above"]


def in_fresh_process(work: Callable[..., float], *arguments: Any) -> float:
    """What work gives in a process that has imported this module, and done nothing."""
    context = get_context("forkserver")
    # The second is what optimizers and the counter of FLOPs import at their first use.
    context.set_forkserver_preload([__name__, "torch._dynamo"])
    with ProcessPoolExecutor(1, mp_context=context) as alone:
        return alone.submit(work, *arguments).result()


def timed_fit(work: Work, repeats: int) -> tuple[Any, float]:
    """A fit, and the median of the seconds; once where it goes on from where it was."""
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        fitted = work.fit()
        seconds.append(time.perf_counter() - started)
    return fitted, float(np.median(seconds))


def compute(cell: Cell, source: Source) -> Row:
    """Seconds of a fit and of predictions, FLOPs per sample, bytes."""
    data = images(source, cell["n"], cell["n"] // 4, seed=0)
    work = work_of(cell, data)
    fitted, fit_seconds = timed_fit(work, 1 if cell["trainable"] == "all" else 3)
    X_test, y_test = data[2:]
    found = work.scores(X_test, fitted)
    predict = median_seconds(lambda: work.scores(X_test, fitted), 5)
    peak = in_fresh_process(peak_bytes, cell, source)
    return {
        "fit seconds": fit_seconds,
        "predict microseconds": 1e6 * predict / len(X_test),
        "FLOPs per sample": work.flops,
        "MB of a fit": peak / 1e6,
        "threads": torch.get_num_threads(),
        "accuracy": float(np.mean(found.argmax(axis=1) == y_test)),
    }


def report(rows: list[Row], path: Path) -> list[Row]:
    """Accuracy against time; and what each model needs for the DEQ's accuracies."""
    _draw(rows, path)
    groups = grouped(rows, "activation", "trainable", "model")
    summary = [
        {key: _short(value) for key, value in row.items() if key != "n"} for row in rows
    ]
    for row, line in zip(rows, summary, strict=True):
        kind = row["activation"], row["trainable"] or "readout"
        deqs = groups.get((*kind, "deq"), [])
        # The cheapest DEQ, trained likewise, that is at least as accurate.
        equal = [
            deq["predict microseconds"]
            for deq in deqs
            if deq["accuracy"] >= row["accuracy"]
        ]
        line["predict, of the DEQ as accurate"] = (
            _short(row["predict microseconds"] / min(equal)) if equal else None
        )
    return summary


def _draw(rows: list[Row], path: Path) -> None:
    """A row of panels for each activation and kind of training."""
    # Kernel ridge, which trains neither, stands beside the networks' readouts.
    rows = [{**row, "kind": row["trainable"] or "readout"} for row in rows]
    kinds = grouped(rows, "activation", "kind")
    names = ("predict microseconds", "fit seconds")
    with figure(path, len(names), len(kinds), sharex="col", sharey="row") as axes:
        for panels, ((activation, kind), part) in zip(axes, kinds.items(), strict=True):
            for panel, name in zip(panels, names, strict=True):
                for (model,), group in grouped(part, "model").items():
                    points = [(row[name], row["accuracy"]) for row in group]
                    place = (*MODELS, "kernel").index(model)
                    style = {"marker": "osv^D*"[place % 6], "color": f"C{place}"}
                    panel.plot(*zip(*points, strict=True), label=model, **style)
                title = f"{activation}, {kind} trained"
                panel.set(xscale="log", xlabel=name, title=title)
            panels[0].set_ylabel("test accuracy")
        legend_below(axes)


def _short(value: object) -> object:
    return float(f"{value:.3g}") if isinstance(value, float) else value


EXPERIMENT = Experiment(
    "cost",
    "What do fits and predictions cost, at equal width and at equal accuracy?",
    cells,
    compute,
    report,
    parallel=False,
    images=True,
)
