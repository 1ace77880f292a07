"""The memory budget: its default, and what every estimator says that it holds."""

import os
import tracemalloc

import numpy as np
import pytest
from joblib import parallel_config
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.kernel_ridge import KernelRidge
from sklearn.model_selection import KFold

from sklearn_deq import (
    DEQKernel,
    DEQKernelRidgeClassifierCV,
    DEQKernelRidgeCV,
    DEQKernelTransformer,
)
from sklearn_deq.kernels import deq_kernel, explicit_kernel
from sklearn_deq.kernels._memory import available_memory, memory_budget
from sklearn_deq.theory import equilibrium_moments, solve_match

MODULE = "sklearn_deq.kernels._memory"
N = 40
GRAM = 8 * N * N
# Predictions of one target, one alpha and all samples.
PREDICTIONS = 8 * N
RIDGE = {"alphas": 1.0, "recurrent_variance": 0.2}


@pytest.fixture
def X(rng):
    return rng.standard_normal((N, 3))


@pytest.fixture
def groups_of_process(tmp_path, monkeypatch):
    """Write what Linux tells of control groups, below a folder of ours."""

    def write(process, limits):
        for name, text in limits.items():
            file = tmp_path / "groups" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        (tmp_path / "process").write_text(process)
        monkeypatch.setattr(f"{MODULE}._GROUPS_OF_PROCESS", tmp_path / "process")
        monkeypatch.setattr(f"{MODULE}._GROUPS", tmp_path / "groups")

    return write


@pytest.mark.parametrize(
    ("process", "limits", "expected"),
    [
        # Version 2: its own group, one above, a container's root.
        ("0::/a/b\n", {"a/b/memory.max": "1000\n", "a/memory.max": "max\n"}, 1000),
        ("0::/a/b\n", {"a/b/memory.max": "max\n", "a/memory.max": "900\n"}, 900),
        ("0::/\n", {"memory.max": "800\n"}, 800),
        ("0::/not/here\n", {"memory.max": "800\n"}, 800),
        # Version 1, beside other controllers.
        (
            "5:cpu:/x\n4:memory:/x\n0::/\n",
            {"memory/x/memory.limit_in_bytes": "700\n"},
            700,
        ),
        ("4:memory:/x\n", {"memory/memory.limit_in_bytes": "600\n"}, 600),
    ],
)
def test_a_container_limits_the_default(process, limits, expected, groups_of_process):
    groups_of_process(process, limits)
    assert available_memory() == expected
    assert memory_budget(None) == expected / 2


def test_without_a_limit_it_is_the_machine(groups_of_process):
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    groups_of_process("0::/\n", {"memory.max": "max\n"})
    assert available_memory() == machine
    # Version 1 has no word for "no limit".
    groups_of_process(
        "4:memory:/\n", {"memory/memory.limit_in_bytes": f"{2**63 - 4096}\n"}
    )
    assert available_memory() == machine


@pytest.mark.parametrize("missing", ["no function", "no answer"])
def test_a_machine_that_does_not_say(missing, groups_of_process, monkeypatch):
    groups_of_process("", {})
    if missing == "no function":
        monkeypatch.delattr(os, "sysconf")
    else:
        monkeypatch.setattr(os, "sysconf", lambda name: -1)
    assert available_memory() == 8 * 2**30


def test_the_message_has_size_budget_and_way_out():
    X = np.ones((100_000, 1))
    message = (
        r"needs 74\.5 GiB .*\(100000, 100000\) in float64.* 954 MiB "
        r"\(max_memory\)\. Raise max_memory, use dtype='float32', "
        r".*DEQKernelTransformer\(n_components"
    )
    with pytest.raises(MemoryError, match=message):
        deq_kernel(X, max_memory=1e9)
    with pytest.raises(MemoryError, match=message):
        KernelRidge(kernel=DEQKernel(max_memory=1e9)).fit(X, X[:, 0])
    # What is float32 already cannot be made so.
    with pytest.raises(MemoryError, match=r"37\.3 GiB .* Raise max_memory, or"):
        deq_kernel(X, max_memory=1e9, dtype="float32")
    layers = solve_match(equilibrium_moments("relu")).layers
    with pytest.raises(MemoryError, match="fewer rows at a time"):
        explicit_kernel(X, layers=layers, max_memory=1e9)


def test_the_default_is_named(groups_of_process, X):
    groups_of_process("0::/\n", {"memory.max": "1000\n"})
    with pytest.raises(MemoryError, match=r"\(half of the machine's memory\)"):
        deq_kernel(X)


def test_gradients_count(X):
    """K and two gradients; a fixed variance is one less."""
    kernel = DEQKernel(max_memory=2.5 * GRAM)
    with pytest.raises(MemoryError, match="_bounds='fixed'"):
        GaussianProcessRegressor(kernel).fit(X, X[:, 0])
    kernel.set_params(input_variance_bounds="fixed")
    assert kernel(X, eval_gradient=True)[1].shape == (N, N, 1)


@pytest.mark.parametrize(
    ("params", "held", "way"),
    [
        # The third is for strips of up to 512 rows.
        ({}, 3 * GRAM + PREDICTIONS, "fit fewer samples"),
        ({"alphas": (0.1, 1.0)}, 3 * GRAM + 2 * PREDICTIONS, "approximate"),
        # One kernel keeps one job busy.
        ({"n_jobs": 2}, 3 * GRAM + PREDICTIONS, "n_components"),
        (
            {"n_jobs": 2, "recurrent_variance": (0.1, 0.2)},
            2 * (3 * GRAM + PREDICTIONS),
            "n_jobs=1",
        ),
        # Four folds: trained on three quarters of the samples.
        ({"cv": KFold(4)}, 2 * GRAM + 2 * GRAM * 9 // 16 + PREDICTIONS, "cv=None"),
    ],
)
@pytest.mark.parametrize("estimator", [DEQKernelRidgeCV, DEQKernelRidgeClassifierCV])
def test_kernel_ridge_counts_what_it_holds(estimator, params, held, way, X):
    y = X[:, 0] > 0 if estimator is DEQKernelRidgeClassifierCV else X[:, 0]
    model = estimator(**RIDGE | params)
    with pytest.raises(MemoryError, match=f"Raise max_memory.*{way}"):
        model.set_params(max_memory=held - 1).fit(X, y)
    # Threads do for processes.
    with parallel_config("threading"):
        model.set_params(max_memory=held).fit(X, y)
    # More new samples than the budget would hold at once.
    many = np.repeat(X, 50, axis=0)
    np.testing.assert_allclose(
        model.predict(many), np.repeat(model.predict(X), 50), rtol=1e-10
    )


def test_kernel_ridge_says_what_the_fit_to_all_samples_holds(X):
    """One Gram matrix, of float32 if X is, where the search takes fewer samples."""
    model = DEQKernelRidgeCV(**RIDGE, search_samples=10)
    with pytest.raises(MemoryError, match=r"\(40, 40\) in float64.*dtype='float32'"):
        model.set_params(max_memory=2 * GRAM - 1).fit(X, X[:, 0])
    single = X.astype(np.float32)
    model.fit(single, X[:, 0])
    with pytest.raises(MemoryError, match=r"in float32.*Raise max_memory, fit fewer"):
        model.set_params(max_memory=GRAM + GRAM // 2 - 1).fit(single, X[:, 0])
    # Before anything is allocated.
    many = np.ones((20_000, 1), np.float32)
    model = DEQKernelRidgeCV(**RIDGE, max_memory=2e9)
    with pytest.raises(MemoryError, match="search_samples=2000"):
        model.fit(many, many[:, 0])


def test_weights_of_random_features_count(X):
    """One layer of 50 x 3 weights, before any are drawn."""
    held = 8 * 50 * 3
    model = DEQKernelTransformer(n_components=50, approximation="random_features")
    with pytest.raises(MemoryError, match=r"weights .*\(50, 3\).*lower n_components"):
        model.set_params(max_memory=held - 1).fit(X)
    model.set_params(max_memory=held).fit(X)
    assert [w.nbytes for w in model.weights_] == [held]
    # Drawn in float64, kept in float32.
    with pytest.raises(MemoryError, match="weights"):
        model.fit(X.astype(np.float32))


def test_nystroem_counts_matrices_and_features(X):
    model = DEQKernelTransformer(n_components=20, max_memory=4 * 8 * 400)
    model.fit(X).transform(X[:10])
    with pytest.raises(MemoryError, match="fewer rows at a time, or lower n_comp"):
        model.transform(np.repeat(X, 10, axis=0))
    with pytest.raises(MemoryError, match=r"4 matrices of shape \(20, 20\)"):
        model.set_params(max_memory=4 * 8 * 400 - 1).fit(X)


@pytest.mark.parametrize(
    ("model", "declared"),
    [
        (DEQKernelTransformer(n_components=1000, random_state=0), 4.0),
        (DEQKernelRidgeCV(cv=KFold(4), **RIDGE), 1 + 2 * 0.75**2),
        (DEQKernelRidgeCV(search_samples=100, dtype="float32", **RIDGE), 0.5),
    ],
    ids=["nystroem", "ridge", "ridge in float32"],
)
def test_what_is_declared_is_what_numpy_allocates(model, declared, rng):
    X = rng.standard_normal((1000, 4))
    tracemalloc.start()
    try:
        model.fit(X, X[:, 0])
        peak = tracemalloc.get_traced_memory()[1] / (8 * 1000**2)
    finally:
        tracemalloc.stop()
    # Temporaries are blocks of fixed size, together up to a quarter of 8 MB.
    assert declared <= peak < declared + 0.3


@pytest.mark.parametrize("budget", [-1, 0, np.nan, "1GB", True])
def test_a_budget_is_a_positive_number(budget, X):
    with pytest.raises(ValueError, match="max_memory must be a positive number"):
        deq_kernel(X, max_memory=budget)
    with pytest.raises(ValueError, match="max_memory must be a positive number"):
        DEQKernel(max_memory=budget)(X)
