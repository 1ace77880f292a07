"""What keeps the layer well-posed while it trains: projection, χ, penalty, bound."""

import copy
import math
import pickle

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from sklearn_deq import Activation
from sklearn_deq.nn import EquilibriumLayer
from sklearn_deq.nn._spectral import (
    SpectralGuard,
    _growth,
    block_power,
    lanczos,
    norm_bound,
    polynomial_bound,
)
from sklearn_deq.theory import equilibrium_moments


def _generator(seed=0):
    return torch.Generator().manual_seed(seed)


def _normal(*shape, seed=1, dtype=torch.float64):
    return torch.randn(*shape, generator=_generator(seed), dtype=dtype)


def _layer(width=60, n_features=8, **params):
    defaults = {"dtype": torch.float64, "generator": _generator()}
    return EquilibriumLayer(n_features, width, **{**defaults, **params})


def _norm(matrix):
    return float(torch.linalg.matrix_norm(matrix.detach(), 2))


@pytest.mark.parametrize("width", [1, 3, 30, 64, 300])
@pytest.mark.parametrize("seed", range(3))
def test_bound_is_above_the_norm_and_tight(width, seed):
    A = _normal(width, width, seed=seed)
    exact = _norm(A) * (1 - 1e-12)
    assert exact <= norm_bound(A) <= 1.003 * exact
    assert exact <= SpectralGuard(A).limit <= 1.002 * exact


def test_bound_of_a_matrix_of_low_rank():
    A = torch.outer(_normal(200, seed=1), _normal(200, seed=2))
    assert _norm(A) * (1 - 1e-12) <= norm_bound(A) <= 1.02 * _norm(A)
    assert norm_bound(torch.zeros(200, 200)) == 0.0


@pytest.mark.parametrize("excess", [1.05, 3.0, 1e4])
@pytest.mark.parametrize("degree", [2, 7, 64])
def test_no_direction_escapes_the_bound(degree, excess):
    """Not even one that vectors of a known seed are orthogonal to."""
    A = _normal(300, 300)
    top = _norm(A)
    away = _normal(300, seed=2)
    for seed in range(20):
        known = _normal(300, 1, seed=seed)[:, 0]
        away -= (away @ known) / (known @ known) * known
    away = torch.nn.functional.normalize(away, dim=0)
    A += (excess * top) * torch.outer(away, away) - torch.outer(A @ away, away)
    assert _norm(A) <= polynomial_bound(A, top, degree=degree).value
    assert polynomial_bound(A, top).value <= 1.05 * _norm(A)
    assert _norm(A) <= norm_bound(A)


@pytest.mark.parametrize("degree", [1, 2, 7, 64])
@pytest.mark.parametrize("eta", [1e-3, 0.1, 1.0, 8.0])
def test_growth_of_the_polynomials_is_inverted_from_above(degree, eta):
    """By the recurrence that defines them: W_0 = 1, W_1 = 2x + 1."""
    x = math.cosh(eta)
    before, now = 1.0, 2.0 * x + 1.0
    for _ in range(degree - 1):
        before, now = now, 2.0 * x * now - before
    found = _growth(math.log(now), degree)
    assert eta * (1 - 1e-9) <= found <= 1.05 * eta + 1.5 / degree


@pytest.mark.parametrize("method", ["lanczos", "block"])
def test_triplets_are_those_of_the_svd(method):
    """An outlier is found to rounding by the one, in a dozen steps by the other."""
    A = _normal(100, 100)
    A += 40.0 * torch.outer(
        torch.nn.functional.normalize(_normal(100, seed=2), dim=0),
        torch.nn.functional.normalize(_normal(100, seed=3), dim=0),
    )
    U, S, Vh = torch.linalg.svd(A)
    if method == "lanczos":
        values, left, right = lanczos(A, 40)
    else:
        right = torch.linalg.qr(_normal(100, 24, seed=4)).Q
        for _ in range(12):
            values, left, right = block_power(A, right)
    assert_allclose(float(values[0]), float(S[0]), rtol=1e-10)
    assert_allclose(abs(float(left[:, 0] @ U[:, 0])), 1.0, rtol=1e-8)
    assert_allclose(abs(float(right[:, 0] @ Vh[0])), 1.0, rtol=1e-8)
    # Orthonormal, and below the values of A.
    eye = torch.eye(right.shape[1], dtype=A.dtype)
    assert_allclose(right.T @ right, eye, atol=1e-9)
    assert (values <= S[: len(values)] * (1 + 1e-12)).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("variance", [0.01, 0.2, 0.24, 0.25, 0.9])
@pytest.mark.parametrize("width", [1, 2, 20, 200])
def test_initial_weights_are_not_touched(width, variance, dtype):
    layer = _layer(width=width, recurrent_variance=variance, dtype=dtype)
    before = layer.recurrent_weight.detach().clone()
    for _ in range(3):
        layer.stabilize()
    assert torch.equal(layer.recurrent_weight, before)


@pytest.mark.parametrize(
    ("stability", "trainable"),
    [(None, "all"), ("project", "readout"), ("jacobian", "all")],
)
def test_only_projection_projects(stability, trainable):
    layer = _layer(stability=stability, trainable=trainable)
    with torch.no_grad():
        layer.recurrent_weight.mul_(3.0)
    before = layer.recurrent_weight.detach().clone()
    layer.stabilize()
    assert torch.equal(layer.recurrent_weight, before)


def _train(layer, steps, lr, seed=0):
    """Adam on random labels; yields after every update and its projection."""
    X, y = _normal(600, 20, seed=seed), _normal(600, 5, seed=seed + 1).argmax(dim=1)
    X, y = X.to(layer.recurrent_weight.dtype), y
    readout = torch.nn.Linear(layer.recurrent_weight.shape[0], 5).to(X)
    with torch.no_grad():
        readout.weight.zero_()
        readout.bias.zero_()
    parameters = [*layer.parameters(), *readout.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=lr)
    order = _generator(seed)
    for _ in range(steps):
        rows = torch.randperm(600, generator=order)[:64]
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(readout(layer(X[rows])), y[rows])
        loss.backward()
        optimizer.step()
        layer.stabilize()
        yield


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_projection_is_a_guard_while_training(activation):
    """The true norm after every update, from the first one on.

    Without projection it grows by a quarter and more within thirty updates. The guard
    is told to hold 1.003 of the first norm; a direction that is new may exceed that for
    a while, by some per cent at this learning rate, which is the estimators'.
    """
    layer = _layer(256, 20, activation=activation, dtype=torch.float32)
    first = _norm(layer.recurrent_weight)
    training = _train(layer, 60, lr=0.05)
    norms = [_norm(layer.recurrent_weight) / first for _ in training]
    assert max(norms) < 1.08
    assert np.mean(norms) < 1.02
    assert layer.spectral_bound < 1.0
    free = _layer(256, 20, activation=activation, dtype=torch.float32, stability=None)
    for _ in _train(free, 30, lr=0.05):
        pass
    assert _norm(free.recurrent_weight) > 1.2 * first


@pytest.mark.parametrize(("seed", "steps"), [(2, 60), (0, 25)])
@pytest.mark.parametrize("variance", [0.05, 0.2, 0.24])
def test_a_contraction_stays_one_after_every_update(variance, seed, steps):
    """At the estimators' rate, with random labels: by an SVD of every matrix.

    2 σ_a = 0.98 leaves the norm two per cent.
    """
    layer = _layer(
        256,
        20,
        recurrent_variance=variance,
        dtype=torch.float32,
        generator=_generator(seed),
    )
    assert layer.guard.certified
    first = _norm(layer.recurrent_weight)
    factor = math.sqrt(variance / 256)
    training = _train(layer, steps, lr=0.1)
    norms = [_norm(layer.recurrent_weight) for _ in training]
    assert factor * max(norms) < 1
    assert max(norms) < 1.152 * first
    assert np.mean(norms) > 0.97 * first
    assert factor * norms[-1] <= layer.spectral_bound < 1


@pytest.mark.parametrize("factor", [1.1, 2.0, 10.0])
@pytest.mark.parametrize("updates", [1, 3])
def test_scaled_weights_are_brought_back_at_once(factor, updates):
    """Far more singular values above the limit than the guard follows."""
    layer = _layer(width=200)
    limit = layer.guard.limit
    for _ in range(updates - 1):
        layer.stabilize()
    with torch.no_grad():
        layer.recurrent_weight.mul_(factor)
    layer.stabilize()
    assert _norm(layer.recurrent_weight) <= 1.01 * limit
    x = _normal(5, 8)
    layer(x)
    assert layer.last_result.converged.all()


def test_weights_that_are_not_finite_are_left_as_they_are():
    layer = _layer()
    with torch.no_grad():
        layer.recurrent_weight[0, 0] = torch.nan
    for _ in range(3):
        layer.stabilize()
    assert int(torch.isnan(layer.recurrent_weight).sum()) == 1
    with torch.no_grad():
        layer.recurrent_weight[0, 0] = 100.0
    layer.stabilize()
    assert _norm(layer.recurrent_weight) <= 1.01 * layer.guard.limit


@pytest.mark.parametrize(
    "copier", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))]
)
def test_copies_go_on_alike(copier):
    layer = _layer()
    other = copier(layer)
    for each in (layer, other):
        with torch.no_grad():
            each.recurrent_weight.add_(_normal(60, 60, seed=9), alpha=0.5)
        each.stabilize()
    assert torch.equal(layer.recurrent_weight, other.recurrent_weight)


@pytest.mark.parametrize(
    ("activation", "slope"), [("relu", 1.0), ("gelu", 1.12904), ("sigmoid", 0.25)]
)
def test_spectral_bound(activation, slope):
    layer = _layer(width=100, activation=activation, recurrent_variance=0.3)
    exact = math.sqrt(0.3 / 100) * slope * _norm(layer.recurrent_weight)
    assert exact * (1 - 1e-5) <= layer.spectral_bound <= 1.003 * exact


def test_no_bound_where_the_slope_has_none():
    cube = Activation(lambda x: x**3, torch_function=lambda x: x**3)
    assert _layer(activation=cube).spectral_bound == math.inf


def _jacobians(layer, x):
    """∂f/∂z of every sample at its equilibrium, by autograd."""
    with torch.no_grad():
        u, z = layer.drive(x), layer(x)
    return [
        torch.autograd.functional.jacobian(
            lambda state, row=row: layer.step(state[None], row[None])[0], z[i]
        )
        for i, row in enumerate(u)
    ]


@pytest.mark.parametrize("backward", ["implicit", "phantom", "one_step", "unrolled"])
def test_chi_is_the_mean_square_of_the_jacobian(backward):
    layer = _layer(activation="tanh", backward=backward, tol=1e-10)
    assert math.isnan(layer.chi)
    x = _normal(6, 8)
    layer(x).sum().backward()
    expected = np.mean([float(J.square().sum()) / 60 for J in _jacobians(layer, x)])
    assert_allclose(layer.chi, expected, rtol=1e-6)


def test_chi_of_a_wide_layer_is_that_of_the_theory():
    layer = _layer(width=800, recurrent_variance=0.5, input_variance=0.5)
    X = _normal(64, 8)
    X *= math.sqrt(8) / X.norm(dim=1, keepdim=True)
    layer(X).sum().backward()
    theory = equilibrium_moments("relu", 0.5, 0.5, center=False).chi
    # A mean over 800 units of 0 or 1, alike for the samples: 3.5 % at three deviations
    # of 64 samples in 8 dimensions.
    assert_allclose(layer.chi, theory, rtol=0.06)


def test_penalty_estimates_chi():
    layer = _layer(activation="tanh", stability="jacobian")
    x = _normal(30, 8)
    layer(x).sum().backward()
    draws = [float(layer.jacobian_penalty().detach()) for _ in range(200)]
    # The mean of 200 draws, of a spread of 10 %.
    assert_allclose(np.mean(draws), layer.chi, rtol=0.03)
    assert np.std(draws) > 0


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_penalty_gradient_is_that_of_its_formula(activation):
    layer = _layer(activation=activation, stability="jacobian", bias_variance=0.1)
    x = _normal(4, 8)
    z = layer(x).detach()
    penalty = layer.jacobian_penalty()
    penalty.backward()
    signs = torch.randint(2, (4, 60), generator=_generator(0), dtype=torch.int8)
    signs = 2.0 * signs.double() - 1.0

    def formula(A, B, c):
        pre = math.sqrt(0.2) * z @ A.T + math.sqrt(0.8 / 8) * x @ B.T
        pre = pre + math.sqrt(0.1) * c
        slope = (pre > 0).double() if activation == "relu" else 1 - pre.tanh() ** 2
        return ((slope * signs) @ A * math.sqrt(0.2 / 60)).square().sum() / (4 * 60)

    weights = [layer.recurrent_weight, layer.input_weight, layer.bias]
    copies = [weight.detach().clone().requires_grad_() for weight in weights]
    expected = formula(*copies)
    assert_allclose(float(penalty.detach()), float(expected.detach()), rtol=1e-12)
    gradients = torch.autograd.grad(expected, copies, allow_unused=True)
    for weight, gradient in zip(weights, gradients, strict=True):
        if gradient is None:
            gradient = torch.zeros_like(weight)
        assert_allclose(weight.grad, gradient, rtol=1e-8, atol=1e-14)


def test_penalty_lowers_chi():
    layers = []
    for weight in (0.0, 30.0):
        layer = _layer(activation="tanh", stability="jacobian")
        optimizer = torch.optim.SGD(layer.parameters(), lr=20.0)
        for _ in range(20):
            optimizer.zero_grad()
            loss = layer(_normal(20, 8)).pow(2).mean()
            (loss + weight * layer.jacobian_penalty()).backward()
            optimizer.step()
        layers.append(layer)
    assert layers[1].chi < 0.9 * layers[0].chi


def test_penalty_needs_a_pass():
    with pytest.raises(RuntimeError, match="stability='jacobian'"):
        _layer().jacobian_penalty()
    layer = _layer(stability="jacobian")
    with torch.no_grad():
        layer(_normal(2, 8))
    with pytest.raises(RuntimeError, match="gradients enabled"):
        layer.jacobian_penalty()


def test_nothing_touches_the_global_generator():
    state = torch.get_rng_state()
    layer = _layer(stability="jacobian")
    layer(_normal(2, 8)).sum().backward()
    layer.jacobian_penalty()
    projected = _layer()
    projected.stabilize()
    assert math.isfinite(projected.spectral_bound)
    assert torch.equal(state, torch.get_rng_state())
