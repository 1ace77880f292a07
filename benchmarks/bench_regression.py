"""Small tables of numbers: DEQKernelRidgeCV() against forests, boosting and SVR.

R² on a quarter of the samples that was held out, over random splits. What the support
vector machine has to choose is chosen by five-fold cross-validation within the training
part; the others are as they come. The sets are scikit-learn's and generated ones.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from _measure import SEED, circumstances, parser, save
from _tables import add_markdown, replace_table
from scipy.stats import rankdata
from sklearn.datasets import (
    load_diabetes,
    make_friedman1,
    make_friedman2,
    make_friedman3,
)
from sklearn.ensemble import HistGradientBoostingRegressor, RandomForestRegressor
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVR
from tqdm import tqdm

from sklearn_deq import DEQKernelRidgeCV

Data = tuple[np.ndarray, np.ndarray]


def steps(seed: int) -> Data:
    """Thresholds of two features among ten: made for trees."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((500, 10))
    y = 2.0 * (X[:, 0] > 0.3) + (X[:, 1] > -0.5) * (X[:, 0] < 1.0)
    return X, y + 0.3 * rng.standard_normal(500)


def codes(seed: int) -> Data:
    """A sum of effects of two codes of categories, and a number."""
    rng = np.random.default_rng(seed)
    X = np.column_stack([rng.integers(0, 12, (500, 2)), rng.standard_normal(500)])
    effects = rng.standard_normal((2, 12))
    y = effects[0][X[:, 0].astype(int)] + effects[1][X[:, 1].astype(int)] + X[:, 2]
    return X, y + 0.3 * rng.standard_normal(500)


SETS: dict[str, Callable[[int], Data]] = {
    "diabetes": lambda seed: load_diabetes(return_X_y=True),
    "friedman1": lambda seed: make_friedman1(500, noise=1.0, random_state=seed),
    "friedman1, 50 columns": lambda seed: make_friedman1(
        500, 50, noise=1.0, random_state=seed
    ),
    "friedman2": lambda seed: make_friedman2(500, noise=100.0, random_state=seed),
    "friedman3": lambda seed: make_friedman3(500, noise=0.1, random_state=seed),
    "steps": steps,
    "codes": codes,
}


def support_vectors() -> Any:
    """Support vector machine with its three parameters chosen."""
    grid = {
        "_scaledsvr__C": 10.0 ** np.arange(-1, 3),
        "_scaledsvr__gamma": [0.25, 1.0, 4.0],
        "_scaledsvr__epsilon": [0.03, 0.3],
    }
    return GridSearchCV(make_pipeline(StandardScaler(), _ScaledSVR()), grid)


class _ScaledSVR(SVR):
    """Its gamma is a multiple of 1/p, its target has variance 1."""

    def fit(self, X: np.ndarray, y: np.ndarray) -> _ScaledSVR:
        """Scale, and fit."""
        self.center_, self.spread_ = y.mean(), y.std()
        given, self.gamma = self.gamma, self.gamma / X.shape[1]
        super().fit(X, (y - self.center_) / self.spread_)
        self.gamma = given
        return self

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Predict in the units of y."""
        return super().predict(X) * self.spread_ + self.center_


MODELS: dict[str, Callable[[], Any]] = {
    "DEQ kernel ridge": DEQKernelRidgeCV,
    "RBF, SVR": support_vectors,
    "random forest": lambda: RandomForestRegressor(500, random_state=SEED),
    "gradient boosting": lambda: HistGradientBoostingRegressor(random_state=SEED),
}


def run(name: str, model: str, n_seeds: int) -> dict[str, Any]:
    """R² by split, and CPU seconds of fits and predictions."""
    started, scores = time.process_time(), []
    for seed in range(n_seeds):
        X, y = SETS[name](seed)
        X, X_test, y, y_test = train_test_split(X, y, random_state=seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            scores.append(MODELS[model]().fit(X, y).score(X_test, y_test))
    seconds = time.process_time() - started
    return {"set": name, "model": model, "scores": scores, "seconds": seconds}


def summary(records: list[dict[str, Any]]) -> list[list[str]]:
    """A line per set, then means, mean ranks and seconds."""
    names = list(dict.fromkeys(record["model"] for record in records))
    sets = list(dict.fromkeys(record["set"] for record in records))
    by = {(record["set"], record["model"]): record for record in records}
    means = np.array([[np.mean(by[s, m]["scores"]) for m in names] for s in sets])
    rows = []
    for name, line in zip(sets, means, strict=True):
        errors = [_error(by[name, m]["scores"]) for m in names]
        cells = [f"{m:.3f} ± {e:.3f}" for m, e in zip(line, errors, strict=True)]
        rows.append([name, *cells])
    ranks = rankdata(-means.round(12), axis=1).mean(axis=0)
    seconds = [sum(by[s, m]["seconds"] for s in sets) for m in names]
    rows.append(["mean", *(f"{value:.3f}" for value in means.mean(axis=0))])
    rows.append(["mean rank", *(f"{value:.2f}" for value in ranks)])
    rows.append(["CPU time, s", *(f"{value:.0f}" for value in seconds)])
    return rows


def _error(scores: Sequence[float]) -> float:
    return float(np.std(scores, ddof=1) / np.sqrt(len(scores)))


def main(argv: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Run all models on all sets, and compare."""
    arguments = parser(__doc__, "bench_regression")
    add_markdown(arguments)
    options = arguments.parse_args(argv)
    sets, n_seeds = (["steps"], 2) if options.fast else (list(SETS), 10)
    jobs = [(name, model) for name in sets for model in MODELS]
    records = [run(*job, n_seeds) for job in tqdm(jobs, "fits")]
    header, rows = ["R²", *MODELS], summary(records)
    for row in (header, *rows):
        print("  ".join(cell.ljust(22) for cell in row).rstrip())
    save(options.output, records, seeds=n_seeds)
    if options.markdown:
        facts = circumstances()
        note = (
            f"± one standard error over {n_seeds} splits; scikit-learn "
            f"{facts['scikit-learn']}, {facts['threads']} thread(s)."
        )
        replace_table(options.markdown, Path(__file__), header, rows, [note])
    return records


if __name__ == "__main__":
    main()
