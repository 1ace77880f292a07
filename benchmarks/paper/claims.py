"""The numbers behind the claims of docs/paper.md, from the published tables.

``python -m benchmarks.paper.claims`` reads the tables in docs/paper and writes
claims.csv beside them: what the page says of several rows of a table at once, ranges
and counts, is computed here.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from benchmarks.paper._results import write_csv

Line = dict[str, str]
IMAGES = ("mnist10k", "fashion_mnist", "cifar10", "cifar10-patches")
# Of the experiment on data: the real ones.
TABLES = ("breast_cancer", "diabetes", "wine")


class Tables:
    """The published tables of a folder, each read once.

    Parameters
    ----------
    folder : Path
        Where they are.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: dict[str, list[Line]] = {}

    def lines(self, name: str, **where: object) -> list[Line]:
        """Rows of a table with the given values, or one of them, in some columns."""
        if name not in self._read:
            with (self._folder / f"{name}.csv").open(encoding="utf-8") as file:
                self._read[name] = list(csv.DictReader(file))
        wanted = {
            column: {str(each) for each in _several(value)}
            for column, value in where.items()
        }
        return [
            line
            for line in self._read[name]
            if all(line[column] in values for column, values in wanted.items())
        ]

    def numbers(self, name: str, column: str, **where: object) -> list[float]:
        """Their numbers in a column, without the errors that follow ±."""
        found = (line[column] for line in self.lines(name, **where))
        numbers = [float(text.split(" ")[0]) for text in found if text]
        return [number for number in numbers if number == number]


def _several(value: object) -> Iterable[object]:
    return value if isinstance(value, tuple) else (value,)


def spread(values: Sequence[float], unit: str = "", scale: float = 1.0) -> str:
    """The least and the largest value."""
    low, high = (f"{scale * each:.3g}" for each in (min(values), max(values)))
    return (low if low == high else f"{low} to {high}") + unit


def points(values: Sequence[float]) -> str:
    """The same of differences in accuracy, in points, with their signs."""
    return f"{100 * min(values):+.2f} to {100 * max(values):+.2f} points"


def kernels(tables: Tables) -> Iterator[tuple[str, str, str, str]]:
    """What is claimed of kernels: claim, what is computed, its value, from where."""
    at = "error at p=4000"

    def size(column: str, scale: float = 1.0, unit: str = "", **where: object) -> str:
        return spread(tables.numbers("size", column, **where), unit, scale)

    claim = "four numbers, error of order p^(−1/2)"
    formula = {"other": "asymptotic"}
    what = "slopes of the formula's error from p = 1,000"
    yield claim, what, size("slope from p=1000", **formula), "size"
    yield claim, "its error at p = 4,000", size(at, 100, " %", **formula), "size"
    claim = "leading eigenvectors"
    for data in ("mixture", "images"):
        cosines = tables.numbers("spectra-mnist10k", "overlap", data=data, **formula)
        yield (
            claim,
            f"least cosine of the formula's leading plane, {data}",
            f"{min(cosines):.4f}",
            "spectra-mnist10k",
        )
    claim = "CK by leaky ReLUs or hard tanh"
    for activation in ("relu", "tanh"):
        kind = {"kernel": "ck", "activation": activation}
        for other in ("explicit", "asymptotic"):
            found = size(at, 100, " %", other=other, **kind)
            yield claim, f"{other}, {activation}, p = 4,000", found, "size"
        values = tables.numbers(
            "spectra-mnist10k", "error", data="images", other="explicit", **kind
        )
        found = spread(values, " %", 100)
        yield claim, f"explicit, {activation}, images", found, "spectra-mnist10k"
    claim = "NTK by one layer"
    kind = {"kernel": ("ntk", "ntk_recurrent"), "activation": "relu"}
    for other in ("explicit", "asymptotic"):
        found = size(at, 100, " %", other=other, **kind)
        yield claim, f"{other}, ReLU, p = 4,000", found, "size"
    yield from depths(tables)
    yield from other_data(tables)


def depths(tables: Tables) -> Iterator[tuple[str, str, str, str]]:
    """What is claimed of depth."""
    claim, lines = "minimal depth", tables.lines("depth")
    held = sum(line["confirmed"] == "True" for line in lines)
    yield claim, "verdicts confirmed", f"{held} of {len(lines)}", "depth"
    two = [line for line in lines if line["depth"] == "2"]
    name, ours = "error of φ itself, one layer", "error at p=400"
    nearer = sum(float(line[name]) < float(line[ours]) for line in two)
    what = "of two layers' kernels one of φ itself is nearer"
    yield claim, what, f"{nearer} of {len(two)}", "depth"
    values = [float(line[name]) for line in two]
    yield claim, "errors of that one layer", spread(values, " %", 100), "depth"


def other_data(tables: Tables) -> Iterator[tuple[str, str, str, str]]:
    """What is claimed of data that are no mixture."""
    claim = "real data"
    for activation in ("relu", "tanh"):
        values = tables.numbers("data", "explicit error", activation=activation)
        what = f"explicit, {activation}, all sets"
        yield claim, what, spread(values, " %", 100), "data"
    for what, sets in (("tables", TABLES), ("Student's t, 3 degrees", "student-3")):
        values = tables.numbers("data", "asymptotic error", data=sets)
        yield claim, f"formula, {what}", spread(values, " %", 100), "data"


def accuracies(tables: Tables) -> Iterator[tuple[str, str, str, str]]:
    """What is claimed of accuracies: ranges over images, variances and widths."""
    files = "accuracy-*"

    def less(**where: object) -> list[float]:
        """Differences from the DEQ, on every set of images."""
        return [
            number
            for images in IMAGES
            for number in tables.numbers(f"accuracy-{images}", "less DEQ", **where)
        ]

    claim = "as accurate as the DEQ"
    for activation in ("relu", "tanh"):
        kind = {"trainable": "readout", "activation": activation}
        found = less(model="hermite", **kind)
        what = f"hermite, {activation}, readout ({len(found)} settings)"
        yield claim, what, points(found), files
        for width in (32, 128, 256, 1024, 4096):
            found = less(model="paper", width=width, **kind)
            yield (
                claim,
                f"paper, {activation}, readout, width {width} ({len(found)})",
                points(found),
                files,
            )
    for activation in ("relu", "tanh"):
        for model in ("hermite", "paper", "plain", "single"):
            for some, images in (
                ("the two MNISTs", IMAGES[:2]),
                ("CIFAR-10", IMAGES[2:]),
            ):
                kind = {"trainable": "all", "activation": activation, "model": model}
                found = [
                    number
                    for name in images
                    for number in tables.numbers(f"accuracy-{name}", "less DEQ", **kind)
                ]
                if found:
                    what = f"{model}, {activation}, all weights, {some} ({len(found)})"
                    yield claim, what, points(found), files
    yield from control(tables)


def control(tables: Tables) -> Iterator[tuple[str, str, str, str]]:
    """What matching does to the paper's network of the ReLU, and to one layer."""
    claim, files = "because it is matched", "accuracy-*"
    name, column = "accuracy-{}", "accuracy"
    kind = {"activation": "relu", "trainable": "readout"}
    gains, behind = [], []
    for images in IMAGES:
        for line in tables.lines(name.format(images), model="plain", **kind):
            place = {key: line[key] for key in ("σ_a²", "width")}
            (matched,) = tables.numbers(
                name.format(images), column, model="paper", **kind, **place
            )
            gains.append(matched - float(line[column]))
            behind.append(float(line["less DEQ"]))
    yield claim, f"paper less plain, ReLU, readout ({len(gains)})", points(gains), files
    what = f"plain less DEQ, ReLU, readout ({len(behind)})"
    yield claim, what, points(behind), files
    for variance in (0.2, 0.8):
        for some, sets in (("the two MNISTs", IMAGES[:2]), ("CIFAR-10", IMAGES[2:])):
            where = {"model": "single", "σ_a²": variance, **kind}
            found = [
                number
                for images in sets
                for number in tables.numbers(name.format(images), "less DEQ", **where)
            ]
            what = f"single less DEQ, ReLU, readout, σ_a² = {variance:g}, {some}"
            yield claim, f"{what} ({len(found)})", points(found), files


def costs(tables: Tables) -> Iterator[tuple[str, str, str, str]]:
    """What is claimed of times: ratios to the DEQ's."""
    claim, name = "a fraction of the cost", "cost-mnist10k"
    for column in ("predict microseconds", "fit seconds"):
        for trainable, widths in (
            ("readout", (128, 256, 1024, 4096)),
            ("all", (128, 256, 1024)),
        ):
            for model in ("hermite", "paper", "single"):
                for width in widths:
                    kind = {"trainable": trainable, "width": width}
                    ratios = {
                        activation: own / deq
                        for activation in ("relu", "tanh")
                        for own, deq in zip(
                            tables.numbers(
                                name, column, model=model, activation=activation, **kind
                            ),
                            tables.numbers(
                                name, column, model="deq", activation=activation, **kind
                            ),
                            strict=False,
                        )
                    }
                    yield (
                        claim,
                        f"{column.split()[0]}, {model}, {trainable}, width {width}: "
                        + ", ".join(ratios),
                        ", ".join(f"{ratio:.3g}" for ratio in ratios.values()),
                        name,
                    )


def dynamics(tables: Tables) -> Iterator[tuple[str, str, str, str]]:
    """What is claimed of training: how far losses part."""
    claim, name = "matched networks train alike", "dynamics-mnist10k"
    for activation in ("relu", "tanh"):
        for model in ("hermite", "paper", "plain", "single"):
            for optimizer, width, lr in (
                ("sgd", 256, 0.1),
                ("sgd", 256, 1.0),
                ("sgd", 1024, 1.0),
                ("adam", 256, 0.05),
            ):
                found = tables.numbers(
                    name,
                    "loss from DEQ",
                    activation=activation,
                    model=model,
                    optimizer=optimizer,
                    width=width,
                    lr=lr,
                )
                if found:
                    what = f"{model}, {activation}, {optimizer}, width {width}, {lr:g}"
                    yield claim, what, spread(found, " %", 100), name


def main(argv: Sequence[str] | None = None) -> int:
    """Write claims.csv; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.paper.claims",
        description="The numbers behind the claims of docs/paper.md.",
    )
    parser.add_argument(
        "folder",
        type=Path,
        nargs="?",
        default=Path("docs/paper"),
        help="with the published tables; claims.csv is written there (%(default)s)",
    )
    folder = parser.parse_args(argv).folder
    tables = Tables(folder)
    names = ("claim", "what", "value", "table")
    try:
        rows = [
            dict(zip(names, found, strict=True))
            for part in (kernels, accuracies, costs, dynamics)
            for found in part(tables)
        ]
    except FileNotFoundError as error:
        parser.error(f"{folder} has no {Path(error.filename).name}: publish it first")
    write_csv(folder / "claims.csv", rows)
    for row in rows:
        print(f"{row['claim']}: {row['what']}: {row['value']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
