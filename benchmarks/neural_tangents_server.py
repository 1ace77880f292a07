"""The neural-tangents side of `bench_speed.py`, run in an environment of its own.

A ReLU network of some layers, each with the input injected: what a DEQ's iteration
computes. It saves the kernels of a few samples for comparison, compiles, writes its
versions and threads as a line of JSON, and then answers every line on standard input
with the seconds of one evaluation.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np
from neural_tangents import stax

PACKAGES = ["neural-tangents", "jax", "jaxlib", "numpy", "scipy"]


def limit_threads(n_threads: int) -> int:
    """Stay on so many cores, which XLA has no option for; returns how many they are.

    To be called before jax computes anything, since XLA then counts the cores.
    """
    if not hasattr(os, "sched_setaffinity"):
        return os.cpu_count() or 1
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:n_threads])
    return len(os.sched_getaffinity(0))


def network(n_layers: int, recurrent: float, inputs: float) -> Any:
    """z ← relu(σ_a A z + σ_b B x), unrolled, from z = 0."""
    net = stax.serial(stax.Dense(1, W_std=inputs**0.5), stax.Relu())
    for _ in range(n_layers - 1):
        net = stax.serial(
            stax.FanOut(2),
            stax.parallel(
                stax.serial(net, stax.Dense(1, W_std=recurrent**0.5)),
                stax.Dense(1, W_std=inputs**0.5),
            ),
            stax.FanInSum(),
            stax.Relu(),
        )
    return stax.serial(net, stax.Dense(1))


def main() -> None:
    """Serve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help=".npy file with the samples")
    parser.add_argument("check", type=Path, help=".npz file to write")
    parser.add_argument("--layers", type=int, default=20)
    parser.add_argument("--recurrent-variance", type=float, default=0.2)
    parser.add_argument("--input-variance", type=float, default=0.8)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    options = parser.parse_args()
    threads = limit_threads(options.threads)
    jax.config.update("jax_enable_x64", True)
    _, _, kernel_fn = network(
        options.layers, options.recurrent_variance, options.input_variance
    )

    @jax.jit
    def kernels(X: Any) -> Any:
        both = kernel_fn(X, None, ("nngp", "ntk"))
        return both.nngp, both.ntk

    X = jax.numpy.asarray(np.load(options.data))
    ck, ntk = kernels(X)
    np.savez(options.check, ck=np.asarray(ck[:50, :50]), ntk=np.asarray(ntk[:50, :50]))
    versions = {name: version(name) for name in PACKAGES}
    print(json.dumps({**versions, "threads": threads}), flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        jax.block_until_ready(kernels(X))
        print(time.perf_counter() - start, flush=True)


if __name__ == "__main__":
    main()
