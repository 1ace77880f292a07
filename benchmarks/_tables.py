"""What the benchmarks of matching share: distances of kernels, tables in the docs."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.sparse.linalg import eigsh


def operator_norm(K: np.ndarray) -> float:
    """Largest absolute eigenvalue of a symmetric matrix, to four digits."""
    start = np.ones(len(K))
    return float(abs(eigsh(K, k=1, which="LM", v0=start, tol=1e-4)[0][0]))


def relative_distance(found: np.ndarray, expected: np.ndarray) -> float:
    """Distance of a kernel matrix from another in operator norm, relative to that."""
    return operator_norm(found - expected) / operator_norm(expected)


def best_scale(found: np.ndarray, expected: np.ndarray) -> float:
    """What a positive semidefinite matrix is multiplied by to be nearest to another.

    In operator norm, where the distance is convex in the number. Least squares would
    take less of a matrix that is off by noise, and come less near.
    """

    def distance(scale: float) -> float:
        return float(np.abs(np.linalg.eigvalsh(scale * found - expected)).max())

    # Beyond twice the quotient of the norms it is farther than 0 times the matrix.
    most = 2.0 * operator_norm(expected) / operator_norm(found)
    options = {"xatol": 1e-10 * most}
    return float(
        minimize_scalar(
            distance, bounds=(0.0, most), method="bounded", options=options
        ).x
    )


def add_markdown(arguments: argparse.ArgumentParser) -> None:
    """Option with the page whose table is replaced."""
    arguments.add_argument("--markdown", type=Path, help="page whose table is replaced")


def replace_table(
    page: Path,
    script: Path,
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    notes: Sequence[str],
) -> None:
    """Write a table and notes in Markdown between the marks that a page has for them.

    Parameters
    ----------
    page : Path
        A file with the line ``<!-- table of SCRIPT -->`` and, below,
        ``<!-- end of table -->``.
    script : Path
        The benchmark, by whose name the marks go.
    header, rows, notes : sequences
        Of the columns, the lines, and what is listed below.
    """
    lines = ["| " + " | ".join(header) + " |", "|---" * len(header) + "|"]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    lines += ["", *(f"- {note}" for note in notes)]
    start, end = f"<!-- table of {script.name} -->\n", "<!-- end of table -->"
    before, mark, rest = page.read_text(encoding="utf-8").partition(start)
    _, closed, after = rest.partition(end)
    if not mark or not closed:
        raise ValueError(f"{page} has no {start.strip()} with {end} after it.")
    content = before + start + "\n".join(lines) + "\n" + end + after
    page.write_text(content, encoding="utf-8")
