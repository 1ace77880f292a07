"""Ridge regression on features by sums over blocks, against refits and scikit-learn."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from sklearn.linear_model import Ridge

from sklearn_deq.linear import NormalEquations, feature_ridge

ALPHAS = np.array([1e-3, 1.0, 100.0])


@pytest.fixture
def data(rng):
    Z = rng.standard_normal((60, 7)) + 3.0
    Y = Z[:, :2] ** 2 + rng.standard_normal((60, 2))
    return Z, Y, rng.uniform(0.2, 2.0, 60)


def _sums(Z, Y, weight, blocks=4):
    parts = np.array_split(np.arange(len(Z)), blocks)
    return sum(
        NormalEquations.of(Z[part], Y[part], None if weight is None else weight[part])
        for part in parts
    )


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("fit_intercept", [False, True])
def test_coefficients_are_those_of_scikit_learn(data, weighted, fit_intercept):
    Z, Y, weight = data
    weight = weight if weighted else None
    found = feature_ridge(_sums(Z, Y, weight), ALPHAS, fit_intercept=fit_intercept)
    for a, alpha in enumerate(ALPHAS):
        ridge = Ridge(alpha=alpha, fit_intercept=fit_intercept)
        ridge.fit(Z, Y, sample_weight=weight)
        assert_allclose(found.coef[a], ridge.coef_.T, rtol=1e-9, atol=1e-11)
        intercept = ridge.intercept_ if fit_intercept else np.zeros(2)
        assert_allclose(found.intercept[a], intercept, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("fit_intercept", [False, True])
def test_left_out_rows_are_predicted_as_by_refits(data, weighted, fit_intercept):
    Z, Y, weight = data
    weight = weight if weighted else None
    fit = feature_ridge(_sums(Z, Y, weight), ALPHAS, fit_intercept=fit_intercept)
    rows = np.array([0, 17, 59])
    found = fit.leave_one_out(
        Z[rows], Y[rows], None if weight is None else weight[rows]
    )
    for i, row in enumerate(rows):
        kept = np.arange(len(Z)) != row
        for a, alpha in enumerate(ALPHAS):
            ridge = Ridge(alpha=alpha, fit_intercept=fit_intercept)
            ridge.fit(
                Z[kept], Y[kept], sample_weight=None if weight is None else weight[kept]
            )
            assert_allclose(found[a, i], ridge.predict(Z[[row]])[0], rtol=1e-8)


def test_blocks_do_not_matter(data):
    Z, Y, weight = data
    one, many = (feature_ridge(_sums(Z, Y, weight, k), ALPHAS) for k in (1, 13))
    assert_allclose(one.coef, many.coef, rtol=1e-10, atol=1e-12)
