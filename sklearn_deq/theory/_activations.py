"""Activations: the built-in ones and a user's own.

This is the one place where an activation is added: an entry of `ACTIVATIONS`. All that
has no closed form follows from ``function`` and ``kinks`` by quadrature and series.
The built-in functions are written on the array namespace of their input, so that the
same line serves NumPy arrays and torch tensors.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import pi, sqrt
from typing import Any

import numpy as np
from array_api_compat import array_namespace

from sklearn_deq.theory import _closed_forms as closed_forms
from sklearn_deq.theory._checks import did_you_mean
from sklearn_deq.theory._closed_forms import special

Array = Any
ArrayFunction = Callable[..., Any]


@dataclass(frozen=True)
class Activation:
    """An activation function φ and what the theory needs to know of it.

    Parameters
    ----------
    function : callable
        φ, elementwise on NumPy arrays.
    derivative : callable or None, default=None
        φ', elementwise. Without it Stein's identities and finite differences serve.
    kinks : tuple of float, default=()
        Points where φ or one of its derivatives jumps. Quadrature is split there; a
        kink that is not declared costs accuracy, not correctness.
    torch_function : callable, str or None, default=None
        φ on torch tensors, or its dotted name such as ``"torch.tanh"``. Without it the
        networks evaluate a table of ``function`` with a stated error.
    name : str or None, default=None
        Name to show.
    dual : callable or None, default=None
        Closed form ``dual(q1, q2, c, derivative)`` of E[φ(u)φ(v)] (of E[φ'(u)φ'(v)]
        with ``derivative=True``), if there is one.

    See Also
    --------
    sklearn_deq.theory.get_activation : Activation of a given name.

    Notes
    -----
    What is made for an activation is remembered by it, so that its functions must not
    change. A bare callable may (an instance whose parameter is set anew) between calls
    of what computes kernels: an `Activation` is made of it every time, and told from
    former ones by its values at some points up to a thousand. A fitted estimator keeps
    the callable itself, and what it learnt of it (coefficients, weights): leave the
    function alone from then on, or fit again.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_deq import Activation
    >>> from sklearn_deq.theory import equilibrium_moments
    >>> swish = Activation(lambda x: x / (1 + np.exp(-2 * x)), name="swish2")
    >>> moments = equilibrium_moments(swish)
    >>> round(float(moments.tau_star), 4)
    0.927
    """

    function: ArrayFunction
    derivative: ArrayFunction | None = None
    kinks: tuple[float, ...] = ()
    torch_function: ArrayFunction | str | None = None
    name: str | None = None
    dual: ArrayFunction | None = None
    # Of φ and φ' at some points, so that functions that changed do not compare equal.
    _values: bytes = field(default=b"", init=False, repr=False)

    def __post_init__(self) -> None:
        """Refuse what cannot be an activation, in words."""
        if not callable(self.function):
            raise ValueError(
                f"function must be a callable of an array, got {self.function!r}."
            )
        for name in ("derivative", "dual"):
            value = getattr(self, name)
            if value is not None and not callable(value):
                raise ValueError(f"{name} must be a callable or None, got {value!r}.")
        torch_function = self.torch_function
        if not (torch_function is None or callable(torch_function)):
            module, _, name = str(torch_function).rpartition(".")
            if not (isinstance(torch_function, str) and module and name):
                raise ValueError(
                    "torch_function must be a callable, its dotted name such as "
                    f"'torch.tanh', or None, got {torch_function!r}."
                )
        try:
            # Once each: between equal ones there is nothing.
            kinks = tuple(sorted({float(kink) for kink in self.kinks}))
        except (TypeError, ValueError):
            kinks = (float("nan"),)
        if isinstance(self.kinks, str) or not all(np.isfinite(kinks)):
            raise ValueError(
                f"kinks must be a tuple of finite numbers, got {self.kinks!r}."
            )
        object.__setattr__(self, "kinks", kinks)
        object.__setattr__(self, "_values", _known_values(self))
        _check_derivative(self)

    def __getstate__(self) -> dict[str, Any]:
        """All but the values, whose last bits are those of a machine."""
        return {name: value for name, value in vars(self).items() if name != "_values"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore, with the values that the functions have here and now."""
        vars(self).update(state)
        try:
            values = _known_values(self)
        except Exception:
            # Of functions that fail: whoever calls them says so.
            values = b""
        object.__setattr__(self, "_values", values)

    def __str__(self) -> str:
        """Name of the activation, or that of its function."""
        return self.name or str(getattr(self.function, "__name__", "activation"))


# Where functions are looked at, at once and closer: few are the same there and not
# elsewhere. At 0 by itself, where some have no value.
_POINTS = np.linspace(-9.75, 9.75, 40).reshape(2, -1)
_MORE_POINTS = (np.zeros(1), np.geomspace(1e-6, 0.25, 16), np.geomspace(10.0, 1e3, 16))


def _known_values(activation: Activation) -> bytes:
    """Values of φ and φ' at some points; a ValueError if they are not elementwise."""
    values = [
        _checked_values(getattr(activation, name), name)
        for name in ("function", "derivative")
        if getattr(activation, name) is not None
    ]
    more = [_more_values(activation.function, points) for points in _MORE_POINTS]
    return np.array(values).tobytes() + b"".join(more)


def _checked_values(function: ArrayFunction, name: str) -> np.ndarray:
    """Values at some points, of which each must be of its own element alone."""
    points, other = _POINTS.copy(), _POINTS.copy()
    other[0, 0] = 1.0
    advice = (
        f"{name} must take a NumPy array and return one number for each element (say "
        "np.tanh, not math.tanh; np.full_like(x, 1.0), not 1.0; one of torch is the "
        "torch_function of an Activation)"
    )
    try:
        with np.errstate(all="ignore"):
            values = np.asarray(function(points), dtype=float)
            moved = np.asarray(function(other), dtype=float)
    except (TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise ValueError(
            f"{advice}; {function!r} fails on one: {error}. np.vectorize makes an "
            "elementwise function of one of numbers."
        ) from error
    if values.shape != points.shape:
        raise ValueError(
            f"{advice}; {function!r} returns shape {values.shape} for an array of "
            f"shape {points.shape}."
        )
    # A layer made for a kernel may treat elements differently, but each by itself.
    if not np.array_equal(moved.flat[1:], values.flat[1:], equal_nan=True):
        raise ValueError(
            f"{name} must treat each element by itself, but {function!r} gives other "
            "values for the rest of an array where one element is another."
        )
    return values


def _more_values(function: ArrayFunction, points: np.ndarray) -> bytes:
    """Values at points of both signs, as bytes; none where they cannot be had."""
    try:
        with np.errstate(all="ignore"):
            both = np.stack([-points, points])
            return np.asarray(function(both), dtype=float).tobytes()
    except Exception:
        return b""


# Where a derivative is compared with differences: points, and half their step.
_DERIVATIVE_POINTS = np.linspace(-3.05, 2.95, 61)
_DERIVATIVE_STEP = 1e-3


def _check_derivative(activation: Activation) -> None:
    """Raise a ValueError if the derivative is another function's.

    A tenth of the points may differ, as beside kinks that are not declared.
    """
    if activation.derivative is None:
        return
    x, step = _DERIVATIVE_POINTS, _DERIVATIVE_STEP
    with np.errstate(all="ignore"):
        given = np.asarray(activation.derivative(x), dtype=float)
        upper, lower = (
            np.asarray(activation.function(x + h), dtype=float) for h in (step, -step)
        )
        difference = (upper - lower) / (2.0 * step)
        size = np.maximum(np.abs(difference), np.nanmean(np.abs(difference)))
        # Of values that are large beside their differences these are rounding alone.
        rounding = 4.0 * np.finfo(float).eps * np.abs(upper) / step
        # NaN is spoken of where φ is used.
        bound = 0.02 * np.maximum(size, 1e-3) + rounding
        wrong = np.abs(given - difference) > bound
    if wrong.mean() > 0.1:
        where = int(np.abs(given - difference).argmax())
        raise ValueError(
            f"derivative is not that of function: at {x[where]:.3g} it is "
            f"{given[where]:.4g}, but differences of function give "
            f"{difference[where]:.4g}. Leave derivative out if in doubt."
        )


def _identity(x: Array) -> Array:
    return x


def _one(x: Array) -> Array:
    return array_namespace(x).ones_like(x)


def _relu(x: Array) -> Array:
    xp = array_namespace(x)
    return xp.where(x > 0, x, xp.zeros_like(x))


def _step(x: Array) -> Array:
    xp = array_namespace(x)
    return xp.astype(x > 0, x.dtype)


_LEAK = 0.01


def _leaky_relu(x: Array) -> Array:
    return array_namespace(x).where(x > 0, x, _LEAK * x)


def _leaky_step(x: Array) -> Array:
    return _LEAK + (1.0 - _LEAK) * _step(x)


def _tanh(x: Array) -> Array:
    return array_namespace(x).tanh(x)


def _tanh_derivative(x: Array) -> Array:
    value = _tanh(x)
    return (1.0 - value) * (1.0 + value)


def _erf(x: Array) -> Array:
    return special("erf", x)


def _erf_derivative(x: Array) -> Array:
    return (2 / sqrt(pi)) * array_namespace(x).exp(-x * x)


def _gelu(x: Array) -> Array:
    return x * special("ndtr", x)


def _gelu_derivative(x: Array) -> Array:
    density = array_namespace(x).exp(-0.5 * x * x) / sqrt(2 * pi)
    return special("ndtr", x) + x * density


def _sigmoid(x: Array) -> Array:
    # No overflow, and several times faster than expit.
    xp = array_namespace(x)
    small = xp.exp(-xp.abs(x))
    return xp.where(x > 0, xp.ones_like(x), small) / (1.0 + small)


def _sigmoid_derivative(x: Array) -> Array:
    return _sigmoid(x) * _sigmoid(-x)


def _silu(x: Array) -> Array:
    return x * _sigmoid(x)


def _silu_derivative(x: Array) -> Array:
    return _sigmoid(x) * (1.0 + x * _sigmoid(-x))


def _negative_part(x: Array) -> Array:
    xp = array_namespace(x)
    return xp.where(x < 0, x, xp.zeros_like(x))


def _elu(x: Array) -> Array:
    return _relu(x) + array_namespace(x).expm1(_negative_part(x))


def _elu_derivative(x: Array) -> Array:
    return array_namespace(x).exp(_negative_part(x))


def _softplus(x: Array) -> Array:
    xp = array_namespace(x)
    return _relu(x) + xp.log1p(xp.exp(-xp.abs(x)))


def _sin(x: Array) -> Array:
    return array_namespace(x).sin(x)


def _cos(x: Array) -> Array:
    return array_namespace(x).cos(x)


ACTIVATIONS: dict[str, Activation] = {
    activation.name: activation  # type: ignore[misc]
    for activation in (
        Activation(
            _relu,
            _step,
            kinks=(0.0,),
            torch_function="torch.relu",
            name="relu",
            dual=closed_forms.HomogeneousDual(1.0, 0.0),
        ),
        Activation(
            _leaky_relu,
            _leaky_step,
            kinks=(0.0,),
            torch_function="torch.nn.functional.leaky_relu",
            name="leaky_relu",
            dual=closed_forms.HomogeneousDual(1.0, _LEAK),
        ),
        Activation(
            _tanh,
            _tanh_derivative,
            torch_function="torch.tanh",
            name="tanh",
        ),
        Activation(
            _erf,
            _erf_derivative,
            torch_function="torch.erf",
            name="erf",
            dual=closed_forms.erf_dual,
        ),
        Activation(
            _gelu,
            _gelu_derivative,
            torch_function="torch.nn.functional.gelu",
            name="gelu",
            dual=closed_forms.gelu_dual,
        ),
        Activation(
            _silu,
            _silu_derivative,
            torch_function="torch.nn.functional.silu",
            name="silu",
        ),
        Activation(
            _elu,
            _elu_derivative,
            kinks=(0.0,),
            torch_function="torch.nn.functional.elu",
            name="elu",
        ),
        # torch's softplus turns linear at 20 (error 2e-9): _softplus is exact.
        Activation(
            _softplus,
            _sigmoid,
            torch_function=_softplus,
            name="softplus",
        ),
        Activation(
            _sigmoid,
            _sigmoid_derivative,
            torch_function="torch.sigmoid",
            name="sigmoid",
        ),
        Activation(
            _sin,
            _cos,
            torch_function="torch.sin",
            name="sin",
            dual=closed_forms.sin_dual,
        ),
        Activation(
            _identity,
            _one,
            torch_function=_identity,
            name="identity",
            dual=closed_forms.HomogeneousDual(1.0, 1.0),
        ),
    )
}
"""Built-in activations by name."""


def get_activation(activation: str | Activation | ArrayFunction) -> Activation:
    """Return the `Activation` of a name, of a bare callable, or the one given.

    Parameters
    ----------
    activation : str, Activation or callable
        A name of `ACTIVATIONS`, an `Activation`, or a function of an array, which is
        taken as smooth.

    Returns
    -------
    Activation
        The activation.

    Raises
    ------
    ValueError
        If the name is unknown or the argument is none of these.

    Examples
    --------
    >>> from sklearn_deq.theory import get_activation
    >>> get_activation("relu").kinks
    (0.0,)
    """
    if isinstance(activation, Activation):
        return activation
    if isinstance(activation, str):
        if activation in ACTIVATIONS:
            return ACTIVATIONS[activation]
        raise ValueError(
            f"Unknown activation {activation!r}."
            f"{did_you_mean(activation, ACTIVATIONS)} "
            f"Known: {', '.join(sorted(ACTIVATIONS))}; or give a "
            "sklearn_deq.Activation."
        )
    if callable(activation):
        return Activation(activation)
    raise ValueError(
        "activation must be a name, a sklearn_deq.Activation or a callable, "
        f"got {activation!r}."
    )
