"""Sequences: digits read as a long series, the adding problem, a damped pendulum.

A window of the series is the input of the networks; for the long ones it is the whole
series. Nothing recurs over time: what is gained or lost against a DEQ is the question.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from scipy.integrate import solve_ivp
from scipy.ndimage import zoom
from sklearn.datasets import load_digits
from torch import nn

from benchmarks.paper._choice import Fit, choose, often
from benchmarks.paper._data import Source, Split
from benchmarks.paper._experiment import (
    Cell,
    Experiment,
    Row,
    grouped,
    mean_error,
    paired,
)
from benchmarks.paper._figures import figure
from benchmarks.paper._networks import build, features, moments_of, score, train
from sklearn_deq.linear import fit_ridge

MODELS = ("deq", "hermite", "paper", "plain", "single", "linear")
TASKS = ("digits", "adding", "pendulum")
# All weights of narrower networks, as training a DEQ costs its width squared.
WIDTHS = {"readout": 1024, "all": 256}
RATES = (0.003, 0.01, 0.03, 0.1, 0.3)
PENALTIES = tuple(10.0 ** np.arange(-6, 3))


def cells(quick: bool) -> list[Cell]:
    """Every task, model and seed; a linear model is all readout."""
    return [
        {
            "task": task,
            "model": model,
            "trainable": trainable,
            "width": 64 if quick else width,
            "epochs": (1 if quick else 15) if trainable == "all" else 0,
            "seed": seed,
        }
        for trainable, width in WIDTHS.items()
        for task in TASKS
        for model in MODELS
        if (trainable, model) != ("all", "linear")
        for seed in range(1 if quick else 10)
    ]


def compute(cell: Cell, source: Source) -> Row:
    """Accuracy of classes, or the share of the variance that is explained."""
    rng = np.random.default_rng(cell["seed"])
    X, Y = {"digits": _digits, "adding": _adding, "pendulum": _pendulum}[cell["task"]](
        rng
    )
    split = len(X) * 3 // 4
    mean, scale = X[:split].mean(axis=0), X[:split].std() + 1e-12
    X = (X - mean) / scale
    values: Sequence[float] = PENALTIES
    fit: Fit = _ridge
    if cell["trainable"] == "all":
        values = RATES
        fit = _adam(functools.partial(_body, cell), cell["epochs"], cell["seed"])
        if Y.ndim > 1:
            # Readouts begin at zero and have no intercept; one scale keeps R².
            Y = Y - Y[:split].mean(axis=0)
            Y /= Y[:split].std()
    elif cell["model"] != "linear":
        X = features(_body(cell, X[:split]), X).astype(np.float64)
    data = X[:split], Y[:split], X[split:], Y[split:]
    chosen = choose(values, fit, data)
    return {"score": fit(data, chosen), "chosen": chosen}


def _ridge(data: Split, penalty: float) -> float:
    Z, Y, Z_test, Y_test = data
    targets = Y if Y.ndim > 1 else np.eye(Y.max() + 1)[Y]
    coef, intercept = fit_ridge(Z, targets, penalty / len(Z))
    return score(Z_test @ coef.T + intercept, Y_test)


def _adam(body: Callable[[np.ndarray], nn.Module], epochs: int, seed: int) -> Fit:
    """All weights trained by Adam, at a rate, of the network made for the rows."""

    def fit(data: Split, rate: float) -> float:
        settings = {"epochs": epochs, "lr": rate, "seed": seed}
        return train(body(data[0]), data, **settings, every_epoch=False).scores[-1]

    return fit


def _body(cell: Cell, X: np.ndarray) -> nn.Module:
    """The network, matched to the rows."""
    moments = moments_of(X, "relu", 0.2)
    return build(
        cell["model"],
        moments,
        X,
        cell["width"],
        cell["seed"],
        trainable=cell["trainable"],
    )


def _digits(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Digits enlarged to 16 × 16 pixels, read line by line: 256 steps."""
    X, y = load_digits(return_X_y=True)
    order = rng.permutation(len(X))
    pictures = zoom(X[order].reshape(-1, 8, 8), (1, 2, 2), order=1)
    return pictures.reshape(len(X), 256), y[order]


def _adding(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Add the two of 256 numbers that are marked; values and marks alternate."""
    n, length = 6000, 256
    values, marks = rng.random((n, length)), np.zeros((n, length))
    half = length // 2
    first, second = rng.integers(0, half, n), rng.integers(half, length, n)
    rows = np.arange(n)
    marks[rows, first] = marks[rows, second] = 1.0
    X = np.stack([values, marks], axis=2).reshape(n, -1)
    return X, (values[rows, first] + values[rows, second])[:, None]


def _pendulum(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A damped, driven pendulum half a second ahead, from the 3.2 seconds before.

    The drive is known until then: it is an input of the system.
    """
    steps, window, ahead = 4000, 32, 5
    drive = np.repeat(rng.standard_normal(steps // 10 + 1), 10)
    times = np.arange(steps) * 0.1

    def motion(t: float, state: np.ndarray) -> list[float]:
        torque = drive[min(int(t / 0.1), steps - 1)]
        return [state[1], -0.3 * state[1] - 9.81 * np.sin(state[0]) + 5.0 * torque]

    path = solve_ivp(
        motion, (0.0, times[-1]), [0.5, 0.0], t_eval=times, max_step=0.05, rtol=1e-6
    ).y.T
    path += 0.01 * rng.standard_normal(path.shape)
    series = np.column_stack([np.sin(path[:, 0]), np.cos(path[:, 0]), path[:, 1]])
    series = np.column_stack([series, drive[:steps]])
    # The last row of a window, and that to be predicted, `ahead` steps later.
    last = np.arange(window - 1, steps - ahead)
    past = [series[i - window + 1 : i + 1].ravel() for i in last]
    coming = [drive[i + 1 : i + ahead] for i in last]
    return np.hstack([past, coming]), series[last + ahead, :3]


def report(rows: list[Row], path: Path) -> list[Row]:
    """Scores side by side, and differences from the DEQ of the same seeds."""
    groups = grouped(rows, "trainable", "task", "model")
    summary = []
    for (trainable, task, model), group in groups.items():
        mean, error = mean_error(group, "score")
        deqs = groups.get((trainable, task, "deq"), [])
        less, less_error, _ = paired(group, deqs, "score")
        summary.append(
            {
                "trainable": trainable,
                "task": task,
                "model": model,
                "score": round(mean, 4),
                "standard error": round(error, 4),
                # Of a training that fails once in ten the mean says little.
                "median": round(float(np.median([row["score"] for row in group])), 4),
                "less DEQ": round(less, 4),
                "its standard error": round(less_error, 4),
                "kind": _kind(task),
                "chosen": often(group),
                "seeds": len(group),
            }
        )
    _draw(summary, path)
    return summary


def _draw(summary: list[Row], path: Path) -> None:
    kinds = [kind for (kind,) in grouped(summary, "trainable")]
    tasks = [task for (task,) in grouped(summary, "task")]
    with figure(path, len(tasks), len(kinds)) as axes:
        panels = np.atleast_2d(axes).reshape(len(kinds), len(tasks))
        for (kind, task), own in grouped(summary, "trainable", "task").items():
            panel = panels[kinds.index(kind), tasks.index(task)]
            points = [row["score"] for row in own]
            errors = np.nan_to_num([row["standard error"] for row in own])
            names = [row["model"] for row in own]
            panel.errorbar(names, points, yerr=errors, fmt="o", capsize=4)
            panel.set(title=f"{task}, {kind}", ylabel=_kind(task))
            panel.tick_params(axis="x", rotation=30)


def _kind(task: str) -> str:
    return "accuracy" if task == "digits" else "R²"


EXPERIMENT = Experiment(
    "sequence",
    "What is gained or lost on sequences, read in windows?",
    cells,
    compute,
    report,
)
