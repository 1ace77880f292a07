"""How deep an explicit equivalent has to be."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from sklearn_deq.exceptions import MatchWarning
from sklearn_deq.theory import (
    ARCHITECTURES,
    RoundedPiece,
    _depth,
    equilibrium_moments,
    explicit_moments,
    minimal_depth,
    solve_match,
)

BENT = ["relu", "leaky_relu", "gelu", "silu", "elu", "softplus"]
ODD = ["tanh", "erf", "sin", "sigmoid"]


@pytest.mark.parametrize("variance", [0.2, 0.9])
@pytest.mark.parametrize("name", BENT + ODD)
def test_ck(name, variance):
    found = minimal_depth(name, variance, 1 - variance)
    assert found.depth == (1 if name in ODD else 2)
    moments = equilibrium_moments(name, variance, 1 - variance)
    assert solve_match(moments).depth == found.depth
    if name in BENT:
        _, a2, a3, _ = moments.alpha
        assert_allclose(found.quantities["alpha3/(2 alpha2)"], a3 / (2 * a2))
        with pytest.warns(MatchWarning):
            one = solve_match(moments, architecture="hard_tanh")
        assert one.residual == one.distance == 1.0


@pytest.mark.parametrize("kernel", ["ntk", "ntk_recurrent"])
@pytest.mark.parametrize("name", [*BENT, "tanh"])
def test_ntk_needs_one_layer_and_two_learning_rates(name, kernel):
    found = minimal_depth(name, 0.5, 0.5, kernel=kernel)
    match = solve_match(equilibrium_moments(name, 0.5, 0.5), kernel=kernel)
    assert found.depth == match.depth == 1
    if name in BENT:
        rate = found.quantities["lambda1/lambda2"]
        assert_allclose(match.multipliers, [rate, 1.0], rtol=1e-9)


def test_equal_norms_need_one_layer():
    found = minimal_depth("relu", equal_norms=True)
    assert found.depth == 1
    assert "norms are equal" in found.reason
    # Without the coefficient of χχᵀ one of our own layers will do as well.
    match = solve_match(
        equilibrium_moments("relu"), norms=(1.0, 1.0), architecture="piecewise_linear"
    )
    assert (match.depth, match.residual < 1e-8) == (1, True)
    assert "alpha2" not in match.target


def test_a_hard_tanh_is_enough_only_for_tame_odd_activations():
    tame = minimal_depth("tanh")
    assert "hard tanh" in tame.reason
    wild = minimal_depth("sin", 0.5, 1.5)
    assert wild.depth == 1
    assert wild.quantities["alpha1 tau0^2/gamma2"] < 2 / np.pi
    assert "turns back" in wild.reason
    match = solve_match(equilibrium_moments("sin", 0.5, 1.5))
    assert (match.architecture, match.depth) == ("piecewise_linear", 1)
    assert match.residual < 1e-8


def test_one_layer_where_alpha3_is_twice_alpha2():
    """½ E[(φ²)''] = E[φ']² makes α4 = σ_a² α1 + σ_b², which is what one layer has."""

    def gap(rise):
        moments = equilibrium_moments(RoundedPiece(1.0, 0.3, rise, 1.0).activation())
        return moments.alpha[2] / (2 * moments.alpha[1]) - 1, moments

    low, high = -0.9, 0.9
    assert gap(low)[0] * gap(high)[0] < 0
    for _ in range(50):
        middle = 0.5 * (low + high)
        low, high = (
            (middle, high) if gap(low)[0] * gap(middle)[0] > 0 else (low, middle)
        )
    moments = gap(low)[1]
    found = minimal_depth(moments.activation)
    assert (found.depth, found.reason) == (1, "α3 = 2 α2, as for any single layer")
    match = solve_match(moments)
    assert (match.depth, match.residual < 1e-8) == (1, True)


def test_small_data_and_elu_need_three():
    found = minimal_depth("elu", 0.9, 0.1, tau0=0.3)
    assert found.depth == 3
    assert found.quantities["residual"] < 1e-8


def test_no_network_found_is_said(monkeypatch):
    """None is known among stable DEQs, so take the families away that would serve."""
    leaky = {"leaky_relu": ARCHITECTURES["leaky_relu"]}
    monkeypatch.setattr(_depth, "ARCHITECTURES", leaky)
    found = minimal_depth("elu")
    assert found.depth == 2
    assert "at least 2, but no network found" in found.reason
    assert found.quantities["residual"] > 1e-3


def test_result_prints():
    text = str(minimal_depth("relu"))
    assert text.startswith("DepthResult: 2 hidden layers\n  α3/(2 α2) = 0.96")
    assert "alpha3/(2 alpha2) = 0.96" in text
    with pytest.raises(ValueError, match="kernel must be"):
        minimal_depth("relu", kernel="nngp")


def test_one_layer_has_the_ratios_of_the_notes():
    relu = equilibrium_moments("relu").activation
    rate = 0.7
    found = explicit_moments([relu], multipliers=[rate, 1.0])
    assert_allclose(found.alpha[2], 2 * found.alpha[1], rtol=1e-12)
    assert_allclose(found.beta[2], (2 + 4 * rate) * found.beta[1], rtol=1e-12)


def test_a_deq_that_does_not_see_its_input():
    with pytest.raises(ValueError, match="does not see its input"):
        minimal_depth("relu", 0.2, 0.0)


@pytest.mark.parametrize("tol", [-1, np.nan, "x", True])
def test_what_is_no_tolerance(tol):
    with pytest.raises(ValueError, match="tol must be"):
        minimal_depth("tanh", tol=tol)
