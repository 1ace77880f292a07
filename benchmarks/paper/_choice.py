"""Settings that are each network's own: those that do best on rows held out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.paper._data import Split
from benchmarks.paper._experiment import Row, grouped, mean_error, paired
from benchmarks.paper._figures import figure, legend_below
from benchmarks.paper._networks import control_of

# The score on the test rows of a split, with a value of the setting.
Fit = Callable[[Split, float], float]


def choose(values: Sequence[float], fit: Fit, data: Split) -> float:
    """The value that does best on the last tenth of the training rows."""
    X, y, *_ = data
    held = len(X) * 9 // 10
    parts = X[:held], y[:held], X[held:], y[held:]
    return best({value: fit(parts, value) for value in values})


def best(scores: Mapping[float, float]) -> float:
    """The value with the highest score; of equals, whatever their rounding, the least.

    NaN is the lowest of all.
    """

    def order(value: float) -> tuple[float, float]:
        score = round(scores[value], 9)
        return (score if score == score else float("-inf"), -value)

    return max(scores, key=order)


def often(rows: list[Row]) -> str:
    """Values that were chosen, the most frequent first, of these the least."""
    counts = Counter(sorted(row["chosen"] for row in rows))
    return ", ".join(f"{value:g} ({n})" for value, n in counts.most_common())


@dataclass(frozen=True)
class Choice:
    """Accuracies with a setting that all share, and with one of each network's own.

    Rows have accuracies by the values that were tried, "held out" of images to choose
    by and "test" of all test images, and that of the shared setting as "given".

    Attributes
    ----------
    name : str
        What is chosen, such as "rate".
    given : str
        What is shared.
    settings : tuple of str
        Columns that say what a row is of. The first are of a panel, in whose row of the
        figure all have the same first one, and "model" is the last.
    """

    name: str
    given: str
    settings: tuple[str, ...]

    @property
    def own(self) -> str:
        """By the images held out of each seed."""
        return f"own {self.name}"

    @property
    def best(self) -> str:
        """One for all seeds, by all of their images."""
        return f"best {self.name}"

    @property
    def ways(self) -> tuple[str, str, str]:
        """What is shared, what is a seed's own, and what is best for all seeds."""
        return self.given, self.own, self.best

    def report(self, rows: list[Row]) -> list[Row]:
        """Accuracies of test images each way, less the DEQ's and others'; by value."""
        groups = {
            kind: self._chosen(group)
            for kind, group in grouped(rows, *self.settings).items()
        }
        summary = []
        for kind, group in groups.items():
            line: Row = dict(zip(self.settings, kind, strict=True))
            deqs = groups.get((*kind[:-1], "deq"), [])
            control = control_of(str(line["model"]), str(line["activation"]))
            others = groups.get((*kind[:-1], control), [])
            for way in self.ways:
                found = {
                    "accuracy": mean_error(group, way),
                    "less DEQ": paired(group, deqs, way)[:2],
                    "less unmatched": paired(group, others, way)[:2],
                }
                if way != self.given:
                    gains = [{way: row[way] - row[self.given]} for row in group]
                    found["gain"] = mean_error(gains, way)
                for what, (mean, error) in found.items():
                    line[f"{what}, {way}"] = round(mean, 5)
                    line[f"standard error of {what}, {way}"] = round(error, 5)
            shared = best(_by_value(group, "held out"))
            line |= {f"{self.own}, seeds": often(group), self.best: shared}
            for images in ("held out", "test"):
                for value, mean in _by_value(group, images).items():
                    line[f"{images}, {self.name} {value:g}"] = round(mean, 5)
            pairs = paired(group, deqs, self.given)[2]
            summary.append(line | {"seeds": len(group), "pairs": pairs})
        return summary

    def _chosen(self, group: list[Row]) -> list[Row]:
        """Add test accuracies each way."""
        shared = best(_by_value(group, "held out"))
        found = []
        for row in group:
            chosen, test = best(_by_value([row], "held out")), row["test"]
            found.append(
                row
                | {self.given: row["given"], "chosen": chosen}
                | {self.own: test[f"{chosen:g}"], self.best: test[f"{shared:g}"]}
            )
        return found

    def draw(self, summary: list[Row], path: Path) -> None:
        """Differences from the DEQ each way, side by side."""
        kinds = grouped(summary, *self.settings[:-1])
        # Not of the kernel, which is no network beside a DEQ.
        networks = {kind: v for kind, v in kinds.items() if v[0]["model"] != "kernel"}
        kinds = networks or kinds
        # A row for each activation if there are several panels of each.
        names = [name for (name,) in grouped(summary, self.settings[0])]
        firsts = [kind[0] for kind in kinds]
        most = max(map(firsts.count, names))
        shape = (len(names), 1) if most == 1 else (most, len(names))
        with figure(path, *shape) as axes:
            panels = np.atleast_1d(axes).reshape(len(names), most)
            for panel in panels.ravel():
                panel.set_axis_off()
            for row, name in enumerate(names):
                own = [kind for kind in kinds if kind[0] == name]
                for panel, kind in zip(panels[row], own, strict=False):
                    panel.set_axis_on()
                    self._draw(panel, kinds[kind])
                    panel.set_title(self._title(kind))
            legend_below(axes)

    def _title(self, kind: tuple[Any, ...]) -> str:
        rest = zip(self.settings[1:-1], kind[1:], strict=True)
        return ", ".join([kind[0], *(f"{name} = {value:g}" for name, value in rest)])

    def _draw(self, panel: Any, lines: list[Row]) -> None:
        lines = [line for line in lines if line["model"] != "deq"]
        places = np.arange(len(lines), dtype=float)
        for shift, way in zip((-0.15, 0.0, 0.15), self.ways, strict=True):
            values = [100 * line[f"less DEQ, {way}"] for line in lines]
            errors = [
                100 * line[f"standard error of less DEQ, {way}"] for line in lines
            ]
            style = {"fmt": "o", "capsize": 4, "label": way}
            panel.errorbar(places + shift, values, yerr=np.nan_to_num(errors), **style)
        panel.axhline(0.0, color="0.6", lw=1)
        panel.set_xticks(places, [line["model"] for line in lines])
        panel.set_ylabel("accuracy less the DEQ's, points")


def _by_value(group: list[Row], images: str) -> dict[float, float]:
    """Mean accuracies of held-out or of test images by value."""
    return {
        float(value): float(np.mean([row[images][value] for row in group]))
        for value in group[0][images]
    }
