"""Activations that are linear between their kinks, wherever these are."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from sklearn_deq import Activation
from sklearn_deq.kernels import deq_kernel
from sklearn_deq.theory import ThreePiece, dual_activation
from sklearn_deq.theory._piecewise_linear import piecewise_linear_dual
from tests.quadrature import plane_dual


def clip(x):
    """Hard tanh."""
    return np.clip(x, -1.0, 1.0)


def relu6(x):
    """Bounded ReLU, shifted."""
    return np.clip(x + 0.5, 0.0, 2.0)


@pytest.mark.parametrize(
    ("function", "kinks"), [(clip, (-1, 1)), (relu6, (-0.5, 1.5)), (np.abs, (0,))]
)
@pytest.mark.parametrize("derivative", [False, True])
def test_against_quadrature_in_the_plane(function, kinks, derivative):
    phi = Activation(function, kinks=kinks)
    q = np.array([0.3, 0.9, 4.0])
    angles = np.array([0.1, 0.5, 1.0, 2.0, 3.0])
    covariance = np.sqrt(np.outer(q, q))[..., None] * np.cos(angles)
    found = dual_activation(
        phi, q[:, None, None], q[:, None], covariance, derivative=derivative
    )
    expected = plane_dual(phi, q, q, angles, derivative)
    # Differences of the function for φ' are good to 1e-12.
    assert_allclose(found, expected, atol=1e-11)


@pytest.mark.parametrize(
    ("function", "kinks"),
    [
        (np.tanh, (0,)),
        (lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))), (0,)),
        (lambda x: np.maximum(x, 0) + np.abs(x) * np.exp(-np.abs(x)), (0,)),
        (np.sign, (0,)),
        (clip, (-1,)),
        (np.exp, (0,)),
        (np.tanh, ()),
    ],
    ids=["tanh", "elu", "bump", "sign", "kink not declared", "exp", "no kink"],
)
def test_others_are_told_apart(function, kinks):
    assert piecewise_linear_dual(Activation(function, kinks=kinks)) is None


def test_kernel_of_a_users_hard_tanh(rng):
    """The same as that of the three-piece layer, for varying and for equal norms."""
    X = rng.standard_normal((12, 5))
    mine = Activation(clip, kinks=(-1, 1))
    layer = ThreePiece(slope=0.0, bend=0.0, rise=1.0, knee=1.0).activation()
    for normalize in (False, True):
        for kernel in ("ck", "ntk"):
            settings = {"kernel": kernel, "normalize": normalize}
            K = deq_kernel(X, activation=mine, **settings)
            assert_allclose(K, deq_kernel(X, activation=layer, **settings), atol=1e-10)
            assert np.linalg.eigvalsh(K)[0] > -1e-12 * K.max()


@pytest.mark.parametrize("derivative", [False, True])
def test_every_number_of_nodes_is_exact(derivative, rng):
    """Fewer nodes serve where no |ρ| is close to 1: as many as for ρ = 0.999 do."""
    phi = Activation(relu6, kinks=(-0.5, 1.5))
    n = 200
    q1, q2 = np.exp(rng.uniform(-3.0, 2.0, (2, n)))
    rho = rng.uniform(0.9, 1.0, n) * rng.choice([-1.0, 1.0], n)
    for limit in (0.97, 0.99):
        c = limit * rho * np.sqrt(q1 * q2)
        found = dual_activation(phi, q1, q2, c, derivative=derivative)
        # One entry more decides how many nodes all have.
        more = [np.append(q1, 1.0), np.append(q2, 1.0), np.append(c, 0.999)]
        expected = dual_activation(phi, *more, derivative=derivative)[:-1]
        assert_allclose(found, expected, rtol=0, atol=1e-12)


def test_ends_of_the_correlation_are_no_quotient_of_roundings(rng):
    """At ρ = ±1 differences of kinks are 0 or an ulp, over sin θ = 0."""
    from sklearn_deq.theory._dual_partials import dual_partials

    clip = Activation(lambda u: np.clip(u, -1.0, 1.0), kinks=(-1.0, 1.0))
    q = np.exp(rng.uniform(-2.0, 2.0, 500))
    at, near = (dual_partials(clip, q, q, np.full(500, theta)) for theta in (0.0, 1e-9))
    for name in ("value_log1", "slope_log1", "slope_angle"):
        assert_allclose(getattr(at, name), getattr(near, name), atol=1e-7)
