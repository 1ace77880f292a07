"""Fitting: what is learnt, the numbers, reproducibility, copies and interruptions."""

import copy
import io
import pickle
import sys
import warnings

import joblib
import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.datasets import load_diabetes, load_iris
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler
from skorch.callbacks import Callback, EarlyStopping

from sklearn_deq import (
    DEQClassifier,
    DEQKernelRidgeCV,
    DEQRegressor,
    ExplicitEquivalentClassifier,
    ExplicitEquivalentRegressor,
)

SMALL = {"width": 32, "max_epochs": 4, "random_state": 0}
CLASSIFIERS = [DEQClassifier, ExplicitEquivalentClassifier]
REGRESSORS = [DEQRegressor, ExplicitEquivalentRegressor]


@pytest.fixture(scope="module")
def iris():
    """Standardised iris, read-only."""
    X, y = load_iris(return_X_y=True)
    X = StandardScaler().fit_transform(X)
    X.flags.writeable = False
    return X, y


@pytest.fixture(scope="module")
def diabetes():
    """Standardised diabetes."""
    X, y = load_diabetes(return_X_y=True)
    return StandardScaler().fit_transform(X), y


class Interrupt(Callback):
    """Press Ctrl-C at the end of the second epoch."""

    def __init__(self):
        self.calls_ = 0

    def on_epoch_end(self, net, **kwargs):
        """Count, then interrupt."""
        self.calls_ += 1
        if self.calls_ == 2:
            raise KeyboardInterrupt


class Poison(Callback):
    """Put NaN into every gradient."""

    def on_grad_computed(self, net, named_parameters, **kwargs):
        """Replace the gradients."""
        for _, parameter in named_parameters:
            if parameter.grad is not None:
                parameter.grad.fill_(float("nan"))


@pytest.mark.parametrize("trainable", ["all", "readout"])
@pytest.mark.parametrize("estimator", CLASSIFIERS)
@pytest.mark.filterwarnings("ignore:.*samples have norms:UserWarning")
def test_digits_are_learnt(digits, estimator, trainable):
    X_train, X_test, y_train, y_test = digits
    model = estimator(width=256, trainable=trainable, dtype="float32", random_state=0)
    assert model.fit(X_train, y_train).score(X_test, y_test) > 0.955
    assert model.predict_proba(X_test).dtype == np.float32


@pytest.mark.parametrize("trainable", ["all", "recurrent", "readout"])
@pytest.mark.parametrize("estimator", REGRESSORS)
def test_regression_beats_the_mean_in_the_units_of_y(diabetes, estimator, trainable):
    X, y = diabetes
    model = estimator(
        width=128, trainable=trainable, lr=0.01, weight_decay=1e-3, random_state=0
    )
    model.fit(X[:300], 1e3 * y[:300] - 1e6)
    assert model.score(X[300:], 1e3 * y[300:] - 1e6) > 0.3


@pytest.mark.parametrize("estimator", REGRESSORS)
@pytest.mark.parametrize("trainable", ["all", "readout"])
def test_regression_commutes_with_affine_maps_of_y(diabetes, estimator, trainable):
    X, y = diabetes
    one = estimator(**SMALL, trainable=trainable).fit(X, y).predict(X)
    other = estimator(**SMALL, trainable=trainable).fit(X, 8.0 * y + 5.0).predict(X)
    assert_allclose(other, 8.0 * one + 5.0, rtol=1e-8)


@pytest.mark.parametrize("trainable", ["all", "readout"])
def test_several_targets(diabetes, trainable):
    X, y = diabetes
    model = DEQRegressor(**SMALL, trainable=trainable)
    predictions = model.fit(X, np.column_stack([y, -2 * y, 0 * y])).predict(X)
    assert predictions.shape == (len(y), 3)
    assert_allclose(predictions[:, 1], -2 * predictions[:, 0], rtol=1e-6)
    assert_allclose(predictions[:, 2], 0, atol=1e-8)


@pytest.mark.parametrize("trainable", ["all", "recurrent", "readout"])
def test_deq_features_are_equilibria_of_the_layer(iris, trainable):
    X, y = iris
    model = DEQClassifier(
        **SMALL, activation="tanh", bias_variance=0.3, trainable=trainable, tol=1e-12
    ).fit(X, y)
    A, B, c = (
        parameter.detach().numpy()
        for parameter in (
            model._body.recurrent_weight,
            model._body.input_weight,
            model._body.bias,
        )
    )
    z = np.zeros((len(X), 32))
    for _ in range(500):
        pre = np.sqrt(0.2) * z @ A.T + np.sqrt(0.8 / X.shape[1]) * X @ B.T
        pre += np.sqrt(0.3) * c
        z = (np.tanh(pre) - model.offset_) / np.sqrt(32)
    assert_allclose(model.transform(X), z, rtol=0, atol=1e-10)
    assert model.converged_
    assert model.residual_ <= 1e-12
    assert model.solver_n_iter_.shape == (len(X),)


def test_explicit_features_are_those_of_the_matched_layers(iris):
    X, y = iris
    model = ExplicitEquivalentClassifier(**SMALL, architecture="leaky_relu")
    model.fit(X, y)
    x = X / np.sqrt(X.shape[1])
    for weight, layer in zip(model._body.weights, model.match_.layers, strict=True):
        pre = x @ weight.detach().numpy().T
        x = (layer.activation.function(pre) - layer.offset) / np.sqrt(32)
    assert_allclose(model.transform(X), x, rtol=0, atol=1e-12)
    assert model.match_.residual < 1e-6


def test_convex_readouts_are_those_of_scikit_learn(iris, diabetes):
    X, y = iris
    model = DEQClassifier(**SMALL, trainable="readout", weight_decay=1e-3).fit(X, y)
    Z = model.transform(X)
    oracle = LogisticRegression(C=1 / (1e-3 * len(y)), max_iter=5000).fit(Z, y)
    assert_allclose(model.predict_proba(X), oracle.predict_proba(Z), atol=2e-3)
    X, y = diabetes
    model = DEQRegressor(**SMALL, trainable="readout", weight_decay=1e-3).fit(X, y)
    Z = model.transform(X)
    oracle = Ridge(alpha=1e-3 * len(y)).fit(Z, y)
    assert_allclose(model.predict(X), oracle.predict(Z), rtol=1e-8)


def test_frozen_weights_stay_and_trained_ones_move(iris):
    X, y = iris
    start = DEQClassifier(**SMALL, trainable="readout").fit(X, y)._body
    recurrent = DEQClassifier(**SMALL, trainable="recurrent").fit(X, y)._body
    both = DEQClassifier(**SMALL, trainable="all").fit(X, y)._body
    assert torch.equal(recurrent.input_weight, start.input_weight)
    assert not torch.equal(recurrent.recurrent_weight, start.recurrent_weight)
    assert not torch.equal(both.input_weight, start.input_weight)


def test_size_of_the_data(iris):
    X, y = iris
    model = DEQClassifier(**SMALL).fit(2 * X, y)
    assert_allclose(model.tau0_, np.sqrt(np.mean((2 * X) ** 2)))
    assert DEQClassifier(**SMALL, tau0=1.5).fit(X, y).tau0_ == 1.5
    assert_allclose(DEQClassifier(**SMALL, normalize=True).fit(9 * X, y).tau0_, 1)


@pytest.mark.parametrize("estimator", [*CLASSIFIERS, *REGRESSORS])
@pytest.mark.parametrize("trainable", ["all", "readout"])
def test_reproducible_and_global_generators_untouched(iris, estimator, trainable):
    X, y = iris
    torch_state = torch.get_rng_state()
    numpy_state = np.random.get_state()[1].copy()  # noqa: NPY002
    one = estimator(**SMALL, trainable=trainable).fit(X, y)
    two = estimator(**SMALL, trainable=trainable).fit(X, y)
    assert_array_equal(one.predict(X), two.predict(X))
    assert_array_equal(one.transform(X), two.transform(X))
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert_array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002
    other = estimator(**{**SMALL, "random_state": 1}, trainable=trainable).fit(X, y)
    assert not np.array_equal(one.transform(X), other.transform(X))


@pytest.mark.parametrize("estimator", CLASSIFIERS)
def test_results_do_not_depend_on_the_batch(iris, estimator):
    X, y = iris
    model = estimator(**SMALL, recurrent_variance=0.5).fit(X, y)
    whole = model.decision_function(X)
    for size in (1, 7, 64):
        parts = [
            model.decision_function(X[i : i + size]) for i in range(0, len(X), size)
        ]
        assert_allclose(np.concatenate(parts), whole, rtol=1e-9, atol=1e-12)


def test_blocks_do_not_change_the_features(iris, monkeypatch):
    X, y = iris
    model = DEQClassifier(**SMALL).fit(X, y)
    whole = model.transform(X)
    monkeypatch.setattr("sklearn_deq.estimators._training.BLOCK", 13)
    assert_allclose(model.transform(X), whole, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("estimator", CLASSIFIERS)
@pytest.mark.parametrize("trainable", ["all", "readout"])
def test_copies_predict_the_same(iris, estimator, trainable):
    X, y = iris
    model = estimator(**SMALL, trainable=trainable).fit(X, y)
    file = io.BytesIO()
    joblib.dump(model, file)
    file.seek(0)
    copies = (
        pickle.loads(pickle.dumps(model)),
        copy.deepcopy(model),
        joblib.load(file),
    )
    for other in copies:
        assert_array_equal(other.predict_proba(X), model.predict_proba(X))
        assert_array_equal(other.transform(X), model.transform(X))


@pytest.mark.parametrize(
    "copier", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))]
)
@pytest.mark.parametrize("estimator", CLASSIFIERS)
def test_copies_train_on_as_the_original(iris, estimator, copier):
    X, y = iris
    model = estimator(**SMALL).partial_fit(X, y)
    other = copier(model)
    assert other._body is other.net_.module_.body
    before = model.predict_proba(X)
    other.partial_fit(X, y)
    assert_array_equal(model.predict_proba(X), before)
    model.partial_fit(X, y)
    assert_array_equal(other.predict_proba(X), model.predict_proba(X))


def test_warm_start_goes_on(iris):
    X, y = iris
    model = DEQClassifier(**SMALL, warm_start=True).fit(X, y)
    first = model.loss_curve_
    model.fit(X, y)
    assert model.n_iter_ == 8
    assert model.loss_curve_[:4] == first
    # The learning rate begins anew: it would be 0 otherwise.
    assert model.loss_curve_[-1] < 0.8 * first[-1]
    cold = DEQClassifier(**SMALL).fit(X, y).fit(X, y)
    assert cold.loss_curve_ == first


def test_warm_start_may_change_early_stopping_and_precision(iris):
    X, y = iris
    model = DEQClassifier(**SMALL, warm_start=True, early_stopping=True).fit(X, y)
    model.set_params(early_stopping=False).fit(X.astype(np.float32), y)
    model.set_params(early_stopping=True).fit(X, y)
    assert model.n_iter_ == 12
    with pytest.raises(ValueError, match="classes that were not seen before"):
        model.fit(X, y + 1)


def test_early_stopping_ends_and_keeps_the_best(iris):
    X, y = iris
    model = DEQClassifier(
        width=32, max_epochs=200, early_stopping=True, random_state=0, lr=0.3
    ).fit(X, y)
    history = model.net_.history
    assert model.n_iter_ < 200
    best = int(np.argmin(history[:, "valid_loss"]))
    assert len(history) - 1 - best == 10
    assert model.net_.train_split is None


def test_early_stopping_of_the_users_own_is_no_interruption(iris):
    X, y = iris
    stop = EarlyStopping(monitor="train_loss", patience=2, threshold=10.0)
    model = DEQClassifier(**{**SMALL, "max_epochs": 50}, callbacks=[stop]).fit(X, y)
    assert model.n_iter_ < 10


def test_partial_fit_learns_with_a_constant_rate(iris):
    X, y = iris
    model = DEQClassifier(**SMALL)
    for _ in range(12):
        for rows in np.array_split(np.random.default_rng(0).permutation(150), 3):
            model.partial_fit(X[rows], y[rows], classes=[0, 1, 2])
    assert model.n_iter_ == 36
    assert model.score(X, y) > 0.9
    assert model.net_.optimizer_.param_groups[0]["lr"] == 0.1


def test_partial_fit_knows_classes_to_come(iris):
    X, y = iris
    model = DEQClassifier(**SMALL).partial_fit(X[:60], y[:60], classes=[0, 1, 2])
    assert model.predict_proba(X).shape == (150, 3)
    model.partial_fit(X[60:], y[60:])
    model.partial_fit(X[60:], y[60:], classes=[2, 0, 1])
    with pytest.raises(ValueError, match=r"classes is \[0, 1\], but was \[0, 1, 2\]"):
        model.partial_fit(X[:60], y[:60], classes=[0, 1])
    with pytest.raises(ValueError, match=r"not seen before: \[5\]"):
        model.partial_fit(X[:2], [0, 5])
    with pytest.raises(ValueError, match="lacks values of y"):
        DEQClassifier(**SMALL).partial_fit(X, y, classes=[0, 1])


def test_partial_fit_only_where_batches_train(iris):
    assert not hasattr(DEQClassifier(trainable="readout"), "partial_fit")
    assert hasattr(DEQRegressor(), "partial_fit")


@pytest.mark.parametrize("how", ["fit", "partial_fit"])
@pytest.mark.parametrize("estimator", [DEQClassifier, ExplicitEquivalentRegressor])
def test_interruption_leaves_a_fitted_estimator_and_is_raised(iris, estimator, how):
    X, y = iris
    interrupt = Interrupt()
    model = estimator(**{**SMALL, "max_epochs": 50}, callbacks=[interrupt])
    if how == "partial_fit":
        model.partial_fit(X, y)
    with pytest.raises(KeyboardInterrupt):
        getattr(model, how)(X, y)
    assert np.isfinite(model.predict(X)).all()
    assert 1 <= model.n_iter_ <= 2
    assert interrupt.calls_ == 0, "the user's callback is copied"
    # It can be trained on afterwards.
    model.set_params(callbacks=None).fit(X, y)
    assert model.n_iter_ == 50


def test_training_that_diverges_is_an_error(iris):
    X, y = iris
    model = DEQClassifier(**SMALL, callbacks=[Poison()])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        with pytest.raises(ValueError, match=r"diverged.*Lower lr"):
            model.fit(X, y)


def test_training_that_ends_worse_than_it_began_is_said(iris):
    X, y = iris
    with pytest.warns(ConvergenceWarning, match=r"above the .* Lower lr, or scale X"):
        DEQRegressor(**SMALL).fit(1e6 * X, y)


@pytest.mark.parametrize("trainable", ["all", "readout"])
def test_unconverged_equilibria_are_said_once(iris, trainable):
    X, y = iris
    model = DEQClassifier(
        **SMALL, trainable=trainable, solver_max_iter=2, stability=None
    )
    with pytest.warns(ConvergenceWarning, match="Raise solver_max_iter") as record:
        model.fit(X, y)
    assert len([w for w in record if "equilibrium" in str(w.message)]) == 1
    assert not model.converged_
    assert f"{model.residual_:.1e}" in str(record[0].message)


def test_class_weights_do_not_depend_on_the_batches(iris):
    X, y = iris
    # One row a batch: were the loss divided by the weights of its batch, the weights
    # would cancel.
    heavy = DEQClassifier(
        **SMALL, batch_size=1, class_weight={0: 1.0, 1: 1.0, 2: 50.0}
    ).fit(X, y)
    plain = DEQClassifier(**SMALL, batch_size=1).fit(X, y)
    assert (heavy.predict(X) == 2).sum() > (plain.predict(X) == 2).sum()


def test_balanced_class_weights_are_those_of_repeated_rows(iris):
    X, y = iris
    rows = np.concatenate([np.flatnonzero(y == 0)[:10], np.flatnonzero(y == 1)[:40]])
    params = {**SMALL, "trainable": "readout", "weight_decay": 1e-2}
    weighted = DEQClassifier(**params, class_weight="balanced", tau0=1.0)
    repeated = DEQClassifier(**params, tau0=1.0)
    weighted.fit(X[rows], y[rows])
    more = np.concatenate([np.repeat(rows[:10], 4), rows[10:]])
    repeated.fit(X[more], y[more])
    assert_array_equal(weighted.transform(X), repeated.transform(X))
    # The penalty is relative to the sum of the weights, which is 50 against 80.
    assert_allclose(
        weighted.predict_proba(X), repeated.predict_proba(X), rtol=0, atol=1e-4
    )


@pytest.mark.parametrize("trainable", ["all", "readout"])
@pytest.mark.parametrize("Network", [DEQClassifier, ExplicitEquivalentClassifier])
def test_class_weights_are_relative(iris, Network, trainable):
    X, y = iris
    params = {**SMALL, "trainable": trainable, "weight_decay": 0.1}
    plain = Network(**params).fit(X, y).predict_proba(X)
    for factor in (1e-3, 1e3):
        model = Network(**params, class_weight=dict.fromkeys(range(3), factor))
        assert_allclose(model.fit(X, y).predict_proba(X), plain, rtol=1e-6)


def test_integer_class_weights_are_numbers_of_copies(iris):
    X, y = iris[0][:100], iris[1][:100]
    params = {**SMALL, "trainable": "readout", "weight_decay": 0.1, "tau0": 1.0}
    weighted = DEQClassifier(**params, class_weight={0: 3, 1: 1}).fit(X, y)
    more = np.repeat(np.arange(100), np.where(y == 0, 3, 1))
    repeated = DEQClassifier(**params).fit(X[more], y[more])
    assert_allclose(
        weighted.predict_proba(X), repeated.predict_proba(X), rtol=0, atol=1e-3
    )


def test_labels_of_any_kind(iris):
    X, y = iris
    names = np.array(["setosa", "versicolor", "virginica"], dtype=object)[y]
    model = DEQClassifier(**SMALL).fit(X, names)
    assert set(model.predict(X)) <= set(names)
    assert model.classes_.tolist() == ["setosa", "versicolor", "virginica"]
    pair = DEQClassifier(**SMALL).fit(X[:100], np.where(y[:100] == 0, 7, -3))
    scores = pair.decision_function(X[:100])
    assert scores.shape == (100,)
    assert_array_equal(pair.predict(X[:100]), np.where(scores > 0, 7, -3))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_dtype_of_results(iris, dtype):
    X, y = iris
    for estimator in (*CLASSIFIERS, *REGRESSORS):
        cast = estimator(**SMALL, dtype=dtype).fit(X, y)
        kept = estimator(**SMALL).fit(X.astype(dtype), y)
        for model in (cast, kept):
            assert model.transform(X.astype(dtype)).dtype == dtype
        assert_array_equal(cast.transform(X), kept.transform(X.astype(dtype)))
    assert kept.predict(X.astype(dtype)).dtype == dtype


def test_silent_unless_asked(iris, capsys, monkeypatch):
    X, y = iris
    DEQClassifier(**SMALL).fit(X, y)
    assert capsys.readouterr() == ("", "")
    DEQClassifier(**SMALL, verbose=1).fit(X, y)
    shown = capsys.readouterr()
    assert "4/4" in shown.err
    assert "train_loss=" in shown.err
    assert shown.out == ""
    DEQClassifier(**SMALL, verbose=2).fit(X, y)
    shown = capsys.readouterr()
    assert "train_loss" in shown.out
    # No colours where there is no terminal, and no bar in the lines of the table.
    assert "\x1b" not in shown.out
    assert shown.err == ""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    DEQClassifier(**SMALL, verbose=2).fit(X, y)
    assert "\x1b" in capsys.readouterr().out


def test_a_fit_that_fails_leaves_nothing_to_predict_with(iris):
    X, y = iris
    model = DEQClassifier(**SMALL, trainable="readout").fit(X, y)
    model.set_params(activation="tanh", recurrent_variance=4.0, input_variance=0.5)
    unfitted = DEQClassifier(**model.get_params())
    with pytest.raises(ValueError, match="Unstable"):
        unfitted.fit(X, y)
    with pytest.raises(NotFittedError):
        unfitted.predict(X)


def test_filters_of_the_process_are_left_alone(iris, monkeypatch):
    """Threads that change them at the same time leave them changed for good."""
    entered = []

    class Watched(warnings.catch_warnings):
        def __enter__(self):
            entered.append(sys._getframe(1).f_globals["__name__"])
            return super().__enter__()

    monkeypatch.setattr(warnings, "catch_warnings", Watched)
    X, y = iris
    for model in (
        DEQClassifier(**SMALL),
        DEQClassifier(**SMALL, trainable="readout"),
        DEQRegressor(**SMALL),
        ExplicitEquivalentClassifier(**SMALL),
        DEQKernelRidgeCV(recurrent_variance=0.2),
    ):
        model.fit(X, y).predict(X)
    assert entered
    assert not [name for name in entered if name.startswith("sklearn_deq")]
