"""An experiment is a list of cells, each computed by itself, and a report on them all.

What a cell gives is kept in a file as soon as it is there: a run that was stopped goes
on where it was. Cells are spread over the cores, one thread each.
"""

from __future__ import annotations

import csv
import json
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from joblib import Parallel, delayed
from tqdm import tqdm

from benchmarks._measure import circumstances
from benchmarks.paper._data import Source

Cell = dict[str, Any]
Row = dict[str, Any]


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
        ``compute(cell, source)``: what one cell gives, plain values.
    report : callable
        ``report(rows, figure_path)``: draws the figure, and returns the rows of the
        summary.
    parallel : bool
        Whether cells may run side by side; not if they are timed.
    images : bool
        Whether it is on images, so that other images give other results.
    """

    name: str
    question: str
    cells: Callable[[bool], list[Cell]]
    compute: Callable[[Cell, Source], Row]
    report: Callable[[list[Row], Path], list[Row]]
    parallel: bool = True
    images: bool = False

    def stem(self, quick: bool, source: Source) -> str:
        """How its files are named: results on other images are other results."""
        parts = [self.name, "quick" if quick else "full"]
        if self.images:
            parts.append("digits" if source is None else Path(source).resolve().name)
        return "-".join(parts)


def run(
    experiment: Experiment,
    folder: Path,
    quick: bool,
    source: Source,
    jobs: int,
    *,
    only_report: bool = False,
) -> list[Row]:
    """Compute what is missing unless told not to; write the tables and the figure.

    Returns the rows of the summary.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stem = experiment.stem(quick, source)
    kept = folder / f"{stem}.jsonl"
    cells = experiment.cells(quick)
    found = dict(_read(kept))
    missing = [cell for cell in cells if _key(cell) not in found]
    if only_report:
        print(f"{experiment.name}: {len(missing)} of {len(cells)} cells are missing")
        cells, missing = [cell for cell in cells if _key(cell) in found], []
    with kept.open("a", encoding="utf-8") as file:
        progress = tqdm(
            total=len(cells), initial=len(cells) - len(missing), desc=experiment.name
        )
        for cell, row in _computed(experiment, missing, source, jobs):
            # On a line of its own, whatever a run that was stopped left behind.
            file.write("\n" + json.dumps({"cell": cell, "row": row}))
            file.flush()
            found[_key(cell)] = {**cell, **row}
            progress.update()
        progress.close()
    rows = [found[_key(cell)] for cell in cells]
    summary = experiment.report(rows, folder / f"{stem}.png")
    content = {
        "question": experiment.question,
        "circumstances": circumstances(),
        "cells": len(cells),
        "summary": summary,
        "rows": rows,
    }
    path = folder / f"{stem}.json"
    path.write_text(json.dumps(content, indent=1), encoding="utf-8")
    _write_csv(folder / f"{stem}.csv", summary)
    return summary


def _computed(
    experiment: Experiment, cells: list[Cell], source: Source, jobs: int
) -> Iterator[tuple[Cell, Row]]:
    if not experiment.parallel or jobs == 1:
        for cell in cells:
            yield cell, experiment.compute(cell, source)
        return
    with Parallel(n_jobs=jobs, return_as="generator") as parallel:
        rows = parallel(
            delayed(_compute_alone)(experiment, cell, source) for cell in cells
        )
        yield from zip(cells, rows, strict=True)


def _compute_alone(experiment: Experiment, cell: Cell, source: Source) -> Row:
    """In a worker: one thread, since there is a worker for every core."""
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return experiment.compute(cell, source)


def _read(path: Path) -> Iterator[tuple[str, Row]]:
    if not path.exists():
        return
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            # Empty, or what was being written when a run was stopped.
            continue
        yield _key(entry["cell"]), {**entry["cell"], **entry["row"]}


def _key(cell: Cell) -> str:
    return json.dumps(cell, sort_keys=True)


def _write_csv(path: Path, rows: list[Row]) -> None:
    names = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)


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
