"""Rows against seconds and peak memory: kernel ridge on the exact kernel in float32."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _measure import HEADER, SEED, parser, record, save, seconds

from sklearn_deq import DEQKernelRidgeClassifierCV

ROWS = ("exact",)


@dataclass(frozen=True)
class Sizes:
    """Numbers of samples."""

    exact: int


FULL = Sizes(exact=20_000)
FAST = Sizes(exact=300)


def kibibytes(field: str) -> int:
    """What Linux says of this process's memory."""
    found = re.search(rf"{field}:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1])


def measured(work: Callable[[], Any]) -> dict[str, float]:
    """Seconds, and peak memory in bytes above what the process holds."""
    before = kibibytes("VmRSS")
    taken = seconds(work)
    return {"seconds": taken, "bytes": 1024 * (kibibytes("VmHWM") - before)}


def fit_exact(n: int) -> dict[str, float]:
    """Fit the classifier without arguments to n samples of 20 features in float32."""
    X = np.random.default_rng(SEED).standard_normal((n, 20), dtype=np.float32)
    y = X[:, 0] * X[:, 1] + X[:, 2] > 0
    DEQKernelRidgeClassifierCV(average=False).fit(X[:200], y[:200])
    model = DEQKernelRidgeClassifierCV(average=False)
    return measured(lambda: model.fit(X, y))


def in_a_process(work: str, *arguments: Any) -> dict[str, Any]:
    """Run a work in a process of its own, whose peak memory is its own."""
    command = [sys.executable, __file__, "--work", work, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def exact_row(sizes: Sizes) -> Iterator[dict[str, Any]]:
    """Peak memory of the fit to all samples over that of one Gram matrix."""
    values = in_a_process("exact", sizes.exact)
    values["ratio"] = values["bytes"] / (4 * sizes.exact**2)
    work = f"peak memory, kernel ridge in float32, n={sizes.exact}"
    yield record(work, "one Gram matrix in float32", 1.2, 1.05, **values)


WORKS: dict[str, Callable[..., dict[str, Any]]] = {"exact": fit_exact}


def main(argv: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Run the benchmark; returns its records."""
    arguments = parser(__doc__, "bench_scaling")
    arguments.add_argument("--only", nargs="+", choices=ROWS, default=ROWS)
    arguments.add_argument("--work", nargs="+", help="one measurement, in this process")
    options = arguments.parse_args(argv)
    if options.work:
        name, *numbers = options.work
        print(json.dumps(WORKS[name](*map(int, numbers))))
        return []
    sizes = FAST if options.fast else FULL
    rows: dict[str, Callable[[], Iterator[dict[str, Any]]]] = {
        "exact": lambda: exact_row(sizes),
    }
    print(f"{torch.get_num_threads()} threads\n{HEADER}")
    records = [row for name in options.only for row in rows[name]()]
    save(options.output, records, sizes=asdict(sizes))
    return records


if __name__ == "__main__":
    main()
