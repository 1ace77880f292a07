"""The layer made for a kernel: power series, Hermite coefficients, exact kernels."""

import pickle
import re

import numpy as np
import pytest
from numpy.polynomial.polynomial import polyder, polyval
from numpy.testing import assert_allclose
from scipy.integrate import quad
from scipy.special import eval_hermitenorm, factorial

from sklearn_deq import Activation
from sklearn_deq.exceptions import MatchWarning
from sklearn_deq.kernels import deq_kernel, explicit_kernel, explicit_kernel_diag
from sklearn_deq.theory import (
    ACTIVATIONS,
    _hermite_kernel,
    equilibrium_kernel,
    equilibrium_moments,
    solve_match,
)
from sklearn_deq.theory._hermite_match import kernel_error
from sklearn_deq.theory._hermite_series import HermiteSeries, pair_kernels
from sklearn_deq.theory._pair_series import pair_power_series
from sklearn_deq.theory._power_series import SeriesDisc, derived, kernel_power_series
from sklearn_deq.theory._rough import Rough

# The slowest series (that of ELU) takes a second.
SMOOTH = [name for name in ACTIVATIONS if not ACTIVATIONS[name].kinks]
COSINES = np.cos(np.linspace(0.0, np.pi, 21))


def exact(moments, kernel, rho, square=1.0):
    pair = equilibrium_kernel(moments, kernel)
    state = pair.states(np.array([square]))
    return pair.entries(state, state, square * rho)


@pytest.mark.parametrize("order", range(6))
@pytest.mark.parametrize("parity", [0, 1])
def test_coefficients_of_functions_with_one_kink(order, parity):
    rough = Rough(order, parity)
    found = rough.coefficients(9)

    def integrand(x, k):
        he = eval_hermitenorm(k, x) / np.sqrt(factorial(k))
        return rough(np.array(x)) * he * np.exp(-0.5 * x * x) / np.sqrt(2 * np.pi)

    for k in range(9):
        # quad is good to 1e-8 where the function has a logarithm at 0.
        halves = [quad(integrand, *ends, args=(k,))[0] for ends in ((-12, 0), (0, 12))]
        assert_allclose(found[k], sum(halves), atol=1e-8)


@pytest.mark.parametrize("kernel", ["ck", "ntk", "ntk_recurrent"])
@pytest.mark.parametrize("name", [*SMOOTH, "relu"])
@pytest.mark.parametrize("settings", [{}, {"center": False, "bias_variance": 0.3}])
def test_power_series_is_the_kernel(name, kernel, settings):
    moments = equilibrium_moments(name, 0.4, 0.6, **settings)
    series = kernel_power_series(moments, kernel, 1.3)
    assert (series >= 0).all()
    # Of a kinked φ 2,048 terms are given: |ρ|^2048 < 1e-13.
    rho = 0.985 * COSINES
    value = exact(moments, kernel, rho, 1.3)
    top = exact(moments, kernel, np.ones(1), 1.3)[0]
    assert_allclose(polyval(rho, series), value, atol=1e-12 * top)


@pytest.mark.parametrize("kernel", ["ck", "ntk", "ntk_recurrent"])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_one_layer_is_exact_on_the_sphere(name, kernel, rng):
    """Issue 4: 1e-6 for smooth φ, 1e-4 for kinked ones, on and off the diagonal."""
    X = rng.standard_normal((40, 6))
    moments = equilibrium_moments(name, 0.5, 0.5)
    match = solve_match(moments, kernel=kernel, architecture="hermite")
    assert match.converged
    settings = {"kernel": kernel, "normalize": True}
    found = explicit_kernel(X, layers=match.layers, **settings)
    expected = deq_kernel(
        X, activation=name, recurrent_variance=0.5, input_variance=0.5, **settings
    )
    # ELU's tangent kernels end after 2,048 terms, the rest are below 1e-7.
    assert_allclose(found, expected, atol=1e-6 * expected[0, 0])
    diagonal = explicit_kernel_diag(X, layers=match.layers, **settings)
    assert_allclose(np.diag(found), diagonal, rtol=1e-14)


@pytest.mark.parametrize(("variance", "bound"), [(0.02, 1e-4), (0.08, 1e-6)])
def test_a_weak_recurrence(variance, bound):
    """The parities of the coefficients differ up to k of the order of 1/σ_a²."""
    moments = equilibrium_moments("relu", variance, 1.0 - variance)
    match = solve_match(moments, kernel="ntk", architecture="hermite", tol=bound)
    assert match.converged


@pytest.mark.parametrize("name", ["relu", "tanh", "gelu"])
@pytest.mark.parametrize(("kernel", "rate"), [("ck", 0.0), ("ntk", 1.0)])
def test_the_table_has_that_kernel(name, kernel, rate):
    """Hermite coefficients of the function that is evaluated, by the midpoint rule."""
    moments = equilibrium_moments(name, tau0=1.7)
    match = solve_match(moments, kernel=kernel, architecture="hermite")
    sigma = match.layers[0].activation.function
    step = 2.0**-11
    # 0, where σ has its kink, lies between two points.
    x = step * (np.arange(-(2**14), 2**14) + 0.5)
    weights = step * np.exp(-0.5 * x * x) / np.sqrt(2 * np.pi)
    values = weights * sigma(1.7 * x)
    orders = np.arange(100)
    found = [
        values @ eval_hermitenorm(k, x) / np.sqrt(factorial(k, exact=False))
        for k in orders
    ]
    energies = np.square(found) * (1.0 + rate * orders)
    # 0.85^100 < 1e-7; the table and the rule err by 1e-6.
    rho = np.array([-0.85, -0.3, 0.0, 0.5, 0.85])
    top = exact(moments, kernel, np.ones(1), 1.7**2)[0]
    expected = exact(moments, kernel, rho, 1.7**2)
    assert_allclose(polyval(rho, energies), expected, atol=3e-6 * top)


def test_readout_alone_has_a_tangent_kernel(rng):
    """The NTK of a DEQ as the CK of a layer: its weights need no training."""
    X = rng.standard_normal((20, 5))
    moments = equilibrium_moments("relu")
    match = solve_match(
        moments, kernel="ntk", architecture="hermite", trainable="readout"
    )
    assert match.multipliers == (0.0, 1.0)
    found = explicit_kernel(X, layers=match.layers, kernel="ck", normalize=True)
    expected = deq_kernel(X, kernel="ntk", normalize=True)
    assert_allclose(found, expected, atol=1e-6 * expected[0, 0])
    with_rates = explicit_kernel(
        X,
        layers=match.layers,
        kernel="ntk",
        multipliers=match.multipliers,
        normalize=True,
    )
    assert_allclose(with_rates, found, atol=1e-14)
    with pytest.raises(ValueError, match="architecture='hermite'"):
        solve_match(
            moments, kernel="ntk", architecture="leaky_relu", trainable="readout"
        )


@pytest.mark.parametrize("kernel", ["ck", "ntk"])
def test_uncentred_relu_at_any_norms(kernel, rng):
    X = rng.standard_normal((20, 5)) * np.logspace(-3, 3, 20)[:, None]
    moments = equilibrium_moments("relu", center=False)
    match = solve_match(moments, kernel=kernel, architecture="hermite")
    found = explicit_kernel(X, layers=match.layers, kernel=kernel)
    expected = deq_kernel(X, kernel=kernel, center=False)
    sizes = np.sqrt(np.multiply.outer(np.diag(expected), np.diag(expected)))
    assert np.abs((found - expected) / sizes).max() < 1e-6


@pytest.mark.parametrize("settings", [{}, {"center": False, "bias_variance": 0.3}])
@pytest.mark.parametrize(("name", "kernel"), [("relu", "ck"), ("elu", "ntk")])
def test_power_series_of_two_norms(name, kernel, settings):
    moments = equilibrium_moments(name, 0.4, 0.6, **settings)
    norms, others = np.array([0.2, 0.7]), np.array([1.5, 0.8])
    series = pair_power_series(moments, kernel, norms, others, 100)
    pair = equilibrium_kernel(moments, kernel)
    first, second = (
        tuple(state[:, None] for state in pair.states(r**2)) for r in (norms, others)
    )
    # 0.7^100 < 1e-15.
    rho = 0.7 * COSINES
    expected = pair.entries(first, second, (norms * others)[:, None] * rho)
    scale = np.sqrt(pair.diagonal(norms**2) * pair.diagonal(others**2))
    for k in (0, 1):
        assert_allclose(polyval(rho, series[k]), expected[k], atol=1e-12 * scale[k])


@pytest.mark.parametrize(
    ("name", "kernel", "settings"),
    [
        ("relu", "ck", {}),
        ("relu", "ntk", {}),
        ("gelu", "ntk_recurrent", {}),
        ("tanh", "ck", {"recurrent_variance": 0.9, "input_variance": 0.1}),
        # Its coefficients change sign with the norm.
        ("silu", "ck", {"center": False, "bias_variance": 0.3}),
    ],
)
def test_norms_that_vary(name, kernel, settings, rng):
    """Samples whose norms are twice those of others, and one hidden layer."""
    X = rng.standard_normal((60, 30)) * rng.uniform(0.7, 1.4, (60, 1))
    norms = np.sqrt(np.mean(X**2, axis=1))
    ends = float(norms.min()), float(norms.max())
    match = solve_match(
        equilibrium_moments(name, **settings),
        kernel=kernel,
        architecture="hermite",
        norms=ends,
        tol=1e-5,
    )
    assert match.depth == 1
    found = explicit_kernel(X, layers=match.layers, kernel=kernel)
    expected = deq_kernel(X, kernel=kernel, activation=name, **settings)
    sizes = np.sqrt(np.multiply.outer(np.diag(expected), np.diag(expected)))
    error = np.abs((found - expected) / sizes)
    # The diagonal is interpolated between norms, all its terms.
    assert np.diag(error).max() < 3e-6
    np.fill_diagonal(error, 0.0)
    # No two of these samples are parallel: cosines are below 0.7.
    assert error.max() < 1e-6


def test_norms_that_vary_much(rng):
    """Thirty-fold: more kinds of units, and the residual bounds what is missing."""
    X = rng.standard_normal((60, 30))
    X *= np.geomspace(0.1, 3.0, 60)[:, None]
    norms = np.sqrt(np.mean(X**2, axis=1))
    ends = float(norms.min()), float(norms.max())
    moments = equilibrium_moments("relu", 0.8, 0.2)
    with pytest.warns(MatchWarning, match="exact where all norms are equal"):
        match = solve_match(moments, architecture="hermite", norms=ends, tol=1e-9)
    found = explicit_kernel(X, layers=match.layers)
    expected = deq_kernel(X, recurrent_variance=0.8, input_variance=0.2)
    error = np.linalg.norm(found - expected, 2) / np.linalg.norm(expected, 2)
    assert error < 1e-6
    assert error < match.residual < 1e-4


def test_kinds_of_units_are_as_many_as_norms_need():
    moments = equilibrium_moments("relu")
    counts = []
    for low in (0.9999, 0.9, 0.5, 0.1):
        match = solve_match(moments, architecture="hermite", norms=(low, 1.0), tol=1.0)
        counts.append(len(match.layers[0].activation.function.kinds))
    assert counts[0] == 1
    assert counts == sorted(counts)
    assert counts[-1] > 3


def test_a_mixture_has_the_kernel_of_its_kinds(rng):
    """Signs of the groups are orthogonal; pickling leaves out what is made again."""
    match = solve_match(
        equilibrium_moments("relu"), architecture="hermite", norms=(0.8, 1.6)
    )
    mixture = match.layers[0].activation.function
    assert len(mixture.kinds) == len(mixture.groups) == 4
    for norm in (0.8, 1.3):
        kinds = [kind.at(norm).coefficients(40) for kind in mixture.kinds]
        groups = [group.at(norm).coefficients(40) for group in mixture.groups]
        assert_allclose(
            np.mean(np.square(groups), axis=0), np.sum(np.square(kinds), axis=0)
        )
        x = norm * rng.standard_normal((1, 9))
        norms = np.full((1, 1), norm)
        parts = [mixture.groups[0](x[:, :2], norms), mixture.groups[3](x[:, 6:], norms)]
        found = mixture(x, norms)
        assert_allclose(found[:, :2], parts[0])
        assert_allclose(found[:, 6:], parts[1])
        again = pickle.loads(pickle.dumps(mixture))
        assert again == mixture
        assert_allclose(again(x, norms), found)


def test_a_norm_that_it_was_not_made_for(rng):
    """Other norms have the function of the nearest one, by quadrature."""
    moments = equilibrium_moments("tanh")
    match = solve_match(moments, architecture="hermite")
    sigma = match.layers[0].activation.function
    X = np.array([[1.2, 0.1], [0.3, 0.8], [0.5, -1.5]])
    found = explicit_kernel(X, layers=match.layers)
    plain = Activation(sigma)
    nodes, weights = np.polynomial.hermite_e.hermegauss(200)
    for i in range(3):
        root = np.linalg.norm(X[i]) / np.sqrt(2)
        expected = weights @ plain.function(root * nodes) ** 2 / np.sqrt(2 * np.pi)
        assert_allclose(found[i, i], expected, rtol=1e-6)


def test_auto_takes_it_where_norms_are_equal():
    moments = equilibrium_moments("softplus")
    assert solve_match(moments, norms=(1.0, 1.0)).architecture == "hermite"
    assert solve_match(moments).architecture != "hermite"
    biased = equilibrium_moments("softplus", bias_variance=0.5)
    assert solve_match(biased, norms=(1.0, 1.0)).residual < 1e-10
    with pytest.raises(ValueError, match="architecture='hermite'"):
        solve_match(biased)


@pytest.mark.parametrize("kernel", ["ck", "ntk"])
@pytest.mark.parametrize("name", ["tanh", "relu", "gelu"])
def test_auto_takes_it_where_norms_are_known(name, kernel):
    """Equations' networks, of one layer too, are asymptotic alone."""
    match = solve_match(equilibrium_moments(name), kernel=kernel, norms=(0.7, 1.5))
    assert (match.architecture, match.depth) == ("hermite", 1)
    assert match.converged
    assert "norms from 0.7 to 1.5" in match.reason


def test_auto_takes_what_is_closest_if_nothing_is_within_tolerance():
    """Thirty-fold norms of a kinked activation, and a tolerance that is small.

    It does not warn: the network of the equations is worse.
    """
    match = solve_match(equilibrium_moments("relu"), norms=(0.1, 3.0), tol=1e-8)
    assert match.architecture == "hermite"
    assert 1e-8 < match.residual < 1e-6
    assert not match.converged
    other = re.search(r"'leaky_relu', which goes by equations, by (.*)", match.reason)
    assert 1e-3 < float(other[1]) < 0.1


def test_error_of_an_equations_network_at_the_norms_of_the_data(rng):
    """As seen on pairs of samples."""
    moments = equilibrium_moments("relu")
    match = solve_match(moments, kernel="ntk")
    settings = match.layers, match.multipliers, moments, "ntk", (0.5, 2.0)
    X = rng.standard_normal((200, 3))
    X *= (rng.uniform(0.5, 2.0, 200) / np.sqrt(np.mean(X**2, axis=1)))[:, None]
    found = explicit_kernel(
        X, layers=match.layers, multipliers=match.multipliers, kernel="ntk"
    )
    expected = deq_kernel(X, kernel="ntk")
    sizes = np.sqrt(np.diag(expected))
    error = (np.abs(found - expected) / np.multiply.outer(sizes, sizes)).max()
    # The grid has the ends of the norms.
    assert 0.9 * error < kernel_error(*settings) < 1.5 * error


def test_parallel_samples_of_different_norms():
    """The kernel of a kinked activation is a cone there: it is said, apart."""
    moments = equilibrium_moments("relu")
    settings = {"kernel": "ntk", "norms": (0.7, 1.4)}
    match = solve_match(moments, **settings)
    X = np.array([[0.7], [1.4]])
    found = explicit_kernel(X, layers=match.layers, kernel="ntk")
    expected = deq_kernel(X, kernel="ntk")
    error = abs(found - expected)[0, 1] / np.sqrt(expected[0, 0] * expected[1, 1])
    assert match.residual < 1e-6 < 1e-3 < error
    assert 0.9 * error < match.residual_parallel < 2 * error
    assert "nearly parallel samples of different norms" in str(match)
    with pytest.warns(MatchWarning, match="for nearly parallel samples"):
        solve_match(moments, architecture="hermite", tol=1e-9, **settings)
    smooth = solve_match(equilibrium_moments("gelu"), **settings)
    assert smooth.residual_parallel < 1e-8
    homogeneous = equilibrium_moments("relu", center=False)
    assert solve_match(homogeneous, **settings).residual_parallel < 1e-6


@pytest.mark.parametrize(
    "norms", [(2.0, 1.0), (0.0, 1.0), (np.nan, 1.0), (1.0, np.inf), (1.0,), 1.0]
)
def test_norms_that_are_none(norms):
    with pytest.raises(ValueError, match="norms must be the smallest and the largest"):
        solve_match(equilibrium_moments("tanh"), norms=norms)


def test_what_limits_a_layer_is_said():
    """The tail of ReLU's NTK with a weak recurrence; see docs/matching.md."""
    moments = equilibrium_moments("relu", 0.01, 0.99)
    with pytest.warns(MatchWarning, match=r"recurrent_variance below 0\.05") as caught:
        solve_match(moments, kernel="ntk", architecture="hermite")
    assert caught[0].filename == __file__


@pytest.mark.parametrize("kernel", ["ck", "ntk"])
def test_kinks_away_from_0_are_what_is_blamed(kernel):
    clip = Activation(lambda x: np.clip(x, -1, 1), kinks=(-1.0, 1.0))
    with pytest.warns(MatchWarning, match="kinks away from 0 ends too early") as caught:
        solve_match(
            equilibrium_moments(clip), kernel=kernel, architecture="hermite", tol=1e-9
        )
    message = str(caught[0].message)
    assert "declared" not in message
    assert "recurrent_variance" not in message
    assert ("kernel='ck' has a smaller residual" in message) == (kernel == "ntk")


def test_a_kinked_activation_of_ones_own():
    """A hard tanh: its series follows from its Hermite coefficients."""
    clip = Activation(lambda x: np.clip(x, -1, 1), kinks=(-1.0, 1.0))
    match = solve_match(equilibrium_moments(clip), architecture="hermite", tol=1e-4)
    assert match.converged


def test_layers_pickle_and_print():
    match = solve_match(equilibrium_moments("tanh"), architecture="hermite")
    again = pickle.loads(pickle.dumps(match))
    assert again == match
    assert "residual" in str(match)
    assert "terms, norm 1" in str(match)


def test_a_series_without_tail_has_none():
    series = HermiteSeries.from_energies(0.5 ** np.arange(30))
    assert series.rough == ()
    assert_allclose(series.kernel(np.array([0.5])), 1 / (1 - 0.25), rtol=1e-9)


def test_tails_of_trained_layers_have_a_tangent_kernel():
    """Energies that fall like those of a jump, for which Σ k c_k² diverges."""
    energies = (1.0 + np.arange(2048)) ** -1.5
    orders = {
        trained: {
            function.order
            for function, _ in HermiteSeries.from_energies(
                energies, trained=trained
            ).rough
        }
        for trained in (False, True)
    }
    assert 0 in orders[False]
    assert 0 not in orders[True]


def test_kernels_of_pairs_of_series():
    """Tails that do not end against their sums, and integrals of what is beyond."""
    first = HermiteSeries((0.3, 0.2, 0.1), ((Rough(1, 0), 0.5), (Rough(2, 1), 0.1)))
    second = HermiteSeries((0.1, -0.2), ((Rough(1, 0), -0.2),))
    ends = HermiteSeries((0.7, 0.4, -0.3))
    series, pairs = [first, second, ends], np.array([[0, 0], [0, 1], [1, 2], [2, 2]])
    rho, rate = np.array([-1.0, -0.5, 0.0, 0.3, 0.999, 1.0]), 1.0
    found = pair_kernels(series, pairs, rho, rate)
    # Coefficients of |x| squared fall like k^(-5/2), times k by the rate.
    size = 2**17
    rows = np.stack([each.coefficients(size) for each in series])
    orders = np.arange(size)
    for row, (i, j) in zip(found, pairs, strict=True):
        terms = rows[i] * rows[j] * (1.0 + rate * orders)
        expected = np.array([np.sum(terms * r**orders) for r in rho])
        missing = 2.0 * abs(terms[-2:]).max() * size
        assert_allclose(row, expected, rtol=1e-9, atol=missing)
    # It changes the values at the ends by more than that.
    assert abs(found[0, -1] - np.sum(rows[0, :2048] ** 2 * (1 + orders[:2048]))) > 1e-3


@pytest.mark.parametrize("n_terms", [1, 2, 10, 97])
@pytest.mark.parametrize("shape", [(), (3,)])
def test_series_in_the_disc(n_terms, shape, rng):
    value = rng.standard_normal((*shape, n_terms))
    z = np.exp(1j * rng.uniform(0, 2 * np.pi, (*shape, 20))) * rng.uniform(size=20)
    found = SeriesDisc(value, derived(value))(z)
    rows = zip(value.reshape(-1, n_terms), z.reshape(-1, 20), strict=True)
    for k, (row, points) in enumerate(rows):
        for part, order in zip(found, (0, 1), strict=True):
            expected = polyval(points, polyder(row, order))
            # Sums of n terms of sizes up to n and 1.
            assert_allclose(part.reshape(-1, 20)[k], expected, atol=1e-14 * n_terms**2)


@pytest.mark.parametrize(("activation", "kernel"), [("relu", "ntk"), ("tanh", "ck")])
def test_kernels_in_the_angle_are_those_in_powers(activation, kernel, rng, monkeypatch):
    """For norms of the range and others; the powers are the definition."""
    moments = equilibrium_moments(activation)
    norms = (0.7, 1.4)
    layers = solve_match(
        moments, kernel=kernel, architecture="hermite", norms=norms, tol=1e-2
    ).layers
    X = rng.standard_normal((40, 8))
    # Parallel, opposite, and nearly so.
    X[1:4] = X[0] * np.array([[1.5], [-1.0], [1.0]])
    X[4] = X[0] + 1e-5 * X[5]
    X /= np.sqrt(np.mean(X**2, axis=1, keepdims=True))
    X *= np.geomspace(*norms, len(X))[:, None]
    # Two norms that are outside: quadrature for each takes its time.
    far = X.copy()
    far[[7, 8]] *= np.array([[5.0], [0.0]])
    pairs = [(X, None), (far, None), (far, X), (X, far)]
    found = [explicit_kernel(*each, layers=layers, kernel=kernel) for each in pairs]
    monkeypatch.setattr(_hermite_kernel, "_remembered_table", lambda kinds, rate: None)
    own = explicit_kernel(far, layers=layers, kernel=kernel)
    inside = explicit_kernel(X, layers=layers, kernel=kernel)
    across = explicit_kernel(far, X, layers=layers, kernel=kernel)
    first, second = np.sqrt(np.diag(own)), np.sqrt(np.diag(inside))
    expected = [
        (inside, np.outer(second, second)),
        (own, np.outer(first, first)),
        (across, np.outer(first, second)),
        (across.T, np.outer(second, first)),
    ]
    for fast, (slow, scale) in zip(found, expected, strict=True):
        # Rounding of sums of 2,048 terms, and of a cosine to such a power.
        assert np.all(np.abs(fast - slow) <= 1e-11 * scale)


def test_features_beyond_the_norms_are_those_of_a_sample_alone():
    """One rule for all must not make them depend on each other."""
    moments = equilibrium_moments("relu")
    match = solve_match(moments, architecture="hermite", norms=(0.8, 1.2))
    kind = match.layers[0].activation.function.kinds[0]
    norms = np.array([0.1, 0.5, 1.0, 1.5, 1.9, 2.5, 2.6, 9.0])
    together = kind.features(norms, 0.5)
    alone = np.concatenate([kind.features(r[None], 0.5) for r in norms[norms != 1.0]])
    size = alone.shape[1]
    assert_allclose(together[norms != 1.0, :size], alone, rtol=0, atol=1e-13)
    assert np.all(np.isnan(kind.features(np.array([np.nan]), 0.5)))
    # Their definition, with the function of the range's end, by Monte Carlo.
    x = np.random.default_rng(0).standard_normal(400_000)
    for norm, end, features in ((0.5, 0.8, together[1]), (1.5, 1.2, together[3])):
        found = kind(norm * x, np.asarray(end))
        for k, he in enumerate((np.ones_like(x), x, (x**2 - 1.0) / np.sqrt(2.0))):
            products = found * he / np.sqrt(1.0 / (1.0 + 0.5 * k))
            error = products.std() / np.sqrt(len(x))
            assert abs(products.mean() - features[k]) < 5.0 * error
