"""Speed and memory of the kernels, as ratios of medians measured in one run."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _measure import HEADER, SEED, compare, parser, record, save, seconds
from sklearn.kernel_ridge import KernelRidge

from sklearn_deq import DEQKernel
from sklearn_deq.kernels import deq_kernel

HERE = Path(__file__).parent
N_FEATURES = 784
LAYERS = 20
ROWS = ("gram", "varying", "tangents", "ridge", "memory", "search")


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


def reply(server: subprocess.Popen[str], errors: Path) -> str:
    """Next line that the server writes; an error with what it complained of if none."""
    assert server.stdout is not None
    line = server.stdout.readline()
    if not line:
        raise RuntimeError(f"neural-tangents: {errors.read_text('utf-8')[-2000:]}")
    return line


@contextmanager
def neural_tangents(python: Path, X: np.ndarray) -> Iterator[tuple[Any, Any, Any]]:
    """Serve neural-tangents on X.

    Parameters
    ----------
    python : Path
        The interpreter that has it.
    X : ndarray of shape (n, p)
        Samples.

    Yields
    ------
    other, check, versions
        Runs once and returns its seconds; the kernels of the first samples, by name;
        versions and threads of the other side.
    """
    with tempfile.TemporaryDirectory() as folder:
        names = ("X.npy", "check.npz", "errors.txt")
        data, check, errors = (Path(folder) / name for name in names)
        np.save(data, X)
        files = [str(HERE / "neural_tangents_server.py"), str(data), str(check)]
        settings = f"--layers {LAYERS} --threads {torch.get_num_threads()}".split()
        with errors.open("w", encoding="utf-8") as stderr:
            server = subprocess.Popen(
                [str(python), *files, *settings],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )

        def other() -> float:
            print("go", file=server.stdin, flush=True)
            return float(reply(server, errors))

        # On the way out its input is closed, which ends it, and it is waited for.
        with server:
            versions = json.loads(reply(server, errors))
            yield other, dict(np.load(check)), versions


def differences(X: np.ndarray, check: dict[str, np.ndarray]) -> dict[str, Any]:
    """Largest differences from the kernels of the other side, relative to √(K_ii K_jj).

    What is timed must be the same kernel, so that larger ones are an error. On the
    diagonal a ulp of ρ moves the other side's tangent kernel by 1e-8; ours is exact.
    """
    found = {}
    for name, other in check.items():
        ours = deq_kernel(X[: len(other)], kernel=name, center=False)
        scale = np.sqrt(np.diag(ours))
        error = np.abs(ours - other) / np.outer(scale, scale)
        diagonal = float(np.diag(error).max())
        np.fill_diagonal(error, 0.0)
        found[name] = {"off_diagonal": float(error.max()), "diagonal": diagonal}
        if error.max() > 1e-11 or diagonal > 1e-7:
            raise RuntimeError(f"{name} is not that of neural-tangents: {found[name]}")
    return found


def tangents_rows(sizes: Sizes, python: Path) -> Iterator[dict[str, Any]]:
    """CK and NTK against neural-tangents on the same network, unrolled."""
    X = samples(sizes.tangents)
    sphere = X / np.sqrt(np.mean(X**2, axis=1, keepdims=True))
    against = f"neural-tangents, {LAYERS} layers"
    both = ("ck", "ntk")
    n = f"n={len(X)}"

    def row(work: str, against: str, targets: Any, X: np.ndarray, **ours: Any) -> Any:
        with neural_tangents(python, X) as (other, check, versions):
            found = differences(X, check)
            values = compare(
                lambda: seconds(lambda: deq_kernel(X, kernel=both, **ours)),
                other,
                sizes.repeats,
            )
        values |= {"differences": found, "other_side": versions}
        return record(work, against, *targets, **values)

    targets = (1 / 15, 1 / 40)
    sphere_settings = {"normalize": True, "center": False}
    yield row(f"CK + NTK, {n}", against, targets, sphere, **sphere_settings)
    targets = (1 / 5, 1 / 15)
    work = f"CK + NTK, varying norms, ReLU centred, {n}"
    yield row(work, f"{against}, not centred", targets, X)


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


_MEASURE = """
import re, sys
import numpy as np
from sklearn_deq import DEQKernelRidgeCV
from sklearn_deq.kernels import deq_kernel
def kibibytes(field):
    return int(re.search(field + r":\\s+(\\d+)", open("/proc/self/status").read())[1])
def gram(X):
    return deq_kernel(X, normalize=sys.argv[2] == "normalize")
def search(X):
    variances, alphas = np.linspace(0.1, 0.9, 5), np.logspace(-6, 3, 10)
    model = DEQKernelRidgeCV(recurrent_variance=variances, alphas=alphas, n_jobs=1)
    return model.fit(X, np.sin(X[:, 0]))
n, work = int(sys.argv[1]), search if sys.argv[2] == "search" else gram
X = np.random.default_rng(0).standard_normal((n, 784))
work(X[:600])
before = kibibytes("VmRSS")
kept = work(X)
print((kibibytes("VmHWM") - before) * 1024 / (8 * n * n))
"""


def peak_memory(n: int, work: str) -> float:
    """Peak above the process that has X, in Gram matrices of n samples.

    Above what the process holds, not above its own earlier peak: that would hide
    temporaries behind those of the imports.

    Parameters
    ----------
    n : int
        Samples.
    work : {"normalize", "varying norms", "search"}
        A Gram matrix, or the search of kernel ridge.

    Returns
    -------
    float
        Multiple of 8 n² bytes.
    """
    command = [sys.executable, "-c", _MEASURE, str(n), work]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout)


def memory_rows(sizes: Sizes) -> Iterator[dict[str, Any]]:
    """Peak memory of a Gram matrix over the output's."""
    for norms in ("normalize", "varying norms"):
        ratio = peak_memory(sizes.ridge, norms)
        work = f"peak memory of the Gram, {norms}, n={sizes.ridge}"
        yield record(work, "the output", 1.25, 1.1, ratio=ratio)


def search_row(sizes: Sizes) -> Iterator[dict[str, Any]]:
    """Peak memory of kernel ridge over five kernels and ten alphas."""
    ratio = peak_memory(sizes.ridge, "search") / 2
    work = f"peak memory, 5 kernels x 10 alphas, n={sizes.ridge}"
    # A block of the kernel and LAPACK's vectors come on top.
    yield record(work, "two Gram matrices", 1.02, 1.0, ratio=ratio)


def main(argv: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Run the benchmark; returns its records."""
    arguments = parser(__doc__, "bench_speed")
    arguments.add_argument("--only", nargs="+", choices=ROWS, default=ROWS)
    arguments.add_argument(
        "--neural-tangents",
        type=Path,
        default=Path(".venv-neural-tangents/bin/python"),
        help="Python that has neural-tangents (make bench installs it)",
    )
    options = arguments.parse_args(argv)
    python = options.neural_tangents
    if "tangents" in options.only and shutil.which(python) is None:
        arguments.error(f"no {python}: run make bench, or leave it out with --only")
    sizes = FAST if options.fast else FULL
    rows: dict[str, Callable[[], Iterator[dict[str, Any]]]] = {
        "gram": lambda: gram_rows(sizes),
        "varying": lambda: varying_row(sizes),
        "tangents": lambda: tangents_rows(sizes, python),
        "ridge": lambda: ridge_row(sizes),
        "memory": lambda: memory_rows(sizes),
        "search": lambda: search_row(sizes),
    }
    print(
        f"float64, p = {N_FEATURES}, {torch.get_num_threads()} threads on either side; "
        "ratio = ours / other, medians in turns"
        f"{', too small to judge by' if options.fast else ''}\n{HEADER}"
    )
    records = [row for name in options.only for row in rows[name]()]
    more = {"dtype": "float64", "n_features": N_FEATURES, "sizes": asdict(sizes)}
    save(options.output, records, **more)
    return records


if __name__ == "__main__":
    main()
