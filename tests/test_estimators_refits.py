"""Kernel estimators between fits: a refit that fails, parameters set since the fit."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sklearn.exceptions import NotFittedError
from sklearn.utils.validation import check_is_fitted

from sklearn_deq import (
    DEQClassifier,
    DEQKernelRidgeClassifierCV,
    DEQKernelRidgeCV,
    DEQKernelTransformer,
    DEQRegressor,
    ExplicitEquivalentRegressor,
)

UNSTABLE = {"recurrent_variance": 5.0}
EXACT = {"n_components": None}
NYSTROEM = {"n_components": 5, "approximation": "nystroem"}
RANDOM = {"n_components": 5, "approximation": "random_features"}
RIDGES = [DEQKernelRidgeCV, DEQKernelRidgeClassifierCV]


@pytest.fixture
def data(rng):
    """X, and three classes that are numbers, too."""
    X = rng.standard_normal((30, 4))
    return X, np.arange(30) % 3


def _fails(model, X, y, match):
    with pytest.raises((ValueError, MemoryError), match=match):
        model.fit(X, y)


@pytest.mark.parametrize("last", [EXACT, NYSTROEM, RANDOM])
def test_a_refit_leaves_nothing_of_other_modes(data, last):
    X, _ = data
    model = DEQKernelTransformer(random_state=0)
    for settings in (NYSTROEM, RANDOM, EXACT, last):
        model.set_params(**settings).fit(X)
    once = DEQKernelTransformer(random_state=0, **last).fit(X)
    assert vars(model).keys() == vars(once).keys()


@pytest.mark.parametrize("n_components", [None, 8])
@pytest.mark.parametrize("Ridge", RIDGES)
def test_a_fitted_ridge_follows_device_and_memory(data, Ridge, n_components):
    X, y = data
    model = Ridge(recurrent_variance=0.2, n_components=n_components, random_state=0)
    model.fit(X, np.minimum(y, 1))
    expected = model.predict(X)
    # A device that computes nothing.
    model.set_params(device="meta")
    with pytest.raises(ValueError, match=r"device must be 'cpu', .* got 'meta'"):
        model.predict(X)
    assert_array_equal(model.set_params(device="cpu").predict(X), expected)


@pytest.mark.parametrize("n_components", [None, 8])
@pytest.mark.parametrize(
    ("changed", "match"),
    [
        (UNSTABLE, "Unstable DEQ"),
        ({"max_memory": 10.0, "dtype": "float32"}, "max_memory"),
        ({"scoring": "r2", "cv": 15, "alphas": []}, "empty"),
    ],
    ids=["late", "memory", "early"],
)
@pytest.mark.parametrize("Ridge", RIDGES)
def test_a_ridge_fit_that_fails_leaves_the_earlier_model(
    data, Ridge, changed, match, n_components
):
    X, y = data
    model = Ridge(recurrent_variance=0.2, n_components=n_components, random_state=0)
    model.fit(X, np.minimum(y, 1))
    told, before = dict(vars(model)), model.predict(X)
    params = model.get_params()
    model.set_params(**changed)
    _fails(model, X[:, :2], y + 5, match)
    model.set_params(**params)
    assert vars(model) == told
    found = model.predict(X)
    assert found.dtype == before.dtype
    assert_array_equal(found, before)


@pytest.mark.parametrize("settings", [EXACT, NYSTROEM, RANDOM])
def test_a_transformer_fit_that_fails_leaves_the_earlier_one(data, settings):
    X = data[0]
    model = DEQKernelTransformer(**settings, random_state=0).fit(X)
    before = model.transform(X)
    model.set_params(**UNSTABLE)
    _fails(model, X[:20, :2], None, "Unstable DEQ")
    model.set_params(recurrent_variance=0.2)
    assert_array_equal(model.transform(X), before)


@pytest.mark.parametrize("Model", [*RIDGES, DEQKernelTransformer])
def test_a_first_fit_that_fails_leaves_nothing(data, Model):
    model = Model(**UNSTABLE)
    told = dict(vars(model))
    _fails(model, *data, "Unstable DEQ")
    assert vars(model) == told
    with pytest.raises(NotFittedError):
        check_is_fitted(model)


@pytest.mark.parametrize("large", [False, True], ids=["array", "dask"])
@pytest.mark.parametrize("other", [EXACT, NYSTROEM | {"n_components": 7}, RANDOM])
@pytest.mark.parametrize("settings", [EXACT, NYSTROEM, RANDOM])
def test_a_transformer_is_what_it_was_fitted_as(data, settings, other, large):
    X = data[0]
    if large:
        X = pytest.importorskip("dask.array").from_array(X, chunks=(10, 4))
    model = DEQKernelTransformer(**settings, random_state=0).fit(data[0])
    before = np.asarray(model.transform(X))
    kernel = {"kernel": "ntk", "activation": "tanh", "recurrent_variance": 0.9}
    model.set_params(**kernel, **other, normalize=True, center=False, dtype="float32")
    found = np.asarray(model.transform(X))
    assert found.dtype == before.dtype
    assert_array_equal(found, before)
    # Where it computes is followed.
    with pytest.raises(ValueError, match="device"):
        np.asarray(model.set_params(device="nowhere").transform(X))
    model.set_params(device="cpu").fit(data[0])
    assert model.transform(data[0]).dtype == np.float32


@pytest.mark.parametrize(
    "Model",
    [*RIDGES, DEQRegressor, DEQClassifier, ExplicitEquivalentRegressor],
)
def test_others_are_what_they_were_fitted_as(data, Model):
    X, y = data
    network = {"width": 8, "max_epochs": 1, "random_state": 0}
    ridge = {"recurrent_variance": 0.2}
    model = Model(**(ridge if Model in RIDGES else network)).fit(X, y)
    values = getattr(model, "decision_function", model.predict)
    before = values(X)
    model.set_params(normalize=True, dtype="float32", recurrent_variance=0.5)
    assert values(X).dtype == before.dtype
    assert_array_equal(values(X), before)
