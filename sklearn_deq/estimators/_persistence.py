"""What is kept of torch objects in a file: NumPy arrays and plain values."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from sklearn_deq._warnings import warn
from sklearn_deq.kernels._samples import resolve_device


def to_plain(value: Any) -> Any:
    """Turn tensors into arrays, in dictionaries, lists and tuples as well.

    Parameters
    ----------
    value : object
        Such as the state of a module or of an optimizer.

    Returns
    -------
    object
        The same, with arrays on the CPU; dictionaries are plain ones.
    """
    if isinstance(value, torch.Tensor):
        return value.detach().cpu().numpy()
    if isinstance(value, dict):
        return {key: to_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        items = [to_plain(item) for item in value]
        return items if isinstance(value, list) else tuple(items)
    return value


def to_tensors(value: Any) -> Any:
    """Turn arrays back into tensors; the reverse of `to_plain`.

    Parameters
    ----------
    value : object
        What `to_plain` returned.

    Returns
    -------
    object
        The same, with tensors that share no memory with the arrays.
    """
    if isinstance(value, np.ndarray):
        return torch.tensor(value)
    if isinstance(value, dict):
        return {key: to_tensors(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        items = [to_tensors(item) for item in value]
        return items if isinstance(value, list) else tuple(items)
    return value


def restore_generator(state: np.ndarray) -> torch.Generator:
    """Return a generator in the state that an array holds.

    Parameters
    ----------
    state : ndarray of uint8
        Of ``torch.Generator.get_state``.

    Returns
    -------
    torch.Generator
        It goes on where the other was.
    """
    return torch.Generator().set_state(torch.tensor(state))


def device_at_hand(name: str) -> str:
    """Return the device of a saved model if this machine has it, else the CPU.

    Parameters
    ----------
    name : str
        A torch device.

    Returns
    -------
    str
        Where the model can be.

    Warns
    -----
    UserWarning
        If that is another device.
    """
    try:
        return str(resolve_device(name))
    except ValueError:
        warn(
            f"The model was saved on the device {name!r}, which this machine lacks: it "
            "is loaded to the CPU. Set device='cpu' to train it on.",
        )
        return "cpu"
