"""Scalings of features, and comparisons of held-out losses."""

import warnings

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import norm, rankdata, ttest_rel
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from sklearn_deq.linear import (
    SCALINGS,
    apply_scaling,
    as_good_as,
    fit_scaling,
    prediction_losses,
)


@pytest.fixture
def X(rng):
    """Columns of different kinds: normal, heavy tails, few values."""
    heavy = rng.standard_t(2, size=60)
    return np.column_stack([5 + rng.standard_normal(60), heavy, rng.integers(0, 3, 60)])


def _standard(values):
    return StandardScaler().fit_transform(values)


def _levels(X):
    """Numbers of all columns, and of the last, which has three values, indicators."""
    numbers = _standard(np.arcsinh(_standard(X)))
    hits = _one_hot(X[:, 2])
    indicators = (hits - hits.mean(axis=0)) / np.sqrt(hits.var(axis=0).sum())
    return np.hstack([numbers, indicators]) * np.sqrt(6 / 4)


def _one_hot(column):
    return OneHotEncoder(sparse_output=False).fit_transform(column[:, None])


ORACLES = {
    "standard": _standard,
    "arcsinh": lambda X: _standard(np.arcsinh(_standard(X))),
    "rank": lambda X: _standard(norm.ppf((rankdata(X, axis=0) - 0.5) / len(X))),
    "levels": _levels,
}


@pytest.mark.parametrize("method", SCALINGS)
def test_scaling_of_the_training_samples(X, method):
    scaled = apply_scaling(fit_scaling(X, method), X)
    assert_allclose(scaled, ORACLES[method](X), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("method", SCALINGS)
def test_a_sample_does_not_depend_on_the_others(X, method):
    scaling = fit_scaling(X[:40], method)
    rows = [apply_scaling(scaling, X[i : i + 1]) for i in range(40, 60)]
    assert_array_equal(np.vstack(rows), apply_scaling(scaling, X[40:]))


@pytest.mark.parametrize("method", SCALINGS)
def test_a_weight_is_a_number_of_copies(X, rng, method):
    copies = rng.integers(1, 4, len(X))
    weighted = apply_scaling(fit_scaling(X, method, copies.astype(float)), X)
    repeated = apply_scaling(fit_scaling(np.repeat(X, copies, axis=0), method), X)
    assert_allclose(weighted, repeated, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("method", SCALINGS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_constant_columns_are_dropped(X, method, dtype):
    X = X.astype(dtype)
    # Rounding makes a constant vary: as after X + 1e6 − 1e6 in float32.
    noise = np.full(60, 0.1, dtype) * (1 + np.finfo(dtype).eps * (np.arange(60) % 2))
    more = np.column_stack([np.ones(60), X, noise.astype(dtype)]).astype(dtype)
    with_constants = apply_scaling(fit_scaling(more, method), more)
    assert with_constants.dtype == dtype
    assert_array_equal(with_constants, apply_scaling(fit_scaling(X, method), X))


@pytest.mark.parametrize("method", SCALINGS)
def test_only_constant_columns_are_zero(method):
    X = np.full((5, 3), 7.0)
    assert_array_equal(apply_scaling(fit_scaling(X, method), X), np.zeros((5, 1)))


@pytest.mark.parametrize("method", SCALINGS)
def test_no_overflow(method):
    X = np.array([[0.0], [1e200], [-1e200], [3e200]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scaled = apply_scaling(fit_scaling(X, method), X)
    assert_allclose(scaled.std(), 1.0)


def test_ranks_ignore_monotone_transformations(X):
    ranks = apply_scaling(fit_scaling(X, "rank"), X)
    warped = np.exp(X)
    assert_allclose(apply_scaling(fit_scaling(warped, "rank"), warped), ranks)


def test_ranks_are_interpolated_and_end_with_the_training_values():
    scaling = fit_scaling(np.array([[0.0], [1.0], [4.0]]), "rank")
    low, between, middle, beyond, high = apply_scaling(
        scaling, np.array([[0.0], [0.5], [1.0], [99.0], [4.0]])
    ).ravel()
    assert_allclose(between, 0.5 * (low + middle))
    assert beyond == high


def test_levels_are_of_few_values_that_are_frequent(rng):
    columns = {
        "two": rng.integers(0, 2, 200),
        "ten": rng.integers(0, 10, 200),
        "forty": rng.integers(0, 40, 200),
        "numbers": rng.standard_normal(200),
        "three": rng.integers(0, 3, 200),
    }
    X = np.column_stack(list(columns.values()))
    scaling = fit_scaling(X, "levels")
    assert [level["column"] for level in scaling["levels"]] == [4, 1]
    scaled = apply_scaling(scaling, X)
    assert scaled.shape == (200, 5 + 3 + 10)
    # What every column of numbers, and the indicators of each of levels, add up to.
    assert_allclose(np.mean(scaled**2), (5 + 2) / 18 * 18 / 7)
    # Ten values in forty samples are too rare to be told apart.
    assert len(fit_scaling(X[:40], "levels")["levels"]) == 1
    unseen = X[:1].copy()
    unseen[0, 4] = 7.0
    row = apply_scaling(scaling, unseen)[0, 5:8]
    share = np.bincount(columns["three"]) / 200
    assert_allclose(row / np.linalg.norm(row), -share / np.linalg.norm(share))


@pytest.mark.parametrize(
    ("fitted", "given"), [("float64", "float32"), ("float32", "float64")]
)
def test_levels_are_found_in_either_dtype(rng, fitted, given):
    # 0.1 and 0.3 are other numbers in float32 than in float64.
    X = rng.choice([0.1, 0.2, 0.3], size=(60, 2))
    scaling = fit_scaling(X.astype(fitted), "levels")
    expected = apply_scaling(scaling, X.astype(fitted))
    scaled = apply_scaling(scaling, X.astype(given))
    assert scaled.dtype == given
    assert expected.shape[1] == 8
    # Entries are below 2, their rounding in float32 2^-23; of numbers over their
    # deviation of 0.08 also that of X.
    assert_allclose(scaled, expected, rtol=0, atol=1e-5)


def test_indicators_are_bounded_in_number(rng):
    X = rng.integers(0, 12, (300, 100)).astype(float)
    X[:, 7] %= 5
    scaling = fit_scaling(X, "levels")
    assert scaling["levels"][0]["column"] == 7
    # 5 and 82 times 12 are no more than 1,000.
    assert len(scaling["levels"]) == 83


def test_losses_of_classes_are_squares_and_errors(rng):
    codes = rng.integers(0, 3, 50)
    targets = np.where(codes[:, None] == np.arange(3), 1.0, -1.0)
    values = rng.standard_normal((2, 50, 3))
    losses = prediction_losses(values, targets, classes=True)
    errors = values.argmax(axis=2) != codes
    assert_allclose(losses, ((values - targets) ** 2).mean(axis=2) + errors)
    # Two classes in one column are the same as in two.
    signs = np.where(codes > 0, 1.0, -1.0)[:, None]
    one = prediction_losses(values[..., :1], signs, classes=True)
    both = np.concatenate([-values[..., :1], values[..., :1]], axis=2)
    two = prediction_losses(both, np.hstack([-signs, signs]), classes=True)
    assert_allclose(one, two)


@pytest.mark.parametrize("shift", [0.1, 0.2, 0.3, 0.4])
def test_as_good_as_is_a_paired_test(rng, shift):
    best = rng.standard_normal(40)
    other = best + shift + 0.8 * rng.standard_normal(40)
    # The test's variance has n − 1 where ours has n.
    statistic = ttest_rel(other, best).statistic * np.sqrt(40 / 39)
    assert as_good_as(best, other, errors=statistic + 1e-9)
    assert not as_good_as(best, other, errors=statistic - 1e-9)


def test_as_good_as_counts_weights_as_copies(rng):
    best, other = rng.standard_normal((2, 30))
    copies = rng.integers(1, 5, 30)
    repeated = np.repeat(best, copies), np.repeat(other, copies)
    for errors in np.linspace(-3, 3, 25):
        assert as_good_as(best, other, copies, errors=errors) == as_good_as(
            *repeated, errors=errors
        )


@pytest.mark.parametrize("rare", [0.02, 0.5])
def test_as_good_as_knows_how_little_a_weighted_class_says(rare):
    """Factors of classes make no more samples: 2 % are 20, whatever they count.

    Of differences of mean 0 the share within two standard errors is that of a normal
    number, 97.7 % (of 20 samples 97.0, by Student's t); of 3,000 draws its error is
    0.3 %.
    """
    rng = np.random.default_rng(0)
    codes = (np.arange(1000) < 1000 * rare).astype(int)
    factors = 500.0 / np.bincount(codes)[codes]
    none = np.zeros(1000)
    found = [
        as_good_as(none, rng.standard_normal(1000), factors=factors)
        for _ in range(3000)
    ]
    assert abs(np.mean(found) - 0.975) < 0.012


def test_as_good_as_does_not_feel_the_size_of_factors(rng):
    best, other = rng.standard_normal((2, 30))
    copies = rng.integers(1, 5, 30)
    for errors in np.linspace(-3, 3, 25):
        expected = as_good_as(best, other, copies, errors=errors)
        factors = np.full(30, 40.0)
        found = as_good_as(best, other, copies, factors=factors, errors=errors)
        assert found == expected


def test_as_good_as_does_not_count_samples_of_no_weight(rng):
    best, other = rng.standard_normal((2, 40))
    weight = np.append(np.zeros(10), np.ones(30))
    for errors in np.linspace(-2.0, 2.0, 9):
        expected = as_good_as(best[10:], other[10:], errors=errors)
        assert as_good_as(best, other, weight, errors=errors) == expected
