"""Accuracy of each network's readout at a penalty of its own, and at one for all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.paper._choice import Choice
from benchmarks.paper._data import Source, images_to_choose_by
from benchmarks.paper._experiment import (
    Cell,
    Experiment,
    Row,
    grouped,
    mean_error,
)
from benchmarks.paper._networks import build, features, models_of, moments_of, score
from benchmarks.paper.accuracy import ALPHA, VARIANCES
from sklearn_deq.kernels import deq_kernel
from sklearn_deq.linear import NormalEquations, ridge_fit, solve_normal_equations
from sklearn_deq.theory import EquilibriumMoments

# Multiples of a kernel's mean diagonal. The penalty of `accuracy` is one for all,
# though kernels are of different size.
PENALTIES = tuple(10.0 ** np.arange(-3.0, 2.5, 0.5))
HELD_OUT = 5_000
CHOICE = Choice(
    "relative penalty", f"penalty {ALPHA:g}", ("activation", "σ_a²", "width", "model")
)

# Those to fit, to choose by and to test.
Rows = tuple[np.ndarray, np.ndarray, np.ndarray]
# Outputs for the last two, by the penalty, and the mean diagonal of the kernel.
Fitted = tuple[Callable[[float], list[np.ndarray]], float]


def cells(quick: bool) -> list[Cell]:
    """Every model and variance at the widths that are not small, and the kernels."""
    width = 32 if quick else 1024
    # As wide as `accuracy` has the variances.
    settings = [(width, VARIANCES[0]), (width, VARIANCES[1])]
    if not quick:
        settings.append((4096, VARIANCES[0]))
    networks = [
        {
            "n": 300 if quick else 8000,
            "model": model,
            "activation": activation,
            "variance": variance,
            "width": width,
            "held_out": HELD_OUT,
            "seed": seed,
        }
        for seed in range(1 if quick else 5)
        for width, variance in settings
        for activation in (("relu",) if quick else ("relu", "tanh"))
        for model in models_of(activation)
    ]
    kernels = [
        {**cell, "model": "kernel", "width": 0}
        for cell in networks
        if (cell["model"], cell["width"]) == ("deq", width)
    ]
    return networks + kernels


def compute(cell: Cell, source: Source, device: str = "cpu") -> Row:
    """Accuracy with every penalty: on images to choose one by, and on test images."""
    (X, y, X_test, y_test), (X_held, y_held) = images_to_choose_by(
        source, cell["n"], cell["n"] // 4, cell["seed"], cell["held_out"]
    )
    moments = moments_of(X, cell["activation"], cell["variance"])
    fitted = _kernel if cell["model"] == "kernel" else _network
    targets = np.eye(y.max() + 1)[y]
    outputs, size = fitted(cell, moments, targets, (X, X_held, X_test), device)
    row: Row = {"size": size, "held out": {}, "test": {}}
    for penalty in PENALTIES:
        held, tested = outputs(penalty * size)
        row["held out"][f"{penalty:g}"] = score(held, y_held)
        row["test"][f"{penalty:g}"] = score(tested, y_test)
    return row | {"given": score(outputs(ALPHA)[1], y_test)}


def _network(
    cell: Cell,
    moments: EquilibriumMoments,
    targets: np.ndarray,
    rows: Rows,
    device: str,
) -> Fitted:
    """Of the features of a network, which is made for the first rows."""
    settings = {"trainable": "readout", "device": device}
    body = build(
        cell["model"], moments, rows[0], cell["width"], cell["seed"], **settings
    )
    Z, *others = (features(body, X).astype(np.float64) for X in rows)
    sums = NormalEquations.of(Z, targets)

    def outputs(alpha: float) -> list[np.ndarray]:
        coef, intercept = solve_normal_equations(sums, alpha)
        return [Z_other @ coef + intercept for Z_other in others]

    return outputs, float(np.mean(np.sum(Z**2, axis=1)))


def _kernel(
    cell: Cell,
    moments: EquilibriumMoments,
    targets: np.ndarray,
    rows: Rows,
    device: str,
) -> Fitted:
    """Of the DEQ's exact kernel."""
    settings = {
        "activation": cell["activation"],
        "recurrent_variance": moments.recurrent_variance,
        "input_variance": moments.input_variance,
        "tau0": moments.tau0,
        "device": device,
    }
    K, *others = (deq_kernel(X, rows[0], **settings) for X in rows)

    def outputs(alpha: float) -> list[np.ndarray]:
        dual, intercept = ridge_fit(K.copy(), targets, alpha)
        return [K_other @ dual + intercept for K_other in others]

    return outputs, float(K.diagonal().mean())


def report(rows: list[Row], path: Path) -> list[Row]:
    """Accuracies of test images with the penalties, less the DEQ's; all by penalty."""
    rows = [{**row, "σ_a²": row["variance"]} for row in rows]
    sizes = [
        {"mean ‖z‖²": round(mean_error(group, "size")[0], 4)}
        for group in grouped(rows, *CHOICE.settings).values()
    ]
    lines = zip(CHOICE.report(rows), sizes, strict=True)
    summary = [line | size for line, size in lines]
    CHOICE.draw(summary, path)
    return summary


EXPERIMENT = Experiment(
    "penalties",
    "How accurate is each network, its readout trained, at a penalty of its own?",
    cells,
    compute,
    report,
    images=True,
    devices=True,
)
