"""Activations on tensors: native functions, or a table of a user's NumPy function."""

from __future__ import annotations

import importlib
from collections.abc import Callable

import numpy as np
import torch

from sklearn_deq.theory import Activation, get_activation

# Range of the table, outside of which the function is continued linearly.
_LIMIT = 16.0
_STEPS = (2**10, 2**12, 2**14, 2**16)
_TABLE_TOLERANCE = 1e-10


class TorchActivation:
    """Activation on tensors, with its derivative.

    Parameters
    ----------
    activation : Activation
        What to evaluate.

    Attributes
    ----------
    table_error : float
        Largest error of the table relative to max |φ| on [−16, 16]; 0.0 where no
        table is used.

    Examples
    --------
    >>> import torch
    >>> from sklearn_deq.nn import TorchActivation
    >>> from sklearn_deq.theory import get_activation
    >>> TorchActivation(get_activation("tanh")).derivative(torch.zeros(1))
    tensor([1.])
    """

    def __init__(self, activation: Activation) -> None:
        self.activation = activation
        self.table_error = 0.0
        self._table: _Table | None = None
        self._function = _torch_function(activation)
        if self._function is None:
            self._table = _Table(activation)
            self.table_error = self._table.error

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Evaluate φ; autograd can follow."""
        if self._table is not None:
            return self._table(x)
        function = self._function or _torch_function(self.activation)
        return function(x)  # type: ignore[misc]

    def derivative(self, x: torch.Tensor) -> torch.Tensor:
        """Evaluate φ' at x, without a graph.

        Parameters
        ----------
        x : tensor
            Where.

        Returns
        -------
        tensor
            The slope at x.
        """
        if self._table is None and self.activation.derivative is not None:
            try:
                value = self.activation.derivative(x.detach())
            except TypeError:
                value = None
            if isinstance(value, torch.Tensor):
                return value
        with torch.enable_grad():
            point = x.detach().requires_grad_(True)
            (slope,) = torch.autograd.grad(self(point).sum(), point)
        return slope

    def __getstate__(self) -> dict[str, object]:
        """Leave out the resolved function: built-in ones do not always pickle."""
        return {**self.__dict__, "_function": None}


def torch_activation(
    activation: str | Activation | Callable[..., object],
) -> TorchActivation:
    """Return an activation as a function of tensors.

    Parameters
    ----------
    activation : str, Activation or callable
        The activation. With a ``torch_function`` that is used, else a table of
        ``function`` made once, whose error is kept in ``table_error``.

    Returns
    -------
    TorchActivation
        A picklable callable with a ``derivative`` method.

    Examples
    --------
    >>> import torch
    >>> from sklearn_deq.nn import torch_activation
    >>> phi = torch_activation("relu")
    >>> phi(torch.tensor([-1.0, 2.0]))
    tensor([0., 2.])
    """
    return TorchActivation(get_activation(activation))


def _torch_function(
    activation: Activation,
) -> Callable[[torch.Tensor], torch.Tensor] | None:
    """Resolve the torch function of an activation: a callable, or a dotted name."""
    function = activation.torch_function
    if isinstance(function, str):
        module, _, name = function.rpartition(".")
        return getattr(importlib.import_module(module), name)  # type: ignore[no-any-return]
    return function


class _Table:
    """Piecewise cubic table of a NumPy function, split at its kinks.

    Every piece between two kinks has a uniform grid of its own, so that no cubic
    crosses a kink; the grid is refined until the error between its points is small.
    """

    def __init__(self, activation: Activation) -> None:
        inner = [kink for kink in activation.kinks if abs(kink) < _LIMIT]
        self.edges = np.array([-_LIMIT, *inner, _LIMIT])
        self.values: list[np.ndarray] = []
        self.error = 0.0
        for left, right in zip(self.edges[:-1], self.edges[1:], strict=True):
            values, error = _tabulate(activation, float(left), float(right))
            self.values.append(values)
            self.error = max(self.error, error)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        out = torch.zeros_like(x)
        last = len(self.values) - 1
        for k, values in enumerate(self.values):
            left, right = float(self.edges[k]), float(self.edges[k + 1])
            inside = torch.ones_like(x, dtype=torch.bool)
            if k > 0:
                inside &= x >= left
            if k < last:
                inside &= x < right
            out = torch.where(inside, _interpolate(values, left, right, x), out)
        return out


def _tabulate(
    activation: Activation, left: float, right: float
) -> tuple[np.ndarray, float]:
    """Values on a uniform grid just inside [left, right], and the error between."""
    for steps in _STEPS:
        grid = np.linspace(left, right, steps + 1)
        # One-sided values at a kink.
        grid[0], grid[-1] = np.nextafter(left, right), np.nextafter(right, left)
        values = np.asarray(activation.function(grid), dtype=float)
        middle = 0.5 * (grid[1:] + grid[:-1])
        exact = np.asarray(activation.function(middle), dtype=float)
        found = _interpolate(values, left, right, torch.from_numpy(middle)).numpy()
        error = float(np.abs(found - exact).max() / max(np.abs(values).max(), 1e-300))
        if error <= _TABLE_TOLERANCE:
            break
    return values, error


def _interpolate(
    values: np.ndarray, left: float, right: float, x: torch.Tensor
) -> torch.Tensor:
    """Cubic Lagrange interpolation, continued linearly outside of [left, right]."""
    table = torch.as_tensor(values, dtype=x.dtype, device=x.device)
    steps = table.numel() - 1
    position = (x - left) * (steps / (right - left))
    bounded = position.clamp(0.0, float(steps))
    cell = bounded.detach().floor().clamp(1, steps - 2).long()
    t = bounded - cell
    before, here, after, beyond = (table[cell + k] for k in (-1, 0, 1, 2))
    value = (
        -t * (t - 1) * (t - 2) / 6 * before
        + (t + 1) * (t - 1) * (t - 2) / 2 * here
        - (t + 1) * t * (t - 2) / 2 * after
        + (t + 1) * t * (t - 1) / 6 * beyond
    )
    slope = torch.where(position < 0, table[1] - table[0], table[-1] - table[-2])
    return value + slope * (position - bounded)
