"""Explicit recursions and the matching equations."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose

from sklearn_deq.exceptions import MatchWarning
from sklearn_deq.kernels import deq_kernel_diag, explicit_kernel_diag
from sklearn_deq.theory import (
    ACTIVATIONS,
    ARCHITECTURES,
    Activation,
    RoundedPiece,
    ThreePiece,
    equilibrium_kernel,
    equilibrium_moments,
    explicit_moments,
    explicit_pair_kernel,
    get_activation,
    minimal_depth,
    solve_match,
)
from sklearn_deq.theory._equations import EQUATIONS
from sklearn_deq.theory._explicit import propagate
from sklearn_deq.theory._families import Family, Units
from sklearn_deq.theory._layers import LayerMoments, layer_moments
from sklearn_deq.theory._least_squares import jacobian, least_squares


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
    m = equilibrium_moments("gelu")
    with pytest.warns(MatchWarning, match="architecture='rounded' reaches") as caught:
        match = solve_match(m, architecture="piecewise_linear")
    assert "which cannot be below 5.1e-03" in str(caught[0].message)
    assert "out of reach" in str(match)
    assert not match.converged
    # The bound is valid, and close: |x| has too much energy for GELU.
    assert 0.005 < match.distance < match.residual < 0.01
    with pytest.warns(MatchWarning, match="architecture='hard_tanh' reaches"):
        solve_match(equilibrium_moments("tanh"), architecture="leaky_relu")


@pytest.mark.parametrize("kernel", ["ck", "ntk"])
def test_a_target_beyond_all_networks_is_reported(kernel):
    """Less energy on the diagonal than degrees one and two have."""
    m = equilibrium_moments("gelu")
    # E[φ'²] as well, so that κ² is half as large.
    small = replace(m, gamma2=0.5 * m.gamma2, E_dphi2=0.5 * m.E_dphi2)
    with pytest.warns(MatchWarning, match="no architecture of this release"):
        match = solve_match(small, kernel=kernel)
    assert "none is within" in match.reason
    # Doubled energy and halved rest: errors of a third each way.
    assert 0.2 < match.distance < 0.35
    assert match.distance <= match.residual < 3 * match.distance


NAMES = [name for name in ACTIVATIONS if name != "identity"]


def by_quadrature(match, kernel, tau0=1.0):
    """The network's coefficients with none of the closed forms."""
    plain = [
        Activation(
            lambda x, f=layer.activation.function: f(x), kinks=layer.activation.kinks
        )
        for layer in match.layers
    ]
    found = explicit_moments(plain, tau0=tau0, multipliers=match.multipliers)
    return dict(zip(EQUATIONS[kernel], found.coefficients(kernel), strict=True))


@pytest.mark.parametrize("kernel", ["ck", "ntk", "ntk_recurrent"])
@pytest.mark.parametrize("variance", [0.1, 0.2, 0.5, 0.9])
@pytest.mark.parametrize("name", NAMES)
def test_auto_is_exact_on_the_grid(name, variance, kernel, recwarn):
    match = solve_match(
        equilibrium_moments(name, variance, 1 - variance), kernel=kernel
    )
    assert match.converged
    assert match.residual < 1e-10
    assert match.distance == 0.0
    assert not recwarn.list
    assert match.depth == len(match.layers) <= (2 if kernel == "ck" else 1)
    for name, value in by_quadrature(match, kernel).items():
        floor = 1e-6 * max(match.target.values())
        assert abs(value - match.target[name]) <= 1e-7 * max(
            match.target[name], floor
        ), name
    for layer in match.layers:
        slopes = layer.activation.derivative(np.linspace(-8, 8, 4001) * layer.tau)
        assert np.abs(slopes).max() < 3.0
    if match.multipliers is not None:
        assert match.multipliers[-1] == 1.0
        assert 0.0 <= min(match.multipliers) <= max(match.multipliers) < 2.0


@pytest.mark.parametrize("tau0", [0.3, 2.5])
@pytest.mark.parametrize("name", NAMES)
def test_other_sizes_of_the_data(name, tau0):
    match = solve_match(equilibrium_moments(name, 0.5, 0.5, tau0=tau0))
    assert match.residual < 1e-8
    assert match.distance == 0.0


def test_achieved_values_by_monte_carlo(rng):
    """E[σ²], E[σ'] and E[σ''] of GELU's two layers from ten million numbers."""
    match = solve_match(equilibrium_moments("gelu"))
    x = rng.standard_normal(10_000_000)
    alpha1, alpha2, alpha3, growths = 1.0, 0.0, 0.0, 1.0
    for layer in match.layers:
        values, tau = layer(layer.tau * x), layer.tau
        A = np.mean(x * values) ** 2 / tau**2
        Q = np.mean((x**2 - 1) * values) ** 2 / tau**4
        growth = np.mean((x**2 - 1) * values**2) / (2 * tau**2)
        alpha2 = A * alpha2 + Q / 4 * growths**2
        alpha1, alpha3 = A * alpha1, A * alpha3 + Q / 2 * alpha1**2
        growths *= growth
    found = [alpha1, alpha2, alpha3, np.mean(values**2)]
    assert_allclose(found, list(match.target.values()), rtol=1e-2)


def test_a_single_learning_rate_if_asked():
    m = equilibrium_moments("relu")
    with pytest.warns(MatchWarning):
        plain = solve_match(
            m, kernel="ntk", architecture="leaky_relu", multipliers=False
        )
    assert plain.multipliers is None
    several = solve_match(m, kernel="ntk", architecture="piecewise_linear")
    assert several.residual < 1e-8 < 1e-2 < plain.residual
    assert solve_match(m, kernel="ntk", multipliers=False).depth == 2
    assert "multipliers, readout last" in str(several)


def test_matches_are_deterministic():
    m = equilibrium_moments("silu", 0.9, 0.1)
    assert solve_match(m) == solve_match(m)


@pytest.mark.parametrize("family", ["piecewise_linear", "rounded"])
def test_complex_steps_are_differences(family, rng):
    units = Units(0.6, 0.2, 0.3, 1.0, 0.1)
    chain = Family(ARCHITECTURES[family], 2, True, True, units)

    def coefficients(x):
        *_, beta, kappa2 = propagate(chain.moments(x), 1.0, chain.multipliers(x))
        return np.stack(np.broadcast_arrays(*beta, kappa2), axis=-1)

    x = chain.starts(0.5)
    _, slopes = jacobian(coefficients, x)
    step = 1e-6
    for k in range(x.shape[1]):
        shift = step * np.eye(x.shape[1])[k]
        difference = (coefficients(x + shift) - coefficients(x - shift)) / (2 * step)
        assert_allclose(slopes[..., k], difference, atol=1e-8)


def test_least_squares_from_several_starts_in_a_box():
    """A circle and a line: two solutions, one of them outside of the box."""

    def errors(x):
        return np.stack(
            [x[..., 0] ** 2 + x[..., 1] ** 2 - 2, x[..., 0] - x[..., 1]], -1
        )

    starts = np.array([[0.3, 1.5], [-0.5, -1.0], [np.nan, 0.0]])
    points, values = least_squares(
        errors, starts, np.array([0.0, -3.0]), np.array([3.0, 3.0]), tol=1e-13
    )
    assert_allclose(points[0], [1.0, 1.0], atol=1e-12)
    assert np.abs(values[0]).max() <= 1e-13
    assert points[1, 0] >= 0.0
    assert not np.isfinite(values[2]).any()


@pytest.mark.parametrize("namespace", ["numpy", "torch"])
@pytest.mark.parametrize("derivative", [False, True])
def test_dual_of_a_rounded_layer(namespace, derivative, rng):
    sigma = RoundedPiece(0.3, -0.4, 0.8, 0.7)
    torch = pytest.importorskip("torch") if namespace == "torch" else None
    to = np.array if torch is None else torch.tensor
    kind = {"dtype": np.float64 if torch is None else torch.float64}
    q1, q2, c = 1.7, 0.6, 0.55
    nodes, weights = np.polynomial.hermite_e.hermegauss(120)
    weights = weights / weights.sum()
    u = np.sqrt(q1) * nodes[:, None]
    v = c / q1 * u + np.sqrt(q2 - c**2 / q1) * nodes[None]
    f = sigma.derivative if derivative else sigma
    expected = weights @ (f(u) * f(v)) @ weights
    found = sigma.activation().dual(
        *(to([value], **kind) for value in (q1, q2, c)), derivative
    )
    assert_allclose(np.asarray(found), expected, rtol=1e-10)


def test_layer_functions_differentiate_and_compare():
    for kind in (ThreePiece, RoundedPiece):
        sigma = kind(0.3, -0.4, 0.8, 0.7)
        x = np.linspace(-3, 3, 13)
        slopes = (sigma(x + 0.05 + 1e-7) - sigma(x + 0.05 - 1e-7)) / 2e-7
        assert_allclose(sigma.derivative(x + 0.05), slopes, atol=1e-7)
        assert pickle.loads(pickle.dumps(sigma.activation())) == sigma.activation()


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


@pytest.mark.parametrize(
    ("activation", "kernel"), [("silu", "ntk"), ("softplus", "ck"), ("elu", "ntk")]
)
def test_of_several_solutions_the_closest_off_tau0(activation, kernel):
    """Those that the equations cannot tell apart err up to fifty times as much."""
    m = equilibrium_moments(activation, 0.4, 0.6)
    match = solve_match(m, kernel=kernel)
    # Norms 6 % off tau0, and a cosine that is no edge of the kernels.
    s, rho = np.array([0.94, 1.06]) ** 2, 0.25
    made = explicit_pair_kernel(match.layers, kernel, match.multipliers)
    found, exact = (
        pair.entries(pair.states(s), pair.states(s), rho * s)
        for pair in (made, equilibrium_kernel(m, kernel))
    )
    assert_allclose(found, exact, rtol=1e-2)


def test_what_is_no_deq_and_no_tolerance():
    moments = equilibrium_moments("tanh")
    for tol in (0, -1.0, np.nan, np.inf, "small", None):
        with pytest.raises(ValueError, match="tol must be a positive finite number"):
            solve_match(moments, tol=tol)
    with pytest.raises(ValueError, match="moments must be the EquilibriumMoments"):
        solve_match("relu")
    constant = equilibrium_moments(Activation(lambda x: 0.0 * x + 2.0))
    for architecture in ("auto", "hermite"):
        with pytest.raises(ValueError, match="A constant activation"):
            solve_match(constant, architecture=architecture)
    holes = Activation(lambda x: np.where(x > 0, x, np.nan))
    with pytest.raises(ValueError, match="must be finite for all real numbers"):
        equilibrium_moments(holes)


def test_norms_are_those_of_the_data_not_tau0():
    moments = equilibrium_moments("tanh", tau0=3.0)
    match = solve_match(moments, norms=(1.0, 1.0))
    assert "at norms of 1" in match.reason


@pytest.mark.parametrize("kernel", ["ck", "ntk", "ntk_recurrent"])
@pytest.mark.parametrize("variance", [0.2, 0.9])
def test_the_unit_of_the_data_does_not_matter(kernel, variance):
    # α2 and α3 are as τ0⁻²: those of large data once counted as 0, and a hard tanh
    # that had neither as a solution.
    found = []
    for tau0 in (1e-4, 1e-2, 1.0, 1e2, 1e3, 1e4):
        moments = equilibrium_moments("relu", variance, 1 - variance, tau0=tau0)
        match = solve_match(moments, kernel=kernel)
        assert_allclose(
            list(match.achieved.values()), list(match.target.values()), rtol=1e-8
        )
        assert "none is within" not in match.reason
        depth = minimal_depth(
            "relu", variance, 1 - variance, tau0=tau0, kernel=kernel
        ).depth
        assert match.depth == depth
        found.append((match.architecture, match.depth))
    assert len(set(found)) == 1


def test_auto_looks_at_nearly_parallel_samples():
    # A "hermite" layer was once taken in silence, whatever it is for these.
    strong = equilibrium_moments("relu", 1.2, 0.5)
    with pytest.warns(MatchWarning, match="nearly parallel.*normalize=True.*'ck'"):
        match = solve_match(strong, kernel="ntk", norms=(0.7, 1.4))
    assert match.residual_parallel > 0.03
    assert "it errs by" in match.reason
    # At ordinary variances the reason says it, and nothing warns.
    match = solve_match(equilibrium_moments("relu"), kernel="ntk", norms=(0.7, 1.4))
    assert match.architecture == "hermite"
    assert "it errs by" in match.reason


def test_data_too_large_are_refused():
    m = equilibrium_moments("relu")
    with pytest.raises(ValueError, match="too large"):
        solve_match(m, norms=(1e100, 1e100))
    with pytest.raises(ValueError, match="too large"):
        solve_match(equilibrium_moments("relu", tau0=1e80))
    with pytest.raises(ValueError, match="norms must be"):
        solve_match(m, norms="ab")
    with pytest.raises(ValueError, match="tol must be"):
        solve_match(m, tol=True)


def test_equations_for_data_of_another_size_are_warned_of():
    moments = equilibrium_moments("gelu", 0.3)
    for norms in ((2.0, 2.0), (1.5, 3.0), (0.1, 0.5)):
        with pytest.warns(MatchWarning, match="size tau0=1, but norms are from"):
            solve_match(moments, architecture="rounded", norms=norms)
    moments = equilibrium_moments("gelu", 0.3, tau0=2.0)
    match = solve_match(moments, architecture="rounded", norms=(2.0, 2.0))
    x = np.full((1, 3), 2.0)
    assert_allclose(
        explicit_kernel_diag(x, layers=match.layers),
        deq_kernel_diag(x, activation="gelu", recurrent_variance=0.3, tau0=2.0),
        rtol=1e-6,
    )


def test_homogeneous_networks_serve_data_of_any_size():
    """Nothing is warned of, which in these tests is an error."""
    match = solve_match(
        equilibrium_moments("relu"), architecture="leaky_relu", norms=(3.0, 3.0)
    )
    x = np.full((1, 3), 3.0)
    assert_allclose(
        explicit_kernel_diag(x, layers=match.layers),
        deq_kernel_diag(x, activation="relu"),
        rtol=2e-3,
    )
