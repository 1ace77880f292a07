"""Watching a training: its rate, its progress, its solves, and updates not to make."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any

import torch
from skorch import NeuralNet
from skorch.callbacks import Callback, EarlyStopping, PrintLog
from torch import nn
from tqdm import tqdm

# Epochs without improvement of the validation loss that end an early-stopped fit.
PATIENCE = 10
# By this factor A is shrunk when training has taken the equilibrium away, and by its
# square, fourth power, … when it has to be again at once.
_SHRINK = 0.9
_LARGEST_SHRINK = 0.1
# A relative residual of the adjoint that makes a gradient doubtful.
_DOUBTFUL = 1e-2
# Before the names of the solver's columns in the history of a net.
_PREFIX = "solver_"


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


# What `solver_history_` has of the solves, and how an epoch follows from its updates.
_SUMMARIES: dict[str, Callable[[list[float]], float]] = {
    "n_iter": _mean,
    "residual": max,
    "unconverged": sum,
    "backward_residual": max,
}
# What it has of the weights at the end of the epoch, and how often A was shrunk in it.
_MEASURES = ("chi", "spectral_bound")
_SHRINKS = "shrinks"
SOLVER_COLUMNS = (*_SUMMARIES, *_MEASURES, _SHRINKS)


def solver_status(body: nn.Module) -> dict[str, float]:
    """How the last solves of a body fared; empty if it has none to make.

    Parameters
    ----------
    body : nn.Module
        Such as an `EquilibriumLayer`.

    Returns
    -------
    dict of str to float
        Mean iterations, largest residual, rows that did not converge, and the largest
        residual of the adjoint.
    """
    result: Any = getattr(body, "last_result", None)
    if result is None:
        return {}
    # One transfer from the device, not three.
    n_iter, residual, converged = torch.stack(
        [
            result.n_iter.double().mean(),
            result.residual.double().max(),
            result.converged.double().sum(),
        ]
    ).tolist()
    return {
        "n_iter": n_iter,
        "residual": residual,
        "unconverged": result.converged.numel() - converged,
        "backward_residual": float(getattr(body, "last_backward_residual", 0.0)),
    }


def summarise(statuses: list[dict[str, float]], body: Any) -> dict[str, float]:
    """Summarise the solves of an epoch, and measure the weights after it.

    Parameters
    ----------
    statuses : list of dict
        Of `solver_status`, one of every update.
    body : nn.Module
        An `EquilibriumLayer`.

    Returns
    -------
    dict of str to float
        One number for each of `SOLVER_COLUMNS`.
    """
    found = {
        name: float(summary([status[name] for status in statuses]))
        for name, summary in _SUMMARIES.items()
    }
    return found | _measures(body) | {_SHRINKS: 0.0}


def _measures(body: Any) -> dict[str, float]:
    return {name: float(getattr(body, name)) for name in _MEASURES}


def shrink(body: Any, times: int) -> None:
    """Bring a body closer to where every equilibrium is stable: A = 0.

    Parameters
    ----------
    body : nn.Module
        An `EquilibriumLayer`; changed in place.
    times : int
        How often this has been done before, without success.
    """
    factor = max(_SHRINK ** (2 ** min(times, 10)), _LARGEST_SHRINK)
    with torch.no_grad():
        body.recurrent_weight.mul_(factor)


class Annealing(Callback):
    """Anneal the learning rate to 0 along a cosine, once over every call of `train`.

    From the rates that the groups of the optimizer were made with. Rates that were set
    by others later are left to them.

    Parameters
    ----------
    scheduled : bool, default=False
        Whether another callback sets the rate, from the first update on.
    """

    def __init__(self, scheduled: bool = False) -> None:
        self.scheduled = scheduled
        self.steps_ = 0
        self.step_ = 0
        self.initial_: list[float] | None = None
        self.rates_: list[float] | None = None

    def start(self, steps: int) -> None:
        """Begin anew, to end after so many steps; 0 keeps the rate as it is."""
        self.steps_, self.step_, self.rates_ = steps, 0, None

    def on_batch_begin(self, net: NeuralNet, training: bool = False, **_: Any) -> None:
        """Set the rates of the update."""
        groups = net.optimizer_.param_groups
        found = [group["lr"] for group in groups]
        self.scheduled |= self.rates_ is not None and found != self.rates_
        if not training or self.scheduled:
            return
        if self.initial_ is None:
            self.initial_ = found
        factor = 1.0
        if self.steps_:
            factor = 0.5 * (1.0 + math.cos(math.pi * self.step_ / self.steps_))
        self.rates_ = [factor * rate for rate in self.initial_]
        for group, rate in zip(groups, self.rates_, strict=True):
            group["lr"] = rate
        self.step_ += 1


class HeldOutStopping(EarlyStopping):
    """Early stopping in those calls of `train` that have a validation set."""

    def on_epoch_end(self, net: NeuralNet, **params: Any) -> None:
        """Look at the validation loss, if there is one."""
        if net.train_split is not None:
            super().on_epoch_end(net, **params)


class Progress(Callback):
    """Advance a progress bar by one every epoch, and show the losses beside it."""

    def __init__(self) -> None:
        self.bar_: tqdm | None = None

    def on_epoch_end(self, net: NeuralNet, **_: Any) -> None:
        """Advance."""
        if self.bar_ is not None:
            row, shown = net.history[-1], ("train_loss", "valid_loss")
            self.bar_.set_postfix({k: row[k] for k in shown if k in row}, refresh=False)
            self.bar_.update()


class EpochTable(PrintLog):
    """A line per epoch, with colours only where a terminal shows them."""

    def format_row(self, row: dict[str, Any], key: str, color: str) -> Any:
        """Format one value of a row.

        Parameters
        ----------
        row : dict
            Of the history.
        key : str
            Which value.
        color : str
            What a terminal takes for a colour.

        Returns
        -------
        object
            The value, as a text if it is a number.
        """
        if not sys.stdout.isatty():
            row = {key: row[key]}
        return super().format_row(row, key, color)


class SolverRecord(Callback):
    """Keep in the history, epoch by epoch, how the body's solves fared."""

    def __init__(self) -> None:
        self.steps_: list[dict[str, float]] = []

    def on_epoch_begin(self, net: NeuralNet, **_: Any) -> None:
        """Forget the last epoch."""
        self.steps_ = []

    def on_batch_end(self, net: NeuralNet, training: bool = False, **_: Any) -> None:
        """Look at the body after an update."""
        status = solver_status(net.module_.body) if training else {}
        if status:
            self.steps_.append(status)

    def on_epoch_end(self, net: NeuralNet, **_: Any) -> None:
        """Summarise the epoch."""
        if self.steps_:
            found = summarise(self.steps_, net.module_.body)
            for name, value in found.items():
                net.history.record(_PREFIX + name, value)


def solver_history(history: Any) -> dict[str, list[float]]:
    """Return the solver's columns of a net's history, of every completed epoch.

    Parameters
    ----------
    history : skorch.history.History
        Of a net with a `SolverRecord`.

    Returns
    -------
    dict of str to list of float
        A list for every one of `SOLVER_COLUMNS`; lists are empty where nothing is
        solved.
    """
    rows = [row for row in history if _PREFIX + "n_iter" in row]
    return {name: [row[_PREFIX + name] for row in rows] for name in SOLVER_COLUMNS}


def amend_history(history: Any, body: Any, shrinks: int) -> None:
    """Bring the last epoch's record up to the weights that training ended with.

    Parameters
    ----------
    history : skorch.history.History
        Of a net with a `SolverRecord`.
    body : nn.Module
        An `EquilibriumLayer`.
    shrinks : int
        How often A was shrunk after the last update.
    """
    if solver_history(history)["n_iter"] and _PREFIX + "n_iter" in history[-1]:
        for name, value in _measures(body).items():
            history.record(_PREFIX + name, value)
        history.record(_PREFIX + _SHRINKS, history[-1, _PREFIX + _SHRINKS] + shrinks)


class UpdateGuard(Callback):
    """Withhold updates whose gradients mean nothing, and count them.

    Parameters
    ----------
    holds : bool
        Whether equilibria are held on to: an update is withheld where the solver does
        not reach one, and A shrunk in its place, until training is back where it does.

    Attributes
    ----------
    steps_ : int
        Gradients seen in this call of `train`.
    not_finite_ : int
        Of these, withheld since they were not finite.
    lost_ : int
        Of these, with a row whose equilibrium was not reached, where it is held on to.
    unreached_ : int
        The same where it is not.
    doubtful_ : int
        Of these, with a row whose adjoint has a relative residual above 1e-2, and above
        what it was solved to.
    lost_at_once_ : int
        How many of the last ones were lost, without one between them that was not.
    """

    def __init__(self, holds: bool) -> None:
        self.holds = holds
        self._count_from_zero()

    def _count_from_zero(self) -> None:
        self.steps_ = self.not_finite_ = self.doubtful_ = 0
        self.lost_ = self.unreached_ = self.lost_at_once_ = 0
        self._lost_before_epoch = 0

    def on_train_begin(self, net: NeuralNet, **_: Any) -> None:
        """Count from zero."""
        self._count_from_zero()

    def on_epoch_begin(self, net: NeuralNet, **_: Any) -> None:
        """Note how many were lost before."""
        self._lost_before_epoch = self.lost_

    def on_epoch_end(self, net: NeuralNet, **_: Any) -> None:
        """Record how often A was shrunk, after `SolverRecord` has written its row."""
        if _PREFIX + _SHRINKS in net.history[-1]:
            shrinks = float(self.lost_ - self._lost_before_epoch)
            net.history.record(_PREFIX + _SHRINKS, shrinks)

    def on_grad_computed(
        self, net: NeuralNet, named_parameters: Any, training: bool = False, **_: Any
    ) -> None:
        """Judge the gradient, after all other callbacks have seen it."""
        parameters = [p for p in net.module_.parameters() if p.grad is not None]
        norm = nn.utils.get_total_norm([p.grad for p in parameters])
        finite = bool(torch.isfinite(norm))
        status = solver_status(net.module_.body)
        unreached = status.get("unconverged", 0) > 0
        lost = unreached and self.holds
        self.steps_ += 1
        self.not_finite_ += not finite
        self.lost_ += lost
        self.unreached_ += unreached and not lost
        doubtful = max(_DOUBTFUL, getattr(net.module_.body, "backward_tol", 0.0))
        self.doubtful_ += status.get("backward_residual", 0.0) > doubtful
        if lost:
            shrink(net.module_.body, self.lost_at_once_)
        self.lost_at_once_ = self.lost_at_once_ + 1 if lost else 0
        if not finite or lost:
            # An optimizer leaves alone what has no gradient.
            for parameter in parameters:
                parameter.grad = None

    def report(self) -> str | None:
        """Say what was withheld; None if nothing was.

        Returns
        -------
        str or None
            One sentence, with advice.
        """
        counts = {
            "the gradients of {} were not finite": self.not_finite_,
            "{} were replaced by a step of A towards 0, since the equilibrium of a "
            "sample was lost": self.lost_,
            "{} saw a sample whose equilibrium was not reached": self.unreached_,
            "{} saw an adjoint that did not converge": self.doubtful_,
        }
        parts = [what.format(count) for what, count in counts.items() if count]
        if not parts:
            return None
        return (
            f"Of the {self.steps_} updates {', '.join(parts)}. Lower lr or "
            "recurrent_variance, or raise solver_max_iter."
        )
