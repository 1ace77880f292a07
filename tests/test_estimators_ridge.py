"""Kernel ridge estimators: the search, the weights, the probabilities."""

import pickle
import re
import subprocess
import sys
import threading
import warnings

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.metrics import accuracy_score, get_scorer, log_loss, mean_squared_error
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    KFold,
    LeaveOneGroupOut,
    LeaveOneOut,
    ShuffleSplit,
    train_test_split,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_param_validation

from sklearn_deq import Activation, DEQKernelRidgeClassifierCV, DEQKernelRidgeCV
from sklearn_deq._warnings import warn_of_solver
from sklearn_deq.estimators._ridge_problem import RidgeProblem, _hearing
from sklearn_deq.kernels import deq_kernel

ONE = {"kernel": "ck", "recurrent_variance": 0.2}
BOTH = [DEQKernelRidgeCV, DEQKernelRidgeClassifierCV]


@pytest.fixture
def regression(rng):
    """X, y with two targets, and weights, of 40 samples."""
    X = rng.standard_normal((40, 5))
    Y = np.column_stack([np.sin(X[:, 0]) + X[:, 1], X[:, 2] * X[:, 3]])
    return X, Y + 0.1 * rng.standard_normal(Y.shape) + 3.0, rng.uniform(0.2, 3.0, 40)


@pytest.fixture
def classes(rng):
    """X and noisy labels of three classes, 150 samples."""
    X = rng.standard_normal((150, 4))
    noisy = X[:, :3] + 0.7 * rng.standard_normal((150, 3))
    return X, np.array(["b", "a", "c"])[noisy.argmax(axis=1)]


def _gram(X, model, params=None):
    options = {k: v for k, v in (params or model.best_params_).items() if k != "alpha"}
    return deq_kernel(X, **options, tau0=model.tau0_)


def _refit(K, Y, rows, alpha, weight=None):
    """Predictions for all samples of a fit to some of them."""
    # A constant of huge variance is an intercept that costs nothing.
    K = K + 1e6
    weight = None if weight is None else weight[rows]
    model = KernelRidge(alpha=alpha, kernel="precomputed")
    return model.fit(K[np.ix_(rows, rows)], Y[rows], weight).predict(K[:, rows])


def _left_out(K, Y, alpha, weight=None):
    """Predictions of refits without each sample."""
    every = np.arange(len(K))
    return np.array(
        [_refit(K, Y, np.delete(every, i), alpha, weight)[i] for i in every]
    )


@pytest.mark.parametrize("weighted", [False, True])
def test_scores_are_those_of_refits(regression, weighted):
    X, Y, weight = regression
    weight = weight if weighted else None
    model = DEQKernelRidgeCV(kernel=("ck", "ntk"), alphas=(0.1, 1.0))
    model.fit(X, Y, sample_weight=weight)
    results = model.cv_results_
    for params, score in zip(
        results["params"], results["mean_test_score"], strict=True
    ):
        predicted = _left_out(_gram(X, model, params), Y, params["alpha"], weight)
        expected = -mean_squared_error(Y, predicted, sample_weight=weight)
        assert_allclose(score, expected, rtol=1e-5)
    fitted = _refit(_gram(X, model), Y, np.arange(40), model.alpha_, weight)
    assert_allclose(model.predict(X), fitted, rtol=1e-5)
    tau0 = np.sqrt(np.average(np.mean(X**2, axis=1), weights=weight))
    assert_allclose(model.tau0_, tau0)


def test_splits_are_scored_as_by_refits(regression):
    X, Y, weight = regression
    cv = KFold(4, shuffle=True, random_state=0)
    model = DEQKernelRidgeCV(alphas=(0.1, 1.0), cv=cv, **ONE).fit(X, Y, weight)
    K, results = _gram(X, model), model.cv_results_
    for i, alpha in enumerate((0.1, 1.0)):
        scores = []
        for train, test in cv.split(X):
            predicted = _refit(K, Y, train, alpha, weight)[test]
            scores.append(
                -mean_squared_error(Y[test], predicted, sample_weight=weight[test])
            )
        assert_allclose(results["mean_test_score"][i], np.mean(scores), rtol=1e-5)
        assert_allclose(results["std_test_score"][i], np.std(scores), rtol=1e-4)
        assert_allclose(results["split2_test_score"][i], scores[2], rtol=1e-5)


def test_leave_one_out_is_the_splitter(regression):
    X, Y, _ = regression
    closed = DEQKernelRidgeCV().fit(X, Y[:, 0])
    split = DEQKernelRidgeCV(cv=LeaveOneOut()).fit(X, Y[:, 0])
    assert_allclose(
        closed.cv_results_["mean_test_score"], split.cv_results_["mean_test_score"]
    )
    assert_allclose(closed.predict(X), split.predict(X))
    assert "std_test_score" not in closed.cv_results_


@pytest.mark.parametrize("estimator", BOTH)
def test_a_weight_is_a_number_of_copies_left_out_together(classes, rng, estimator):
    X, y = classes[0][:40], classes[1][:40]
    y = X[:, 0] if estimator is DEQKernelRidgeCV else y
    repeats = rng.integers(0, 4, 40)
    rows = np.repeat(np.arange(40), repeats)
    folds = list(LeaveOneGroupOut().split(X[rows], groups=rows))
    weighted = estimator(scoring="neg_mean_squared_error")
    copied = estimator(cv=folds, scoring="neg_mean_squared_error")
    if estimator is DEQKernelRidgeClassifierCV:
        weighted.set_params(scoring=None)
        copied.set_params(scoring=None)
    weighted.fit(X, y, sample_weight=repeats)
    copied.fit(X[rows], y[rows])
    scores = copied.cv_results_["mean_test_score"]
    # The splitter counts every group once, leave-one-out by its weight.
    groups = repeats[repeats > 0]
    by_group = [copied.cv_results_[f"split{i}_test_score"] for i in range(len(groups))]
    scores = np.average(by_group, axis=0, weights=groups)
    assert_allclose(weighted.cv_results_["mean_test_score"], scores, rtol=1e-8)
    assert_allclose(weighted.tau0_, copied.tau0_)
    assert len(weighted.X_fit_) == len(groups)


def test_fitted_coefficients_are_those_of_kernel_ridge(regression):
    X, Y, weight = regression
    model = DEQKernelRidgeCV(fit_intercept=False, normalize=True, **ONE)
    model.fit(X, Y[:, 0], weight)
    K = deq_kernel(X, recurrent_variance=0.2, tau0=1.0, normalize=True)
    theirs = KernelRidge(alpha=model.alpha_, kernel="precomputed")
    theirs.fit(K, Y[:, 0], weight)
    assert_allclose(model.dual_coef_, theirs.dual_coef_, rtol=1e-6)
    assert model.intercept_ == 0.0
    assert_allclose(model.tau0_, 1.0)


def test_results_are_laid_out_as_by_grid_search(regression):
    X, Y, _ = regression
    mine = Activation(np.tanh, name="mine")
    model = DEQKernelRidgeCV(
        alphas=[0.1, 1.0],
        kernel=np.array(["ck", "ntk"]),
        activation=["relu", mine],
        recurrent_variance=np.array([0.1, 0.3]),
    ).fit(X, Y)
    results = model.cv_results_
    assert len(results["params"]) == len(results["mean_test_score"]) == 16
    assert results["params"][model.best_index_] == model.best_params_
    assert results["rank_test_score"][model.best_index_] == 1
    assert results["mean_test_score"].max() == model.best_score_
    assert list(results["param_alpha"][:2]) == [0.1, 1.0]
    assert results["param_activation"][4] is mine
    assert model.alpha_ == model.best_params_["alpha"]
    best = {k: v for k, v in model.best_params_.items() if k != "alpha"}
    again = DEQKernelRidgeCV(alphas=model.alpha_, **best).fit(X, Y)
    assert_allclose(again.predict(X), model.predict(X))
    assert_allclose(again.best_score_, model.best_score_)


def test_of_equal_scores_the_larger_alpha_and_the_earlier_kernel_win():
    X, y = load_iris(return_X_y=True)
    X, y = X[:100], y[:100]
    model = DEQKernelRidgeClassifierCV(
        alphas=(1e-3, 1e-1, 1e-2), recurrent_variance=(0.3, 0.1)
    ).fit(X, y)
    assert model.best_score_ == 1.0
    assert (model.alpha_, model.best_index_) == (1e-1, 1)


@pytest.mark.parametrize("scoring", ["r2", "neg_mean_absolute_error"])
def test_scoring_of_a_regressor(regression, scoring):
    X, Y, weight = regression
    model = DEQKernelRidgeCV(scoring=scoring, alphas=0.1, **ONE).fit(X, Y, weight)
    predicted = _left_out(_gram(X, model), Y, 0.1, weight)
    metric = get_scorer(scoring)
    expected = metric._sign * metric._score_func(Y, predicted, sample_weight=weight)
    assert_allclose(model.best_score_, expected, rtol=1e-5)


@pytest.mark.parametrize(
    "scoring", ["balanced_accuracy", "neg_log_loss", "roc_auc_ovr", "f1_macro"]
)
@pytest.mark.parametrize("cv", [None, 3])
def test_scoring_of_a_classifier(classes, scoring, cv):
    model = DEQKernelRidgeClassifierCV(scoring=scoring, cv=cv, **ONE)
    assert np.isfinite(model.fit(*classes).cv_results_["mean_test_score"]).all()


@pytest.mark.parametrize("estimator", BOTH)
@pytest.mark.parametrize("cv", [GroupKFold(3), LeaveOneGroupOut()], ids=str)
def test_groups_are_held_out_together(classes, estimator, cv, rng):
    X, y = classes[0][:40], classes[1][:40]
    y = X[:, 0] if estimator is DEQKernelRidgeCV else y
    groups = rng.integers(0, 5, 40)
    model = estimator(cv=cv, **ONE).fit(X, y, groups=groups)
    listed = estimator(cv=list(cv.split(X, y, groups)), **ONE).fit(X, y)
    for name in ("mean_test_score", "split2_test_score"):
        assert_array_equal(model.cv_results_[name], listed.cv_results_[name])
    piped = make_pipeline(StandardScaler(), estimator(cv=cv, **ONE))
    name = estimator.__name__.lower()
    piped.fit(X, y, **{f"{name}__groups": groups}).predict(X)
    with pytest.raises(ValueError, match="'groups' parameter should not be None"):
        estimator(cv=cv).fit(X, y)
    with pytest.raises(ValueError, match=r"give cv=GroupKFold\(\)"):
        estimator().fit(X, y, groups=groups)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        estimator(cv=cv).fit(X, y, groups=groups[:-1])


def _largest_error(model, values, y):
    return -np.abs(model.predict(values) - y).max()


@pytest.mark.parametrize("scoring", ["neg_max_error", _largest_error])
def test_weights_need_a_scorer_that_takes_them(regression, scoring):
    X, Y, weight = regression
    model = DEQKernelRidgeCV(scoring=scoring, **ONE)
    assert model.fit(X, Y[:, 0]).best_score_ < 0
    with pytest.raises(ValueError, match="takes no sample_weight: choose one"):
        model.fit(X, Y[:, 0], weight)


def test_class_weights_need_a_scorer_that_takes_them(classes):
    model = DEQKernelRidgeClassifierCV(
        scoring="adjusted_rand_score", class_weight="balanced", **ONE
    )
    with pytest.raises(ValueError, match=r"sample_weight \(and class_weight\)"):
        model.fit(*classes)


def test_a_scorer_of_ones_own_may_take_weights(regression):
    X, Y, weight = regression

    def weighted(model, values, y, sample_weight=None):
        errors = (model.predict(values) - y) ** 2
        return -np.average(errors, weights=sample_weight)

    own = DEQKernelRidgeCV(scoring=weighted, **ONE).fit(X, Y[:, 0], weight)
    default = DEQKernelRidgeCV(**ONE).fit(X, Y[:, 0], weight)
    assert_allclose(own.best_score_, default.best_score_)


def test_scoring_may_be_a_function(regression):
    X, Y, _ = regression
    model = DEQKernelRidgeCV(
        scoring=lambda model, values, y: -np.abs(model.predict(values) - y).max(), **ONE
    )
    assert model.fit(X, Y[:, 0]).best_score_ < 0


def test_two_jobs_find_the_same(regression):
    X, Y, weight = regression
    one = DEQKernelRidgeCV().fit(X, Y, weight)
    two = DEQKernelRidgeCV(n_jobs=2).fit(X, Y, weight)
    assert_allclose(
        two.cv_results_["mean_test_score"], one.cv_results_["mean_test_score"]
    )
    assert_allclose(two.predict(X), one.predict(X))


@pytest.mark.parametrize("estimator", BOTH)
def test_predictions_do_not_depend_on_the_batch(classes, estimator, monkeypatch):
    X, y = classes
    y = X[:, 0] if estimator is DEQKernelRidgeCV else y
    model = estimator(**ONE).fit(X[:100], y[:100])
    whole = model._values(X)
    monkeypatch.setattr("sklearn_deq.estimators._ridge_search._BLOCK_BYTES", 8 * 700)
    assert_allclose(model._values(X), whole, rtol=1e-10, atol=1e-12)
    assert_allclose(model._values(X[3:4]), whole[3:4], rtol=1e-10, atol=1e-12)


def test_decisions_and_probabilities_belong_together(classes):
    X, y = classes
    model = DEQKernelRidgeClassifierCV().fit(X, y)
    assert_array_equal(model.classes_, ["a", "b", "c"])
    probabilities = model.predict_proba(X)
    assert_allclose(probabilities.sum(axis=1), 1.0)
    assert_array_equal(model.classes_[probabilities.argmax(axis=1)], model.predict(X))
    assert model.decision_function(X).shape == (150, 3)
    binary = DEQKernelRidgeClassifierCV().fit(X, y == "a")
    assert binary.decision_function(X).shape == (150,)
    assert binary.dual_coef_.shape == (150,)
    assert_array_equal(binary.predict(X), binary.predict_proba(X)[:, 1] > 0.5)


@pytest.mark.parametrize("cv", [None, ShuffleSplit(3, random_state=0)])
def test_probabilities_are_calibrated(rng, cv):
    X = rng.standard_normal((600, 3))
    y = (rng.random(600) < 1 / (1 + np.exp(-2.0 * X[:, 0]))).astype(int)
    model = DEQKernelRidgeClassifierCV(cv=cv).fit(X[:200], y[:200])
    calibrated = log_loss(y[200:], model.predict_proba(X[200:]))
    odds = model.decision_function(X[200:])
    raw = (odds - model.calibration_intercept_) / model.calibration_coef_
    assert calibrated < log_loss(y[200:], 1 / (1 + np.exp(-raw)))
    truth = log_loss(y[200:], 1 / (1 + np.exp(-2.0 * X[200:, 0])))
    assert calibrated < truth + 0.05


def test_class_weight(rng):
    X = rng.standard_normal((200, 2))
    y = (X[:, 0] + 0.8 * rng.standard_normal(200) > 1.2).astype(int)
    plain = DEQKernelRidgeClassifierCV(**ONE).fit(X, y)
    balanced = clone(plain).set_params(class_weight="balanced").fit(X, y)
    assert balanced.predict(X).sum() > plain.predict(X).sum()
    counts = np.bincount(y)
    factors = dict(enumerate(len(y) / (2 * counts)))
    by_dict = clone(plain).set_params(class_weight=factors).fit(X, y)
    assert_allclose(by_dict.decision_function(X), balanced.decision_function(X))
    # τ0 takes no part.
    assert plain.tau0_ == balanced.tau0_


@pytest.mark.parametrize("n_classes", [2, 3])
def test_logarithms_of_probabilities(rng, n_classes):
    X = rng.standard_normal((40, 3))
    y = np.digitize(X[:, 0], [0.0, 0.7][: n_classes - 1])
    model = DEQKernelRidgeClassifierCV(**ONE).fit(X, y)
    logarithms = model.predict_log_proba(X)
    assert_allclose(np.exp(logarithms), model.predict_proba(X), rtol=1e-12)
    # Also where a probability is 0 in floating point.
    model.calibration_coef_ = 1e6 * model.calibration_coef_
    assert np.isfinite(model.predict_log_proba(X)).all()
    assert model.predict_proba(X).min() == 0.0


def test_weights_of_a_class_that_a_fold_lacks(classes):
    X, y = classes[0], (classes[1] == "a").astype(int)
    models = [
        DEQKernelRidgeClassifierCV(class_weight=weights, **ONE).fit(X, y)
        for weights in ({0: 1.0, 1: 2.0}, {0: 1.0, 1: 2.0, 7: 9.0})
    ]
    assert_array_equal(*(model.decision_function(X) for model in models))


@pytest.mark.parametrize("weights", [{0: 1.0, 7: 2.0}, {0: 0.0}, {1: np.inf}])
def test_bad_class_weight(weights, classes):
    with pytest.raises(ValueError, match="class_weight"):
        DEQKernelRidgeClassifierCV(class_weight=weights).fit(
            classes[0], (classes[1] == "a").astype(int)
        )


def test_an_unstable_kernel_is_left_out_with_a_warning(regression):
    X, Y, _ = regression
    model = DEQKernelRidgeCV(recurrent_variance=(0.2, 3.0), alphas=(0.1, 1.0))
    with pytest.warns(ConvergenceWarning, match=r"1 of 2 .*recurrent_variance=3\.0"):
        model.fit(X, Y)
    assert model.best_params_["recurrent_variance"] == 0.2
    assert_array_equal(
        np.isnan(model.cv_results_["mean_test_score"]), [False, False, True, True]
    )
    assert_array_equal(model.cv_results_["rank_test_score"][2:], 3)
    with pytest.raises(ValueError, match="Unstable DEQ"):
        DEQKernelRidgeCV(recurrent_variance=(3.0, 4.0)).fit(X, Y)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"alphas": ()}, "'alphas' parameter of DEQKernelRidgeCV is empty"),
        ({"alphas": (1.0, 0.0)}, "'alphas' parameter .* range (0.0, inf)"),
        ({"alphas": -1.0}, "'alphas' parameter .* range (0.0, inf)"),
        ({"kernel": ("ck", "rbf")}, "'kernel' parameter .* Got 'rbf' instead"),
        ({"kernel": []}, "'kernel' parameter of DEQKernelRidgeCV is empty"),
        ({"activation": ("relu", "tanhh")}, "Did you mean 'tanh'"),
        ({"recurrent_variance": (0.1, -0.1)}, "'recurrent_variance' parameter"),
        ({"recurrent_variance": ("a",)}, "'recurrent_variance' parameter"),
        ({"recurrent_variance": [[0.1]]}, "'recurrent_variance' parameter"),
        ({"center": (True, 2)}, "'center' parameter"),
        ({"scoring": "mse"}, "'scoring' parameter"),
        ({"device": "gpu7"}, "device must be"),
    ],
)
def test_bad_parameters_are_explained(regression, params, message):
    X, Y, _ = regression
    pattern = message.replace("(0.0, inf)", re.escape("(0.0, inf)"))
    with pytest.raises(ValueError, match=pattern):
        DEQKernelRidgeCV(**params).fit(X, Y)


@pytest.mark.parametrize("estimator", BOTH)
def test_unknown_parameters_are_refused(estimator):
    with pytest.raises(TypeError, match="Did you mean 'alphas'"):
        estimator(alpha=1.0)
    check_param_validation(estimator.__name__, estimator())


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (np.r_[-1.0, np.ones(39)], "negative"),
        (np.zeros(40), "zero"),
        (np.r_[1.0, np.zeros(39)], "Only 1 sample"),
    ],
)
def test_bad_weights_are_explained(regression, weight, message):
    X, Y, _ = regression
    with pytest.raises(ValueError, match=message):
        DEQKernelRidgeCV().fit(X, Y, weight)


def test_splits_without_weight_and_single_classes_are_refused(classes):
    X, y = classes
    weight = np.r_[np.zeros(50), np.ones(100)]
    with pytest.raises(ValueError, match="split 0 has 100 and 0"):
        DEQKernelRidgeCV(cv=KFold(3)).fit(X, X[:, 0], weight)
    with pytest.raises(ValueError, match="sample_weight, but has only one class"):
        DEQKernelRidgeClassifierCV().fit(X, y, (y == "a").astype(float))


def test_an_inaccurate_kernel_is_reported_by_fit_and_predict(regression, monkeypatch):
    def rough_kernel(*args, **params):
        warn_of_solver("tabulated to 1e-5")
        return deq_kernel(*args, **params)

    for module in ("_ridge_problem", "_ridge_search"):
        name = f"sklearn_deq.estimators.{module}.deq_kernel"
        monkeypatch.setattr(name, rough_kernel)
    X, Y, _ = regression
    with pytest.warns(ConvergenceWarning, match="1e-5") as caught:
        model = DEQKernelRidgeCV().fit(X, Y)
    assert len(caught) == 1
    with pytest.warns(ConvergenceWarning, match="1e-5"):
        model.predict(X)


def test_inside_searches_and_pipelines(classes):
    search = GridSearchCV(
        make_pipeline(StandardScaler(), DEQKernelRidgeClassifierCV()),
        {"deqkernelridgeclassifiercv__kernel": ["ck", ("ntk", "ntk_recurrent")]},
        cv=3,
    ).fit(*classes)
    assert search.best_score_ > 0.6


@pytest.mark.parametrize("estimator", BOTH)
def test_copies_pickles_and_frames(classes, estimator):
    X = pd.DataFrame(classes[0], columns=list("abcd"))
    y = pd.Series(classes[1] if estimator is DEQKernelRidgeClassifierCV else X["a"])
    model = estimator(recurrent_variance=[0.1, 0.5]).fit(X, y)
    assert_array_equal(model.feature_names_in_, list("abcd"))
    restored = pickle.loads(pickle.dumps(model))
    with pytest.raises(NotFittedError):
        clone(model).predict(X)
    refitted = clone(model).fit(X, y)
    for other in (restored, refitted):
        if estimator is DEQKernelRidgeClassifierCV:
            assert_array_equal(other.predict(X), model.predict(X))
        else:
            # Where an array lies in memory decides how sums of it are rounded.
            assert_allclose(other.predict(X), model.predict(X), rtol=1e-10, atol=1e-12)
    assert refitted.recurrent_variance == [0.1, 0.5]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_dtype(regression, dtype):
    X, Y, _ = regression
    exact = DEQKernelRidgeCV().fit(X.astype(dtype).astype(np.float64), Y)
    for model in (DEQKernelRidgeCV(dtype=dtype), DEQKernelRidgeCV()):
        data = X if model.dtype else X.astype(dtype)
        model.fit(data, Y)
        assert model.predict(data).dtype == model.X_fit_.dtype == dtype
        assert_allclose(model.predict(data), exact.predict(data), rtol=1e-5)


def test_progress_is_shown_on_request(regression, capfd):
    X, Y, _ = regression
    DEQKernelRidgeCV(verbose=1).fit(X, Y)
    assert "kernels: 100%" in capfd.readouterr().err
    DEQKernelRidgeCV().fit(X, Y)
    assert not capfd.readouterr().err


def test_accuracy_on_breast_cancer():
    X, y = load_breast_cancer(return_X_y=True)
    X, X_test, y, y_test = train_test_split(X, y, random_state=0, stratify=y)
    scaler = StandardScaler().fit(X)
    model = DEQKernelRidgeClassifierCV(kernel=("ck", "ntk"))
    model.fit(scaler.transform(X), y)
    baseline = LogisticRegression().fit(scaler.transform(X), y)
    ours = accuracy_score(y_test, model.predict(scaler.transform(X_test)))
    theirs = accuracy_score(y_test, baseline.predict(scaler.transform(X_test)))
    assert ours >= theirs - 0.02
    assert log_loss(y_test, model.predict_proba(scaler.transform(X_test))) < 0.2


def test_accuracy_on_diabetes():
    X, y = load_diabetes(return_X_y=True)
    X, X_test, y, y_test = train_test_split(X, y, random_state=0)
    ours, theirs = (
        make_pipeline(StandardScaler(), model).fit(X, y).score(X_test, y_test)
        for model in (DEQKernelRidgeCV(), RidgeCV(np.logspace(-2, 4, 20)))
    )
    assert ours > theirs - 0.02


MEASURE = """
import resource, sys
import numpy as np
from sklearn_deq import DEQKernelRidgeClassifierCV
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
n = 1500
rng = np.random.default_rng(0)
X = rng.standard_normal((n, 10))
y = X[:, 0] > 0
model = DEQKernelRidgeClassifierCV(
    kernel=("ck", "ntk"), recurrent_variance=0.3, normalize=True,
    alphas=np.logspace(-4, 1, 10))
model.fit(X[:200], y[:200]).predict(X)
before = peak()
model.fit(X, y).predict(X)
print((peak() - before) / (8 * n * n))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the unit of ru_maxrss")
def test_memory_is_that_of_two_gram_matrices():
    prelude = f"import sys; sys.path[:] = {sys.path!r}\n"
    result = subprocess.run(
        [sys.executable, "-c", prelude + MEASURE],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    # Blocks of fixed size are the rest; a Gram matrix takes 18 MB here.
    assert float(result.stdout) < 3.0


@pytest.mark.parametrize("classes_of", [[0, 1], [0, 1, 2]], ids=["two", "three"])
def test_nothing_is_turned_around_where_nothing_is_learnt(classes_of):
    """One sample of a class: each held out, the others are all there is."""
    X, y = load_iris(return_X_y=True)
    rows = [50 * code for code in classes_of]
    model = DEQKernelRidgeClassifierCV().fit(X[rows], y[rows])
    assert_array_equal(model.predict(X[rows]), y[rows])
    known = np.isin(y, classes_of)
    assert model.score(X[known], y[known]) > 0.7


def test_what_is_held_out_again_says_nothing_new(rng, classes):
    X, y = classes
    splits = list(KFold(4, shuffle=True, random_state=0).split(X))
    once, often = (
        DEQKernelRidgeClassifierCV(cv=splits * times).fit(X, y) for times in (1, 20)
    )
    assert len(once.members_) == len(often.members_) > 1
    assert_allclose(often.predict_proba(X), once.predict_proba(X), atol=1e-9)


def test_weights_that_all_classes_have_are_no_samples(classes):
    """A factor of all weights is one of alpha: the same kernels are as good."""
    X, y = classes
    search = {"kernel": ["ck", "ntk"], "activation": ["relu", "tanh"], "average": True}
    one = DEQKernelRidgeClassifierCV(**search, alphas=1.0).fit(X, y)
    weights = dict.fromkeys("abc", 30.0)
    other = DEQKernelRidgeClassifierCV(**search, alphas=30.0, class_weight=weights)
    other.fit(X, y)
    found = [[each["params"]["kernel"] for each in m.members_] for m in (one, other)]
    assert found[0] == found[1]
    assert_allclose(other._values(X), one._values(X), atol=1e-9)


def test_copies_of_samples_are_warned_of_where_nothing_is_smoothed(rng):
    X = rng.standard_normal((40, 5))
    y = X[:, 0] + rng.standard_normal(40)
    model = DEQKernelRidgeCV(**ONE)
    twice = np.vstack([X, X]), np.r_[y, y]
    with pytest.warns(UserWarning, match="40 of 80 samples .* copies .* sample_weight"):
        model.fit(*twice)
    # As weights they are held out together.
    model.fit(X, y, sample_weight=2.0)
    # Samples of few values are equal by nature, and smoothing is of no use to some.
    X = rng.integers(0, 20, (80, 1)).astype(float)
    model.fit(X, np.sin(X[:, 0]))
    iris, y = load_iris(return_X_y=True)
    DEQKernelRidgeClassifierCV(**ONE).fit(iris[:, [3]], y)


def test_scores_in_threads_leave_the_warnings_of_others_alone():
    """`catch_warnings` in two threads at a time would change them for good."""
    found = []

    def listen():
        with _hearing([]):
            found.append((warnings.filters, warnings._showwarnmsg_impl))

    before = warnings.filters, warnings._showwarnmsg_impl
    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    assert found[0][0] is before[0]
    assert found[0][1] is before[1]


def test_copies_are_judged_with_scorers_that_take_no_weights(rng):
    X = rng.standard_normal((40, 5))
    y = X[:, 0] + rng.standard_normal(40)
    model = DEQKernelRidgeCV(**ONE, scoring="neg_max_error")
    with pytest.warns(UserWarning, match="40 of 80 samples .* copies"):
        model.fit(np.vstack([X, X]), np.r_[y, y])


def test_weights_of_copies_are_summed_up(rng, monkeypatch):
    seen = []
    own = RidgeProblem.evaluate
    monkeypatch.setattr(
        RidgeProblem, "evaluate", lambda *args: seen.append(args[0]) or own(*args)
    )
    X = rng.standard_normal((40, 5))
    y = X[:, 0] + rng.standard_normal(40)
    weight = np.repeat([1.0, 9.0], 40)
    with pytest.warns(UserWarning, match="40 of 80 samples .* copies"):
        DEQKernelRidgeCV(**ONE).fit(np.vstack([X, X]), np.r_[y, y], weight)
    (once,) = (problem for problem in seen if len(problem.X) == 40)
    assert_array_equal(once.weight, 10.0)
    assert_array_equal(once.sample_weight, 10.0)


def test_a_scorer_that_warns_is_heard_once_for_a_kernel(classes):
    def score(model, X, y):
        warnings.warn("of the user", UserWarning, stacklevel=2)
        return float(np.mean(model.predict(X) == y))

    model = DEQKernelRidgeClassifierCV(
        activation=["relu", "tanh"], alphas=[0.1, 1.0, 10.0], scoring=score
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        model.fit(*classes)
    scores = len(model.cv_results_["params"])
    heard = sum(str(each.message) == "of the user" for each in caught)
    # Of three alphas each.
    assert heard == scores // 3 > 1
