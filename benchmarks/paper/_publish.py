"""What is published of an experiment: table and figure, and what they are from."""

from __future__ import annotations

import json
from pathlib import Path
from shutil import copyfile
from typing import Any

from benchmarks.paper._experiment import Experiment
from benchmarks.paper._results import Row, dumps, read_csv, write_csv

# Columns that count what a row is the mean of: a row of more of them is not replaced.
COUNTS = ("seeds", "pairs")
About = dict[str, Any]


def publish(
    experiment: Experiment, done: dict[str, Any], written: Path, page: Path
) -> None:
    """Copy table and figure, and write beside them what they are from.

    Of an experiment whose figure needs its table alone, published rows of more seeds
    are kept, so that a part can be computed where the cells of the others are not.
    """
    page.parent.mkdir(parents=True, exist_ok=True)
    table, drawing, record = (
        page.with_name(f"{page.name}.{ending}") for ending in ("csv", "png", "json")
    )
    about = done["about"]
    before: list[Row] = []
    if experiment.draw and table.exists() and record.exists():
        before = read_csv(table)
        found = json.loads(record.read_text(encoding="utf-8"))
    rows, places = joined(before, done["summary"], experiment.settings)
    if experiment.draw and any(place is not None for place in places):
        about = {**about, **origins(found, places)}
        about |= _together(about, done["summary"], rows)
        write_csv(table, rows)
        experiment.draw(rows, drawing)
    else:
        copyfile(f"{written}.csv", table)
        copyfile(f"{written}.png", drawing)
    record.write_text(dumps(about, indent=1), encoding="utf-8")


def joined(
    before: list[Row], now: list[Row], settings: tuple[str, ...]
) -> tuple[list[Row], list[int | None]]:
    """Rows of both tables, and the place of each in the former, if it is from there.

    Of two rows with the same settings the latter counts, unless it is of fewer seeds;
    their seeds are not added up.
    """
    rows: list[Row] = list(before)
    places: list[int | None] = list(range(len(before)))
    known = {_values(row, settings): place for place, row in enumerate(before)}
    for row in now:
        place = known.get(_values(row, settings)) if settings else None
        if place is None:
            rows.append(row)
            places.append(None)
        elif all(row.get(name, 1) >= before[place].get(name, 1) for name in COUNTS):
            rows[place], places[place] = row, None
    return rows, places


def _values(row: Row, names: tuple[str, ...]) -> tuple[Any, ...]:
    return tuple(row[name] for name in names)


def _together(about: About, own: list[Row], rows: list[Row]) -> About:
    """Cells and seeds of a joined table; those of the present run beside them."""
    runs = [about, *about["earlier runs"]]
    seeds = sorted(set().union(*(run["seeds"] for run in runs)))
    there, missing = about["cells"]["there"], about["cells"]["missing"]
    found: About = {"seeds": seeds, "cells of this run": about["cells"]}
    # Where every cell is a seed of one row, or a row by itself.
    if there == sum(row.get("seeds", 1) for row in own):
        joint = sum(row.get("seeds", 1) for row in rows)
        found["cells"] = {"there": joint, "missing": there + missing - joint}
    return found


def origins(found: About, places: list[int | None]) -> About:
    """Say from which run every row of a joined table is.

    Parameters
    ----------
    found : dict
        What was written of the former table.
    places : list of int or None
        Of every row, its place in that table.

    Returns
    -------
    dict
        "runs of rows": of every row 0, for the present run, or k for the k-th of
        "earlier runs": what was written of these. A run of which nothing is left is
        forgotten.
    """
    earlier = [found, *found.pop("earlier runs", [])]
    owners = found.pop("runs of rows", None)
    runs = [None if p is None else owners[p] if owners else 0 for p in places]
    left = sorted({run for run in runs if run is not None})
    return {
        "runs of rows": [0 if run is None else 1 + left.index(run) for run in runs],
        "earlier runs": [earlier[run] for run in left],
    }
