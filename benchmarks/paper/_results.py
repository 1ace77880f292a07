"""What cells gave, line by line, and the files that are made of it.

A line of the file of an experiment is ``{"cell": …, "row": …, "at": …}``: settings,
what they gave, and at which commit, on what versions and machine; "warned" counts the
warnings, if there were any. JSON has no NaN: it is null in the files.
"""

from __future__ import annotations

import csv
import json
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._measure import circumstances, commit

Cell = dict[str, Any]
Row = dict[str, Any]
# Of cells that were kept without any.
UNKNOWN = {"commit": "unknown"}


@dataclass(frozen=True)
class Entry:
    """What one cell gave.

    Attributes
    ----------
    cell, row : dict
        Settings, and what was computed.
    at : dict
        Under which circumstances.
    warned : dict
        Numbers of warnings by category.
    """

    cell: Cell
    row: Row
    at: dict[str, Any] = field(default_factory=lambda: dict(UNKNOWN))
    warned: dict[str, int] = field(default_factory=dict)

    @property
    def values(self) -> Row:
        """Settings, results and the number of warnings, as reports take them."""
        return {**self.cell, **self.row, "warnings": sum(self.warned.values())}

    def line(self) -> str:
        """As it is kept."""
        content = {"cell": self.cell, "row": self.row, "at": self.at}
        if self.warned:
            content["warned"] = self.warned
        return dumps(content)

    @classmethod
    def of_line(cls, line: str) -> Entry:
        """As it was kept; what is null was no number."""
        content = json.loads(line)
        content["row"] = _nan_for_null(content["row"])
        return cls(**content)


def key(cell: Cell) -> str:
    """Of a cell, whatever the order of its settings."""
    return json.dumps(cell, sort_keys=True)


def read(path: Path) -> dict[str, Entry]:
    """What a file has, by the keys of the cells; of a cell twice there, the latter."""
    if not path.exists():
        return {}
    return {key(entry.cell): entry for entry in _entries(path)}


def _entries(path: Path) -> Iterator[Entry]:
    lines = path.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, 1):
        try:
            if line.strip():
                yield Entry.of_line(line)
        except json.JSONDecodeError:
            # What was being written when a run was stopped, or was put together badly.
            print(f"{path}: line {number} is no cell, skipped", file=sys.stderr)


def here(device: str = "cpu") -> dict[str, Any]:
    """The circumstances that count for a cell: the load and the seed are not."""
    facts = circumstances(device) | {"commit": _first_commit()}
    return {name: facts[name] for name in facts if name not in ("load_average", "seed")}


@cache
def _first_commit() -> str:
    """When the first cell began: a later commit is not of the code that runs."""
    return commit()


def distinct(entries: list[Entry]) -> list[dict[str, Any]]:
    """Circumstances that differ, with the number of cells of each, most first."""
    counts = Counter(json.dumps(entry.at, sort_keys=True) for entry in entries)
    return [{"cells": n, **json.loads(at)} for at, n in counts.most_common()]


def dumps(content: Any, **more: Any) -> str:
    """JSON as the standard has it: null for what is no finite number."""
    return json.dumps(_null_for_nan(content), allow_nan=False, **more)


def _null_for_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _null_for_nan(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_null_for_nan(part) for part in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _nan_for_null(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _nan_for_null(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_nan_for_null(part) for part in value]
    return float("nan") if value is None else value


def write_csv(path: Path, rows: list[Row]) -> None:
    """The rows of a summary, with the names of all of them above."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)


def read_csv(path: Path) -> list[Row]:
    """The rows of a summary that was written, with its numbers."""
    with path.open(newline="", encoding="utf-8") as file:
        return [
            {name: _number_or_text(text) for name, text in line.items()}
            for line in csv.DictReader(file)
        ]


def _number_or_text(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
