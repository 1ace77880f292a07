"""`python -m benchmarks.paper NAME --quick|--full`: one experiment, or all of them."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from shutil import copyfile

from benchmarks.paper._data import OPENML
from benchmarks.paper._experiment import Experiment, run

NAMES = (
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
)


def experiment(name: str) -> Experiment:
    """The experiment of that name."""
    found: Experiment = import_module(f"benchmarks.paper.{name}").EXPERIMENT
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Run experiments, and print their summaries."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.paper")
    parser.add_argument("names", nargs="+", choices=(*NAMES, "all"), metavar="NAME")
    size = parser.add_mutually_exclusive_group(required=True)
    size.add_argument("--quick", action="store_true", help="to see that it runs")
    size.add_argument("--full", action="store_true", help="as in the documentation")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--data-home", type=Path, help="folder with IDX or CIFAR files")
    source.add_argument("--openml", choices=OPENML, help="images to download")
    parser.add_argument("--output", type=Path, default=Path("out/paper"))
    parser.add_argument(
        "--report", action="store_true", help="on what is there, computing nothing"
    )
    parser.add_argument(
        "--publish", type=Path, help="folder for table and figure, such as docs/paper"
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args(argv)
    for name in NAMES if "all" in options.names else options.names:
        found = experiment(name)
        summary = run(
            found,
            options.output,
            options.quick,
            options.openml or options.data_home,
            options.jobs,
            only_report=options.report,
        )
        print(f"\n{name}: {found.question}")
        for row in summary:
            print("  " + "  ".join(f"{key} {value}" for key, value in row.items()))
        stem = found.stem(options.quick, options.openml or options.data_home)
        if options.publish:
            options.publish.mkdir(parents=True, exist_ok=True)
            for ending in ("csv", "png"):
                copyfile(
                    options.output / f"{stem}.{ending}",
                    options.publish / f"{name}.{ending}",
                )
        print(f"  written to {options.output}/{stem}.*", flush=True)


if __name__ == "__main__":
    main()
