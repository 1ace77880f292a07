"""Time and float32 error of the DEQ's Gram matrices, for equal and varying norms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from _measure import SEED, median_seconds, parser, save
from tqdm import tqdm

from sklearn_deq.datasets import make_gaussian_mixture
from sklearn_deq.kernels import deq_kernel

REPEATS = 3


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
        "seconds_float64": median_seconds(lambda: compute("float64"), REPEATS, device),
        "seconds_float32": median_seconds(lambda: compute("float32"), REPEATS, device),
        "error_float32": float(error.max()),
    }


def main(argv: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Run the benchmark; returns its records."""
    arguments = parser(__doc__, "bench_kernels")
    arguments.add_argument("--device", default="cpu")
    options = arguments.parse_args(argv)
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
    save(options.output, records, options.device)
    return records


if __name__ == "__main__":
    main()
