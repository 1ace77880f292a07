"""Time, operations and memory, at equal width and at equal accuracy."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks._measure import measured, median_seconds, seconds
from benchmarks.paper._data import Source, Split, images
from benchmarks.paper._experiment import (
    Cell,
    Experiment,
    Row,
    grouped,
    mean_error,
    one_thread,
)
from benchmarks.paper._figures import band, figure, legend_below
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
    """Every model at every width, with the readout or all trained; and the kernel.

    Memory first: only times ask for a machine that does nothing else.
    """
    widths = (32,) if quick else (128, 256, 512, 1024, 2048, 4096)
    activations = ("relu",) if quick else ("relu", "tanh")
    kinds = [("", 0), *(("readout", width) for width in widths)]
    kinds += [("all", width) for width in widths if width <= 1024]
    # A DEQ of width 4,096 trains for ten minutes: once, and last.
    widest = [("all", width) for width in widths if width > 1024]
    seeds = range(2 if quick else 3)
    measures = [
        # What a fit holds, and what making a network takes, hardly depend on the draw.
        ("memory", seeds[0], kinds + widest),
        ("making", seeds[0], kinds + widest),
        *(("time", seed, kinds) for seed in seeds),
        ("time", seeds[0], widest),
    ]
    return [
        {
            "measure": measure,
            "activation": activation,
            "model": model,
            "trainable": trainable,
            "width": width,
            "seed": seed,
            "n": 500 if quick else 8000,
        }
        for measure, seed, these in measures
        for activation in activations
        for trainable, width in these
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
    flops : callable
        Those of the prediction of one row, with the weights as they are: matrix
        products only.
    """

    fit: Callable[[], Any]
    scores: Callable[[np.ndarray, Any], np.ndarray]
    flops: Callable[[], float]


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

    return Work(fit, scores, lambda: 2.0 * (X.shape[1] + y.max() + 1) * len(X))


def network_work(
    cell: Cell, data: Split, moments: EquilibriumMoments, epochs: int
) -> Work:
    """A network with its readout in closed form, or all weights trained."""
    X, y, *_ = data
    seed, settings = cell["seed"], {"trainable": cell["trainable"]}
    body = build(cell["model"], moments, X, cell["width"], seed, **settings)
    n_classes = y.max() + 1
    rows = X[:100]

    def flops() -> float:
        with FlopCounterMode(display=False) as counter:
            width = features(body, rows).shape[1]
        return counter.get_total_flops() / len(rows) + 2.0 * width * n_classes

    # What training does not need is not timed: accuracies on test images.
    training = X, y, X[:1], y[:1]

    def fit() -> tuple[np.ndarray, np.ndarray]:
        if cell["trainable"] == "all":
            curves = train(
                body, training, epochs=epochs, lr=0.05, seed=seed, every_epoch=False
            )
            assert curves.readout is not None
            return curves.readout.T.numpy(), np.zeros(len(curves.readout))
        Z = features(body, X).astype(np.float64)
        coef, intercept = fit_ridge(Z, np.eye(n_classes)[y], ALPHA / len(Z))
        return coef.T, intercept

    def scores(rows: np.ndarray, fitted: Any) -> np.ndarray:
        return features(body, rows) @ fitted[0] + fitted[1]

    return Work(fit, scores, flops)


def work_of(cell: Cell, data: Split, epochs: int = EPOCHS) -> Work:
    """What a cell fits."""
    moments = moments_of(data[0], cell["activation"], VARIANCE)
    if cell["model"] == "kernel":
        return kernel_work(data, moments)
    return network_work(cell, data, moments, epochs)


def peak_bytes(cell: Cell, source: Source) -> float:
    """Memory of a fit above what the process held; in a process of its own.

    Of an epoch, where all weights are trained: the others hold what the first one did.
    """
    data = images(source, cell["n"], cell["n"] // 4, cell["seed"])
    few = data[0][:100], data[1][:100], data[2][:100], data[3][:100]
    with one_thread():
        # Modules and threads are there before anything is measured.
        work_of(cell, few, epochs=1).fit()
        return measured(work_of(cell, data, epochs=1).fit)["bytes_above"]


def in_fresh_process(work: Callable[..., float], *arguments: Any) -> float:
    """What work gives in a process that has imported this module, and done nothing."""
    context = get_context("forkserver")
    # The second is what optimizers and the counter of FLOPs import at their first use.
    context.set_forkserver_preload([__name__, "torch._dynamo"])
    with ProcessPoolExecutor(1, mp_context=context) as alone:
        return alone.submit(work, *arguments).result()


def compute(cell: Cell, source: Source) -> Row:
    """Bytes; seconds of making; or those of use, with operations and accuracy."""
    if cell["measure"] == "memory":
        return {"MB of a fit": in_fresh_process(peak_bytes, cell, source) / 1e6}
    data = images(source, cell["n"], cell["n"] // 4, cell["seed"])
    if cell["measure"] == "making":
        # Matching, where there is any, and drawing the weights.
        return {"making seconds": median_seconds(lambda: work_of(cell, data), 3)}
    X_test, y_test = data[2:]
    # A process that has just started fits slowly, whatever it fits.
    small = tuple(part[:300] for part in data)
    work_of(cell, small, epochs=1).fit()  # type: ignore[arg-type]
    work = work_of(cell, data)
    fitted = []
    fit = seconds(lambda: fitted.append(work.fit()))
    predict = median_seconds(lambda: work.scores(X_test, fitted[0]), 5)
    found = work.scores(X_test, fitted[0])
    return {
        "fit seconds": fit,
        "predict microseconds": 1e6 * predict / len(X_test),
        # Of the network as it is now: a DEQ's iterations change as it is trained.
        "FLOPs per sample": work.flops(),
        "threads": torch.get_num_threads(),
        "accuracy": float(np.mean(found.argmax(axis=1) == y_test)),
    }


KIND = ("activation", "trainable", "model", "width")
TIMES = ("fit seconds", "predict microseconds")
RESOURCES = ("FLOPs per sample", "MB of a fit")


def report(rows: list[Row], path: Path) -> list[Row]:
    """Accuracy against time; and what each model needs for the DEQ's accuracies."""
    lines = [_line(group) for group in grouped(rows, *KIND).values()]
    _draw(lines, path)
    by_model = grouped(lines, "activation", "trainable", "model")
    for line in lines:
        trained = line["trainable"] or "readout"
        deqs = by_model.get((line["activation"], trained, "deq"), [])
        for name in (*TIMES, *RESOURCES):
            ratio = line[name] / of_equal_accuracy(line["accuracy"], deqs, name)
            line[f"{name}, of the DEQ as accurate"] = ratio
    return [{name: _short(value) for name, value in line.items()} for line in lines]


def of_equal_accuracy(accuracy: float, deqs: list[Row], name: str) -> float:
    """What a DEQ trained likewise takes for an accuracy.

    Between the widths that were tried, its logarithm is interpolated: with the next
    width alone a network a hair more accurate than a DEQ would be compared with one of
    twice the cost. The least accurate DEQ stands for those below it; there is none, and
    nan, above the most accurate.
    """
    frontier: list[tuple[float, float]] = []
    known = [deq for deq in deqs if np.isfinite([deq["accuracy"], deq[name]]).all()]
    for deq in sorted(known, key=lambda row: float(row[name])):
        # Only those that no cheaper one surpasses.
        if not frontier or deq["accuracy"] > frontier[-1][0]:
            frontier.append((deq["accuracy"], deq[name]))
    if not frontier or not accuracy <= frontier[-1][0]:
        return float("nan")
    accuracies, values = zip(*frontier, strict=True)
    return float(np.exp(np.interp(accuracy, accuracies, np.log(values))))


def _line(group: list[Row]) -> Row:
    """Medians of the times over seeds, with the least and the most, and means.

    To fit is to make the network and to fit it.
    """
    line = {name: group[0][name] for name in KIND}
    made = [row for row in group if row["measure"] == "making"]
    making = made[0]["making seconds"] if made else float("nan")
    timed = [row for row in group if row["measure"] == "time"]
    for name in TIMES:
        also = making if name == "fit seconds" else 0.0
        values = [also + row[name] for row in timed] or [float("nan")]
        line[name] = float(np.median(values))
        line[f"{name}, range"] = f"{min(values):.3g} to {max(values):.3g}"
    line["of which making"] = making
    line["FLOPs per sample"], _ = _mean_error(timed, "FLOPs per sample")
    held = [row for row in group if row["measure"] == "memory"]
    line["MB of a fit"], _ = _mean_error(held, "MB of a fit")
    line["accuracy"], error = _mean_error(timed, "accuracy")
    return {**line, "standard error": error, "seeds": len(timed)}


def _mean_error(rows: list[Row], name: str) -> tuple[float, float]:
    """Of what has been measured; else nothing is known of it."""
    known = [row for row in rows if name in row]
    return mean_error(known, name) if known else (float("nan"), float("nan"))


def _draw(rows: list[Row], path: Path) -> None:
    """A row of panels for each activation and kind of training."""
    # Kernel ridge, which trains neither, stands beside the networks' readouts.
    rows = [{**row, "kind": row["trainable"] or "readout"} for row in rows]
    kinds = grouped(rows, "activation", "kind")
    names = TIMES[::-1]
    with figure(path, len(names), len(kinds), sharex="col", sharey="row") as axes:
        for panels, ((activation, kind), part) in zip(axes, kinds.items(), strict=True):
            for panel, name in zip(panels, names, strict=True):
                for (model,), group in grouped(part, "model").items():
                    columns = (name, "accuracy", "standard error")
                    points = [tuple(row[key] for key in columns) for row in group]
                    place = (*MODELS, "kernel").index(model)
                    style = {"marker": "osv^D*"[place % 6], "color": f"C{place}"}
                    band(panel, points, model, **style)
                title = f"{activation}, {kind} trained"
                panel.set(xscale="log", xlabel=name, title=title)
            panels[0].set_ylabel("test accuracy")
        legend_below(axes)


def _short(value: object) -> object:
    if not isinstance(value, float):
        return value
    return float(f"{value:.4g}") if np.isfinite(value) else None


EXPERIMENT = Experiment(
    "cost",
    "What do fits and predictions cost, at equal width and at equal accuracy?",
    cells,
    compute,
    report,
    parallel=False,
    images=True,
)
