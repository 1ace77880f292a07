"""How close a DEQ's kernel and its explicit network's are, as functions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from sklearn_deq.inspection._base import (
    KERNEL_NAMES,
    Display,
    explicit_equivalent,
)
from sklearn_deq.theory import (
    EquilibriumMoments,
    ExplicitLayer,
    MatchResult,
    equilibrium_kernel,
    explicit_pair_kernel,
    solve_match,
)
from sklearn_deq.theory._equilibrium import check_kernel
from sklearn_deq.theory._hermite import HermiteFunction
from sklearn_deq.theory._hermite_mixture import HermiteMixture

# Where activations are drawn, in standard deviations of their input.
_POINTS = np.linspace(-3.0, 3.0, 301)
# Between panels that one Axes is divided into, in widths of theirs.
_SPACE = 0.4


class KernelMatchDisplay(Display):
    """A DEQ's kernel beside its explicit equivalent's, and what they are made of.

    Three panels: the kernels of two samples of one size as functions f(ρ) of their
    cosine, the difference of the two, and the activations.

    Parameters
    ----------
    cosines : ndarray of shape (n,)
        Cosines ρ.
    deq, explicit : ndarray of shape (n,)
        The kernels there.
    points : ndarray of shape (m,)
        Inputs of the activations, in units of their standard deviations.
    activations : mapping of str to ndarray of shape (n_kinds, m)
        Values of the activations by name, the DEQ's first; where a layer has units of
        several kinds, a row for each.
    kernel : {"ck", "ntk", "ntk_recurrent"}, default="ck"
        Which kernel it is, for the labels.

    Attributes
    ----------
    ax_ : matplotlib.axes.Axes
        Where the kernels were drawn.
    difference_ax_, activation_ax_ : matplotlib.axes.Axes
        The same for their difference and for the activations.
    figure_ : matplotlib.figure.Figure
        The figure of the axes.

    See Also
    --------
    SpectrumDisplay : The same kernels on data.
    sklearn_deq.ExplicitEquivalentClassifier.match_report : Their distance in numbers.

    Examples
    --------
    >>> from sklearn_deq import DEQClassifier
    >>> from sklearn_deq.inspection import KernelMatchDisplay
    >>> display = KernelMatchDisplay.from_estimator(DEQClassifier(activation="tanh"))
    >>> bool(abs(display.deq - display.explicit).max() < 1e-2 * display.deq.max())
    True
    """

    def __init__(
        self,
        *,
        cosines: np.ndarray,
        deq: np.ndarray,
        explicit: np.ndarray,
        points: np.ndarray,
        activations: Mapping[str, np.ndarray],
        kernel: str = "ck",
    ) -> None:
        self.cosines = cosines
        self.deq = deq
        self.explicit = explicit
        self.points = points
        self.activations = activations
        self.kernel = kernel

    @classmethod
    def from_estimator(
        cls, estimator: Any, X: Any = None, *, kernel: str | None = None, ax: Any = None
    ) -> KernelMatchDisplay:
        """Draw the kernels of a DEQ and of its explicit equivalent.

        Parameters
        ----------
        estimator : DEQ or explicit equivalent, Pipeline or search
            Fitted or not; a fitted one is drawn as it was fitted. With X the steps of a
            pipeline before the model must be fitted.
        X : array-like of shape (n_samples, n_features), default=None
            Samples for which an equivalent that is not fitted is matched. None: it is
            matched for norms around ``tau0`` (1.0 if that is None).
        kernel : {"ck", "ntk", "ntk_recurrent"}, default=None
            Which kernel. None: the one that an explicit equivalent is made for, "ck"
            for a DEQ.
        ax : matplotlib.axes.Axes or sequence of 3, default=None
            Where to draw; None: on new axes. One is divided into three.

        Returns
        -------
        KernelMatchDisplay
            Drawn, for samples of size ``tau0``.

        Raises
        ------
        TypeError
            If the estimator has no such kernels.
        """
        cls._check_axes(ax)
        model, X = explicit_equivalent(estimator, X, kernel)
        if X is not None:
            model, _ = model._matched_on(X)
        tau0 = getattr(model, "tau0_", 1.0 if model.tau0 is None else model.tau0)
        moments = model._moments(tau0)
        match = getattr(model, "match_", None)
        if match is None:
            match = solve_match(
                moments,
                kernel=model.kernel,
                architecture=model.architecture,
                trainable="readout" if model.trainable == "readout" else "all",
            )
        return cls.from_match(moments, match, kernel=model.kernel, ax=ax)

    @classmethod
    def from_match(
        cls,
        moments: EquilibriumMoments,
        match: MatchResult,
        *,
        kernel: str = "ck",
        ax: Any = None,
    ) -> KernelMatchDisplay:
        """Draw the kernels of a DEQ and of a network that was matched to it.

        Parameters
        ----------
        moments : EquilibriumMoments
            The DEQ.
        match : MatchResult
            The network, from `sklearn_deq.theory.solve_match`.
        kernel : {"ck", "ntk", "ntk_recurrent"}, default="ck"
            Which kernel was matched.
        ax : matplotlib.axes.Axes or sequence of 3, default=None
            Where to draw; None: on new axes. One is divided into three.

        Returns
        -------
        KernelMatchDisplay
            Drawn, for samples of size ``moments.tau0``.
        """
        cls._check_axes(ax)
        square = np.array([moments.tau0**2])
        # Evenly spaced in the angle: kinks bend f at the ends.
        cosines = np.cos(np.linspace(np.pi, 0.0, 201))
        pairs = (
            equilibrium_kernel(moments, kernel),
            explicit_pair_kernel(match.layers, kernel, match.multipliers),
        )
        values = []
        for pair in pairs:
            states = pair.states(square)
            values.append(np.asarray(pair.entries(states, states, square * cosines)))
        phi = moments.activation.function(moments.tau_star * _POINTS) - moments.offset
        activations = {f"DEQ, {moments.activation}": phi[None]}
        for number, layer in enumerate(match.layers, 1):
            activations[f"layer {number}"] = _kinds(layer, moments.tau0)
        display = cls(
            cosines=cosines,
            deq=values[0],
            explicit=values[1],
            points=_POINTS,
            activations=activations,
            kernel=kernel,
        )
        return display.plot(ax=ax)

    def plot(self, ax: Any = None) -> KernelMatchDisplay:
        """Draw the kernels, their difference and the activations.

        Parameters
        ----------
        ax : matplotlib.axes.Axes or sequence of 3, default=None
            Where to draw; None: on new axes. One is divided into three.

        Returns
        -------
        self : object
            With ``ax_``, ``difference_ax_``, ``activation_ax_`` and ``figure_``.
        """
        check_kernel(self.kernel)
        panels = self._panels(ax)
        self.ax_, self.difference_ax_, self.activation_ax_ = panels
        self.figure_ = self.ax_.figure
        self.ax_.plot(self.cosines, self.deq, lw=3, alpha=0.4, label="DEQ")
        self.ax_.plot(self.cosines, self.explicit, "--", label="explicit")
        label = f"{KERNEL_NAMES[self.kernel]} f(ρ)"
        self.ax_.set(xlabel="cosine ρ", ylabel=label, title="Kernels")
        self.ax_.legend(frameon=False)
        gap = np.abs(self.explicit - self.deq) / np.abs(self.deq).max()
        # What is below rounding is drawn at rounding.
        self.difference_ax_.semilogy(
            self.cosines, np.maximum(gap, np.finfo(float).eps), "C3"
        )
        self.difference_ax_.set(
            xlabel="cosine ρ",
            ylabel="|difference| / max |f|",
            title="Their difference",
        )
        styles = ({"lw": 3, "alpha": 0.4}, {"ls": "--"}, {"ls": ":"})
        for k, (name, kinds) in enumerate(self.activations.items()):
            lines = self.activation_ax_.plot(
                self.points, kinds.T, color=f"C{k}", **styles[min(k, 2)]
            )
            several = f", {len(kinds)} kinds of units" if len(kinds) > 1 else ""
            lines[0].set_label(name + several)
        self.activation_ax_.set(
            xlabel="input / its standard deviation",
            ylabel="centred activation",
            title="Activations",
        )
        self.activation_ax_.legend(frameon=False)
        return self

    def _panels(self, ax: Any) -> Any:
        """Three axes: given, new, or in the place of one."""
        plt = self._check_axes(ax)
        if ax is None:
            return plt.subplots(1, 3, figsize=(12, 3.6), layout="constrained")[1]
        given = self._given_axes(ax)
        if len(given) == 3:
            return given
        (ax,) = given
        ax.set_axis_off()
        place = ax.get_subplotspec()
        if place is not None:
            return place.subgridspec(1, 3, wspace=_SPACE).subplots()
        # Placed by hand, or an inset: no layout is to move the panels either.
        width = 1.0 / (3.0 + 2.0 * _SPACE)
        starts = (1.0 + _SPACE) * width * np.arange(3)
        return [ax.inset_axes((start, 0.0, width, 1.0)) for start in starts]

    @classmethod
    def _given_axes(cls, ax: Any) -> list[Any]:
        """One, or one for each panel."""
        if ax is None:
            return []
        given = list(np.ravel(np.asarray(ax, dtype=object)))
        if len(given) not in (1, 3):
            raise ValueError(f"ax must be one Axes or three, got {len(given)}.")
        return given


def _kinds(layer: ExplicitLayer, norm: float) -> np.ndarray:
    """Activations (n_kinds, m) of a layer at _POINTS, for samples of this norm."""
    function, x = layer.activation.function, layer.tau * _POINTS
    if isinstance(function, HermiteMixture):
        # A column for each group of units.
        columns = np.repeat(x[:, None], len(function.groups), axis=1)
        return function(columns, np.full_like(columns, norm)).T
    if isinstance(function, HermiteFunction):
        return function(x, np.full_like(x, norm))[None]
    return np.asarray(layer(x))[None]
