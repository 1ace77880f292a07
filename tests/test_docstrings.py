"""numpydoc validation of everything public."""

import dataclasses
import importlib
import inspect
import tomllib
from pathlib import Path

import pytest

numpydoc_validate = pytest.importorskip("numpydoc.validate")

MODULES = [
    "sklearn_deq.datasets",
    "sklearn_deq.estimators",
    "sklearn_deq.exceptions",
    "sklearn_deq.inspection",
    "sklearn_deq.kernels",
    "sklearn_deq.linear",
    "sklearn_deq.nn",
    "sklearn_deq.theory",
]
_SETTINGS = tomllib.loads(
    (Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8")
)
# The list, with reasons, stands in pyproject.toml: "all" but these.
IGNORED = set(_SETTINGS["tool"]["numpydoc_validation"]["checks"]) - {"all"}


def _public_objects():
    """Yield dotted name and object of what `__all__` names, and own public methods."""
    for module_name in MODULES:
        module = importlib.import_module(module_name)
        for name in module.__all__:
            item = getattr(module, name)
            if not (inspect.isclass(item) or inspect.isfunction(item)):
                continue
            yield f"{module_name}.{name}", item
            if inspect.isclass(item):
                for method, value in inspect.getmembers(item):
                    if _is_own(item, method, value):
                        yield f"{module_name}.{name}.{method}", value


def _is_own(cls, method, value):
    """Whether it is public and defined in this package, here or in a base class."""
    if method.startswith("_"):
        return False
    function = value.fget if isinstance(value, property) else value
    return inspect.isfunction(function) and function.__module__.startswith(
        "sklearn_deq."
    )


def _is_example_due(item):
    """Functions and classes need an example; methods and plain results do not."""
    return inspect.isfunction(item) or not dataclasses.is_dataclass(item)


OBJECTS = dict(_public_objects())


@pytest.mark.parametrize("name", OBJECTS)
def test_docstring_is_valid(name):
    item = OBJECTS[name]
    ignored = set(IGNORED)
    is_method = name.count(".") == 3
    if not is_method and _is_example_due(item):
        ignored -= {"EX01"}
    if dataclasses.is_dataclass(item) and "Attributes\n" in (item.__doc__ or ""):
        # Fields of a frozen result are documented once, as attributes.
        ignored |= {"PR01"}
    if isinstance(item, property):
        ignored |= {"PR01", "RT01"}
    errors = [
        f"{code}: {message}"
        for code, message in numpydoc_validate.validate(name)["errors"]
        if code not in ignored
    ]
    assert not errors, f"{name}:\n" + "\n".join(errors)


def test_modules_have_docstrings():
    package = Path(__file__).parents[1] / "sklearn_deq"
    for path in sorted(package.rglob("*.py")):
        first = path.read_text(encoding="utf-8").lstrip()
        assert first.startswith('"""'), f"{path.name} has no docstring"
