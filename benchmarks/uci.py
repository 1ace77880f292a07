"""Small tables: kernel ridge on DEQ kernels against the NTK, forests and others.

Two protocols on UCI classification sets of at most 5,000 samples, each with four splits
into training and test samples:

published
    Arora et al., ICLR 2020: what a model has to choose is chosen once per set, fitted
    to half of the samples and scored on the other half; then it is fitted to the four
    training parts. The test samples of those are among the samples of the choice.
nested
    What a model has to choose is chosen within each training part: by stratified
    five-fold cross-validation or, where it has over 1,000 samples, on a quarter of it,
    of at most 2,000 samples.

A model without such choices (forests, and kernel ridge, which chooses for itself by
leave-one-out) has one result for both. Each fit is stored when it is done, with commit
and versions; a run that is stopped goes on where it was, and records of other models
and tables stay in the file.

The folder of ``--data-home`` has one NAME.npz per set: X, y, and the indices
select_train and select_valid, kfold_train_i and kfold_test_i for i = 0…3.
"""

from __future__ import annotations

import csv
import json
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from _measure import SEED, circumstances, parser
from _tables import replace_table
from scipy.stats import rankdata, wilcoxon
from sklearn.datasets import load_breast_cancer, load_iris, load_wine
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.gaussian_process import GaussianProcessClassifier
from sklearn.gaussian_process.kernels import RBF, ConstantKernel
from sklearn.model_selection import (
    ShuffleSplit,
    StratifiedKFold,
)
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from tqdm import tqdm

from sklearn_deq import DEQKernelRidgeClassifierCV

Split = tuple[np.ndarray, np.ndarray]
Params = dict[str, Any]

PENALTIES = tuple(10.0**k for k in range(-2, 5))
DEPTHS = tuple((depth, fixed) for depth in range(1, 6) for fixed in range(depth))
# A Gaussian process classifier takes n³ per class and step of its optimisation.
GP_SAMPLES, GP_CLASSES = 400, 10
# Large penalties of contradicting labels never end: a thousand times what others take.
SVM_STEPS = 50_000


@dataclass(frozen=True)
class Table:
    """A data set with its splits."""

    name: str
    X: np.ndarray
    y: np.ndarray
    select: Split
    folds: list[Split]

    @classmethod
    def load(cls, path: Path) -> Table:
        """Read a file of the folder."""
        with np.load(path) as data:
            folds = [(data[f"kfold_train_{i}"], data[f"kfold_test_{i}"]) for i in FOLDS]
            select = (data["select_train"], data["select_valid"])
            return cls(path.stem, data["X"], data["y"], select, folds)

    @classmethod
    def split(cls, name: str, X: np.ndarray, y: np.ndarray) -> Table:
        """Standardise a set that comes without splits, and draw them."""
        X = StandardScaler().fit_transform(X)
        half = next(ShuffleSplit(1, test_size=0.5, random_state=SEED).split(X))
        folds = ShuffleSplit(len(FOLDS), test_size=0.25, random_state=SEED).split(X)
        return cls(name, X, y, half, list(folds))


FOLDS = range(4)


def ntk_layers(X: np.ndarray, depth: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Covariances of the layers of a ReLU network, and of the derivatives below each.

    Section 3 of the paper, without its factor of two in every layer, as in the code of
    its experiments: the penalties of the support vector machine refer to that scale.
    """
    covariance = X @ X.T
    layers = [(covariance, np.zeros(()))]
    for _ in range(1, depth):
        sizes = np.sqrt(np.diagonal(covariance))
        scale = np.maximum(np.outer(sizes, sizes), 1e-9)
        cosine = np.clip(covariance / scale, -1.0, 1.0)
        angle = np.pi - np.arccos(cosine)
        covariance = cosine * angle + np.sqrt(1.0 - cosine**2)
        covariance *= scale / (2 * np.pi)
        layers.append((covariance, angle / (2 * np.pi)))
    return layers


def ntk(
    layers: list[tuple[np.ndarray, np.ndarray]], depth: int, fixed: int
) -> np.ndarray:
    """NTK of the first layers, of which some are not trained."""
    tangent = layers[fixed][0].copy()
    for covariance, derivative in layers[fixed + 1 : depth]:
        tangent *= derivative
        tangent += covariance
    return tangent


@dataclass
class Model:
    """A family of classifiers, one for each entry of its grid.

    Attributes
    ----------
    make : callable
        Classifier with some parameters.
    grid : list of dicts
        What is to be chosen.
    prepare : callable
        Returns what all features are made of, from X.
    features : callable
        Returns what the classifier is fitted to, from that and parameters.
    kernels : list of dicts
        Parameters of the features. With several, classifiers get Gram matrices.
    fits : callable
        Whether a table is small enough.
    """

    make: Callable[..., Any]
    grid: list[Params] = field(default_factory=lambda: [{}])
    prepare: Callable[[np.ndarray], Any] = lambda X: X
    features: Callable[..., np.ndarray] = lambda X: X
    kernels: list[Params] = field(default_factory=lambda: [{}])
    fits: Callable[[Table], bool] = lambda table: True

    @property
    def chooses(self) -> bool:
        """Whether there is something to choose."""
        return len(self.grid) * len(self.kernels) > 1

    def parts(self, F: np.ndarray, split: Split) -> Split:
        """Features to fit to, and to test on."""
        train, test = split
        if len(self.kernels) > 1:
            return F[np.ix_(train, train)], F[np.ix_(test, train)]
        return F[train], F[test]

    def accuracy(self, parts: Split, y: np.ndarray, split: Split, p: Params) -> float:
        """Accuracy on the second part after a fit to the first."""
        train, test = split
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            classifier = self.make(**p).fit(parts[0], y[train])
        return float(np.mean(classifier.predict(parts[1]) == y[test]))

    def choose(self, table: Table, splits: list[Split]) -> Params:
        """Best parameters for these splits; of equal ones the first."""
        if not self.chooses:
            return {}
        # Features of the rows in question alone: a Gram matrix of all costs more.
        rows = np.unique(np.concatenate([part for split in splits for part in split]))
        inner = [tuple(np.searchsorted(rows, part) for part in s) for s in splits]
        y, prepared = table.y[rows], self.prepare(table.X[rows])
        best, best_score = {}, -1.0
        for kernel in self.kernels:
            F = self.features(prepared, **kernel)
            parts = [self.parts(F, split) for split in inner]
            for p in self.grid:
                pairs = zip(parts, inner, strict=True)
                score = np.mean([self.accuracy(f, y, split, p) for f, split in pairs])
                if score > best_score:
                    best, best_score = kernel | p, score
        return best

    def test(self, table: Table, split: Split, chosen: Params) -> float:
        """Accuracy on a test part with what was chosen."""
        kernel = {k: v for k, v in chosen.items() if k in self.kernels[0]}
        rest = {k: v for k, v in chosen.items() if k not in kernel}
        F = self.features(self.prepare(table.X), **kernel)
        return self.accuracy(self.parts(F, split), table.y, split, rest)


def rbf_svm(C: float, width: float) -> SVC:
    """Gamma is a multiple of 1/p, the features being standardised."""
    return _ScaledSVC(C=C, width=width)


class _ScaledSVC(SVC):
    """Support vector machine whose gamma is a multiple of 1/n_features."""

    def __init__(self, C: float = 1.0, width: float = 1.0) -> None:
        super().__init__(C=C, max_iter=SVM_STEPS)
        self.width = width

    def fit(self, X: np.ndarray, y: np.ndarray) -> _ScaledSVC:
        """Set gamma and fit."""
        self.gamma = self.width / X.shape[1]
        return super().fit(X, y)


def gaussian_process() -> GaussianProcessClassifier:
    """Gaussian process whose scale and length are fitted by its likelihood."""
    kernel = ConstantKernel(1.0) * RBF(3.0)
    return GaussianProcessClassifier(kernel, random_state=SEED)


MODELS = {
    "DEQ kernel ridge": Model(DEQKernelRidgeClassifierCV),
    "NTK, SVM": Model(
        lambda C: SVC(C=C, kernel="precomputed", max_iter=SVM_STEPS),
        [{"C": C} for C in PENALTIES],
        lambda X: ntk_layers(X, max(DEPTHS)[0]),
        ntk,
        [{"depth": depth, "fixed": fixed} for depth, fixed in DEPTHS],
    ),
    "RBF, SVM": Model(
        rbf_svm,
        [{"C": C, "width": 4.0**k} for k, C in product(range(-3, 3), PENALTIES)],
    ),
    "random forest": Model(
        lambda: RandomForestClassifier(n_estimators=500, random_state=SEED)
    ),
    "gradient boosting": Model(
        lambda: HistGradientBoostingClassifier(random_state=SEED)
    ),
    "MLP": Model(lambda: MLPClassifier(max_iter=1000, random_state=SEED)),
    "Gaussian process": Model(
        gaussian_process,
        fits=lambda table: (
            len(table.folds[0][0]) <= GP_SAMPLES
            and len(np.unique(table.y)) <= GP_CLASSES
        ),
    ),
}
PROTOCOLS = ("published", "nested")


def inner_splits(y: np.ndarray, train: np.ndarray) -> list[Split]:
    """Splits of a training part."""
    splitter: Any
    if len(train) > 1000:
        train = np.random.default_rng(SEED).permutation(train)[:2000]
        splitter = ShuffleSplit(1, test_size=0.25, random_state=SEED)
    else:
        splitter = StratifiedKFold(5, shuffle=True, random_state=SEED)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        parts = list(splitter.split(train, y[train]))
    return [(train[a], train[b]) for a, b in parts]


def run(model: Model, table: Table, protocol: str) -> dict[str, Any]:
    """Accuracies on the four test parts, what was chosen, and seconds of CPU time."""
    start = time.process_time()
    if protocol == "published":
        chosen = [model.choose(table, [table.select])] * len(table.folds)
    else:
        chosen = [
            model.choose(table, inner_splits(table.y, train))
            for train, _ in table.folds
        ]
    accuracies = [
        model.test(table, split, best)
        for split, best in zip(table.folds, chosen, strict=True)
    ]
    return {
        "accuracies": accuracies,
        "accuracy": float(np.mean(accuracies)),
        "chosen": chosen,
        "seconds": time.process_time() - start,
    }


def load_tables(folder: Path | None, *, fast: bool) -> Iterator[Table]:
    """All sets, the small ones first; scikit-learn's without a folder."""
    if folder is None:
        for load in (load_iris, load_wine, load_breast_cancer)[: 1 if fast else None]:
            X, y = load(return_X_y=True)
            few = np.random.default_rng(SEED).permutation(len(y))[
                : 60 if fast else None
            ]
            yield Table.split(load.__name__.removeprefix("load_"), X[few], y[few])
        return
    paths = sorted(folder.glob("*.npz"), key=lambda path: path.stat().st_size)
    if not paths:
        raise FileNotFoundError(f"{folder} has no file NAME.npz.")
    for path in paths[: 3 if fast else None]:
        yield Table.load(path)


def missing(
    records: list[dict[str, Any]], names: Sequence[str], protocols: Sequence[str]
) -> Callable[[Table], list[tuple[str, str]]]:
    """What is still to be run on a table; a model without choices is run once."""
    done = {(r["model"], r["protocol"], r["set"], r["rows"]) for r in records}

    def of(table: Table) -> list[tuple[str, str]]:
        wanted = [
            (name, protocol if MODELS[name].chooses else "both")
            for protocol in protocols
            for name in names
            if MODELS[name].fits(table)
        ]
        key = table.name, len(table.y)
        return [w for w in dict.fromkeys(wanted) if (*w, *key) not in done]

    return of


def stored(path: Path) -> list[dict[str, Any]]:
    """Records of earlier runs."""
    if not path.exists():
        return []
    try:
        found: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))[
            "records"
        ]
    except (json.JSONDecodeError, KeyError) as error:
        raise SystemExit(
            f"{path} has no records of this benchmark ({error}): move it away, or give "
            "another --output."
        ) from error
    return found


def store(path: Path, records: list[dict[str, Any]]) -> None:
    """Replace the file in one step: a run that is stopped leaves a whole one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".part")
    content = {"records": records}
    draft.write_text(json.dumps(content, indent=1), encoding="utf-8")
    draft.replace(path)


def summarise(records: list[dict[str, Any]], protocol: str) -> list[dict[str, Any]]:
    """One line per model: accuracy, rank and the paper's other measures.

    P90 and P95 are the fractions of the sets on which a model has at least 90 % and
    95 % of the accuracy of the best model, and PMA is the mean of its accuracy over
    that of the best. Models that were not run on all sets are left out of ranks and
    bests, and are compared with the first model on their own sets.
    """
    chosen = [r for r in records if r["protocol"] in (protocol, "both")]
    names = [name for name in MODELS if any(r["model"] == name for r in chosen)]
    by = {(r["model"], r["set"]): r for r in chosen}
    sets = sorted({r["set"] for r in chosen})
    whole = [name for name in names if all((name, s) in by for s in sets)]
    table = np.array([[by[name, s]["accuracy"] for s in sets] for name in whole])
    if whole:
        ranks = rankdata(-table.round(12), axis=0)
        shares = table / table.max(axis=0)
    first = next(iter(MODELS))
    lines = []
    for name in names:
        own = [s for s in sets if (name, s) in by]
        accuracy = np.array([by[name, s]["accuracy"] for s in own])
        line: dict[str, Any] = {"model": name, "sets": len(own)}
        line["accuracy"] = float(accuracy.mean())
        line["seconds"] = float(sum(by[name, s]["seconds"] for s in own))
        if name in whole:
            i = whole.index(name)
            line["rank"] = float(ranks[i].mean())
            line["P90"] = float((shares[i] >= 0.9).mean())
            line["P95"] = float((shares[i] >= 0.95).mean())
            line["PMA"] = float(shares[i].mean())
        if name != first and all((first, s) in by for s in own):
            ours = np.array([by[first, s]["accuracy"] for s in own])
            difference = (ours - accuracy).round(12)
            line["first_minus"] = float(difference.mean())
            line["first_wins"] = [int((difference * s > 0).sum()) for s in (1, -1)]
            if difference.any():
                line["wilcoxon_p"] = float(wilcoxon(difference).pvalue)
        lines.append(line)
    return lines


HEADER = (
    "model",
    "mean accuracy",
    "mean rank",
    "P90",
    "P95",
    "PMA",
    "ours − theirs",
    "ours better–worse",
    "Wilcoxon p",
    "CPU time, s",
)


def cells(line: dict[str, Any]) -> list[str]:
    """Texts of a line of the summary."""

    def text(key: str, form: str, factor: float = 1.0) -> str:
        return format(factor * line[key], form) if key in line else "–"

    name = line["model"] if "rank" in line else f"{line['model']} ({line['sets']} sets)"
    wins = "{}–{}".format(*line["first_wins"]) if "first_wins" in line else "–"
    return [
        name,
        text("accuracy", ".2f", 100),
        text("rank", ".2f"),
        text("P90", ".1f", 100),
        text("P95", ".1f", 100),
        text("PMA", ".2f", 100),
        text("first_minus", "+.2f", 100),
        wins,
        "< 0.001" if line.get("wilcoxon_p", 1.0) < 1e-3 else text("wilcoxon_p", ".3f"),
        text("seconds", ".0f"),
    ]


def write_sets(path: Path, records: list[dict[str, Any]], tables: list[Table]) -> None:
    """Write mean accuracies in per cent, set by set: what the summary is made of."""
    columns = dict.fromkeys(
        (name, protocol)
        for name in MODELS
        for protocol in ("both", *PROTOCOLS)
        if any((r["model"], r["protocol"]) == (name, protocol) for r in records)
    )
    by = {(r["model"], r["protocol"], r["set"]): r["accuracy"] for r in records}
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        heads = [n if p == "both" else f"{n}, {p}" for n, p in columns]
        writer.writerow(["set", "rows", "features", "classes", *heads])
        for table in tables:
            found = [by.get((*column, table.name)) for column in columns]
            writer.writerow(
                [table.name, *table.X.shape, len(np.unique(table.y))]
                + ["–" if each is None else f"{100 * each:.2f}" for each in found]
            )


def report(records: list[dict[str, Any]], protocols: Sequence[str]) -> list[list[str]]:
    """Print a table for each protocol, and return the rows for the page."""
    rows = []
    for protocol in protocols:
        lines = summarise(records, protocol)
        n_sets = max((line["sets"] for line in lines), default=0)
        rows.append([f"**{protocol}, {n_sets} sets**", *[""] * (len(HEADER) - 1)])
        rows += [cells(line) for line in lines]
    widths = [max(len(row[i]) for row in [HEADER, *rows]) for i in range(len(HEADER))]
    for row in [HEADER, *rows]:
        print("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip())
    return rows


def notes(records: list[dict[str, Any]]) -> list[str]:
    """What the table was made with, and where the first model is behind the others."""
    facts = circumstances()
    commits = sorted({r["at"]["commit"][:9] for r in records})
    by = {(r["model"], r["protocol"], r["set"]): r["accuracy"] for r in records}
    first = next(iter(MODELS))
    behind = []
    for (model, protocol, name), accuracy in by.items():
        ours = by.get((first, "both", name))
        if ours is not None and protocol != "published" and accuracy - ours >= 0.02:
            behind.append(f"{name} ({model}, {100 * (accuracy - ours):.1f})")
    return [
        f"scikit-learn {facts['scikit-learn']}, {facts['threads']} thread(s), seed "
        f"{SEED}, commits {', '.join(commits)}; CPU time is that of all choices, fits "
        "and predictions.",
        f"{first} is behind by two points or more (nested) on: "
        + ("; ".join(sorted(behind)) or "none"),
        "Models with a number of sets in brackets were run on those alone, on which "
        "they are compared, and have no ranks; they are the smaller ones. Ranks and "
        "percentages are among the others. Gaussian processes take at most "
        f"{GP_SAMPLES} training samples and {GP_CLASSES} classes.",
    ]


def main(argv: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Run what is missing, and compare."""
    arguments = parser(__doc__, "uci")
    arguments.add_argument("--data-home", type=Path, help="folder of the sets")
    arguments.add_argument(
        "--protocol", choices=PROTOCOLS, nargs="+", default=PROTOCOLS
    )
    arguments.add_argument(
        "--models", choices=MODELS, nargs="+", default=list(MODELS), metavar="MODEL"
    )
    arguments.add_argument(
        "--markdown",
        type=Path,
        help="page whose table is replaced (docs/small_data.md); its accuracies are "
        "written set by set to a .csv of the same name",
    )
    options = arguments.parse_args(argv)
    records = stored(options.output)
    wanted = missing(records, options.models, options.protocol)
    tables = list(load_tables(options.data_home, fast=options.fast))
    jobs = [(table, *job) for table in tables for job in wanted(table)]
    bar = tqdm(jobs, "fits")
    for table, name, protocol in bar:
        bar.set_postfix_str(f"{name} on {table.name}")
        result = run(MODELS[name], table, protocol)
        key = {"model": name, "protocol": protocol, "set": table.name}
        records.append(key | {"rows": len(table.y)} | result | {"at": circumstances()})
        store(options.output, records)
    own = {(table.name, len(table.y)) for table in tables}
    records = [r for r in records if (r["set"], r["rows"]) in own]
    rows = report(records, options.protocol)
    if options.markdown:
        replace_table(options.markdown, Path(__file__), HEADER, rows, notes(records))
        write_sets(options.markdown.with_suffix(".csv"), records, tables)
    return records


if __name__ == "__main__":
    main()
