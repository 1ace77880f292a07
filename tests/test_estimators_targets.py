"""Several labels, several targets, and how scores, probabilities and labels agree."""

import pickle

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.sparse import csr_array
from scipy.special import expit, softmax
from sklearn.datasets import load_digits, load_iris, make_multilabel_classification
from sklearn.exceptions import DataConversionWarning
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import scale

from sklearn_deq import (
    DEQClassifier,
    DEQRegressor,
    ExplicitEquivalentClassifier,
    ExplicitEquivalentRegressor,
)
from sklearn_deq.estimators._ridge_targets import LabelTotals

CLASSIFIERS = [DEQClassifier, ExplicitEquivalentClassifier]
REGRESSORS = [DEQRegressor, ExplicitEquivalentRegressor]
SMALL = {"width": 32, "max_epochs": 10, "random_state": 0}


@pytest.fixture
def iris():
    X, y = load_iris(return_X_y=True)
    return scale(X), y


@pytest.fixture(scope="module")
def labels():
    """Samples with four labels each, none of them for all."""
    X, Y = make_multilabel_classification(
        200, 8, n_classes=4, n_labels=2, random_state=0
    )
    return scale(X), Y


@pytest.mark.parametrize("trainable", ["all", "readout"])
@pytest.mark.parametrize("Classifier", CLASSIFIERS)
@pytest.mark.filterwarnings("ignore:.*samples have norms:UserWarning")
def test_several_labels(labels, Classifier, trainable):
    X, Y = labels
    model = Classifier(**SMALL, trainable=trainable).fit(X[:150], Y[:150])
    predicted = model.predict(X[150:])
    # Guessing the more frequent value of each label is right in 56 %.
    most = (Y.mean(axis=0) > 0.5).astype(int)
    assert np.mean(predicted == Y[150:]) > 0.05 + np.mean(most == Y[150:])
    assert predicted.dtype.kind == "i"
    assert_array_equal(model.classes_, [0, 1, 2, 3])
    scores = model.decision_function(X)
    assert scores.shape == Y.shape
    assert_allclose(model.predict_proba(X), expit(scores))
    assert_array_equal(model.predict(X), scores > 0)
    for given in (csr_array(Y[:150]), Y[:150].tolist(), Y[:150] > 0):
        again = Classifier(**SMALL, trainable=trainable).fit(X[:150], given)
        assert_array_equal(again.predict(X), model.predict(X))


def test_a_convex_readout_of_labels_is_one_of_each(labels):
    X, Y = labels
    params = {**SMALL, "trainable": "readout", "weight_decay": 1e-3}
    model = DEQClassifier(**params).fit(X, Y)
    Z = model.transform(X)
    for k in range(4):
        oracle = LogisticRegression(C=1 / (1e-3 * len(X)), tol=1e-8).fit(Z, Y[:, k])
        found = model.decision_function(X)[:, k]
        # The readout stops at 1e-4 of a gradient whose curvature is a thousandth.
        assert_allclose(found, oracle.decision_function(Z), atol=0.05)


def test_labels_batch_by_batch(labels):
    X, Y = labels
    model = DEQClassifier(**SMALL)
    for _ in range(6):
        for rows in np.array_split(np.arange(200), 4):
            model.partial_fit(X[rows], Y[rows], classes=[0, 1, 2, 3])
    assert np.mean(model.predict(X) == Y) > 0.75
    with pytest.raises(ValueError, match="y has 3 labels"):
        model.partial_fit(X, Y[:, :3])
    with pytest.raises(ValueError, match="one label per sample now, several before"):
        model.partial_fit(X, Y[:, 0])


def test_a_label_that_nobody_has(labels):
    X, Y = labels
    Y = np.column_stack([Y, np.zeros(200, int), np.ones(200, int)])
    for trainable in ("all", "readout"):
        model = DEQClassifier(**SMALL, trainable=trainable).fit(X, Y)
        assert_array_equal(model.predict(X)[:, 4:], Y[:, 4:])


def test_early_stopping_on_several_labels(labels):
    X, Y = labels
    model = DEQClassifier(**SMALL, early_stopping=True).fit(X, Y)
    assert len(model.net_.history[:, "valid_loss"]) == model.n_iter_


@pytest.mark.parametrize(
    ("change", "params", "message"),
    [
        (lambda Y: 2 * Y, {}, "zeros and ones, got values"),
        (lambda Y: Y + np.arange(200)[:, None] % 3, {}, "several targets with more"),
        (lambda Y: Y, {"class_weight": "balanced"}, "class_weight weighs the classes"),
        (lambda Y: Y, {"class_weight": {0: 2.0}}, r"got \{0: 2\.0\}"),
    ],
)
def test_what_several_labels_cannot_be(labels, change, params, message):
    X, Y = labels
    with pytest.raises(ValueError, match=message):
        DEQClassifier(**SMALL, **params).fit(X, change(Y))


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("trainable", ["all", "readout"])
@pytest.mark.parametrize("Classifier", CLASSIFIERS)
def test_scores_probabilities_and_labels_agree(Classifier, trainable, n_classes):
    X, y = load_digits(n_class=n_classes, return_X_y=True)
    X, y = scale(X)[:200], np.array(["zero", "one", "two"])[y[:200]]
    model = Classifier(**SMALL, trainable=trainable).fit(X, y)
    scores, proba = model.decision_function(X), model.predict_proba(X)
    if n_classes == 2:
        assert scores.shape == (200,)
        assert_allclose(proba[:, 1], expit(scores), rtol=1e-9, atol=1e-12)
        assert_array_equal(model.predict(X), model.classes_[(scores > 0).astype(int)])
    else:
        assert_allclose(proba, softmax(scores, axis=1), rtol=1e-9, atol=1e-12)
        assert_array_equal(model.predict(X), model.classes_[scores.argmax(axis=1)])
    assert_allclose(proba.sum(axis=1), 1.0, rtol=1e-12)
    # Logarithms are relative to probabilities as these are to one.
    log_proba = model.predict_log_proba(X)
    assert_allclose(np.exp(log_proba), proba, rtol=1e-12)


@pytest.mark.parametrize("form", ["classes", "two classes", "labels", "one class"])
def test_logarithms_of_probabilities_that_round_to_zero(iris, labels, form):
    X, y = labels if form == "labels" else iris
    if form in ("two classes", "one class"):
        y = y > (0 if form == "two classes" else 2)
    trainable = "readout" if form == "two classes" else "all"
    model = DEQClassifier(
        **{**SMALL, "max_epochs": 1}, trainable=trainable, dtype="float32"
    ).fit(X, y)
    readout = model.readout_.coef_ if form == "two classes" else None
    if readout is None:
        readout = model.net_.module_.readout.weight.detach().numpy()
    readout *= np.float32(1e4)
    scores = model._outputs(X).astype(np.float64)
    found = model.predict_log_proba(X)
    assert found.dtype == np.float32
    if form == "labels":
        expected = -np.logaddexp(0.0, -scores)
    else:
        if form == "two classes":
            scores = np.hstack([np.zeros_like(scores), scores])
        expected = scores - np.logaddexp.reduce(scores, axis=1, keepdims=True)
    # Of numbers in the hundreds, in float32.
    assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    if form != "one class":
        assert found.min() < -150.0


def test_a_column_of_labels_is_warned_of(labels):
    X, Y = labels
    with pytest.warns(DataConversionWarning, match="column-vector"):
        model = DEQClassifier(**SMALL).fit(X, Y[:, :1])
    assert model.predict(X).shape == (200,)


@pytest.mark.parametrize("Regressor", REGRESSORS)
@pytest.mark.parametrize("trainable", ["all", "readout"])
def test_targets_of_different_units(labels, Regressor, trainable):
    """Every target is scaled by itself: one in millimetres does not drown another."""
    X, _ = labels
    Y = np.column_stack([X[:, 0] + X[:, 1], 1e6 * (X[:, 2] - X[:, 3])])
    model = Regressor(**{**SMALL, "width": 64, "max_epochs": 40}, trainable=trainable)
    model.fit(X, Y)
    residual = np.mean((model.predict(X) - Y) ** 2, axis=0)
    assert (residual < 0.2 * Y.var(axis=0)).all()
    if trainable == "all":
        with pytest.raises(ValueError, match="1 targets, but 2 before"):
            model.partial_fit(X, Y[:, 0])


def test_sparse_targets(labels):
    X, Y = labels
    dense = DEQRegressor(**SMALL).fit(X, Y)
    sparse = DEQRegressor(**SMALL).fit(X, csr_array(Y))
    assert_array_equal(sparse.predict(X), dense.predict(X))


@pytest.mark.parametrize("dtype", [int, "U3", object])
@pytest.mark.parametrize("weighted", [False, True])
def test_labels_of_parts_are_those_of_all(rng, dtype, weighted):
    """Each part has labels of its own, and some of weight zero alone."""
    y = np.sort(rng.integers(100, 130, 400)).astype("U3").astype(dtype)
    weight = np.where(y == y[0], 0.0, rng.integers(0, 3, 400)) if weighted else None
    parts = [
        LabelTotals.of(y[rows], None if weight is None else weight[rows])
        for rows in np.array_split(np.arange(400), 7)
    ]
    found, whole = LabelTotals.merged(parts), LabelTotals.of(y, weight)
    assert_array_equal(found.labels, whole.labels)
    assert_allclose(found.totals, whole.totals)
    assert_array_equal(found.codes, whole.codes)
    assert found.codes.dtype == np.int8
    kept = np.ones(400, bool) if weight is None else weight > 0
    assert_array_equal(found.labels[found.codes[kept]], y[kept])
    assert (found.codes[~kept] == -1).all()


@pytest.mark.parametrize("Regressor", REGRESSORS)
def test_the_scale_of_y_is_open_until_rows_differ(rng, Regressor):
    """What comes first may be one row, or rows with one target: nothing is lost."""
    X = rng.standard_normal((90, 5))
    Y = 5000 + 1000 * np.column_stack([X[:, 0] + X[:, 1], X[:, 0] * X[:, 2]])
    Y[:20, 0] = 0.1  # Its mean is rounded.
    Y[:10, 1] = Y[9, 1]
    model = Regressor(width=64, random_state=0)
    model.partial_fit(X[:1], Y[:1]).partial_fit(X[1:10], Y[1:10])
    assert_array_equal(model.predict(X), np.broadcast_to(Y[0], Y.shape))
    model.partial_fit(X[10:20], Y[10:20])
    assert_allclose(model._y_mean, [0.1, Y[:20, 1].mean()])
    assert_allclose(model._y_scale, [1.0, Y[:20, 1].std()])
    model.partial_fit(X[20:30], Y[20:30])
    assert_allclose(model._y_mean, [Y[:30, 0].mean(), Y[:20, 1].mean()])
    assert_allclose(model._y_scale, [Y[:30, 0].std(), Y[:20, 1].std()])
    for _ in range(30):
        model.partial_fit(X[30:], Y[30:])
    assert model.score(X[30:], Y[30:]) > 0.7
    # A fit that goes on does so, too.
    once_more = Regressor(width=64, max_epochs=60, random_state=0, warm_start=True)
    once_more.fit(X, np.full_like(Y, 5e3)).fit(X[30:], Y[30:])
    assert once_more.score(X[30:], Y[30:]) > 0.7


def test_batches_may_lack_classes_that_have_weights(iris):
    X, y = iris
    for weight in ({2: 5.0}, {0: 0.0, 1: 1.0, 2: 1.0}):
        model = DEQClassifier(width=16, class_weight=weight, random_state=0)
        model.partial_fit(X, y, classes=[0, 1, 2]).partial_fit(X[y == 0], y[y == 0])
        assert np.isfinite(model.predict_proba(X)).all()


@pytest.mark.parametrize("trainable", ["all", "readout"])
@pytest.mark.parametrize("Classifier", CLASSIFIERS)
def test_weights_of_labels_that_are_not_there_count_for_nothing(
    iris, Classifier, trainable
):
    """A split may lack a rare class; scikit-learn's classifiers take that."""
    X, y = iris[0][:100], iris[1][:100]
    model = Classifier(**SMALL, trainable=trainable, class_weight={0: 1.0, 1: 5.0})
    expected = model.fit(X, y).predict_proba(X)
    model.set_params(class_weight={0: 1.0, 1: 5.0, 2: 50.0, "else": 7.0})
    assert_array_equal(model.fit(X, y).predict_proba(X), expected)


def test_batches_of_one_class_have_the_weight_of_that_class(iris):
    """Divided by the mean of their own batch, weights had no effect there."""
    X, y = iris
    model = DEQClassifier(width=16, class_weight={0: 1.0, 1: 100.0}, random_state=0)
    # Their mean over the classes is one, whichever batch comes first.
    factors = np.array([1.0, 100.0, 1.0]) / 34.0
    for label in (0, 1):
        model.partial_fit(X[y == label], y[y == label], classes=[0, 1, 2])
        assert_allclose(model.net_.criterion_.weight.numpy(), factors)
    pickle.loads(pickle.dumps(model)).partial_fit(X, y)
    model.partial_fit(X, y)
    assert_allclose(model._class_factors, factors)
    model.set_params(class_weight=None).partial_fit(X, y)
    assert model._class_factors is None
    # A fit that goes on weighs by its own rows, and batches after it as it did.
    model.set_params(class_weight={2: 4.0}, warm_start=True, max_epochs=1)
    model.fit(X, y).partial_fit(X[:2], y[:2])
    assert_allclose(model._class_factors, [0.5, 0.5, 2.0])


def test_common_factors_of_class_weights_may_be_huge(iris):
    model = DEQClassifier(width=16, trainable="readout", random_state=0)
    expected = model.fit(*iris).predict_proba(iris[0])
    model.set_params(class_weight=dict.fromkeys(range(3), 1e308))
    assert_allclose(model.fit(*iris).predict_proba(iris[0]), expected, rtol=1e-6)


def test_targets_that_are_equal_but_for_rounding_fix_no_scale(iris):
    X, _ = iris
    model = DEQRegressor(width=32, random_state=0)
    model.partial_fit(X[:3], [0.1 + 0.2, 0.3, 0.3])
    for _ in range(30):
        model.partial_fit(X, 100.0 * X[:, 0] + 50.0)
    assert model.score(X, 100.0 * X[:, 0] + 50.0) > 0.9
