"""`python -m benchmarks.paper NAME --quick|--full`: one experiment, or all of them."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterable, Sequence
from importlib import import_module
from pathlib import Path

import torch

from benchmarks.paper._experiment import Experiment, Settings, has, run
from benchmarks.paper._publish import publish
from benchmarks.paper._sources import (
    OPENML,
    Patches,
    Source,
    label_of,
    load,
    name_of,
)
from sklearn_deq.theory._checks import did_you_mean

NAMES = (
    "spectra",
    "size",
    "samples",
    "width",
    "accuracy",
    "rates",
    "penalties",
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


def arguments() -> argparse.ArgumentParser:
    """What the command takes."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.paper",
        description="The paper's claims and open questions, measured: what each NAME "
        "asks, and what came of it, is in docs/paper.md.",
    )
    parser.add_argument(
        "names",
        nargs="+",
        choices=(*NAMES, "all"),
        metavar="NAME",
        help=f"{', '.join(NAMES)}, or all",
    )
    size = parser.add_mutually_exclusive_group(required=True)
    size.add_argument(
        "--quick",
        action="store_true",
        help="small, to see that it runs: all in two minutes",
    )
    size.add_argument("--full", action="store_true", help="as in docs/paper.md")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--data-home", type=Path, help="folder with IDX or CIFAR files")
    source.add_argument("--openml", choices=OPENML, help="images to download")
    parser.add_argument(
        "--patches",
        action="store_true",
        help="images by features of their patches, as photographs need",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("out/paper"),
        help="of results, where a run that was stopped goes on (%(default)s)",
    )
    parser.add_argument(
        "--only",
        type=_setting,
        nargs="+",
        default=[],
        metavar="SETTING=VALUE",
        help="of what is missing these cells alone, such as width=1024,4096 model=deq",
    )
    parser.add_argument(
        "--report", action="store_true", help="on what is there, computing nothing"
    )
    parser.add_argument(
        "--publish",
        type=Path,
        help="folder for table and figure, such as docs/paper, with --full",
    )
    parser.add_argument(
        "--device",
        choices=("cpu", "cuda"),
        default="cpu",
        help="where the networks of accuracy, rates and penalties are (%(default)s)",
    )
    parser.add_argument(
        "--jobs",
        type=_positive,
        default=os.cpu_count() or 1,
        help="cells at a time (%(default)s)",
    )
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 on")
    return int(text)


def _setting(text: str) -> tuple[str, list[str]]:
    name, _, values = text.partition("=")
    if not name or not values:
        raise argparse.ArgumentTypeError(f"{text!r} is not like width=1024")
    return name, values.split(",")


def _wrong(names: Sequence[str], quick: bool, only: Settings) -> str:
    """Say which setting is wrong, if any: each must be one of some experiment's."""
    cells = [cell for name in names for cell in experiment(name).cells(quick)]
    found: dict[str, set[str]] = {}
    for cell in cells:
        for setting, value in cell.items():
            found.setdefault(setting, set()).add(str(value))
    known = {
        setting: sorted(values, key=lambda v: (len(v), v))
        for setting, values in found.items()
    }
    which = names[0] if len(names) == 1 else "any of these experiments"
    which += " with --quick" if quick else " with --full"
    for setting, values in only.items():
        if setting not in known:
            return f"{setting!r} is no setting of {which}; {_there(setting, known)}"
        for value in values:
            if value not in known[setting]:
                there = _there(value, known[setting])
                return f"{value!r} is no {setting} of {which}; {there}"
    if any(has(cell, only) for cell in cells):
        return ""
    listed = "; ".join(f"{name}: {', '.join(values)}" for name, values in known.items())
    return f"no cell of {which} has them all; there are {listed}"


def _there(name: str, known: Iterable[str]) -> str:
    """What there is instead, and what was probably meant."""
    return f"there are {', '.join(known)}.{did_you_mean(name, known)}"


def _chosen(name: str, quick: bool, only: Settings) -> bool:
    """Whether an experiment has any cells with these settings."""
    return any(has(cell, only) for cell in experiment(name).cells(quick))


def main(argv: Sequence[str] | None = None) -> int:
    """Run experiments, and print their summaries; returns the exit status."""
    parser = arguments()
    options = parser.parse_args(argv)
    if options.publish and options.quick:
        parser.error("--publish is for results in full: give --full, or leave it out")
    for name in ("output", "publish"):
        folder = getattr(options, name)
        if folder is not None and folder.exists() and not folder.is_dir():
            parser.error(f"--{name}: {folder} is a file, and must be a folder")
    names = list(NAMES if "all" in options.names else options.names)
    only: Settings = {}
    for setting, values in options.only:
        only.setdefault(setting, []).extend(values)
    if wrong := _wrong(names, options.quick, only):
        parser.error(f"--only: {wrong}")
    left_out = [name for name in names if not _chosen(name, options.quick, only)]
    names = [name for name in names if name not in left_out]
    for name in names:
        if options.device != "cpu" and not experiment(name).devices:
            parser.error(f"--device: {name} is computed on the CPU alone")
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device: torch finds no CUDA device here")
    source = options.openml or options.data_home
    if options.patches:
        if source is None:
            parser.error("--patches needs images: give --data-home or --openml as well")
        source = Patches(source)
    try:
        # Before anything is computed: images that are not there, or not whole. For a
        # report their name will do, without features of patches.
        (name_of if options.report else load)(source)
    except (OSError, ValueError) as error:
        parser.error(f"{'--openml' if options.openml else '--data-home'}: {error}")
    for name in ("output", "publish"):
        folder = getattr(options, name)
        if folder is not None and not options.report:
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                parser.error(f"--{name}: {error}")
    if left_out:
        print(f"no cells with what --only asks for: {', '.join(left_out)}")
    started = time.perf_counter()
    try:
        found = [one(name, source, only, options) for name in names]
    except KeyboardInterrupt:
        print(
            f"\nStopped: what is there is kept in {options.output}, and the same "
            "command goes on from it.",
            file=sys.stderr,
        )
        return 130
    if not any(found):
        return 1
    number = f"{len(names)} experiment{'s' * (len(names) > 1)}"
    print(f"\n{number} in {time.perf_counter() - started:.0f} s")
    return 0


def one(name: str, source: Source, only: Settings, options: argparse.Namespace) -> bool:
    """Run one experiment, and print its summary; returns whether there is any."""
    found = experiment(name)
    done = run(
        found,
        options.output,
        options.quick,
        source,
        options.jobs,
        only_report=options.report,
        only=only,
        device=options.device,
    )
    if done is None:
        print(f"{name}: nothing is there; without --report it is computed")
        return False
    print(f"\n{name}: {found.question}")
    for row in done["summary"]:
        print("  " + "  ".join(f"{key} {value}" for key, value in row.items()))
    about = done["about"]
    for at in about["circumstances"]:
        print(f"  {at['cells']} cells at commit {at['commit']}")
    for category, number in about["warned"].items():
        print(f"  {number} times {category}")
    stem = found.stem(options.quick, source)
    print(f"  written to {options.output}/{stem}.*", flush=True)
    if options.publish:
        page = f"{name}-{label_of(source)}" if found.images else name
        publish(found, done, options.output / stem, options.publish / page)
    return True


if __name__ == "__main__":
    sys.exit(main())
