"""What all benchmarks share: medians, ratios, circumstances, files."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import re
import subprocess
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_info

from sklearn_deq.nn._mixed import bfloat16_units

SEED = 0
PACKAGES = ["numpy", "scipy", "scikit-learn", "torch", "joblib", "threadpoolctl"]

Work = Callable[[], Any]


def seconds(work: Work, device: str = "cpu") -> float:
    """Time of one call."""
    start = time.perf_counter()
    work()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter() - start


def processor_seconds(work: Work) -> float:
    """Processor time of one call, in all threads: what neighbours do counts less."""
    start = time.process_time()
    work()
    return time.process_time() - start


def median_seconds(work: Work, repeats: int, device: str = "cpu") -> float:
    """Median time of several calls, after one that warms up."""
    work()
    return float(np.median([seconds(work, device) for _ in range(repeats)]))


def kibibytes(field: str) -> int:
    """What Linux says of this process's memory."""
    found = re.search(rf"{field}:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1])


def measured(work: Callable[[], Any]) -> dict[str, float]:
    """Seconds, and the peak memory meanwhile: in all, and above what there was."""
    # What was allocated before and is gone must not count as this work's.
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    before = 1024 * kibibytes("VmRSS")
    taken = seconds(work)
    peak = 1024 * kibibytes("VmHWM")
    return {"seconds": taken, "bytes": peak, "bytes_above": peak - before}


def compare(ours: Callable[[], float], other: Callable[[], float], repeats: int) -> Any:
    """Medians of two works that take turns, so that noise hits both alike.

    Parameters
    ----------
    ours, other : callable
        Each runs once and returns its seconds.
    repeats : int
        Turns that count; one before them warms up.

    Returns
    -------
    dict
        Both medians, their ratio, and the smallest and largest ratio of a turn.
    """
    ours()
    other()
    turns = np.array([[ours(), other()] for _ in range(repeats)])
    medians = np.median(turns, axis=0)
    ratios = turns[:, 0] / turns[:, 1]
    return {
        "seconds": float(medians[0]),
        "seconds_other": float(medians[1]),
        "ratio": float(medians[0] / medians[1]),
        "ratio_range": [float(ratios.min()), float(ratios.max())],
    }


TIMES = ("seconds", "seconds_other")
HEADER = (
    f"{'work':<48}{'against':<40}{'ours, s':>9}{'other, s':>9}"
    f"{'ratio':>9}{'in turns':>14}   to reach  to aim for"
)


def record(
    work: str, against: str, reach: float, aim: float, **values: Any
) -> dict[str, Any]:
    """One row of a table of ratios: printed, and returned for the file."""
    row = {"work": work, "against": against, "reach": reach, "aim": aim, **values}
    times = [f"{values[k]:9.4f}" if k in values else f"{'-':>9}" for k in TIMES]
    low, high = values.get("ratio_range", (None, None))
    turns = "-" if low is None else f"{low:.3f}–{high:.3f}"
    print(
        f"{work:<48}{against:<40}{''.join(times)}{row['ratio']:9.3f}{turns:>14}"
        f"   ≤ {reach:<8.3g}≤ {aim:<8.3g}{verdict(row['ratio'], reach, aim)}",
        flush=True,
    )
    return row


def verdict(ratio: float, reach: float, aim: float) -> str:
    """What the ratio comes to."""
    if ratio <= aim:
        return "aim reached"
    return "reached" if ratio <= reach else "NOT REACHED"


def circumstances(device: str = "cpu") -> dict[str, Any]:
    """Return versions, hardware, threads, seed and commit (dirty: and what is not)."""
    return {
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
        "machine": platform.machine(),
        "processor": processor(),
        "cores": os.cpu_count(),
        "memory_GB": memory(),
        # Wide layers iterate in bfloat16 where there are any.
        "bfloat16_units": bfloat16_units(torch.device(device)),
        # At the end of the run, its own share included.
        "load_average": os.getloadavg() if hasattr(os, "getloadavg") else None,
        "threads": torch.get_num_threads(),
        "threads_blas": sorted(
            {i["num_threads"] for i in threadpool_info() if i["user_api"] == "blas"}
        ),
        "device": torch.cuda.get_device_name() if device == "cuda" else device,
        "seed": SEED,
        "commit": commit(),
    }


def commit() -> str:
    """Of the code, "dirty" if it is not all in it; unknown where there is no Git.

    Other files do not count: a run that writes tables for the docs changes some.
    """

    def git(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = ["git", *arguments]
        folder = Path(__file__).parent
        return subprocess.run(
            command, capture_output=True, text=True, check=False, cwd=folder
        )

    try:
        found = git("rev-parse", "HEAD").stdout.strip()
        changed = git("diff", "--quiet", "HEAD", "--", ":/*.py").returncode
    except FileNotFoundError:
        return "unknown"
    return found + ("-dirty" if changed else "") if found else "unknown"


def processor() -> str:
    """Its name where the system says it, else its kind."""
    listed = Path("/proc/cpuinfo")
    text = listed.read_text(encoding="utf-8") if listed.exists() else ""
    named = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return named[1] if named else platform.processor() or platform.machine()


def memory() -> int | None:
    """Of the machine, in GB, where the system says it."""
    try:
        pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None
    return round(pages / 1e9)


def parser(description: str | None, name: str) -> argparse.ArgumentParser:
    """Options that every benchmark has."""
    options = argparse.ArgumentParser(description=description)
    options.add_argument("--fast", action="store_true", help="small sizes only")
    options.add_argument("--output", type=Path, default=Path(f"out/{name}.json"))
    return options


def save(
    path: Path, records: list[dict[str, Any]], device: str = "cpu", **more: Any
) -> None:
    """Write records and circumstances, those of all benchmarks and more, as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"circumstances": circumstances(device) | more, "records": records}
    path.write_text(json.dumps(content, indent=2), encoding="utf-8")
