"""Training through skorch: the module, its batches, and a net that can be interrupted.

The only file that imports skorch.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from skorch import NeuralNet
from skorch.callbacks import EarlyStopping, LRScheduler
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
    early_stopping : bool
        Whether a validation set ends the training.
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
    early_stopping: bool
    callbacks: Any
    device: torch.device
    verbose: int


def make_net(
    module: FeaturesReadout,
    criterion: nn.Module,
    plan: TrainingPlan,
    n_samples: int,
    generator: torch.Generator,
    validation: Dataset | None,
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
    n_samples : int
        Training rows, which set the length of the schedule.
    generator : torch.Generator
        Of the order of the rows.
    validation : Dataset or None
        Validation set of early stopping.

    Returns
    -------
    InterruptibleNet
        Ready for `train`.
    """
    steps = plan.max_epochs * -(-n_samples // plan.batch_size)
    callbacks: list[Any] = [
        LRScheduler(
            policy=torch.optim.lr_scheduler.CosineAnnealingLR,
            T_max=max(1, steps),
            step_every="batch",
        )
    ]
    if plan.early_stopping:
        callbacks.append(EarlyStopping(patience=_PATIENCE, load_best=True))
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
        train_split=None if validation is None else predefined_split(validation),
        callbacks=callbacks,
        device=plan.device,
        verbose=plan.verbose,
    )
    return net.initialize()


def train(net: InterruptibleNet, X: np.ndarray, y: np.ndarray, epochs: int) -> None:
    """Train for some epochs; a KeyboardInterrupt ends it and is noted in the net."""
    net.interrupted = False
    net.partial_fit(Dataset(as_tensor(X), as_tensor(y)), y=None, epochs=epochs)


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
    "Batches",
    "FeaturesReadout",
    "InterruptibleNet",
    "TrainingPlan",
    "as_tensor",
    "in_blocks",
    "loss_curve",
    "make_net",
    "train",
]
