"""Rows against seconds and peak memory: exact kernel ridge, and by features."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _measure import (
    HEADER,
    SEED,
    measured,
    parser,
    processor_seconds,
    record,
    save,
)

from sklearn_deq import DEQKernelRidgeClassifierCV, DEQKernelTransformer
from sklearn_deq.linear import NormalEquations, solve_normal_equations

ROWS = ("exact", "features", "constants")
N_FEATURES = 100
BLOCK = 2048


@dataclass(frozen=True)
class Sizes:
    """Numbers of samples: of the exact kernel, and of files; components; repeats."""

    exact: int
    files: tuple[int, ...]
    components: int
    repeats: int


FULL = Sizes(20_000, (30_000, 100_000, 300_000, 1_000_000), 2000, 9)
FAST = Sizes(300, (3000, 6000), 20, 2)


def rule(X: np.ndarray) -> np.ndarray:
    """Two classes, of which linear models see little."""
    return X[:, 0] * X[:, 1] + X[:, 2] > 0


def fit_exact(n: int) -> dict[str, float]:
    """Fit the classifier to n samples of 20 features in float32."""
    X = np.random.default_rng(SEED).standard_normal((n, 20), dtype=np.float32)
    DEQKernelRidgeClassifierCV(average=False).fit(X[:200], rule(X[:200]))
    model = DEQKernelRidgeClassifierCV(average=False)
    return measured(lambda: model.fit(X, rule(X)))


def fit_file(n: int, components: int) -> dict[str, float]:
    """Fit the classifier to n samples in a file of float32, by random features."""
    rng = np.random.default_rng(SEED)
    model = DEQKernelRidgeClassifierCV(
        recurrent_variance=0.2,
        scale="standard",
        n_components=components,
        approximation="random_features",
        random_state=SEED,
    )
    test = rng.standard_normal((5000, N_FEATURES), dtype=np.float32)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "X"
        shape = (n, N_FEATURES)
        y = []
        # Not by a mapping, whose pages would count beside those that are read.
        with file.open("wb") as stream:
            for start in range(0, n, BLOCK):
                size = (min(BLOCK, n - start), N_FEATURES)
                rows = rng.standard_normal(size, dtype=np.float32)
                rows.tofile(stream)
                y.append(rule(rows))
        y = np.concatenate(y)
        X = np.memmap(file, np.float32, "r", shape=shape)
        start = time.process_time()
        values = measured(lambda: model.fit(X, y))
        values["core_seconds"] = time.process_time() - start
    return values | {"test_accuracy": model.score(test, rule(test))}


WORKS: dict[str, Callable[..., dict[str, Any]]] = {
    "exact": fit_exact,
    "file": fit_file,
}


def in_a_process(work: str, *arguments: int) -> dict[str, Any]:
    """Run a work in a process of its own, whose peak memory is its own."""
    command = [sys.executable, __file__, "--work", work, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def exact_row(sizes: Sizes) -> Iterator[dict[str, Any]]:
    """Peak memory of the fit to all samples over that of one Gram matrix."""
    values = in_a_process("exact", sizes.exact)
    values["ratio"] = values["bytes_above"] / (4 * sizes.exact**2)
    work = f"peak memory, kernel ridge in float32, n={sizes.exact}"
    yield record(work, "one Gram matrix in float32", 1.2, 1.05, **values)


def features_rows(sizes: Sizes) -> Iterator[dict[str, Any]]:
    """Peak memory of fits to files over 3 GB, and the growth of processor time."""
    times = []
    for n in sizes.files:
        values = in_a_process("file", n, sizes.components)
        times.append(values["core_seconds"])
        work = f"peak memory, {sizes.components} random features, n={n}"
        values |= {"n": n, "ratio": values["bytes"] / 3e9}
        yield record(work, "3 GB", 1.0, 0.5, **values)
    slope = float(np.polyfit(np.log(sizes.files), np.log(times), 1)[0])
    yield record("core seconds, in powers of n", "n", 1.1, 1.0, ratio=slope)


def core_seconds(work: Callable[[], Any], repeats: int) -> float:
    """Median processor time of several calls, after one that warms up."""
    work()
    return float(np.median([processor_seconds(work) for _ in range(repeats)]))


def constants_rows(sizes: Sizes) -> Iterator[dict[str, Any]]:
    """What the cost model in docs/guide_scaling.md is made of, in time of one core."""
    m, rng = sizes.components, np.random.default_rng(SEED)
    X = rng.standard_normal((BLOCK, N_FEATURES), dtype=np.float32)
    for approximation in ("random_features", "nystroem"):
        model = DEQKernelTransformer(
            n_components=min(m, BLOCK), approximation=approximation, random_state=SEED
        ).fit(X)
        taken = core_seconds(lambda model=model: model.transform(X), sizes.repeats)
        print(f"{approximation}: {1e6 * taken / BLOCK:.2f} µs per row")
        yield {"work": approximation, "seconds_per_row": taken / BLOCK}
    Z, y = model.transform(X), np.ones((BLOCK, 1))
    taken = core_seconds(lambda: NormalEquations.of(Z, y), sizes.repeats)
    flops = BLOCK * m**2 / taken
    print(f"sums: {1e6 * taken / BLOCK:.2f} µs per row, {flops:.3g} FLOP/s")
    yield {"work": "sums", "seconds_per_row": taken / BLOCK, "flops": flops}
    sums, kept = NormalEquations.of(Z, y), []
    for work, call in (
        # Into memory that is new to the process: most of the time is the system's.
        ("addition of two sums", lambda: kept.append(sums + sums)),
        ("solution", lambda: solve_normal_equations(sums, 1.0)),
    ):
        taken = core_seconds(call, sizes.repeats)
        print(f"{work}: {taken:.3g} s")
        yield {"work": work, "seconds": taken}


def draw(records: list[dict[str, Any]], path: Path) -> None:
    """Processor time and peak memory against rows."""
    import matplotlib.pyplot as plt

    rows = [row for row in records if "n" in row]
    n = np.array([row["n"] for row in rows])
    taken = np.array([row["core_seconds"] for row in rows])
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
    left.loglog(n, taken, "o-", label="fit")
    left.loglog(n, taken[-1] * n / n[-1], "--", color="0.5", label="slope 1")
    left.set(xlabel="rows", ylabel="seconds of one core")
    left.legend()
    right.semilogx(
        n, [row["bytes"] / 1e9 for row in rows], "o-", label="process, with its pages"
    )
    right.semilogx(
        n, 4 * N_FEATURES * n / 1e9, "--", color="0.5", label="the file, mapped"
    )
    right.set(xlabel="rows", ylabel="peak memory, GB", ylim=(0, None))
    right.legend()
    figure.savefig(path, dpi=120)


def main(argv: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Run the benchmark; returns its records."""
    arguments = parser(__doc__, "bench_scaling")
    arguments.add_argument("--only", nargs="+", choices=ROWS, default=ROWS)
    arguments.add_argument("--figure", type=Path, help="where the figure goes")
    arguments.add_argument("--work", nargs="+", help="one measurement, in this process")
    options = arguments.parse_args(argv)
    if options.work:
        name, *numbers = options.work
        print(json.dumps(WORKS[name](*map(int, numbers))))
        return []
    sizes = FAST if options.fast else FULL
    rows: dict[str, Callable[[Sizes], Iterator[dict[str, Any]]]] = {
        "exact": exact_row,
        "features": features_rows,
        "constants": constants_rows,
    }
    print(f"{torch.get_num_threads()} threads\n{HEADER}")
    records = [row for name in options.only for row in rows[name](sizes)]
    save(options.output, records, sizes=asdict(sizes))
    if options.figure:
        draw(records, options.figure)
    return records


if __name__ == "__main__":
    main()
