"""An experiment is a list of cells, each computed by itself, and a report on them all.

What a cell gives is kept in a file as soon as it is there: a run that was stopped goes
on where it was. Cells are spread over the cores, one thread each.
"""

from __future__ import annotations

import functools
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from joblib import Parallel, delayed
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from benchmarks._measure import SEED
from benchmarks.paper._results import (
    Cell,
    Entry,
    Row,
    distinct,
    dumps,
    here,
    key,
    read,
    write_csv,
)
from benchmarks.paper._sources import Source, name_of

# Values, as they are printed, that some settings may have.
Settings = dict[str, list[str]]


@dataclass(frozen=True)
class Experiment:
    """What to compute.

    Attributes
    ----------
    name : str
        Its name on the command line and of its files.
    question : str
        What it asks, in a line.
    cells : callable
        ``cells(quick)``: settings of every cell, plain values.
    compute : callable
        ``compute(cell, source)``: what one cell gives, plain values; with `devices`
        it takes ``device="cpu"`` as well.
    report : callable
        ``report(rows, figure_path)``: draws the figure, and returns the rows of the
        summary.
    parallel : bool
        Whether cells may run side by side; not if they are timed.
    images : bool
        Whether it is on images, so that other images give other results.
    devices : bool
        Whether it can be computed on another device than the CPU.
    settings : tuple of str
        Columns of the summary that say what a row is of.
    draw : callable or None
        ``draw(summary, figure_path)``: the figure from a summary alone, of those that
        are added to what was published before; they need `settings`.
    """

    name: str
    question: str
    cells: Callable[[bool], list[Cell]]
    compute: Callable[..., Row]
    report: Callable[[list[Row], Path], list[Row]]
    parallel: bool = True
    images: bool = False
    devices: bool = False
    settings: tuple[str, ...] = ()
    draw: Callable[[list[Row], Path], None] | None = None

    def stem(self, quick: bool, source: Source) -> str:
        """How its files are named: results on other images are other results."""
        parts = [self.name, "quick" if quick else "full"]
        return "-".join(parts + ([name_of(source)] if self.images else []))


def has(cell: Cell, settings: Settings) -> bool:
    """Whether a cell has these settings."""
    return all(str(cell.get(name)) in values for name, values in settings.items())


def run(
    experiment: Experiment,
    folder: Path,
    quick: bool,
    source: Source,
    jobs: int,
    *,
    only_report: bool = False,
    only: Settings | None = None,
    device: str = "cpu",
) -> dict[str, Any] | None:
    """Compute what is missing unless told not to; write the tables and the figure.

    With `only`, of what is missing cells with these settings alone. Returns what the
    JSON says of the results, and the summary; None, and nothing is written, if there
    are no results.
    """
    if experiment.devices:
        compute = functools.partial(experiment.compute, device=device)
        experiment = replace(experiment, compute=compute)
    stem = experiment.stem(quick, source)
    kept = folder / f"{stem}.jsonl"
    cells = experiment.cells(quick)
    found = read(kept)
    missing = [cell for cell in cells if key(cell) not in found]
    wanted = [cell for cell in missing if has(cell, only or {})]
    if only_report:
        print(f"{experiment.name}: {len(missing)} of {len(cells)} cells are missing")
    else:
        folder.mkdir(parents=True, exist_ok=True)
        known = len(cells) - len(missing)
        for entry in _computed(experiment, wanted, known, source, jobs, device):
            # On a line of its own, whatever a run that was stopped left behind.
            with kept.open("a", encoding="utf-8") as file:
                file.write("\n" + entry.line())
            found[key(entry.cell)] = Entry.of_line(entry.line())
    entries = [found[key(cell)] for cell in cells if key(cell) in found]
    if not entries:
        return None
    rows = [entry.values for entry in entries]
    summary = experiment.report(rows, folder / f"{stem}.png")
    about = _about(experiment, quick, source, entries, len(cells))
    content = {"about": about, "summary": summary, "rows": rows}
    (folder / f"{stem}.json").write_text(dumps(content, indent=1), encoding="utf-8")
    write_csv(folder / f"{stem}.csv", summary)
    return {"about": about, "summary": summary}


def _about(
    experiment: Experiment, quick: bool, source: Source, entries: list[Entry], n: int
) -> dict[str, Any]:
    """What results are of, and where they are from; `n` cells would be all."""
    return {
        "question": experiment.question,
        "source": name_of(source) if experiment.images else None,
        "size": "quick" if quick else "full",
        "seeds": sorted({entry.cell.get("seed", SEED) for entry in entries}),
        "cells": {"there": len(entries), "missing": n - len(entries)},
        "warned": dict(sum((Counter(entry.warned) for entry in entries), Counter())),
        "circumstances": distinct(entries),
    }


def _computed(
    experiment: Experiment,
    cells: list[Cell],
    known: int,
    source: Source,
    jobs: int,
    device: str = "cpu",
) -> Iterator[Entry]:
    """What the cells give, each as soon as it is there, with a bar of progress."""
    with (
        one_thread(),
        tqdm(total=known + len(cells), initial=known, desc=experiment.name) as bar,
    ):
        at = here(device)
        for cell, row, warned in _results(experiment, cells, source, jobs):
            yield Entry(cell, row, at, warned)
            bar.update()


Result = tuple[Cell, Row, dict[str, int]]


def _results(
    experiment: Experiment, cells: list[Cell], source: Source, jobs: int
) -> Iterator[Result]:
    if not experiment.parallel or jobs == 1:
        for cell in cells:
            yield _compute_alone(experiment, cell, source)
        return
    with Parallel(n_jobs=jobs, return_as="generator_unordered") as parallel:
        yield from parallel(
            delayed(_compute_alone)(experiment, cell, source) for cell in cells
        )


def _compute_alone(experiment: Experiment, cell: Cell, source: Source) -> Result:
    """One thread, since there is a worker for every core; warnings are counted."""
    with one_thread(), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        row = experiment.compute(cell, source)
    return cell, row, dict(Counter(one.category.__name__ for one in caught))


@contextmanager
def one_thread() -> Iterator[None]:
    """For what runs side by side, and for times that are to be compared."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(before)


def grouped(rows: list[Row], *names: str) -> dict[tuple[Any, ...], list[Row]]:
    """Rows by their values of some names, in the order of the first ones."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in names), []).append(row)
    return groups


def mean_error(rows: list[Row], name: str) -> tuple[float, float]:
    """Mean and standard error of a value over rows; no error of a single one."""
    values = np.array([row[name] for row in rows], dtype=float)
    if len(values) == 1:
        return float(values[0]), float("nan")
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))


def paired(
    rows: list[Row], others: list[Row], name: str, by: str = "seed"
) -> tuple[float, float, int]:
    """Mean difference from other rows of the same seeds, its error, and how many."""
    found = {row[by]: row[name] for row in others}
    values = [{name: row[name] - found[row[by]]} for row in rows if row[by] in found]
    if not values:
        return float("nan"), float("nan"), 0
    return *mean_error(values, name), len(values)
