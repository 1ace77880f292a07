"""The benchmarks run: their smallest sizes, without what is not installed."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"

if not BENCHMARKS.exists():
    pytest.skip("no benchmarks in this distribution", allow_module_level=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        ["bench_speed.py", "--only", "gram", "varying", "ridge", "memory", "search"],
        ["bench_kernels.py"],
        ["bench_scaling.py", "--figure", "figure.png"],
        ["uci.py", "--models", "DEQ kernel ridge", "NTK, SVM", "random forest"],
        ["bench_mnist.py"],
        ["bench_regression.py"],
        ["bench_latency.py"],
        ["bench_matching.py"],
        ["bench_architectures.py"],
        ["bench_training.py"],
        ["bench_equilibrium.py", "--only", "bare", "guard", "evaluations", "gpu"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_benchmark_runs(arguments, tmp_path):
    done = run(arguments, tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out.json").exists()


def run(arguments, folder):
    name, *rest = arguments
    output = ["--output", folder / "out.json"]
    return subprocess.run(
        [sys.executable, BENCHMARKS / name, "--fast", *output, *rest],
        capture_output=True,
        text=True,
        cwd=folder,
    )


def test_two_runs_are_compared(tmp_path):
    def write(name, **ratios):
        records = [{"work": k, "against": "x", "ratio": v} for k, v in ratios.items()]
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps({"records": [*records, {"error": 1.0}]}))
        return path

    before = write("before", same=1.0, slower=1.0, faster=2.0, gone=1.0)
    after = write("after", same=1.1, slower=1.3, faster=1.0, new=1.0)
    command = [sys.executable, BENCHMARKS / "compare.py"]
    done = subprocess.run([*command, before, after], capture_output=True, text=True)
    assert done.returncode == 1
    assert "WORSE   +30.0%  1.000 → 1.300  slower against x" in done.stdout
    assert "3 rows compared, 1 worse by over 15%" in done.stdout
    done = subprocess.run([*command, before, before], capture_output=True, text=True)
    assert done.returncode == 0


@pytest.mark.parametrize(
    "content", ["{}", "[1]", "3", "no JSON", '{"records": 3}', '{"records": [3]}', None]
)
def test_files_that_are_no_benchmark_are_named(content, tmp_path):
    path = tmp_path / "other.json"
    if content is not None:
        path.write_text(content)
    command = [sys.executable, BENCHMARKS / "compare.py", path, path]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    reason = "is not what a benchmark writes" if content else "cannot be read"
    assert f"error: {path} {reason}" in done.stderr
    assert "Traceback" not in done.stderr


# Speaks as benchmarks/neural_tangents_server.py does, without neural-tangents.
STAND_IN = """#!{python}
import sys
import numpy as np
from sklearn_deq.kernels import deq_kernel
X = np.load(sys.argv[2])[:50]
kernels = {{k: deq_kernel(X, kernel=k, center=False) for k in ("ck", "ntk")}}
kernels["ck"][0, 1] += {error}
np.savez(sys.argv[3], **kernels)
print('{{"threads": 1}}', flush=True)
for _ in sys.stdin:
    print(1.0, flush=True)
"""


@pytest.fixture
def stand_in(tmp_path):
    def build(error):
        script = tmp_path / "python"
        text = STAND_IN.format(python=sys.executable, error=error)
        script.write_text(text, encoding="utf-8")
        script.chmod(0o755)
        return ["bench_speed.py", "--only", "tangents", "--neural-tangents", script]

    return build


@pytest.mark.slow
def test_the_other_side_is_served_in_turns(stand_in, tmp_path):
    done = run(stand_in(0.0), tmp_path)
    assert done.returncode == 0, done.stderr
    records = json.loads((tmp_path / "out.json").read_text("utf-8"))["records"]
    assert [r["seconds_other"] for r in records] == [1.0, 1.0]
    assert [r["other_side"] for r in records] == [{"threads": 1}] * 2


@pytest.mark.slow
def test_another_kernel_is_not_timed(stand_in, tmp_path):
    done = run(stand_in(1e-6), tmp_path)
    assert done.returncode != 0
    assert "ck is not that of neural-tangents" in done.stderr


# Solves as torchdeq does, from zero by plain iteration, without torchdeq.
TORCHDEQ = """
def get_deq(f_max_iter, **settings):
    def solve(step, z):
        for _ in range(f_max_iter):
            z = step(z)
        return [z], {}
    return solve
"""


@pytest.mark.slow
def test_the_layer_is_compared_with_torchdeq(tmp_path):
    package = tmp_path / "beside" / "torchdeq"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(TORCHDEQ, encoding="utf-8")
    rows = ["forward", "backward", "memory", "epoch"]
    arguments = ["bench_equilibrium.py", "--torchdeq", package.parent, "--only", *rows]
    done = run(arguments, tmp_path)
    assert done.returncode == 0, done.stderr
    records = json.loads((tmp_path / "out.json").read_text("utf-8"))["records"]
    assert len(records) == 5
    for record in records[:2]:
        assert max(record["error"], record["error_other"]) < 1e-5


def test_without_torchdeq_it_says_so_at_once(tmp_path):
    arguments = ["--only", "forward", "--torchdeq", tmp_path / "none"]
    done = run(["bench_equilibrium.py", *arguments], tmp_path)
    assert done.returncode == 2
    assert "run make bench" in done.stderr


def test_without_neural_tangents_it_says_so_at_once(tmp_path):
    arguments = ["--only", "tangents", "--neural-tangents", tmp_path / "none"]
    done = run(["bench_speed.py", *arguments], tmp_path)
    assert done.returncode == 2
    assert "run make bench" in done.stderr


PAPER = [
    "spectra",
    "size",
    "samples",
    "accuracy",
    "cost",
    "data",
    "depth",
    "dynamics",
    "regularisation",
    "sequence",
]


@pytest.mark.slow
@pytest.mark.parametrize("name", PAPER)
def test_an_experiment_of_the_paper_runs(name, tmp_path):
    done = experiment(name, tmp_path)
    assert done.returncode == 0, done.stderr
    (path,) = tmp_path.glob(f"{name}-quick*.json")
    content = json.loads(path.read_text())
    assert content["summary"]
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    lines = path.with_suffix(".csv").read_text().splitlines()
    assert len(lines) == len(content["summary"]) + 1


def write_idx(path, values):
    """An IDX file of bytes, as load_idx reads them."""
    shape = b"".join(length.to_bytes(4, "big") for length in values.shape)
    path.write_bytes(bytes([0, 0, 8, values.ndim]) + shape + values.tobytes())


def test_a_test_set_of_its_own_is_kept_and_counts_in_full(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS.parent)
    from benchmarks.paper._data import images

    rng = np.random.default_rng(0)
    labels = {}
    for kind, n in (("train", 40), ("t10k", 12)):
        labels[kind] = rng.integers(0, 10, n, dtype=np.uint8)
        pictures = rng.integers(0, 256, (n, 3, 3), dtype=np.uint8)
        write_idx(tmp_path / f"{kind}-images-idx3-ubyte", pictures)
        write_idx(tmp_path / f"{kind}-labels-idx1-ubyte", labels[kind])
    X, y, X_test, y_test = images(tmp_path, 30, 5, seed=0)
    assert (X.shape, X_test.shape) == ((30, 9), (12, 9))
    assert_allclose(X.mean(axis=0), 0.0, atol=1e-12)
    assert_allclose(np.mean(X**2), 1.0)
    assert_array_equal(y_test, labels["t10k"])
    again = images(tmp_path, 30, 5, seed=1)
    assert not np.array_equal(again[1], y)
    assert_array_equal(again[3], y_test)


def test_the_finite_width_kernels_tend_to_the_exact_ones(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS.parent)
    from benchmarks.paper._data import mixture
    from benchmarks.paper._kernels import kernels
    from benchmarks.paper._networks import finite_width_kernel

    X = mixture(50, seed=0, n_samples=20)
    for kernel in ("ck", "ntk", "ntk_recurrent"):
        found = kernels(X, "tanh", 0.4, kernel=kernel)
        mean = finite_width_kernel(X, found.moments, kernel, width=1000, draws=5)
        # 1/√(width · draws) is 0.014; the largest of 20 directions is a few times that.
        assert found.error(mean) < 0.08


def test_the_kernel_of_an_explicit_network_tends_to_its_limit(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS.parent)
    from benchmarks._tables import relative_distance
    from benchmarks.paper._data import mixture
    from benchmarks.paper._networks import (
        build,
        explicit_layers,
        moments_of,
        network_kernel,
    )
    from sklearn_deq.kernels import explicit_kernel

    X = mixture(50, seed=0, n_samples=20)
    moments = moments_of(X, "tanh", 0.4)
    for kernel, trainable in (("ck", "readout"), ("ntk", "all")):
        layers, multipliers = explicit_layers("plain", moments, X, trainable)
        limit = explicit_kernel(
            X, layers=layers, kernel=kernel, multipliers=multipliers
        )
        body = build("plain", moments, X, 5000, seed=0, trainable=trainable)
        # As above: 1/√width is 0.014.
        found = network_kernel(body, X, kernel, seed=0)
        assert relative_distance(found, limit) < 0.08


def test_the_best_scale_is_that_of_the_operator_norm(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS.parent)
    from benchmarks._tables import best_scale

    # max(|s − 1|, |s − 4|) is least at 2.5, the sum of squares at 2.
    scale = best_scale(np.eye(3), np.diag([1.0, 1.0, 4.0]))
    assert_allclose(scale, 2.5, rtol=1e-6)
    assert_allclose(
        best_scale(4.0 * np.diag([1.0, 2.0, 3.0]), np.diag([1.0, 2.0, 3.0])),
        0.25,
        rtol=1e-6,
    )


@pytest.mark.slow
def test_a_report_on_what_is_there(tmp_path):
    assert experiment("depth", tmp_path).returncode == 0
    kept = tmp_path / "depth-quick.jsonl"
    kept.write_text(kept.read_text().strip().splitlines()[0])
    (tmp_path / "depth-quick.png").unlink()
    done = experiment("depth", tmp_path, "--report")
    assert "1 of 2 cells are missing" in done.stdout
    assert len((tmp_path / "depth-quick.csv").read_text().splitlines()) == 2
    assert (tmp_path / "depth-quick.png").exists()


@pytest.mark.slow
def test_an_experiment_goes_on_where_it_was_stopped(benchmarks, tmp_path):
    from benchmarks.paper._results import Entry

    assert experiment("depth", tmp_path).returncode == 0
    kept = tmp_path / "depth-quick.jsonl"
    lines = kept.read_text().strip().splitlines()
    # A line that was being written when the run was stopped, and one that is not there.
    changed = json.loads(lines[0])
    changed["row"]["reason"] = "kept"
    kept.write_text(json.dumps(changed) + "\n" + lines[1][:20])
    assert experiment("depth", tmp_path).returncode == 0
    rows = json.loads((tmp_path / "depth-quick.json").read_text())["rows"]
    assert rows[0]["reason"] == "kept"
    written = kept.read_text().splitlines()[-1]
    assert json.loads(written) == json.loads(lines[1])
    assert rows[1] == Entry.of_line(lines[1]).values


def experiment(name, folder, *more):
    command = [sys.executable, "-m", "benchmarks.paper", name, "--quick"]
    return subprocess.run(
        [*command, "--jobs", "1", "--output", folder, *more],
        capture_output=True,
        text=True,
        cwd=BENCHMARKS.parent,
    )


@pytest.mark.slow
def test_the_uci_page_has_its_summary_and_every_set(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("<!-- table of uci.py -->\n<!-- end of table -->\n")
    arguments = ["uci.py", "--models", "DEQ kernel ridge", "RBF, SVM"]
    done = run([*arguments, "--protocol", "published", "--markdown", page], tmp_path)
    assert done.returncode == 0, done.stderr
    records = json.loads((tmp_path / "out.json").read_text())["records"]
    lines = page.with_suffix(".csv").read_text().splitlines()
    assert (
        lines[0] == 'set,rows,features,classes,DEQ kernel ridge,"RBF, SVM, published"'
    )
    accuracies = [f"{100 * record['accuracy']:.2f}" for record in records]
    assert lines[1:] == [",".join(["iris,60,4,3", *accuracies])]
    assert f"| {accuracies[1]} |" in page.read_text()


@pytest.mark.slow
def test_uci_records_of_other_tables_stay_out_of_the_summary(tmp_path):
    first = ["uci.py", "--models", "RBF, SVM", "--protocol", "published"]
    run(first, tmp_path)
    path = tmp_path / "out.json"
    content = json.loads(path.read_text())
    assert content["records"][0]["at"]["commit"]
    other = content["records"][0] | {"set": "other", "accuracy": 0.0, "rows": 9}
    longer = content["records"][0] | {"rows": 150, "accuracy": 0.0}
    path.write_text(json.dumps({"records": [*content["records"], other, longer]}))
    again = run(first, tmp_path)
    assert "**published, 1 sets**" in again.stdout
    assert "0.00" not in again.stdout.split("RBF, SVM")[1].split()[0]
    assert len(json.loads(path.read_text())["records"]) == 3
    path.write_text("{")
    broken = run(first, tmp_path)
    assert "has no records of this benchmark" in broken.stderr
    assert "Traceback" not in broken.stderr


@pytest.mark.slow
def test_a_uci_table_that_no_model_fits_is_no_error(tmp_path):
    rng = np.random.default_rng(0)
    folds = {
        f"kfold_{k}_{i}": np.arange(600) for k in ("train", "test") for i in range(4)
    }
    splits = {"select_train": np.arange(300), "select_valid": np.arange(300, 600)}
    X, y = rng.standard_normal((600, 2)), np.arange(600) % 2
    np.savez(tmp_path / "large.npz", X=X, y=y, **folds, **splits)
    done = run(
        ["uci.py", "--models", "Gaussian process", "--data-home", tmp_path], tmp_path
    )
    assert done.returncode == 0, done.stderr
