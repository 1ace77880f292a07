"""Explicit recursions and the matching equations."""

import pickle

import numpy as np
import pytest
from numpy.testing import assert_allclose

from sklearn_deq.exceptions import MatchWarning
from sklearn_deq.theory import (
    ACTIVATIONS,
    RoundedPiece,
    ThreePiece,
    equilibrium_moments,
    explicit_moments,
    explicit_pair_kernel,
    get_activation,
    solve_match,
)
from sklearn_deq.theory._layers import LayerMoments, layer_moments


@pytest.mark.parametrize("variance", [0.1, 0.2, 0.4, 0.8])
@pytest.mark.parametrize("activation", ["relu", "leaky_relu"])
def test_leaky_relu_network_matches_to_1e_8(activation, variance):
    m = equilibrium_moments(activation, variance, 1 - variance)
    match = solve_match(m, architecture="leaky_relu")
    assert match.converged
    assert match.residual < 1e-8
    assert match.depth == len(match.layers) == 2


@pytest.mark.parametrize("variance", [0.1, 0.2, 0.5, 0.8])
@pytest.mark.parametrize("activation", ["tanh", "erf"])
@pytest.mark.parametrize("kernel", ["ck", "ntk", "ntk_recurrent"])
def test_hard_tanh_network_matches_to_1e_8(activation, variance, kernel):
    m = equilibrium_moments(activation, variance, 1 - variance)
    match = solve_match(m, kernel=kernel, architecture="hard_tanh")
    assert match.residual < 1e-8
    assert match.depth == 1


@pytest.mark.parametrize("variance", [0.2, 0.9])
def test_three_pieces_match_elu(variance):
    match = solve_match(equilibrium_moments("elu", variance, 1 - variance))
    assert match.architecture == "piecewise_linear"
    assert match.residual < 1e-10


@pytest.mark.parametrize("tau0", [0.3, 1.0, 2.5])
def test_achieved_values_are_those_of_the_network(tau0):
    """Recompute α and τ² of the layers by quadrature instead of closed forms."""
    m = equilibrium_moments("relu", tau0=tau0)
    match = solve_match(m)
    plain = [get_activation(layer.activation.function) for layer in match.layers]
    stripped = [
        type(phi)(lambda x, f=phi.function: f(x), kinks=layer.activation.kinks)
        for phi, layer in zip(plain, match.layers, strict=True)
    ]
    found = explicit_moments(stripped, tau0=tau0).coefficients("ck")
    assert_allclose(found, list(match.target.values()), rtol=1e-9)


@pytest.mark.parametrize(
    "sigma",
    [
        ThreePiece(0.6, 0.5, 0.0, 1.0),
        ThreePiece(0.0, 0.0, 0.9, 1.3),
        ThreePiece(0.3, -0.2, 0.8, 0.4),
        RoundedPiece(0.3, -0.2, 0.8, 0.4),
        RoundedPiece(0.6, 0.5, -0.3, 3.0),
    ],
)
@pytest.mark.parametrize("tau", [0.3, 1.0, 2.0])
def test_closed_moments_equal_quadrature(sigma, tau):
    closed = layer_moments(sigma.activation(), tau)
    plain = type(sigma.activation())(lambda x: sigma(x), kinks=sigma.kinks)
    quadrature = layer_moments(plain, tau)
    for field in LayerMoments.__dataclass_fields__:
        assert_allclose(
            getattr(closed, field),
            getattr(quadrature, field),
            rtol=1e-9,
            atol=1e-12,
            err_msg=field,
        )


def test_recursion_by_hand_for_one_layer():
    m = explicit_moments([get_activation("relu")], tau0=1.0)
    A, Q = 0.25, 1 / (2 * np.pi)
    energy = 0.5 - 1 / (2 * np.pi)
    assert_allclose(m.alpha, [A, Q / 4, Q / 2, energy], rtol=1e-12)
    # K_1 = S_1 + S ∘ Ṡ_1.
    assert_allclose(m.beta, [2 * A, Q / 4, Q / 2 + Q], rtol=1e-12)
    assert_allclose(m.kappa2, energy + 0.5, rtol=1e-12)


def test_multipliers_freeze_layers():
    relu = get_activation("relu")
    readout = explicit_moments([relu, relu], multipliers=[0, 0, 1])
    assert_allclose(readout.beta, readout.alpha[:3], rtol=1e-12)
    assert_allclose(readout.kappa2, readout.tau2, rtol=1e-12)
    with pytest.raises(ValueError, match="multipliers"):
        explicit_moments([relu], multipliers=[1])


def test_explicit_kernel_equals_finite_network(rng):
    """The infinite-width kernel against the average of wide finite networks."""
    match = solve_match(equilibrium_moments("relu"))
    X = rng.standard_normal((4, 30))
    s = np.mean(X**2, axis=1)
    pair = explicit_pair_kernel(match.layers)
    states = pair.states(s)
    exact = pair.entries(
        tuple(state[:, None] for state in states),
        tuple(state[None] for state in states),
        X @ X.T / 30,
    )
    width, total = 2000, np.zeros((4, 4))
    for _ in range(10):
        h = X / np.sqrt(30)
        for layer in match.layers:
            W = rng.standard_normal((width, h.shape[1]))
            h = layer(h @ W.T) / np.sqrt(width)
        total += h @ h.T / 10
    # Fluctuations are of order K/√(width · repeats) = 0.7 % of the diagonal.
    assert_allclose(total, exact, atol=0.03 * exact.max())
    assert_allclose(np.diag(exact), pair.diagonal(s), rtol=1e-7)


def test_poor_match_is_reported_with_advice():
    m = equilibrium_moments("gelu", 0.4, 0.6)
    with pytest.warns(MatchWarning, match="relative residual"):
        match = solve_match(m)
    assert not match.converged
    assert "none is within" in match.reason
    with pytest.warns(MatchWarning, match="architecture='hard_tanh' reaches"):
        solve_match(equilibrium_moments("tanh"), architecture="leaky_relu")


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_auto_meets_the_ck_or_says_how_far_it_is(name, recwarn):
    match = solve_match(equilibrium_moments(name))
    hard = {"gelu", "silu", "softplus"}
    # docs/theory.md, 5: between 1e-4 and 1e-2 with piecewise linear layers.
    assert match.residual < (2e-2 if name in hard else 1e-8)
    assert match.converged is (name not in hard)
    assert len(recwarn) == (name in hard)


def test_result_prints_and_pickles():
    match = solve_match(equilibrium_moments("tanh"))
    text = str(match)
    assert "hard_tanh, 1 hidden layer, residual" in text
    assert "alpha1" in text
    assert "clip(x" in text
    assert pickle.loads(pickle.dumps(match)) == match


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"kernel": "nngp"}, "kernel must be"),
        ({"architecture": "deep"}, "architecture must be"),
    ],
)
def test_unknown_names(params, message):
    with pytest.raises(ValueError, match=message):
        solve_match(equilibrium_moments("relu"), **params)
    with pytest.raises(ValueError, match="does not see its input"):
        solve_match(equilibrium_moments("relu", tau0=0.0))
