"""How the residuals of the equilibria fall."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from sklearn_deq.inspection._base import Display, fitted_network
from sklearn_deq.nn import EquilibriumLayer, fixed_point
from sklearn_deq.nn._solvers import relative_residual

# Quantiles of the samples between which the band is drawn.
_BAND = (0.05, 0.95)


class ConvergenceDisplay(Display):
    """Relative residuals of a DEQ's equilibria, iteration by iteration.

    Parameters
    ----------
    residuals : ndarray of shape (n_samples, n_iter)
        Relative residual ‖f(z) − z‖/‖z‖ of every sample at every iteration; those of a
        sample that has converged stay what they were.
    tol : float
        Tolerance of the solver.
    solver : str, default=None
        Its name, for the title.

    Attributes
    ----------
    ax_ : matplotlib.axes.Axes
        Where it was drawn.
    figure_ : matplotlib.figure.Figure
        The figure of the axes.
    line_ : matplotlib.lines.Line2D
        The median of the samples.

    See Also
    --------
    TrainingDisplay : Losses, and what became of stability, epoch by epoch.

    Notes
    -----
    The equilibria are solved for anew, in the precision of the weights throughout; the
    solves of a network may begin in a lower one.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn_deq import DEQClassifier
    >>> from sklearn_deq.inspection import ConvergenceDisplay
    >>> X, y = load_iris(return_X_y=True)
    >>> deq = DEQClassifier(width=32, max_epochs=2, random_state=0).fit(X, y)
    >>> display = ConvergenceDisplay.from_estimator(deq, X)
    >>> bool(display.residuals[:, -1].max() <= deq.tol)
    True
    """

    def __init__(
        self, *, residuals: np.ndarray, tol: float, solver: str | None = None
    ) -> None:
        self.residuals = residuals
        self.tol = tol
        self.solver = solver

    @classmethod
    def from_estimator(
        cls, estimator: Any, X: Any, *, ax: Any = None
    ) -> ConvergenceDisplay:
        """Solve for the equilibria of some samples, and draw their residuals.

        Parameters
        ----------
        estimator : DEQClassifier, DEQRegressor, Pipeline or search
            Fitted; or a fitted pipeline or search that ends in one.
        X : array-like of shape (n_samples, n_features)
            Samples, as the estimator takes them.
        ax : matplotlib.axes.Axes, default=None
            Where to draw; None: on new axes.

        Returns
        -------
        ConvergenceDisplay
            Drawn.

        Raises
        ------
        NotFittedError
            If the estimator is not fitted.
        TypeError
            If it has no equilibria.
        """
        cls._check_axes(ax)
        deq, X = fitted_network(estimator, X)
        layer = getattr(deq, "_body", None)
        if not isinstance(layer, EquilibriumLayer):
            raise TypeError(
                "ConvergenceDisplay needs a DEQClassifier or DEQRegressor, or what "
                f"ends in one; got {estimator!r}."
            )
        rows = torch.tensor(deq._check_input(X), device=layer.input_weight.device)
        display = cls(
            residuals=_residuals(layer, rows),
            tol=layer.tol,
            solver=layer.effective_solver,
        )
        return display.plot(ax=ax)

    def plot(self, ax: Any = None) -> ConvergenceDisplay:
        """Draw the median of the samples, a band of 90 % of them, and the tolerance.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, default=None
            Where to draw; None: on new axes.

        Returns
        -------
        self : object
            With ``ax_``, ``figure_`` and ``line_``.
        """
        ax = self._draw_on(ax)
        iterations = np.arange(1, self.residuals.shape[1] + 1)
        low, high = np.quantile(self.residuals, _BAND, axis=0)
        median, worst = np.median(self.residuals, axis=0), self.residuals.max(axis=0)
        (self.line_,) = ax.semilogy(iterations, median, label="median")
        colour = self.line_.get_color()
        ax.fill_between(iterations, low, high, color=colour, alpha=0.2, lw=0)
        ax.semilogy(iterations, worst, ":", color=colour, label="largest")
        ax.axhline(self.tol, color="0.5", ls="--", label="tolerance")
        title = "Equilibria" if self.solver is None else f"Equilibria, {self.solver}"
        ax.set(xlabel="iteration", ylabel="relative residual", title=title)
        ax.xaxis.get_major_locator().set_params(integer=True)
        ax.legend(frameon=False)
        return self


def _residuals(layer: EquilibriumLayer, x: torch.Tensor) -> np.ndarray:
    """Relative residuals (n, n_iter) of the layer's own solver on the rows of x."""
    seen: list[torch.Tensor] = []
    with torch.no_grad():
        u = layer.drive(x)
        last = torch.full((len(u),), torch.inf, dtype=u.dtype, device=u.device)

        def f(z: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
            new = layer.step(z, u[rows])
            last[rows] = relative_residual(z, new)
            seen.append(last.clone())
            return new

        start = layer.step(torch.zeros_like(u), u)
        fixed_point(
            f,
            start,
            solver=layer.effective_solver,
            tol=layer.tol,
            max_iter=layer.solver_max_iter,
        )
    return torch.stack(seen, dim=1).cpu().numpy()
