"""How the loss fell, and what became of stability, epoch by epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sklearn_deq.inspection._base import Display, fitted_network

# What of `solver_history_` is drawn, and how it is called.
_STABILITY = {"chi": "χ", "spectral_bound": "spectral bound"}


class TrainingDisplay(Display):
    """Losses of a network's training, and how stable its equilibria stayed.

    Parameters
    ----------
    loss : sequence of float
        Training loss of every epoch.
    validation_loss : sequence of float, default=None
        The same of held-out rows, if early stopping held some out; NaN where not.
    solver_history : mapping of str to sequence of float, default=None
        ``solver_history_`` of a DEQ; None for networks without equilibria.

    Attributes
    ----------
    ax_ : matplotlib.axes.Axes
        Where the losses were drawn.
    stability_ax_ : matplotlib.axes.Axes or None
        The same place with an axis of its own, for χ and the spectral bound; None where
        there are none.
    figure_ : matplotlib.figure.Figure
        The figure of the axes.

    See Also
    --------
    ConvergenceDisplay : How the equilibria are reached, iteration by iteration.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn_deq import DEQClassifier
    >>> from sklearn_deq.inspection import TrainingDisplay
    >>> X, y = load_iris(return_X_y=True)
    >>> deq = DEQClassifier(width=32, max_epochs=3, random_state=0).fit(X, y)
    >>> display = TrainingDisplay.from_estimator(deq)
    >>> len(display.loss)
    3
    """

    def __init__(
        self,
        *,
        loss: Sequence[float],
        validation_loss: Sequence[float] | None = None,
        solver_history: Mapping[str, Sequence[float]] | None = None,
    ) -> None:
        self.loss = loss
        self.validation_loss = validation_loss
        self.solver_history = solver_history

    @classmethod
    def from_estimator(cls, estimator: Any, *, ax: Any = None) -> TrainingDisplay:
        """Draw the training of a network.

        Parameters
        ----------
        estimator : estimator, Pipeline or search
            A fitted DEQ or explicit network, or a fitted pipeline or search that ends
            in one.
        ax : matplotlib.axes.Axes, default=None
            Where to draw; None: on new axes.

        Returns
        -------
        TrainingDisplay
            Drawn.

        Raises
        ------
        NotFittedError
            If the estimator is not fitted.
        ValueError
            If it was not trained by epochs.
        TypeError
            If it is no network of this package.
        """
        cls._check_axes(ax)
        network, _ = fitted_network(estimator)
        net = getattr(network, "net_", None)
        if net is None and not hasattr(network, "trainable"):
            raise TypeError(
                "TrainingDisplay needs a DEQ or an explicit network, or what ends in "
                f"one; got {estimator!r}."
            )
        if net is None:
            raise ValueError(
                "TrainingDisplay needs a network trained by epochs (trainable='all' or "
                f"'recurrent'), got {estimator!r}."
            )
        display = cls(
            loss=network.loss_curve_,
            validation_loss=getattr(network, "validation_loss_curve_", None),
            solver_history=getattr(network, "solver_history_", None),
        )
        return display.plot(ax=ax)

    def plot(self, ax: Any = None) -> TrainingDisplay:
        """Draw losses on the left axis, χ and the spectral bound on the right one.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, default=None
            Where to draw; None: on new axes.

        Returns
        -------
        self : object
            With ``ax_``, ``stability_ax_`` and ``figure_``.
        """
        ax = self._draw_on(ax)
        lines = [*_draw(ax, self.loss, "training", "C0")]
        if self.validation_loss is not None:
            lines += _draw(ax, self.validation_loss, "held out", "C1")
        ax.set(xlabel="epoch", ylabel="loss", yscale="log")
        ax.xaxis.get_major_locator().set_params(integer=True)
        self.stability_ax_ = None
        found = {
            label: (self.solver_history or {}).get(name, [])
            for name, label in _STABILITY.items()
        }
        found = {k: v for k, v in found.items() if np.isfinite(v).any()}
        if found:
            self.stability_ax_ = ax.twinx()
            self.stability_ax_.axhline(1.0, color="0.7", lw=0.8)
            for number, (label, values) in enumerate(found.items()):
                lines += _draw(self.stability_ax_, values, label, f"C{number + 2}")
            self.stability_ax_.set(ylabel="stable below 1", ylim=(0, None))
        # Above the axes: inside it would hide behind the curves of the right one.
        ax.legend(
            handles=lines,
            frameon=False,
            loc="lower left",
            bbox_to_anchor=(0.0, 1.0),
            ncols=len(lines),
            borderaxespad=0.0,
            columnspacing=1.0,
        )
        return self


def _draw(ax: Any, values: Sequence[float], label: str, colour: str) -> Any:
    """Draw one curve over the epochs."""
    epochs = np.arange(1, len(values) + 1)
    return ax.plot(epochs, values, ".-", color=colour, label=label)
