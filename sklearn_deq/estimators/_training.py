"""Training through skorch: the module, its batches, and a net that can be interrupted.

The only file that imports skorch.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from skorch import NeuralNet
from skorch.callbacks import Callback, EarlyStopping
from skorch.dataset import Dataset
from skorch.helper import predefined_split
from torch import nn
from torch.nn.utils import skip_init

OPTIMIZERS = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "sgd": torch.optim.SGD,
}
# Rows evaluated at once outside of training.
BLOCK = 1024
# Epochs without improvement of the validation loss that end an early-stopped fit.
_PATIENCE = 10
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
        for rows in order.split(self.batch_size):
            yield self.dataset.X[rows], self.dataset.y[rows]

    def __len__(self) -> int:
        return -(-len(self.dataset) // self.batch_size)


class WeightedCrossEntropy(nn.Module):
    """Cross-entropy with class weights relative to their mean on the training rows.

    torch divides by the weights of the batch instead, which gives a rare class its full
    say in every batch where the others are missing.

    Parameters
    ----------
    weight : tensor of shape (n_classes,)
        Weights of the classes, whose mean over the training rows is one.
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


class Annealing(Callback):
    """Anneal the learning rate to 0 along a cosine, once over every call of `train`.

    Parameters
    ----------
    lr : float
        Rate at the start.
    """

    def __init__(self, lr: float) -> None:
        self.lr = lr
        self.steps_ = 0
        self.step_ = 0

    def start(self, steps: int) -> None:
        """Begin anew, to end after so many steps; 0 keeps the rate as it is."""
        self.steps_, self.step_ = steps, 0

    def on_batch_begin(self, net: NeuralNet, training: bool = False, **_: Any) -> None:
        """Set the rate of the update."""
        if not training:
            return
        rate = self.lr
        if self.steps_:
            rate *= 0.5 * (1.0 + math.cos(math.pi * self.step_ / self.steps_))
        for group in net.optimizer_.param_groups:
            group["lr"] = rate
        self.step_ += 1


class HeldOutStopping(EarlyStopping):
    """Early stopping in those calls of `train` that have a validation set."""

    def on_epoch_end(self, net: NeuralNet, **params: Any) -> None:
        """Look at the validation loss, if there is one."""
        if net.train_split is not None:
            super().on_epoch_end(net, **params)


class InterruptibleNet(NeuralNet):
    """A skorch net that stabilises its body and remembers a KeyboardInterrupt."""

    interrupted = False

    def train_step(self, batch: Any, **params: Any) -> Any:
        """One update, and what the body does to stay well-posed after it."""
        step = super().train_step(batch, **params)
        stabilize = getattr(self.module_.body, "stabilize", None)
        if stabilize is not None:
            stabilize()
        return step

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


@dataclass(frozen=True)
class TrainingPlan:
    """How a net is trained: the estimator's parameters, resolved.

    Attributes
    ----------
    optimizer : str or type
        A key of `OPTIMIZERS` or a torch optimizer class.
    lr, weight_decay : float
        Of the optimizer; the rate is annealed to 0 over the epochs.
    max_epochs, batch_size : int
        Length of the training.
    callbacks : list or None
        The user's skorch callbacks; copied, so that they stay as they were.
    device : torch.device
        Where to train.
    verbose : int
        0: silent.
    """

    optimizer: Any
    lr: float
    weight_decay: float
    max_epochs: int
    batch_size: int
    callbacks: Any
    device: torch.device
    verbose: int


def make_net(
    module: FeaturesReadout,
    criterion: nn.Module,
    plan: TrainingPlan,
    generator: torch.Generator,
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

    Returns
    -------
    InterruptibleNet
        Ready for `train`.
    """
    callbacks: list[Any] = [("annealing", Annealing(plan.lr))]
    callbacks.append(HeldOutStopping(patience=_PATIENCE, load_best=True))
    callbacks += copy.deepcopy(list(plan.callbacks or []))
    optimizer = plan.optimizer
    net = InterruptibleNet(
        module,
        criterion=criterion,
        optimizer=OPTIMIZERS.get(optimizer, optimizer)
        if isinstance(optimizer, str)
        else optimizer,
        optimizer__weight_decay=plan.weight_decay,
        lr=plan.lr,
        max_epochs=plan.max_epochs,
        batch_size=plan.batch_size,
        iterator_train=Batches,
        iterator_train__shuffle=True,
        iterator_train__generator=generator,
        iterator_valid=Batches,
        train_split=None,
        callbacks=callbacks,
        device=plan.device,
        verbose=plan.verbose,
    )
    return net.initialize()


def train(
    net: InterruptibleNet,
    X: np.ndarray,
    y: np.ndarray,
    epochs: int,
    *,
    anneal: bool = True,
    validation: Dataset | None = None,
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
    """
    net.interrupted = False
    data = Dataset(as_tensor(X), as_tensor(y))
    steps = epochs * -(-len(data) // net.batch_size) if anneal else 0
    dict(net.callbacks_)["annealing"].start(steps)
    net.train_split = None if validation is None else predefined_split(validation)
    device = torch.device(net.device)
    # What callbacks and optimizers draw follows from the estimator's seed as well.
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(net.iterator_train__generator.initial_seed())
        try:
            net.partial_fit(data, y=None, epochs=epochs)
        finally:
            net.train_split = None


def check_training_tools(optimizer: Any, callbacks: Any) -> None:
    """Refuse optimizers and callbacks that torch and skorch could not use.

    Parameters
    ----------
    optimizer : str or type
        A key of `OPTIMIZERS` or a torch optimizer class.
    callbacks : list or None
        skorch callbacks, or pairs of a name and one.

    Raises
    ------
    ValueError
        If either is of another kind.
    """
    is_class = isinstance(optimizer, type)
    if not isinstance(optimizer, str) and not (
        is_class and issubclass(optimizer, torch.optim.Optimizer)
    ):
        raise ValueError(
            f"optimizer must be one of {sorted(OPTIMIZERS)} or a class derived from "
            f"torch.optim.Optimizer, got {optimizer!r}."
        )
    for item in callbacks or []:
        callback = item[1] if isinstance(item, tuple) and len(item) == 2 else item
        if isinstance(callback, type):
            is_callback = issubclass(callback, Callback)
        else:
            is_callback = isinstance(callback, Callback)
        if not is_callback:
            raise ValueError(
                "callbacks must hold skorch callbacks, or pairs of a name and one, "
                f"got {item!r}."
            )


def check_outcome(net: NeuralNet, start_loss: float) -> str | None:
    """Judge a training by its weights and its last loss.

    Parameters
    ----------
    net : NeuralNet
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
        If a weight is not finite.
    """
    losses = loss_curve(net)
    last = losses[-1] if losses else float("nan")
    advice = "Lower lr, or scale X."
    if not all(bool(torch.isfinite(p).all()) for p in net.module_.parameters()):
        raise ValueError(
            f"Training diverged: weights are not finite after {len(losses)} epochs. "
            f"{advice}"
        )
    if losses and not last <= _RISE * start_loss:
        return (
            f"Training ended with a loss of {last:.1e}, above the {start_loss:.1e} it "
            f"began with. {advice}"
        )
    return None


def loss_curve(net: NeuralNet) -> list[float]:
    """Training loss of every completed epoch."""
    return [
        float(row["train_loss"])
        for row in net.history
        if row.get("train_loss") is not None
    ]


def as_tensor(X: np.ndarray) -> torch.Tensor:
    """Tensor of an array: torch wants it writeable and with positive strides."""
    return torch.from_numpy(np.require(X, requirements=["C", "W", "A"]))


def in_blocks(module: nn.Module, X: np.ndarray, device: torch.device) -> np.ndarray:
    """Evaluate a module on the rows of X, some at a time, without a graph."""
    module.eval()
    with torch.inference_mode():
        blocks = [
            module(as_tensor(X[start : start + BLOCK]).to(device)).cpu().numpy()
            for start in range(0, X.shape[0], BLOCK)
        ]
    return np.concatenate(blocks)


__all__ = [
    "BLOCK",
    "OPTIMIZERS",
    "Annealing",
    "Batches",
    "FeaturesReadout",
    "InterruptibleNet",
    "TrainingPlan",
    "WeightedCrossEntropy",
    "as_tensor",
    "check_outcome",
    "check_training_tools",
    "in_blocks",
    "loss_curve",
    "make_net",
    "train",
]
