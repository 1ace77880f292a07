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
from statistics import median

from scipy.stats import spearmanr

from benchmarks.paper._choice import Choice
from benchmarks.paper._networks import MODELS, control_of, models_of
from benchmarks.paper._results import write_csv
from benchmarks.paper.cost import RESOURCES, TIMES
from benchmarks.paper.data import TABLES, UNIT
from benchmarks.paper.depth import ITSELF, MATCHED
from benchmarks.paper.penalties import CHOICE as PENALTY
from benchmarks.paper.rates import CHOICE as RATE

Line = dict[str, str]
Key = tuple[str, ...]
IMAGES = ("mnist10k", "fashion_mnist", "cifar10", "cifar10-patches")
SETS = {"the two MNISTs": IMAGES[:2], "CIFAR-10": IMAGES[2:]}
FILES = "accuracy-*"
# Matched networks, and those of the same shape that are not; of tanh both have a layer.
PAIRS = tuple(
    (activation, model, control)
    for activation in ("relu", "tanh")
    for model in ("hermite", "paper")
    if (control := control_of(model, activation))
)


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
        """Rows of a table with the given values, or one of them, in some columns.

        Without those of a single pair of seeds: of a difference that has no error
        nothing is claimed.
        """
        if name not in self._read:
            with (self._folder / f"{name}.csv").open(encoding="utf-8") as file:
                rows = csv.DictReader(file)
                self._read[name] = [row for row in rows if row.get("pairs") != "1"]
        wanted = {
            column: {str(each) for each in _several(value)}
            for column, value in where.items()
        }
        return [
            line
            for line in self._read[name]
            if all(self._cell(name, line, column) in wanted[column] for column in where)
        ]

    def numbers(self, name: str, column: str, **where: object) -> list[float]:
        """Their numbers in a column, without the errors that follow ±; one at least."""
        found = self.any_numbers(name, column, **where)
        if not found:
            raise ValueError(f"{name}.csv has no number in {column!r} of rows {where}")
        return found

    def any_numbers(self, name: str, column: str, **where: object) -> list[float]:
        """The same, if there are any."""
        found = [self._number(name, line, column) for line in self.lines(name, **where)]
        return [number for number in found if number is not None and number == number]

    def by(
        self, name: str, keys: Sequence[str], column: str, **where: object
    ) -> dict[Key, float]:
        """Numbers of a table, or of some rows, by the values of some columns."""
        found = {}
        for line in self.lines(name, **where):
            number = self._number(name, line, column)
            if number is not None:
                found[tuple(self._cell(name, line, key) for key in keys)] = number
        return found

    @staticmethod
    def _cell(name: str, line: Line, column: str) -> str:
        if line.get(column) is None:
            raise ValueError(f"{name}.csv has a row without {column!r}: {line}")
        return line[column]

    def _number(self, name: str, line: Line, column: str) -> float | None:
        text = self._cell(name, line, column)
        try:
            return float(text.split(" ")[0]) if text else None
        except ValueError:
            found = f"{column!r} is {text!r}, no number"
            raise ValueError(f"{name}.csv has a row in which {found}") from None


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


def depths(tables: Tables) -> Iterator[tuple[str, str, str, str]]:
    """What is claimed of depth."""
    claim, lines = "minimal depth", tables.lines("depth")
    held = sum(line["confirmed"] == "True" for line in lines)
    yield claim, "verdicts confirmed", f"{held} of {len(lines)}", "depth"
    two = [line for line in lines if line["depth"] == "2"]
    cks = [line for line in lines if line["kernel"] == "ck"]
    ntks = [line for line in lines if line["kernel"] != "ck"]
    for some, part in (("two layers' kernels", two), ("CKs", cks), ("NTKs", ntks)):
        nearer = sum(float(line[ITSELF]) < float(line[MATCHED]) for line in part)
        what = f"of {some} one layer of φ itself is nearer"
        yield claim, what, f"{nearer} of {len(part)}", "depth"
    gains = [1.0 - float(e[MATCHED]) / float(e["error at p=400"]) for e in ntks]
    what = "of NTKs' errors a number takes"
    value = f"{spread(gains, ' %', 100)}, median {100 * median(gains):.3g}"
    yield claim, what, value, "depth"
    for name in ("relu", "leaky_relu"):
        ratios = [
            float(line[ITSELF]) / float(line[MATCHED])
            for line in cks
            if line["activation"] == name and float(line["variance"]) <= 0.7
        ]
        what = f"{name}: φ itself less near than two layers, σ_a² to 0.7"
        yield claim, what, spread(ratios, " times"), "depth"
    values = [float(line[ITSELF]) for line in two]
    yield claim, "errors of that one layer", spread(values, " %", 100), "depth"


def other_data(tables: Tables) -> Iterator[tuple[str, str, str, str]]:
    """What is claimed of data that are no mixture."""
    claim = "real data"
    for activation in ("relu", "tanh"):
        values = tables.numbers("data", "explicit error", activation=activation)
        what = f"explicit, {activation}, all sets"
        yield claim, what, spread(values, " %", 100), "data"
    equal = (*UNIT, "text-tfidf")
    for what, sets in (
        ("tables", TABLES),
        ("Student's t, 3 degrees", "student-3"),
        ("counts of real text", "text-counts"),
        ("rows of one norm", equal),
    ):
        values = tables.numbers("data", "asymptotic error", data=sets)
        yield claim, f"formula, {what}", spread(values, " %", 100), "data"
    values = tables.numbers("data", "explicit error", data=equal)
    yield claim, "explicit, rows of one norm", spread(values, " %", 100), "data"
    names = ("data", "activation")
    spreads, errors = (
        tables.by("data", names, column)
        for column in ("norm spread", "asymptotic error")
    )
    for activation in ("relu", "tanh"):
        uneven = [k for k in spreads if k[1] == activation and spreads[k] > 0.0]
        orders = spearmanr([spreads[k] for k in uneven], [errors[k] for k in uneven])
        what = f"formula, {activation}: rank correlation of error and norm spread"
        found = f"{orders.statistic:.2f} ({len(uneven)} sets)"
        yield claim, what, found, "data"


def differences(
    tables: Tables, images: Sequence[str] = IMAGES, **where: object
) -> list[float]:
    """Accuracies less the DEQ's, on some sets of images."""
    return [
        number
        for name in images
        for number in tables.any_numbers(f"accuracy-{name}", "less DEQ", **where)
    ]


def accuracies(tables: Tables) -> Iterator[tuple[str, str, str, str]]:
    """What is claimed of accuracies: ranges over images, variances and widths."""
    claim = "as accurate as the DEQ"
    for activation in ("relu", "tanh"):
        kind: dict[str, object] = {"trainable": "readout", "activation": activation}
        found = differences(tables, model="hermite", **kind)
        what = f"hermite, {activation}, readout ({len(found)} settings)"
        yield claim, what, points(found), FILES
        for width in (32, 128, 256, 1024, 4096):
            found = differences(tables, model="paper", width=width, **kind)
            what = f"paper, {activation}, readout, width {width} ({len(found)})"
            yield claim, what, points(found), FILES
    for activation in ("relu", "tanh"):
        for model in ("hermite", "paper", "plain", "single"):
            kind = {"trainable": "all", "activation": activation, "model": model}
            for some, images in SETS.items():
                found = differences(tables, images, **kind)
                # Of tanh plain and single are the same.
                if found:
                    what = f"{model}, {activation}, all weights, {some} ({len(found)})"
                    yield claim, what, points(found), FILES


def own_rates(tables: Tables) -> Iterator[tuple[str, str, str, str]]:
    """What is claimed of accuracies with a learning rate for each network."""
    claim = "at a learning rate of its own"
    for activation in ("relu", "tanh"):
        yield from _own(tables, claim, "rates", RATE, activation)


def own_penalties(tables: Tables) -> Iterator[tuple[str, str, str, str]]:
    """What is claimed of readouts with a penalty for each network."""
    claim = "at a penalty of its own"
    for activation in ("relu", "tanh"):
        yield from _own(tables, claim, "penalties", PENALTY, activation)
    for images in IMAGES:
        table = f"penalties-{images}"
        for width in (1024, 4096):
            found = tables.any_numbers(table, f"gain, {PENALTY.best}", width=width)
            what = f"gain of all networks by it, width {width}, {images}"
            yield claim, what, points(found), table
        for activation, matched, other in PAIRS:
            where = {"activation": activation, "model": matched}
            found = tables.any_numbers(
                table, f"less unmatched, {PENALTY.best}", **where
            )
            what = f"{matched} less {other}, {activation}, {PENALTY.best}, {images}"
            yield claim, what, points(found), table


def _own(
    tables: Tables,
    claim: str,
    table: str,
    choice: Choice,
    activation: str,
) -> Iterator[tuple[str, str, str, str]]:
    """Differences from the DEQ, with a setting for all and one of each network's."""
    for model in MODELS[1:]:
        for some, images in SETS.items():
            for way in choice.ways:
                where = {"activation": activation, "model": model}
                found = [
                    number
                    for name in images
                    for number in tables.any_numbers(
                        f"{table}-{name}", f"less DEQ, {way}", **where
                    )
                ]
                # Of tanh plain and single are the same.
                if found:
                    what = f"{model} less DEQ, {activation}, {some}, {way}"
                    yield claim, what, points(found), f"{table}-*"


def control(tables: Tables) -> Iterator[tuple[str, str, str, str]]:
    """What matching does to the paper's network of the ReLU, and to one layer.

    Of tanh the plain network has a single layer.
    """
    claim = "because it is matched"
    keys = ("activation", "trainable", "σ_a²", "width", "model")
    gains = []
    for images in IMAGES:
        values = tables.by(f"accuracy-{images}", keys, "accuracy")
        for (activation, trainable, *place, model), value in values.items():
            if (activation, trainable, model) == ("relu", "readout", "plain"):
                matched = values[activation, trainable, *place, "paper"]
                gains.append(matched - value)
    what = f"paper less plain, ReLU, readout ({len(gains)})"
    yield claim, what, points(gains), FILES
    kind: dict[str, object] = {"activation": "relu", "trainable": "readout"}
    found = differences(tables, model="plain", **kind)
    what = f"plain less DEQ, ReLU, readout ({len(found)})"
    yield claim, what, points(found), FILES
    for activation, model in (("relu", "single"), ("tanh", "plain")):
        for variance in (0.2, 0.8):
            for some, images in SETS.items():
                where = {"activation": activation, "model": model, "σ_a²": variance}
                found = differences(tables, images, trainable="readout", **where)
                what = f"{model} less DEQ, {activation}, readout, σ_a² = {variance:g}"
                yield claim, f"{what}, {some} ({len(found)})", points(found), FILES
    for activation, matched, other in PAIRS:
        for some, images in SETS.items():
            found = [
                gain
                for name in images
                for gain in _nearer(tables, name, activation, matched, other)
            ]
            what = (
                f"{matched} nearer to the DEQ than {other}, {activation}, all weights"
            )
            number = f"{sum(gain > 0 for gain in found)} of {len(found)}"
            yield claim, f"{what}, {some}", number, FILES


def _nearer(
    tables: Tables, images: str, activation: str, matched: str, other: str
) -> list[float]:
    """By how much a matched network is nearer to the DEQ, all weights trained."""
    keys = ("activation", "trainable", "width", "model")
    less = tables.by(f"accuracy-{images}", keys, "less DEQ")
    return [
        abs(less[activation, "all", width, other]) - abs(difference)
        for (kind, trainable, width, model), difference in less.items()
        if (kind, trainable, model) == (activation, "all", matched)
        and (activation, "all", width, other) in less
    ]


def widths(tables: Tables) -> Iterator[tuple[str, str, str, str]]:
    """What is claimed of finite networks: distances, and accuracies beside them."""
    claim, name = "at finite width", "width-mnist10k"
    kind: dict[str, object] = {"kernel": "ck", "data": "images", "of": "scaled"}
    for activation in ("relu", "tanh"):
        for model in models_of(activation):
            for column in ("width 1024", "width ∞"):
                where = {**kind, "activation": activation, "model": model}
                found = tables.any_numbers(name, column, **where)
                # The DEQ's limit is the exact kernel.
                if found:
                    what = f"{model}, {activation}, CK of images, {column}"
                    yield claim, what, spread(found, " %", 100), name
    for activation in ("relu", "tanh"):
        for images in IMAGES:
            pairs = list(_distances_and_gains(tables, images, activation))
            orders = spearmanr(pairs)
            what = f"{activation}: rank correlation of distance and accuracy, {images}"
            found = f"{orders.statistic:.2f} ({len(pairs)} settings)"
            yield claim, what, found, f"{name}, accuracy-{images}"


def _distances_and_gains(
    tables: Tables, images: str, activation: str
) -> Iterator[tuple[float, float]]:
    """Distance of MNIST's CK over the DEQ's, and accuracy less the DEQ's, readout."""
    keys = ("model", "variance")
    where: dict[str, object] = {"activation": activation, "kernel": "ck"}
    places: dict[str, object] = {"data": "images", "of": "scaled"}
    for width in (256, 1024, 4096):
        distances = tables.by(
            "width-mnist10k", keys, f"width {width}", **where, **places
        )
        for (model, variance), distance in distances.items():
            if model == "deq":
                continue
            settings: dict[str, object] = {"σ_a²": variance, "trainable": "readout"}
            settings |= {"activation": activation, "model": model, "width": width}
            for gain in differences(tables, (images,), **settings):
                yield distance / distances["deq", variance], gain


def costs(tables: Tables) -> Iterator[tuple[str, str, str, str]]:
    """What is claimed of times and resources: ratios to the DEQ's."""
    claim, name = "a fraction of the cost", "cost-mnist10k"
    keys = ("activation", "trainable", "model", "width")
    for column in (*TIMES, *RESOURCES):
        values = tables.by(name, keys, column)
        ratios: dict[Key, list[str]] = {}
        for (activation, trainable, model, width), value in values.items():
            if model not in ("deq", "kernel"):
                ratio = value / values[activation, trainable, "deq", width]
                kind = model, activation, trainable
                ratios.setdefault(kind, []).append(f"{width}: {ratio:.3g}")
        for kind, found in ratios.items():
            what = f"{column}, {', '.join(kind)}, at equal width"
            yield claim, what, ", ".join(found), name
    for column in (*TIMES, *RESOURCES):
        for trainable in ("readout", "all"):
            for models in (("hermite",), ("paper",), ("plain", "single")):
                found = tables.numbers(
                    name,
                    f"{column}, of the DEQ as accurate",
                    model=models,
                    trainable=trainable,
                )
                what = f"{column}, {' and '.join(models)}, {trainable}, as accurate"
                yield claim, f"{what} ({len(found)})", spread(found), name


def dynamics(tables: Tables) -> Iterator[tuple[str, str, str, str]]:
    """What is claimed of training: how far losses part."""
    claim, name = "matched networks train alike", "dynamics-mnist10k"
    for activation in ("relu", "tanh"):
        for model in ("redrawn", "hermite", "paper", "plain", "single"):
            kind = {"activation": activation, "model": model}
            if not tables.lines(name, **kind):
                # Of tanh plain and single are the same.
                continue
            for width, lr in ((256, 0.1), (256, 1.0), (1024, 1.0)):
                where = {**kind, "optimizer": "sgd", "width": width, "lr": lr}
                parts = [
                    spread(tables.numbers(name, column, **where), " %", 100)
                    for column in ("loss from DEQ", "loss from DEQ, of its fall")
                ]
                what = f"{model}, {activation}, sgd, width {width}, rate {lr:g}"
                yield claim, f"{what}: loss, and of its fall", ", ".join(parts), name
            where = {**kind, "optimizer": "adam", "lr": 0.05}
            for column in ("loss from DEQ", "NTK drift"):
                found = tables.numbers(name, column, **where)
                what = f"{model}, {activation}, adam, rate 0.05, all widths: {column}"
                yield claim, what, spread(found), name
            found = tables.numbers(name, "accuracy less DEQ", **where)
            what = f"{model}, {activation}, adam, rate 0.05, all widths: accuracy"
            yield claim, what, points(found), name


PARTS = (
    kernels,
    widths,
    depths,
    other_data,
    accuracies,
    own_rates,
    own_penalties,
    control,
    costs,
    dynamics,
)


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
            for part in PARTS
            for found in part(tables)
        ]
    except FileNotFoundError as error:
        parser.error(f"{folder} has no {Path(error.filename).name}: publish it first")
    except (NotADirectoryError, ValueError) as error:
        parser.error(f"{folder}: {error}")
    write_csv(folder / "claims.csv", rows)
    for row in rows:
        print(f"{row['claim']}: {row['what']}: {row['value']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
