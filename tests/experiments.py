"""What tests of the experiments on the paper share: files of images, made-up cells."""

import json
import warnings

import numpy as np

# What cells give: of numbers, "MODEL" standing for every model, and of other things.
KINDS = ("exact", "finite", "asymptotic", "explicit", "hermite")
NUMBERS = {
    "spectra": [f"{kind} {what}" for kind in KINDS for what in ("error", "overlap")],
    "size": ["asymptotic", "explicit", "residual"],
    "samples": ["asymptotic", "explicit"],
    "width": ["as it is", "scaled"],
    "accuracy": ["accuracy"],
    "rates": [],
    "penalties": ["size", "given"],
    "cost": [
        "fit seconds",
        "predict microseconds",
        "FLOPs per sample",
        "accuracy",
        "MB of a fit",
        "making seconds",
    ],
    "data": [
        "norm spread",
        *(f"{kind} {what}" for kind in KINDS for what in ("error", "accuracy")),
    ],
    "depth": ["error of itself"],
    "dynamics": ["NTK drift", "NTK alignment"],
    "regularisation": [
        f"MODEL {what}" for what in ("accuracy", "gap", "alignment", "epochs")
    ],
    "sequence": ["score", "chosen"],
}


def write_idx(path, values):
    """An IDX file of bytes, as load_idx reads them."""
    values = np.asarray(values, dtype=np.uint8)
    shape = b"".join(length.to_bytes(4, "big") for length in values.shape)
    path.write_bytes(bytes([0, 0, 8, values.ndim]) + shape + values.tobytes())


def write_images(folder, kind="train", n=30, side=3, seed=0, labels=None):
    """Images and labels of a set, by default as many of each."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    write_idx(folder / f"{kind}-images", rng.integers(0, 256, (n, side, side)))
    write_idx(folder / f"{kind}-labels", rng.integers(0, 10, labels or n))
    return folder


def compute_root(cell, source):
    """No number for negative ones, and a warning of it."""
    if cell["x"] < 0:
        warnings.warn("negative", RuntimeWarning, stacklevel=1)
    return {"root": float("nan") if cell["x"] < 0 else cell["x"] ** 0.5}


def report_roots(rows, path):
    path.write_bytes(b"\x89PNG")
    return [{"x": row["x"], "root": row["root"]} for row in rows]


def roots_experiment():
    """An experiment of two cells."""
    from benchmarks.paper._experiment import Experiment

    return Experiment(
        name="roots",
        question="What are the roots?",
        cells=lambda quick: [{"x": 4.0, "seed": 3}, {"x": -1.0, "seed": 1}],
        compute=compute_root,
        report=report_roots,
    )


def strict(text):
    """JSON in which NaN is none."""

    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    return json.loads(text, parse_constant=refuse)


def made_up(name, rng):
    """What a cell might give, without computing it."""
    from benchmarks.paper._networks import MODELS

    def number():
        return float(rng.uniform(0.1, 1.0))

    names = (k.replace("MODEL", m) for k in NUMBERS[name] for m in MODELS)
    row = {name: number() for name in names}
    if name == "spectra":
        row["classes"] = list(range(10))
        for kind in KINDS:
            # An asymptotic kernel may have eigenvalues below zero.
            row[f"{kind} eigenvalues"] = [-number(), number(), 10.0 * number()]
            row[f"{kind} vectors"] = rng.standard_normal((2, 10)).tolist()
    if name == "depth":
        names = ("residual", "bound", "error", "error of a multiple")
        found: dict = {name: number() for name in names} | {"architecture": "rounded"}
        found["closest of all"] = dict(found)
        row |= {"depth": 2, "by depth": {"1": found, "2": found}}
    if name in ("rates", "penalties"):
        row |= {
            kind: {"0.01": number(), "0.05": number()} for kind in ("held out", "test")
        }
    if name == "dynamics":
        row |= {kind: [number() for _ in range(3)] for kind in ("loss", "accuracy")}
    if name in ("samples", "size"):
        row["architecture"] = "hermite"
    return row
