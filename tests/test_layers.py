"""The layers: a room imports only from rooms below it."""

import ast
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "sklearn_deq"

# Room -> the rooms, and the third parties, that it may import. A room is a folder or a
# module directly in the package; a new one has to be entered here.
ROOMS = {
    "__init__": ({"estimators", "theory"}, set()),
    "exceptions": (set(), set()),
    "_warnings": ({"exceptions"}, set()),
    "_shared": (set(), set()),
    "_compat": (set(), {"sklearn"}),
    "theory": (
        {"_warnings", "exceptions"},
        {"numpy", "scipy", "array_api_compat"},
    ),
    "kernels": (
        {"_warnings", "exceptions", "theory"},
        {"numpy", "scipy", "torch", "array_api_compat"},
    ),
    "nn": ({"_shared", "_warnings", "exceptions", "theory"}, {"numpy", "torch"}),
    "linear": ({"_shared", "exceptions"}, {"numpy", "scipy", "threadpoolctl"}),
    "estimators": (
        {
            "_compat",
            "_warnings",
            "exceptions",
            "theory",
            "kernels",
            "nn",
            "linear",
        },
        {
            "dask",
            "joblib",
            "numpy",
            "onnx",
            "scipy",
            "sklearn",
            "skorch",
            "torch",
            "tqdm",
        },
    ),
    "inspection": (
        {"estimators", "nn", "theory"},
        {"numpy", "sklearn", "torch", "matplotlib", "joblib"},
    ),
    "datasets": ({"_compat", "exceptions"}, {"numpy", "sklearn"}),
}
# Importing the others must not load skorch.
SKORCH_FILES = {
    "estimators/_monitoring.py",
    "estimators/_network.py",
    "estimators/_training.py",
    "estimators/_training_tools.py",
}

FILES = sorted(PACKAGE.rglob("*.py"))


def _imports(path):
    """(level, module, name or None) of every import, those inside functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield 0, alias.name, None
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield node.level, node.module or "", alias.name


def _room(path):
    relative = path.relative_to(PACKAGE)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


def _own_room(module, name):
    """Room of an own module; `from sklearn_deq import x` counts as the top."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else name if name in ROOMS else "__init__"


IDS = [str(path.relative_to(PACKAGE)) for path in FILES]


def _violations(path, room):
    """What a file of this room imports and must not."""
    rooms_below, third_parties = ROOMS[room]
    for level, module, name in _imports(path):
        top = module.partition(".")[0]
        if level > 0:
            yield f"relative import of {module!r}"
        elif name == "*":
            yield f"star import from {module}"
        elif top == "sklearn_deq":
            own = _own_room(module, name)
            if own != room and own not in rooms_below:
                yield f"{room} imports {module}"
        elif top not in third_parties and top not in sys.stdlib_module_names:
            yield f"{room} imports {module}"


def _private_imports(path):
    """Private names and modules of scikit-learn that a file imports."""
    for _, module, name in _imports(path):
        parts = [*module.split("."), name or ""]
        if parts[0] == "sklearn" and any(part.startswith("_") for part in parts):
            yield ".".join(parts)


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_imports_point_downwards(path):
    room = _room(path)
    assert room in ROOMS, f"enter the new room {room!r} in ROOMS"
    assert not list(_violations(path, room))


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_skorch_only_where_networks_are_trained(path):
    imported = {module.partition(".")[0] for _, module, _ in _imports(path)}
    assert "skorch" not in imported or str(path.relative_to(PACKAGE)) in SKORCH_FILES


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_dask_is_optional_and_in_two_places(path):
    imported = {module.partition(".")[0] for _, module, _ in _imports(path)}
    assert "dask" not in imported or path.name in ("_dask.py", "_cluster.py")


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_private_scikit_learn_only_in_compat(path):
    if path.name != "_compat.py":
        assert not list(_private_imports(path))


@pytest.mark.parametrize(
    ("room", "line"),
    [
        ("theory", "import torch"),
        ("theory", "from sklearn_deq.kernels import deq_kernel"),
        ("nn", "from sklearn.base import BaseEstimator"),
        ("nn", "from sklearn_deq import DEQClassifier"),
        ("kernels", "from sklearn_deq import estimators"),
        ("estimators", "from . import _base"),
        ("estimators", "from numpy import *"),
    ],
)
def test_a_violation_is_seen_even_inside_a_function(room, line, tmp_path):
    path = tmp_path / "bad.py"
    if line.endswith("*"):
        path.write_text(f"{line}\n")
    else:
        path.write_text(f"def f():\n    {line}\n")
    assert len(list(_violations(path, room))) == 1


def test_a_private_import_is_seen(tmp_path):
    path = tmp_path / "bad.py"
    path.write_text("from sklearn.base import _fit_context\n")
    assert list(_private_imports(path)) == ["sklearn.base._fit_context"]
