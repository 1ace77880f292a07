"""Learning-rate multipliers of explicit networks."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from sklearn_deq import ExplicitEquivalentRegressor
from sklearn_deq.nn import EquilibriumLayer, ExplicitNetwork
from sklearn_deq.theory import equilibrium_moments, explicit_pair_kernel, solve_match


def _generator(seed=0):
    return torch.Generator().manual_seed(seed)


def _tangent_kernel(network, X, generator):
    """Σ over the parameters of f, with a normal readout that learns at rate 1."""
    readout = torch.randn(
        network.weights[-1].shape[0], generator=generator, dtype=X.dtype
    )
    trained = [weight for weight in network.weights if weight.requires_grad]
    features = network(X)
    kernel = features.detach() @ features.detach().T
    rows = []
    for output in features @ readout:
        slopes = torch.autograd.grad(output, trained, retain_graph=True)
        rows.append(torch.cat([slope.ravel() for slope in slopes]))
    slopes = torch.stack(rows)
    return (kernel + slopes @ slopes.T).numpy()


def _exact(layers, multipliers, X):
    pair = explicit_pair_kernel(layers, "ntk", multipliers)
    states = pair.states(np.mean(X**2, axis=1))
    return pair.entries(
        tuple(state[:, None] for state in states),
        tuple(state[None] for state in states),
        X @ X.T / X.shape[1],
    )


@pytest.mark.parametrize("multipliers", [(0.3, 2.0, 1.0), (4.0, 0.0, 2.0), None])
def test_tangent_kernel_has_the_multipliers(multipliers):
    layers = solve_match(equilibrium_moments("gelu")).layers
    X = torch.randn(5, 30, generator=_generator(1), dtype=torch.float64)
    total, generator = 0.0, _generator()
    for _ in range(10):
        network = ExplicitNetwork(
            30,
            1000,
            layers,
            multipliers=multipliers,
            generator=generator,
            dtype=torch.float64,
        )
        total = total + _tangent_kernel(network, X, generator) / 10
    readout = 1.0 if multipliers is None else multipliers[-1]
    exact = _exact(layers, multipliers, X.numpy()) / readout
    # Averages of ten draws: of order 1/√(10 m) = 1 %.
    assert np.linalg.norm(total - exact) / np.linalg.norm(exact) < 0.03


def test_multipliers_change_no_output_and_scale_the_steps():
    layers = solve_match(equilibrium_moments("relu")).layers
    plain, scaled = (
        ExplicitNetwork(
            3,
            7,
            layers,
            multipliers=rates,
            generator=_generator(),
            dtype=torch.float64,
        )
        for rates in (None, (0.25, 0.0, 1.0))
    )
    X = torch.randn(4, 3, generator=_generator(1), dtype=torch.float64)
    assert_allclose(scaled(X).detach(), plain(X).detach(), rtol=1e-12)
    moves = []
    for network in (plain, scaled):
        trained = [weight for weight in network.weights if weight.requires_grad]
        optimizer = torch.optim.SGD(trained, lr=0.1)
        before = network.weights[0].detach().clone()
        network(X).sum().backward()
        optimizer.step()
        moves.append(network.scales[0] * (network.weights[0].detach() - before))
    assert_allclose(moves[1], 0.25 * moves[0], rtol=1e-10)
    assert [weight.requires_grad for weight in scaled.weights] == [True, False]


@pytest.mark.parametrize(
    "multipliers", [(1.0, 1.0), (1.0, -1.0, 1.0), (1.0, 1.0, 0.0), (1.0, np.inf, 1.0)]
)
def test_bad_multipliers(multipliers):
    layers = solve_match(equilibrium_moments("relu")).layers
    with pytest.raises(ValueError, match="multipliers must be 3 numbers"):
        ExplicitNetwork(3, 4, layers, multipliers=multipliers)


def test_the_estimator_trains_with_the_multipliers(rng):
    X = rng.standard_normal((60, 4))
    y = X[:, 0] + 0.1 * rng.standard_normal(60)
    model = ExplicitEquivalentRegressor(
        kernel="ntk_recurrent",
        architecture="piecewise_linear",
        width=64,
        lr=0.03,
        max_epochs=60,
        random_state=0,
    ).fit(X, y)
    assert model.match_.depth == 1
    rate = model.match_.multipliers[0]
    assert 0 < rate < 0.1
    assert model.net_.module_.body.scales == [np.sqrt(rate)]
    assert model.score(X, y) > 0.5


def test_the_report_counts_the_multipliers(rng):
    X = rng.standard_normal((80, 400))
    model = ExplicitEquivalentRegressor(kernel="ntk", architecture="piecewise_linear")
    report = model.match_report(X)
    assert report.match.multipliers is not None
    # The equations are those of p → ∞: errors of order 1/√p.
    assert report.infinite.operator < 0.03


def test_multipliers_under_adam_act_as_their_roots():
    layers = solve_match(equilibrium_moments("tanh")).layers
    moved = []
    for rate in (1.0, 4.0):
        network = ExplicitNetwork(
            3, 8, layers, multipliers=(rate, 1.0), generator=_generator()
        )
        before = network.matrices()[0].detach().clone()
        optimizer = torch.optim.Adam(network.parameters(), lr=1e-3, eps=1e-30)
        network(torch.ones(1, 3)).sum().backward()
        optimizer.step()
        moved.append((network.matrices()[0] - before).detach())
    # Rounding of weights of unit size, in float32, against steps of 1e-3.
    assert_allclose(moved[1], 2.0 * moved[0], atol=1e-6)


def test_widths_may_be_numbers_of_numpy():
    layers = solve_match(equilibrium_moments("relu")).layers
    network = ExplicitNetwork(4, np.int64(8), layers)
    assert network(torch.ones(2, 4)).shape == (2, 8)


def test_networks_print_what_they_are():
    layer = EquilibriumLayer(30, 16, activation="tanh", bias_variance=0.1)
    assert (
        "n_features=30, width=16, activation=tanh, recurrent_variance=0.2, "
        "input_variance=0.8, bias_variance=0.1"
    ) in repr(layer)
    layers = solve_match(equilibrium_moments("relu")).layers
    widths, names = [5] * len(layers), [str(layer.activation) for layer in layers]
    assert (f"n_features=3, widths={widths}, activations=[{', '.join(names)}]") in repr(
        ExplicitNetwork(3, 5, layers)
    )
