"""Speed and memory of the kernels, as ratios of medians measured in one run."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _measure import SEED, compare, parser, save, seconds
from sklearn.kernel_ridge import KernelRidge

from sklearn_deq import DEQKernel
from sklearn_deq.kernels import deq_kernel

HERE = Path(__file__).parent
N_FEATURES = 784
LAYERS = 20


@dataclass(frozen=True)
class Sizes:
    """Numbers of samples, and of turns of each comparison."""

    gram: int
    tangents: int
    ridge: int
    repeats: int
    ridge_repeats: int


FULL = Sizes(gram=4000, tangents=2000, ridge=8000, repeats=9, ridge_repeats=3)
FAST = Sizes(gram=300, tangents=100, ridge=200, repeats=2, ridge_repeats=1)


def samples(n: int) -> np.ndarray:
    """Gaussian samples whose norms vary by tens of per cent."""
    rng = np.random.default_rng(SEED)
    return rng.standard_normal((n, N_FEATURES)) * rng.uniform(0.7, 1.4, (n, 1))


def record(
    work: str, against: str, reach: float, aim: float, **values: Any
) -> dict[str, Any]:
    """One row of the table."""
    row = {"work": work, "against": against, "reach": reach, "aim": aim, **values}
    print(
        f"{work:<44}{against:<34}{row['ratio']:8.3f}   ≤ {reach:<8.3g}{aim:<8.3g}"
        f"{'reached' if row['ratio'] <= reach else 'NOT REACHED'}",
        flush=True,
    )
    return row


def gram_rows(sizes: Sizes) -> Iterator[dict[str, Any]]:
    """Gram matrix on the sphere against the matrix product alone."""
    X = samples(sizes.gram)
    tensor = torch.from_numpy(X)

    def product() -> float:
        return seconds(lambda: tensor @ tensor.T)

    for activation, reach, aim in [
        ("relu", 1.1, 0.7),
        ("tanh", 1.2, 0.8),
        ("gelu", 1.2, 0.8),
    ]:

        def ours(activation: str = activation) -> float:
            return seconds(lambda: deq_kernel(X, activation=activation, normalize=True))

        values = compare(ours, product, sizes.repeats)
        work = f"CK Gram, {activation}, normalize, n={len(X)}"
        yield record(work, "X @ X.T in torch", reach, aim, **values)


def varying_row(sizes: Sizes) -> Iterator[dict[str, Any]]:
    """Varying norms: tanh against the centred ReLU."""
    X = samples(sizes.tangents)
    values = compare(
        lambda: seconds(lambda: deq_kernel(X, activation="tanh")),
        lambda: seconds(lambda: deq_kernel(X)),
        sizes.repeats,
    )
    work = f"CK Gram, varying norms, tanh, n={len(X)}"
    yield record(work, "ours, ReLU centred", 4.0, 2.0, **values)


@contextmanager
def neural_tangents(python: Path, X: np.ndarray) -> Iterator[tuple[Any, Any]]:
    """Serve neural-tangents' time on X, and its kernels of the first 50 samples."""
    with tempfile.TemporaryDirectory() as folder:
        data, check = Path(folder) / "X.npy", Path(folder) / "check.npz"
        np.save(data, X)
        command = [str(python), str(HERE / "neural_tangents_server.py")]
        server = subprocess.Popen(
            [*command, str(data), str(check), "--layers", str(LAYERS)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert server.stdin is not None
        assert server.stdout is not None
        if server.stdout.readline().strip() != "ready":
            raise RuntimeError(f"{python} does not run neural-tangents: make bench.")

        def other() -> float:
            server.stdin.write("go\n")
            server.stdin.flush()
            return float(server.stdout.readline())

        try:
            yield other, dict(np.load(check))
        finally:
            server.stdin.close()
            server.wait()


def tangents_rows(sizes: Sizes, python: Path) -> Iterator[dict[str, Any]]:
    """CK and NTK against neural-tangents on the same network, unrolled."""
    X = samples(sizes.tangents)
    settings: dict[str, Any] = {"center": False}
    sphere = X / np.sqrt(np.mean(X**2, axis=1, keepdims=True))

    def both(X: np.ndarray, **settings: Any) -> float:
        return seconds(lambda: deq_kernel(X, kernel=("ck", "ntk"), **settings))

    against = f"neural-tangents, {LAYERS} layers"
    with neural_tangents(python, sphere) as (other, check):
        errors = {
            name: float(
                np.abs(deq_kernel(sphere[:50], kernel=name, **settings) - K).max()
            )
            for name, K in check.items()
        }
        values = compare(
            lambda: both(sphere, normalize=True, **settings), other, sizes.repeats
        )
        work = f"CK + NTK, n={len(X)}"
        yield record(work, against, 1 / 15, 1 / 40, differences=errors, **values)
    with neural_tangents(python, X) as (other, _):
        values = compare(lambda: both(X), other, sizes.repeats)
        work = f"the same, varying norms, ReLU centred, n={len(X)}"
        yield record(work, against + ", not centred", 1 / 5, 1 / 15, **values)


def ridge_row(sizes: Sizes) -> Iterator[dict[str, Any]]:
    """Kernel ridge, fit and predictions of 1,000 samples, against the RBF kernel."""
    X = samples(sizes.ridge)
    y = np.sin(X[:, 0])

    def run(kernel: Any) -> Callable[[], float]:
        model = KernelRidge(kernel=kernel, alpha=0.1)
        return lambda: seconds(lambda: model.fit(X, y).predict(X[:1000]))

    values = compare(run(DEQKernel()), run("rbf"), sizes.ridge_repeats)
    work = f"KernelRidge on DEQKernel, n={len(X)}"
    yield record(work, "KernelRidge(kernel='rbf')", 1.2, 1.0, **values)


_MEMORY = """
import re, sys
import numpy as np
from sklearn_deq.kernels import deq_kernel
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
n, normalize = int(sys.argv[1]), sys.argv[2] == "True"
X = np.random.default_rng(0).standard_normal((n, 784))
deq_kernel(X[:600], normalize=normalize)
before = peak()
K = deq_kernel(X, normalize=normalize)
print((peak() - before) * 1024 / K.nbytes)
"""


def memory_rows(sizes: Sizes) -> Iterator[dict[str, Any]]:
    """Peak memory of a Gram matrix above the process with X, over the output's."""
    for normalize in (True, False):
        arguments = [str(sizes.ridge), str(normalize)]
        command = [sys.executable, "-c", _MEMORY, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        norms = "normalize" if normalize else "varying norms"
        work = f"peak memory of the Gram, {norms}, n={sizes.ridge}"
        yield record(work, "the output", 1.25, 1.1, ratio=float(done.stdout))


def main(argv: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Run the benchmark; returns its records."""
    arguments = parser(__doc__, "bench_speed")
    arguments.add_argument(
        "--only", nargs="*", default=["gram", "varying", "tangents", "ridge", "memory"]
    )
    arguments.add_argument(
        "--neural-tangents",
        type=Path,
        default=Path(".venv-neural-tangents/bin/python"),
        help="Python that has neural-tangents (make bench installs it)",
    )
    options = arguments.parse_args(argv)
    sizes = FAST if options.fast else FULL
    rows: dict[str, Callable[[], Iterator[dict[str, Any]]]] = {
        "gram": lambda: gram_rows(sizes),
        "varying": lambda: varying_row(sizes),
        "tangents": lambda: tangents_rows(sizes, options.neural_tangents),
        "ridge": lambda: ridge_row(sizes),
        "memory": lambda: memory_rows(sizes),
    }
    print(
        f"float64, p = {N_FEATURES}, {torch.get_num_threads()} threads on either side; "
        "ratio = ours / other, medians in turns\n"
        f"{'work':<44}{'against':<34}{'ratio':>8}   to reach  to aim for"
    )
    records = [row for name in options.only for row in rows[name]()]
    save(options.output, records)
    return records


if __name__ == "__main__":
    main()
