"""The solver, the equilibrium layer and its gradient, and the kernels it tends to."""

import copy
import pickle

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch.func import functional_call, jacrev

from sklearn_deq import Activation
from sklearn_deq.exceptions import SolverWarning
from sklearn_deq.kernels import deq_kernel
from sklearn_deq.nn import (
    SOLVERS,
    EquilibriumLayer,
    ExplicitNetwork,
    fixed_point,
    torch_activation,
)
from sklearn_deq.theory import ACTIVATIONS, equilibrium_moments, solve_match


def _generator(seed=0):
    return torch.Generator().manual_seed(seed)


def _layer(width=8, n_features=3, **params):
    defaults = {"dtype": torch.float64, "generator": _generator(), "tol": 1e-13}
    return EquilibriumLayer(n_features, width, **{**defaults, **params})


def _inputs(n=4, p=3, seed=1, dtype=torch.float64):
    return torch.randn(n, p, generator=_generator(seed), dtype=dtype)


@pytest.mark.parametrize("solver", SOLVERS)
def test_solver_finds_the_solution_of_a_linear_system(solver):
    A = torch.randn(6, 6, generator=_generator(), dtype=torch.float64)
    A *= 0.6 / torch.linalg.matrix_norm(A, 2)
    b = torch.randn(5, 6, generator=_generator(1), dtype=torch.float64)
    result = fixed_point(
        lambda z, rows: z @ A.T + b[rows], torch.zeros_like(b), solver=solver, tol=1e-14
    )
    expected = torch.linalg.solve(torch.eye(6, dtype=b.dtype) - A, b.T).T
    assert result.converged.all()
    assert_allclose(result.z, expected, rtol=1e-12, atol=1e-13)
    assert (result.n_iter < 100).all()


@pytest.mark.parametrize("solver", SOLVERS)
def test_bad_rows_neither_converge_nor_harm_the_others(solver):
    factor = torch.tensor([0.5, 3.0, 0.1], dtype=torch.float64)[:, None]

    def f(z, rows):
        out = factor[rows] * z + 1.0
        return torch.where(rows[:, None] == 1, out * 1e200, out)

    start = torch.zeros(3, 2, dtype=torch.float64)
    result = fixed_point(f, start, solver=solver, tol=1e-12)
    assert result.converged.tolist() == [True, False, True]
    assert torch.isfinite(result.z).all()
    assert_allclose(result.z[0], 2.0, rtol=1e-11)
    assert_allclose(result.z[2], 1 / 0.9, rtol=1e-11)


def test_state_at_rest_converges():
    result = fixed_point(lambda z, rows: 0.5 * z, torch.zeros(2, 3))
    assert result.converged.all()
    assert (result.n_iter == 1).all()


def test_solver_arguments_are_checked():
    with pytest.raises(ValueError, match="solver must be"):
        fixed_point(lambda z, rows: z, torch.zeros(1, 1), solver="newton")
    with pytest.raises(ValueError, match="tol must be positive"):
        fixed_point(lambda z, rows: z, torch.zeros(1, 1), tol=0.0)


def test_layer_is_at_its_fixed_point():
    layer = _layer(width=40, offset=0.2, bias_variance=0.3)
    x = _inputs()
    z = layer(x)
    A, B, c = layer.recurrent_weight, layer.input_weight, layer.bias
    pre = (
        np.sqrt(0.2) * z @ A.T + np.sqrt(0.8) * x @ B.T / np.sqrt(3) + np.sqrt(0.3) * c
    )
    expected = (torch.relu(pre) - 0.2) / np.sqrt(40)
    assert_allclose(z.detach(), expected.detach(), atol=1e-13)


@pytest.mark.parametrize("n", [1, 7, 64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_output_does_not_depend_on_the_batch(n, dtype):
    layer = _layer(width=64, dtype=dtype, tol=1e-5)
    x = _inputs(100, dtype=dtype) * torch.linspace(0.1, 5, 100, dtype=dtype)[:, None]
    with torch.no_grad():
        whole = layer(x)
        parts = torch.cat([layer(part) for part in x.split(n)])
    # Products of other shapes round differently; nothing else may differ.
    eps = torch.finfo(dtype).eps
    assert_allclose(parts, whole, rtol=0, atol=50 * eps * float(whole.abs().max()))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradcheck(activation):
    layer = _layer(width=6, activation=activation, bias_variance=0.1, offset=0.1)
    names = ["recurrent_weight", "input_weight", "bias"]
    weights = [getattr(layer, name).detach().requires_grad_() for name in names]

    def f(x, *weights):
        return functional_call(layer, dict(zip(names, weights, strict=True)), (x,))

    assert torch.autograd.gradcheck(f, (_inputs().requires_grad_(), *weights))


@pytest.mark.parametrize("activation", ["relu", "tanh", "elu"])
def test_implicit_gradient_equals_unrolling(activation):
    gradients = []
    for backward in ("implicit", "unrolled"):
        layer = _layer(width=30, activation=activation, backward=backward)
        x = _inputs().requires_grad_()
        layer(x).pow(2).sum().backward()
        weights = [layer.recurrent_weight.grad, layer.input_weight.grad]
        gradients.append([x.grad, *weights])
    for implicit, unrolled in zip(*gradients, strict=True):
        assert_allclose(implicit, unrolled, rtol=1e-9, atol=1e-12)


def test_one_step_gradient_is_the_first_term():
    layer = _layer(width=20, backward="one_step")
    x = _inputs().requires_grad_()
    z = layer(x)
    z.sum().backward()
    with torch.no_grad():
        u = layer.drive(x)
        slope = (layer._mix(z, u) > 0).to(x.dtype) / np.sqrt(20)
        expected = slope @ layer.input_weight * np.sqrt(0.8 / 3)
    assert_allclose(x.grad, expected, rtol=1e-12)


def test_second_derivatives_are_refused_in_words():
    layer = _layer()
    x = _inputs().requires_grad_()
    with pytest.raises(RuntimeError, match="backward='unrolled'"):
        torch.autograd.grad(layer(x).sum(), x, create_graph=True)


def test_trainable_weights():
    def trained(mode):
        layer = _layer(trainable=mode, bias_variance=0.1)
        return {name for name, w in layer.named_parameters() if w.requires_grad}

    assert trained("all") == {"recurrent_weight", "input_weight", "bias"}
    assert trained("recurrent") == {"recurrent_weight"}
    assert trained("readout") == set()


def test_unconverged_solve_is_warned_of():
    layer = _layer(width=50, solver_max_iter=3)
    with pytest.warns(SolverWarning, match="4 of 4 samples did not converge.*Raise"):
        layer(_inputs())
    assert not layer.last_result.converged.any()


def test_projection_holds_the_norm_and_spares_the_initial_weights():
    layer = _layer(width=60)
    before = layer.recurrent_weight.detach().clone()
    layer.stabilize()
    assert torch.equal(layer.recurrent_weight, before)
    limit = float(torch.linalg.matrix_norm(before, 2))
    u = torch.randn(60, 2, generator=_generator(5), dtype=torch.float64)
    for _ in range(20):
        with torch.no_grad():
            layer.recurrent_weight.add_(u @ u.T, alpha=0.05)
        layer.stabilize()
    # One update is followed by two power iterations: the estimate lags a little.
    for _ in range(20):
        layer.stabilize()
    weight = layer.recurrent_weight.detach()
    assert float(torch.linalg.matrix_norm(weight, 2)) < 1.05 * limit


@pytest.mark.parametrize(
    "copier", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))]
)
@pytest.mark.parametrize("activation", ["relu", "softplus", Activation(np.tanh)])
def test_copies_compute_the_same(copier, activation):
    layer = _layer(activation=activation)
    x = _inputs()
    assert torch.equal(copier(layer)(x), layer(x))


def test_weights_do_not_depend_on_dtype_nor_on_the_global_generator():
    state = torch.get_rng_state()
    double, single = _layer(), _layer(dtype=torch.float32)
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(double.recurrent_weight.float(), single.recurrent_weight)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_torch_activation_equals_the_numpy_function(name):
    phi, x = ACTIVATIONS[name], np.linspace(-30, 30, 601) + 0.01
    on_torch = torch_activation(name)
    t = torch.from_numpy(x)
    assert_allclose(on_torch(t), phi.function(x), rtol=1e-12, atol=1e-15)
    assert_allclose(on_torch.derivative(t), phi.derivative(x), rtol=1e-12, atol=1e-15)


def test_user_function_is_tabulated():
    mine = Activation(lambda x: np.maximum(x, 0) + np.tanh(x), kinks=(0.0,))
    table = torch_activation(mine)
    x = torch.linspace(-40, 40, 1001, dtype=torch.float64)
    expected = torch.relu(x) + torch.tanh(x)
    assert table.table_error < 1e-10
    assert_allclose(table(x), expected, rtol=1e-8, atol=1e-8)
    slope = (x > 0).to(x.dtype) + 1 - torch.tanh(x) ** 2
    off = x.abs() > 1e-3
    assert_allclose(table.derivative(x)[off], slope[off], atol=1e-5)


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_features_approach_the_conjugate_kernel(activation):
    """The error of z·z' falls like m^{-1/2}: by four from m = 100 to 1600."""
    X = _inputs(6, 10)
    moments = equilibrium_moments(activation)
    exact = deq_kernel(X.numpy(), activation=activation)
    errors = []
    for width in (100, 1600):
        found = []
        for seed in range(6):
            layer = EquilibriumLayer(
                10,
                width,
                activation=activation,
                offset=moments.offset,
                generator=_generator(seed),
                dtype=torch.float64,
            )
            with torch.no_grad():
                z = layer(X).numpy()
            found.append(np.linalg.norm(z @ z.T - exact) / np.linalg.norm(exact))
        errors.append(np.mean(found))
    assert 2.5 < errors[0] / errors[1] < 6.5
    assert errors[1] < 0.08


def _finite_ntk(layer, X, readout, names):
    """Sum over the trained weights of the products of per-sample gradients."""
    weights = {name: getattr(layer, name).detach() for name in names}

    def outputs(weights):
        return functional_call(layer, weights, (X,)) @ readout

    kernel = 0.0
    for jacobian in jacrev(outputs)(weights).values():
        flat = jacobian.reshape(len(X), -1)
        kernel = kernel + flat @ flat.T
    with torch.no_grad():
        z = layer(X)
    # The readout a ~ N(0, 1) of f = a·z contributes z·z'.
    return (kernel + z @ z.T).detach().numpy()


@pytest.mark.parametrize(
    ("kernel", "names"),
    [
        ("ntk_recurrent", ["recurrent_weight"]),
        ("ntk", ["recurrent_weight", "input_weight"]),
    ],
)
def test_gradients_approach_the_tangent_kernels(kernel, names):
    X = _inputs(4, 10)
    offset = equilibrium_moments("relu").offset
    exact = deq_kernel(X.numpy(), kernel=kernel)
    errors = []
    for width in (50, 450):
        total = 0.0
        for seed in range(8):
            layer = EquilibriumLayer(
                10,
                width,
                offset=offset,
                generator=_generator(seed),
                dtype=torch.float64,
                backward="unrolled",
                tol=1e-9,
            )
            readout = torch.randn(
                width, generator=_generator(100 + seed), dtype=torch.float64
            )
            total = total + _finite_ntk(layer, X, readout, names) / 8
        errors.append(np.linalg.norm(total - exact) / np.linalg.norm(exact))
    # Averages of eight draws: of order 1/√(8 m), 2 % at the larger width.
    assert errors[1] < 0.06
    assert errors[1] < errors[0]


def test_explicit_network_approaches_the_deq_kernel():
    X = _inputs(6, 40)
    exact = deq_kernel(X.numpy())
    layers = solve_match(equilibrium_moments("relu")).layers
    network = ExplicitNetwork(
        40, 4000, layers, generator=_generator(), dtype=torch.float64
    )
    with torch.no_grad():
        z = network(X).numpy()
    # 1/√m = 1.6 %, and the error of the match at p = 40.
    assert np.linalg.norm(z @ z.T - exact) / np.linalg.norm(exact) < 0.1


def test_explicit_network_arguments():
    layers = solve_match(equilibrium_moments("relu")).layers
    with pytest.raises(ValueError, match="one width for each"):
        ExplicitNetwork(3, (4,), layers)
    with pytest.raises(ValueError, match="trainable"):
        ExplicitNetwork(3, 4, layers, trainable="some")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_layer_on_gpu_equals_cpu():
    cpu, gpu = _layer(width=64), _layer(width=64, device="cuda")
    x = _inputs()
    assert_allclose(gpu(x.cuda()).detach().cpu(), cpu(x).detach(), atol=1e-10)
