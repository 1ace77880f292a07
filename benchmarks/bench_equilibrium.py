"""Speed and memory of the equilibrium layer, as ratios measured in one run, in turns.

Both sides have the same float32 weights, threads and tolerance: a relative residual of
1e-5 of every sample, in both passes. The errors printed are those of the states, and of
the gradient of A, against a float64 solution to 1e-12.
"""

from __future__ import annotations

import gc
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _images import load_mnist
from _measure import HEADER, SEED, compare, parser, record, save, seconds
from torch import nn
from torch.profiler import ProfilerActivity, profile

from sklearn_deq import DEQClassifier
from sklearn_deq.datasets import make_gaussian_mixture
from sklearn_deq.nn import EquilibriumLayer, fixed_point

N_FEATURES = 784
TOL = 1e-5
ROWS = ("forward", "backward", "bare", "memory", "guard", "epoch", "evaluations", "gpu")
# Only where asked for: it takes half a minute to compile, and a C++ compiler.
MORE_ROWS = ("compile",)
NEED_TORCHDEQ = {"forward", "backward", "memory", "epoch"}
# Function evaluations that Picard needs, for the slowest of 64 samples.
PICARD = {0.2: 18, 0.9: 61}


@dataclass(frozen=True)
class Sizes:
    """Width and batch of the layer, samples and width of the epoch, and turns."""

    width: int
    batch: int
    samples: int
    epoch_width: int
    gpu_width: int
    gpu_batch: int
    repeats: int
    epoch_repeats: int


FULL = Sizes(
    width=1024,
    batch=128,
    samples=8000,
    epoch_width=512,
    gpu_width=8192,
    gpu_batch=4096,
    repeats=31,
    epoch_repeats=5,
)
FAST = Sizes(
    width=64,
    batch=16,
    samples=100,
    epoch_width=32,
    gpu_width=256,
    gpu_batch=64,
    repeats=2,
    epoch_repeats=1,
)


def make_layer(width: int, precision: str, **params: Any) -> EquilibriumLayer:
    """A layer whose weights depend on its width alone."""
    generator = torch.Generator().manual_seed(SEED)
    defaults = {"generator": generator, "stability": None, "tol": TOL}
    return EquilibriumLayer(
        N_FEATURES, width, precision=precision, **{**defaults, **params}
    )


def samples(n: int, **params: Any) -> torch.Tensor:
    """Gaussian samples."""
    generator = torch.Generator().manual_seed(SEED + 1)
    return torch.randn(n, N_FEATURES, generator=generator).to(**params)


class TorchDEQ(nn.Module):
    """The layer solved by torchdeq: plain iteration, its fastest solver for it."""

    def __init__(self, layer: EquilibriumLayer) -> None:
        super().__init__()
        from torchdeq import get_deq

        self.layer = layer
        solver = "fixed_point_iter"
        self.deq = get_deq(
            core="indexing",
            ift=True,
            f_solver=solver,
            b_solver=solver,
            f_tol=TOL,
            b_tol=TOL,
            f_stop_mode="rel",
            b_stop_mode="rel",
            f_max_iter=50,
            b_max_iter=50,
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """States, with an implicit gradient in training mode."""
        layer = self.layer
        u = x @ layer.input_weight.T * layer.input_scale

        def step(z: torch.Tensor) -> torch.Tensor:
            weight = layer.recurrent_weight.T
            pre = torch.addmm(u, z, weight, alpha=layer.recurrent_scale)
            return torch.relu(pre) * layer.output_scale

        states, _ = self.deq(step, torch.zeros_like(u))
        return states[-1]


def without_gradient(module: nn.Module, x: torch.Tensor) -> Callable[[], torch.Tensor]:
    """One forward pass."""

    def work() -> torch.Tensor:
        module.eval()
        with torch.no_grad():
            return module(x)

    return work


def with_gradient(
    module: nn.Module, layer: EquilibriumLayer, x: torch.Tensor
) -> Callable[[], torch.Tensor]:
    """One forward and backward pass; returns the gradient of A."""

    def work() -> torch.Tensor:
        module.train()
        layer.zero_grad()
        module(x).square().sum().backward()
        return layer.recurrent_weight.grad

    return work


def errors(found: Sequence[torch.Tensor], exact: torch.Tensor) -> dict[str, float]:
    """Relative errors of both sides."""
    norm = torch.linalg.vector_norm(exact)
    ours, other = (
        float(torch.linalg.vector_norm(f.double() - exact) / norm) for f in found
    )
    print(f"    relative errors: ours {ours:.1e}, other {other:.1e}")
    return {"error": ours, "error_other": other}


def torchdeq_rows(sizes: Sizes, precision: str, name: str) -> Iterator[dict[str, Any]]:
    """The forward pass, or both passes, against torchdeq's."""
    x = samples(sizes.batch)
    layer = make_layer(sizes.width, precision)
    exact = make_layer(sizes.width, "full", dtype=torch.float64, tol=1e-12)
    other = TorchDEQ(layer)
    if name == "forward":
        works = [without_gradient(module, x) for module in (layer, other)]
        reference = without_gradient(exact, x.double())
        work, targets = "forward", (1 / 1.3, 1 / 2)
    else:
        works = [with_gradient(module, layer, x) for module in (layer, other)]
        reference = with_gradient(exact, exact, x.double())
        work, targets = "forward + backward", (1 / 1.7, 1 / 3)
    values = errors([work().clone() for work in works], reference())
    values |= compare(*(lambda w=w: seconds(w) for w in works), sizes.repeats)
    what = f"{work}, m={sizes.width}, batch {sizes.batch}"
    yield record(what, "torchdeq", *targets, **values)


def bare_products(layer: EquilibriumLayer, x: torch.Tensor) -> Callable[[], None]:
    """The matrix products alone of as many plain iterations, forward and backward."""
    plain = make_layer(layer.recurrent_weight.shape[0], "full").to(x.device)
    with_gradient(plain, plain, x)()
    assert plain.last_result is not None
    # The adjoint takes as many as the forward pass, from a start that is no better.
    n_products = 2 * int(plain.last_result.n_iter.max())
    weight = layer.recurrent_weight.detach()
    state = torch.ones(x.shape[0], weight.shape[0], device=x.device)
    out = torch.empty_like(state)

    def work() -> None:
        for _ in range(n_products):
            torch.mm(state, weight.T, out=out)

    return work


def bare_row(sizes: Sizes, precision: str) -> Iterator[dict[str, Any]]:
    """Both passes, weights' gradients included, against the products alone."""
    x = samples(sizes.batch)
    layer = make_layer(sizes.width, precision)
    ours, other = with_gradient(layer, layer, x), bare_products(layer, x)
    values = compare(lambda: seconds(ours), lambda: seconds(other), sizes.repeats)
    what = f"forward + backward, m={sizes.width}, batch {sizes.batch}"
    yield record(what, "products of the plain iteration", 1.25, 0.8, **values)


def peak_bytes(work: Callable[[], Any]) -> int:
    """Largest sum of what torch holds during a call, above what it held before."""
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as run:
        work()
    held = peak = 0
    events = run.profiler.kineto_results.events()
    changes = [e for e in events if e.name() == "[memory]"]
    for event in sorted(changes, key=lambda e: e.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def memory_row(sizes: Sizes, precision: str) -> Iterator[dict[str, Any]]:
    """Peak of what both passes allocate, for a batch that outweighs the gradients."""
    for batch in (sizes.batch, 16 * sizes.batch):
        x = samples(batch)
        layer = make_layer(sizes.width, precision)
        peaks = []
        for module in (layer, TorchDEQ(layer)):
            work = with_gradient(module, layer, x)
            work()
            layer.zero_grad()
            peaks.append(peak_bytes(work))
        gradients = sum(p.numel() * 4 for p in layer.parameters())
        yield record(
            f"peak memory, m={sizes.width}, batch {batch}",
            "torchdeq",
            0.7,
            0.4,
            ratio=peaks[0] / peaks[1],
            bytes=peaks[0],
            bytes_other=peaks[1],
            bytes_of_gradients=gradients,
        )


def guard_row(sizes: Sizes, precision: str) -> Iterator[dict[str, Any]]:
    """What the projection of A's norm adds to a step, measurements included."""
    x = samples(sizes.batch)
    layer = make_layer(sizes.width, precision, stability="project")
    step = with_gradient(layer, layer, x)
    interval = 64

    def project() -> None:
        for _ in range(interval):
            layer.stabilize()

    project()
    values = compare(
        lambda: seconds(project) / interval, lambda: seconds(step), sizes.repeats
    )
    what = f"projection, m={sizes.width}"
    yield record(what, f"forward + backward, batch {sizes.batch}", 0.15, 0.05, **values)


def epoch_data(n: int, folder: Path | None) -> tuple[str, np.ndarray, np.ndarray]:
    """MNIST images if there are any, else a mixture of their size."""
    if folder is None:
        X, y = make_gaussian_mixture(n, N_FEATURES, random_state=SEED)
        return "mixture", X.astype(np.float32), y
    X, y = (array[:n] for array in load_mnist(folder))
    X = X - X.mean(axis=0)
    return "MNIST", (X / X.std()).astype(np.float32), y


def epoch_row(sizes: Sizes, folder: Path | None) -> Iterator[dict[str, Any]]:
    """The first epoch of the estimator's training, and of a loop around torchdeq.

    The first one every time: without a projection torchdeq's later ones are slower.
    """
    name, X, y = epoch_data(sizes.samples, folder)
    data = torch.from_numpy(X), torch.from_numpy(y).long()

    def ours() -> float:
        width = sizes.epoch_width
        settings = {"tol": TOL, "backward_tol": TOL, "lr": 0.05}
        model = DEQClassifier(width=width, random_state=SEED, **settings)
        model.partial_fit(X, y)
        return float(model.net_.history[-1, "dur"])

    def other() -> float:
        return seconds(torchdeq_epoch(*data, sizes.epoch_width))

    values = compare(ours, other, sizes.epoch_repeats)
    what = f"first epoch, {name}, n={len(X)}, m={sizes.epoch_width}"
    yield record(what, "torchdeq in a plain loop", 1 / 1.5, 1 / 3, **values)


def torchdeq_epoch(X: torch.Tensor, y: torch.Tensor, width: int) -> Callable[[], None]:
    """All weights trained by Adam, in batches of 128."""
    body = TorchDEQ(make_layer(width, "full"))
    readout = nn.Linear(width, int(y.max()) + 1)
    nn.init.zeros_(readout.weight)
    network = nn.Sequential(body, readout).train()
    optimizer = torch.optim.Adam(network.parameters(), lr=0.05)
    generator = torch.Generator().manual_seed(SEED)

    def work() -> None:
        for rows in torch.randperm(len(X), generator=generator).split(128):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(network(X[rows]), y[rows])
            loss.backward()
            optimizer.step()

    return work


def evaluation_rows() -> Iterator[dict[str, Any]]:
    """Evaluations to 1e-8, of the slowest of 64 samples, float64."""
    generator = torch.Generator().manual_seed(SEED + 1)
    A = torch.randn(256, 256, generator=generator, dtype=torch.float64)
    B = torch.randn(256, N_FEATURES, generator=generator, dtype=torch.float64)
    x = torch.randn(64, N_FEATURES, generator=generator, dtype=torch.float64)
    for variance, reach, aim in ((0.2, 18, 17), (0.9, 50, 44)):
        u = math.sqrt((1 - variance) / N_FEATURES) * x @ B.T

        def step(
            z: torch.Tensor, rows: torch.Tensor, u: Any = u, variance: float = variance
        ) -> torch.Tensor:
            pre = u[rows] + math.sqrt(variance) * z @ A.T
            return torch.relu(pre) / math.sqrt(len(A))

        counts = {}
        for solver in ("picard", "anderson", "broyden"):
            start = torch.relu(u) / math.sqrt(len(A))
            result = fixed_point(step, start, solver=solver, tol=1e-8)
            counts[solver] = int(result.n_evaluations.max())
        work = f"evaluations to 1e-8, σ_a² = {variance}, Anderson"
        found = ", ".join(f"{name} {count}" for name, count in counts.items())
        ratio = float(counts["anderson"])
        yield record(work, found, reach, aim, ratio=ratio, evaluations=counts)


def gpu_row(sizes: Sizes, precision: str) -> Iterator[dict[str, Any]]:
    """Both passes on a GPU against the products alone."""
    if not torch.cuda.is_available():
        print("gpu: skipped, there is none")
        return
    x = samples(sizes.gpu_batch, device="cuda")
    layer = make_layer(sizes.gpu_width, precision, device="cuda")
    ours, other = with_gradient(layer, layer, x), bare_products(layer, x)
    values = compare(
        lambda: seconds(ours, "cuda"), lambda: seconds(other, "cuda"), sizes.repeats
    )
    what = f"GPU, both passes, m={sizes.gpu_width}, batch {sizes.gpu_batch}"
    yield record(what, "products of the plain iteration", 1.5, 1.15, **values)


def compile_row(sizes: Sizes) -> Iterator[dict[str, Any]]:
    """Ten plain steps with the norms that stopping needs, compiled and not."""
    layer = make_layer(sizes.width, "full").requires_grad_(False)
    u = layer.drive(samples(sizes.batch))
    weight, alpha = layer.recurrent_weight.T, layer.recurrent_scale * layer.output_scale

    def step(z: torch.Tensor) -> tuple[torch.Tensor, ...]:
        new = torch.relu(torch.addmm(u, z, weight, alpha=alpha))
        return new, *(torch.linalg.vector_norm(a, dim=1) for a in (new, new - z))

    def run(step: Callable[[torch.Tensor], tuple[torch.Tensor, ...]]) -> None:
        z = torch.relu(u)
        for _ in range(10):
            z, *_ = step(z)

    compiled = torch.compile(step)
    values = compare(
        lambda: seconds(lambda: run(compiled)),
        lambda: seconds(lambda: run(step)),
        sizes.repeats,
    )
    what = f"ten plain steps compiled, m={sizes.width}, batch {sizes.batch}"
    yield record(what, "the same, not compiled", 1.0, 0.8, **values)


def main(argv: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Run the benchmark; returns its records."""
    arguments = parser(__doc__, "bench_equilibrium")
    arguments.add_argument("--only", nargs="+", choices=ROWS + MORE_ROWS, default=ROWS)
    arguments.add_argument(
        "--torchdeq",
        type=Path,
        default=Path(".venv-torchdeq"),
        help="folder that has torchdeq (make bench installs it)",
    )
    arguments.add_argument("--data-home", type=Path, help="folder of MNIST's IDX files")
    arguments.add_argument(
        "--precision",
        choices=("auto", "full"),
        default="auto",
        help="full: no bfloat16 within the solves",
    )
    options = arguments.parse_args(argv)
    sys.path.insert(0, str(options.torchdeq.resolve()))
    if not (options.torchdeq / "torchdeq").exists() and NEED_TORCHDEQ & {*options.only}:
        arguments.error(
            f"no torchdeq in {options.torchdeq}: run make bench, or leave out "
            f"{sorted(NEED_TORCHDEQ)} with --only"
        )
    sizes, precision = FAST if options.fast else FULL, options.precision
    rows: dict[str, Callable[[], Iterator[dict[str, Any]]]] = {
        "forward": lambda: torchdeq_rows(sizes, precision, "forward"),
        "backward": lambda: torchdeq_rows(sizes, precision, "backward"),
        "bare": lambda: bare_row(sizes, precision),
        "memory": lambda: memory_row(sizes, precision),
        "guard": lambda: guard_row(sizes, precision),
        "epoch": lambda: epoch_row(sizes, options.data_home),
        "evaluations": evaluation_rows,
        "gpu": lambda: gpu_row(sizes, precision),
        "compile": lambda: compile_row(sizes),
    }
    print(
        f"float32, p = {N_FEATURES}, σ_a² = 0.2, {torch.get_num_threads()} threads on "
        "either side; ratio = ours / other, medians in turns"
        f"{', too small to judge by' if options.fast else ''}\n{HEADER}"
    )
    records = [row for name in options.only for row in rows[name]()]
    more = {"dtype": "float32", "sizes": asdict(sizes), "precision": precision}
    if NEED_TORCHDEQ & {*options.only}:
        more["torchdeq"] = torchdeq_version()
    save(options.output, records, **more)
    return records


def torchdeq_version() -> str:
    """Version of what is installed beside us."""
    try:
        return version("torchdeq")
    except ImportError:
        return "unknown"


if __name__ == "__main__":
    main()
