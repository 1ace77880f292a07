"""Faults injected into training, and random settings: a result, or a clear error."""

import copy
import warnings

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.exceptions import ConvergenceWarning
from sklearn.preprocessing import StandardScaler
from skorch.callbacks import Callback

from sklearn_deq import (
    DEQClassifier,
    DEQRegressor,
    ExplicitEquivalentClassifier,
    ExplicitEquivalentRegressor,
)
from sklearn_deq.estimators._solves import Solves
from sklearn_deq.nn import BACKWARDS, SOLVERS
from sklearn_deq.theory import ACTIVATIONS

SMALL = {"width": 32, "max_epochs": 4, "batch_size": 30, "random_state": 0}
NETWORKS = [
    DEQClassifier,
    DEQRegressor,
    ExplicitEquivalentClassifier,
    ExplicitEquivalentRegressor,
]


@pytest.fixture(scope="module")
def iris():
    """Standardised iris, read-only."""
    X, y = load_iris(return_X_y=True)
    X = StandardScaler().fit_transform(X)
    X.flags.writeable = False
    return X, y


class Scale(Callback):
    """Multiply A by a factor after some updates."""

    def __init__(self, factor, updates):
        self.factor, self.updates = factor, updates
        self.seen_ = 0

    def on_batch_end(self, net, training=False, **kwargs):
        """Scale."""
        self.seen_ += training
        if training and self.seen_ in self.updates:
            with torch.no_grad():
                net.module_.body.recurrent_weight.mul_(self.factor)


def leaks(x):
    """A leaky ReLU whose kink nobody is told of."""
    return np.maximum(x, 0.3 * x)


@pytest.mark.parametrize("trainable", ["all", "readout"])
@pytest.mark.parametrize("Network", NETWORKS)
def test_a_kink_that_is_not_declared_is_said_as_scikit_learn_says_it(
    iris, Network, trainable
):
    """Copies, which make tables anew, have nothing new to say."""
    X, y = iris
    settings = {"activation": leaks, "trainable": trainable}
    if Network in NETWORKS[2:]:
        settings["architecture"] = "leaky_relu"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = Network(**SMALL, **settings).fit(X, y)
    assert {item.category for item in caught} == {ConvergenceWarning}
    said = {str(item.message)[:18] for item in caught}
    expected = {"Moments of leaks a"}
    if Network in NETWORKS[:2]:
        expected.add("The table of leaks")
    assert said == expected
    assert_array_equal(copy.deepcopy(model).predict(X), model.predict(X))


class Poison(Callback):
    """Put a number into the gradients of some updates."""

    def __init__(self, value, updates):
        self.value, self.updates = value, updates
        self.seen_ = 0

    def on_grad_computed(self, net, named_parameters, **kwargs):
        """Replace one entry."""
        self.seen_ += 1
        if self.seen_ in self.updates:
            gradient = next(p.grad for _, p in named_parameters if p.grad is not None)
            gradient.view(-1)[0] = self.value


class Interrupt(Callback):
    """Press Ctrl-C in the middle of an epoch."""

    def __init__(self, update):
        self.update = update
        self.seen_ = 0

    def on_batch_end(self, net, training=False, **kwargs):
        """Interrupt."""
        self.seen_ += training
        if self.seen_ == self.update:
            raise KeyboardInterrupt


@pytest.mark.parametrize("activation", ["relu", "tanh", "identity"])
@pytest.mark.parametrize("factor", [3.0, 1e3, -20.0])
@pytest.mark.parametrize("updates", [{7}, {3, 11, 20}], ids=["once", "to the end"])
def test_a_contraction_broken_by_a_callback(iris, activation, factor, updates):
    X, y = iris
    model = DEQClassifier(
        **SMALL,
        activation=activation,
        solver_max_iter=200,
        callbacks=[Scale(factor, updates)],
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.fit(X, y)
    assert model.converged_
    assert np.isfinite(model.transform(X)).all()
    assert model.score(X, y) > 0.5
    assert {item.category for item in caught} <= {ConvergenceWarning}
    # Where A was shrunk it is said, and kept in the history.
    shrunk = sum(model.solver_history_["shrinks"]) > 0
    assert shrunk == any("of A towards 0" in str(item.message) for item in caught)
    bound = model.solver_history_["spectral_bound"][-1]
    assert bound == model.net_.module_.body.spectral_bound


class ScaleAtTheEnd(Callback):
    """Multiply A by a factor when training is over."""

    def __init__(self, factor):
        self.factor = factor

    def on_train_end(self, net, **kwargs):
        """Scale."""
        with torch.no_grad():
            net.module_.body.recurrent_weight.mul_(self.factor)


def test_what_is_shrunk_after_training_is_said_and_recorded(iris):
    X, y = iris
    model = DEQClassifier(
        **SMALL,
        activation="tanh",
        stability="jacobian",
        callbacks=[ScaleAtTheEnd(-6.0)],
    )
    with pytest.warns(ConvergenceWarning, match="steps of A towards 0 brought it back"):
        model.fit(X, y)
    assert model.converged_
    history = model.solver_history_
    assert history["shrinks"][:-1] == [0, 0, 0]
    assert history["shrinks"][-1] > 0
    assert history["spectral_bound"][-1] == model.net_.module_.body.spectral_bound


@pytest.mark.parametrize("solver", ["picard", "anderson"])
def test_a_slow_equilibrium_is_brought_back(solver):
    """One epoch next to the edge of stability, after which 1000 iterations fail."""
    rng = np.random.default_rng(4)
    X, y = rng.standard_normal((60, 7)), rng.standard_normal(60)
    model = DEQRegressor(
        width=80,
        recurrent_variance=1.3,
        input_variance=1.3,
        solver=solver,
        max_epochs=1,
        lr=1e-3,
        random_state=4,
        dtype="float32",
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        message = _error(model, X, y)
    if message is None:
        assert model.converged_
    else:
        assert "Raise solver_max_iter=1000 or tol" in message


@pytest.mark.parametrize("trainable", ["all", "readout"])
def test_too_few_iterations_to_begin_with_are_refused(iris, trainable):
    model = DEQClassifier(**SMALL, trainable=trainable, solver_max_iter=2)
    with pytest.raises(ValueError, match=r"Unstable: .* solver_max_iter=2 or tol"):
        model.fit(*iris)
    assert not hasattr(model, "net_")


def _scaling(event):
    """A callback that multiplies A by 1.2 at some event."""

    def scale(self, net, training=True, **kwargs):
        if training:
            with torch.no_grad():
                net.module_.body.recurrent_weight.mul_(1.2)

    return type("Scaling", (Callback,), {event: scale})()


@pytest.mark.parametrize("event", ["on_batch_end", "on_epoch_end", "on_train_end"])
def test_the_certificate_is_true_whatever_callbacks_do(iris, event):
    model = DEQClassifier(**SMALL, callbacks=[_scaling(event)]).fit(*iris)
    body = model.net_.module_.body
    assert body.guard.certified
    A = body.recurrent_weight.detach().numpy()
    assert np.linalg.norm(A, 2) <= body.guard.ceiling
    assert model.solver_history_["spectral_bound"][-1] == body.spectral_bound < 1


def test_a_contraction_broken_is_left_alone_without_stability(iris):
    X, y = iris
    model = DEQClassifier(
        **SMALL,
        activation="tanh",
        stability=None,
        solver_max_iter=200,
        callbacks=[Scale(20.0, {20})],
    )
    with pytest.warns(ConvergenceWarning, match="equilibrium of .* did not converge"):
        model.fit(X, y)
    assert not model.converged_


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("Network", NETWORKS)
def test_a_batch_without_a_finite_gradient(iris, Network, value):
    X, y = iris
    poisoned = Network(**SMALL, callbacks=[Poison(value, {4, 9})])
    message = "Of the 20 updates the gradients of 2 were not finite"
    with pytest.warns(ConvergenceWarning, match=message):
        poisoned.fit(X, y)
    assert np.isfinite(poisoned.loss_curve_).all()
    assert poisoned.score(X, y) > 0.5


@pytest.mark.parametrize("Network", NETWORKS)
def test_no_finite_gradient_at_all(iris, Network):
    X, y = iris
    model = Network(**SMALL, callbacks=[Poison(np.nan, range(100))])
    with pytest.raises(ValueError, match=r"diverged: 20 of 20 .* Lower lr"):
        model.fit(X, y)
    assert not hasattr(model, "net_")


@pytest.mark.parametrize("Network", NETWORKS)
def test_interrupted_in_the_first_epoch(iris, Network):
    X, y = iris
    model = Network(**SMALL, callbacks=[Interrupt(2)])
    with pytest.raises(KeyboardInterrupt, match="the model is fitted"):
        model.fit(X, y)
    assert model.n_iter_ == 1
    assert model.loss_curve_ == []
    assert np.isfinite(model.predict(X)).all()
    # It goes on where it stopped.
    model.set_params(callbacks=None, warm_start=True).fit(X, y)
    assert len(model.loss_curve_) == 4


class InterruptAt(Callback):
    """Press Ctrl-C outside of the epochs."""

    def __init__(self, event):
        self.event = event

    def on_train_begin(self, net, **kwargs):
        """Interrupt."""
        if self.event == "begin":
            raise KeyboardInterrupt

    def on_train_end(self, net, **kwargs):
        """Interrupt."""
        if self.event == "end":
            raise KeyboardInterrupt


@pytest.mark.parametrize("event", ["begin", "end", "finish"])
def test_interrupted_outside_of_the_epochs(iris, event, monkeypatch):
    X, y = iris
    model = DEQClassifier(**SMALL, callbacks=[InterruptAt(event)])
    if event == "finish":
        _interrupt_solves(monkeypatch, {2})
    with pytest.raises(KeyboardInterrupt, match="the model is fitted"):
        model.fit(X, y)
    assert len(model.loss_curve_) == (0 if event == "begin" else 4)
    assert model.n_iter_ == max(1, len(model.loss_curve_))
    assert model.converged_
    assert model.solver_n_iter_.shape == y.shape
    assert len(model.solver_history_["n_iter"]) == len(model.loss_curve_)
    assert np.isfinite(model.predict_proba(X)).all()


def _interrupt_solves(monkeypatch, calls):
    """Interrupt some passes over all rows: the first is before training."""
    original, seen = Solves.of.__func__, []

    def interrupted(cls, body, X):
        seen.append(len(X))
        if len(seen) in calls:
            raise KeyboardInterrupt
        return original(cls, body, X)

    monkeypatch.setattr(Solves, "of", classmethod(interrupted))


@pytest.mark.parametrize("calls", [{1}, {2, 3}])
def test_interrupted_for_good_leaves_what_there_was(iris, calls, monkeypatch):
    X, y = iris
    model = DEQClassifier(**SMALL)
    with monkeypatch.context() as patch:
        _interrupt_solves(patch, calls)
        with pytest.raises(KeyboardInterrupt):
            model.fit(X, y)
    assert not hasattr(model, "net_")
    assert not hasattr(model, "converged_")
    model.fit(X, y)


@pytest.mark.parametrize("warm_start", [False, True])
@pytest.mark.parametrize("Network", NETWORKS)
def test_a_fit_that_fails_leaves_the_earlier_model(iris, Network, warm_start):
    X, y = iris
    model = Network(**SMALL, warm_start=warm_start).fit(X, y)
    before, told = model.transform(X), dict(vars(model))
    once_more = Network(**SMALL, warm_start=True).fit(X, y).partial_fit(X, y)
    model.set_params(callbacks=[Poison(np.nan, range(100))])
    for train in (model.fit, model.partial_fit):
        with pytest.raises(ValueError, match="diverged"):
            train(X, y)
    assert vars(model).keys() == told.keys()
    assert_array_equal(model.transform(X), before)
    # Nor has the failure left traces in what training goes on with.
    model.set_params(callbacks=None).partial_fit(X, y)
    assert_array_equal(model.transform(X), once_more.transform(X))


def test_an_interrupted_readout_is_fitted(iris, monkeypatch):
    X, y = iris
    from sklearn_deq.linear import _logistic

    calls = []

    def interrupted(self, theta):
        calls.append(theta)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return original(self, theta)

    original = _logistic._Problem.__call__
    monkeypatch.setattr(_logistic._Problem, "__call__", interrupted)
    model = DEQClassifier(**SMALL, trainable="readout")
    with pytest.raises(KeyboardInterrupt, match="the model is fitted"):
        model.fit(X, y)
    assert model.score(X, y) > 0.8


@pytest.mark.parametrize("trainable", ["all", "readout"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("scale", [1e-6, 1e6])
@pytest.mark.parametrize("Network", NETWORKS)
def test_features_of_any_scale(iris, Network, scale, dtype, trainable):
    """Wildly scaled features are fitted; tiny ones and a loss that rose are said."""
    X, y = iris
    model = Network(**SMALL, dtype=dtype, trainable=trainable)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.fit(scale * X, y)
    assert np.isfinite(model.predict(scale * X)).all()
    if trainable == "readout":
        assert model.score(scale * X, y) > (0.8 if scale > 1 else -1e-6)
    expected = "Lower lr, or scale X" if scale > 1 else "The root mean square of X"
    for item in caught:
        assert expected in str(item.message)
    assert caught or scale > 1


@pytest.mark.parametrize("Network", [DEQClassifier, ExplicitEquivalentClassifier])
@pytest.mark.parametrize(
    ("scale", "kind", "dtype"),
    [
        (1e300, np.float64, None),
        (1e300, np.float64, "float32"),
        (1e-200, np.float64, None),
        (1e20, np.float32, None),
        (1e-25, np.float32, None),
        (1e-300, np.float64, "float32"),
    ],
)
def test_normalized_rows_of_any_scale(iris, Network, scale, kind, dtype):
    """What the advice for data that are too large comes to."""
    X, y = iris
    model = Network(**SMALL, normalize=True, dtype=dtype)
    expected = clone(model).fit(X.astype(kind), y).predict_proba(X.astype(kind))
    model.fit((X * scale).astype(kind), y)
    found = model.predict_proba((X * scale).astype(kind))
    assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("trainable", ["all", "readout"])
@pytest.mark.parametrize("Network", [DEQClassifier, ExplicitEquivalentClassifier])
def test_features_close_to_zero_are_named(iris, Network, trainable):
    X, y = iris
    model = Network(**SMALL, trainable=trainable)
    with pytest.warns(UserWarning, match=r"mean square of X is 1\.0e-04.*StandardSc"):
        model.fit(X * 1e-4, y)
    # Neither scaled samples nor networks that a bias drives.
    clone(model).set_params(normalize=True).fit(X * 1e-4, y)


def test_samples_too_large_for_the_dtype(iris):
    X, y = iris
    model = DEQClassifier(**SMALL, dtype="float32").fit(X, y)
    for use in (model.predict, lambda X: model.fit(X, y)):
        with pytest.raises(ValueError, match=r"X is too large for float32.*normalize"):
            use(X * 1e39)


@pytest.mark.parametrize("trainable", ["all", "readout"])
@pytest.mark.parametrize("scale", [1e200, 1e-200])
@pytest.mark.parametrize("Network", [DEQRegressor, ExplicitEquivalentRegressor])
def test_targets_of_any_scale(iris, Network, scale, trainable):
    X, y = iris
    model = Network(**SMALL, trainable=trainable)
    expected = clone(model).fit(X, y + 3.0).predict(X)
    found = model.fit(X, (y + 3.0) * scale).predict(X)
    assert_allclose(found / scale, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"class_weight": {0: "a"}}, "class_weight must be finite"),
        ({"device": "meta"}, "device must be 'cpu', .*, got 'meta'"),
    ],
)
def test_parameters_that_are_of_no_use(iris, params, message):
    X, y = iris
    with pytest.raises(ValueError, match=message):
        DEQClassifier(**SMALL, **params).fit(X, y)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_targets_that_predictions_cannot_reach(iris, dtype):
    X, y = iris
    model = DEQRegressor(**SMALL, dtype=dtype)
    largest = float(np.finfo(dtype).max)
    with pytest.raises(ValueError, match=f"y is too large for {dtype}.*Scale y"):
        model.fit(X, y * (largest / 4))
    model.fit(X, y * 1e-8)
    with pytest.raises(ValueError, match="y is too far from the targets"):
        model.partial_fit(X, y * (largest / 1e5))


@pytest.mark.slow
@pytest.mark.parametrize("trainable", ["all", "readout"])
@pytest.mark.parametrize("Network", [DEQClassifier, ExplicitEquivalentClassifier])
def test_ten_thousand_classes(Network, trainable, rng):
    """Two samples of each: memory and time stay within bounds."""
    X = rng.standard_normal((20_000, 4))
    y = np.arange(20_000) // 2
    model = Network(
        width=8, max_epochs=1, batch_size=1000, trainable=trainable, random_state=0
    )
    if trainable == "readout":
        model.set_params(weight_decay=0.1)
    model.fit(X, y)
    assert model.decision_function(X[:3]).shape == (3, 10_000)
    assert_array_equal(model.classes_, np.arange(10_000))
    with pytest.raises(ValueError, match="early_stopping"):
        model.set_params(early_stopping=True, trainable="all").fit(X, y)


@pytest.mark.parametrize("Network", [DEQClassifier, DEQRegressor])
def test_weights_that_have_no_equilibrium_are_refused(Network, iris):
    X, y = iris
    # A is a single number here, which this seed makes larger than one over σ_a.
    params = {**SMALL, "width": 1, "activation": "identity", "random_state": 1}
    model = Network(**params, recurrent_variance=0.99)
    for trainable in ("all", "readout"):
        model.set_params(trainable=trainable)
        with pytest.raises(ValueError, match=r"Unstable: .* width=1,.*stability=None"):
            model.fit(X, y)
        assert not hasattr(model, "net_")
    with pytest.warns(ConvergenceWarning, match="did not converge"):
        model.set_params(stability=None).fit(X, y)


def _draw(seed):
    """A DEQ with settings and data from wide ranges, hostile ones among them."""
    rng = np.random.default_rng(seed)

    def log_uniform(low, high):
        return float(np.exp(rng.uniform(np.log(low), np.log(high))))

    n, p = int(log_uniform(2, 200)), int(log_uniform(1, 60))
    X = rng.standard_normal((n, p))
    kind = rng.choice(["normal", "heavy", "sparse", "constant", "twice", "offset"])
    if kind == "heavy":
        X = rng.standard_t(2.5, (n, p))
    elif kind == "sparse":
        X *= rng.random((n, p)) < 0.1
    elif kind == "constant":
        X[:, : max(1, p // 2)] = 1.0
    elif kind == "twice":
        X[n // 2 :] = X[: n - n // 2]
    elif kind == "offset":
        X += 10.0
    X *= log_uniform(1e-3, 1e3)
    params = {
        "width": int(log_uniform(1, 256)),
        "activation": str(rng.choice(sorted(ACTIVATIONS))),
        "recurrent_variance": float(rng.uniform(0, 1.6)),
        "input_variance": log_uniform(0.05, 3),
        "bias_variance": float(rng.choice([0.0, 0.0, 0.1, 0.5])),
        "center": bool(rng.random() < 0.8),
        "normalize": bool(rng.random() < 0.3),
        "trainable": str(rng.choice(["all", "all", "recurrent", "readout"])),
        "tol": log_uniform(1e-7, 1e-3),
        "backward": str(rng.choice(sorted(BACKWARDS))),
        "solver": str(rng.choice(["picard", *sorted(SOLVERS)])),
        "optimizer": str(rng.choice(["adam", "adamw", "sgd"])),
        "solver_max_iter": int(rng.choice([1000, 1000, 200, 40, 18, 5])),
        "lr": log_uniform(1e-3, 3),
        "weight_decay": float(rng.choice([0.0, 0.0, 1e-4, 1e-2])),
        "max_epochs": int(rng.integers(1, 30)),
        "batch_size": ["auto", 8, 64][rng.integers(3)],
        "early_stopping": bool(rng.random() < 0.2),
        "dtype": [None, "float32"][rng.integers(2)],
        "random_state": seed,
    }
    if rng.random() < 0.5:
        return DEQClassifier(**params), X, rng.integers(0, rng.integers(2, 6), n)
    return DEQRegressor(**params), X, rng.standard_normal(n) * log_uniform(1e-3, 1e3)


def _error(model, X, y):
    """What a fit complains of; None if it does not."""
    try:
        model.fit(X, y)
    except ValueError as error:
        return str(error)
    return None


# What an error may begin with: settings that have no equilibrium, held-out sets that
# cannot be drawn, a training that blew up, and data that say nothing.
CLEAR = ("Unstable", "early_stopping", "Training diverged", "With trainable='readout'")


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(200))
@pytest.mark.filterwarnings("ignore:The root mean square of X:UserWarning")
def test_every_fit_ends_in_a_converged_model_or_a_clear_error(seed):
    model, X, y = _draw(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        message = _error(model, X, y)
        if message is None:
            assert model.converged_
            assert model.residual_ <= model._body.tol
            assert np.isfinite(model.transform(X)).all()
            assert np.isfinite(model.predict(X)).all()
        else:
            assert message.startswith(CLEAR)


def test_targets_that_are_none_or_words_are_refused_in_words(rng):
    X = rng.standard_normal((6, 3))
    with pytest.raises(ValueError, match="y must be real numbers, got dtype <U1"):
        DEQRegressor().fit(X, np.array(list("ababab")))
    with pytest.raises(ValueError, match="y contains None"):
        DEQClassifier().fit(X, np.array(["a", None] * 3, dtype=object))
