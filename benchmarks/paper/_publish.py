"""What is published of an experiment: table and figure, and what they are from."""

from __future__ import annotations

import json
from pathlib import Path
from shutil import copyfile
from typing import Any

from benchmarks.paper._experiment import Experiment
from benchmarks.paper._results import Row, dumps, read_csv, write_csv

# What a row of a table counts: seeds, and of these what it was compared with.
COUNTS = ("seeds", "pairs")


def publish(
    experiment: Experiment, done: dict[str, Any], written: Path, page: Path
) -> None:
    """Copy table and figure, and write beside them what they are from.

    Of an experiment that adds to what was published rows of more seeds stay there, so
    that seeds can be added where the cells of the others are not.
    """
    page.parent.mkdir(parents=True, exist_ok=True)
    about, table, kept = done["about"], page.with_suffix(".csv"), 0
    if experiment.draw and table.exists():
        rows, kept = joined(read_csv(table), done["summary"], experiment.settings)
    if experiment.draw and kept:
        write_csv(table, rows)
        experiment.draw(rows, page.with_suffix(".png"))
        about = {**about, "rows kept": kept, "of": _earlier(page, about)}
    else:
        for ending in ("csv", "png"):
            copyfile(f"{written}.{ending}", f"{page}.{ending}")
    page.with_suffix(".json").write_text(dumps(about, indent=1), encoding="utf-8")


def joined(
    before: list[Row], now: list[Row], settings: tuple[str, ...]
) -> tuple[list[Row], int]:
    """Rows of both, and how many of the former are left.

    Of two with the same settings the latter counts, unless it has fewer seeds.
    """
    rows = {_values(row, settings): row for row in before}
    replaced = 0
    for row in now:
        name = _values(row, settings)
        known = rows.get(name)
        if known is None or all(row[count] >= known[count] for count in COUNTS):
            rows[name] = row
            replaced += known is not None
    return list(rows.values()), len(before) - replaced


def _values(row: Row, names: tuple[str, ...]) -> tuple[Any, ...]:
    return tuple(row[name] for name in names)


def _earlier(page: Path, about: dict[str, Any]) -> dict[str, Any]:
    """What rows that were kept are from: of what this run published before, its own."""
    record = page.with_suffix(".json")
    found: dict[str, Any] = json.loads(record.read_text(encoding="utf-8"))
    known = [_facts(at) for at in about["circumstances"]]
    is_same = all(_facts(at) in known for at in found["circumstances"])
    earlier: dict[str, Any] = found["of"] if is_same and "of" in found else found
    return earlier


def _facts(at: dict[str, Any]) -> dict[str, Any]:
    """Circumstances without the number of cells."""
    return {name: value for name, value in at.items() if name != "cells"}
