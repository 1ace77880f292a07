"""Compare two runs of a benchmark: what became slower, faster, or larger.

`python benchmarks/compare.py before.json after.json` prints every ratio of both files
that differs by more than --threshold, and exits with 1 if one became so much worse.
Ratios are compared and not seconds: both of their sides were timed on one machine, in
turns, so that they can be compared between machines.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Rows = dict[tuple[str, str], float]


def ratios(path: Path) -> Rows:
    """The ratio of every row of a file that has one, by work and what it is against."""
    try:
        records: list[dict[str, Any]] = json.loads(path.read_text("utf-8"))["records"]
        return _ratios(records)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} is not what a benchmark writes: a JSON object whose "
            "'records' is a list of objects"
        ) from error


def _ratios(records: list[dict[str, Any]]) -> Rows:
    return {
        (row["work"], row["against"]): float(row["ratio"])
        for row in records
        if {"work", "against", "ratio"} <= row.keys()
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Print the differences; returns how many rows became worse."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument(
        "--threshold", type=float, default=0.15, help="relative change (default: 0.15)"
    )
    options = parser.parse_args(argv)
    try:
        before, after = ratios(options.before), ratios(options.after)
    except ValueError as error:
        parser.error(str(error))
    common = [row for row in before if row in after]
    if not common:
        parser.error("the files have no row in common")
    worse = 0
    for row in common:
        change = after[row] / before[row] - 1.0
        if abs(change) > options.threshold:
            worse += change > 0
            work, against = row
            print(
                f"{'WORSE ' if change > 0 else 'better'} {change:+7.1%}  "
                f"{before[row]:.3f} → {after[row]:.3f}  {work} against {against}"
            )
    print(f"{len(common)} rows compared, {worse} worse by over {options.threshold:.0%}")
    return worse


if __name__ == "__main__":
    raise SystemExit(bool(main()))
