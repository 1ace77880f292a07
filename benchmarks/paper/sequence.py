"""Sequences: digits read as a long series, the adding problem, a damped pendulum.

A window of the series is the input of the networks; for the long ones it is the whole
series. Nothing recurs over time: what is gained or lost against a DEQ is the question.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy.integrate import solve_ivp
from scipy.ndimage import zoom
from sklearn.datasets import load_digits

from benchmarks.paper._data import Source
from benchmarks.paper._experiment import (
    Cell,
    Experiment,
    Row,
    grouped,
    mean_error,
    paired,
)
from benchmarks.paper._figures import figure
from benchmarks.paper._networks import build, features, moments_of
from sklearn_deq.linear import fit_ridge

MODELS = ("deq", "hermite", "paper", "plain", "single", "linear")
TASKS = ("digits", "adding", "pendulum")
WIDTH = 1024


def cells(quick: bool) -> list[Cell]:
    """Every task, model and seed."""
    return [
        {"task": task, "model": model, "seed": seed, "width": 64 if quick else WIDTH}
        for task in TASKS
        for model in MODELS
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
    if cell["model"] == "linear":
        Z = X
    else:
        moments = moments_of(X[:split], "relu", 0.2)
        body = build(
            cell["model"],
            moments,
            X[:split],
            cell["width"],
            cell["seed"],
            trainable="readout",
        )
        Z = features(body, X).astype(np.float64)
    # The penalty of the best tenth of the training rows, refitted to them all.
    held = split * 9 // 10
    scores = {}
    for alpha in 10.0 ** np.arange(-6, 3):
        coef, intercept = fit_ridge(Z[:held], Y[:held], alpha / held)
        scores[alpha] = _score(Z[held:split] @ coef.T + intercept, Y[held:split])
    alpha = max(scores, key=scores.__getitem__)
    coef, intercept = fit_ridge(Z[:split], Y[:split], alpha / split)
    return {"score": _score(Z[split:] @ coef.T + intercept, Y[split:])}


def _score(found: np.ndarray, Y: np.ndarray) -> float:
    """Accuracy of one-hot targets, R² of others."""
    if Y.shape[1] > 1 and set(np.unique(Y)) == {0.0, 1.0}:
        return float(np.mean(found.argmax(axis=1) == Y.argmax(axis=1)))
    return float(1.0 - np.sum((found - Y) ** 2) / np.sum((Y - Y.mean(axis=0)) ** 2))


def _digits(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Digits enlarged to 16 × 16 pixels, read line by line: 256 steps."""
    X, y = load_digits(return_X_y=True)
    order = rng.permutation(len(X))
    pictures = zoom(X[order].reshape(-1, 8, 8), (1, 2, 2), order=1)
    return pictures.reshape(len(X), 256), np.eye(10)[y[order]]


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
    groups = grouped(rows, "task", "model")
    summary = []
    for (task, model), group in groups.items():
        mean, error = mean_error(group, "score")
        less, less_error, _ = paired(group, groups.get((task, "deq"), []), "score")
        summary.append(
            {
                "task": task,
                "model": model,
                "score": round(mean, 4),
                "standard error": round(error, 4),
                "less DEQ": round(less, 4),
                "its standard error": round(less_error, 4),
                "kind": _kind(task),
                "seeds": len(group),
            }
        )
    tasks = [task for (task,) in grouped(rows, "task")]
    with figure(path, len(tasks)) as axes:
        for panel, task in zip(np.atleast_1d(axes).ravel(), tasks, strict=True):
            own = [row for row in summary if row["task"] == task]
            points = [row["score"] for row in own]
            errors = np.nan_to_num([row["standard error"] for row in own])
            names = [row["model"] for row in own]
            panel.errorbar(names, points, yerr=errors, fmt="o", capsize=4)
            panel.set(title=task, ylabel=_kind(task))
            panel.tick_params(axis="x", rotation=30)
    return summary


def _kind(task: str) -> str:
    return "accuracy" if task == "digits" else "R²"


EXPERIMENT = Experiment(
    "sequence",
    "What is gained or lost on sequences, read in windows?",
    cells,
    compute,
    report,
)
