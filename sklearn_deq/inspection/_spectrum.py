"""The eigenvalues of kernels that should be the same."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral
from typing import Any

import numpy as np

from sklearn_deq.estimators._match_report import wide_kernels
from sklearn_deq.inspection._base import (
    KERNEL_NAMES,
    Display,
    check_mapping,
    explicit_equivalent,
)
from sklearn_deq.theory import high_dimensional_equivalent
from sklearn_deq.theory._equilibrium import check_kernel

# An outlier is a gap away from the next eigenvalue of at least this share of the range
# of so many below it. In pure noise (300 Wishart matrices, n = 200) the widest gap of
# the upper tenth had a median share of 0.31, and more than 0.5 once in 25.
_NEIGHBOURS = 10
_GAP = 0.5
# Eigenvalues in a range of this share of their size are one but for rounding: bins of
# theirs would have no width. They are drawn amid a wider range.
_ONE = 1e-6
_MARGIN = 0.5
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
        Eigenvalues of each kernel.
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
            Fitted or not; a fitted one is drawn as it was fitted. Of a pipeline the
            steps before the model must be fitted.
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
        cls._check_axes(ax)
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
            Symmetric matrices by name; of what rounding leaves between K and its
            transpose the lower triangle counts.
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

        Raises
        ------
        ValueError
            If a matrix is not symmetric within rounding, or its numbers are not finite.
        """
        cls._check_axes(ax)
        check_mapping("kernels", kernels, "symmetric matrices")
        kernels = {name: _checked_kernel(name, K) for name, K in kernels.items()}
        sizes = {name: len(K) for name, K in kernels.items()}
        _check_labels(sizes, n_outliers, kernel)
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
        check_mapping("eigenvalues", self.eigenvalues, "eigenvalues")
        eigenvalues = {
            name: _checked_spectrum(name, values)
            for name, values in self.eigenvalues.items()
        }
        sizes = {name: len(values) for name, values in eigenvalues.items()}
        _check_labels(sizes, self.n_outliers, self.kernel)
        shown, edges = _binned(eigenvalues, bins, xscale)
        ax = self._draw_on(ax)
        for k, (name, values) in enumerate(shown.items()):
            count = (self.n_outliers or {}).get(name, 0)
            hidden = sizes[name] - len(values)
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


def _binned(
    eigenvalues: Mapping[str, np.ndarray], bins: int, xscale: str
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """What of the eigenvalues an axis shows, and the edges of its bins."""
    if xscale not in ("log", "linear"):
        raise ValueError(f"xscale must be 'log' or 'linear', got {xscale!r}.")
    if not isinstance(bins, Integral) or isinstance(bins, bool) or bins < 1:
        raise ValueError(f"bins must be a positive integer, got {bins!r}.")
    shown = dict(eigenvalues)
    if xscale == "log":
        shown = {name: values[values > 0] for name, values in shown.items()}
    everything = np.concatenate(list(shown.values()))
    if not len(everything):
        raise ValueError(
            "No eigenvalue is positive, and xscale='log' shows no others: draw "
            "SpectrumDisplay(eigenvalues=...).plot(xscale='linear')."
        )
    low, high = everything.min(), everything.max()
    size = max(abs(low), abs(high))
    if high - low <= _ONE * size:
        margin = _MARGIN * (size or 1.0)
        low, high = low - margin, high + margin
    space = np.geomspace if xscale == "log" else np.linspace
    return shown, space(low, high, int(bins) + 1)


def _checked_kernel(name: str, K: Any) -> np.ndarray:
    """K as a matrix of floats; refused unless symmetric within its rounding."""
    K = _checked_numbers(f"kernels[{name!r}]", K)
    if K.ndim != 2 or K.shape[0] != K.shape[1]:
        raise ValueError(
            f"kernels[{name!r}] must be a square matrix, got shape {K.shape}."
        )
    gap, largest = np.abs(K - K.T).max(), np.abs(K).max()
    if gap > np.sqrt(np.finfo(K.dtype).eps) * largest:
        raise ValueError(
            f"kernels[{name!r}] is not symmetric: it differs from its transpose by up "
            f"to {gap:.2g}, its largest entry is {largest:.2g}. Give a kernel of "
            "samples with themselves, or (K + K.T) / 2."
        )
    return K


def _checked_spectrum(name: str, values: Any) -> np.ndarray:
    """Eigenvalues as floats, ascending."""
    values = _checked_numbers(f"eigenvalues[{name!r}]", values)
    if values.ndim != 1:
        raise ValueError(
            f"eigenvalues[{name!r}] must have one dimension, got shape {values.shape}. "
            "SpectrumDisplay.from_kernels takes matrices."
        )
    return np.sort(values)


def _checked_numbers(name: str, values: Any) -> np.ndarray:
    """Array of floats, none of them missing, at least one."""
    values = np.asarray(values)
    if values.dtype.kind not in "biuf":
        raise ValueError(f"{name} must hold real numbers, got {values.dtype}.")
    if not values.size:
        raise ValueError(f"{name} is empty, of shape {values.shape}: nothing to draw.")
    single = values.dtype.kind == "f" and values.dtype.itemsize <= 4
    values = values.astype(np.float32 if single else np.float64, copy=False)
    if not np.isfinite(values).all():
        raise ValueError(f"{name} must be finite, but holds NaN or infinity.")
    return values


def _check_labels(sizes: Mapping[str, int], n_outliers: Any, kernel: Any) -> None:
    """Refuse outliers of what is not drawn, or more than there are, and odd titles."""
    if kernel is not None:
        check_kernel(kernel)
    if n_outliers is None:
        return
    if not isinstance(n_outliers, Mapping):
        raise ValueError(
            "n_outliers must be None or a mapping of names to integers, such as "
            f"{dict.fromkeys(sizes, 2)}; got {n_outliers!r}."
        )
    for name, count in n_outliers.items():
        if name not in sizes:
            raise ValueError(
                f"n_outliers has {name!r}, which is not drawn: the names are "
                f"{', '.join(map(repr, sizes))}."
            )
        whole = isinstance(count, Integral) and not isinstance(count, bool)
        if not whole or not 0 <= count <= sizes[name]:
            raise ValueError(
                f"n_outliers[{name!r}] must be an integer between 0 and the "
                f"{sizes[name]} eigenvalues, got {count!r}."
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
