"""The benchmarks run: their smallest sizes, without what is not installed."""

import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"

if not BENCHMARKS.exists():
    pytest.skip("no benchmarks in this distribution", allow_module_level=True)


@pytest.mark.parametrize(
    "arguments",
    [
        ["bench_speed.py", "--only", "gram", "varying", "ridge", "memory"],
        ["bench_kernels.py"],
        ["bench_mnist.py"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_benchmark_runs(arguments, tmp_path):
    output = tmp_path / "out.json"
    name, *rest = arguments
    done = subprocess.run(
        [sys.executable, BENCHMARKS / name, "--fast", "--output", output, *rest],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert output.exists() or "skipped" in done.stdout
