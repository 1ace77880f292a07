"""Names are loaded when first used, and no more than they need."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import sklearn_deq

# Module names of the package that a user may import.
SUBMODULES = [
    "datasets",
    "estimators",
    "exceptions",
    "inspection",
    "kernels",
    "nn",
    "theory",
]


def _loaded(statement):
    """Top-level packages that a fresh interpreter has loaded after the statement."""
    code = (
        f"{statement}\nimport json, sys\n"
        "print(json.dumps(sorted({m.partition('.')[0] for m in sys.modules})))"
    )
    # The path of this process, since the package need not be installed to be tested.
    prelude = f"import sys; sys.path[:] = {sys.path!r}\n"
    result = subprocess.run(
        [sys.executable, "-c", prelude + code],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return set(json.loads(result.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        (
            "import sklearn_deq; dir(sklearn_deq)",
            {"numpy", "scipy", "sklearn", "torch", "skorch"},
        ),
        ("import sklearn_deq.theory", {"sklearn", "torch", "skorch"}),
        ("from sklearn_deq import Activation", {"sklearn", "torch", "skorch"}),
        ("import sklearn_deq.kernels", {"sklearn", "skorch"}),
        ("import sklearn_deq.nn", {"sklearn", "skorch"}),
        ("from sklearn_deq import DEQKernelTransformer", {"skorch", "matplotlib"}),
        ("from sklearn_deq import DEQKernelRidgeCV", {"skorch", "matplotlib", "dask"}),
        ("import sklearn_deq.linear", {"sklearn", "torch", "skorch"}),
        ("from sklearn_deq import DEQClassifier", {"matplotlib"}),
        ("import sklearn_deq.inspection", {"matplotlib", "skorch"}),
    ],
)
def test_importing_loads_no_more_than_needed(statement, absent):
    assert not _loaded(statement) & absent


@pytest.mark.parametrize("name", sklearn_deq.__all__)
def test_exported_names_resolve(name):
    exported = getattr(sklearn_deq, name)
    assert exported.__name__ == name
    assert name in dir(sklearn_deq)


@pytest.mark.parametrize("name", SUBMODULES)
def test_submodules_resolve_and_have_what_they_announce(name):
    module = getattr(sklearn_deq, name)
    assert name in dir(sklearn_deq)
    assert list(module.__all__) == sorted(module.__all__, key=_isort_key)
    for exported in module.__all__:
        assert hasattr(module, exported)


def _isort_key(name):
    """Order of ruff's RUF022: constants, classes, functions."""
    rank = 0 if name.isupper() else 1 if name[0].isupper() else 2
    return rank, name


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'DEQClasifier'"):
        _ = sklearn_deq.DEQClasifier


def test_star_import_brings_the_public_names():
    namespace = {}
    exec("from sklearn_deq import *", namespace)
    assert set(sklearn_deq.__all__) <= set(namespace)


def test_type_checkers_see_the_same_names():
    tree = ast.parse(Path(sklearn_deq.__file__).read_text(encoding="utf-8"))
    guarded = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.name for node in guarded.body for alias in node.names}
    assert seen == set(sklearn_deq.__all__)
