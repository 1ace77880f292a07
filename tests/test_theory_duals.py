"""Dual activations: the methods against each other and against what must hold."""

import copy
import math
import pickle
import re
from functools import partial

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import softmax

from sklearn_deq import Activation
from sklearn_deq.exceptions import SolverWarning
from sklearn_deq.kernels import deq_kernel
from sklearn_deq.theory import (
    ACTIVATIONS,
    ThreePiece,
    dual_activation,
    equilibrium_moments,
    get_activation,
    lipschitz_constant,
)
from sklearn_deq.theory._dual_methods import dual_on_grid, plane_expectation
from sklearn_deq.theory._dual_partials import dual_partials
from sklearn_deq.theory._duals import dual_function
from sklearn_deq.theory._jumps import check_continuous
from sklearn_deq.theory._moments import (
    differentiate,
    hermite_coefficients,
    mean_squared_derivative,
    spread_moments,
)
from tests.quadrature import plane_dual

CLOSED = [name for name, phi in ACTIVATIONS.items() if phi.dual is not None]
ANGLES = np.array([0.0, 1e-6, 1e-3, 0.1, 0.7, np.pi / 2, 2.5, 3.1, np.pi])
# The variances that s_ii in [0.05, 20] leads to.
VARIANCES = np.array([0.05, 0.5, 1.0, 3.0, 20.0])


def _stripped(name):
    """The activation without its closed form: quadrature has to serve."""
    phi = ACTIVATIONS[name]
    return Activation(phi.function, phi.derivative, kinks=phi.kinks)


def _covariances(q, angles):
    return np.sqrt(q[:, None, None] * q[None, :, None]) * np.cos(angles)


def _scales(phi, q, derivative):
    if derivative:
        return np.sqrt(mean_squared_derivative(phi, q))
    return np.sqrt(spread_moments(phi, q, 0.0).value)


@pytest.mark.parametrize("derivative", [False, True])
@pytest.mark.parametrize("name", CLOSED)
def test_closed_form_equals_quadrature(name, derivative):
    phi = _stripped(name)
    expected = dual_on_grid(phi, VARIANCES, VARIANCES, ANGLES, derivative)
    found = dual_activation(
        name,
        VARIANCES[:, None, None],
        VARIANCES[None, :, None],
        _covariances(VARIANCES, ANGLES),
        derivative=derivative,
    )
    scale = _scales(phi, VARIANCES, derivative)
    error = np.abs(found - expected) / scale[:, None, None] / scale[None, :, None]
    # For kinked φ an ulp of ρ near ±1 moves arccos ρ, and so φ'φ', by 1e-8.
    smooth = np.sin(ANGLES) > 1e-4
    assert error[..., smooth].max() < 1e-11
    assert error.max() < (1e-7 if derivative and phi.kinks else 1e-11)


@pytest.mark.parametrize("derivative", [False, True])
@pytest.mark.parametrize("name", sorted(set(ACTIVATIONS) - set(CLOSED)))
def test_table_equals_quadrature(name, derivative):
    phi = ACTIVATIONS[name]
    q = np.array([0.4, 0.9, 1.7])
    expected = dual_on_grid(phi, q, q, ANGLES, derivative)
    found = dual_activation(
        phi,
        q[:, None, None],
        q[None, :, None],
        _covariances(q, ANGLES),
        derivative=derivative,
    )
    scale = _scales(phi, q, derivative)
    error = np.abs(found - expected) / scale[:, None, None] / scale[None, :, None]
    assert error.max() < 1e-11


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(ACTIVATIONS) - set(CLOSED)))
def test_table_holds_over_the_whole_range_of_norms(name):
    phi = ACTIVATIONS[name]
    expected = dual_on_grid(phi, VARIANCES, VARIANCES, ANGLES)
    found = dual_activation(
        phi,
        VARIANCES[:, None, None],
        VARIANCES[None, :, None],
        _covariances(VARIANCES, ANGLES),
    )
    scale = _scales(phi, VARIANCES, False)
    error = np.abs(found - expected) / scale[:, None, None] / scale[None, :, None]
    assert error.max() < 1e-11


@pytest.mark.parametrize("name", ["tanh", "silu", "sigmoid", "softplus"])
def test_series_equals_plane_quadrature(name):
    phi = _stripped(name)
    q = np.array([0.3, 1.2])
    series = dual_on_grid(phi, q, q, ANGLES)
    for k, angle in enumerate(ANGLES):
        plane = plane_expectation(phi.function, (), q, q, angle)
        assert_allclose(series[..., k], plane, rtol=0, atol=1e-13)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_monte_carlo(name, rng):
    phi = ACTIVATIONS[name]
    q1, q2, c = 0.8, 1.5, -0.6
    u, v = rng.multivariate_normal([0, 0], [[q1, c], [c, q2]], size=200_000).T
    for derivative in (False, True):
        f = phi.derivative if derivative else phi.function
        products = f(u) * f(v)
        found = float(dual_activation(phi, q1, q2, c, derivative=derivative))
        error = products.std() / np.sqrt(products.size)
        # Five standard errors; the seed is fixed.
        assert abs(found - products.mean()) < 5 * error + 1e-12


@pytest.mark.parametrize("name", ["relu", "erf", "gelu", "sin", "tanh", "elu"])
def test_torch_gives_the_same(name):
    q, c = np.array([0.5, 1.0, 2.0]), np.array([0.2, -0.7, 1.1])
    expected = dual_activation(name, q, q, c)
    found = dual_activation(name, torch.tensor(q), torch.tensor(q), torch.tensor(c))
    assert isinstance(found, torch.Tensor)
    assert_allclose(found.numpy(), expected, rtol=1e-12)


def test_user_activation_agrees_with_the_builtin():
    """A plain function, with its kink, is as good as the closed form."""
    q = np.array([0.5, 1.0, 2.0])
    angles = np.linspace(0.05, 3.1, 9)
    for name in ("relu", "erf"):
        phi = ACTIVATIONS[name]
        mine = Activation(phi.function, kinks=phi.kinks)
        for derivative in (False, True):
            arguments = (q[:, None, None], q[None, :, None], _covariances(q, angles))
            expected = dual_activation(name, *arguments, derivative=derivative)
            found = dual_activation(mine, *arguments, derivative=derivative)
            assert_allclose(found, expected, rtol=0, atol=1e-8)


def test_three_piece_dual_equals_quadrature():
    sigma = ThreePiece(slope=0.3, bend=0.2, rise=0.8, knee=0.7)
    plain = Activation(sigma, sigma.derivative, kinks=sigma.kinks)
    for q1, q2 in [(1.0, 1.0), (0.3, 0.6), (0.05, 20.0)]:
        angles = np.array([0.1, 1.0, 2.0, 3.0])
        c = np.sqrt(q1 * q2) * np.cos(angles)
        for derivative in (False, True):
            expected = plane_dual(
                plain, np.array([q1]), np.array([q2]), angles, derivative
            )[0, 0]
            found = sigma.dual(np.array(q1), np.array(q2), c, derivative)
            assert_allclose(found, expected, rtol=0, atol=1e-11)


def test_undeclared_kinks_are_warned_of():
    hidden = Activation(lambda x: np.abs(x - 0.3))
    with pytest.warns(SolverWarning, match="declare that .Activation"):
        dual_activation(hidden, 1.0, 1.0, 0.5)


def test_differences_do_not_cross_kinks():
    phi = Activation(ACTIVATIONS["relu"].function, kinks=(0.0,))
    x = np.array([-2.0, -1e-3, -1e-7, 1e-7, 1e-3, 2.0])
    assert_allclose(differentiate(phi, x), (x > 0).astype(float), atol=1e-8)


def test_hermite_coefficients_of_a_cubic():
    h = hermite_coefficients(lambda x: x**3, (), np.array([1.0]), 6)[0]
    # x³ = √6 he_3 + 3 he_1.
    assert_allclose(h, [0, 3, 0, np.sqrt(6), 0, 0], atol=1e-12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"function": 3.0}, "function must be a callable of an array, got 3.0"),
        ({"derivative": "one"}, "derivative must be a callable or None, got 'one'"),
        ({"kinks": (0.0, np.inf)}, r"kinks must be a tuple of finite numbers"),
        ({"kinks": 0.0}, r"kinks must be a tuple of finite numbers, got 0.0"),
        ({"kinks": "12"}, r"kinks must be a tuple of finite numbers, got '12'"),
        ({"torch_function": "tanh"}, "its dotted name such as 'torch.tanh', .* 'tanh'"),
        ({"torch_function": 3}, "torch_function must be a callable, .* got 3"),
    ],
)
def test_what_is_no_activation_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Activation(**{"function": np.abs, **arguments})


class _Unhashable:
    """A function of arrays that compares by value, and so has no hash."""

    def __init__(self, slope):
        self.slope = slope

    def __call__(self, x):
        return np.maximum(x, self.slope * x)

    def __eq__(self, other):
        return self.slope == other.slope


def test_functions_without_a_hash_have_the_same_kernels(rng):
    X = rng.standard_normal((6, 4))
    unhashable = Activation(_Unhashable(0.25), kinks=(0.0,))
    plain = Activation(lambda x: np.maximum(x, 0.25 * x), kinks=(0.0,))
    for kernel in ("ck", "ntk"):
        found, expected = (
            deq_kernel(X, activation=each, kernel=kernel)
            for each in (unhashable, plain)
        )
        assert_allclose(found, expected, rtol=1e-12, atol=1e-14)


def test_bad_arguments():
    with pytest.raises(ValueError, match="nonnegative"):
        dual_activation("relu", -1.0, 1.0, 0.0)
    with pytest.raises(ValueError, match="must satisfy"):
        dual_activation("relu", 1.0, 1.0, 1.1)
    with pytest.raises(ValueError, match="Did you mean 'relu'"):
        dual_activation("rleu", 1.0, 1.0, 0.0)
    with pytest.raises(ValueError, match="q1 contains NaN or infinity"):
        dual_activation("relu", np.inf, 1.0, 0.0)
    with pytest.raises(ValueError, match="c contains NaN or infinity"):
        dual_activation("relu", 1.0, 1.0, np.nan)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (math.tanh, "np.tanh, not math.tanh"),
        (torch.tanh, "torch_function of an Activation"),
        (lambda x: 1.0, "returns shape"),
        (lambda x: x - x.mean(), "each element by itself"),
        (softmax, "by itself"),
        (lambda x: x / np.linalg.norm(x, axis=0), "by itself"),
    ],
)
def test_functions_must_be_elementwise(function, message):
    with pytest.raises(ValueError, match=message):
        dual_activation(function, 1.0, 1.0, 0.5)


def _bent(x):
    """Smooth but for a slope that jumps at 0.5."""
    return np.tanh(x) + 0.3 * np.abs(x - 0.5)


def _hard_swish(x):
    """Slope and curvature jump at −3 and 3."""
    return x * np.clip(x + 3.0, 0.0, 6.0) / 6.0


def _shifted_elu(x):
    """All derivatives but the first jump at −1."""
    return np.where(x > -1.0, x + 1.0, np.expm1(np.minimum(x + 1.0, 0.0)))


KINKED = [(_bent, (0.5,)), (_hard_swish, (-3, 3)), (_shifted_elu, (-1,))]


@pytest.mark.parametrize(("function", "kinks"), KINKED)
@pytest.mark.parametrize("derivative", [False, True])
def test_kinks_away_from_zero(function, kinks, derivative):
    """Also where both kinks nearly meet: equal variances and ρ near ±1."""
    phi = Activation(function, kinks=kinks)
    q = np.array([0.4, 1.0, 1.002, 2.0])
    angles = np.array([0.0, 1e-6, 1e-2, 0.7, 2.4, np.pi])
    found = dual_activation(
        phi,
        q[:, None, None],
        q[:, None],
        _covariances(q, angles),
        derivative=derivative,
    )
    expected = plane_dual(phi, q, q, angles, derivative)
    assert_allclose(found, expected, atol=1e-9 * expected.max())


def test_a_jump_is_refused_where_a_derivative_is_needed():
    sign = Activation(np.sign, kinks=(0.0,))
    step = Activation(lambda x: np.where(x > 0.3, x, 0.0), kinks=(0.3,))
    # The arc-sine law.
    assert_allclose(dual_activation(sign, 1.0, 4.0, 1.0), 1 / 3, atol=1e-12)
    expected = plane_dual(step, np.array([1.0]), np.array([2.0]), np.array([0.8]))
    found = dual_activation(step, 1.0, 2.0, np.sqrt(2.0) * np.cos(0.8))
    assert_allclose(found, expected[0, 0, 0], atol=1e-9)
    for phi in (sign, step):
        for needs_a_derivative in (
            equilibrium_moments,
            lipschitz_constant,
            lambda phi: dual_activation(phi, 1.0, 1.0, 0.5, derivative=True),
        ):
            with pytest.raises(ValueError, match="jumps by"):
                needs_a_derivative(phi)


@pytest.mark.parametrize(
    ("function", "where"),
    [
        (np.sign, 0.0),
        (lambda x: np.where(x > 0.3, x + 1e-3, x), 0.3),
        (lambda x: np.abs(x - 1.0) + 0.01 * (x > 5), 5.0),
    ],
)
def test_a_jump_that_is_not_declared_is_found(function, where):
    with pytest.raises(ValueError, match=f"jumps by .* at {where:.4g}:"):
        equilibrium_moments(Activation(function))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: np.tanh(1e5 * x),
        lambda x: np.tanh(x.astype(np.float32)),
        lambda x: np.sqrt(np.abs(x)) * x,
        lambda x: np.sin(50 * x),
    ],
)
def test_what_is_steep_or_rounded_does_not_jump(function):
    check_continuous(Activation(function))


def test_a_poor_table_is_warned_of_once_and_named():
    """Not at every call of the solver; what is built in has no kinks to declare."""
    q = np.array([1e8, 2e8])
    dual = dual_function(get_activation("tanh"), q, q)
    with pytest.warns(SolverWarning, match="tanh's derivative .* tangent") as caught:
        values = [dual(np.sqrt(0.5) * q, derivative=True) for _ in range(3)]
    assert_array_equal(values[0], values[2])
    assert len(caught) == 1
    assert "kinks" not in str(caught[0].message)


@pytest.mark.parametrize("hidden", [lambda x: np.abs(x - 0.3), lambda x: np.abs(x)])
def test_the_error_of_a_poor_table_is_honest(hidden):
    """Half a decade of room: it is measured at a few points."""
    phi = Activation(lambda x: hidden(x) + np.sin(x))
    q = np.array([0.5, 1.1, 2.0])
    angles = np.array([0.05, 0.3, 1.0, 2.0, 3.0])
    with pytest.warns(SolverWarning, match="relative error of") as caught:
        found = dual_activation(
            phi, q[:, None, None], q[:, None], _covariances(q, angles)
        )
    stated = float(re.search(r"error of (\S+)", str(caught[0].message))[1])
    kink = (0.3,) if hidden(0.3) == 0 else (0.0,)
    exact = plane_dual(Activation(phi.function, kinks=kink), q, q, angles)
    scale = _scales(phi, q, False)
    error = np.abs(found - exact) / scale[:, None, None] / scale[:, None]
    assert error.max() < 3.0 * stated


PARTIALS = {
    **{name: phi for name, phi in ACTIVATIONS.items() if name != "elu"},
    "hard_tanh": Activation(lambda x: np.clip(x, -0.5, 1.0) + 0.2, kinks=(-0.5, 1.0)),
    "bent": Activation(_bent, kinks=(0.5,)),
    "hard_swish": Activation(_hard_swish, kinks=(-3, 3)),
}


@pytest.mark.parametrize("name", PARTIALS)
def test_partials_are_derivatives(name):
    phi = PARTIALS[name]
    q1, q2 = np.array([0.4, 1.0, 2.0])[:, None], np.array([1.5, 0.7, 2.0])[:, None]
    angle = np.array([0.3, 1.2, 2.5])
    found = dual_partials(phi, q1, q2, angle)

    def at(steps, derivative):
        first, second = q1 * np.exp(steps[0]), q2 * np.exp(steps[1])
        c = np.sqrt(first * second) * np.cos(angle + steps[2])
        # With both ends of the range: one table for all.
        return dual_activation(phi, first, second, c, derivative=derivative)

    def slope(axis, derivative, step=1e-3):
        unit = step * np.eye(3)[axis]
        near = at(unit, derivative) - at(-unit, derivative)
        far = at(2 * unit, derivative) - at(-2 * unit, derivative)
        return (8 * near - far) / (12 * step)

    # Differences err by step⁴ and by 1e-13/step.
    settings = {"rtol": 1e-7, "atol": 1e-8}
    assert_allclose(found.value, at(np.zeros(3), False), atol=1e-11)
    assert_allclose(found.slope, at(np.zeros(3), True), atol=1e-10)
    assert_allclose(found.value_log1, slope(0, False), **settings)
    assert_allclose(found.value_log2, slope(1, False), **settings)
    assert_allclose(found.slope_log1, slope(0, True), **settings)
    assert_allclose(found.slope_log2, slope(1, True), **settings)
    assert_allclose(found.slope_angle, slope(2, True), **settings)
    ends = dual_partials(phi, np.zeros(3), np.ones(3), np.array([0.0, 1.0, np.pi]))
    assert all(np.isfinite(part).all() for part in vars(ends).values())


def test_a_derivative_of_another_function_is_refused():
    with pytest.raises(ValueError, match="derivative is not that of function: at "):
        Activation(np.tanh, derivative=np.cos)
    # Kinks in plain sight of the differences do not matter.
    Activation(lambda x: np.clip(x, -0.5, 1), lambda x: 1.0 * ((x > -0.5) & (x < 1)))
    Activation(np.abs, np.sign, kinks=(0,))


@pytest.mark.parametrize("derivative", [False, True])
@pytest.mark.parametrize(
    ("function", "kinks"),
    [
        (lambda u: u * np.clip(u + 3, 0, 6) / 6, (-3.0, 3.0)),
        (lambda u: np.where(u > 1, u - 1, np.expm1(np.minimum(u - 1, 0))), (1.0,)),
        (lambda u: np.maximum(u - 1, 0) ** 2 / 4, (1.0,)),
    ],
    ids=["hard swish", "shifted elu", "shifted square"],
)
def test_equal_samples_have_the_energy(function, kinks, derivative, rng):
    """Where kinks meet, ρ = 1: the mean that a kink leaves is 0 but for rounding."""
    phi = Activation(function, kinks=kinks)
    q = np.exp(rng.uniform(-2.0, 3.0, 2000))
    found = dual_activation(phi, q, q, q, derivative=derivative)
    if derivative:
        expected = mean_squared_derivative(phi, q)
    else:
        expected = spread_moments(phi, q, 0.0).value
    assert_allclose(found, expected, rtol=2e-7)


class Swish:
    """x σ(βx), whose β can be set."""

    def __init__(self, beta):
        self.beta = beta

    def __call__(self, x):
        return x / (1.0 + np.exp(-self.beta * x))


@pytest.mark.parametrize("kernel", ["ck", "ntk"])
def test_a_function_that_has_changed_is_another(rng, kernel):
    X = rng.standard_normal((10, 4))
    swish = Swish(1.0)
    before = Activation(swish)
    deq_kernel(X, activation=swish, kernel=kernel)
    lipschitz_constant(swish)
    swish.beta = 3.0
    expected = deq_kernel(X, activation=Swish(3.0), kernel=kernel)
    assert_array_equal(deq_kernel(X, activation=swish, kernel=kernel), expected)
    assert lipschitz_constant(swish) == lipschitz_constant(Swish(3.0))
    assert before != Activation(swish) == Activation(swish)
    far, further = (Activation(partial(np.clip, a_min=-c, a_max=c)) for c in (20, 30))
    assert far._values != further._values


class RoundedReLU:
    """A ReLU with a quadratic on ±width, which can be set."""

    def __init__(self, width):
        self.width = width

    def __call__(self, x):
        d = self.width
        return np.where(np.abs(x) < d, (x + d) ** 2 / (4 * d), np.maximum(x, 0.0))


@pytest.mark.filterwarnings("ignore::sklearn_deq.exceptions.SolverWarning")
@pytest.mark.parametrize(("before", "after"), [(0.2, 0.02), (1e-3, 1e-5)])
def test_a_function_that_has_changed_near_0_is_another(rng, before, after):
    X = 0.1 * rng.standard_normal((8, 4))
    phi = RoundedReLU(before)
    former = Activation(phi)
    deq_kernel(X, activation=phi)
    phi.width = after
    assert former != Activation(phi) == Activation(phi)
    if after > 1e-2:
        expected = deq_kernel(X, activation=RoundedReLU(after))
        assert_array_equal(deq_kernel(X, activation=phi), expected)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x / np.abs(x),
        lambda x: np.sin(x) / x,
        np.vectorize(lambda x: math.sin(x) / x, otypes=[float]),
    ],
)
def test_functions_without_a_value_at_0_are_activations(function):
    assert Activation(function) == Activation(function)
    # And are looked at elsewhere all the same.
    assert len(Activation(function)._values) >= 8 * (40 + 64)


def _rectified(x):
    return np.maximum(x, 0.0)


class Fragile:
    """The identity, until it is broken."""

    broken = False

    def __call__(self, x):
        if self.broken:
            raise RuntimeError("broken")
        return x + 0.0


def test_values_of_functions_are_not_pickled():
    """Their last bits are those of a machine, and older pickles have none."""
    phi = Activation(_rectified, kinks=(0.0,), name="rectified")
    assert "_values" not in phi.__getstate__()
    state = {**phi.__getstate__(), "_values": b"of another machine"}
    for known in (phi.__getstate__(), state):
        other = Activation.__new__(Activation)
        other.__setstate__(known)
        assert other == phi
        assert hash(other) == hash(phi)
    for found in (pickle.loads(pickle.dumps(phi)), copy.copy(phi), copy.deepcopy(phi)):
        assert found == phi
        assert found._values == phi._values


def test_broken_functions_can_be_unpickled():
    phi = Activation(Fragile())
    phi.function.broken = True
    found = pickle.loads(pickle.dumps(phi))
    assert found.function.broken
    assert copy.deepcopy(phi).function.broken


def test_kinks_count_once():
    """Between two equal ones there would be no interval to look at."""

    def clip(x):
        return np.clip(x, -1, 1)

    once, twice = (Activation(clip, kinks=each) for each in ((-1, 1), (1, -1, 1, -1)))
    assert once == twice
    assert twice.kinks == (-1.0, 1.0)
