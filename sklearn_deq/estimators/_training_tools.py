"""Optimizers and callbacks that the user gives, and what is refused of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from skorch.callbacks import Callback, EpochScoring
from torch import nn

OPTIMIZERS = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "sgd": torch.optim.SGD,
}


def optimizer_options(
    optimizer: Any, weight_decay: float
) -> tuple[Callable[..., Any], dict[str, Any]]:
    """What makes an optimizer, and with what beside parameters and rate."""
    if isinstance(optimizer, str):
        # Fused ones go over memory once.
        options = {"weight_decay": weight_decay, "fused": True}
        return OPTIMIZERS[optimizer], options
    known = inspect.signature(optimizer).parameters
    if "weight_decay" in known or weight_decay:
        return optimizer, {"weight_decay": weight_decay}
    return optimizer, {}


def check_training_tools(
    optimizer: Any, weight_decay: float, callbacks: Any, *, held_out: bool
) -> None:
    """Refuse optimizers and callbacks that torch and skorch could not use.

    Parameters
    ----------
    optimizer : str or callable
        A key of `OPTIMIZERS`, or what makes a torch optimizer.
    weight_decay : float
        What the optimizer is to be made with.
    callbacks : list or None
        skorch callbacks, or pairs of a name and one.
    held_out : bool
        Whether there are rows to validate on.

    Raises
    ------
    ValueError
        If either is of another kind.
    """
    _try_optimizer(optimizer, weight_decay)
    for item in callbacks or []:
        callback = as_callback(item)
        if not isinstance(callback, Callback):
            raise ValueError(
                "callbacks must hold skorch callbacks, or pairs of a name and one, "
                f"got {item!r}."
            )
        monitor = getattr(callback, "monitor", None)
        if not held_out and isinstance(monitor, str) and monitor.startswith("valid"):
            raise ValueError(
                f"The callback {type(callback).__name__} monitors {monitor!r}, which "
                "needs held-out samples: set early_stopping=True to hold some out, or "
                "give it monitor='train_loss'."
            )
        scores = isinstance(callback, EpochScoring) and not callback.on_train
        if scores and not held_out:
            raise ValueError(
                f"The callback {type(callback).__name__} scores held-out samples: set "
                "early_stopping=True to hold some out, or give it on_train=True."
            )


def as_callback(item: Any) -> Any:
    """The callback of what skorch takes for one; the item itself if it is none."""
    callback = item[1] if isinstance(item, tuple) and len(item) == 2 else item
    if isinstance(callback, type) and issubclass(callback, Callback):
        return callback()
    return callback


def _try_optimizer(optimizer: Any, weight_decay: float) -> None:
    """Refuse what cannot make an update of a matrix and a vector."""
    if isinstance(optimizer, str) and optimizer in OPTIMIZERS:
        return
    allowed = (
        f"optimizer must be one of {sorted(OPTIMIZERS)}, a torch optimizer class, or a "
        "function of a list of one parameter group and of lr that makes one, such as "
        "functools.partial(torch.optim.SGD, momentum=0.9)"
    )
    fixed = {"lr", "weight_decay"} & set(getattr(optimizer, "keywords", None) or ())
    if fixed:
        raise ValueError(f"{allowed}; set {sorted(fixed)} on the estimator.")
    parameters = [nn.Parameter(torch.zeros(2, 2)), nn.Parameter(torch.zeros(2))]
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    try:
        make, options = optimizer_options(optimizer, weight_decay)
        # As skorch gives them.
        made = make([{"params": parameters}], lr=0.1, **options)
        made.step(lambda: torch.zeros(()))
        usable = isinstance(made, torch.optim.Optimizer)
    except Exception as error:
        raise ValueError(
            f"{allowed}, got {optimizer!r}, which fails with weight_decay="
            f"{weight_decay}: {error}"
        ) from error
    if not usable:
        raise ValueError(f"{allowed}, got {optimizer!r}.")
