"""Open question 1: data that are no Gaussian mixture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.model_selection import StratifiedShuffleSplit
from sklearn.preprocessing import StandardScaler, normalize

from benchmarks.paper._data import Source, drawn
from benchmarks.paper._experiment import Cell, Experiment, Row, grouped, mean_error
from benchmarks.paper._figures import LABELS, figure, legend_below, number
from benchmarks.paper._kernels import kernels
from benchmarks.paper._texts import docstrings
from sklearn_deq.linear import ridge_fit

DRAWN = (
    "gaussian",
    "student-10",
    "student-5",
    "student-3",
    "laplace",
    "bernoulli",
    "toeplitz-0.5",
    "toeplitz-0.95",
    "low-rank-50",
    "sparse-0.1",
    "sparse-0.01",
)
TABLES = ("breast_cancer", "wine", "diabetes")
# Of words that occur most often in the training rows: how often, or weights of norm 1.
TEXTS = {
    "text-counts": CountVectorizer,
    "text-tfidf": TfidfVectorizer,
}
# The same with every row scaled to the same norm, to tell spread norms from the rest.
UNIT = tuple(
    f"unit-{data}" for data in ("student-3", "toeplitz-0.95", "sparse-0.01", *TABLES)
)
OTHERS = {**LABELS, "hermite": "Hermite layer"}


def cells(quick: bool) -> list[Cell]:
    """Every kind of data, an even and an odd activation, some seeds."""
    return [
        {"data": data, "activation": activation, "p": 100 if quick else 1000, "seed": s}
        for data in (
            (*DRAWN[:2], "unit-wine", "text-tfidf")
            if quick
            else (*DRAWN, *TABLES, *TEXTS, *UNIT)
        )
        for activation in (("relu",) if quick else ("relu", "tanh"))
        for s in range(2 if quick else 10)
    ]


def compute(cell: Cell, source: Source) -> Row:
    """Errors of the kernels, and accuracies of kernel ridge on each of them."""
    name = cell["data"].removeprefix("unit-")
    samples, y = data_of(name, cell["p"], cell["seed"])
    split = StratifiedShuffleSplit(1, test_size=0.3, random_state=cell["seed"])
    train, test = next(split.split(samples, y))
    X = prepared(name, samples, train, cell["p"])
    if cell["data"] in UNIT:
        X = normalize(X) * np.sqrt(X.shape[1])
    hermite = kernels(X, cell["activation"], 0.4, architecture="hermite", train=train)
    found = kernels(X, cell["activation"], 0.4, train=train)
    candidates = {
        "exact": found.exact,
        "asymptotic": found.asymptotic,
        "explicit": found.explicit,
        "hermite": hermite.explicit,
    }
    result: Row = {"norm spread": float(np.std(np.mean(X**2, axis=1)))}
    for name, K in candidates.items():
        if name != "exact":
            result[f"{name} error"] = found.error(K)
        result[f"{name} accuracy"] = _accuracy(K, y, train, test)
    return result


def data_of(name: str, p: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows, or texts, as they come, and classes."""
    if name in TEXTS:
        return docstrings()
    if name not in TABLES:
        return drawn(name, p, p, seed)
    loaders = {
        "breast_cancer": load_breast_cancer,
        "wine": load_wine,
        "diabetes": load_diabetes,
    }
    X, y = loaders[name](return_X_y=True)
    return X, (y > np.median(y) if name == "diabetes" else y).astype(int)


def prepared(name: str, samples: np.ndarray, train: np.ndarray, p: int) -> np.ndarray:
    """Rows as a practitioner would give them; what is fitted knows the training rows.

    Columns of tables are standardised; texts become p features, which are scaled by
    one number and not centred, and so stay sparse. What is drawn is left as it is.
    """
    if name in TABLES:
        return StandardScaler().fit(samples[train]).transform(samples)
    if name in TEXTS:
        words = TEXTS[name](max_features=p).fit(samples[train])
        X = words.transform(samples).toarray().astype(np.float64)
        return X / np.sqrt(np.mean(X[train] ** 2))
    return samples


def _accuracy(
    K: np.ndarray, y: np.ndarray, train: np.ndarray, test: np.ndarray
) -> float:
    """Of kernel ridge, α a hundredth of the mean diagonal of the training rows."""
    targets = np.eye(y.max() + 1)[y]
    own = K[np.ix_(train, train)].copy()
    alpha = 0.01 * float(np.mean(np.diagonal(own)))
    try:
        dual, intercept = ridge_fit(own, targets[train], alpha)
    except np.linalg.LinAlgError:
        # An asymptotic kernel need not be positive definite.
        return float("nan")
    scores = K[np.ix_(test, train)] @ dual + intercept
    return float(np.mean(scores.argmax(axis=1) == y[test]))


def report(rows: list[Row], path: Path) -> list[Row]:
    """Errors side by side, logarithmic."""
    summary = []
    for (data, activation), group in grouped(rows, "data", "activation").items():
        line: Row = {"data": data, "activation": activation}
        # Rounding alone is none.
        spread = mean_error(group, "norm spread")[0]
        line["norm spread"] = f"{spread if spread > 1e-12 else 0:.2g}"
        for name in OTHERS:
            line[f"{name} error"] = _error(group, name)
        for name in ("exact", *OTHERS):
            line[f"{name} accuracy"] = _mean_accuracy(group, name)
        summary.append({**line, "seeds": len(group)})
    draw(summary, path)
    return summary


def _error(group: list[Row], name: str) -> str:
    mean, error = mean_error(group, f"{name} error")
    # The same rows in every split have the same kernels.
    spread = "" if error < 1e-9 * mean else f" ± {error:.1g}"
    return f"{mean:.2g}{spread}"


def _mean_accuracy(group: list[Row], name: str) -> str:
    lost = sum(not np.isfinite(row[f"{name} accuracy"]) for row in group)
    if lost:
        return f"indefinite in {lost} of {len(group)}"
    mean, error = mean_error(group, f"{name} accuracy")
    return f"{mean:.3f} ± {error:.3f}"


def draw(summary: list[Row], path: Path) -> None:
    """Dots, a panel for each activation; none for data that are not there yet.

    An error as large as its mean reaches down to 0, which is beyond the left edge.
    """
    names = [data for (data,) in grouped(summary, "data")]
    activations = grouped(summary, "activation")
    size = (4.6 * len(activations), 1.5 + 0.24 * len(names))
    with figure(path, len(activations), 1, sharey=True, figsize=size) as axes:
        panels = np.atleast_1d(axes).ravel()
        for panel, ((activation,), own) in zip(
            panels, activations.items(), strict=True
        ):
            places = [names.index(row["data"]) for row in own]
            for name, label in OTHERS.items():
                found = [number(row[f"{name} error"]) for row in own]
                mean, error = np.array(found).T
                bars = {"xerr": np.nan_to_num(error), "ls": "", "label": label}
                panel.errorbar(mean, places, marker="o", ms=5, capsize=2, **bars)
            panel.set_yticks(range(len(names)), names)
            panel.grid(alpha=0.4)
            panel.set(xscale="log", xlabel="relative error", title=activation)
        # The axis is shared by all panels.
        panels[0].invert_yaxis()
        legend_below(panels)


EXPERIMENT = Experiment(
    "data",
    "Does the equivalence hold for data that are no Gaussian mixture?",
    cells,
    compute,
    report,
)
