"""Time and float32 error of the DEQ's Gram matrices, for equal and varying norms."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from sklearn_deq.datasets import make_gaussian_mixture
from sklearn_deq.kernels import deq_kernel

SEED = 0
REPEATS = 3
PACKAGES = ["numpy", "scipy", "scikit-learn", "torch"]


def median_seconds(function: Callable[[], Any], device: str) -> float:
    """Median time of several calls, after one that warms up."""
    function()
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        function()
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds))


def measure(X: np.ndarray, case: dict[str, Any], device: str) -> dict[str, Any]:
    """Time in both precisions; error of float32 relative to √(K_ii K_jj)."""
    settings = {**case, "device": device}

    def compute(dtype: str) -> np.ndarray:
        return deq_kernel(X.astype(dtype), **settings)

    reference = deq_kernel(X, **case, device="cpu")
    scale = np.sqrt(np.diag(reference))
    error = np.abs(compute("float32") - reference) / np.outer(scale, scale)
    return {
        **case,
        "n": len(X),
        "p": X.shape[1],
        "seconds_float64": median_seconds(lambda: compute("float64"), device),
        "seconds_float32": median_seconds(lambda: compute("float32"), device),
        "error_float32": float(error.max()),
    }


def circumstances(device: str) -> dict[str, Any]:
    """Return versions, hardware, seed and commit."""
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parent,
    ).stdout.strip()
    return {
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if device == "cuda" else device,
        "seed": SEED,
        "commit": commit or "unknown",
    }


def main(argv: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Run the benchmark; returns its records."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fast", action="store_true", help="small sizes only")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path, default=Path("out/bench_kernels.json"))
    options = parser.parse_args(argv)
    sizes = [100] if options.fast else [500, 2000]
    cases = [
        {"kernel": kernel, "activation": activation, "normalize": normalize}
        for kernel in ("ck", "ntk")
        for activation in ("relu", "tanh")
        for normalize in (True, False)
    ]
    records = []
    for n, case in tqdm([(n, case) for n in sizes for case in cases], desc="kernels"):
        X, _ = make_gaussian_mixture(n, 200, random_state=SEED)
        records.append(measure(X, case, options.device))
    for r in records:
        print(
            f"{r['kernel']:<5}{r['activation']:<6}"
            f"{'equal' if r['normalize'] else 'varying':<8}norms  n={r['n']:<6}"
            f"float64 {r['seconds_float64']:8.3f} s   float32 "
            f"{r['seconds_float32']:8.3f} s   error {r['error_float32']:.1e}"
        )
    options.output.parent.mkdir(parents=True, exist_ok=True)
    content = {"circumstances": circumstances(options.device), "records": records}
    options.output.write_text(json.dumps(content, indent=2), encoding="utf-8")
    return records


if __name__ == "__main__":
    main()
