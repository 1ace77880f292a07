"""How the score of networks grows with their width."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from numbers import Integral
from typing import Any

import numpy as np
from joblib import Parallel, delayed
from sklearn.base import clone, is_classifier
from sklearn.model_selection import check_cv, cross_validate

from sklearn_deq.estimators._base import final_step
from sklearn_deq.inspection._base import Display, check_mapping

_ERRORS = {"sem": "standard error", "std": "standard deviation"}
_MARKERS = "osD^vx"


class AccuracyWidthDisplay(Display):
    """Mean score of several models against their width, with error bars.

    Parameters
    ----------
    widths : sequence of int
        Widths, ascending.
    scores : mapping of str to ndarray
        Scores of each model, of shape (n_widths, n_repetitions); (n_repetitions,) if
        the model has no width.
    score_name : str, default="accuracy"
        What the scores are.

    Attributes
    ----------
    ax_ : matplotlib.axes.Axes
        Where it was drawn.
    figure_ : matplotlib.figure.Figure
        The figure of the axes.

    See Also
    --------
    sklearn.model_selection.ValidationCurveDisplay : Scores of one model against one of
        its parameters.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn_deq import ExplicitEquivalentClassifier
    >>> from sklearn_deq.inspection import AccuracyWidthDisplay
    >>> X, y = load_iris(return_X_y=True)
    >>> explicit = ExplicitEquivalentClassifier(trainable="readout")
    >>> display = AccuracyWidthDisplay.from_estimators(
    ...     {"explicit": explicit}, X, y, widths=[4, 32], cv=3)
    >>> display.scores["explicit"].shape
    (2, 3)
    """

    def __init__(
        self,
        *,
        widths: Sequence[int],
        scores: Mapping[str, np.ndarray],
        score_name: str = "accuracy",
    ) -> None:
        self.widths = widths
        self.scores = scores
        self.score_name = score_name

    @classmethod
    def from_estimators(
        cls,
        estimators: Mapping[str, Any],
        X: Any,
        y: Any,
        *,
        widths: Sequence[int],
        cv: Any = None,
        scoring: Any = None,
        random_state: int = 0,
        n_jobs: int | None = None,
        ax: Any = None,
    ) -> AccuracyWidthDisplay:
        """Fit models of all widths to all splits, and draw their scores.

        Parameters
        ----------
        estimators : mapping of str to estimator, Pipeline or search
            Models by name; they are cloned. What ends in an estimator without a
            ``width``, such as kernel ridge, is drawn as a horizontal line.
        X : array-like of shape (n_samples, n_features)
            Samples.
        y : array-like of shape (n_samples,)
            Targets.
        widths : sequence of int
            Widths, ascending.
        cv : int, splitter or iterable, default=None
            The repetitions, as `sklearn.model_selection.check_cv` takes them; None:
            five folds. For one division of the data and several draws of the weights:
            ``[(train, test)] * 5``.
        scoring : str or callable, default=None
            scikit-learn's scorer; None: accuracy or R².
        random_state : int, default=0
            The networks of repetition k have the random state ``random_state + k``.
        n_jobs : int, default=None
            Fits at once; None: 1.
        ax : matplotlib.axes.Axes, default=None
            Where to draw; None: on new axes.

        Returns
        -------
        AccuracyWidthDisplay
            Drawn.

        Raises
        ------
        ValueError
            If there are no models or widths, or an argument is of another kind.
        """
        cls._check_axes(ax)
        check_mapping("estimators", estimators, "estimators")
        widths = _checked_widths(widths)
        if not (scoring is None or isinstance(scoring, str) or callable(scoring)):
            raise ValueError(
                "scoring must be None, the name of one scorer, or a callable, got "
                f"{scoring!r}: draw a display for each."
            )
        if not isinstance(random_state, Integral) or random_state < 0:
            raise ValueError(
                "random_state must be an integer that is not negative, as repetition k "
                f"has random_state + k; got {random_state!r}."
            )
        classify = all(is_classifier(estimator) for estimator in estimators.values())
        splits = list(check_cv(cv, y, classifier=classify).split(X, y))
        models = [
            (name, k, _configured(estimator, width, random_state + k))
            for name, estimator in estimators.items()
            for width in (widths if _has_width(estimator) else [None])
            for k in range(len(splits))
        ]
        found = Parallel(n_jobs=n_jobs)(
            delayed(_score)(model, X, y, splits[k], scoring) for _, k, model in models
        )
        scores: dict[str, list[float]] = {name: [] for name in estimators}
        for (name, _, _), score in zip(models, found, strict=True):
            scores[name].append(score)
        if scoring is None:
            scoring = "accuracy" if classify else "R²"
        display = cls(
            widths=widths,
            scores={
                name: np.reshape(values, (len(widths), -1))
                if _has_width(estimators[name])
                else np.array(values)
                for name, values in scores.items()
            },
            score_name=str(getattr(scoring, "__name__", scoring)),
        )
        return display.plot(ax=ax)

    def plot(self, ax: Any = None, *, error: str = "sem") -> AccuracyWidthDisplay:
        """Draw the means over the repetitions, with error bars.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, default=None
            Where to draw; None: on new axes.
        error : {"sem", "std"}, default="sem"
            What the bars are: standard errors of the means, or standard deviations.

        Returns
        -------
        self : object
            With ``ax_`` and ``figure_``.
        """
        if error not in _ERRORS:
            raise ValueError(f"error must be one of {tuple(_ERRORS)}, got {error!r}.")
        widths = _checked_widths(self.widths)
        scores = _checked_scores(self.scores, len(widths))
        ax = self._draw_on(ax)
        for k, (name, values) in enumerate(scores.items()):
            mean, bar = values.mean(axis=-1), _spread(values, error)
            colour = f"C{k}"
            if values.ndim == 2:
                # Side by side where they would hide each other.
                shift = 1.0 + 0.03 * (k - (len(scores) - 1) / 2)
                ax.errorbar(
                    np.asarray(widths) * shift,
                    mean,
                    bar,
                    fmt=f"{_MARKERS[k % len(_MARKERS)]}-",
                    color=colour,
                    capsize=3,
                    ms=5,
                    label=name,
                )
                continue
            ax.axhline(mean, color=colour, ls="--", label=name)
            ax.axhspan(mean - bar, mean + bar, color=colour, alpha=0.15)
        ax.set_xscale("log", base=2)
        ax.set_xticks(widths, [f"{width:,}" for width in widths])
        ax.minorticks_off()
        ax.set(xlabel="width", ylabel=f"{self.score_name} (mean ± {_ERRORS[error]})")
        ax.legend(frameon=False)
        return self


def _spread(values: np.ndarray, error: str) -> np.ndarray:
    """Length of the error bars over the last axis; 0 where nothing was repeated."""
    n = values.shape[-1]
    if n == 1:
        return np.zeros(values.shape[:-1])
    return values.std(axis=-1, ddof=1) / (np.sqrt(n) if error == "sem" else 1.0)


def _checked_widths(widths: Any) -> list[int]:
    """Widths as a list, refused unless they are positive integers, ascending."""
    found = list(widths) if np.iterable(widths) else []
    whole = all(isinstance(width, int | np.integer) for width in found)
    if not found or not whole or not all(a < b for a, b in pairwise([0, *found])):
        raise ValueError(
            "widths must be positive integers in ascending order, such as "
            f"[16, 64, 256]; got {found or widths!r}."
        )
    return found


def _checked_scores(scores: Any, n_widths: int) -> dict[str, np.ndarray]:
    """Scores as arrays, refused unless there is a row for every width or none has."""
    check_mapping("scores", scores, "arrays of scores")
    found = {}
    for name, values in scores.items():
        try:
            array = np.asarray(values, dtype=float)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"scores[{name!r}] must be numbers, as many for every width: {error}."
            ) from error
        rows = array.shape[:-1]
        if not (array.ndim and array.size) or rows not in ((), (n_widths,)):
            raise ValueError(
                f"scores[{name!r}] must have shape ({n_widths}, n_repetitions), for "
                f"{n_widths} widths, or (n_repetitions,) if the model has no width; "
                f"got {array.shape}."
            )
        found[name] = array
    return found


def _has_width(estimator: Any) -> bool:
    return "width" in final_step(estimator)[0].get_params()


def _configured(estimator: Any, width: int | None, random_state: int) -> Any:
    """Clone whose last step has this width and random state, where it has any."""
    model = clone(estimator)
    network, _ = final_step(model)
    wanted = {"width": width, "random_state": random_state}
    known = network.get_params()
    network.set_params(**{k: v for k, v in wanted.items() if k in known})
    return model


def _score(model: Any, X: Any, y: Any, split: Any, scoring: Any) -> float:
    """Score of a fit to the first half of a split on the second."""
    found = cross_validate(
        model, X, y, cv=[split], scoring=scoring, error_score="raise"
    )
    return float(found["test_score"][0])
