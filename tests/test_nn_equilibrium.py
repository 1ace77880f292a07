"""The equilibrium layer and its gradient, and the kernels it tends to."""

import copy
import math
import pickle
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch.func import functional_call, grad, jacrev

from sklearn_deq import Activation
from sklearn_deq.exceptions import SolverWarning
from sklearn_deq.kernels import deq_kernel
from sklearn_deq.nn import (
    BACKWARDS,
    SOLVERS,
    EquilibriumLayer,
    ExplicitNetwork,
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


@pytest.mark.parametrize("backward", BACKWARDS)
def test_empty_batch(backward):
    layer = _layer(backward=backward)
    z = layer(_inputs()[:0])
    assert z.shape == (0, 8)
    z.sum().backward()
    assert not layer.input_weight.grad.any()


@pytest.mark.parametrize(
    "activation", ["relu", Activation(np.tanh), Activation(np.abs, kinks=(0.0,))]
)
def test_bad_row_harms_itself_alone(activation):
    layer = _layer(width=30, activation=activation)
    x = _inputs()
    expected = layer(x).detach()
    x[1, 0] = np.nan
    with pytest.warns(SolverWarning, match="1 of 4 samples"):
        z = layer(x).detach()
    assert layer.last_result.converged.tolist() == [True, False, True, True]
    others = [0, 2, 3]
    assert_allclose(z[others], expected[others], atol=1e-14)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("backward", "exact"),
        ("stability", "hope"),
        ("precision", "double"),
        ("solver", "newton"),
        ("tol", 0.0),
        ("backward_tol", -1e-3),
        ("backward_tol", float("nan")),
        ("backward_tol", "loose"),
        ("solver_max_iter", 0),
        ("width", 0),
        ("n_features", 0),
        ("recurrent_variance", -0.1),
        ("input_variance", float("nan")),
        ("bias_variance", float("inf")),
    ],
)
def test_layer_arguments_are_checked(name, value):
    with pytest.raises(ValueError, match=name.removeprefix("solver_")):
        _layer(**{name: value})


def test_gradcheck_with_a_table():
    mine = Activation(lambda x: np.abs(x) + np.sin(x), kinks=(0.0,))
    layer = _layer(width=6, activation=mine, recurrent_variance=0.05)
    assert torch.autograd.gradcheck(layer, (_inputs().requires_grad_(),))


def test_gradient_is_that_of_the_weights_used():
    """Weights swapped in by functional_call are gone when backward runs."""
    x, gradients = _inputs(), []
    for backward in ("implicit", "unrolled"):
        layer = _layer(width=20, backward=backward)
        other = (1.5 * layer.recurrent_weight.detach() + 0.1).requires_grad_()
        functional_call(layer, {"recurrent_weight": other}, (x,)).sum().backward()
        gradients.append(other.grad)
    assert_allclose(*gradients, rtol=1e-9, atol=1e-12)


def test_weights_changed_before_backward_are_refused():
    layer = _layer()
    z = layer(_inputs())
    with torch.no_grad():
        layer.recurrent_weight.mul_(0.5)
    with pytest.raises(RuntimeError, match="inplace operation"):
        z.sum().backward()


def test_unrolling_follows_the_solver_row_by_row():
    layer = _layer(width=40, backward="unrolled", bias_variance=0.5, tol=1e-4)
    x = _inputs(30) * torch.linspace(0.01, 5, 30, dtype=torch.float64)[:, None]
    unrolled = layer(x)
    assert unrolled.requires_grad
    assert len(set(layer.last_result.n_iter.tolist())) > 1
    with torch.no_grad():
        assert_allclose(unrolled.detach(), layer(x), atol=1e-15)
        alone = torch.cat([layer(row) for row in x.split(1)])
    assert_allclose(unrolled.detach(), alone, atol=1e-15)


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


def test_phantom_gradient_is_that_of_five_damped_steps_at_the_equilibrium():
    layer = _layer(width=20, backward="phantom", activation="tanh")
    x = _inputs().requires_grad_()
    z = layer(x)
    z.sum().backward()
    found = [x.grad, layer.recurrent_weight.grad]
    y, state = x.detach().requires_grad_(), z.detach()
    weight = layer.recurrent_weight.detach().requires_grad_()
    u = layer.drive(y)
    for _ in range(5):
        pre = torch.addmm(u, state, weight.T, alpha=layer.recurrent_scale)
        state = 0.5 * state + 0.5 * torch.tanh(pre) / np.sqrt(20)
    expected = torch.autograd.grad(state.sum(), [y, weight])
    for gradient, other in zip(found, expected, strict=True):
        assert_allclose(gradient, other, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("backward", ["phantom", "one_step"])
def test_second_derivatives_of_approximations_are_refused_in_words(backward):
    layer = _layer(backward=backward)
    x = _inputs().requires_grad_()
    with pytest.raises(RuntimeError, match="backward='implicit' or 'unrolled'"):
        torch.autograd.grad(layer(x).sum(), x, create_graph=True)


@pytest.mark.parametrize("activation", ["tanh", "gelu", "softplus"])
def test_gradgradcheck(activation):
    layer = _layer(width=5, activation=activation, bias_variance=0.1, offset=0.1)
    names = ["recurrent_weight", "input_weight", "bias"]
    weights = [getattr(layer, name).detach().requires_grad_() for name in names]

    def f(x, *weights):
        return functional_call(layer, dict(zip(names, weights, strict=True)), (x,))

    inputs = (_inputs(2).requires_grad_(), *weights)
    assert torch.autograd.gradgradcheck(f, inputs, atol=1e-4)


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_second_derivatives_equal_those_of_unrolling(activation):
    seconds = []
    for backward in ("implicit", "unrolled"):
        layer = _layer(width=30, activation=activation, backward=backward)
        x = _inputs().requires_grad_()
        weights = [layer.recurrent_weight, layer.input_weight]
        first = torch.autograd.grad(layer(x).pow(3).sum(), x, create_graph=True)[0]
        seconds.append(torch.autograd.grad(first.pow(2).sum(), [x, *weights]))
    for implicit, unrolled in zip(*seconds, strict=True):
        assert_allclose(implicit, unrolled, rtol=1e-8, atol=1e-12)


def test_third_derivatives_equal_those_of_unrolling():
    thirds = []
    for backward in ("implicit", "unrolled"):
        layer = _layer(width=5, activation="tanh", backward=backward)
        x = _inputs(2).requires_grad_()
        first = torch.autograd.grad(layer(x).pow(2).sum(), x, create_graph=True)[0]
        second = torch.autograd.grad(first.pow(2).sum(), x, create_graph=True)[0]
        thirds.append(torch.autograd.grad(second.pow(2).sum(), x)[0])
    assert_allclose(*thirds, rtol=1e-8, atol=1e-12)


def test_trainable_weights():
    def trained(mode):
        layer = _layer(trainable=mode, bias_variance=0.1)
        return {name for name, w in layer.named_parameters() if w.requires_grad}

    assert trained("all") == {"recurrent_weight", "input_weight", "bias"}
    assert trained("recurrent") == {"recurrent_weight"}
    assert trained("readout") == set()


@pytest.mark.parametrize("solver", SOLVERS)
def test_every_solver_serves_both_passes(solver):
    x, found = _inputs(), []
    for name in ("picard", solver):
        layer = _layer(width=30, activation="tanh", solver=name)
        z = layer(x)
        z.pow(2).sum().backward()
        assert layer.last_backward_residual <= layer.tol
        found.append([z.detach(), layer.recurrent_weight.grad])
    for plain, other in zip(*found, strict=True):
        assert_allclose(other, plain, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("solver", SOLVERS)
def test_tolerance_of_the_adjoint(solver, activation):
    """It may be looser than that of the states, and errors are of its size."""
    x, found = _inputs(), []
    for backward_tol in (0.0, 1e-3):
        layer = _layer(
            width=60,
            tol=1e-9,
            backward_tol=backward_tol,
            solver=solver,
            activation=activation,
        )
        layer(x).square().sum().backward()
        assert float(layer.last_result.residual.max()) <= 1e-9
        assert layer.last_backward_residual <= max(backward_tol, 1e-9)
        found.append([p.grad for p in layer.parameters()])
    for exact, loose in zip(*found, strict=True):
        # A residual of the adjoint over 1 − ‖J‖, ‖J‖ < 0.9 in the limit.
        assert 0 < (loose - exact).norm() <= 1e-2 * exact.norm()


def test_adjoint_is_solved_no_tighter_than_the_states():
    layer = _layer(width=60, tol=1e-4, backward_tol=1e-9)
    layer(_inputs()).square().sum().backward()
    assert 1e-7 < layer.last_backward_residual <= 1e-4
    layer.configure("picard", 1e-9, 200, None, "implicit")
    layer(_inputs()).square().sum().backward()
    assert layer.last_backward_residual <= 1e-9


def test_start_saves_iterations_and_changes_nothing():
    layer = _layer(width=60, tol=1e-10)
    x = _inputs()
    z = layer(x)
    cold = int(layer.last_result.n_iter.max())
    warm = layer(x + 1e-6, z.detach())
    assert int(layer.last_result.n_iter.max()) < 0.7 * cold
    assert_allclose(warm.detach(), layer(x + 1e-6).detach(), atol=1e-10)
    start = z.detach()
    before = start.clone()
    layer(x, start).sum().backward()
    assert torch.equal(start, before)


def test_result_is_one_step_further_than_its_residual():
    layer = _layer(width=60, tol=1e-3)
    u = layer.drive(_inputs()).detach()
    result = layer.solve(u)
    with torch.no_grad():
        gap = torch.linalg.vector_norm(layer.step(result.z, u) - result.z, dim=1)
    # A contraction by ‖J‖ < 0.9 in the limit of wide layers.
    assert (gap / result.z.norm(dim=1) < result.residual).all()
    assert (result.residual <= 1e-3).all()


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("variance", [0.2, 0.9])
def test_batches_agree_to_the_tolerance_in_float32(solver, variance):
    """A row may stop one evaluation earlier: a residual of tol is then between them.

    It is to a distance of tol/(1 − ρ) from the fixed point, ρ² < σ_a² for ReLU.
    """
    layer = _layer(
        width=128,
        solver=solver,
        recurrent_variance=variance,
        dtype=torch.float32,
        tol=1e-5,
    )
    x = _inputs(64, dtype=torch.float32)
    with torch.no_grad():
        whole = layer(x)
        for n in (1, 7):
            parts = torch.cat([layer(part) for part in x.split(n)])
            error = (parts - whole).norm(dim=1) / whole.norm(dim=1)
            assert float(error.max()) < 1e-5 / (1 - np.sqrt(variance))


@pytest.mark.parametrize(
    ("solver", "factor"),
    [("damped", -2.5), ("anderson", -100.0), ("broyden", -100.0)],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_residuals_of_maps_that_do_not_contract(solver, factor, dtype):
    """One more step would undo what such solvers are for."""
    layer = EquilibriumLayer(
        3,
        8,
        activation="identity",
        solver=solver,
        recurrent_variance=1.0,
        tol=1e-5,
        stability=None,
        dtype=dtype,
        generator=_generator(),
    )
    with torch.no_grad():
        diagonal = torch.linspace(0.1, 1.0, 8, dtype=dtype)
        layer.recurrent_weight.copy_(factor * np.sqrt(8) * diagonal.diag())
        x = _inputs(50, dtype=dtype)
        u, result = layer.drive(x), layer.solve(layer.drive(x))
        assert result.converged.all()
        gap = torch.linalg.vector_norm(layer.step(result.z, u) - result.z, dim=1)
    # The gap of a state is known to the rounding of 100 times the state.
    rounding = 100 * 16 * torch.finfo(dtype).eps
    found = gap / result.z.norm(dim=1)
    assert_allclose(found, result.residual, rtol=1e-3, atol=rounding)
    assert (found <= 1e-5 + rounding).all()


def test_unrolling_returns_the_best_state_of_rows_that_fail():
    """Iterates whose residual falls at first, and rises for good afterwards."""
    params = {"activation": "identity", "recurrent_variance": 1.0, "stability": None}
    found = []
    for backward in ("implicit", "unrolled"):
        layer = _layer(
            width=2, backward=backward, solver_max_iter=12, tol=1e-9, **params
        )
        with torch.no_grad():
            layer.recurrent_weight.copy_(np.sqrt(2) * torch.tensor([1.5, 0.1]).diag())
            layer.input_weight.copy_(torch.tensor([[1e-3, 0.0, 0.0], [0.0, 1.0, 0.0]]))
        with pytest.warns(SolverWarning):
            z = layer(torch.ones(1, 3, dtype=torch.float64))
        found.append(z.detach())
        with pytest.warns(SolverWarning) if backward == "implicit" else nullcontext():
            z.sum().backward()
    assert layer.recurrent_weight.grad.abs().sum() > 0
    assert_allclose(found[1], found[0], rtol=1e-12)


@pytest.mark.parametrize("backward", ["implicit", "phantom", "one_step"])
def test_backward_under_autocast(backward):
    """As precise as without, also where it is called within the context."""
    x, gradients = _inputs(dtype=torch.float32), []
    for enabled in (False, True):
        layer = _layer(width=40, dtype=torch.float32, tol=1e-6, backward=backward)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            layer(x).square().sum().backward()
        gradients.append(layer.recurrent_weight.grad)
    assert torch.equal(*gradients)


def test_second_derivatives_under_autocast():
    x, found = _inputs(dtype=torch.float32).requires_grad_(), []
    for enabled in (False, True):
        layer = _layer(width=40, dtype=torch.float32, tol=1e-6, activation="tanh")
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            (first,) = torch.autograd.grad(layer(x).sum(), x, create_graph=True)
        found += torch.autograd.grad(first.square().sum(), x)
    assert torch.equal(*found)


@pytest.mark.parametrize("rows", [1, 9])
def test_starts_of_another_shape_are_refused(rows):
    layer = _layer()
    with pytest.raises(ValueError, match=r"z0 must be of shape \(5, 8\), got"):
        layer(_inputs(5), torch.zeros(rows, 8))


def test_starts_that_are_not_finite_begin_anew():
    layer, x = _layer(), _inputs()
    start = torch.zeros(4, 8, dtype=torch.float64)
    start[1, 2] = torch.nan
    assert_allclose(layer(x, start).detach(), layer(x).detach(), atol=1e-12)


@pytest.mark.parametrize("shape", [(3,), (2, 4, 3), (4, 2)])
def test_samples_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"x must be of shape \(n, 3\), got"):
        _layer()(torch.zeros(shape))


def test_autocast_does_not_lower_the_accuracy():
    layer = _layer(width=40, dtype=torch.float32, tol=1e-6)
    x = _inputs(dtype=torch.float32)
    plain = layer(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        z = layer(x.to(torch.bfloat16).to(torch.float32))
        cast = layer(x)
    assert z.dtype == torch.float32
    assert torch.equal(cast, plain)


def test_unconverged_solve_is_warned_of():
    layer = _layer(width=50, solver_max_iter=3)
    with pytest.warns(SolverWarning, match="4 of 4 samples did not converge.*Raise"):
        layer(_inputs())
    assert not layer.last_result.converged.any()


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


def test_table_takes_any_tensor():
    mine = Activation(lambda x: np.tanh(x) + np.abs(x - 0.3), kinks=(0.3, 0.3, 40.0))
    table = torch_activation(mine)
    for shape in ((), (0,), (2, 3, 4)):
        x = torch.full(shape, 1.7)
        assert table(x).shape == table.derivative(x).shape == shape
        assert table(x).dtype == table.derivative(x).dtype == torch.float32
    x = torch.tensor([np.nan, np.inf, -np.inf, 0.3], dtype=torch.float64)
    expected = [np.nan, np.inf, np.inf, np.tanh(0.3)]
    assert_allclose(table(x), expected, atol=1e-10)
    # One ulp of a float32 x, times the slope: the cells cost no more than that.
    x = torch.linspace(-16, 16, 997)
    assert_allclose(table(x), mine.function(x.double().numpy()), atol=2e-6)


def test_slope_of_a_table_is_that_of_autograd():
    table = torch_activation(
        Activation(lambda x: np.exp(-np.abs(x)) + 0.1 * x * x, kinks=(0.0,))
    )
    x = torch.linspace(-20, 20, 1000, dtype=torch.float64).requires_grad_()
    (slope,) = torch.autograd.grad(table(x).sum(), x)
    assert_allclose(table.derivative(x), slope, rtol=1e-9, atol=1e-12)


def test_table_made_in_inference_mode_serves_training():
    layer = _layer(activation=Activation(np.tanh), backward="unrolled")
    x = _inputs()
    with torch.inference_mode():
        layer(x)
    layer(x).sum().backward()
    assert torch.isfinite(layer.recurrent_weight.grad).all()


@pytest.mark.parametrize("function", [lambda x: np.abs(x - 0.3), np.sign])
def test_poor_table_is_warned_of(function):
    with pytest.warns(SolverWarning, match="Declare its kinks"):
        table = torch_activation(Activation(function))
    assert table.table_error > 1e-6


@pytest.mark.parametrize("torch_function", [torch.relu, "torch.relu", None])
def test_user_derivative_need_not_take_tensors(torch_function):
    mine = Activation(
        lambda x: np.maximum(x, 0),
        lambda x: (x > 0).astype(x.dtype),
        kinks=(0.0,),
        torch_function=torch_function,
    )
    x = torch.tensor([-2.0, -0.5, 0.5, 2.0])
    slope = torch_activation(mine).derivative(x)
    assert_allclose(slope, [0.0, 0.0, 1.0, 1.0], atol=1e-5)


def _relu_kernels(X, a, b):
    """CK and NTK (readout, A and B trained) of the ReLU DEQ, in closed form."""
    S = X @ X.T / X.shape[1]
    G = np.zeros_like(S)
    for _ in range(200):
        Q = a * G + b * S
        root = np.sqrt(np.diag(Q))
        rho = np.clip(Q / np.outer(root, root), -1, 1)
        slope = (np.pi - np.arccos(rho)) / (2 * np.pi)
        G = np.outer(root, root) * (np.sqrt(1 - rho**2) / (2 * np.pi) + rho * slope)
    return G, (G + b * S * slope) / (1 - a * slope)


def test_wide_relu_network_has_the_kernels_in_closed_form():
    X = _inputs(4, 10)
    exact = _relu_kernels(X.numpy(), 0.2, 0.8)
    found = np.zeros((2, 4, 4))
    seeds = range(8)
    for seed in seeds:
        layer = _layer(400, 10, generator=_generator(seed), backward="unrolled")
        readout = torch.randn(400, generator=_generator(50 + seed), dtype=X.dtype)
        z = layer(X).detach().numpy()
        names = ["recurrent_weight", "input_weight"]
        found += [z @ z.T, _finite_ntk(layer, X, readout, names)]
    for kernel, limit in zip(found / len(seeds), exact, strict=True):
        # E φ⁴/(E φ²)² = 6 for ReLU: a mean over m units and the seeds fluctuates by
        # √(5/(m · seeds)) = 4 %, the entries alike. Three of that.
        error = np.linalg.norm(kernel - limit) / np.linalg.norm(limit)
        assert error < 3 * np.sqrt(5 / (400 * len(seeds)))


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
    ("activation", "kernel", "names"),
    [
        ("relu", "ntk_recurrent", ["recurrent_weight"]),
        ("relu", "ntk", ["recurrent_weight", "input_weight"]),
        ("tanh", "ntk", ["recurrent_weight", "input_weight"]),
    ],
)
def test_gradients_approach_the_tangent_kernels(activation, kernel, names):
    X = _inputs(4, 10)
    offset = equilibrium_moments(activation).offset
    exact = deq_kernel(X.numpy(), activation=activation, kernel=kernel)
    errors = []
    for width in (50, 450):
        total = 0.0
        for seed in range(8):
            layer = EquilibriumLayer(
                10,
                width,
                activation=activation,
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
    with pytest.raises(ValueError, match="at least 1"):
        ExplicitNetwork(3, (4, 0), layers)


def test_explicit_network_is_its_formula():
    layers = solve_match(equilibrium_moments("relu")).layers
    network = ExplicitNetwork(
        3, (5, 6), layers, generator=_generator(), dtype=torch.float64
    )
    x = _inputs()
    expected = x.numpy() / np.sqrt(3)
    for weight, layer in zip(network.weights, layers, strict=True):
        expected = layer.activation.function(expected @ weight.detach().numpy().T)
        expected = (expected - layer.offset) / np.sqrt(len(weight))
    assert_allclose(network(x).detach(), expected, rtol=1e-12, atol=1e-14)
    assert torch.autograd.gradcheck(network, (x.requires_grad_(),))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_layer_on_gpu_equals_cpu():
    cpu, gpu = _layer(width=64), _layer(width=64, device="cuda")
    x = _inputs()
    assert_allclose(gpu(x.cuda()).detach().cpu(), cpu(x).detach(), atol=1e-10)


@pytest.mark.parametrize("value", [float("nan"), 1e38])
def test_numbers_that_are_no_use_are_named(value):
    layer = EquilibriumLayer(3, 4, generator=torch.Generator().manual_seed(0))
    with pytest.warns(SolverWarning, match=r"scale X, or look for NaN in it"):
        layer(torch.full((2, 3), value))


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"width": 4.5}, "width must be an integer"),
        ({"dtype": np.float32}, "dtype must be one of torch's"),
        ({"offset": math.nan}, "offset must be finite"),
    ],
)
def test_what_makes_no_layer_is_refused_in_words(arguments, match):
    with pytest.raises(ValueError, match=match):
        EquilibriumLayer(3, **{"width": 4, **arguments})


def test_an_empty_batch_leaves_a_layer_that_works():
    layer = EquilibriumLayer(3, 8)
    layer(torch.ones(0, 3)).sum().backward()
    assert math.isfinite(float(layer.chi))


@pytest.mark.parametrize("function", [np.sin, np.square, np.arctan])
def test_tables_are_of_what_is_not_linear_far_out(function):
    table = torch_activation(function)
    x = np.linspace(-250, 250, 3001)
    found = table(torch.from_numpy(x)).numpy()
    assert_allclose(found, function(x), rtol=1e-9, atol=1e-9)
    with pytest.warns(SolverWarning, match="tabulated to ±256 .* up to 300: scale X"):
        table(torch.tensor([-300.0, 0.0, np.nan, 300.0]))


EDGES = {
    "clip16": Activation(lambda x: np.clip(x, -16, 16), kinks=(-16.0, 16.0)),
    "undeclared": Activation(lambda x: np.clip(x, -16, 16)),
    "ramp16": Activation(lambda x: np.maximum(x - 16, 0) + np.tanh(x), kinks=(16.0,)),
    "jump16": Activation(lambda x: x + (x < -16), kinks=(-16.0,)),
    "bump17": Activation(lambda x: np.maximum(1 - abs(x - 17), 0), kinks=(16, 17, 18)),
    "clip256": Activation(lambda x: np.clip(x, -256, 256), kinks=(-256.0, 256.0)),
    "clip300": Activation(lambda x: np.clip(x, -300, 300), kinks=(-300.0, 300.0)),
}


@pytest.mark.parametrize("name", EDGES)
def test_kinks_at_the_limits_of_tables_and_beyond(name):
    phi, table = EDGES[name], torch_activation(EDGES[name])
    assert table.table_error < 1e-10
    x = np.array([1.5, 15.9, 16.2, 17.0, 17.3, 100.0, 255.0, 257.0, 301.0, 5e3])
    # One argument beyond the limit sends all to the other table.
    for points in (x[:2], -x[:2], x, -x):
        t = torch.from_numpy(points).requires_grad_()
        assert_allclose(table(t).detach(), phi.function(points), atol=1e-9)
        off = points[np.abs(points) != 17.0]
        slopes = (phi.function(off + 1e-6) - phi.function(off - 1e-6)) / 2e-6
        t = torch.from_numpy(off).requires_grad_()
        (gradient,) = torch.autograd.grad(table(t).sum(), t)
        assert_allclose(gradient, slopes, atol=1e-5)
        assert_allclose(table.derivative(t), slopes, atol=1e-5)


def test_a_kink_at_the_wide_limit_that_is_not_declared_is_warned_of():
    table = torch_activation(lambda x: np.clip(x, -256, 256))
    with pytest.warns(SolverWarning, match="tabulated to ±256 and taken as linear"):
        table(torch.tensor([1000.0]))


def test_tables_of_before_there_was_a_choice_load():
    phi = torch_activation(Activation(np.tanh))
    for later in ("far", "limit", "warns_beyond", "name"):
        vars(phi._table).pop(later, None)
    x = torch.linspace(-300, 300, 7, dtype=torch.float64)
    assert_allclose(pickle.loads(pickle.dumps(phi))(x), torch.tanh(x), atol=1e-9)


@pytest.mark.parametrize("kinks", [(), (0.3,)])
@pytest.mark.parametrize("function", [np.tanh, np.sin])
def test_tables_have_gradients_of_each_sample(function, kinks):
    """A vector of numbers, each of which vmap shows as a tensor without axes."""
    table = torch_activation(Activation(function, kinks=kinks))
    x = torch.linspace(-20, 20, 12, dtype=torch.float64)
    for slope in (grad(table), table.derivative):
        found = torch.vmap(slope)(x)
        assert_allclose(found, table.derivative(x), rtol=1e-9, atol=1e-9)
    with torch.no_grad():
        ahead, behind = table(x + 1e-5), table(x - 1e-5)
    assert_allclose(found, (ahead - behind) / 2e-5, atol=1e-8)


def test_tables_can_be_traced():
    """There what is far out cannot be looked for."""
    table = torch_activation(np.sin)
    x = torch.linspace(-30, 30, 12).reshape(3, 4)
    assert_allclose(torch.vmap(table)(x), torch.sin(x), atol=1e-5)
    assert table(x.to("meta")).shape == x.shape


def test_overflow_far_out_is_no_curvature():
    table = torch_activation(lambda x: x * np.exp(x) / (1 + np.exp(x)))
    x = torch.tensor([-300.0, -20.0, 20.0, 300.0], dtype=torch.float64)
    assert_allclose(table(x), torch.nn.functional.silu(x), atol=1e-9)


def test_tables_of_what_varies_too_fast_far_out():
    """sin(x²): well tabulated to ±16, and not beyond."""
    table = torch_activation(lambda x: np.sin(x * x))
    assert table.table_error < 1e-6
    with pytest.warns(SolverWarning, match="tabulated to ±16 and taken as linear"):
        table(torch.tensor([20.0]))


def test_another_function_of_tensors_is_warned_of():
    phi = Activation(np.tanh, torch_function=torch.relu)
    with pytest.warns(SolverWarning, match="is not function: at 4 it is 4, and funct"):
        torch_activation(phi)
    # Where φ is steep what is small counts, too.
    phi = Activation(lambda x: x**3, torch_function=lambda x: x**3 + 0.05 * x.tanh())
    with pytest.warns(SolverWarning, match="is not function: at "):
        torch_activation(phi)
    phi = Activation(lambda x: 1.0 * (x > 0), kinks=(0.0,), torch_function=torch.isnan)
    with pytest.warns(SolverWarning, match="it is 0, and function 1"):
        torch_activation(phi)


def _single(function):
    """A function that refuses float64."""

    def alone(x):
        if x.dtype != torch.float32:
            raise TypeError
        return function(x)

    return alone


@pytest.mark.parametrize("single", [False, True])
@pytest.mark.parametrize("name", [*ACTIVATIONS, "sinh", "cube", "log", "pole"])
def test_the_function_itself_is_not_warned_of(name, single):
    """Also where it is steep, or not finite."""
    functions = {
        "sinh": (np.sinh, torch.sinh),
        "cube": (lambda x: x**3, lambda x: x**3),
        "log": (lambda x: np.log(x + 3.6), lambda x: torch.log(x + 3.6)),
        "pole": (lambda x: 1 / x, lambda x: 1 / x),
    }
    if name in ACTIVATIONS:
        function, known = ACTIVATIONS[name].function, torch_activation(name)
    else:
        function, known = functions[name]
    torch_activation(
        Activation(function, torch_function=_single(known) if single else known)
    )


def test_functions_with_parameters_of_their_own():
    """In float32 alone, or for so many units."""

    def leaky(x):
        return np.where(x > 0, x, 0.25 * x)

    for function in (torch.nn.PReLU(), torch.nn.PReLU(7)):
        phi = torch_activation(Activation(leaky, kinks=(0,), torch_function=function))
        x = _inputs(2, 7, dtype=torch.float32)
        assert_allclose(phi(x).detach(), leaky(x.numpy()), atol=1e-7)


def test_a_layer_of_a_bare_function_is_that_of_its_name():
    x = 20.0 * _inputs(dtype=torch.float32)
    mine, named = (
        EquilibriumLayer(3, 32, activation=each, generator=_generator())
        for each in (np.sin, "sin")
    )
    assert_allclose(mine(x).detach(), named(x).detach(), atol=1e-5)


@pytest.mark.parametrize(
    ("function", "torch_function", "message"),
    [
        (np.tanh, "torch.tangens", "There is no torch_function='torch.tangens'"),
        (np.tanh, "nowhere.tanh", "There is no torch_function='nowhere.tanh'"),
        (np.arctan, np.arctan, "must take a tensor and return one, got <ufunc"),
        (lambda x: np.maximum(x, 0), torch.relu_, "must leave its argument as it is"),
        (np.tanh, "..a.tanh", "There is no torch_function='..a.tanh'"),
        (np.tanh, "a..tanh", "There is no torch_function='a..tanh'"),
        (np.tanh, "torch.pi", "got 3.14.*, which is no function"),
        (np.tanh, "torch.nn.Tanh", "the class Tanh: give an instance, such as torch."),
        (np.tanh, torch.nn.Tanh, "the class Tanh: give an instance, such as torch."),
        (np.tanh, lambda x: 1, r"<class 'int'> for a tensor of shape \(3, 11\)"),
        (np.tanh, lambda x: x.tanh().sum(-1), r"returns shape \(3,\) for a tensor"),
        (np.tanh, lambda x: x.tanh().sum(-1, keepdim=True), r"returns shape \(3, 1\)"),
        (np.tanh, lambda x: (x.tanh(), x), "returns <class 'tuple'> for a tensor"),
    ],
)
def test_functions_of_tensors_are_looked_at(function, torch_function, message):
    phi = Activation(function, torch_function=torch_function)
    with pytest.raises(ValueError, match=message):
        torch_activation(phi)
