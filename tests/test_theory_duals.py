"""Dual activations: the methods against each other and against what must hold."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from sklearn_deq import Activation
from sklearn_deq.exceptions import SolverWarning
from sklearn_deq.theory import ACTIVATIONS, ThreePiece, dual_activation
from sklearn_deq.theory._dual_methods import dual_on_grid, plane_expectation
from sklearn_deq.theory._moments import (
    differentiate,
    hermite_coefficients,
    mean_squared_derivative,
    spread_moments,
)

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
    phi = ACTIVATIONS[name]
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
            expected = dual_on_grid(
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


def test_bad_arguments():
    with pytest.raises(ValueError, match="nonnegative"):
        dual_activation("relu", -1.0, 1.0, 0.0)
    with pytest.raises(ValueError, match="must satisfy"):
        dual_activation("relu", 1.0, 1.0, 1.1)
    with pytest.raises(ValueError, match="Did you mean 'relu'"):
        dual_activation("rleu", 1.0, 1.0, 0.0)
