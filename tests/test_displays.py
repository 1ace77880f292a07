"""Displays of kernels and of accuracy against width: what they hold and draw."""

import sys
import warnings

import joblib
import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.datasets import load_iris
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_deq import (
    DEQClassifier,
    DEQKernelRidgeClassifierCV,
    DEQRegressor,
    ExplicitEquivalentClassifier,
    ExplicitEquivalentRegressor,
)
from sklearn_deq.datasets import make_gaussian_mixture
from sklearn_deq.inspection import (
    AccuracyWidthDisplay,
    KernelMatchDisplay,
    SpectrumDisplay,
)
from sklearn_deq.kernels import deq_kernel, explicit_kernel
from sklearn_deq.nn import layer_activations
from sklearn_deq.theory import (
    equilibrium_moments,
    high_dimensional_equivalent,
    solve_match,
)

plt = pytest.importorskip("matplotlib.pyplot")

FROZEN = {"trainable": "readout", "width": 16, "random_state": 0}


@pytest.fixture(scope="module")
def mixture():
    """Gaussian mixture, read-only."""
    X, y = make_gaussian_mixture(120, 160, random_state=0)
    X.flags.writeable = False
    return X, y


@pytest.fixture(scope="module")
def iris():
    """Standardised iris, read-only."""
    X, y = load_iris(return_X_y=True)
    X = StandardScaler().fit_transform(X)
    X.flags.writeable = False
    return X, y


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


def _heights(ax):
    """Total height of every histogram."""
    polygons = [patch for patch in ax.patches if hasattr(patch, "get_xy")]
    steps = [p for p in polygons if not hasattr(p, "get_height")]
    bars = [p.get_height() for p in polygons if hasattr(p, "get_height")]
    # The outline of a histogram has every height twice.
    return [sum(bars), *(p.get_xy()[:, 1].sum() / 2 for p in steps)]


@pytest.mark.parametrize("kernel", ["ck", "ntk"])
@pytest.mark.parametrize("fitted", [False, True])
def test_spectra_are_those_of_the_kernels(mixture, kernel, fitted):
    X, y = mixture
    model = ExplicitEquivalentClassifier(**FROZEN, architecture="leaky_relu")
    if kernel == "ntk":
        # What "auto" takes where no norms are known.
        model.set_params(
            trainable="all",
            kernel="ntk",
            architecture="piecewise_linear",
            max_epochs=1,
        )
    if fitted:
        model.fit(X, y)
    display = SpectrumDisplay.from_estimator(model, X)
    tau0 = np.sqrt(np.mean(X**2))
    moments = equilibrium_moments("relu", tau0=tau0)
    match = solve_match(moments, kernel=kernel)
    expected = {
        "DEQ": deq_kernel(X, kernel=kernel, tau0=tau0),
        "explicit": explicit_kernel(
            X, kernel=kernel, layers=match.layers, multipliers=match.multipliers
        ),
        "asymptotic": high_dimensional_equivalent(X, moments, kernel=kernel),
    }
    assert list(display.eigenvalues) == list(expected)
    for name, K in expected.items():
        assert_allclose(display.eigenvalues[name], np.linalg.eigvalsh(K), rtol=1e-6)
    assert_allclose(_heights(display.ax_), [120, 120, 120])
    assert display.ax_.get_title() == f"Spectra, {kernel.upper()}"


def test_spectrum_of_a_deq_in_a_pipeline_and_with_a_bias(mixture):
    X, y = mixture
    scaler = StandardScaler(with_mean=False)
    model = make_pipeline(scaler, DEQClassifier(**FROZEN)).fit(X, y)
    display = SpectrumDisplay.from_estimator(model, X)
    Z = model[0].transform(X)
    K = deq_kernel(Z, tau0=model[-1].tau0_)
    assert_allclose(display.eigenvalues["DEQ"], np.linalg.eigvalsh(K), rtol=1e-9)
    # What is known of a DEQ with bias: the CK's limit alone.
    deq = DEQRegressor(bias_variance=0.1, normalize=True)
    assert len(SpectrumDisplay.from_estimator(deq, X).eigenvalues) == 3
    display = SpectrumDisplay.from_estimator(deq, X, kernel="ntk")
    assert list(display.eigenvalues) == ["DEQ", "explicit"]


def test_outliers_are_counted_and_marked():
    bulk = np.linspace(1.0, 2.0, 60)
    kernels = {
        "none": np.diag(bulk),
        "two": np.diag([*bulk[:-2], 4.0, 6.0]),
        "low": np.diag([0.1, 0.2, *bulk[2:]]),
    }
    display = SpectrumDisplay.from_kernels(kernels)
    assert display.n_outliers == {"none": 0, "two": 2, "low": 0}
    (marks,) = display.ax_.get_lines()
    assert_array_equal(marks.get_xdata(), [4.0, 6.0])
    labels = [text.get_text() for text in display.ax_.get_legend().get_texts()]
    assert labels == ["none", "two, 2 outliers", "low"]
    given = SpectrumDisplay.from_kernels(kernels, n_outliers={"low": 3})
    assert_array_equal(given.ax_.get_lines()[0].get_xdata(), bulk[-3:])


def test_eigenvalues_that_a_logarithm_cannot_show():
    values = {"K": np.array([-1.0, 0.0, 1.0, 2.0])}
    display = SpectrumDisplay(eigenvalues=values).plot(bins=4)
    assert display.ax_.get_legend().get_texts()[0].get_text() == "K, 2 not positive"
    assert _heights(display.ax_) == [2]
    assert _heights(display.plot(bins=4, xscale="linear").ax_) == [4]
    with pytest.raises(ValueError, match="xscale must be 'log' or 'linear', got 'lin'"):
        display.plot(xscale="lin")


# Bins between equal ends, or ends apart by rounding, once did not increase.
@pytest.mark.parametrize("xscale", ["log", "linear"])
@pytest.mark.parametrize(
    "values",
    [[0.3] * 3, [13.35] * 3, [1.0, 1.0 + 1e-15], [7], (3.0, 1.0, 2.0), [1e-100, 1e100]],
    ids=str,
)
def test_every_eigenvalue_is_in_a_bin(values, xscale):
    display = SpectrumDisplay(eigenvalues={"K": values, "L": [0.0, 1.0]})
    display.plot(xscale=xscale)
    assert _heights(display.ax_) == [len(values), 1 if xscale == "log" else 2]
    alone = SpectrumDisplay(eigenvalues={"K": values}, n_outliers={"K": 1})
    alone.plot(xscale=xscale)
    assert _heights(alone.ax_) == [len(values)]
    assert_array_equal(alone.ax_.get_lines()[0].get_xdata(), max(values))


def test_eigenvalues_that_are_all_zero():
    display = SpectrumDisplay(eigenvalues={"K": np.zeros(3)}).plot(xscale="linear")
    assert _heights(display.ax_) == [3]
    for K in (np.zeros((3, 3)), -np.eye(3)):
        with pytest.raises(ValueError, match=r"No .* is positive.*xscale='linear'"):
            SpectrumDisplay.from_kernels({"K": K})


def test_kernels_are_symmetric_within_their_rounding():
    rng = np.random.default_rng(0)
    A = rng.standard_normal((30, 40))
    for dtype in ("float64", "float32"):
        K = (A @ A.T + 1e-10 * A[:, :30]).astype(dtype)
        assert not (K == K.T).all()
        display = SpectrumDisplay.from_kernels({"K": K})
        expected = np.linalg.svd(A, compute_uv=False)[::-1] ** 2
        assert_allclose(display.eigenvalues["K"], expected, rtol=1e-4)
    with pytest.raises(ValueError, match=r"\['K'\] is not symmetric: .* K\.T\) / 2"):
        SpectrumDisplay.from_kernels({"K": A[:, :30]})
    whole = np.array([[2, 1], [1, 2]])
    assert_allclose(SpectrumDisplay.from_kernels({"K": whole}).eigenvalues["K"], [1, 3])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kernels": {}}, "kernels must be a mapping .* an empty one"),
        ({"kernels": [np.eye(3)]}, "kernels must be a mapping .* got list"),
        ({"kernels": {"K": np.ones((2, 3))}}, r"square matrix, got shape \(2, 3\)"),
        ({"kernels": {"K": np.eye(3) + 0j}}, r"real numbers, got complex128"),
        ({"kernels": {"K": np.full((3, 3), np.nan)}}, r"\['K'\] must be finite"),
        ({"kernels": {"K": np.ones((0, 0))}}, r"\['K'\] is empty"),
        ({"kernel": "foo"}, "kernel must be one of 'ck', .* got 'foo'"),
        ({"n_outliers": 3}, r"such as {'K': 2}; got 3"),
        ({"n_outliers": [3]}, r"such as {'K': 2}; got \[3\]"),
        ({"n_outliers": {"L": 1}}, "has 'L', which is not drawn: the names are 'K'"),
        ({"n_outliers": {"K": -3}}, "between 0 and the 3 eigenvalues, got -3"),
        ({"n_outliers": {"K": 300}}, "between 0 and the 3 eigenvalues, got 300"),
        ({"n_outliers": {"K": 1.5}}, "must be an integer between 0 and .* got 1.5"),
        ({"ax": 3}, "ax must be a matplotlib Axes.* got 3"),
    ],
)
def test_what_spectra_of_kernels_refuse(changes, message):
    settings = {"kernels": {"K": np.eye(3)}, **changes}
    with pytest.raises(ValueError, match=message):
        SpectrumDisplay.from_kernels(settings.pop("kernels"), **settings)
    assert not plt.get_fignums()


@pytest.mark.parametrize(
    ("eigenvalues", "options", "message"),
    [
        ({}, {}, "eigenvalues must be a mapping .* an empty one"),
        ({"K": []}, {}, r"eigenvalues\['K'\] is empty"),
        ({"K": [1.0, np.inf]}, {}, r"eigenvalues\['K'\] must be finite"),
        ({"K": np.eye(2)}, {}, "one dimension.*from_kernels takes matrices"),
        ({"K": ["a"]}, {}, "must hold real numbers"),
        ({"K": [1.0]}, {"bins": 0}, "bins must be a positive integer, got 0"),
        ({"K": [1.0]}, {"bins": "auto"}, "bins must be a positive .* got 'auto'"),
        ({"K": [1.0]}, {"ax": "x"}, "ax must be a matplotlib Axes.* got 'x'"),
    ],
)
def test_what_plots_of_spectra_refuse(eigenvalues, options, message):
    with pytest.raises(ValueError, match=message):
        SpectrumDisplay(eigenvalues=eigenvalues).plot(**options)
    assert not plt.get_fignums()


@pytest.mark.parametrize("tau0", [1.0, 0.7])
@pytest.mark.parametrize("kernel", ["ck", "ntk", "ntk_recurrent"])
def test_dual_functions_are_kernels_of_two_samples(kernel, tau0):
    deq = DEQClassifier(activation="gelu", tau0=tau0)
    display = KernelMatchDisplay.from_estimator(deq, kernel=kernel)
    assert_allclose(display.cosines[[0, 100, -1]], [-1, 0, 1], atol=1e-15)
    angles = np.arccos(display.cosines)
    first = np.sqrt(2) * tau0 * np.array([[1.0, 0.0]])
    others = np.sqrt(2) * tau0 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    expected = deq_kernel(first, others, activation="gelu", kernel=kernel, tau0=tau0)
    assert_allclose(display.deq, expected[0], rtol=1e-9, atol=1e-9)
    match = solve_match(equilibrium_moments("gelu", tau0=tau0), kernel=kernel)
    expected = explicit_kernel(
        first,
        others,
        layers=match.layers,
        kernel=kernel,
        multipliers=match.multipliers,
    )
    assert_allclose(display.explicit, expected[0], rtol=1e-9, atol=1e-9)
    gap = display.difference_ax_.get_lines()[0].get_ydata()
    assert display.difference_ax_.get_yscale() == "log"
    expected = abs(display.explicit - display.deq) / display.deq.max()
    assert_allclose(gap, np.maximum(expected, np.finfo(float).eps))
    # Matched are value, slope and curvature at ρ = 0: the rest is of third order.
    near = np.abs(display.cosines) < 0.1
    assert (gap[near] <= 1e-12 + np.abs(display.cosines[near]) ** 3).all()


def test_activations_side_by_side():
    moments = equilibrium_moments("relu", tau0=0.8)
    match = solve_match(moments, architecture="leaky_relu")
    display = KernelMatchDisplay.from_match(moments, match)
    assert list(display.activations) == ["DEQ, relu", "layer 1", "layer 2"]
    u = display.points
    phi = np.maximum(u, 0) * moments.tau_star
    # The mean of a ReLU is its standard deviation over √(2π).
    expected = phi - moments.tau_star / np.sqrt(2 * np.pi)
    assert_allclose(display.activations["DEQ, relu"][0], expected, atol=1e-12)
    tau = 0.8
    for number, layer in enumerate(match.layers, 1):
        found = display.activations[f"layer {number}"][0]
        assert_allclose(found, layer(tau * u), atol=1e-6)
        weights = np.exp(-(np.linspace(-9, 9, 4001) ** 2) / 2)
        square = layer(tau * np.linspace(-9, 9, 4001)) ** 2
        tau = np.sqrt(weights @ square / weights.sum())
    drawn = display.activation_ax_.get_lines()
    assert_allclose(drawn[0].get_ydata(), expected, atol=1e-12)
    assert len(drawn) == 3


@pytest.mark.parametrize("norms", [(0.9, 0.9), (0.8, 1.0)])
def test_units_of_several_kinds(norms):
    moments = equilibrium_moments("tanh", tau0=0.9)
    match = solve_match(moments, architecture="hermite", norms=norms)
    display = KernelMatchDisplay.from_match(moments, match)
    found = display.activations["layer 1"]
    assert (len(found) > 1) == (norms[0] != norms[1])
    # The torch layer has them from a table of its own; its units are the columns.
    (function,) = layer_activations(match.layers)
    x = torch.tensor(0.9 * display.points[:, None]).repeat(1, len(found))
    sizes = torch.full((len(x), 1), 0.9, dtype=torch.float64)
    expected = (
        function(x, sizes) if getattr(function, "conditioned", 0) else function(x)
    )
    assert_allclose(found, expected.numpy().T, atol=1e-6)
    label = display.activation_ax_.get_legend().get_texts()[1].get_text()
    assert label.startswith("layer 1")
    assert ("kinds of units" in label) == (len(found) > 1)


def test_match_of_fitted_and_of_measured_data(mixture):
    X, y = mixture
    settings = {**FROZEN, "activation": "tanh", "architecture": "hermite"}
    fitted = ExplicitEquivalentClassifier(**settings).fit(0.5 * X, y)
    shown = KernelMatchDisplay.from_estimator(fitted)
    measured = KernelMatchDisplay.from_estimator(
        ExplicitEquivalentRegressor(**settings), 0.5 * X
    )
    assert_allclose(shown.explicit, measured.explicit, rtol=1e-9)
    # Norms vary, which is not known without X.
    blind = KernelMatchDisplay.from_estimator(ExplicitEquivalentRegressor(**settings))
    counts = [len(d.activations["layer 1"]) for d in (shown, measured, blind)]
    assert counts[0] == counts[1] > counts[2] == 1


def test_another_kernel_than_that_of_a_fitted_equivalent(mixture):
    X, y = mixture
    explicit = ExplicitEquivalentClassifier(width=16, max_epochs=1, random_state=0)
    model = make_pipeline(StandardScaler(), explicit).fit(X, y)
    display = KernelMatchDisplay.from_estimator(model, kernel="ntk")
    assert display.ax_.get_ylabel() == "NTK f(ρ)"
    # For the size of the data that it was fitted to.
    tau0 = explicit.tau0_
    expected = deq_kernel(np.full((1, 1), tau0), kernel="ntk", tau0=tau0)
    assert_allclose(display.deq[-1], expected[0, 0], rtol=1e-8)
    assert explicit.kernel == "ck"


@pytest.mark.parametrize("kernel", [None, "ntk"])
@pytest.mark.parametrize("Model", [DEQClassifier, ExplicitEquivalentClassifier])
def test_a_fitted_model_is_shown_as_it_was_fitted(mixture, Model, kernel):
    X, y = mixture
    model = Model(width=16, max_epochs=1, activation="tanh", random_state=0)
    model.fit(0.5 * X, y)

    def shown():
        match = KernelMatchDisplay.from_estimator(model, kernel=kernel)
        spectrum = SpectrumDisplay.from_estimator(model, X[:30], kernel=kernel)
        numbers = [match.deq, match.explicit, *spectrum.eigenvalues.values()]
        return match.kernel, list(match.activations), np.concatenate(numbers)

    before = shown()
    model.set_params(activation="relu", recurrent_variance=0.7, tau0=2.0)
    model.set_params(normalize=True, trainable="readout")
    if Model is ExplicitEquivalentClassifier:
        model.set_params(kernel="ntk_recurrent", architecture="hermite")
    after = shown()
    assert after[:2] == before[:2]
    assert_array_equal(after[2], before[2])


def test_axes_of_three_panels():
    figure, axes = plt.subplots(1, 3)
    display = KernelMatchDisplay.from_estimator(DEQClassifier(), ax=axes)
    assert display.ax_ is axes[0]
    assert display.activation_ax_ is axes[2]
    figure, (left, right) = plt.subplots(1, 2)
    display.plot(ax=right)
    panels = [display.ax_, display.difference_ax_, display.activation_ax_]
    assert display.figure_ is figure
    assert set(figure.axes) == {left, right, *panels}
    with pytest.raises(ValueError, match="one Axes or three, got 2"):
        display.plot(ax=[left, right])


@pytest.mark.parametrize("inset", [False, True])
def test_axes_that_are_in_no_grid_are_divided(inset):
    figure = plt.figure(figsize=(10, 8))
    ax = figure.add_axes((0.1, 0.2, 0.6, 0.5))
    if inset:
        ax = ax.inset_axes((0.25, 0.25, 0.5, 0.5))
    display = KernelMatchDisplay.from_estimator(DEQClassifier(), ax=ax)
    figure.draw_without_rendering()
    panels = [display.ax_, display.difference_ax_, display.activation_ax_]
    places = [panel.get_window_extent() for panel in panels]
    whole = ax.get_window_extent()
    assert all(place.width > whole.width / 4 for place in places)
    assert_allclose([place.height for place in places], whole.height)
    assert_allclose([places[0].x0, places[-1].x1], [whole.x0, whole.x1])
    assert places[0].x1 < places[1].x0 < places[1].x1 < places[2].x0
    assert display.figure_ is figure
    assert all(panel.get_lines() for panel in panels)


def test_what_kernel_matches_refuse():
    for ax in ("x", 3, ["a", "b", "c"], [None, None, None]):
        with pytest.raises(ValueError, match="ax must be a matplotlib Axes"):
            KernelMatchDisplay.from_estimator(DEQClassifier(), ax=ax)
    display = KernelMatchDisplay.from_estimator(DEQClassifier())
    display.kernel = "foo"
    with pytest.raises(ValueError, match=r"kernel must be one of .* got 'foo'"):
        display.plot()


@pytest.fixture
def splits(iris):
    """Three divisions of iris."""
    return list(StratifiedKFold(3, shuffle=True, random_state=0).split(*iris))


def test_scores_are_those_of_fits_by_hand(iris, splits):
    X, y = iris
    pipeline = make_pipeline(StandardScaler(), DEQClassifier(trainable="readout"))
    models = {
        "pipeline": pipeline,
        "search": GridSearchCV(pipeline, {"deqclassifier__tol": [1e-4]}, cv=2),
        "ridge": DEQKernelRidgeClassifierCV(),
    }
    display = AccuracyWidthDisplay.from_estimators(
        models, X, y, widths=[2, 8], cv=splits, random_state=7
    )
    for row, width in enumerate([2, 8]):
        for k, (train, test) in enumerate(splits):
            deq = DEQClassifier(trainable="readout", width=width, random_state=7 + k)
            model = make_pipeline(StandardScaler(), deq).fit(X[train], y[train])
            expected = model.score(X[test], y[test])
            assert display.scores["pipeline"][row, k] == expected
            if row == 0:
                model[-1].set_params(tol=1e-4)
                model.fit(X[train], y[train])
                assert display.scores["search"][row, k] == model.score(X[test], y[test])
    train, test = splits[1]
    ridge = models["ridge"].fit(X[train], y[train])
    assert display.scores["ridge"].shape == (3,)
    assert display.scores["ridge"][1] == ridge.score(X[test], y[test])
    assert pipeline[-1].width == 512


# Held-out rows may be smaller than those of the training.
@pytest.mark.filterwarnings("ignore:.*samples have norms:UserWarning")
def test_repetitions_draw_new_weights_and_may_run_in_parallel(iris, splits):
    X, y = iris
    model = ExplicitEquivalentClassifier(trainable="readout")
    settings = {"widths": [2], "cv": splits[:1] * 4, "scoring": "neg_log_loss"}
    display = AccuracyWidthDisplay.from_estimators({"a": model}, X, y, **settings)
    assert len(set(display.scores["a"][0])) == 4
    with joblib.parallel_backend("threading"):
        again = AccuracyWidthDisplay.from_estimators(
            {"a": model}, X, y, n_jobs=2, **settings
        )
    assert_array_equal(again.scores["a"], display.scores["a"])
    assert display.ax_.get_ylabel() == "neg_log_loss (mean ± standard error)"
    target = X[:, 0]
    regressor = ExplicitEquivalentRegressor(trainable="readout")
    display = AccuracyWidthDisplay.from_estimators(
        {"a": regressor}, X[:, 1:], target, widths=[4, 8], cv=2
    )
    assert display.ax_.get_ylabel().startswith("R² ")


def test_error_bars():
    scores = {"network": [[0.5, 0.7], [0.8, 0.8]], "kernel": [0.9, 0.7]}
    display = AccuracyWidthDisplay(widths=[4, 16], scores=scores).plot()
    (bars,) = display.ax_.containers
    line, _, (segments,) = bars
    assert_allclose(line.get_ydata(), [0.6, 0.8])
    ends = [segment[:, 1] for segment in segments.get_segments()]
    # The standard error of two numbers is half their distance.
    assert_allclose(ends, [[0.5, 0.7], [0.8, 0.8]], atol=1e-12)
    assert_allclose(display.ax_.get_lines()[-1].get_ydata(), 0.8)
    assert_allclose(display.ax_.get_xticks(), [4, 16])
    display.plot(error="std")
    ends = display.ax_.containers[0][2][0].get_segments()[0][:, 1]
    assert_allclose(ends, 0.6 + 0.1 * np.sqrt(2) * np.array([-1, 1]))
    assert "standard deviation" in display.ax_.get_ylabel()
    single = AccuracyWidthDisplay(widths=[4], scores={"one": [[0.5]]}).plot()
    assert_allclose(single.ax_.containers[0][2][0].get_segments()[0][:, 1], 0.5)
    with pytest.raises(ValueError, match=r"error must be one of .* got 'var'"):
        display.plot(error="var")


def test_a_model_without_a_width_is_a_line_beside_one_width_too(iris, splits):
    X, y = iris
    models = {
        "network": ExplicitEquivalentClassifier(trainable="readout"),
        "regression": LogisticRegression(),
    }
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*samples have norms", UserWarning)
        display = AccuracyWidthDisplay.from_estimators(
            models, X, y, widths=[8], cv=splits
        )
    assert {name: s.shape for name, s in display.scores.items()} == {
        "network": (1, 3),
        "regression": (3,),
    }
    (bars,) = display.ax_.containers
    assert bars.get_label() == "network"
    (line,) = (each for each in display.ax_.get_lines() if each.get_ls() == "--")
    assert line.get_label() == "regression"
    assert_allclose(line.get_ydata(), display.scores["regression"].mean())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"estimators": [DEQClassifier()]}, "estimators must be a mapping .* got list"),
        ({"estimators": {}}, "estimators must be a mapping .* got an empty one"),
        ({"widths": []}, r"positive integers .* got \[\]"),
        ({"widths": {}}, r"positive integers .* got {}"),
        ({"widths": 8}, r"positive integers .* got 8"),
        ({"widths": [0]}, r"positive integers .* got \[0\]"),
        ({"widths": [8, 8.5]}, r"positive integers .* got \[8, 8.5\]"),
        ({"widths": [32, 8]}, r"in ascending order.* got \[32, 8\]"),
        ({"scoring": ["accuracy"]}, r"name of one scorer.* got \['accuracy'\]"),
        ({"random_state": None}, "random_state must be an integer .* got None"),
        ({"random_state": -1}, "random_state must be an integer .* got -1"),
        ({"ax": 3}, "ax must be a matplotlib Axes"),
    ],
)
def test_what_accuracies_refuse(changes, message):
    # Before anything is fitted: there are no data.
    settings = {"estimators": {"a": DEQClassifier()}, "widths": [8], **changes}
    with pytest.raises(ValueError, match=message):
        AccuracyWidthDisplay.from_estimators(
            settings.pop("estimators"), None, None, **settings
        )


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ({}, "scores must be a mapping .* an empty one"),
        ({"a": np.ones((2, 3))}, r"\(3, n_repetitions\).* got \(2, 3\)"),
        ({"a": np.ones((1, 3))}, r"\(n_repetitions,\) if .* no width; got \(1, 3\)"),
        ({"a": []}, r"n_repetitions,\) if .* got \(0,\)"),
        ({"a": 0.5}, r"n_repetitions,\) if .* got \(\)"),
        ({"a": [[1.0], [1.0, 2.0], [3.0]]}, r"must be numbers, as many for every"),
    ],
)
def test_scores_that_do_not_fit_the_widths(scores, message):
    with pytest.raises(ValueError, match=message):
        AccuracyWidthDisplay(widths=[8, 16, 32], scores=scores).plot()
    assert not plt.get_fignums()


def test_what_they_refuse(iris, monkeypatch):
    X, y = iris
    for display in (SpectrumDisplay, KernelMatchDisplay):
        with pytest.raises(TypeError, match="DEQ or its explicit equivalent"):
            display.from_estimator(LogisticRegression(), X)
        with pytest.raises(NotFittedError):
            display.from_estimator(make_pipeline(StandardScaler(), DEQClassifier()), X)
    explicit = ExplicitEquivalentClassifier(**FROZEN).fit(X, y)
    with pytest.raises(ValueError, match="X has 2 features"):
        SpectrumDisplay.from_estimator(explicit, X[:, :2])
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match=r'KernelMatch.* pip install "sklearn-deq\['):
        KernelMatchDisplay.from_estimator(DEQClassifier())
    with pytest.raises(ImportError, match=r"SpectrumDisplay.plot needs matplotlib"):
        SpectrumDisplay(eigenvalues={"K": np.ones(3)}).plot()
