"""What the figures share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt

# Tables say it in a word, docs/paper.md "the formula" and "the matched network".
LABELS = {"asymptotic": "asymptotic (formula)", "explicit": "explicit (matched)"}


@contextmanager
def figure(path: Path, columns: int = 1, rows: int = 1, **more: Any) -> Iterator[Any]:
    """Axes of a figure, which is written at the end; an array of them if several."""
    more = {"figsize": (4.6 * columns, 3.5 * rows), **more}
    drawn, axes = plt.subplots(
        rows, columns, layout="constrained", squeeze=False, **more
    )
    yield axes[0, 0] if axes.size == 1 else axes
    drawn.savefig(path, dpi=80)
    plt.close(drawn)


def number(text: Any) -> tuple[float, float]:
    """Mean and error that a table has as "0.12 ± 0.03"; no error of a mean alone."""
    mean, _, error = str(text).partition(" ± ")
    return float(mean), float(error or "nan")


def ticks_at(panel: Any, values: Any) -> None:
    """Ticks at the values that there are, on an axis of powers of two or ten."""
    panel.set_xticks(values, [f"{value:g}" for value in values])
    panel.set_xticks([], minor=True)


def band(axes: Any, points: Any, label: str, **more: Any) -> None:
    """A line through points (x, mean, error), one standard error each way, if any."""
    if not points:
        return
    x, mean, error = zip(*sorted(points), strict=True)
    error = np.nan_to_num(np.asarray(error, dtype=float))
    style = {"marker": "o", "ms": 4, "capsize": 2, **more}
    axes.errorbar(x, mean, yerr=error, label=label, **style)


def legend_below(axes: Any) -> None:
    """One legend for all panels, each label once, where it covers nothing."""
    panels = np.atleast_1d(axes).ravel()
    found = {}
    for panel in panels:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    panels[0].figure.legend(
        found.values(),
        found.keys(),
        loc="outside lower center",
        ncols=min(len(found), 6),
        fontsize=8,
    )
