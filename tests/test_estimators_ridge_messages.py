"""Kernel ridge: data and scores of which nothing can be learned are spoken of."""

import warnings

import numpy as np
import pytest
from scipy.sparse import csr_array
from sklearn.exceptions import UndefinedMetricWarning

from sklearn_deq import DEQKernelRidgeClassifierCV, DEQKernelRidgeCV, DEQRegressor

ONE = {"recurrent_variance": 0.2}
TWO = {"recurrent_variance": [0.2, 0.3]}


@pytest.fixture
def data(rng):
    """X, and numbers whose signs are classes."""
    X = rng.standard_normal((40, 5))
    return X, X[:, 0] * X[:, 1]


def test_targets_of_other_forms(data):
    X, y = data
    with pytest.raises(ValueError, match=r"y is a sparse matrix: give y\.toarray"):
        DEQKernelRidgeCV().fit(X, csr_array(y[:, None]))
    labels = np.column_stack([y > 0, X[:, 2] > 0]).astype(int)
    with pytest.raises(ValueError, match=r"y has 2 columns.*MultiOutputClassifier"):
        DEQKernelRidgeClassifierCV().fit(X, labels)
    with pytest.raises(ValueError, match=r"only one class: 1\.$"):
        DEQKernelRidgeClassifierCV().fit(X, np.ones(len(X), int))


@pytest.mark.parametrize("settings", [{}, ONE, {"n_components": 10}])
@pytest.mark.parametrize(("dtype", "size"), [("float64", 1e200), ("float32", 1e37)])
def test_targets_that_are_too_large(data, settings, dtype, size):
    X, y = data
    model = DEQKernelRidgeCV(**settings, dtype=dtype, random_state=0)
    with pytest.raises(ValueError, match=f"y is too large for {dtype}.*Scale y"):
        model.fit(X, size * y)
    scale = size ** (1 / 3)
    found = model.fit(X, scale * y).predict(X)
    expected = scale * model.fit(X, y).predict(X)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3 * scale)


@pytest.mark.parametrize(
    "model",
    [
        DEQKernelRidgeCV(**ONE, dtype="float32"),
        DEQRegressor(width=8, dtype="float32", trainable="readout"),
    ],
    ids=["ridge", "network"],
)
def test_targets_whose_differences_are_rounded_away(data, model):
    """Seconds since 1970 come in steps of 128 in float32."""
    X, y = data
    with pytest.warns(UserWarning, match=r"in steps of 1\.3e\+02.*Subtract the mean"):
        model.fit(X, 1.7e9 + 60.0 * y)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.fit(X, 1.7e5 + 60.0 * y)
        model.fit(X, np.column_stack([np.full(len(X), 1e30), y]))


@pytest.mark.parametrize("n_jobs", [None, 2])
def test_scores_that_are_not_defined_are_explained(data, n_jobs):
    X, y = data
    model = DEQKernelRidgeCV(**TWO, scoring="r2", cv=len(X), n_jobs=n_jobs)
    with pytest.raises(ValueError, match=r"scoring='r2' .* less than two .* folds\."):
        model.fit(X, y)
    no_score = DEQKernelRidgeCV(**ONE, scoring=lambda *_: np.nan)
    with pytest.raises(ValueError, match=r"candidate\. Choose another scoring\."):
        no_score.fit(X, y)


@pytest.mark.parametrize("n_jobs", [None, 2])
def test_scores_that_are_ill_defined_are_spoken_of_once(data, n_jobs):
    X, y = data
    model = DEQKernelRidgeClassifierCV(
        **TWO, alphas=(1e4, 1e5), scoring="precision", n_jobs=n_jobs
    )
    with pytest.warns(UndefinedMetricWarning, match="no predicted samples") as caught:
        model.fit(X, y > 1)
    assert len(caught) == 1
    assert caught[0].filename == __file__


@pytest.mark.parametrize("settings", [{}, {"n_components": 10, "random_state": 0}])
@pytest.mark.parametrize("Ridge", [DEQKernelRidgeCV, DEQKernelRidgeClassifierCV])
def test_small_features_are_spoken_of(data, Ridge, settings):
    X, y = data
    with pytest.warns(UserWarning, match="square of X is 9.6e-09") as caught:
        Ridge(**ONE, **settings).fit(1e-8 * X, y > 0)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for other in ({"scale": "standard"}, {"normalize": True}, {"bias_variance": 1}):
            Ridge(**ONE, **other, **settings).fit(1e-8 * X, y > 0)
        Ridge(**settings).fit(1e-8 * X, y > 0)
        Ridge(**ONE, **settings).fit(X, y > 0)
