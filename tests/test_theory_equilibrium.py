"""τ*, stability, exact kernels and high-dimensional equivalents."""

import re
from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.special import poch

from sklearn_deq import Activation
from sklearn_deq.datasets import make_gaussian_mixture
from sklearn_deq.exceptions import SolverWarning
from sklearn_deq.kernels import deq_kernel, explicit_kernel
from sklearn_deq.theory import (
    ACTIVATIONS,
    _equilibrium_kernel,
    _power_series,
    equilibrium_kernel,
    equilibrium_moments,
    equilibrium_variance,
    get_activation,
    high_dimensional_equivalent,
    lipschitz_constant,
    solve_match,
)
from sklearn_deq.theory._equivalents import _mixed_moments
from sklearn_deq.theory._moments import hermite_coefficients


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("center", [True, False])
def test_tau_star_is_the_fixed_point_of_a_sampled_map(name, center, rng):
    m = equilibrium_moments(name, 0.3, 0.6, bias_variance=0.1, tau0=1.2, center=center)
    xi = rng.standard_normal(400_000)
    values = get_activation(name).function(m.tau_star * xi)
    centred = (values - values.mean() if center else values) ** 2
    expected = 0.3 * centred.mean() + 0.6 * 1.2**2 + 0.1
    error = 0.3 * centred.std() / np.sqrt(xi.size)
    assert abs(m.tau_star**2 - expected) < 5 * error + 1e-12


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_variances_solve_their_equation(name):
    m = equilibrium_moments(name, 0.4, 0.5)
    s = np.geomspace(0.05, 20, 30)
    q = equilibrium_variance(m, s)
    G = equilibrium_kernel(m).diagonal(s)
    assert_allclose(q, 0.4 * G + 0.5 * s, rtol=1e-12)


@pytest.mark.parametrize(
    ("activation", "sa", "sb", "condition"),
    [
        ("relu", 2.1, 0.5, "fails"),
        ("tanh", 4.0, 0.5, "χ = "),
        # χ is still 0.63 where the norm loses its fixed point (docs/theory.md, 1).
        (np.exp, 0.112, 0.5, "no fixed point"),
    ],
)
def test_unstable_settings_are_refused(activation, sa, sb, condition):
    with pytest.raises(ValueError, match=condition) as info:
        equilibrium_moments(activation, sa, sb)
    assert f"recurrent_variance={sa:.4g}" in str(info.value)


@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("variance", [1.2, 1.9, 2.5, 20.0])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_what_is_said_of_an_unstable_setting_is_true(name, variance, center):
    """The value that is named fails the condition, which is that of some rows only."""
    try:
        m = equilibrium_moments(name, variance, center=center)
        equilibrium_variance(m, [0.02, 0.5, 1.0, 2.0, 5.0])
    except ValueError as error:
        message = str(error)
        assert f"recurrent_variance={variance:.4g}" in message
        named = re.search(r"up to ([\d.e+]+)", message)
        assert (named is None) == ("no fixed point" in message)
        assert named is None or float(named[1]) >= 1.0
        assert ("< 1 (a stable" in message) == (named is not None)
    else:
        # Both slopes are at most one below the limit that holds for all norms.
        assert m.chi < 1.0


def test_tanh_at_four_has_the_documented_values():
    """docs/theory.md, 1: τ* = 1.68, χ = 1.20 at σ_a² = 4, σ_b² = 0.5."""
    with pytest.raises(ValueError, match=r"up to 1\.2"):
        equilibrium_moments("tanh", 4.0, 0.5)


def test_instability_at_one_sample_is_found():
    """docs/theory.md, 1: stable at τ*, but not for a sample with s_ii = 0.01."""
    m = equilibrium_moments("tanh", 1.5, 1.5)
    assert_allclose(m.chi, 0.49, atol=0.01)
    with pytest.raises(ValueError, match="for samples"):
        equilibrium_variance(m, [0.01, 1.0])


@pytest.mark.parametrize("name", ["recurrent_variance", "input_variance", "tau0"])
@pytest.mark.parametrize("value", [-0.1, np.nan, np.inf])
def test_bad_parameters(name, value):
    with pytest.raises(ValueError, match=name):
        equilibrium_moments("relu", **{name: value})


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_gram_matrix_equals_plain_iteration_of_the_duals(name, rng):
    """The table and Newton against the definition, by Picard iteration."""
    from sklearn_deq.theory import dual_activation

    X = rng.standard_normal((6, 5)) * rng.uniform(0.5, 1.5, (6, 1))
    S = X @ X.T / 5
    m = equilibrium_moments(name, 0.3, 0.6, bias_variance=0.1)
    means = np.zeros(6)
    G = np.zeros((6, 6))
    for _ in range(200):
        L = 0.3 * G + 0.6 * S + 0.1
        q = np.diag(L)
        xi, w = np.polynomial.hermite_e.hermegauss(120)
        if name in ("relu", "leaky_relu", "elu"):
            # Split at the kink: half-line Gauss–Legendre.
            t, v = np.polynomial.legendre.leggauss(80)
            x = np.concatenate([5 * (t - 1), 5 * (t + 1)])
            xi, w = x, np.concatenate([5 * v, 5 * v]) * np.exp(-(x**2) / 2)
        w = w / np.sqrt(2 * np.pi)
        means = get_activation(name).function(np.sqrt(q)[:, None] * xi) @ w
        bound = np.sqrt(np.outer(q, q))
        new = dual_activation(name, q[:, None], q[None, :], np.clip(L, -bound, bound))
        new = new - m.offset * (means[:, None] + means) + m.offset**2
        if np.abs(new - G).max() < 1e-15:
            break
        G = new
    K = deq_kernel(
        X,
        activation=name,
        recurrent_variance=0.3,
        input_variance=0.6,
        bias_variance=0.1,
    )
    assert_allclose(K, G, rtol=0, atol=2e-8)


def _relative_error(A, B):
    return np.linalg.norm(A - B, 2) / np.linalg.norm(B, 2)


@pytest.mark.parametrize("kernel", ["ck", "ntk", "ntk_recurrent"])
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_equivalent_approaches_the_exact_kernel(activation, kernel):
    """The error falls like p^{-1/2}: by two from p = 200 to 800, spread 20 %."""
    errors = []
    for p in (200, 800):
        per_seed = []
        for seed in range(3):
            X, _ = make_gaussian_mixture(int(0.8 * p), p, random_state=seed)
            tau0 = np.sqrt(np.mean(X**2))
            m = equilibrium_moments(activation, 0.4, 0.6, tau0=tau0)
            exact = deq_kernel(
                X,
                kernel=kernel,
                activation=activation,
                recurrent_variance=0.4,
                input_variance=0.6,
                tau0=tau0,
            )
            equivalent = high_dimensional_equivalent(X, m, kernel=kernel)
            per_seed.append(_relative_error(equivalent, exact))
        errors.append(np.mean(per_seed))
    assert 1.5 < errors[0] / errors[1] < 2.6


@pytest.mark.slow
@pytest.mark.parametrize(("kernel", "seen"), [("ck", 0.020), ("ntk", 0.040)])
def test_equivalent_reaches_the_documented_error(kernel, seen):
    """docs/theory.md, 3: ReLU, σ_a² = 0.4, p = 800."""
    errors = []
    for seed in range(3):
        X, _ = make_gaussian_mixture(640, 800, random_state=seed)
        tau0 = np.sqrt(np.mean(X**2))
        m = equilibrium_moments("relu", 0.4, 0.6, tau0=tau0)
        exact = deq_kernel(
            X, kernel=kernel, recurrent_variance=0.4, input_variance=0.6, tau0=tau0
        )
        errors.append(
            _relative_error(high_dimensional_equivalent(X, m, kernel=kernel), exact)
        )
    assert_allclose(np.mean(errors), seen, rtol=0.25)


def test_labelled_form_is_as_good():
    p = 600
    X, y = make_gaussian_mixture(480, p, random_state=0)
    tau0 = np.sqrt(np.mean(X**2))
    m = equilibrium_moments("relu", 0.4, 0.6, tau0=tau0)
    exact = deq_kernel(X, recurrent_variance=0.4, input_variance=0.6, tau0=tau0)
    covariances = np.array([np.eye(p), (1 + 8 / np.sqrt(p)) * np.eye(p)])
    labelled = high_dimensional_equivalent(X, m, y=y, covariances=covariances)
    assert _relative_error(labelled, exact) < 0.04


@pytest.mark.parametrize(
    ("setting", "bounds"),
    [({"bias_variance": 0.3}, (0.005, 0.0025)), ({"center": False}, (0.03, 0.015))],
)
def test_equivalent_with_bias_or_without_centring(setting, bounds):
    for p, bound in zip((400, 1000), bounds, strict=True):
        X, _ = make_gaussian_mixture(int(0.4 * p), p, random_state=0)
        tau0 = np.sqrt(np.mean(X**2))
        m = equilibrium_moments("relu", 0.4, 0.6, tau0=tau0, **setting)
        exact = deq_kernel(
            X, recurrent_variance=0.4, input_variance=0.6, tau0=tau0, **setting
        )
        assert _relative_error(high_dimensional_equivalent(X, m), exact) < bound


def test_general_equivalent_reduces_to_the_theorem():
    from sklearn_deq.theory._equivalents import _general_equivalent

    X, _ = make_gaussian_mixture(30, 60, random_state=0)
    for name in ("relu", "tanh", "softplus"):
        m = equilibrium_moments(name, 0.4, 0.6, tau0=np.sqrt(np.mean(X**2)))
        assert_allclose(
            _general_equivalent(X @ X.T / 60, m),
            high_dimensional_equivalent(X, m),
            atol=1e-10,
        )


@pytest.mark.parametrize(
    ("X", "labels", "message"),
    [
        (np.ones(3), {}, "X must have two dimensions, got 1"),
        (np.eye(3), {"y": [0, 0, 1]}, "y and covariances must be given together"),
        (
            np.eye(3),
            {"y": np.array([0, 1]), "covariances": np.ones((2, 3, 3))},
            r"y must have shape \(3,\) and covariances \(2, 3, 3\); got \(2,\)",
        ),
    ],
)
def test_equivalents_say_which_shapes_they_take(X, labels, message):
    with pytest.raises(ValueError, match=message):
        high_dimensional_equivalent(X, equilibrium_moments("relu"), **labels)


def test_no_equivalent_is_said_so():
    X = np.ones((3, 4))
    m = equilibrium_moments("relu", bias_variance=0.1)
    with pytest.raises(ValueError, match="use the exact kernel"):
        high_dimensional_equivalent(X, m, kernel="ntk")
    with pytest.raises(ValueError, match="center=True"):
        solve_match(m)


@pytest.mark.parametrize(("activation", "bound"), [("relu", 0.01), ("tanh", 0.02)])
def test_matched_kernel_is_within_percents_on_digits(activation, bound, digits):
    X = digits[0][:400]
    tau0 = np.sqrt(np.mean(X**2))
    match = solve_match(equilibrium_moments(activation, tau0=tau0))
    exact = deq_kernel(X, activation=activation, tau0=tau0)
    assert _relative_error(explicit_kernel(X, layers=match.layers), exact) < bound


@pytest.mark.parametrize(
    "function",
    [
        lambda u: np.clip(u, -1, 1),
        lambda u: np.tanh(20 * (u - 2)),
        lambda u: np.exp(-200 * (u - 3.7) ** 2),
        lambda u: np.sin(30 * u),
    ],
    ids=["undeclared kinks", "step", "bump", "waves"],
)
def test_moments_that_the_rule_misses_are_warned_of(function):
    with pytest.warns(SolverWarning, match="Moments of <lambda> are only good to"):
        equilibrium_moments(Activation(function), 1e-4)


@pytest.mark.parametrize("s", [[-0.5], [np.nan], [1.0, np.inf]])
def test_squares_that_are_none_are_refused(s):
    with pytest.raises(ValueError, match="finite and not negative"):
        equilibrium_variance(equilibrium_moments("tanh"), s)


def test_of_no_sample_there_is_no_variance():
    assert equilibrium_variance(equilibrium_moments("tanh"), []).shape == (0,)


def test_equivalents_of_what_is_not_finite_are_refused():
    X = np.ones((3, 4))
    X[1, 2] = np.nan
    with pytest.raises(ValueError, match="NaN or infinity"):
        high_dimensional_equivalent(X, equilibrium_moments("relu"))


def test_the_steepest_slope_may_lie_far_out():
    function = Activation(
        lambda u: np.where(abs(u) < 30, 0.1 * u, u - 27 * np.sign(u)),
        kinks=(-30.0, 30.0),
    )
    assert_allclose(lipschitz_constant(function), 1.0, rtol=1e-9)
    for growing in (lambda u: u * np.log1p(abs(u)), lambda u: np.abs(u) ** 1.1):
        with pytest.raises(ValueError, match="faster than linearly"):
            lipschitz_constant(Activation(growing))


def test_moments_print_what_they_are_of():
    moments = equilibrium_moments("relu", 0.3, 0.7)
    text = str(moments)
    assert text.startswith("EquilibriumMoments: relu, centred, recurrent_variance=0.3")
    assert f"chi={moments.chi:.6g}" in text


def test_equations_that_are_not_solved_are_spoken_of(monkeypatch):
    """No input is known that needs so many steps; with one step none suffices."""
    kernel = equilibrium_kernel(equilibrium_moments("tanh", 0.5, 0.5))
    state = kernel.states(np.array([1.0]))
    monkeypatch.setattr(_equilibrium_kernel, "_MAX_STEPS", 1)
    with pytest.warns(SolverWarning, match="not solved in 1 steps"):
        kernel.entries(state, state, np.array([0.3]))
    monkeypatch.undo()
    monkeypatch.setattr(_power_series, "_MAX_STEPS", 1)
    with pytest.warns(SolverWarning, match="not found in 1 steps"):
        solve_match(equilibrium_moments("erf", 0.4, 0.6), architecture="hermite", tol=1)


@pytest.mark.parametrize("name", ["relu", "tanh", "elu", "softplus"])
@pytest.mark.parametrize("rho", [0.1, 0.6, 0.9])
def test_moments_of_the_equivalent_are_those_of_hermite_series(name, rho):
    """E[φ^(i) φ^(j)] = q^{−(i+j)/2} Σ_k h_{k+i} h_{k+j} √((k+i)!(k+j)!)/k! ρᵏ."""
    m = equilibrium_moments(name, 0.3, 0.6, bias_variance=0.2)
    q = m.tau_star**2
    h = hermite_coefficients(
        m.activation.function, m.activation.kinks, np.array([q]), 512
    )[0]
    h[0] -= m.offset
    k = np.arange(500)

    def expectation(i, j):
        weight = poch(k + 1, i) * poch(k + 1, j)
        series = h[k + i] * h[k + j] * np.sqrt(weight) * rho**k
        return series.sum() * q ** (-0.5 * (i + j))

    expected = [expectation(1, 1), expectation(2, 2)]
    expected += [0.5 * expectation(2, 0), 0.5 * expectation(3, 1)]
    assert_allclose(_mixed_moments(m, q, rho), expected, rtol=1e-9, atol=1e-11)


def test_equivalent_of_small_data_with_a_bias(rng):
    """Correlations near 1: no series in them serves."""
    X = rng.standard_normal((100, 400))
    X *= 0.01 / np.sqrt(np.mean(X**2, axis=1, keepdims=True))
    tau0 = np.sqrt(np.mean(X**2))
    m = equilibrium_moments("relu", 0.2, 0.8, bias_variance=1.0, tau0=tau0)
    exact = deq_kernel(X, bias_variance=1.0, tau0=tau0)
    found = high_dimensional_equivalent(X, m)
    scale = np.abs(exact - exact.mean()).max()
    assert np.abs(found - exact).max() < 1e-4 * scale


def _elu_plus_one(x):
    return np.where(x > 0, x, np.expm1(np.minimum(x, 0.0))) + 1.0


_REST = [
    # φ' and φ'' at 0, where φ'' jumps the mean of both sides.
    ("tanh", 1.0, 0.0),
    ("silu", 0.5, 0.5),
    ("sigmoid", 0.25, 0.0),
    ("softplus", 0.5, 0.25),
    ("elu", 1.0, 0.5),
    (Activation(_elu_plus_one, kinks=(0.0,)), 1.0, 0.5),
    (Activation(np.cos), 0.0, -1.0),
    (Activation(lambda x: np.maximum(x, 0.1 * x - 9e-5), kinks=(-1e-4,)), 1.0, 0.0),
]


@pytest.mark.parametrize(("phi", "slope", "bend"), _REST)
@pytest.mark.parametrize("tau0", [0.0, 1e-20, 1e-16, 1e-8])
def test_moments_at_rest_are_limits(phi, slope, bend, tau0):
    """Of differences of φ over arguments that are rounding there is nothing left.

    At the least variances, 1e-12 and 1e-9 where φ(0) ≠ 0, they err by the step, of an
    ELU with its jump of φ'' by its root, 3e-5 at most, times 0.4; and by 2e-16 |φ(0)|
    over the variance.
    """
    m = equilibrium_moments(phi, 0.2, 0.8, tau0=tau0)
    found = [m.E_dphi, m.E_d2phi, m.E_dphi2, 0.5 * m.E_d2phisq, m.chi]
    expected = [slope, bend, slope**2, slope**2, 0.2 * slope**2]
    assert_allclose(found, expected, atol=5e-5)


@pytest.mark.parametrize("tau0", [0.0, 1e-16, 1e-8])
def test_what_is_unstable_is_so_at_rest(tau0):
    """χ of an activation with φ(0) ≠ 0 and a kink there was 0 without a drive."""
    phi = Activation(_elu_plus_one, kinks=(0.0,))
    with pytest.raises(ValueError, match="Unstable DEQ"):
        equilibrium_moments(phi, 1.5, 0.8, tau0=tau0)


def test_kinks_beside_0_that_are_not_declared_cost_accuracy_only(rng):
    """What is not resolved there is no reason to refuse data with a row of zeros."""
    shrink = Activation(lambda x: np.sign(x) * np.maximum(np.abs(x) - 1e-3, 0.0))
    known = replace(shrink, kinks=(-1e-3, 1e-3))
    X = rng.standard_normal((6, 3))
    X[0] = 0.0
    expected = deq_kernel(X, activation=known)
    with pytest.warns(SolverWarning, match="tabulated to a relative error"):
        found = deq_kernel(X, activation=shrink)
    # As is said, by 3e-3 of the largest entry.
    assert_allclose(found, expected, atol=3e-3 * expected.max())


@pytest.mark.parametrize(
    "settings",
    [
        {"tau0": 1e120},
        {"tau0": np.float64(1e200)},
        {"input_variance": 1e308},
        {"input_variance": 1e200, "tau0": 1e-80},
        {"recurrent_variance": np.float64(1e200)},
        {"bias_variance": 1e150},
    ],
)
@pytest.mark.parametrize("name", ["relu", "gelu", "tanh"])
def test_what_is_too_large_is_said(name, settings):
    with pytest.raises(ValueError, match=r"too large to compute with.*scale the data"):
        equilibrium_moments(name, **{"tau0": 3.0, **settings})


@pytest.mark.parametrize("name", ["relu", "gelu", "tanh"])
def test_samples_that_are_too_large_are_said(name):
    m = equilibrium_moments(name)
    with pytest.raises(ValueError, match=r"too large to compute with.*scale the data"):
        equilibrium_variance(m, [1.0, 1e200])


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize(
    "settings", [{"tau0": 1e6}, {"input_variance": 1e139, "tau0": 1e-66}]
)
def test_coefficients_of_large_data_are_finite(name, settings):
    m = equilibrium_moments(name, 0.9, **settings)
    for kernel in ("ck", "ntk", "ntk_recurrent"):
        assert np.isfinite(m.coefficients(kernel)).all()
