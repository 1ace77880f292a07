"""Training through skorch: the module, its batches, and a net that can be interrupted.

Only this file, `_training_tools`, `_monitoring`, its callbacks, and `_network` import
skorch.
"""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.base import ClassifierMixin, RegressorMixin
from skorch import NeuralNet
from skorch.callbacks import EarlyStopping, LRScheduler
from skorch.dataset import Dataset
from skorch.helper import predefined_split
from torch import nn
from torch.nn.utils import skip_init
from tqdm import tqdm

from sklearn_deq._warnings import solver_warnings
from sklearn_deq.estimators._monitoring import (
    PATIENCE,
    Annealing,
    EpochTable,
    HeldOutStopping,
    Progress,
    SolverRecord,
    UpdateGuard,
)
from sklearn_deq.estimators._training_tools import as_callback, optimizer_options
from sklearn_deq.kernels._samples import as_tensor
from sklearn_deq.nn._gradients import drop_vanishing

# Rows evaluated at once outside of training.
BLOCK = 1024
# Factor over the loss of the untrained model at which a training counts as failed;
# noise of a few mini-batches stays below.
_RISE = 2.0


class FeaturesReadout(nn.Module):
    """A body that makes features, and a linear readout that starts at zero.

    Parameters
    ----------
    body : nn.Module
        Maps (n, p) to (n, m).
    width : int
        m.
    n_outputs : int
        Outputs of the readout.
    dtype : torch.dtype
        Of the readout.
    """

    def __init__(
        self, body: nn.Module, width: int, n_outputs: int, dtype: torch.dtype
    ) -> None:
        super().__init__()
        self.body = body
        # skip_init: the default initialisation would move the global generator.
        self.readout = skip_init(nn.Linear, width, n_outputs, dtype=dtype)
        nn.init.zeros_(self.readout.weight)
        nn.init.zeros_(self.readout.bias)

    def forward(self, X: torch.Tensor) -> torch.Tensor:
        """Outputs of the readout, shape (n, n_outputs)."""
        outputs: torch.Tensor = self.readout(self.body(X))
        return outputs


class Batches:
    """Whole batches by index: skorch's default collates them row by row.

    Parameters
    ----------
    dataset : skorch.dataset.Dataset
        Holds X and y as tensors.
    batch_size : int
        Rows per batch.
    shuffle : bool, default=False
        Whether the rows are permuted anew for every pass.
    generator : torch.Generator, default=None
        Of the permutations.
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int,
        shuffle: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        self.dataset, self.batch_size = dataset, batch_size
        self.shuffle, self.generator = shuffle, generator

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        n = len(self.dataset)
        order = torch.arange(n)
        if self.shuffle:
            order = torch.randperm(n, generator=self.generator)
        X, y = self.dataset.X, self.dataset.y
        # Predictions need no targets.
        y = torch.zeros(n) if y is None else y
        for rows in order.split(self.batch_size):
            yield X[rows], y[rows]

    def __len__(self) -> int:
        return -(-len(self.dataset) // self.batch_size)


class WeightedCrossEntropy(nn.Module):
    """Cross-entropy with class weights relative to one mean for all batches.

    torch divides by the weights of the batch instead, which gives a rare class its full
    say in every batch where the others are missing.

    Parameters
    ----------
    weight : tensor of shape (n_classes,)
        Weights of the classes, whose mean over the training rows, or in `partial_fit`
        over the classes, is one.
    """

    weight: torch.Tensor

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight)

    def forward(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Mean of the weighted losses."""
        total = nn.functional.cross_entropy(
            outputs, targets, weight=self.weight, reduction="sum"
        )
        return total / targets.shape[0]


class InterruptibleNet(NeuralNet):
    """A skorch net that stabilises its body and remembers a KeyboardInterrupt."""

    interrupted = False
    # Copies of the user's callbacks.
    own_callbacks: list[Any]

    def train_step(self, batch: Any, **params: Any) -> Any:
        """One update, and what the body does to stay well-posed after it."""
        try:
            return super().train_step(batch, **params)
        finally:
            # Of an interrupted one as well.
            getattr(self.module_.body, "stabilize", lambda: None)()

    def get_loss(
        self, y_pred: Any, *arguments: Any, training: bool = False, **params: Any
    ) -> Any:
        """Loss; in training its gradient has that of a penalty the body may ask for.

        Its value has not, to be comparable with that of held-out rows.
        """
        if training:
            drop_vanishing(y_pred)
        loss = super().get_loss(y_pred, *arguments, training=training, **params)
        body = self.module_.body
        if training and getattr(body, "stability", None) == "jacobian":
            penalty = body.jacobian_penalty()
            loss = loss + (penalty - penalty.detach())
        return loss

    def fit_loop(self, X: Any, y: Any = None, **params: Any) -> Any:
        """Train; note an interruption before passing it on to skorch."""
        try:
            return super().fit_loop(X, y, **params)
        except KeyboardInterrupt:
            # skorch's early stopping ends a training in the same way.
            self.interrupted = not any(
                isinstance(callback, EarlyStopping)
                and callback.misses_ == callback.patience
                for _, callback in self.callbacks_
            )
            raise

    def callback(self, name: str) -> Any:
        """Return one of the callbacks that `make_net` adds."""
        return dict(self.callbacks_)[name]


class RegressorNet(RegressorMixin, InterruptibleNet):
    """A net whose predictions, which callbacks may score, are its outputs."""


class ClassifierNet(ClassifierMixin, InterruptibleNet):
    """A net whose predictions, which callbacks may score, are codes of classes."""

    @property
    def classes_(self) -> np.ndarray:
        """Codes of the classes, or numbers of the labels."""
        return np.arange(self.module_.readout.out_features)

    def predict(self, X: Any) -> np.ndarray:
        """Codes of the most probable classes, or zeros and ones of several labels."""
        probabilities = self.predict_proba(X)
        if isinstance(self.criterion_, nn.BCEWithLogitsLoss):
            return (probabilities > 0.5).astype(np.int64)
        return probabilities.argmax(axis=1)


def _probabilities(criterion: nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
    """What turns the outputs of a classifier into probabilities."""
    if isinstance(criterion, nn.BCEWithLogitsLoss):
        return torch.sigmoid
    return functools.partial(torch.softmax, dim=-1)


@dataclass(frozen=True)
class TrainingPlan:
    """How a net is trained: the estimator's parameters, resolved.

    Attributes
    ----------
    optimizer : str or callable
        A key of `OPTIMIZERS`, or what makes a torch optimizer, such as its class.
    lr, weight_decay : float
        Of the optimizer; the rate is annealed to 0 over the epochs, unless a callback
        sets it.
    batch_size : int
        Rows per update.
    callbacks : list or None
        The user's skorch callbacks; copied, so that they stay as they were. Nets that
        go on with one another share their copies.
    device : str
        Where to train.
    holds : bool
        Whether `UpdateGuard` holds on to equilibria.
    verbose : int
        0: silent; 1: a progress bar; 2: a line per epoch instead.
    """

    optimizer: Any
    lr: float
    weight_decay: float
    batch_size: int
    callbacks: Any
    device: str
    holds: bool
    verbose: int


def make_net(
    module: FeaturesReadout,
    criterion: nn.Module,
    plan: TrainingPlan,
    generator: torch.Generator,
    *,
    progress: dict[str, Any] | None = None,
    own_callbacks: list[Any] | None = None,
) -> InterruptibleNet:
    """Initialised skorch net for a module.

    Parameters
    ----------
    module : FeaturesReadout
        What to train.
    criterion : nn.Module
        Loss of (outputs, targets).
    plan : TrainingPlan
        How to train.
    generator : torch.Generator
        Of the order of the rows.
    progress : dict, default=None
        What `training_progress` said of an earlier net of this module: its epochs, and
        the state of its optimizer unless that is another now.
    own_callbacks : list, default=None
        Those of an earlier net; None: copies of the plan's.

    Returns
    -------
    InterruptibleNet
        Ready for `train`.
    """
    if own_callbacks is None:
        own_callbacks = copy.deepcopy(list(plan.callbacks or []))
    scheduled = any(isinstance(as_callback(c), LRScheduler) for c in own_callbacks)
    callbacks: list[Any] = [
        ("annealing", Annealing(scheduled)),
        ("held_out", HeldOutStopping(patience=PATIENCE, load_best=True)),
        ("solver_record", SolverRecord()),
        *own_callbacks,
        ("progress", Progress()),
        # Last, to see the gradients as the optimizer will.
        ("guard", UpdateGuard(plan.holds)),
    ]
    is_regressor = isinstance(criterion, nn.MSELoss)
    optimizer, options = optimizer_options(plan.optimizer, plan.weight_decay)
    net = (RegressorNet if is_regressor else ClassifierNet)(
        module,
        criterion=criterion,
        predict_nonlinearity=None if is_regressor else _probabilities(criterion),
        optimizer=optimizer,
        **{f"optimizer__{name}": value for name, value in options.items()},
        lr=plan.lr,
        batch_size=plan.batch_size,
        iterator_train=Batches,
        iterator_train__shuffle=True,
        iterator_train__generator=generator,
        iterator_valid=Batches,
        train_split=None,
        callbacks=callbacks,
        device=plan.device,
        verbose=max(0, plan.verbose - 1),
        # Residuals are small.
        callbacks__print_log=EpochTable(floatfmt=".4g"),
    ).initialize()
    net.own_callbacks = own_callbacks
    if progress is not None:
        net.history.extend(progress["epochs"])
        if progress["optimizer_class"] == _class_name(net.optimizer_):
            settings = net.optimizer_.state_dict()["param_groups"]
            state = progress["optimizer"]
            net.optimizer_.load_state_dict({**state, "param_groups": settings})
    return net


def training_progress(net: InterruptibleNet) -> dict[str, Any]:
    """How far a net has come, for one that is to go on from there.

    Parameters
    ----------
    net : InterruptibleNet
        The net.

    Returns
    -------
    dict
        "epochs", the rows of its history without those of its batches;
        "optimizer_class" and "optimizer", its name and state.
    """
    return {
        "epochs": [{**row, "batches": []} for row in net.history],
        "optimizer_class": _class_name(net.optimizer_),
        "optimizer": net.optimizer_.state_dict(),
    }


def _class_name(instance: Any) -> str:
    kind = type(instance)
    return f"{kind.__module__}.{kind.__qualname__}"


def train(
    net: InterruptibleNet,
    X: np.ndarray,
    y: np.ndarray,
    epochs: int,
    *,
    anneal: bool = True,
    validation: Dataset | None = None,
    progress_bar: str | None = None,
) -> None:
    """Train for some epochs; a KeyboardInterrupt ends it and is noted in the net.

    Parameters
    ----------
    net : InterruptibleNet
        The net.
    X, y : ndarray
        Training rows and their targets.
    epochs : int
        Passes over them.
    anneal : bool, default=True
        Whether the learning rate falls to 0 over these epochs, or stays.
    validation : Dataset, default=None
        Validation set of early stopping; not kept in the net.
    progress_bar : str, default=None
        Title of a progress bar; None: none is shown.
    """
    net.interrupted = False
    data = Dataset(as_tensor(X), as_tensor(y))
    steps = epochs * -(-len(data) // net.batch_size) if anneal else 0
    net.callback("annealing").start(steps)
    net.train_split = None if validation is None else predefined_split(validation)
    device = torch.device(net.device)
    bar = tqdm(total=epochs, desc=progress_bar, unit="epoch", disable=not progress_bar)
    net.callback("progress").bar_ = bar
    # What callbacks and optimizers draw follows from the estimator's seed as well.
    with (
        bar,
        torch.random.fork_rng([device] if device.type == "cuda" else []),
        # The guard counts what these would say of every batch.
        solver_warnings(),
    ):
        # Another for every call that goes on.
        seed = net.iterator_train__generator.initial_seed() + len(net.history)
        # Not torch.manual_seed, which seeds every device.
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        try:
            net.partial_fit(data, y=None, epochs=epochs)
        except KeyboardInterrupt:
            # In a callback before the first epoch, or after the last one.
            net.interrupted = True
        finally:
            net.train_split = None
            net.callback("progress").bar_ = None


def check_outcome(net: InterruptibleNet, start_loss: float) -> str | None:
    """Judge a training by its weights, its gradients and its last loss.

    Parameters
    ----------
    net : InterruptibleNet
        After training.
    start_loss : float
        Loss of a readout of zeros.

    Returns
    -------
    str or None
        Advice if the loss rose instead of falling.

    Raises
    ------
    ValueError
        If a weight is not finite, or most gradients were not.
    """
    losses, guard = loss_curve(net), net.callback("guard")
    advice = "Lower lr, or scale X."
    if not all(bool(torch.isfinite(p).all()) for p in net.module_.parameters()):
        raise ValueError(
            f"Training diverged: weights are not finite after {len(losses)} epochs. "
            f"{advice}"
        )
    if 2 * guard.not_finite_ > guard.steps_:
        raise ValueError(
            f"Training diverged: {guard.not_finite_} of {guard.steps_} gradients were "
            f"not finite. {advice}"
        )
    if losses and not losses[-1] <= _RISE * start_loss:
        return (
            f"Training ended with a loss of {losses[-1]:.1e}, above the "
            f"{start_loss:.1e} it began with. {advice}"
        )
    return None


def loss_curve(net: NeuralNet) -> list[float]:
    """Training loss of every completed epoch."""
    return [
        float(row["train_loss"])
        for row in net.history
        if row.get("train_loss") is not None
    ]


def validation_outcome(net: InterruptibleNet) -> tuple[list[float], int | None]:
    """How the held-out rows of early stopping fared.

    Parameters
    ----------
    net : InterruptibleNet
        After a training with a validation set.

    Returns
    -------
    losses : list of float
        Of every completed epoch; nan for those of an earlier call without any.
    best : int or None
        Which of them, counted from 1, the weights are of; None if there is none.
    """
    rows = [row for row in net.history if row.get("train_loss") is not None]
    losses = [float(row.get("valid_loss", math.nan)) for row in rows]
    # An interruption may have come before the first epoch.
    kept = getattr(net.callback("held_out"), "best_epoch_", 0)
    numbers = [row["epoch"] for row in rows]
    return losses, 1 + numbers.index(kept) if kept in numbers else None


def in_blocks(
    body: nn.Module,
    X: np.ndarray,
    readout: tuple[np.ndarray, np.ndarray] | None = None,
) -> np.ndarray:
    """Evaluate a body on the rows of X, some at a time, without a graph.

    Parameters
    ----------
    body : nn.Module
        From rows to features.
    X : ndarray of shape (n, n_features)
        The rows.
    readout : tuple of ndarrays (n_outputs, m) and (n_outputs,), default=None
        Coefficients and intercept that follow; None: the features are asked for.

    Returns
    -------
    ndarray of shape (n, m) or (n, n_outputs)
        In the dtype of the body.
    """
    body.eval()
    weight = next(body.parameters())
    layer = [torch.as_tensor(part).to(weight) for part in readout or ()]
    blocks = []
    with torch.inference_mode():
        for start in range(0, X.shape[0], BLOCK):
            found = body(as_tensor(X[start : start + BLOCK]).to(weight.device))
            if layer:
                # Here and not in NumPy, whose threads would contend with torch's.
                found = nn.functional.linear(found, *layer)
            blocks.append(found.cpu().numpy())
    return blocks[0] if len(blocks) == 1 else np.concatenate(blocks)
