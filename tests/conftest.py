"""Fixtures shared by the tests.

SKLEARN_DEQ_TEST_SEED chooses the seed of `global_random_seed`: tests that use it must
pass with any in [0, 99]. HYPOTHESIS_PROFILE=long draws many more examples, and new ones
each time.
"""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

# Figures are only written to files; chosen before anything imports matplotlib.
os.environ.setdefault("MPLBACKEND", "Agg")

settings.register_profile("quick", max_examples=25, deadline=None, derandomize=True)
settings.register_profile("long", max_examples=500, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))

REFERENCE = json.loads((Path(__file__).parent / "data" / "theory.json").read_text())


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """What scikit-learn checks once more, on memory-mapped arrays, is slow."""
    for item in items:
        if "readonly_memmap=True" in item.name:
            item.add_marker(pytest.mark.slow)


@pytest.fixture
def benchmarks(monkeypatch):
    """Make the benchmarks importable; returns their folder."""
    folder = Path(__file__).parents[1] / "benchmarks"
    if not folder.exists():
        pytest.skip("no benchmarks in this distribution")
    monkeypatch.syspath_prepend(folder.parent)
    return folder


@pytest.fixture
def rng():
    """A generator with a fixed seed."""
    return np.random.default_rng(0)


@pytest.fixture
def global_random_seed():
    """A seed that the one who runs the tests may choose."""
    return int(os.environ.get("SKLEARN_DEQ_TEST_SEED", "42"))


@pytest.fixture(scope="session")
def digits():
    """Standardised digits, read-only: X_train, X_test, y_train, y_test."""
    X, y = load_digits(return_X_y=True)
    X_train, X_test, y_train, y_test = train_test_split(
        X, y, test_size=0.25, stratify=y, random_state=0
    )
    scaler = StandardScaler().fit(X_train)
    split = scaler.transform(X_train), scaler.transform(X_test), y_train, y_test
    for array in split:
        array.flags.writeable = False
    return split
