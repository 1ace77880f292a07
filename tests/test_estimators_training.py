"""How networks are trained: rates, parameters that change, records, and threads."""

import functools
import os
import pickle

import numpy as np
import pytest
import torch
from joblib import Parallel, delayed, effective_n_jobs
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.datasets import load_iris
from sklearn.model_selection import GridSearchCV
from sklearn.preprocessing import StandardScaler
from skorch.callbacks import (
    Callback,
    Checkpoint,
    EarlyStopping,
    EpochScoring,
    LRScheduler,
)

from sklearn_deq import (
    DEQClassifier,
    DEQRegressor,
    ExplicitEquivalentClassifier,
    ExplicitEquivalentRegressor,
    match_deq,
)
from sklearn_deq.estimators._monitoring import SOLVER_COLUMNS, shrink
from sklearn_deq.nn import EquilibriumLayer

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


@pytest.mark.parametrize("partial", [False, True])
def test_going_on_follows_the_settings_of_the_solver(iris, partial):
    X, y = iris
    model = DEQClassifier(**SMALL, warm_start=True).fit(X, y)
    settings = {"tol": 1e-3, "solver": "broyden", "backward": "one_step"}
    model.set_params(**settings, solver_max_iter=77, stability=None)
    model = pickle.loads(
        pickle.dumps((model.partial_fit if partial else model.fit)(X, y))
    )
    body = model.net_.module_.body
    assert (body.tol, body.solver, body.backward_mode) == tuple(settings.values())
    assert (body.solver_max_iter, body.stability, body.guard) == (77, None, None)
    model.set_params(stability="project").partial_fit(X, y)
    assert model.net_.module_.body.guard is not None
    assert model.net_.callback("guard").holds


@pytest.mark.parametrize(
    "changed",
    [
        {"width": 64},
        {"activation": "tanh"},
        {"recurrent_variance": 0.5},
        {"trainable": "recurrent"},
        {"normalize": True},
        {"dtype": "float32"},
    ],
    ids=str,
)
def test_going_on_refuses_another_structure(iris, changed):
    X, y = iris
    model = DEQClassifier(**SMALL, warm_start=True).fit(X, y)
    before = model.predict_proba(X)
    model.set_params(**changed)
    ((name, value),) = changed.items()
    for go_on in (model.fit, model.partial_fit):
        with pytest.raises(ValueError, match=f"{name} was .* and is {value!r} now"):
            go_on(X, y)
    model.set_params(**{name: getattr(DEQClassifier(**SMALL), name)})
    assert_array_equal(model.predict_proba(X), before)
    model.partial_fit(X, y)


def test_a_scheduler_of_the_rate_wins(iris):
    X, y = iris
    scheduler = LRScheduler(policy="StepLR", step_size=1, gamma=0.5)
    model = DEQClassifier(**SMALL, lr=0.08, callbacks=[Rates(), scheduler]).fit(X, y)
    assert_allclose(model.net_.history[:, "rate"], [0.08, 0.04, 0.02])


class HalfRate(Callback):
    """Set the rate by hand after an epoch."""

    def on_epoch_end(self, net, **kwargs):
        """Set."""
        net.optimizer_.param_groups[0]["lr"] = 0.01


def test_a_rate_that_a_callback_sets_is_left_to_it(iris):
    X, y = iris
    callbacks = [HalfRate(), Rates()]
    model = DEQClassifier(**SMALL, lr=0.08, callbacks=callbacks).fit(X, y)
    assert model.net_.history[:, "rate"] == [0.01, 0.01, 0.01]


@pytest.mark.parametrize("scoring", ["accuracy", "neg_log_loss", "roc_auc"])
@pytest.mark.parametrize("class_weight", [None, "balanced"])
def test_scores_of_epochs_are_those_of_sklearn(iris, scoring, class_weight):
    X, y = iris
    if scoring == "roc_auc":
        X, y = X[:100], y[:100]
    score = EpochScoring(scoring, name="score", on_train=False, use_caching=False)
    model = DEQClassifier(
        **SMALL, early_stopping=True, class_weight=class_weight, callbacks=[score]
    )
    model.fit(X, np.array(["a", "b", "c"])[y])
    found = np.array(model.net_.history[:, "score"])
    assert np.isfinite(found).all()
    codes = model.predict(X)
    assert_array_equal(model.net_.predict(X), np.searchsorted(model.classes_, codes))
    assert_allclose(model.net_.predict_proba(X), model.predict_proba(X), rtol=1e-6)


def test_scores_of_epochs_of_labels_and_numbers(iris):
    X, y = iris
    labels = np.stack([y == 0, y > 1], axis=1).astype(int)
    score = EpochScoring("accuracy", name="score", on_train=True)
    model = DEQClassifier(**SMALL, callbacks=[score]).fit(X, labels)
    assert 0 < model.net_.history[-1, "score"] <= 1
    assert_array_equal(model.net_.predict(X), model.predict(X))
    score = EpochScoring("r2", name="score", on_train=True, lower_is_better=False)
    model = DEQRegressor(**SMALL, callbacks=[score]).fit(X, 7.0 * y)
    assert 0 < model.net_.history[-1, "score"] <= 1


@pytest.mark.parametrize("callback", [EarlyStopping, Checkpoint, EarlyStopping()])
def test_callbacks_that_need_held_out_rows(iris, callback):
    X, y = iris
    model = DEQClassifier(**SMALL, callbacks=[callback])
    for train in (model.fit, model.partial_fit):
        with pytest.raises(ValueError, match=r"monitors 'valid_loss.*early_stopping"):
            train(X, y)
    model.set_params(callbacks=[EarlyStopping(monitor="train_loss")]).fit(X, y)


def test_scores_of_held_out_rows_need_some(iris):
    """They would be of nothing, and the history without them."""
    model = DEQClassifier(**SMALL, callbacks=[EpochScoring("accuracy")])
    with pytest.raises(ValueError, match="scores held-out samples: set early_stopping"):
        model.fit(*iris)


@pytest.mark.parametrize(
    "optimizer",
    [
        functools.partial(torch.optim.SGD, momentum=0.9),
        torch.optim.Rprop,
        functools.partial(torch.optim.Adam, betas=(0.8, 0.99)),
        torch.optim.LBFGS,
    ],
    ids=["momentum", "rprop", "betas", "lbfgs"],
)
def test_optimizers_of_other_kinds(iris, optimizer):
    X, y = iris
    model = DEQClassifier(**SMALL, optimizer=optimizer, lr=0.02, batch_size=150)
    model.fit(X, y)
    assert model.loss_curve_[-1] < model.loss_curve_[0]
    model.partial_fit(X, y)


@pytest.mark.parametrize(
    ("optimizer", "weight_decay", "message"),
    [
        (torch.optim.SparseAdam, 0.0, "fails with weight_decay=0.0: .*dense"),
        (torch.optim.Optimizer, 0.0, "fails with"),
        (torch.optim.LBFGS, 0.1, "fails with weight_decay=0.1: .*weight_decay"),
        (functools.partial(torch.optim.SGD, lr=1.0), 0.0, r"set \['lr'\] on"),
        (dict, 0.0, "optimizer must be one of"),
    ],
)
def test_optimizers_that_are_of_no_use(iris, optimizer, weight_decay, message):
    X, y = iris
    model = DEQClassifier(**SMALL, optimizer=optimizer, weight_decay=weight_decay)
    with pytest.raises(ValueError, match=message):
        model.fit(X, y)


def test_a_constant_target_is_no_rise_of_the_penalised_loss(iris):
    X, _ = iris
    model = DEQRegressor(**SMALL, stability="jacobian").fit(X, np.full(len(X), 3.0))
    assert_allclose(model.predict(X), 3.0)


def test_probes_of_the_penalty_go_on_in_copies(iris):
    X, y = iris
    one = DEQClassifier(**SMALL, stability="jacobian").fit(X, y)
    two = pickle.loads(pickle.dumps(one))
    for model in (one, two):
        model.partial_fit(X, y)
    assert_array_equal(one.predict_proba(X), two.predict_proba(X))


def test_batches_of_small_data(iris):
    X, y = iris
    model = DEQClassifier(**SMALL).fit(X, y)
    assert model.net_.batch_size == 128
    assert model.partial_fit(X[:40], y[:40]).net_.batch_size == 40


@pytest.mark.parametrize("Network", [DEQClassifier, DEQRegressor])
def test_history_of_the_solves(iris, Network):
    X, y = iris
    model = Network(**SMALL, tol=1e-6, backward_tol=1e-4).fit(X, y)
    history = model.solver_history_
    assert set(history) == set(SOLVER_COLUMNS)
    assert {len(values) for values in history.values()} == {3}
    assert 0 < max(history["residual"]) <= 1e-6
    assert 1e-6 < max(history["backward_residual"]) <= 1e-4
    assert history["unconverged"] == [0, 0, 0]
    assert 2 < min(history["n_iter"]) <= max(history["n_iter"]) < 60
    model.partial_fit(X, y)
    assert history["n_iter"] == model.solver_history_["n_iter"][:3]
    assert len(model.solver_history_["n_iter"]) == 4


def test_adjoints_solved_as_loosely_as_asked_are_not_warned_of(iris):
    X, y = iris
    model = DEQClassifier(
        width=64,
        recurrent_variance=0.8,
        input_variance=0.2,
        backward_tol=0.03,
        max_epochs=2,
        random_state=0,
    ).fit(X, y)
    assert 0.01 < max(model.solver_history_["backward_residual"]) <= 0.03


def test_history_of_features_solved_once(iris):
    X, y = iris
    model = DEQClassifier(**SMALL, trainable="readout").fit(X, y)
    history = model.solver_history_
    assert {len(values) for values in history.values()} == {1}
    assert_allclose(history["n_iter"][0], model.solver_n_iter_.mean())
    assert_allclose(history["residual"][0], model.residual_)
    # Half of the slopes of ReLU are 1, and ‖A‖²_F is about m².
    assert_allclose(history["chi"][0], 0.1, rtol=0.3)
    explicit = ExplicitEquivalentClassifier(**SMALL).fit(X, y)
    assert not hasattr(explicit, "solver_history_")


def test_equilibria_of_frozen_weights_are_solved_once(iris, monkeypatch):
    X, y = iris
    rows = []
    original = EquilibriumLayer.forward

    def counted(self, x):
        rows.append(len(x))
        return original(self, x)

    monkeypatch.setattr(EquilibriumLayer, "forward", counted)
    monkeypatch.setattr("sklearn_deq.estimators._solves.BLOCK", 64)
    model = DEQClassifier(**SMALL, trainable="readout").fit(X, y)
    assert rows == [64, 64, 22]
    assert_allclose(model.solver_history_["n_iter"], [model.solver_n_iter_.mean()])


def test_the_penalty_of_the_jacobian_is_asked_for_in_training(iris, monkeypatch):
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
    # Its gradient is 0 here; its value is not that of the data.
    assert_allclose(model.loss_curve_, plain.loss_curve_, rtol=1e-9)


def test_the_soft_way_lowers_chi(iris):
    X, y = iris
    params = {**SMALL, "width": 64, "recurrent_variance": 0.6, "max_epochs": 8}
    free, soft = (
        DEQClassifier(**params, stability=stability).fit(X, y)
        for stability in (None, "jacobian")
    )
    assert soft.solver_history_["chi"][-1] < 0.8 * free.solver_history_["chi"][-1]
    assert soft.converged_


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


@pytest.mark.parametrize(
    ("times", "factor"),
    # Each as much as all before together and once more; a tenth is left at least.
    [
        (0, 0.9),
        (1, 0.9**2),
        (2, 0.9**4),
        (3, 0.9**8),
        (4, 0.9**16),
        (5, 0.1),
        (99, 0.1),
    ],
)
def test_what_is_shrunk_in_vain_is_shrunk_more(times, factor):
    layer = EquilibriumLayer(3, 8, dtype=torch.float64)
    before = {k: v.detach().clone() for k, v in layer.named_parameters()}
    shrink(layer, times)
    expected = before | {"recurrent_weight": factor * before["recurrent_weight"]}
    for name, parameter in layer.named_parameters():
        # Powers of a number, in one order or another.
        assert_allclose(parameter.detach(), expected[name], rtol=1e-14)


class Draws(Callback):
    """Write a number of torch's global generator into the history of every epoch."""

    def on_epoch_end(self, net, **kwargs):
        """Draw."""
        net.history.record("drawn", torch.rand(1, dtype=torch.float64).item())


@pytest.mark.parametrize("Network", RATES)
def test_draws_of_callbacks_do_not_repeat(iris, Network):
    X, y = iris
    model = Network(**SMALL, callbacks=[Draws()]).partial_fit(X, y)
    copy = pickle.loads(pickle.dumps(model.partial_fit(X, y)))
    for network in (model, copy):
        network.partial_fit(X, y).set_params(warm_start=True).fit(X, y).fit(X, y)
    drawn = model.net_.history[:, "drawn"]
    assert len(set(drawn)) == len(drawn) == 9
    # They follow from the seed, in copies, too, and a fit's as before.
    assert copy.net_.history[:, "drawn"] == drawn
    seed = int(np.random.RandomState(0).randint(2**31 - 1))
    generator = torch.Generator().manual_seed(seed)
    assert drawn[0] == torch.rand(1, generator=generator, dtype=torch.float64).item()


class Readouts(Callback):
    """Keep the readout of every epoch in the history."""

    def on_epoch_end(self, net, **kwargs):
        """Keep."""
        weight = net.module_.readout.weight.detach().numpy()
        net.history.record("readout", weight.tolist())


@pytest.mark.parametrize("Network", RATES)
def test_what_early_stopping_kept(iris, Network):
    X, y = iris
    # High rates: the loss on held-out rows rises now and then.
    settings = {"width": 8, "max_epochs": 40, "lr": 0.3, "random_state": 0}
    model = Network(**settings, warm_start=True)
    model.set_params(callbacks=[Readouts()], batch_size=16).partial_fit(X, y)
    assert model.validation_loss_curve_ is None
    assert model.best_iter_ is None
    for _ in range(2):
        before = model.n_iter_
        model.set_params(early_stopping=True).fit(X, y)
        curve, best = model.validation_loss_curve_, model.best_iter_
        assert len(curve) == model.n_iter_ == len(model.loss_curve_)
        assert np.isnan(curve[0])
        # skorch takes what is less by 1e-4 of itself for better.
        assert curve[best - 1] <= 1.001 * min(curve[before:])
        assert before < best <= model.n_iter_
        kept = model.net_.module_.readout.weight.detach().numpy()
        assert_array_equal(kept, model.net_.history[best - 1, "readout"])
    copy = pickle.loads(pickle.dumps(model))
    assert copy.best_iter_ == best
    assert_array_equal(copy.validation_loss_curve_, curve)
    # What goes on without it has other weights than those of that epoch.
    copy.set_params(early_stopping=False).partial_fit(X, y)
    assert copy.best_iter_ is copy.validation_loss_curve_ is None
    model.set_params(early_stopping=False, max_epochs=1).fit(X, y)
    assert model.best_iter_ is model.validation_loss_curve_ is None
    copy.set_params(early_stopping=True, trainable="readout", warm_start=False)
    assert copy.fit(X, y).best_iter_ is copy.validation_loss_curve_ is None


def _threads(estimator=None, X=None, y=None):
    return float(torch.get_num_threads())


def test_small_residuals_are_printed_as_such(iris, capsys):
    X, y = iris
    DEQClassifier(**SMALL, verbose=2).fit(X, y)
    printed = capsys.readouterr().out.splitlines()
    column = printed[0].split().index("solver_residual")
    assert 0 < float(printed[2].split()[column]) <= 1e-5


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


def test_groups_of_an_optimizer_keep_their_rates(iris):
    """A factory may train the recurrent weight at a rate of its own."""
    X, y = iris

    def two_rates(parameters, lr):
        (group,) = parameters
        first, *others = group["params"]
        groups = [{"params": [first], "lr": 0.25 * lr}, {"params": others}]
        return torch.optim.SGD(groups, lr=lr)

    found = []

    class Noted(Callback):
        def on_grad_computed(self, net, **kwargs):
            found.append([group["lr"] for group in net.optimizer_.param_groups])

    model = DEQClassifier(**SMALL, lr=0.2, optimizer=two_rates, callbacks=[Noted()])
    model.set_params(batch_size=150).fit(X, y)
    assert_allclose(found, np.outer([1.0, 0.75, 0.25], [0.05, 0.2]))
