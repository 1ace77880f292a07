"""How networks are trained: rates, parameters that change, records, and threads."""

import os

import numpy as np
import pytest
import torch
from joblib import Parallel, delayed, effective_n_jobs
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.datasets import load_iris
from sklearn.model_selection import GridSearchCV
from sklearn.preprocessing import StandardScaler
from skorch.callbacks import Callback

from sklearn_deq import (
    DEQClassifier,
    DEQRegressor,
    ExplicitEquivalentClassifier,
    ExplicitEquivalentRegressor,
    match_deq,
)
from sklearn_deq.estimators._monitoring import SOLVER_COLUMNS

SMALL = {"width": 24, "max_epochs": 3, "random_state": 0}
RATES = {
    DEQClassifier: 0.1,
    DEQRegressor: 0.03,
    ExplicitEquivalentClassifier: 0.05,
    ExplicitEquivalentRegressor: 0.03,
}


@pytest.fixture(scope="module")
def iris():
    """Standardised iris, read-only."""
    X, y = load_iris(return_X_y=True)
    X = StandardScaler().fit_transform(X)
    X.flags.writeable = False
    return X, y


class Rates(Callback):
    """Write the learning rate of every epoch's last update into the history."""

    def on_epoch_end(self, net, **kwargs):
        """Record."""
        net.history.record("rate", net.optimizer_.param_groups[0]["lr"])


@pytest.mark.parametrize("Network", RATES)
def test_rates(iris, Network):
    X, y = iris

    def first(**params):
        model = Network(**SMALL, batch_size=150, callbacks=[Rates()], **params)
        return model.fit(X, y).net_.history[:, "rate"]

    found = first()
    assert_allclose(found[0], RATES[Network])
    # A cosine over three updates.
    assert_allclose(found, RATES[Network] * np.array([1.0, 0.75, 0.25]))
    assert_allclose(first(optimizer=torch.optim.AdamW)[0], RATES[Network])
    for optimizer in ("sgd", torch.optim.SGD):
        assert_allclose(first(optimizer=optimizer)[0], 1.0)
    assert_allclose(first(lr=0.2)[0], 0.2)


def test_the_equivalent_of_a_deq_has_its_own_rate():
    assert match_deq(DEQClassifier()).lr == "auto"
    assert match_deq(DEQClassifier(lr=0.2)).lr == 0.2


def test_going_on_follows_the_parameters_as_they_are(iris):
    X, y = iris
    model = DEQClassifier(**SMALL, warm_start=True).fit(X, y)
    model.set_params(
        lr=0.02, batch_size=75, callbacks=[Rates()], weight_decay=0.5, max_epochs=2
    ).fit(X, y)
    history = model.net_.history
    assert history[:, "train_batch_count"] == [2, 2, 2, 2, 2]
    assert history[-1, "rate"] < 0.02
    assert model.net_.optimizer_.param_groups[0]["weight_decay"] == 0.5
    # Another optimizer begins with nothing, the same with its moments.
    steps = {p["step"].item() for p in model.net_.optimizer_.state.values()}
    assert steps == {10.0}
    model.set_params(optimizer="adamw").fit(X, y)
    steps = {p["step"].item() for p in model.net_.optimizer_.state.values()}
    assert steps == {4.0}
    assert model.n_iter_ == 7


def test_batches_of_small_data(iris):
    X, y = iris
    model = DEQClassifier(**SMALL).fit(X, y)
    assert model.net_.batch_size == 128
    assert model.partial_fit(X[:40], y[:40]).net_.batch_size == 40


@pytest.mark.parametrize("Network", [DEQClassifier, DEQRegressor])
def test_history_of_the_solves(iris, Network):
    X, y = iris
    model = Network(**SMALL, tol=1e-6).fit(X, y)
    history = model.solver_history_
    assert set(history) == set(SOLVER_COLUMNS)
    assert {len(values) for values in history.values()} == {3}
    assert 0 < max(history["residual"]) <= 1e-6
    assert 0 < max(history["backward_residual"]) <= 1e-6
    assert history["unconverged"] == [0, 0, 0]
    assert 2 < min(history["n_iter"]) <= max(history["n_iter"]) < 60
    model.partial_fit(X, y)
    assert history["n_iter"] == model.solver_history_["n_iter"][:3]
    assert len(model.solver_history_["n_iter"]) == 4


def test_history_of_features_solved_once(iris):
    X, y = iris
    model = DEQClassifier(**SMALL, trainable="readout").fit(X, y)
    history = model.solver_history_
    assert {len(values) for values in history.values()} == {1}
    assert_allclose(history["n_iter"][0], model.solver_n_iter_.mean())
    assert_allclose(history["residual"][0], model.residual_)
    explicit = ExplicitEquivalentClassifier(**SMALL).fit(X, y)
    assert not hasattr(explicit, "solver_history_")


def test_equilibria_of_frozen_weights_are_solved_once(iris, monkeypatch):
    from sklearn_deq.nn import EquilibriumLayer

    X, y = iris
    rows = []
    original = EquilibriumLayer.forward

    def counted(self, x):
        rows.append(len(x))
        return original(self, x)

    monkeypatch.setattr(EquilibriumLayer, "forward", counted)
    monkeypatch.setattr("sklearn_deq.estimators._equilibrium.BLOCK", 64)
    DEQClassifier(**SMALL, trainable="readout").fit(X, y)
    assert rows == [64, 64, 22]


def test_the_penalty_of_the_jacobian_is_part_of_the_loss(iris, monkeypatch):
    from sklearn_deq.nn import EquilibriumLayer

    X, y = iris
    plain = DEQClassifier(**SMALL, stability=None).fit(X, y)
    asked = []

    def penalty(self):
        asked.append(self.training)
        return 0.0 * self.recurrent_weight.sum() + 0.25

    monkeypatch.setattr(EquilibriumLayer, "jacobian_penalty", penalty, raising=False)
    model = DEQClassifier(**SMALL, stability=None, callbacks=[AsksForPenalty()])
    model.fit(X, y)
    assert asked == [True] * 6
    found = np.array(model.loss_curve_) - plain.loss_curve_
    assert_allclose(found, 0.25, rtol=1e-9)


class AsksForPenalty(Callback):
    """Switch the body to the soft way of staying stable, whatever it offers."""

    def on_train_begin(self, net, **kwargs):
        """Switch."""
        net.module_.body.stability = "jacobian"


def test_bit_for_bit_whatever_the_threads_and_the_generator(iris):
    X, y = iris
    one = DEQClassifier(**SMALL, dtype="float32").fit(X, y)
    torch.rand(7)
    two = DEQClassifier(**SMALL, dtype="float32").fit(X, y)
    assert_array_equal(one.decision_function(X), two.decision_function(X))
    weights = zip(one._body.parameters(), two._body.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in weights)


def _threads(estimator=None, X=None, y=None):
    return float(torch.get_num_threads())


@pytest.mark.slow
def test_parallel_searches_do_not_oversubscribe(iris, monkeypatch):
    """Two workers of a search have together no more threads than there are cores."""
    X, y = iris
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    search = GridSearchCV(
        DEQClassifier(**SMALL), {"width": [8, 16]}, scoring=_threads, cv=2, n_jobs=2
    ).fit(X, y)
    allowed = max(1, (os.cpu_count() or 1) // effective_n_jobs(2))
    assert search.cv_results_["mean_test_score"].max() <= allowed
    serial = Parallel(n_jobs=1)(delayed(_threads)() for _ in range(1))
    assert serial == [torch.get_num_threads()]
