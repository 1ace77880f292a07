"""What the displays share: axes to draw on, and the model at an estimator's end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sklearn.base import clone
from sklearn.utils.validation import check_is_fitted

from sklearn_deq import estimators
from sklearn_deq.estimators._base import final_step

# How the kernels are called in titles and labels.
KERNEL_NAMES = {"ck": "CK", "ntk": "NTK", "ntk_recurrent": "NTK of readout and A"}


class Display:
    """Base of the displays: where each was drawn.

    Attributes
    ----------
    ax_ : matplotlib.axes.Axes
        Where it was drawn.
    figure_ : matplotlib.figure.Figure
        The figure of the axes.
    """

    ax_: Any
    figure_: Any

    def _draw_on(self, ax: Any, *, figsize: tuple[float, float] | None = None) -> Any:
        """Return the axes given, or new ones, and keep them; matplotlib is needed."""
        plt = self._check_axes(ax)
        if ax is None:
            _, ax = plt.subplots(figsize=figsize, layout="constrained")
        self.ax_, self.figure_ = ax, ax.figure
        return ax

    @classmethod
    def _check_axes(cls, ax: Any) -> Any:
        """Refuse what nothing can be drawn on, before anything is computed for it.

        Returns matplotlib.pyplot.
        """
        plt = import_pyplot(f"{cls.__name__}.plot")
        for each in cls._given_axes(ax):
            if not isinstance(each, plt.Axes):
                raise ValueError(
                    "ax must be a matplotlib Axes, such as plt.subplots()[1], or None "
                    f"for new ones; got {each!r}."
                )
        return plt

    @classmethod
    def _given_axes(cls, ax: Any) -> list[Any]:
        """What is meant to be axes in the argument."""
        return [] if ax is None else [ax]


def check_mapping(name: str, value: Any, item: str) -> None:
    """Raise a ValueError unless the value is a mapping that has something in it."""
    if not isinstance(value, Mapping) or not value:
        kind = "an empty one" if isinstance(value, Mapping) else type(value).__name__
        raise ValueError(
            f"{name} must be a mapping of names to {item}, such as a dict with at "
            f"least one entry; got {kind}."
        )


def import_pyplot(caller: str) -> Any:
    """Import matplotlib, here alone; the error says how to get it."""
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError(
            f'{caller} needs matplotlib: pip install "sklearn-deq[plot]".'
        ) from error
    return plt


def fitted_network(estimator: Any, X: Any = None) -> tuple[Any, Any]:
    """Return the fitted model at the end of an estimator, and X as it sees it.

    Parameters
    ----------
    estimator : estimator, Pipeline or search
        Fitted.
    X : array-like of shape (n_samples, n_features), default=None
        Samples; the steps before the model are applied to them.

    Returns
    -------
    network, X
        The last step, and the transformed samples.
    """
    network, steps = final_step(estimator)
    check_is_fitted(network)
    return network, _transformed(X, steps)


def explicit_equivalent(
    estimator: Any, X: Any = None, kernel: str | None = None
) -> tuple[Any, Any]:
    """Return the explicit network of an estimator or of its DEQ, and X as it sees it.

    Parameters
    ----------
    estimator : estimator, Pipeline or search
        What ends in a DEQ or in an explicit equivalent; a fitted one counts as it was
        fitted, whatever `set_params` has set since.
    X : array-like of shape (n_samples, n_features), default=None
        Samples; the steps before the model, which must be fitted, are applied to them.
    kernel : {"ck", "ntk", "ntk_recurrent"}, default=None
        Which kernel is matched. None: the explicit network's own, "ck" for a DEQ.

    Returns
    -------
    explicit, X
        As it is if it matches this kernel, else unfitted; and the transformed samples.
    """
    network, steps = final_step(estimator)
    if hasattr(network, "_made_with"):
        # Its data, and what it was fitted with, belong together.
        network = network._as_fitted()
    if isinstance(network, (estimators.DEQClassifier, estimators.DEQRegressor)):
        network = estimators.match_deq(network, kernel=kernel or "ck")
    elif not hasattr(network, "match_report"):
        raise TypeError(
            "There is no kernel to match: needed is a DEQ or its explicit equivalent, "
            f"or what ends in one; got {estimator!r}."
        )
    elif kernel not in (None, network.kernel):
        tau0 = getattr(network, "tau0_", network.tau0)
        network = clone(network).set_params(kernel=kernel, tau0=tau0)
    return network, _transformed(X, steps)


def _transformed(X: Any, steps: list[Any]) -> Any:
    """X after these steps; None stays None."""
    if X is not None:
        for step in steps:
            X = step.transform(X)
    return X
