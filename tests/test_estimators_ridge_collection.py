"""Kernel ridge without arguments: the collection of kernels and their average."""

import pickle

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.datasets import make_classification, make_friedman1, make_moons
from sklearn.ensemble import RandomForestRegressor
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import get_scorer, recall_score

from sklearn_deq import DEQKernelRidgeClassifierCV, DEQKernelRidgeCV
from sklearn_deq.estimators._ridge_collection import COLLECTION, spread_rows

BOTH = [DEQKernelRidgeCV, DEQKernelRidgeClassifierCV]


@pytest.fixture
def moons():
    """Two classes and two numbers of them, 120 samples of two features."""
    return make_moons(120, noise=0.3, random_state=0)


def _targets(estimator, X, y):
    return y if estimator is DEQKernelRidgeClassifierCV else X[:, 0] * X[:, 1]


@pytest.mark.parametrize("estimator", BOTH)
@pytest.mark.parametrize("weighted", [False, True])
def test_the_average_is_that_of_its_kernels_by_themselves(
    moons, rng, estimator, weighted
):
    X, y = moons
    y = _targets(estimator, X, y)
    if not weighted:
        X = np.column_stack([X, np.arange(len(X)) % 3])
    weight = rng.uniform(0.2, 3.0, len(X)) if weighted else None
    model = estimator().fit(X, y, weight)
    # Two of the kernels are for columns of few values.
    n_kernels = len(COLLECTION) - 2 * weighted
    assert len(model.cv_results_["params"]) == 6 * n_kernels
    each = []
    for member in model.members_:
        params = dict(member["params"])
        alone = estimator(alphas=params.pop("alpha"), **params).fit(X, y, weight)
        each.append(alone._values(X))
    assert 1 < len(each) <= len(COLLECTION)
    assert_allclose(model._values(X), np.mean(each, axis=0), rtol=1e-9, atol=1e-12)
    best = model.members_[0]
    assert best["params"] == model.best_params_
    assert best["dual_coef"] is model.dual_coef_


def test_a_parameter_of_the_kernel_ends_the_average(moons):
    X, y = moons
    for params in ({"activation": "tanh"}, {"scale": "rank"}, {"center": True}):
        model = DEQKernelRidgeClassifierCV(**params).fit(X, y)
        assert len(model.members_) == 1
        assert len(model.cv_results_["params"]) == 18
        assert model.best_score_ == model.cv_results_["mean_test_score"].max() > 0.5
    model = DEQKernelRidgeClassifierCV(recurrent_variance=0.2).fit(X, y)
    assert "scale" not in model.best_params_
    model = DEQKernelRidgeClassifierCV(scale=[None, "standard"]).fit(X, y)
    assert list(model.cv_results_["param_scale"][:12:6]) == [None, "standard"]


def test_any_grid_may_be_averaged_and_the_collection_may_not(moons):
    X, y = moons
    model = DEQKernelRidgeClassifierCV(kernel=["ck", "ntk"], average=True).fit(X, y)
    assert len(model.members_) > 1
    assert {"ck", "ntk"} >= {m["params"]["kernel"] for m in model.members_}
    assert len(DEQKernelRidgeClassifierCV(average=False).fit(X, y).members_) == 1


def test_kernels_that_are_clearly_worse_are_left_out(rng):
    X = rng.uniform(-3, 3, (300, 1))
    y = np.sin(4 * X[:, 0])
    model = DEQKernelRidgeCV(
        activation=["identity", "sin"],
        recurrent_variance=0.1,
        input_variance=9.0,
        average=True,
    ).fit(X, y)
    assert [m["params"]["activation"] for m in model.members_] == ["sin"]


@pytest.mark.parametrize("estimator", BOTH)
def test_constant_columns_units_and_order_do_not_matter(moons, rng, estimator):
    X, y = moons
    y = _targets(estimator, X, y)
    model = estimator().fit(X[:80], y[:80])
    values = model._values(X[80:])
    order = rng.permutation(80)
    padded = np.column_stack([np.full(len(X), 3.7), 40 + 1e3 * X, np.zeros(len(X))])
    again = estimator().fit(padded[order], y[order])
    # Sums in another order move the data by ulps, and the smallest alpha amplifies.
    assert_allclose(again._values(padded[80:]), values, rtol=1e-6, atol=1e-8)


def test_integers_and_booleans_are_features_like_others(rng):
    codes = rng.integers(0, 4, (200, 3))
    y = (codes[:, 0] == codes[:, 1]).astype(int)
    model = DEQKernelRidgeClassifierCV().fit(codes[:150], y[:150])
    # A quarter of the samples has y = 1; numbers alone tell equal codes in 0.94.
    assert model.score(codes[150:], y[150:]) > 0.9
    assert DEQKernelRidgeClassifierCV().fit(codes > 1, y).score(codes > 1, y) > 0.7


def test_codes_of_categories_are_told_apart(rng):
    codes = rng.integers(0, 15, 400)
    X = np.column_stack([codes, rng.standard_normal((400, 2))])
    y = rng.integers(0, 2, 15)[codes]
    model = DEQKernelRidgeClassifierCV().fit(X[:300], y[:300])
    assert model.best_params_["scale"] == "levels"
    assert model.score(X[300:], y[300:]) > 0.95
    alone = DEQKernelRidgeClassifierCV(scale="levels").fit(X[:300], y[:300])
    assert alone.score(X[300:], y[300:]) > 0.95
    # Without levels the same kernels would be tried twice.
    plain = DEQKernelRidgeClassifierCV().fit(X[:, 1:], X[:, 1] > 0)
    assert {p["scale"] for p in plain.cv_results_["params"]} == {"arcsinh", "rank"}


def test_levels_are_those_of_the_weighted_samples(rng):
    X = np.column_stack([np.arange(40) % 6, rng.standard_normal(40)])
    y = X[:, 1] > 0

    def scalings(weight):
        model = DEQKernelRidgeClassifierCV().fit(X, y, np.full(40, weight))
        return {params["scale"] for params in model.cv_results_["params"]}

    assert scalings(1.0) == {"arcsinh", "rank", "levels"}
    # As twenty samples six values are too rare: the kernels would be tried twice.
    assert scalings(0.5) == {"arcsinh", "rank"}


def test_weights_that_are_no_numbers_of_copies_are_told(moons):
    X, y = moons
    with pytest.warns(UserWarning, match="sums to 1 for 120 samples.*mean of 1"):
        DEQKernelRidgeClassifierCV().fit(X, y, np.full(len(X), 1 / len(X)))


def test_the_search_does_not_depend_on_the_order_of_the_rows():
    kinds = np.arange(4000) % 2
    for y in (np.zeros(4000), np.zeros((4000, 2))):
        assert 850 < kinds[spread_rows(y, 2000)].sum() < 1150
    assert 850 < kinds[spread_rows(np.zeros(4000), 2000, classes=True)].sum() < 1150


def test_an_outlier_spoils_nothing(moons):
    X, y = moons
    model = DEQKernelRidgeClassifierCV().fit(X[:80], y[:80])
    spoilt = X[:80].copy()
    spoilt[0] = 1e6
    again = DEQKernelRidgeClassifierCV().fit(spoilt, y[:80])
    assert again.score(X[80:], y[80:]) > model.score(X[80:], y[80:]) - 0.05


def test_imbalance():
    X, y = make_classification(
        600, 8, n_informative=4, weights=[0.95], class_sep=1.5, random_state=0
    )
    fit, test = np.s_[:400], np.s_[400:]
    recalls = []
    for class_weight in (None, "balanced"):
        model = DEQKernelRidgeClassifierCV(class_weight=class_weight)
        predicted = model.fit(X[fit], y[fit]).predict(X[test])
        recalls.append(recall_score(y[test], predicted, average=None))
        assert np.mean(predicted == y[test]) > 0.93
    plain, balanced = recalls
    linear = LogisticRegression().fit(X[fit], y[fit]).predict(X[test])
    assert plain[1] >= recall_score(y[test], linear)
    assert balanced[1] >= plain[1] > 0.4


def test_a_class_of_one_sample(moons):
    X, y = moons
    y = np.where(np.arange(len(y)) == 7, 2, y)
    model = DEQKernelRidgeClassifierCV(class_weight="balanced").fit(X, y)
    assert_array_equal(model.classes_, [0, 1, 2])
    assert_allclose(model.predict_proba(X).sum(axis=1), 1.0)
    assert model.score(X, y) > 0.8


def test_scores_are_of_the_scorer_that_is_given(moons):
    X, y = moons
    name = "balanced_accuracy"
    model = DEQKernelRidgeClassifierCV(scoring=name, alphas=0.1).fit(X, y)
    assert model.best_score_ == model.cv_results_["mean_test_score"].max() > 0.5
    first = model.cv_results_["params"][0]
    params = {k: v for k, v in first.items() if k != "alpha"}
    alone = DEQKernelRidgeClassifierCV(scoring=name, alphas=0.1, **params).fit(X, y)
    assert alone.best_score_ == model.cv_results_["mean_test_score"][0]
    assert get_scorer(name)(model, X, y) > 0.8


@pytest.mark.parametrize("estimator", BOTH)
def test_many_samples_are_searched_on_some_and_fitted_on_all(moons, estimator):
    X, y = moons
    y = _targets(estimator, X, y)
    model = estimator(search_samples=60).fit(X, y)
    assert len(model.X_fit_) == len(X)
    rows = spread_rows(y, 60, classes=estimator is DEQKernelRidgeClassifierCV)
    small = estimator().fit(X[rows], y[rows])
    assert_allclose(
        model.cv_results_["mean_test_score"], small.cv_results_["mean_test_score"]
    )
    params = dict(model.best_params_)
    alone = estimator(alphas=params.pop("alpha"), **params).fit(X, y)
    assert_allclose(model.dual_coef_, alone.dual_coef_, rtol=1e-9)


def test_rows_of_the_search_have_the_shares_of_all():
    y = np.repeat([0, 1, 2], [700, 200, 100])[
        np.random.default_rng(0).permutation(1000)
    ]
    rows = spread_rows(y, 100)
    assert_array_equal(np.unique(rows), rows)
    assert_array_equal(np.bincount(y[rows]), [70, 20, 10])
    assert_array_equal(spread_rows(np.zeros((5, 2)), 5), np.arange(5))


def test_zero_weight_and_pickles(moons):
    X, y = moons
    weight = (np.arange(len(X)) % 3 > 0).astype(float)
    model = DEQKernelRidgeClassifierCV().fit(X, y, weight)
    kept = weight > 0
    without = DEQKernelRidgeClassifierCV().fit(X[kept], y[kept], weight[kept])
    assert_array_equal(model.decision_function(X), without.decision_function(X))
    restored = pickle.loads(pickle.dumps(model))
    assert_array_equal(restored.predict_proba(X), model.predict_proba(X))


def test_regression_beats_a_forest_on_smooth_data():
    X, y = make_friedman1(300, noise=1.0, random_state=0)
    forest = RandomForestRegressor(100, random_state=0).fit(X[:200], y[:200])
    model = DEQKernelRidgeCV().fit(X[:200], y[:200])
    assert model.score(X[200:], y[200:]) > forest.score(X[200:], y[200:])


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"scale": "minmax"}, "'scale' parameter"),
        ({"scale": []}, "'scale' parameter of DEQKernelRidgeCV is empty"),
        ({"scale": ["rank", 3]}, "'scale' parameter"),
        ({"average": 3}, "'average' parameter"),
        ({"search_samples": 1}, "'search_samples' parameter"),
    ],
)
def test_bad_parameters_are_explained(moons, params, message):
    with pytest.raises(ValueError, match=message):
        DEQKernelRidgeCV(**params).fit(*moons)
