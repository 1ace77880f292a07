"""Hermite layers on tensors: the table, its gradients, and networks made of it."""

import pickle
from functools import cache

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from sklearn_deq.kernels import explicit_kernel
from sklearn_deq.nn import ExplicitNetwork, layer_activations
from sklearn_deq.theory import equilibrium_moments, solve_match
from sklearn_deq.theory._hermite import HermiteFunction
from sklearn_deq.theory._hermite_series import evaluate_series
from sklearn_deq.theory._hermite_table import CUBICS, LINES

RNG = np.random.default_rng(0)

# One norm, any norms, and a range of them.
KINDS = {
    "single": (equilibrium_moments("gelu", tau0=1.3), None),
    "homogeneous": (equilibrium_moments("relu", center=False), None),
    "conditioned": (equilibrium_moments("relu"), (0.6, 1.7)),
}


@cache
def make(kind):
    moments, norms = KINDS[kind]
    # Tolerance: what the match of varying norms lacks is not what is tested here.
    return solve_match(moments, architecture="hermite", norms=norms, tol=1.0).layers


def samples(n=40, m=300):
    norms = RNG.uniform(0.5, 2.0, (n, 1))
    return RNG.standard_normal((n, m)) * norms, norms


@pytest.mark.parametrize("name", ["relu", "tanh", "gelu", "elu", "sin"])
@pytest.mark.parametrize(("kernel", "rate"), [("ck", 0.0), ("ntk", 1.0)])
def test_table_is_the_series(name, kernel, rate):
    """Issue 4: an error of the table under 1e-6 of σ's size."""
    moments = equilibrium_moments(name)
    match = solve_match(moments, kernel=kernel, architecture="hermite")
    function = match.layers[0].activation.function
    t = np.abs(RNG.standard_normal(20_000))
    t = np.append(t[t < 5.0], np.logspace(-12, 0, 100))
    ((right, left),) = evaluate_series(function.series, t)
    scale = np.sqrt(np.mean(right**2 + left**2) / 2)
    assert_allclose(function(t), right, atol=1e-6 * scale)
    assert_allclose(function(-t), left, atol=1e-6 * scale)


@pytest.mark.parametrize("cells", [LINES, CUBICS], ids=["lines", "cubics"])
def test_cells(cells):
    edges = cells.nodes()[:: cells.degree]
    inside = 0.5 * (edges[1:] + edges[:-1])
    rows = cells.rows(cells.numbers(np.append(inside, -inside)))
    assert_array_equal(rows, np.arange(len(rows)))
    extremes = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1e-300, 1e300])
    found = cells.numbers(extremes)
    assert ((found >= 0) & (found < cells.n_numbers)).all()
    half = len(inside)
    assert_array_equal(cells.rows(found[:4]), [0, half, half - 1, 2 * half - 1])


@pytest.mark.parametrize("cells", [LINES, CUBICS], ids=["lines", "cubics"])
def test_polynomials_go_through_the_nodes(cells):
    nodes = cells.nodes()
    values = np.stack([np.exp(-nodes), np.exp(nodes)])[None]
    table = cells.polynomials(values)
    inner = nodes[nodes < 5.9]
    for side, sign in enumerate((1.0, -1.0)):
        rows = cells.rows(cells.numbers(sign * inner * (1 + 1e-6)))
        powers = (sign * inner)[:, None] ** np.arange(cells.degree + 1)
        found = np.sum(table[rows, 0] * powers, axis=1)
        assert_allclose(found, values[0, side, : len(inner)], rtol=1e-9)


@pytest.mark.parametrize("name", ["relu", "tanh", "elu", "sin"])
def test_table_of_norms_that_vary_is_the_series(name):
    """At a norm between those it was made of; the tail is coarser: 6e-5 of inputs."""
    match = solve_match(
        equilibrium_moments(name), architecture="hermite", norms=(0.7, 1.5)
    )
    t = np.abs(RNG.standard_normal(20_000))
    t = np.append(t[t < 4.0], np.logspace(-4, 0, 100))
    for group in match.layers[0].activation.function.groups[:2]:
        assert isinstance(group, HermiteFunction)
        ((right, left),) = evaluate_series([group.at(1.1)], t)
        scale = np.sqrt(np.mean(right**2 + left**2) / 2)
        norms = np.full(t.shape, 1.1)
        assert_allclose(group(1.1 * t, norms), right, atol=3e-6 * scale)
        assert_allclose(group(-1.1 * t, norms), left, atol=3e-6 * scale)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("dtype", "atol"), [("float64", 1e-13), ("float32", 3e-5)])
def test_tensors_have_the_values_of_numpy(kind, dtype, atol):
    (layer,) = make(kind)
    (activation,) = layer_activations([layer])
    function = layer.activation.function
    x, norms = (part.astype(dtype) for part in samples())
    tensors = torch.from_numpy(x), torch.from_numpy(norms)
    found = activation(*tensors)
    assert found.dtype == tensors[0].dtype
    expected, slopes = function(x, norms), function.derivative(x, norms)
    # x/r is up to ten, where the powers of cubics nearly cancel; few are.
    assert_allclose(found, expected, atol=atol)
    assert np.sqrt(np.mean((found.numpy() - expected) ** 2)) < 0.03 * atol
    # Slopes are those of cells 1e-3 of x/r wide: rounding may find the next one.
    atol = 10 * atol if dtype == "float64" else 2e-3
    assert_allclose(activation.derivative(*tensors), slopes, atol=atol)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients(kind):
    (activation,) = layer_activations(make(kind))
    x, norms = (torch.from_numpy(part) for part in samples(5, 20))
    x.requires_grad_(True)
    (gradient,) = torch.autograd.grad(activation(x, norms).sum(), x)
    assert_allclose(gradient, activation.derivative(x, norms), rtol=1e-12)
    # Within a cell, where σ is a line: a step that leaves most cells would not do.
    step = 1e-9
    with torch.no_grad():
        ahead, behind = activation(x + step, norms), activation(x - step, norms)
    differences = (ahead - behind) / (2 * step)
    inside = np.isclose(differences, gradient, atol=1e-5)
    assert inside.mean() > 0.98


def test_gradient_in_the_norm():
    """σ(x; r) follows the norm of the sample, and so does autograd."""
    (activation,) = layer_activations(make("conditioned"))
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)[None]
    norm = torch.tensor([[1.1]], dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(activation(x, norm).sum(), norm)
    with torch.no_grad():
        step = 1e-5
        difference = activation(x, norm + step) - activation(x, norm - step)
    assert_allclose(gradient.item(), difference.sum() / (2 * step), rtol=1e-2)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_do_not_see_each_other(kind):
    network = ExplicitNetwork(
        6,
        50_000,
        make(kind),
        dtype=torch.float64,
        generator=torch.Generator().manual_seed(0),
    )
    X = torch.from_numpy(RNG.standard_normal((7, 6)))
    with torch.no_grad():
        together = network(X)
        for row in range(7):
            assert_allclose(network(X[row : row + 1])[0], together[row], atol=1e-14)


@pytest.mark.parametrize("kind", KINDS)
def test_infinities_and_nan(kind):
    (activation,) = layer_activations(make(kind))
    # A column for each value, as neurons may differ.
    nan, infinite, zero, negative = (
        activation(torch.full((1, 9), value), torch.ones(1, 1))
        for value in (np.nan, np.inf, 0.0, -0.0)
    )
    assert torch.isnan(nan).all()
    # Cubics have no value there.
    finite = torch.isfinite(infinite)
    assert torch.isinf(infinite).all() if kind != "conditioned" else not finite.any()
    assert_allclose(zero, negative, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_wide_networks_have_the_kernel(kind):
    """Relative error of the order of m^(−1/2)."""
    layers = make(kind)
    X = RNG.standard_normal((12, 30)) * RNG.uniform(0.7, 1.5, (12, 1))
    if kind == "single":
        X *= 1.3 / np.sqrt(np.mean(X**2, axis=1, keepdims=True))
    network = ExplicitNetwork(
        30,
        40_000,
        layers,
        dtype=torch.float64,
        generator=torch.Generator().manual_seed(0),
    )
    with torch.no_grad():
        features = network(torch.from_numpy(X)).numpy()
    expected = explicit_kernel(X, layers=layers)
    error = np.linalg.norm(features @ features.T - expected, 2)
    assert error < 0.03 * np.linalg.norm(expected, 2)


@pytest.mark.parametrize("kind", KINDS)
def test_copies(kind):
    (activation,) = layer_activations(make(kind))
    x, norms = (torch.from_numpy(part) for part in samples(3, 5))
    expected = activation(x, norms)
    stored = pickle.dumps(activation)
    # The coefficients, not the table.
    assert len(stored) < 300_000
    assert_array_equal(pickle.loads(stored)(x, norms), expected)


def test_tangent_kernel_of_one_layer():
    """Both layers trained: the Hermite layer made for the NTK has it."""
    match = solve_match(
        equilibrium_moments("relu"), kernel="ntk", architecture="hermite"
    )
    X = RNG.standard_normal((10, 20))
    X /= np.sqrt(np.mean(X**2, axis=1, keepdims=True))
    network = ExplicitNetwork(
        20,
        40_000,
        match.layers,
        dtype=torch.float64,
        generator=torch.Generator().manual_seed(0),
    )
    found = network.tangent_kernel(torch.from_numpy(X)).numpy()
    expected = explicit_kernel(X, layers=match.layers, kernel="ntk")
    error = np.linalg.norm(found - expected, 2)
    assert error < 0.03 * np.linalg.norm(expected, 2)


@pytest.mark.parametrize("spread", [1e-7, 3e-6, 1e-4, 1e-2])
def test_norms_that_hardly_vary(spread):
    """In float32, whose numbers are 1e-7 apart: normalised rows are such data."""
    (layer,) = solve_match(
        equilibrium_moments("relu"),
        architecture="hermite",
        norms=(1.0 - spread, 1.0 + spread),
    ).layers
    (activation,) = layer_activations([layer])
    # Also norms that are just outside, by rounding.
    norms = np.linspace(1.0 - 1.1 * spread, 1.0 + 1.1 * spread, 9)[:, None]
    x = norms * RNG.standard_normal((9, 400))
    tensors = (torch.from_numpy(part.astype(np.float32)) for part in (x, norms))
    found = activation(*tensors)
    single = solve_match(equilibrium_moments("relu"), architecture="hermite").layers[0]
    expected = single.activation.function(x / norms)
    assert_allclose(found, expected, atol=1e-5 + 10 * spread)
