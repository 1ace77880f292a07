"""The eigenvalues of kernels that should be the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from sklearn_deq.estimators._match_report import wide_kernels
from sklearn_deq.inspection._base import KERNEL_NAMES, Display, explicit_equivalent
from sklearn_deq.theory import high_dimensional_equivalent

# An outlier is a gap away from the next eigenvalue of at least this share of the range
# of so many below it. In pure noise (300 Wishart matrices, n = 200) the widest gap of
# the upper tenth had a median share of 0.31, and more than 0.5 once in 25.
_NEIGHBOURS = 10
_GAP = 0.5
# Height of the first row of markers, and the distance of the rows, in axes.
_ROWS = (0.04, 0.05)
_MARKERS = "ovs^Dx"


class SpectrumDisplay(Display):
    """Histograms of the eigenvalues of several kernel matrices, with their outliers.

    Kernels that tend to each other in operator norm have the same bulk and the same
    outliers: it is the outliers that carry the classes of a mixture.

    Parameters
    ----------
    eigenvalues : mapping of str to ndarray of shape (n_samples,)
        Eigenvalues of each kernel, ascending.
    n_outliers : mapping of str to int, default=None
        How many of the largest are outliers, which are marked; None: none.
    kernel : {"ck", "ntk", "ntk_recurrent"}, default=None
        Which kernel it is, for the title.

    Attributes
    ----------
    ax_ : matplotlib.axes.Axes
        Where it was drawn.
    figure_ : matplotlib.figure.Figure
        The figure of the axes.

    See Also
    --------
    KernelMatchDisplay : The same kernels as functions of the cosine.

    References
    ----------
    .. [1] Ling et al. (2024), arXiv 2402.02697, Figure 1.

    Examples
    --------
    >>> from sklearn_deq import DEQClassifier
    >>> from sklearn_deq.datasets import make_gaussian_mixture
    >>> from sklearn_deq.inspection import SpectrumDisplay
    >>> X, y = make_gaussian_mixture(200, 300, random_state=0)
    >>> display = SpectrumDisplay.from_estimator(DEQClassifier(), X)
    >>> display.n_outliers
    {'DEQ': 2, 'explicit': 2, 'asymptotic': 2}
    """

    def __init__(
        self,
        *,
        eigenvalues: Mapping[str, np.ndarray],
        n_outliers: Mapping[str, int] | None = None,
        kernel: str | None = None,
    ) -> None:
        self.eigenvalues = eigenvalues
        self.n_outliers = n_outliers
        self.kernel = kernel

    @classmethod
    def from_estimator(
        cls, estimator: Any, X: Any, *, kernel: str | None = None, ax: Any = None
    ) -> SpectrumDisplay:
        """Draw the spectra of a DEQ's kernel, its equivalent's, and their limit.

        Parameters
        ----------
        estimator : DEQ or explicit equivalent, Pipeline or search
            Fitted or not; of a pipeline the steps before the model must be fitted.
        X : array-like of shape (n_samples, n_features)
            Samples, as the estimator takes them.
        kernel : {"ck", "ntk", "ntk_recurrent"}, default=None
            Which kernel. None: the one that an explicit equivalent is made for, "ck"
            for a DEQ.
        ax : matplotlib.axes.Axes, default=None
            Where to draw; None: on new axes.

        Returns
        -------
        SpectrumDisplay
            Drawn: "DEQ" and "explicit" are exact kernels of infinitely wide networks;
            "asymptotic" is what they tend to as samples and features grow, where that
            is known.

        Raises
        ------
        TypeError
            If the estimator has no such kernels.
        """
        explicit, X = explicit_equivalent(estimator, X, kernel)
        model, X = explicit._matched_on(X)
        rows = model._prepare_input(X)
        exact, found = wide_kernels(model, rows)
        kernels = {"DEQ": exact, "explicit": found}
        moments = model._moments(model.tau0_)
        if moments.equations_hold or model.kernel == "ck":
            kernels["asymptotic"] = high_dimensional_equivalent(
                rows, moments, kernel=model.kernel
            )
        return cls.from_kernels(kernels, kernel=model.kernel, ax=ax)

    @classmethod
    def from_kernels(
        cls,
        kernels: Mapping[str, np.ndarray],
        *,
        n_outliers: Mapping[str, int] | None = None,
        kernel: str | None = None,
        ax: Any = None,
    ) -> SpectrumDisplay:
        """Draw the spectra of kernel matrices.

        Parameters
        ----------
        kernels : mapping of str to ndarray of shape (n_samples, n_samples)
            Symmetric matrices by name.
        n_outliers : mapping of str to int, default=None
            How many of the largest eigenvalues of each are outliers. None: those above
            the last gap that is half as wide as the range of the ten eigenvalues below
            it, among the largest tenth.
        kernel : {"ck", "ntk", "ntk_recurrent"}, default=None
            Which kernel it is, for the title.
        ax : matplotlib.axes.Axes, default=None
            Where to draw; None: on new axes.

        Returns
        -------
        SpectrumDisplay
            Drawn.
        """
        eigenvalues = {name: np.linalg.eigvalsh(K) for name, K in kernels.items()}
        if n_outliers is None:
            n_outliers = {
                name: _count_outliers(values) for name, values in eigenvalues.items()
            }
        display = cls(eigenvalues=eigenvalues, n_outliers=n_outliers, kernel=kernel)
        return display.plot(ax=ax)

    def plot(
        self, ax: Any = None, *, bins: int = 40, xscale: str = "log"
    ) -> SpectrumDisplay:
        """Draw a histogram for each kernel, and its outliers as a row of markers.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, default=None
            Where to draw; None: on new axes.
        bins : int, default=40
            Bins of the histograms, which all have the same.
        xscale : {"log", "linear"}, default="log"
            Of the eigenvalues. On a logarithmic axis those that are not positive are
            not shown, and the legend says how many.

        Returns
        -------
        self : object
            With ``ax_`` and ``figure_``.
        """
        if xscale not in ("log", "linear"):
            raise ValueError(f"xscale must be 'log' or 'linear', got {xscale!r}.")
        ax = self._draw_on(ax)
        shown = {
            name: values[values > 0] if xscale == "log" else values
            for name, values in self.eigenvalues.items()
        }
        everything = np.concatenate(list(shown.values()))
        space = np.geomspace if xscale == "log" else np.linspace
        edges = space(everything.min(), everything.max(), bins + 1)
        for k, (name, values) in enumerate(shown.items()):
            count = (self.n_outliers or {}).get(name, 0)
            hidden = len(self.eigenvalues[name]) - len(values)
            label = name
            if count:
                label += f", {count} outlier{'s' if count > 1 else ''}"
            if hidden:
                label += f", {hidden} not positive"
            style = {"histtype": "step", "lw": 1.5, "ls": ("-", "--", ":")[k % 3]}
            if k == 0:
                style = {"alpha": 0.35}
            ax.hist(values, edges, color=f"C{k}", label=label, **style)
            if count:
                self._mark(ax, values[-count:], k)
        title = "Spectra"
        if self.kernel is not None:
            title += f", {KERNEL_NAMES[self.kernel]}"
        ax.set(xlabel="eigenvalue", ylabel="eigenvalues in a bin", title=title)
        ax.set_xscale(xscale)
        ax.legend(frameon=False)
        return self

    def _mark(self, ax: Any, outliers: np.ndarray, k: int) -> None:
        """Draw the outliers of the k-th kernel in a row of their own."""
        first, distance = _ROWS
        height = np.full(len(outliers), first + distance * k)
        ax.plot(
            outliers,
            height,
            _MARKERS[k % len(_MARKERS)],
            color=f"C{k}",
            mfc="none",
            transform=ax.get_xaxis_transform(),
        )


def _count_outliers(values: np.ndarray) -> int:
    """How many of the ascending eigenvalues stand apart at the upper end."""
    descending = values[::-1]
    most = min(len(values) // 10, len(values) - _NEIGHBOURS - 1)
    for count in range(most, 0, -1):
        gap = descending[count - 1] - descending[count]
        below = descending[count] - descending[count + _NEIGHBOURS]
        if gap > _GAP * below:
            return count
    return 0
