"""Ridge regression on features by sums over blocks, against scikit-learn."""

from functools import reduce
from operator import add

import numpy as np
import pytest
from numpy.testing import assert_allclose
from sklearn.linear_model import Ridge

from sklearn_deq.linear import NormalEquations, solve_normal_equations


@pytest.fixture
def data(rng):
    Z = rng.standard_normal((60, 7)) + 3.0
    Y = Z[:, :2] ** 2 + rng.standard_normal((60, 2))
    return Z, Y, rng.uniform(0.2, 2.0, 60)


def _sums(Z, Y, weight, blocks=4):
    parts = np.array_split(np.arange(len(Z)), blocks)
    return reduce(
        add,
        (
            NormalEquations.of(
                Z[part], Y[part], None if weight is None else weight[part]
            )
            for part in parts
        ),
    )


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("fit_intercept", [False, True])
@pytest.mark.parametrize("alpha", [1e-3, 1.0, 100.0])
def test_coefficients_are_those_of_scikit_learn(data, weighted, fit_intercept, alpha):
    Z, Y, weight = data
    weight = weight if weighted else None
    coef, intercept = solve_normal_equations(
        _sums(Z, Y, weight), alpha, fit_intercept=fit_intercept
    )
    ridge = Ridge(alpha=alpha, fit_intercept=fit_intercept)
    ridge.fit(Z, Y, sample_weight=weight)
    assert_allclose(coef, ridge.coef_.T, rtol=1e-9, atol=1e-11)
    expected = ridge.intercept_ if fit_intercept else np.zeros(2)
    assert_allclose(intercept, expected, rtol=1e-9, atol=1e-10)


def test_blocks_do_not_matter_and_sums_are_of_float64(data):
    Z, Y, weight = data
    one, many = (_sums(Z.astype(np.float32), Y, weight, k) for k in (1, 13))
    assert one.gram.dtype == one.moment.dtype == np.float64
    mine, theirs = (solve_normal_equations(s, 1.0) for s in (one, many))
    assert_allclose(mine[0], theirs[0], rtol=1e-10, atol=1e-12)


def test_a_penalty_that_rounding_hides_is_refused():
    Z = np.ones((5, 3))
    with pytest.raises(np.linalg.LinAlgError, match="raise alpha"):
        solve_normal_equations(NormalEquations.of(Z, Z), 1e-20, fit_intercept=False)


def test_sums_are_in_float64_whatever_the_weights(rng):
    Z, Y = rng.standard_normal((20, 3)), rng.standard_normal((20, 2))
    weight = rng.uniform(0.5, 2.0, 20).astype(np.float32)
    sums = NormalEquations.of(Z.astype(np.float32), Y.astype(np.float32), weight)
    Z, Y, weight = (each.astype(np.float32).astype(float) for each in (Z, Y, weight))
    assert sums.gram.dtype == sums.moment.dtype == np.float64
    assert_allclose(sums.gram, (Z.T * weight) @ Z, rtol=1e-12, atol=1e-12)
