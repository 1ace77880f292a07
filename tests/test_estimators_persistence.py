"""Saved networks: arrays and plain values, which predict and train on the same."""

import copy
import io
import pickle

import joblib
import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from sklearn.datasets import load_iris
from sklearn.preprocessing import StandardScaler
from skorch.callbacks import Callback

from sklearn_deq import (
    Activation,
    DEQClassifier,
    DEQRegressor,
    ExplicitEquivalentClassifier,
    ExplicitEquivalentRegressor,
)

SMALL = {"width": 16, "max_epochs": 3, "random_state": 0}
NETWORKS = [
    DEQClassifier,
    DEQRegressor,
    ExplicitEquivalentClassifier,
    ExplicitEquivalentRegressor,
]
CASES = {
    "all": {},
    "recurrent": {"trainable": "recurrent", "optimizer": "sgd"},
    "readout": {"trainable": "readout", "activation": "tanh"},
    "user's optimizer": {"optimizer": torch.optim.RMSprop, "activation": "gelu"},
}


@pytest.fixture(scope="module")
def iris():
    """Standardised iris, read-only."""
    X, y = load_iris(return_X_y=True)
    X = StandardScaler().fit_transform(X)
    X.flags.writeable = False
    return X, y


class Count(Callback):
    """Write the number of its epochs into the history."""

    def __init__(self):
        self.epochs_ = 0

    def on_epoch_end(self, net, **kwargs):
        """Count."""
        self.epochs_ += 1
        net.history.record("count", self.epochs_)


class Fails(Callback):
    """Break down at the end of the first epoch."""

    def on_epoch_end(self, net, **kwargs):
        """Raise."""
        raise RuntimeError("on purpose")


class Inspector(pickle.Unpickler):
    """Notes the packages whose names a pickle refers to."""

    def __init__(self, content):
        super().__init__(io.BytesIO(content))
        self.packages = set()

    def find_class(self, module, name):
        """Note the package."""
        self.packages.add(module.partition(".")[0])
        return super().find_class(module, name)


@pytest.mark.parametrize("case", ["all", "recurrent", "readout"])
@pytest.mark.parametrize("Network", NETWORKS)
def test_pickles_hold_arrays_and_plain_values(iris, Network, case):
    model = Network(**SMALL, **CASES[case]).fit(*iris)
    inspector = Inspector(pickle.dumps(model))
    inspector.load()
    assert inspector.packages <= {"sklearn_deq", "numpy", "builtins", "copyreg"}


def _skops(model):
    io_ = pytest.importorskip("skops.io")
    content = io_.dumps(model)
    types = io_.get_untrusted_types(data=content)
    named = {"torch.optim.rmsprop.RMSprop"}
    assert all(name.startswith("sklearn_deq.") or name in named for name in types)
    return io_.loads(content, trusted=types)


def _joblib(model):
    file = io.BytesIO()
    joblib.dump(model, file, compress=3)
    file.seek(0)
    return joblib.load(file)


COPIERS = {
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "joblib": _joblib,
    "deepcopy": copy.deepcopy,
    "skops": _skops,
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("Network", NETWORKS)
def test_copies_predict_and_train_on_as_the_original(iris, Network, case):
    X, y = iris
    model = Network(**SMALL, **CASES[case], warm_start=True).fit(X, y)
    state = torch.get_rng_state()
    copies = {name: copier(model) for name, copier in COPIERS.items()}
    assert torch.equal(torch.get_rng_state(), state)
    before = model.predict(X)
    for name, other in copies.items():
        assert_array_equal(other.predict(X), before, err_msg=name)
        assert_array_equal(other.transform(X), model.transform(X), err_msg=name)
        if case == "readout":
            continue
        assert other._body is other.net_.module_.body
        other.partial_fit(X, y).fit(X, y)
        assert_array_equal(model.predict(X), before, err_msg=name)
    if case == "readout":
        return
    model.partial_fit(X, y).fit(X, y)
    for name, other in copies.items():
        assert_array_equal(other.predict(X), model.predict(X), err_msg=name)
        assert other.loss_curve_ == model.loss_curve_, name
        assert other.n_iter_ == 7


def test_the_projection_goes_on_with_the_limit_of_the_first_weights(iris):
    X, y = iris
    model = DEQClassifier(**SMALL, lr=1.0).fit(X, y)
    twice = COPIERS["pickle"](COPIERS["pickle"](model))
    assert twice._body.guard.get_extra_state() == model._body.guard.get_extra_state()


def test_memory_mapped_models_train_on(iris, tmp_path):
    X, y = iris
    model = DEQClassifier(**SMALL).fit(X, y)
    joblib.dump(model, tmp_path / "model")
    other = joblib.load(tmp_path / "model", mmap_mode="r")
    assert_array_equal(other.predict_proba(X), model.predict_proba(X))
    other.partial_fit(X, y)


@pytest.mark.parametrize("Network", NETWORKS)
@pytest.mark.parametrize("trainable", ["all", "readout"])
def test_parameters_changed_after_fit_do_not_change_the_copy(iris, Network, trainable):
    X, y = iris
    model = Network(**SMALL, trainable=trainable).fit(X, y)
    expected = model.predict(X)
    model.set_params(width=7, activation="tanh", optimizer="none", lr=-1.0)
    for copier in ("pickle", "deepcopy"):
        assert_array_equal(COPIERS[copier](model).predict(X), expected)


def test_activations_of_older_pickles_are_those_of_today(iris, monkeypatch):
    """They lack the values of their functions, by which activations are compared."""
    X, y = iris
    model = DEQClassifier(**SMALL, activation=Activation(np.tanh)).fit(X, y)

    def former(self):
        return {name: each for name, each in vars(self).items() if name != "_values"}

    monkeypatch.setattr(Activation, "__getstate__", former)
    other = pickle.loads(pickle.dumps(model))
    other.set_params(activation=Activation(np.tanh)).partial_fit(X, y)


def test_callbacks_survive_and_begin_anew(iris):
    X, y = iris
    model = DEQClassifier(**SMALL, callbacks=[("count", Count())]).fit(X, y)
    other = COPIERS["pickle"](model).partial_fit(X, y)
    assert other.net_.history[:, "count"] == [1, 2, 3, 1]
    assert model.partial_fit(X, y).net_.history[:, "count"] == [1, 2, 3, 4]


@pytest.mark.parametrize("trainable", ["all", "readout"])
def test_a_model_from_another_device_is_loaded_to_the_cpu(iris, trainable):
    X, y = iris
    model = DEQClassifier(**SMALL, trainable=trainable).fit(X, y)
    state = model.__getstate__()
    # No machine has so many.
    state["_saved"]["device"] = state["device"] = "cuda:99"
    other = DEQClassifier()
    with pytest.warns(UserWarning, match="'cuda:99', which this machine lacks"):
        other.__setstate__(state)
    assert_array_equal(other.predict(X), model.predict(X))
    if trainable == "all":
        with pytest.raises(ValueError, match="got 'cuda:99'"):
            other.partial_fit(X, y)
        other.set_params(device="cpu").partial_fit(X, y)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("trainable", ["all", "readout"])
def test_from_the_gpu_to_the_cpu(iris, trainable, monkeypatch):
    X, y = iris
    model = DEQClassifier(**SMALL, trainable=trainable, device="cuda").fit(X, y)
    content, expected = pickle.dumps(model), model.decision_function(X)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(
        "sklearn_deq.estimators._network.device_at_hand", lambda name: "cpu"
    )
    other = pickle.loads(content)
    np.testing.assert_allclose(other.decision_function(X), expected, atol=1e-8)


def test_unfitted_and_failed_estimators_are_saved_too(iris):
    X, y = iris
    assert COPIERS["pickle"](DEQClassifier(width=5)).width == 5
    failed = DEQClassifier(**SMALL, callbacks=[Fails()])
    with pytest.raises(RuntimeError, match="on purpose"):
        failed.fit(X, y)
    assert not hasattr(COPIERS["pickle"](failed), "net_")


def test_skops_files_of_hermite_layers_are_of_the_size_of_their_arrays(iris):
    io_ = pytest.importorskip("skops.io")
    model = ExplicitEquivalentRegressor(**SMALL, architecture="hermite").fit(*iris)
    pickled = pickle.dumps(model)
    # Thousands of coefficients, each a node of its own, once made it 290 times.
    assert len(io_.dumps(model)) < 30 * len(pickled)
    # And coefficients are what they were, to the last bit.
    assert pickle.loads(pickled).match_.layers == model.match_.layers
