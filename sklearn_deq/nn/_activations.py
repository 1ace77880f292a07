"""Activations on tensors: native functions, or a table of a user's NumPy function."""

from __future__ import annotations

import importlib
import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from sklearn_deq._warnings import warn_of_solver
from sklearn_deq.theory import Activation, get_activation

# Range of the table, outside of which the function is continued linearly. Where that is
# not what it does, and unless it grows too fast, a wider table is for what is beyond.
_LIMIT, _WIDE_LIMIT = 16.0, 256.0
_LARGEST_VALUE = 1e12
_STEPS = (2**10, 2**12, 2**14, 2**16)
_TABLE_TOLERANCE = 1e-10
# Above this the table is warned of: a kink that was not declared has 1e-5 and more.
_POOR = 1e-6
# By which φ on tensors may differ from φ, relative to |φ(x)| or, where that is smaller,
# to what it is near 0.
_ALIKE = 1e-3


class TorchActivation:
    """Activation on tensors, with its derivative.

    Parameters
    ----------
    activation : Activation
        What to evaluate.

    Attributes
    ----------
    table_error : float
        Largest error of the table on [−16, 16], relative to |φ(x)| or, where that is
        smaller, to max |φ| on [−2, 2]; 0.0 where no table is used.

    Notes
    -----
    Where φ is not linear beyond ±16, another table is for arguments to ±256 (or twice
    the outermost kink), unless φ is above 1e12 there. Of what is beyond the last table
    there is a warning where φ is not linear there either.

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
        if self._function is not None:
            _check_torch_function(activation, self._function)
        else:
            self._table = _make_table(activation)
            self.table_error = self._table.error

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Evaluate φ; autograd can follow."""
        if self._table is not None:
            return self._table(x)
        return self._function(x)  # type: ignore[misc]

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
        if self._table is not None:
            return self._table.derivative(x.detach())
        own = self.activation.derivative
        # Only the package's own derivatives are known to take tensors: a user's takes
        # NumPy arrays.
        if own is not None and own.__module__.startswith("sklearn_deq."):
            return own(x.detach())  # type: ignore[no-any-return]
        with torch.enable_grad():
            point = x.detach().requires_grad_(True)
            (slope,) = torch.autograd.grad(self(point).sum(), point)
        return slope

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the resolved function: built-in ones do not always pickle."""
        return {**self.__dict__, "_function": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Resolve the function again."""
        self.__dict__.update(state)
        self._function = _torch_function(self.activation)


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

    Warns
    -----
    SolverWarning
        If a table is needed and its error is above 1e-6.

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
    if not isinstance(function, str):
        return function
    module, _, name = function.rpartition(".")
    try:
        found: Callable[[torch.Tensor], torch.Tensor]
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        # The latter two: dots at odd places.
        raise ValueError(f"There is no torch_function={function!r}: {error}") from error
    return found


def _check_torch_function(
    activation: Activation, function: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    """Refuse what cannot be used on tensors, and warn of another function than φ.

    What takes only some dtypes or shapes, as layers with parameters do, is not judged.
    """
    advice = "torch_function must take a tensor and return one"
    if isinstance(function, type):
        raise ValueError(
            f"{advice}, got the class {function.__name__}: give an instance, such as "
            "torch.nn.Tanh()."
        )
    if isinstance(function, np.ufunc) or not callable(function):
        kind = "NumPy's" if callable(function) else "no function"
        raise ValueError(f"{advice}, got {function!r}, which is {kind}.")
    points = np.linspace(-4.0, 4.0, 33).reshape(3, 11)
    for dtype in (torch.float64, torch.float32):
        # No leaf, so that a function in place is told from one that fails.
        leaf = torch.tensor(points, dtype=dtype, device="cpu", requires_grad=True)
        x = leaf * 1.0
        try:
            result = function(x)
            is_tensor = isinstance(result, torch.Tensor)
            # As lists: NumPy does not have all dtypes of torch.
            values = np.array(result.detach().tolist() if is_tensor else None)
        except Exception:
            continue
        if not torch.equal(x, leaf):
            raise ValueError(
                f"torch_function must leave its argument as it is, but {function!r} "
                "writes on it."
            )
        if values.shape != points.shape:
            shape = f"shape {values.shape}" if is_tensor else repr(type(result))
            raise ValueError(
                f"{advice} of the same shape, each element by itself, but {function!r} "
                f"returns {shape} for a tensor of shape {points.shape}."
            )
        _compare(activation, points, values)
        return


def _compare(activation: Activation, points: np.ndarray, values: np.ndarray) -> None:
    """Warn where values of the torch function are not those of φ."""
    with np.errstate(all="ignore"):
        expected = np.asarray(activation.function(points), dtype=float)
        # Not finite in the same way is no difference.
        same = (values == expected) | (np.isnan(values) & np.isnan(expected))
        gap = np.where(same, 0.0, np.abs(values - expected))
    size = np.nan_to_num(np.abs(expected), posinf=0.0)
    # Not 0 where φ is 0 near 0: float32 rounds there.
    floor = max(size[np.abs(points) <= 2.0].max(), 1e-3 * size.max())
    scale = np.maximum(size, floor)
    poor = ~(gap <= _ALIKE * scale)
    if poor.any():
        where = np.unravel_index(int(np.where(poor, gap, -1.0).argmax()), gap.shape)
        warn_of_solver(
            f"torch_function is not function: at {points[where]:.3g} it is "
            f"{values[where] + 0.0:.4g}, and function {expected[where]:.4g}. Networks "
            "are then of another activation than kernels and matches."
        )


class _Table:
    """Piecewise cubic table of a NumPy function, split at its kinks.

    Every piece between two kinks has a uniform grid of its own, so that no cubic
    crosses a kink; the grid is refined until the error between its points is small.
    All pieces lie in one array of coefficients, so that kinks cost little.
    """

    # Another table, for arguments beyond the limit; without it the function goes on
    # linearly, and it is said if φ does not. Here, for tables that were pickled before
    # there was a choice.
    far: _Table | None = None
    limit, warns_beyond, name = _LIMIT, False, ""

    def __init__(self, activation: Activation, limit: float) -> None:
        self.limit = limit
        # Beyond the first limit pieces of their own, whose grids may be coarser.
        joints = {*activation.kinks, -_LIMIT, _LIMIT}
        inner = sorted(joint for joint in joints if abs(joint) < self.limit)
        edges = np.array([-self.limit, *inner, self.limit])
        near = np.asarray(activation.function(np.linspace(-2, 2, 401)), dtype=float)
        floor = max(float(np.abs(near).max()), 1e-300)
        pieces, steps, errors = [], [], []
        for left, right in itertools.pairwise(edges):
            piece, error = _tabulate(activation, float(left), float(right), floor)
            pieces.append(piece)
            steps.append(piece.shape[1] + 2)
            errors.append(error)
        self.error, self.name = max(errors), str(activation)
        self.kinks = tuple(inner)
        self._arrays = {
            # (4, cells): a gather from each row of its own is what is fast.
            "coefficients": np.concatenate(pieces, axis=1),
            "left": edges[:-1],
            "density": np.array(steps) / np.diff(edges),
            # Cell c of a piece, 1 ≤ c ≤ steps − 2, is the row offset + c.
            "offset": np.cumsum([0, *(count - 2 for count in steps[:-1])]) - 1,
            "last": np.array(steps) - 2,
        }
        # With which the function goes on beyond the table.
        self.end_slopes = tuple(
            float(np.polyval([3 * c3, 2 * c2, c1], t) * density)
            for (_, c1, c2, c3), t, density in (
                (pieces[0][:, 0], -1.0, self._arrays["density"][0]),
                (pieces[-1][:, -1], 2.0, self._arrays["density"][-1]),
            )
        )
        self._on_device: dict[
            tuple[torch.dtype, torch.device], dict[str, torch.Tensor]
        ] = {}

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        # Where values cannot be looked at, the wide table serves for all.
        if self.far is not None and _exceeds(x, self.limit, unknown=True):
            return self.far(x)
        if self.warns_beyond and _exceeds(x, self.limit, unknown=False):
            self._warn_of_size(x.detach())
        bounded = x.clamp(-self.limit, self.limit)
        (c0, c1, c2, c3), t, _ = self._locate(bounded)
        value = c0 + t * (c1 + t * (c2 + t * c3))
        low, high = self.end_slopes
        beyond = x - bounded
        return value + beyond.clamp(max=0) * low + beyond.clamp(min=0) * high

    def derivative(self, x: torch.Tensor) -> torch.Tensor:
        """Slope at x: that of the ends outside of the table."""
        if self.far is not None and _exceeds(x, self.limit, unknown=True):
            return self.far.derivative(x)
        (_, c1, c2, c3), t, density = self._locate(x.clamp(-self.limit, self.limit))
        return (c1 + t * (2 * c2 + 3 * t * c3)) * density

    def _warn_of_size(self, x: torch.Tensor) -> None:
        size = float(x.abs().nan_to_num(0.0).max())
        warn_of_solver(
            f"{self.name} is tabulated to ±{self.limit:g} and taken as linear beyond, "
            f"but its arguments are up to {size:.3g}: scale X (StandardScaler), or "
            "give a torch_function (sklearn_deq.Activation(..., torch_function=...)).",
        )

    def _locate(
        self, x: torch.Tensor
    ) -> tuple[list[torch.Tensor], torch.Tensor, torch.Tensor]:
        """Coefficients of the cells of x, the places in them, cells per unit."""
        tensors = self._tensors(x)
        piece = torch.zeros_like(x, dtype=torch.long)
        for kink in self.kinks:
            piece = piece + (x.detach() >= kink).long()
        left, density, offset, last = (
            _pick(tensors[name], piece)
            for name in ("left", "density", "offset", "last")
        )
        position = (x - left) * density
        # Clamped as integers: NaN then has a cell, and stays NaN by its place in it.
        cell = torch.minimum(position.detach().long().clamp(min=1), last)
        row = cell + offset
        found = [_pick(column, row) for column in tensors["coefficients"]]
        return found, position - cell, density

    def _tensors(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """The arrays in the type and on the device of x, remembered."""
        key = (x.dtype, x.device)
        if key not in self._on_device:
            # Of use to autograd later, even when this is called in inference mode.
            with torch.inference_mode(False):
                self._on_device[key] = {
                    name: torch.tensor(
                        array,
                        dtype=x.dtype if array.dtype.kind == "f" else torch.long,
                        device=x.device,
                    )
                    for name, array in self._arrays.items()
                }
        return self._on_device[key]

    def __getstate__(self) -> dict[str, Any]:
        """Keep the NumPy arrays alone."""
        return {**self.__dict__, "_on_device": {}}


def _pick(values: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Elements of a vector; unlike ``values[index]``, of one number in vmap too."""
    return values.index_select(0, index.reshape(-1)).reshape(index.shape)


def _make_table(activation: Activation) -> _Table:
    """Table of a function, with another one for what is far out if it needs one."""
    table = _Table(activation, _LIMIT)
    if table.error > _POOR:
        warn_of_solver(
            f"The table of {activation} has a relative error of {table.error:.0e}. "
            "Declare its kinks (Activation(..., kinks=...)) or give a torch_function.",
        )
    outermost = max(map(abs, activation.kinks), default=0.0)
    if outermost < _LIMIT and _goes_on(activation, table):
        return table
    # A table knows nothing of a kink at its limit.
    limit = max(_WIDE_LIMIT, 2.0 * outermost)
    with np.errstate(all="ignore"):
        ends = np.asarray(activation.function(np.array([-limit, limit])), dtype=float)
    if np.abs(ends).max() <= _LARGEST_VALUE:
        far = _Table(activation, limit)
        if far.error <= _POOR:
            far.warns_beyond = not _goes_on(activation, far)
            table.far = far
            return table
    table.warns_beyond = True
    return table


def _goes_on(activation: Activation, table: _Table) -> bool:
    """Whether φ goes on as the table does beyond its limit, as far as it is finite."""
    beyond = table.limit * np.geomspace(1.0, 256.0, 33)[1:]
    sides = np.stack([-beyond, beyond])
    found = table(torch.tensor(sides, device="cpu")).numpy()
    with np.errstate(all="ignore"):
        values = np.asarray(activation.function(sides), dtype=float)
        same = np.abs(found - values) <= _POOR * (1.0 + np.abs(values))
    # Overflow far out is no curvature.
    same[:, 1:] |= ~np.isfinite(values[:, 1:])
    return bool(same.all())


def _exceeds(x: torch.Tensor, limit: float, *, unknown: bool) -> bool:
    """Whether arguments are beyond a limit; unknown where they are only traced."""
    if torch.compiler.is_compiling() or x.is_meta:
        return unknown
    try:
        return bool((x.detach().abs() > limit).any())
    except RuntimeError:
        # Of vmap and its like.
        return unknown


def _tabulate(
    activation: Activation, left: float, right: float, floor: float
) -> tuple[np.ndarray, float]:
    """Coefficients (4, cells) of cubics on [left, right], and the error between nodes.

    The error is relative to |φ|, or to `floor` where |φ| is smaller.
    """
    for steps in _STEPS:
        grid = np.linspace(left, right, steps + 1)
        middle = 0.5 * (grid[1:] + grid[:-1])
        # One-sided values at a kink.
        grid[0], grid[-1] = np.nextafter(left, right), np.nextafter(right, left)
        coefficients = _cubics(np.asarray(activation.function(grid), dtype=float))
        exact = np.asarray(activation.function(middle), dtype=float)
        node = np.arange(steps)
        cell = np.clip(node, 1, steps - 2)
        t = node + 0.5 - cell
        c0, c1, c2, c3 = coefficients[:, cell - 1]
        found = c0 + t * (c1 + t * (c2 + t * c3))
        error = np.max(np.abs(found - exact) / np.maximum(np.abs(exact), floor))
        if error <= _TABLE_TOLERANCE:
            break
    return coefficients, float(error) if np.isfinite(error) else math.inf


def _cubics(values: np.ndarray) -> np.ndarray:
    """Lagrange's cubics through four nodes at t = −1, 0, 1, 2, as powers of t."""
    before, here, after, beyond = (values[k : len(values) - 3 + k] for k in range(4))
    return np.stack(
        [
            here,
            after - here / 2 - before / 3 - beyond / 6,
            (before + after) / 2 - here,
            (here - after) / 2 + (beyond - before) / 6,
        ]
    )
