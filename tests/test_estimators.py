"""The estimators: learning, reproducibility, bad input, and the path of the README."""

import copy
import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.datasets import load_diabetes, load_iris
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.kernel_ridge import KernelRidge
from sklearn.model_selection import GridSearchCV, RandomizedSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from skorch.callbacks import Callback

from sklearn_deq import (
    Activation,
    DEQClassifier,
    DEQKernelTransformer,
    DEQRegressor,
    ExplicitEquivalentClassifier,
    ExplicitEquivalentRegressor,
    match_deq,
)
from sklearn_deq.exceptions import MatchWarning
from sklearn_deq.kernels import deq_kernel

CLASSIFIERS = [DEQClassifier, ExplicitEquivalentClassifier]
REGRESSORS = [DEQRegressor, ExplicitEquivalentRegressor]
NETWORKS = CLASSIFIERS + REGRESSORS
SMALL = {"width": 24, "max_epochs": 3, "random_state": 0}


@pytest.fixture(scope="module")
def iris():
    X, y = load_iris(return_X_y=True)
    X = StandardScaler().fit_transform(X)
    X.flags.writeable = False
    return X, y


@pytest.fixture(scope="module")
def diabetes():
    X, y = load_diabetes(return_X_y=True)
    return StandardScaler().fit_transform(X), y


def _softplus_like(x):
    return np.logaddexp(0, x)


@pytest.mark.parametrize("trainable", ["all", "recurrent", "readout"])
@pytest.mark.parametrize("Classifier", CLASSIFIERS)
@pytest.mark.filterwarnings("ignore:.*samples have norms:UserWarning")
def test_classifiers_learn(Classifier, trainable, digits):
    X_train, X_test, y_train, y_test = digits
    model = Classifier(
        width=128, trainable=trainable, max_epochs=10, dtype="float32", random_state=0
    ).fit(X_train, y_train)
    assert model.score(X_test, y_test) > 0.94
    assert hasattr(model, "readout_") is (trainable == "readout")
    assert hasattr(model, "net_") is (trainable != "readout")
    assert_allclose(model.predict_proba(X_test).sum(axis=1), 1, rtol=1e-5)
    assert model.transform(X_test).dtype == np.float32


@pytest.mark.parametrize("trainable", ["all", "readout"])
@pytest.mark.parametrize("Regressor", REGRESSORS)
def test_regressors_learn_in_the_units_of_y(Regressor, trainable, diabetes):
    X, y = diabetes
    model = Regressor(
        width=64, trainable=trainable, weight_decay=1e-3, random_state=0
    ).fit(X[:300], y[:300])
    assert model.score(X[300:], y[300:]) > 0.3
    shifted = clone(model).fit(X[:300], 1e4 + 10 * y[:300])
    expected = 1e4 + 10 * model.predict(X[300:])
    assert_allclose(shifted.predict(X[300:]), expected, rtol=1e-5)


@pytest.mark.parametrize("Regressor", REGRESSORS)
@pytest.mark.parametrize("trainable", ["all", "readout"])
def test_multi_output(Regressor, trainable, diabetes):
    X, y = diabetes
    Y = np.column_stack([y, -y, np.full_like(y, 3.0)])
    model = Regressor(**SMALL, trainable=trainable).fit(X, Y)
    found = model.predict(X)
    assert found.shape == Y.shape
    assert_allclose(found[:, 2], 3.0, atol=1e-6)


def test_transform_is_the_equilibrium(iris):
    """Recompute the states by hand from the weights of the layer."""
    X, y = iris
    model = DEQClassifier(**SMALL, activation="tanh", tol=1e-12).fit(X, y)
    body = model.net_.module_.body
    A = body.recurrent_weight.detach().numpy()
    B = body.input_weight.detach().numpy()
    z = np.zeros((len(X), 24))
    for _ in range(300):
        pre = np.sqrt(0.2) * z @ A.T + np.sqrt(0.8 / 4) * X @ B.T
        z = (np.tanh(pre) - model.offset_) / np.sqrt(24)
    assert_allclose(model.transform(X), z, atol=1e-10)
    readout = model.net_.module_.readout
    scores = z @ readout.weight.detach().numpy().T + readout.bias.detach().numpy()
    assert_allclose(model.decision_function(X), scores, atol=1e-9)
    assert model.converged_
    assert model.residual_ <= 1e-12
    assert model.solver_n_iter_.shape == (len(X),)
    assert len(model.loss_curve_) == model.n_iter_ == 3


@pytest.mark.parametrize("Network", NETWORKS)
def test_same_seed_same_result_and_global_generators_untouched(Network, iris):
    X, y = iris
    torch_state = torch.get_rng_state()
    numpy_state = np.random.get_state()[1].copy()  # noqa: NPY002
    first, second = (Network(**SMALL).fit(X, y) for _ in range(2))
    assert_array_equal(first.predict(X), second.predict(X))
    assert_array_equal(first.transform(X), second.transform(X))
    other = Network(**{**SMALL, "random_state": 1}).fit(X, y)
    assert np.abs(other.transform(X) - first.transform(X)).max() > 1e-3
    assert torch.equal(torch_state, torch.get_rng_state())
    assert_array_equal(numpy_state, np.random.get_state()[1])  # noqa: NPY002


@pytest.mark.parametrize("trainable", ["all", "readout"])
@pytest.mark.parametrize("Network", NETWORKS)
def test_copies_predict_the_same(Network, trainable, iris):
    X, y = iris
    model = Network(**SMALL, trainable=trainable).fit(X, y)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert_array_equal(twin.predict(X), model.predict(X))
    assert not hasattr(clone(model), "n_features_in_")


@pytest.mark.parametrize("Network", NETWORKS)
def test_predictions_do_not_depend_on_the_batch(Network, iris):
    X, y = iris
    model = Network(**SMALL).fit(X, y)
    whole = model.transform(X)
    for size in (1, 7, 64):
        parts = [model.transform(X[i : i + size]) for i in range(0, len(X), size)]
        assert_allclose(np.concatenate(parts), whole, rtol=0, atol=1e-12)


def test_user_activation_everywhere(iris):
    X, y = iris
    mine = Activation(_softplus_like, name="softplus-like")
    expected = DEQClassifier(**SMALL, activation="softplus").fit(X, y)
    found = DEQClassifier(**SMALL, activation=mine).fit(X, y)
    # The network evaluates a table good to 1e-10, trained for three epochs.
    assert_allclose(found.predict_proba(X), expected.predict_proba(X), atol=1e-4)
    K = DEQKernelTransformer(activation=_softplus_like).fit_transform(X)
    builtin = DEQKernelTransformer(activation="softplus").fit_transform(X)
    assert_allclose(K, builtin, atol=1e-8)


def test_class_weight_and_validation(iris):
    X, y = iris
    heavy = DEQClassifier(
        width=24, random_state=0, class_weight={0: 1, 1: 1e-3, 2: 1}
    ).fit(X, y)
    assert (heavy.predict(X) == 1).sum() < 50
    stopped = DEQClassifier(
        width=24, random_state=0, early_stopping=True, max_epochs=200
    ).fit(X, y)
    assert stopped.n_iter_ < 200
    assert stopped.score(X, y) > 0.9
    with pytest.raises(ValueError, match="labels that y lacks"):
        DEQClassifier(**SMALL, class_weight={7: 1.0}).fit(X, y)
    with pytest.raises(ValueError, match="at least 2 samples of every class"):
        DEQClassifier(**SMALL, early_stopping=True).fit(X[:52], np.r_[y[:51], 2])


def test_warm_start_and_partial_fit(iris):
    X, y = iris
    model = DEQClassifier(**SMALL, warm_start=True).fit(X, y)
    first = model.loss_curve_[-1]
    model.fit(X, y)
    assert len(model.loss_curve_) == 6
    assert model.loss_curve_[-1] < first
    online = DEQClassifier(**SMALL)
    online.partial_fit(X[:60], y[:60], classes=[0, 1, 2])
    tau0 = online.tau0_
    for _ in range(5):
        online.partial_fit(X, y)
    assert online.tau0_ == tau0
    assert online.score(X, y) > 0.8
    with pytest.raises(ValueError, match="not seen before"):
        online.partial_fit(X[:2], [5, 6])
    assert not hasattr(DEQClassifier(trainable="readout"), "partial_fit")


class _Interrupt(Callback):
    def on_epoch_end(self, net, **kwargs):
        if len(net.history) == 2:
            raise KeyboardInterrupt


@pytest.mark.parametrize("Network", NETWORKS)
def test_interrupted_fit_is_fitted_and_raises(Network, iris):
    X, y = iris
    model = Network(**{**SMALL, "max_epochs": 50}, callbacks=[_Interrupt()])
    with pytest.raises(KeyboardInterrupt):
        model.fit(X, y)
    assert model.n_iter_ <= 2
    assert len(model.predict(X)) == len(X)


# The path of the README -----------------------------------------------------------


def test_grid_search_over_the_kernel(digits):
    X_train, X_test, y_train, y_test = digits
    search = GridSearchCV(
        make_pipeline(
            StandardScaler(), DEQKernelTransformer(), SVC(kernel="precomputed")
        ),
        {"deqkerneltransformer__recurrent_variance": [0.1, 0.5], "svc__C": [1, 10]},
        cv=3,
    ).fit(X_train[:300], y_train[:300])
    assert search.score(X_test, y_test) > 0.9


def test_kernel_transformer_is_the_kernel(iris):
    X, _ = iris
    transformer = DEQKernelTransformer(kernel="ntk").fit(X[:100])
    tau0 = np.sqrt(np.mean(X[:100] ** 2))
    assert_allclose(transformer.tau0_, tau0)
    expected = deq_kernel(X, X[:100], kernel="ntk", tau0=tau0)
    assert_allclose(transformer.transform(X), expected, atol=1e-7)
    frame = pd.DataFrame(X[:100], columns=list("abcd"))
    out = DEQKernelTransformer().set_output(transform="pandas").fit_transform(frame)
    assert list(out.columns[:2]) == ["deqkerneltransformer0", "deqkerneltransformer1"]


def test_kernel_ridge_reaches_its_figure_on_digits(digits):
    X_train, X_test, y_train, y_test = digits
    transformer = DEQKernelTransformer()
    ridge = KernelRidge(kernel="precomputed", alpha=1e-3)
    ridge.fit(transformer.fit_transform(X_train), np.eye(10)[y_train])
    predicted = ridge.predict(transformer.transform(X_test)).argmax(axis=1)
    assert np.mean(predicted == y_test) >= 0.98


@pytest.mark.slow
def test_networks_reach_their_figures_on_digits(digits):
    X_train, X_test, y_train, y_test = digits
    deq = DEQClassifier(width=512, dtype="float32", random_state=0)
    assert deq.fit(X_train, y_train).score(X_test, y_test) >= 0.97
    explicit = match_deq(deq).fit(X_train, y_train)
    assert explicit.score(X_test, y_test) >= 0.97


@pytest.mark.parametrize(("Network", "Equivalent"), [CLASSIFIERS, REGRESSORS])
def test_match_deq_copies_what_both_share(Network, Equivalent, iris):
    X, y = iris
    deq = Network(**SMALL, activation="tanh", trainable="readout", lr=0.01)
    explicit = match_deq(deq)
    assert type(explicit) is Equivalent
    for name, value in explicit.get_params().items():
        if name in deq.get_params():
            assert value == getattr(deq, name)
    assert match_deq(deq.fit(2 * X, y)).tau0 == deq.tau0_
    assert explicit.fit(X, y).match_.residual < 1e-6


def test_match_deq_takes_pipelines_and_searches(iris):
    X, y = iris
    raw = 5 + 3 * X
    deq = DEQClassifier(**SMALL)
    pipeline = make_pipeline(StandardScaler(), deq)
    assert match_deq(pipeline).width == 24
    pipeline.fit(raw, y)
    assert_allclose(match_deq(pipeline, raw).tau0, 1.0)
    assert_allclose(match_deq(deq, 3 * X).tau0, 3.0)
    grid = GridSearchCV(deq, {"width": [8, 16]}, cv=2)
    assert match_deq(grid).width == 24
    grid.fit(X, y)
    assert match_deq(grid).width == grid.best_params_["width"]
    assert match_deq(RandomizedSearchCV(deq, {"width": [8]})).width == 24
    tuned = match_deq(deq, kernel="ntk", architecture="leaky_relu", width=99)
    assert (tuned.kernel, tuned.architecture, tuned.width) == ("ntk", "leaky_relu", 99)
    with pytest.raises(TypeError, match="Did you mean 'width'"):
        match_deq(deq, widht=3)
    with pytest.raises(TypeError, match="needs a DEQClassifier"):
        match_deq(SVC())


def test_poor_match_warns_on_fit(iris):
    X, y = iris
    explicit = ExplicitEquivalentClassifier(**SMALL, architecture="hard_tanh")
    with pytest.warns(MatchWarning, match="relative residual of"):
        explicit.fit(X, y)
    assert not explicit.match_.converged


# Bad input ------------------------------------------------------------------------

ALL = [*NETWORKS, DEQKernelTransformer]


@pytest.mark.parametrize("Estimator", ALL)
@pytest.mark.parametrize(
    ("X", "message"),
    [
        ([[np.nan, 1.0], [1.0, 2.0]], "NaN"),
        ([[np.inf, 1.0], [1.0, 2.0]], "infinity"),
        ([1.0, 2.0], "Expected 2D array"),
        ([["a", "b"], ["c", "d"]], "could not convert string"),
    ],
)
def test_bad_samples(Estimator, X, message):
    with pytest.raises(ValueError, match=message):
        Estimator().fit(X, [0, 1])


@pytest.mark.parametrize("Estimator", ALL)
@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"activation": "rleu"}, "Did you mean 'relu'"),
        ({"recurrent_variance": -0.1}, "'recurrent_variance' parameter"),
        ({"recurrent_variance": 2.5}, "recurrent_variance=2.5"),
        ({"bias_variance": "large"}, "'bias_variance' parameter"),
        ({"dtype": "int8"}, "'dtype' parameter"),
        ({"tau0": -1}, "'tau0' parameter"),
        ({"device": "gpu0"}, "device"),
    ],
)
def test_bad_parameters(Estimator, params, message, iris):
    X, y = iris
    with pytest.raises(ValueError, match=message):
        Estimator(**params).fit(X, y)


@pytest.mark.parametrize("Network", NETWORKS)
@pytest.mark.parametrize(
    "params",
    [{"width": 0}, {"lr": 0.0}, {"trainable": "some"}, {"optimizer": "adma"}],
)
def test_bad_training_parameters(Network, params, iris):
    (name,) = params
    with pytest.raises(ValueError, match=f"'{name}' parameter"):
        Network(**params).fit(*iris)


@pytest.mark.parametrize(
    ("estimator", "name"),
    [
        (ExplicitEquivalentClassifier(kernel="rbf"), "kernel"),
        (ExplicitEquivalentClassifier(architecture="deep"), "architecture"),
        (DEQKernelTransformer(kernel="rbf"), "kernel"),
        (DEQClassifier(solver="newton"), "solver"),
    ],
)
def test_unknown_choices(estimator, name, iris):
    with pytest.raises(ValueError, match=f"'{name}' parameter"):
        estimator.fit(*iris)


@pytest.mark.parametrize("Estimator", ALL)
def test_unknown_parameters_get_a_suggestion(Estimator):
    with pytest.raises(TypeError, match="Did you mean 'recurrent_variance'"):
        Estimator(recurent_variance=0.1)
    with pytest.raises(ValueError, match="Did you mean 'activation'"):
        Estimator().set_params(activatoin="tanh")
    with pytest.raises(NotFittedError):
        Estimator().transform([[1.0]])


def test_instability_is_found_before_training(iris):
    X, y = iris
    deq = DEQClassifier(activation="tanh", recurrent_variance=1.5, input_variance=1.5)
    with pytest.raises(ValueError, match="for samples"):
        deq.fit(np.vstack([X, np.full((1, 4), 0.05)]), np.r_[y, 0])


def test_bias_or_no_centring_cannot_be_matched_by_equations(iris):
    """Only a layer made for the kernel can: "auto" takes it."""
    for params in ({"bias_variance": 0.1}, {"center": False}):
        model = ExplicitEquivalentClassifier(
            **SMALL, architecture="piecewise_linear", **params
        )
        with pytest.raises(ValueError, match="center=True and bias_variance=0"):
            model.fit(*iris)
        model.set_params(architecture="auto", normalize=True)
        assert model.fit(*iris).match_.architecture == "hermite"


@pytest.mark.parametrize("Network", [DEQClassifier, DEQRegressor])
def test_unconverged_equilibria_are_warned_of(Network, iris):
    with pytest.warns(ConvergenceWarning, match="relative residual.*solver_max_iter"):
        model = Network(
            **SMALL, solver_max_iter=2, trainable="readout", stability=None
        ).fit(*iris)
    assert not model.converged_
    assert model.residual_ > model.tol


@pytest.mark.parametrize("Network", NETWORKS)
@pytest.mark.parametrize("trainable", ["all", "readout"])
@pytest.mark.parametrize(
    "case", ["one sample", "one feature", "constant column", "zero row", "duplicates"]
)
def test_degenerate_data(Network, trainable, case, iris):
    X, y = (array.copy() for array in iris)
    if case == "one sample":
        if Network in CLASSIFIERS and trainable == "readout":
            with pytest.raises(ValueError, match="only one class"):
                Network(**SMALL, trainable=trainable).fit(X[:1], y[:1])
            return
        X, y = X[:1], y[:1]
    elif case == "one feature":
        X = X[:, :1]
    elif case == "constant column":
        X[:, 0] = 7.0
    elif case == "zero row":
        X[::10] = 0.0
    else:
        X, y = np.repeat(X[::50], 5, axis=0), np.repeat(y[::50], 5)
    for normalize in (False, True):
        model = Network(**SMALL, trainable=trainable, normalize=normalize).fit(X, y)
        assert np.isfinite(model.transform(X)).all()
        assert len(model.predict(X)) == len(X)


def test_one_class_and_no_signal(iris):
    X, _ = iris
    model = DEQClassifier(**SMALL).fit(X, np.full(len(X), "only"))
    assert set(model.predict(X)) == {"only"}
    assert_allclose(model.predict_proba(X), 1.0)
    nothing = np.zeros((6, 3))
    DEQClassifier(**SMALL, activation="tanh").fit(nothing, [0, 1] * 3)
    assert_allclose(DEQKernelTransformer(activation="tanh").fit_transform(nothing), 0)
    with pytest.raises(ValueError, match="are all features constant 0"):
        ExplicitEquivalentClassifier(**SMALL).fit(nothing, [0, 1] * 3)


def test_silent_by_default(iris, capfd):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        DEQClassifier(**SMALL).fit(*iris)
    assert capfd.readouterr() == ("", "")
