"""Displays: what they hold, what they draw, and what they refuse."""

import sys

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.datasets import load_iris
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_deq import DEQClassifier, DEQRegressor, ExplicitEquivalentClassifier
from sklearn_deq.inspection import ConvergenceDisplay, TrainingDisplay
from sklearn_deq.nn import SOLVERS

plt = pytest.importorskip("matplotlib.pyplot")

SMALL = {"width": 24, "max_epochs": 4, "random_state": 0}


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


@pytest.mark.parametrize("solver", sorted(SOLVERS))
@pytest.mark.parametrize("trainable", ["all", "readout"])
def test_residuals_are_those_of_the_solver(iris, solver, trainable):
    X, y = iris
    deq = DEQClassifier(**SMALL, solver=solver, trainable=trainable, tol=1e-6)
    deq.fit(X, y)
    display = ConvergenceDisplay.from_estimator(deq, X)
    residuals = display.residuals
    assert residuals.shape[0] == len(X)
    # The solver's own definition of a residual: what is done is so but for rounding.
    assert (residuals[:, -1] <= 1e-6 * (1 + 1e-12)).all()
    # Iterations until a sample is done, against those that the estimator counted.
    done = (residuals <= display.tol).argmax(axis=1) + 1
    assert np.abs(done - deq.solver_n_iter_).max() <= 1
    assert_allclose(display.line_.get_ydata(), np.median(residuals, axis=0))
    assert display.ax_.get_yscale() == "log"


def test_residuals_of_plain_iteration_by_hand(iris):
    X, y = iris
    deq = DEQRegressor(**SMALL, activation="tanh", trainable="readout").fit(X, y)
    A, B = (
        parameter.detach().numpy()
        for parameter in (deq._body.recurrent_weight, deq._body.input_weight)
    )

    def step(z):
        pre = np.sqrt(0.2) * z @ A.T + np.sqrt(0.8 / 4) * X @ B.T
        return (np.tanh(pre) - deq.offset_) / np.sqrt(24)

    z = step(np.zeros((len(X), 24)))
    expected = []
    for _ in range(3):
        new = step(z)
        gap = np.linalg.norm(new - z, axis=1)
        expected.append(gap / np.linalg.norm(z, axis=1))
        z = new
    found = ConvergenceDisplay.from_estimator(deq, X).residuals
    assert_allclose(found[:, :3], np.array(expected).T, rtol=1e-6)


def test_residuals_are_those_of_the_solver_in_use(iris):
    """Whatever solver is given, what is unrolled is the plain iteration."""
    X, y = iris
    shown = [
        ConvergenceDisplay.from_estimator(
            DEQClassifier(**SMALL, trainable="readout", **settings).fit(X, y), X
        )
        for settings in ({"solver": "anderson", "backward": "unrolled"}, {})
    ]
    assert_array_equal(shown[0].residuals, shown[1].residuals)
    assert [display.solver for display in shown] == ["picard"] * 2


def test_pipelines_and_searches(iris):
    X, y = iris
    pipeline = make_pipeline(StandardScaler(), DEQClassifier(**SMALL)).fit(X, y)
    search = GridSearchCV(pipeline, {"deqclassifier__width": [8]}, cv=2).fit(X, y)
    for model, deq in ((pipeline, pipeline[-1]), (search, search.best_estimator_[-1])):
        assert len(ConvergenceDisplay.from_estimator(model, X).residuals) == len(X)
        assert TrainingDisplay.from_estimator(model).loss == deq.loss_curve_


def test_training_display(iris):
    X, y = iris
    deq = DEQClassifier(**SMALL, early_stopping=True).fit(X, y)
    display = TrainingDisplay.from_estimator(deq)
    training, held_out = display.ax_.get_lines()[:2]
    assert_allclose(training.get_ydata(), deq.loss_curve_)
    assert_allclose(held_out.get_ydata(), deq.net_.history[:, "valid_loss"])
    assert_array_equal(training.get_xdata(), [1, 2, 3, 4])
    explicit = ExplicitEquivalentClassifier(**SMALL).fit(X, y)
    display = TrainingDisplay.from_estimator(explicit)
    assert len(display.ax_.get_lines()) == 1
    assert display.stability_ax_ is None


def test_stability_has_an_axis_of_its_own():
    history = {"chi": [0.2, 0.3], "spectral_bound": [np.nan, np.nan]}
    display = TrainingDisplay(loss=[2.0, 1.0], solver_history=history).plot()
    line = display.stability_ax_.get_lines()[-1]
    assert line.get_label() == "χ"
    assert_allclose(line.get_ydata(), [0.2, 0.3])
    assert len(display.ax_.get_legend().get_texts()) == 2


def test_no_curve_hides_the_legend():
    """Inside it lay behind the curves of the right axis; epochs are whole numbers."""
    history = {"chi": [0.2, 0.3, 0.3], "spectral_bound": [0.9, 0.9, 0.9]}
    display = TrainingDisplay(loss=[2.0, 1.0, 0.5], solver_history=history).plot()
    display.figure_.canvas.draw()
    legend = display.ax_.get_legend().get_window_extent()
    assert legend.y0 >= display.ax_.get_window_extent().y1 - 1
    ticks = display.ax_.get_xticks()
    assert_array_equal(ticks, np.round(ticks))


def test_given_axes_are_used(iris):
    X, y = iris
    deq = DEQClassifier(**SMALL).fit(X, y)
    figure, axes = plt.subplots(1, 2)
    first = ConvergenceDisplay.from_estimator(deq, X, ax=axes[0])
    second = TrainingDisplay.from_estimator(deq, ax=axes[1])
    assert first.ax_ is axes[0]
    assert second.ax_ is axes[1]
    assert first.figure_ is second.figure_ is figure
    assert first.plot() is first
    assert first.ax_ is not axes[0]


def test_what_they_refuse(iris, monkeypatch):
    X, y = iris
    with pytest.raises(NotFittedError):
        ConvergenceDisplay.from_estimator(DEQClassifier(), X)
    for arguments in ((ConvergenceDisplay, X), (TrainingDisplay,)):
        display, *data = arguments
        with pytest.raises(ValueError, match="ax must be a matplotlib Axes"):
            display.from_estimator(DEQClassifier(), *data, ax=3)
    with pytest.raises(NotFittedError):
        TrainingDisplay.from_estimator(DEQClassifier())
    explicit = ExplicitEquivalentClassifier(**SMALL, trainable="readout").fit(X, y)
    with pytest.raises(TypeError, match="needs a DEQClassifier or DEQRegressor"):
        ConvergenceDisplay.from_estimator(explicit, X)
    with pytest.raises(ValueError, match="trained by epochs"):
        TrainingDisplay.from_estimator(explicit)
    with pytest.raises(ValueError, match="X has 2 features"):
        ConvergenceDisplay.from_estimator(DEQClassifier(**SMALL).fit(X, y), X[:, :2])
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match=r'pip install "sklearn-deq\[plot\]"'):
        TrainingDisplay(loss=[1.0]).plot()
