"""What the displays draw, against images of it without text.

To renew an image, delete it and run the tests: it is drawn, to be looked at.
"""

from pathlib import Path

import numpy as np
import pytest

plt = pytest.importorskip("matplotlib.pyplot")
from matplotlib.testing.compare import compare_images  # noqa: E402
from matplotlib.text import Text  # noqa: E402

from sklearn_deq.inspection import (  # noqa: E402
    AccuracyWidthDisplay,
    ConvergenceDisplay,
    KernelMatchDisplay,
    SpectrumDisplay,
    TrainingDisplay,
)

BASELINES = Path(__file__).parent / "data" / "displays"
# Root mean square of the differences, of 255: another version's antialiasing is less,
# a curve that is missing more.
TOLERANCE = 4.0


def _spectrum():
    bulk = np.linspace(0.2, 1.8, 80) ** 2
    values = {
        "DEQ": np.array([*bulk, 6.0, 9.0]),
        "explicit": np.array([*1.05 * bulk, 6.3, 9.1]),
        "asymptotic": np.array([-0.1, *0.9 * bulk, 8.0]),
    }
    counts = {"DEQ": 2, "explicit": 2, "asymptotic": 1}
    return SpectrumDisplay(eigenvalues=values, n_outliers=counts, kernel="ck")


def _match():
    rho, u = np.linspace(-1, 1, 41), np.linspace(-3, 3, 41)
    return KernelMatchDisplay(
        cosines=rho,
        deq=np.exp(rho),
        explicit=np.exp(rho) + 1e-3 * rho**3,
        points=u,
        activations={
            "DEQ": np.tanh(u)[None],
            "layer 1": np.stack([0.8 * u, 0.9 * u]),
            "layer 2": np.clip(u, -1, 1)[None],
        },
    )


def _accuracy():
    repeated = 0.01 * np.array([-1.0, 0.0, 1.0])
    scores = {
        "DEQ": np.array([0.6, 0.8, 0.9])[:, None] + repeated,
        "explicit": np.array([0.65, 0.78, 0.91])[:, None] + 2 * repeated,
        "kernel ridge": 0.95 + repeated,
    }
    return AccuracyWidthDisplay(widths=[16, 64, 256], scores=scores)


def _convergence():
    rates = np.linspace(0.3, 0.7, 9)[:, None]
    residuals = np.maximum(rates ** np.arange(1, 25), 1e-4)
    return ConvergenceDisplay(residuals=residuals, tol=1e-3, solver="picard")


def _training():
    epochs = np.arange(1.0, 9.0)
    return TrainingDisplay(
        loss=2 / epochs,
        validation_loss=1.5 / epochs + 0.2,
        solver_history={"chi": 0.1 * epochs, "spectral_bound": 0.9 - 0 * epochs},
    )


DISPLAYS = {
    "spectrum": _spectrum,
    "match": _match,
    "accuracy": _accuracy,
    "convergence": _convergence,
    "training": _training,
}


def _without_text(figure):
    """Take away all that depends on fonts."""
    for ax in figure.axes:
        legend = ax.get_legend()
        if legend is not None:
            legend.remove()
        ax.tick_params(which="both", labelbottom=False, labelleft=False)
        ax.tick_params(which="both", labelright=False)
    for text in figure.findobj(Text):
        text.set_visible(False)


def _draw(name, path):
    with plt.style.context("default", after_reset=True):
        panels = 3 if name == "match" else 1
        # Places that no text can move.
        figure, axes = plt.subplots(1, panels, figsize=(3 * panels, 2.2), dpi=50)
        figure.subplots_adjust(left=0.05, right=0.95, bottom=0.08, top=0.95)
        DISPLAYS[name]().plot(ax=axes)
        _without_text(figure)
        figure.savefig(path)
        plt.close(figure)


@pytest.mark.parametrize("name", list(DISPLAYS))
def test_image(name, tmp_path):
    baseline = BASELINES / f"{name}.png"
    if not baseline.exists():
        _draw(name, baseline)
        pytest.fail(f"There was no {baseline}: it is drawn, look at it.")
    drawn = tmp_path / baseline.name
    _draw(name, drawn)
    difference = compare_images(str(baseline), str(drawn), tol=TOLERANCE)
    assert difference is None, difference


def test_a_missing_curve_is_seen(tmp_path, monkeypatch):
    """The tolerance is below what matters."""
    display = _accuracy()
    display.scores.pop("explicit")
    monkeypatch.setitem(DISPLAYS, "accuracy", lambda: display)
    drawn = tmp_path / "accuracy.png"
    _draw("accuracy", drawn)
    baseline = tmp_path / "expected.png"
    baseline.write_bytes((BASELINES / "accuracy.png").read_bytes())
    assert compare_images(str(baseline), str(drawn), tol=TOLERANCE) is not None
