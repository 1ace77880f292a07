"""Solves that iterate in a lower precision: as accurate as others, row by row."""

import copy
import pickle

import pytest
import torch
from numpy.testing import assert_allclose

from sklearn_deq.exceptions import SolverWarning
from sklearn_deq.nn import EquilibriumLayer
from sklearn_deq.nn._mixed import Lowered, full_sums, lower_pays
from sklearn_deq.theory import ACTIVATIONS, equilibrium_moments

WIDTH = 128


def _generator(seed=0):
    return torch.Generator().manual_seed(seed)


def _inputs(n=20, p=10, seed=1, dtype=torch.float32):
    x = torch.randn(n, p, generator=_generator(seed), dtype=torch.float64)
    return (x * torch.linspace(0.5, 2.0, n, dtype=torch.float64)[:, None]).to(dtype)


def _layer(**params):
    defaults = {"generator": _generator(), "precision": "mixed", "stability": None}
    return EquilibriumLayer(10, WIDTH, **{**defaults, **params})


def _gradient(layer, x):
    layer.zero_grad()
    z = layer(x)
    z.pow(2).sum().backward()
    return z.detach().double(), layer.recurrent_weight.grad.double()


@pytest.mark.parametrize("variance", [0.2, 0.6])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_states_and_gradients_are_as_accurate_as_in_full(activation, variance):
    offset = equilibrium_moments(activation, variance, 1 - variance).offset
    params = {"activation": activation, "offset": offset}
    params |= {"recurrent_variance": variance, "input_variance": 1 - variance}
    exact = _layer(**params, dtype=torch.float64, precision="full", tol=1e-13)
    full, mixed = _layer(**params, precision="full"), _layer(**params)
    z, gradient = _gradient(exact, _inputs(dtype=torch.float64))
    errors = []
    for layer in (full, mixed):
        found = _gradient(layer, _inputs())
        assert layer.last_result.converged.all()
        assert (layer.last_result.residual <= 1e-5).all()
        assert layer.last_backward_residual <= 1e-5
        rows = (found[0] - z).norm(dim=1) / z.norm(dim=1)
        errors.append([float(rows.max()), float((found[1] - gradient).norm())])
    # Either error is a tolerance times what the contraction leaves; rounding, 1e-7, and
    # the row that stops a step later, may put one above the other.
    assert errors[1][0] <= 2.0 * errors[0][0] + 1e-6
    assert errors[1][1] <= 2.0 * errors[0][1] + 1e-6 * float(gradient.norm())
    spared = mixed.last_result.n_evaluations < full.last_result.n_evaluations
    assert spared.all()


@pytest.mark.parametrize("n", [1, 7, 64])
def test_output_does_not_depend_on_the_batch(n):
    layer = _layer()
    x = _inputs(100)
    with torch.no_grad():
        whole = layer(x)
        parts = torch.cat([layer(part) for part in x.split(n)])
    difference = (parts - whole).norm(dim=1) / whole.norm(dim=1)
    assert float(difference.max()) < 1e-6


def test_float64_iterates_in_float32():
    x = _inputs(dtype=torch.float64)
    exact = _layer(dtype=torch.float64, precision="full", tol=1e-14)
    layer = _layer(dtype=torch.float64, tol=1e-12)
    (z, gradient), found = _gradient(exact, x), _gradient(layer, x)
    assert_allclose(found[0], z, atol=1e-12)
    assert_allclose(found[1], gradient, atol=1e-11)
    result = layer.last_result
    assert (result.n_evaluations <= 5).all()
    assert (result.n_iter >= 15).all()


def test_slow_and_expanding_rows_are_left_to_the_solver():
    """σ_a² = 3 of tanh is chaotic: mixed fails where full does, and harms no one."""
    params = {"activation": "tanh", "recurrent_variance": 3.0, "solver_max_iter": 60}
    x = _inputs()
    for precision in ("full", "mixed"):
        layer = _layer(**params, precision=precision)
        with pytest.warns(SolverWarning, match="did not converge"):
            z = layer(x)
        assert torch.isfinite(z).all()
    slow = _layer(activation="tanh", recurrent_variance=0.9, input_variance=0.1)
    slow(x)
    assert slow.last_result.converged.all()


def test_bad_row_harms_itself_alone():
    layer = _layer()
    x = _inputs()
    expected = layer(x).detach()
    x[3, 0] = torch.nan
    x[5] *= 1e12
    with pytest.warns(SolverWarning, match="1 of 20 samples"):
        z = layer(x).detach()
    assert layer.last_result.converged.tolist() == [row != 3 for row in range(20)]
    others = [row for row in range(20) if row not in (3, 5)]
    assert_allclose(z[others], expected[others], rtol=1e-5, atol=1e-7)


def test_empty_batch():
    layer = _layer()
    layer(_inputs()[:0]).sum().backward()
    assert not layer.recurrent_weight.grad.any()


def test_warm_start_at_the_solution():
    layer = _layer()
    x = _inputs()
    z = layer(x).detach()
    assert_allclose(layer(x, z).detach(), z, rtol=1e-4, atol=1e-6)
    assert layer.last_result.converged.all()


def test_weights_changed_unseen_cost_no_accuracy():
    """Through `data` the version counter does not move."""
    layer, x = _layer(), _inputs()
    layer(x)
    layer.recurrent_weight.data.mul_(-0.7)
    changed = layer(x).detach()
    assert layer.last_result.converged.all()
    with torch.no_grad():
        layer.recurrent_weight.mul_(1.0)
        assert_allclose(changed, layer(x), rtol=1e-4, atol=1e-6)


def test_a_converted_layer_takes_its_weights_in_the_precision_below():
    x = _inputs()
    layer, other = _layer(), _layer(dtype=torch.float64)
    with torch.no_grad():
        layer(x)
        layer.double()
        other.load_state_dict(layer.state_dict())
        # The weights that were kept are bfloat16's; float64 iterates in float32.
        found, wanted = layer(x.double()), other(x.double())
    assert torch.equal(found, wanted)


def test_weights_in_the_precision_below_share_memory_with_their_own_alone():
    lowered = Lowered()
    weights = [torch.randn(5, 5, generator=_generator(i)) for i in range(3)]
    with torch.inference_mode():
        first = lowered(weights[0])
    assert lowered(weights[0]) is first
    weights[0].mul_(2.0)
    assert lowered(weights[0]) is first
    assert torch.equal(first, weights[0].bfloat16())
    # Another may be in work meanwhile: of a second derivative, or in another thread.
    before = first.clone()
    for other in (weights[1], weights[2], weights[0].T):
        assert torch.equal(lowered(other), other.bfloat16())
    assert torch.equal(first, before)


def test_inference_before_training_and_weights_made_in_it():
    layer, x = _layer(), _inputs()
    with torch.inference_mode():
        z = layer(x)
        made = _layer()
        assert torch.equal(made(x), z)
    layer(x).sum().backward()
    assert torch.isfinite(layer.recurrent_weight.grad).all()


@pytest.mark.parametrize(
    "copier", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))]
)
def test_copies_compute_the_same(copier):
    layer, x = _layer(), _inputs()
    z = layer(x)
    assert torch.equal(copier(layer)(x), z)


def test_few_iterations_are_all_in_full():
    layer = _layer(solver_max_iter=20)
    layer(_inputs())
    result = layer.last_result
    assert torch.equal(result.n_iter, result.n_evaluations)


def test_auto_is_full_for_what_would_not_be_faster():
    """Whatever the machine: narrow layers, and float64."""
    assert not lower_pays(torch.zeros(WIDTH, WIDTH))
    assert not lower_pays(torch.zeros(1024, 1024, dtype=torch.float64))
    x = _inputs()
    auto, full = _layer(precision="auto"), _layer(precision="full")
    assert torch.equal(auto(x), full(x))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_mixed_on_gpu_equals_full_on_cpu():
    gpu = _layer(device="cuda")
    cpu = _layer(precision="full")
    x = _inputs()
    found, expected = _gradient(gpu, x.cuda()), _gradient(cpu, x)
    assert_allclose(found[0].cpu(), expected[0], atol=1e-5)
    assert_allclose(found[1].cpu(), expected[1], atol=1e-4)


def test_sums_are_of_float32():
    settings = torch.backends.cuda.matmul
    before = settings.allow_bf16_reduced_precision_reduction
    with full_sums(torch.device("cuda")):
        assert settings.allow_bf16_reduced_precision_reduction is False
    assert settings.allow_bf16_reduced_precision_reduction == before


def test_solves_that_overlap_leave_the_sums_as_they_were():
    settings = torch.backends.cuda.matmul
    before = settings.allow_bf16_reduced_precision_reduction
    first, second = (full_sums(torch.device("cuda")) for _ in range(2))
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert settings.allow_bf16_reduced_precision_reduction is False
    second.__exit__(None, None, None)
    assert settings.allow_bf16_reduced_precision_reduction == before
