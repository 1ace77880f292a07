"""match_deq: what it accepts, copies, measures and refuses."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from sklearn.compose import TransformedTargetRegressor
from sklearn.datasets import load_iris
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, RandomizedSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.validation import check_is_fitted
from skorch.callbacks import EpochTimer

from sklearn_deq import (
    DEQClassifier,
    DEQKernelTransformer,
    DEQRegressor,
    ExplicitEquivalentClassifier,
    ExplicitEquivalentRegressor,
    match_deq,
)
from sklearn_deq.estimators._norms import matched_norms
from sklearn_deq.exceptions import MatchWarning
from sklearn_deq.kernels import deq_kernel, explicit_kernel
from sklearn_deq.theory import Activation, equilibrium_moments, solve_match

SMALL = {"width": 16, "max_epochs": 2, "random_state": 0}


@pytest.fixture
def iris():
    """Raw iris."""
    return load_iris(return_X_y=True)


def test_kinds():
    assert type(match_deq(DEQClassifier())) is ExplicitEquivalentClassifier
    assert type(match_deq(DEQRegressor())) is ExplicitEquivalentRegressor
    with pytest.raises(NotFittedError):
        check_is_fitted(match_deq(DEQClassifier()))


def test_shared_parameters_are_copied():
    changed = {
        "width": 99,
        "activation": "tanh",
        "recurrent_variance": 0.3,
        "input_variance": 0.6,
        "normalize": True,
        "trainable": "readout",
        "lr": 0.07,
        "batch_size": 17,
        "class_weight": "balanced",
        "dtype": "float32",
        "random_state": 5,
    }
    params = match_deq(DEQClassifier(**changed), kernel="ntk").get_params()
    assert {name: params[name] for name in changed} == changed
    assert params["kernel"] == "ntk"
    assert params["tau0"] is None
    assert match_deq(DEQClassifier(**changed), width=7).width == 7


def test_callbacks_are_not_shared():
    deq = DEQClassifier(callbacks=[EpochTimer()])
    assert match_deq(deq).callbacks[0] is not deq.callbacks[0]


def test_size_of_a_fitted_deq_is_taken_over(iris):
    X, y = iris
    deq = DEQClassifier(**SMALL).fit(X, y)
    explicit = match_deq(deq)
    assert explicit.tau0 == deq.tau0_
    explicit.set_params(architecture="leaky_relu").fit(X, y)
    moments = equilibrium_moments("relu", tau0=deq.tau0_)
    assert explicit.match_ == solve_match(moments, architecture="leaky_relu")
    assert explicit.offset_ == deq.offset_


@pytest.mark.parametrize("normalize", [False, True])
def test_size_of_rows_that_are_projected_or_not(iris, normalize):
    """It belongs to the equivalent's `normalize`, whatever that of the DEQ."""
    X, y = iris
    expected = 1.0 if normalize else np.sqrt(np.mean((5 * X) ** 2))
    deq = DEQClassifier(**SMALL, normalize=not normalize)
    found = match_deq(deq, 5 * X, normalize=normalize)
    assert_allclose(found.tau0, expected)
    assert match_deq(deq, X, normalize=normalize, tau0=3.0).tau0 == 3.0
    # That of a DEQ fitted to the other rows says nothing of these.
    deq.fit(X, y)
    assert match_deq(deq, normalize=normalize).tau0 is None
    assert match_deq(deq).tau0 == deq.tau0_
    # Nor where the parameter was set since.
    assert match_deq(deq.set_params(normalize=normalize)).tau0 is None
    assert match_deq(deq.set_params(tau0=1.5)).tau0 == 1.5


def test_regressors_of_transformed_targets(iris):
    X, _ = iris
    wrapped = TransformedTargetRegressor(
        make_pipeline(StandardScaler(), DEQRegressor(**SMALL)),
        func=np.log1p,
        inverse_func=np.expm1,
    )
    assert match_deq(wrapped).width == 16
    searched = GridSearchCV(wrapped, {"regressor__deqregressor__width": [3]}, cv=2)
    assert match_deq(searched).width == 16
    wrapped.fit(X[:, :2], X[:, 3])
    deq = wrapped.regressor_[-1]
    assert match_deq(make_pipeline(wrapped)).tau0 == deq.tau0_
    assert_allclose(match_deq(wrapped, X[:, :2]).tau0, 1.0)
    with pytest.raises(TypeError, match="needs a DEQClassifier or DEQRegressor"):
        match_deq(TransformedTargetRegressor())


def test_pipelines_and_searches(iris):
    X, y = iris
    pipe = make_pipeline(StandardScaler(), DEQClassifier(**SMALL))
    assert match_deq(pipe).width == 16
    grid = GridSearchCV(pipe, {"deqclassifier__width": [8, 12]}, cv=2)
    assert match_deq(grid).width == 16
    grid.fit(X, y)
    assert match_deq(grid).width == grid.best_params_["deqclassifier__width"]
    assert match_deq(grid).tau0 == grid.best_estimator_[-1].tau0_
    # Nothing is fitted again: parameters of the best are known all the same.
    best = GridSearchCV(pipe, {"deqclassifier__width": [3]}, cv=2, refit=False)
    assert match_deq(best.fit(X, y)).width == 3
    random = RandomizedSearchCV(DEQRegressor(), {"width": [8]}, n_iter=1)
    assert match_deq(make_pipeline(StandardScaler(), random)).width == 512
    nested = make_pipeline(StandardScaler(), make_pipeline("passthrough", pipe[-1]))
    assert match_deq(nested).width == 16


def test_data_are_measured_as_the_deq_sees_them(iris):
    X, y = iris
    assert_allclose(match_deq(DEQClassifier(), X).tau0, np.sqrt(np.mean(X**2)))
    assert_allclose(match_deq(DEQClassifier(normalize=True), X).tau0, 1.0)
    pipe = make_pipeline(StandardScaler(), DEQClassifier(**SMALL))
    with pytest.raises(NotFittedError, match="StandardScaler must be fitted"):
        match_deq(pipe, X)
    pipe.fit(X, y)
    expected = np.sqrt(np.mean(pipe[0].transform(3 * X) ** 2))
    assert_allclose(match_deq(pipe, 3 * X).tau0, expected)


def test_refusals():
    with pytest.raises(TypeError, match=r"'widht'. Did you mean 'width'\?"):
        match_deq(DEQClassifier(), widht=3)
    with pytest.raises(TypeError, match="no parameter 'solver_max_iter'"):
        match_deq(DEQClassifier(), solver_max_iter=3)
    for other in (LogisticRegression(), make_pipeline(StandardScaler()), "deq"):
        with pytest.raises(TypeError, match="needs a DEQClassifier or DEQRegressor"):
            match_deq(other)
    with pytest.raises(ValueError, match="contains NaN"):
        match_deq(DEQClassifier(), [[np.nan]])
    with pytest.raises(ValueError, match=r"'architecture' parameter.*Got 'hermit'"):
        match_deq(DEQClassifier(), architecture="hermit")
    with pytest.raises(ValueError, match=r"'kernel' parameter.*Got 'nkt'"):
        match_deq(DEQClassifier(), kernel="nkt")
    with pytest.raises(ValueError, match="max_samples == 0, must be >= 1"):
        match_deq(DEQClassifier()).match_report([[1.0]], max_samples=0)


def test_x_of_another_width(iris):
    X, y = iris
    deq = DEQClassifier(**SMALL).fit(X, y)
    with pytest.raises(ValueError, match="X has 2 features, but DEQClassifier"):
        match_deq(deq, X[:, :2])


# Some of the test rows are larger than those of the training.
@pytest.mark.filterwarnings("ignore:.*samples have norms:UserWarning")
def test_the_equivalent_learns_as_well_as_the_deq(digits):
    X_train, X_test, y_train, y_test = digits
    deq = DEQClassifier(width=256, trainable="readout", dtype="float32", random_state=0)
    deq.fit(X_train, y_train)
    explicit = match_deq(deq).fit(X_train, y_train)
    assert explicit.score(X_test, y_test) > deq.score(X_test, y_test) - 0.015


def test_match_report(iris):
    X, y = StandardScaler().fit_transform(iris[0]), iris[1]
    model = ExplicitEquivalentClassifier(
        width=2048, architecture="leaky_relu", trainable="readout", random_state=0
    )
    before = model.match_report(X)
    assert before.finite is None
    assert not hasattr(model, "n_features_in_")
    report = model.fit(X, y).match_report(X)
    assert report.infinite == before.infinite
    exact = deq_kernel(X, tau0=model.tau0_)
    found = explicit_kernel(X, layers=model.match_.layers)
    assert_allclose(
        report.infinite.operator,
        np.linalg.norm(found - exact, 2) / np.linalg.norm(exact, 2),
    )
    assert_allclose(
        report.infinite.largest, np.abs(found - exact).max() / exact.max(), rtol=1e-6
    )
    features = model.transform(X)
    assert_allclose(
        report.finite.frobenius,
        np.linalg.norm(features @ features.T - exact) / np.linalg.norm(exact),
    )
    # Width 2048: a few per cent, times the spectrum's spread.
    assert report.infinite.operator < report.finite.operator < 0.3
    assert "alpha1" in str(report)
    assert "this network" in str(report)
    assert "after training" not in str(report)
    trained = ExplicitEquivalentClassifier(width=16, max_epochs=1, random_state=0)
    assert "after training" in str(trained.fit(X, y).match_report(X))
    few = model.match_report(X, max_samples=20)
    assert few.n_samples == 20
    assert "on 20 samples:" in str(few)
    assert "on 1 sample:" in str(model.match_report(X[:1]))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_match_report_of_rows_of_one_norm(iris, dtype):
    """Rounding of the rows is no error of the match, nor a norm that varies."""
    X, y = StandardScaler().fit_transform(iris[0]).astype(dtype), iris[1]
    model = ExplicitEquivalentClassifier(
        width=16, max_epochs=1, normalize=True, architecture="hermite", random_state=0
    )
    report = model.fit(X, y).match_report(X)
    assert model.tau0_ == 1.0
    assert report.match.norms == (1.0, 1.0)
    for name, value in report.match.target.items():
        # A sum of 2,048 terms.
        assert_allclose(report.match.achieved[name], value, atol=1e-11)
    assert report.infinite.largest < 1e-11
    # Zero rows have no norm.
    X[:15] = 0.0
    assert model.fit(X, y).match_.norms == (1.0, 1.0)
    assert_allclose(model.tau0_, np.sqrt(0.9), rtol=1e-6)


def test_match_report_measures_all_samples(iris):
    """What is not fitted is matched as `fit` would, not for the subset compared."""
    model = ExplicitEquivalentClassifier()
    few, all_ = (model.match_report(iris[0], max_samples=n) for n in (10, 150))
    assert few.match.target == all_.match.target
    assert (few.n_samples, all_.n_samples) == (10, 150)


@pytest.mark.parametrize("activation", ["tanh", "relu", "gelu"])
@pytest.mark.parametrize("kernel", ["ntk", "ntk_recurrent"])
def test_match_report_of_tangent_kernels(activation, kernel, iris):
    """The tangents of a wide network that has not moved are those of the limit."""
    X, y = StandardScaler().fit_transform(iris[0]), iris[1]
    model = ExplicitEquivalentClassifier(
        kernel=kernel,
        activation=activation,
        width=2048,
        lr=1e-12,
        max_epochs=1,
        random_state=0,
    )
    report = model.fit(X, y).match_report(X)
    exact = explicit_kernel(
        X,
        layers=model.match_.layers,
        multipliers=model.match_.multipliers,
        kernel=kernel,
    )
    found = model._finite_kernel(X)
    assert np.linalg.norm(found - exact, 2) < 0.15 * np.linalg.norm(exact, 2)
    assert report.finite.operator < 0.15 + report.infinite.operator


def test_hermite_where_the_equations_do_not_hold(iris):
    """With bias or uncentred, "auto" takes the one architecture that serves."""
    X, y = StandardScaler().fit_transform(iris[0]), iris[1]
    settings = {"bias_variance": 0.3, "width": 512, "max_epochs": 2, "random_state": 0}
    sphere = ExplicitEquivalentClassifier(normalize=True, **settings)
    report = sphere.match_report(X)
    assert report.match.architecture == "hermite"
    assert report.infinite.operator < 1e-6
    assert sphere.fit(X, y).score(X, y) > 0.6
    # Norms from 0.17 to 1.8.
    varying = ExplicitEquivalentClassifier(**settings).match_report(X)
    assert varying.match.architecture == "hermite"
    assert varying.infinite.operator < 1e-6
    uncentred = ExplicitEquivalentClassifier(center=False).match_report(X)
    assert uncentred.match.architecture == "hermite"
    assert "at any norms" in str(uncentred)
    assert uncentred.infinite.operator < 1e-6


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_features_of_normalised_rows(iris, dtype):
    """Rows normalised in float32 differ by its rounding: they are of one norm."""
    X = StandardScaler().fit_transform(iris[0]).astype(dtype)
    settings = {"trainable": "readout", "normalize": True, "random_state": 0}
    deq = DEQClassifier(width=2000, **settings).fit(X, iris[1])
    model = match_deq(deq, architecture="hermite").fit(X, iris[1])
    assert not model.match_.layers[0].activation.function.conditioned
    sizes = [np.mean(np.sum(m.transform(X) ** 2, axis=1)) for m in (deq, model)]
    assert_allclose(sizes[0], sizes[1], rtol=0.1)


def test_readout_alone_has_the_tangent_kernel(iris):
    """trainable="readout" with kernel="ntk": the features' kernel is the NTK."""
    X, y = StandardScaler().fit_transform(iris[0]), iris[1]
    model = ExplicitEquivalentClassifier(
        kernel="ntk",
        trainable="readout",
        normalize=True,
        width=20_000,
        dtype="float64",
        random_state=0,
    ).fit(X, y)
    features = model.transform(X)
    exact = deq_kernel(X, kernel="ntk", normalize=True)
    assert np.linalg.norm(features @ features.T - exact, 2) < 0.05 * np.linalg.norm(
        exact, 2
    )


def test_auto_measures_the_norms(iris):
    X, y = StandardScaler().fit_transform(iris[0]), iris[1]
    model = ExplicitEquivalentClassifier(activation="gelu", width=16, max_epochs=1)
    match = model.fit(X, y).match_
    norms = np.sqrt(np.mean(X**2, axis=1))
    assert match.architecture == "hermite"
    low, high = match.norms
    # More than what was measured, and further above: here twenty times the least.
    wider = (norms.max() / norms.min()) ** 0.1
    assert_allclose([low, high], norms.min() / wider * np.array([1, 20]))
    assert f"norms from {low:.3g} to {high:.3g}" in match.reason
    model.set_params(normalize=True)
    assert model.fit(X, y).match_.architecture == "hermite"
    # A zero row has no norm to be matched.
    X[0] = 0.0
    assert model.fit(X, y).match_.architecture == "hermite"


@pytest.mark.parametrize(("activation", "above"), [("relu", 2.0), ("tanh", 1.1)])
def test_layers_are_made_for_larger_norms_than_those_of_the_training_rows(
    activation, above
):
    """A test row may be far out, and weighs most unless the activation saturates."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((60, 10)) * np.geomspace(0.5, 2.5, 60)[:, None]
    model = ExplicitEquivalentClassifier(
        activation=activation, width=16, trainable="readout"
    ).fit(X, rng.integers(0, 2, 60))
    largest = np.sqrt(np.mean(X**2, axis=1)).max()
    rows = rng.standard_normal((20, 10))
    rows *= largest / np.sqrt(np.mean(rows**2, axis=1, keepdims=True))
    rows *= np.linspace(0.5, above, 20)[:, None]
    found = explicit_kernel(rows, layers=model.match_.layers)
    exact = deq_kernel(rows, activation=activation, tau0=model.tau0_)
    assert np.linalg.norm(found - exact, 2) < 1e-6 * np.linalg.norm(exact, 2)


@pytest.mark.filterwarnings("ignore:The root mean square of X:UserWarning")
@pytest.mark.parametrize("scale", [1e-30, 1e14, 1e30])
def test_layers_for_data_of_any_size(scale):
    """Differences of the layer's function at 1 are rounding where norms are huge."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((40, 10)) * np.geomspace(0.5, 2.5, 40)[:, None]
    model = ExplicitEquivalentClassifier(width=16, trainable="readout")
    model.fit(scale * X, rng.integers(0, 2, 40))
    found = explicit_kernel(scale * X, layers=model.match_.layers)
    exact = deq_kernel(scale * X, tau0=model.tau0_)
    assert np.linalg.norm(found - exact, 2) < 1e-6 * np.linalg.norm(exact, 2)


def test_norms_far_above_are_left_out_where_a_deq_is_unstable():
    moments = equilibrium_moments(
        "relu", tau0=1.0, recurrent_variance=0.2, input_variance=0.8
    )
    norms = np.array([0.0, 0.5, 2.0])
    low, high = matched_norms(moments, norms)
    assert low < 0.5
    assert high == pytest.approx(4.0)
    # Unstable at 4.0, and at 4.6.
    for bend in (0.2, 0.15):
        quadratic = Activation(lambda x, b=bend: b * x * x, lambda x, b=bend: 2 * b * x)
        unstable = equilibrium_moments(
            quadratic, tau0=1.0, recurrent_variance=0.2, input_variance=0.8
        )
        assert matched_norms(unstable, norms)[1] == pytest.approx(2.0 * 4.0**0.1)


def test_norms_that_a_layer_was_not_made_for(iris):
    """They are treated as those at the end of the range, and this is said."""
    X, y = StandardScaler().fit_transform(iris[0]), iris[1]
    model = ExplicitEquivalentClassifier(activation="gelu", width=16, max_epochs=1)
    model.fit(X, y)
    assert "outside" not in str(model.match_report(1.02 * X))
    # Zero rows have no norm.
    model.predict(np.vstack([1.02 * X, 0 * X[:1]]))
    model.predict(np.vstack([1.02 * X, 0 * X[:20]]))
    # Nor are a few outliers worth it.
    model.predict(X * np.where(np.arange(len(X)) < 3, 30.0, 1.0)[:, None])
    far = X * np.where(np.arange(len(X)) < 30, 30.0, 1.0)[:, None]
    for method in (model.predict, model.predict_proba, model.transform):
        with pytest.warns(
            UserWarning, match="30 of 150 samples.*normalize=True"
        ) as all_:
            method(far)
        assert len(all_) == 1
    report = model.match_report(far)
    assert report.n_outside == 30
    assert "30 of the samples have norms outside" in str(report)
    assert "1 of the samples has a norm outside" in str(model.match_report(far[29:40]))
    for other in ({"normalize": True}, {"architecture": "leaky_relu"}):
        model = ExplicitEquivalentClassifier(width=16, max_epochs=1, **other)
        assert model.fit(X, y).match_report(far).n_outside == 0
        model.predict(far)
    features = DEQKernelTransformer(
        n_components=16, approximation="random_features", activation="gelu"
    ).fit(X)
    with pytest.warns(UserWarning, match="samples.*approximation='nystroem'"):
        features.transform(far)


def test_norms_of_a_first_batch_are_not_relied_on(iris):
    """partial_fit may begin with a single row."""
    X, y = StandardScaler().fit_transform(iris[0]), iris[1]
    model = ExplicitEquivalentClassifier(width=16)
    model.partial_fit(X[:1], y[:1], classes=np.unique(y)).partial_fit(X, y)
    assert model.match_.architecture == "leaky_relu"
    model.predict(X)
    normalised = ExplicitEquivalentClassifier(width=16, normalize=True)
    normalised.partial_fit(X[:1], y[:1], classes=np.unique(y))
    assert normalised.match_.architecture == "hermite"
    asked = ExplicitEquivalentClassifier(width=16, architecture="hermite")
    asked.partial_fit(X[:1], y[:1], classes=np.unique(y))
    with pytest.warns(UserWarning, match="outside of those"):
        asked.predict(X)


def test_a_tau0_that_is_not_the_size_of_the_data():
    """Equations are solved for tau0 alone, Hermite layers for the norms that are."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((20, 5))
    X *= 2.0 / np.sqrt(np.mean(X**2, axis=1, keepdims=True))
    deq = DEQClassifier(activation="tanh")
    model = match_deq(deq, tau0=1.0, architecture="hard_tanh")
    with pytest.warns(MatchWarning, match=r"tau0=1, but .* 2 to 2: .*tau0=None"):
        report = model.match_report(X)
    assert report.infinite.operator > 0.02
    for tau0 in (1.95, None):
        match_deq(deq, tau0=tau0, architecture="hard_tanh").match_report(X)
    report = match_deq(deq, tau0=1.0).match_report(X)
    assert report.infinite.operator < 1e-6
    # Of norms on either side of tau0 it is their mean that counts.
    X[0] *= 0.1
    with pytest.warns(MatchWarning, match=r"tau0=1, but .* is 1.95: .*tau0=None"):
        model.match_report(X)


def test_match_report_is_of_what_was_fitted(iris):
    # Parameters set since then once made it a report on another DEQ.
    X, y = iris
    model = ExplicitEquivalentClassifier(width=16, max_epochs=1, random_state=0)
    before = model.fit(X, y).match_report(X)
    model.set_params(recurrent_variance=0.9, kernel="ntk", trainable="readout")
    assert model.match_report(X) == before
    assert model.recurrent_variance == 0.9


def test_data_too_large_to_measure():
    with pytest.raises(ValueError, match=r"mean squares overflow\. Scale X"):
        match_deq(DEQRegressor(), np.full((4, 3), 1e200))
    with pytest.raises(ValueError, match=r"too large for float64.*Scale X"):
        DEQKernelTransformer(n_components=2).fit(np.diag([1.0, 1e200, 2.0]))
