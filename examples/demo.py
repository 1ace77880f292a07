"""The main job on handwritten digits: a DEQ, its kernel, its shallow equivalent.

Trains a deep equilibrium model on scikit-learn's bundled digits, trains the explicit
network that has the same kernel, and fits kernel ridge on the exact infinite-width
kernel. Prints one table, and draws the spectra of the two kernels and the table.

Run it with ``make demo``, or ``python examples/demo.py --help``.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import LabelBinarizer, StandardScaler
from sklearn.svm import SVC
from tqdm import tqdm

from sklearn_deq import DEQClassifier, DEQKernelTransformer, match_deq
from sklearn_deq.kernels import deq_kernel, explicit_kernel
from sklearn_deq.nn import EquilibriumLayer, ExplicitNetwork

# Deliberately fixed, not tuned on the test set.
RIDGE = 1e-2
DRAWS = 3

Split = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


@dataclass
class Row:
    """One line of the table; mismatches are relative operator norms, or None."""

    model: str
    accuracy: float
    fit_seconds: float
    predict_us: float
    mismatch_infinite: float | None = None
    mismatch_finite: float | None = None

    def cells(self) -> list[str]:
        """Return the line as text."""
        mismatches = (self.mismatch_infinite, self.mismatch_finite)
        return [
            self.model,
            f"{self.accuracy:.4f}",
            f"{self.fit_seconds:.2f}",
            f"{self.predict_us:.1f}",
            *["-" if m is None else f"{100 * m:.2g} %" for m in mismatches],
        ]


@dataclass
class DemoResult:
    """What the demo found: the table, both kernels' spectra, and the picture."""

    rows: list[Row]
    spectra: dict[str, np.ndarray]
    picture: Path


def load_split(fast: bool) -> Split:
    """Digits with a stratified quarter held out; a third of them if ``fast``."""
    X, y = load_digits(return_X_y=True)
    if fast:
        X, y = X[:600], y[:600]
    X_train, X_test, y_train, y_test = train_test_split(
        X, y, test_size=0.25, stratify=y, random_state=0
    )
    return X_train, X_test, y_train, y_test


def measure(name: str, model: Any, split: Split, *, one_hot: bool = False) -> Row:
    """Fit, score, and time the model; predictions are timed five times."""
    X_train, X_test, y_train, y_test = split
    coder = LabelBinarizer().fit(y_train)
    start = time.perf_counter()
    model.fit(X_train, coder.transform(y_train) if one_hot else y_train)
    fit_seconds = time.perf_counter() - start
    times = []
    for _ in range(5):
        start = time.perf_counter()
        predicted = model.predict(X_test)
        times.append(time.perf_counter() - start)
    if one_hot:
        predicted = coder.classes_[np.argmax(predicted, axis=1)]
    accuracy = float(np.mean(predicted == y_test))
    return Row(name, accuracy, fit_seconds, 1e6 * np.median(times) / len(y_test))


def operator_norm(K: np.ndarray) -> float:
    """Largest absolute eigenvalue of a symmetric matrix."""
    return float(np.max(np.abs(np.linalg.eigvalsh(K))))


def finite_mismatch(
    make_body: Callable[[torch.Generator], torch.nn.Module],
    X: np.ndarray,
    K: np.ndarray,
) -> float:
    """Distance from K of the kernel of random networks, relative, mean of the draws."""
    distances = []
    for seed in range(DRAWS):
        body = make_body(torch.Generator().manual_seed(seed))
        with torch.no_grad():
            features = body(torch.as_tensor(X, dtype=torch.float32)).double().numpy()
        distances.append(operator_norm(features @ features.T - K))
    return float(np.mean(distances)) / operator_norm(K)


def compare_kernels(
    deq: DEQClassifier, explicit: Any, X: np.ndarray, rows: dict[str, Row]
) -> dict[str, np.ndarray]:
    """Fill in the mismatches; return the spectra of both infinite-width kernels."""
    K = deq_kernel(X, activation=deq.activation, tau0=deq.tau0_)
    layers = explicit.match_.layers
    K_explicit = explicit_kernel(X, layers=layers)
    n_features, width = X.shape[1], deq.width
    rows["deq"].mismatch_infinite = 0.0
    rows["deq"].mismatch_finite = finite_mismatch(
        lambda generator: EquilibriumLayer(
            n_features,
            width,
            activation=deq.activation,
            offset=deq.offset_,
            generator=generator,
        ),
        X,
        K,
    )
    rows["explicit"].mismatch_infinite = operator_norm(K_explicit - K) / operator_norm(
        K
    )
    rows["explicit"].mismatch_finite = finite_mismatch(
        lambda generator: ExplicitNetwork(
            n_features, width, layers, generator=generator
        ),
        X,
        K,
    )
    rows["ridge"].mismatch_infinite = 0.0
    return {
        "DEQ": np.linalg.eigvalsh(K),
        "explicit equivalent": np.linalg.eigvalsh(K_explicit),
    }


def reference_models() -> dict[str, Pipeline]:
    """Return what one would use otherwise, with the settings of every day."""
    return {
        "RBF support vectors": make_pipeline(StandardScaler(), SVC(C=10)),
        "Random forest": make_pipeline(RandomForestClassifier(random_state=0)),
        "Logistic regression": make_pipeline(
            StandardScaler(), LogisticRegression(max_iter=1000)
        ),
    }


def header(width: int) -> list[str]:
    """Return the titles of the columns."""
    return [
        "model",
        "test accuracy",
        "fit s",
        "predict µs/sample",
        "kernel mismatch, width ∞",
        f"width {width}",
    ]


def format_table(cells: Sequence[Sequence[str]]) -> str:
    """Align columns: the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = []
    for line in cells:
        first, *others = zip(line, widths, strict=True)
        padded = [first[0].ljust(first[1]), *[text.rjust(w) for text, w in others]]
        lines.append("  ".join(padded).rstrip())
    lines.insert(1, "-" * max(map(len, lines)))
    return "\n".join(lines)


def draw(
    cells: Sequence[Sequence[str]], spectra: dict[str, np.ndarray], path: Path
) -> None:
    """Draw both spectra and the table into one picture."""
    import matplotlib as mpl

    # The demo only writes a file: no window, no display needed.
    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, (top, bottom) = plt.subplots(
        2, 1, figsize=(9, 6.4), height_ratios=[1.5, 1], layout="constrained"
    )
    # Rounding may leave the smallest eigenvalues at or below zero.
    values = {name: np.log10(np.maximum(v, 1e-9)) for name, v in spectra.items()}
    edges = np.histogram_bin_edges(np.concatenate(list(values.values())), bins=60)
    deq, explicit = values
    top.hist(values[deq], edges, color="#9ecae1", label=f"{deq} kernel")
    top.hist(
        values[explicit],
        edges,
        histtype="step",
        linewidth=1.5,
        color="#b2182b",
        label=f"{explicit}'s kernel",
    )
    top.set(
        xlabel="log10 eigenvalue",
        ylabel="eigenvalues per bin",
        title="Spectra of the two infinite-width kernels on the training digits",
        yscale="log",
    )
    top.spines[["top", "right"]].set_visible(False)
    top.legend(frameon=False)
    bottom.axis("off")
    table = bottom.table(
        cellText=cells[1:], colLabels=cells[0], loc="center", edges="horizontal"
    )
    table.auto_set_font_size(False)
    table.set_fontsize(9)
    table.auto_set_column_width(range(len(cells[0])))
    table.scale(1.0, 1.35)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def run(fast: bool, output: Path) -> DemoResult:
    """Carry out all stages."""
    split = load_split(fast)
    # One seed, float32 networks, the defaults otherwise.
    size: dict[str, int] = {"width": 64, "max_epochs": 3} if fast else {"width": 512}
    deq = DEQClassifier(**size, dtype="float32", random_state=0)
    rows: dict[str, Row] = {}
    references = reference_models()
    with tqdm(total=5 + len(references), desc="demo", file=sys.stderr) as bar:

        def stage(title: str) -> None:
            bar.set_description(title)

        stage("training the DEQ")
        rows["deq"] = measure("DEQ", make_pipeline(StandardScaler(), deq), split)
        bar.update()
        stage("matching and training its equivalent")
        explicit = match_deq(deq)
        model = make_pipeline(StandardScaler(), explicit)
        rows["explicit"] = measure("Explicit equivalent", model, split)
        bar.update()
        stage("kernel ridge on the DEQ kernel")
        ridge = make_pipeline(
            StandardScaler(),
            DEQKernelTransformer(),
            KernelRidge(kernel="precomputed", alpha=RIDGE),
        )
        rows["ridge"] = measure("DEQ kernel ridge", ridge, split, one_hot=True)
        bar.update()
        for name, reference in references.items():
            stage(name)
            rows[name] = measure(name, reference, split)
            bar.update()
        stage("comparing the kernels")
        X = StandardScaler().fit_transform(split[0])
        spectra = compare_kernels(deq, explicit, X, rows)
        bar.update()
        stage("drawing")
        cells = [header(deq.width), *[row.cells() for row in rows.values()]]
        output.mkdir(parents=True, exist_ok=True)
        picture = output / "demo.png"
        draw(cells, spectra, picture)
        bar.update()
    print(format_table(cells))
    match = explicit.match_
    print(
        f"\nMatch: {match.architecture}, {match.depth} hidden layer(s), residual "
        f"{match.residual:.1e}. Mismatch: relative operator norm against the kernel "
        f"of\nthe infinitely wide DEQ on the training rows; at finite width of random "
        f"networks, mean of {DRAWS}.\nPicture: {picture}"
    )
    return DemoResult(list(rows.values()), spectra, picture)


def main(argv: Sequence[str] | None = None) -> DemoResult:
    """Read the command line and run the demo.

    Parameters
    ----------
    argv : sequence of str, default=None
        Arguments; None: those of the command line.

    Returns
    -------
    DemoResult
        Table, spectra and the path of the picture.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--fast", action="store_true", help="small and quick: shows only that it runs"
    )
    parser.add_argument(
        "--output", type=Path, default=Path("out"), help="folder of the picture"
    )
    options = parser.parse_args(argv)
    return run(options.fast, options.output)


if __name__ == "__main__":
    main()
