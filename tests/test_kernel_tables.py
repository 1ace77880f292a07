"""Tables against the equations that they stand for."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from sklearn_deq import Activation, DEQKernel
from sklearn_deq.exceptions import SolverWarning
from sklearn_deq.kernels import (
    _tables,
    deq_kernel,
    deq_kernel_gradient,
    explicit_kernel,
)
from sklearn_deq.kernels._polynomial import Polynomial, series_in, shorter_series
from sklearn_deq.kernels._tables import fastest
from sklearn_deq.theory import (
    ACTIVATIONS,
    KERNELS,
    ExplicitLayer,
    equilibrium_kernel,
    equilibrium_moments,
    equilibrium_variance,
    get_activation,
)
from sklearn_deq.theory._homogeneous import homogeneous_slopes
from sklearn_deq.theory._norms import along_norms, norm_range

# Settings of the DEQ: as the theorems assume, and the general case.
SETTINGS = [
    {"center": True, "bias_variance": 0.0},
    {"center": False, "bias_variance": 0.3},
]


def columns(states):
    """States of the left side, as tensors."""
    return [torch.from_numpy(state)[:, None] for state in states]


def rows(states):
    """States of the right side, as tensors."""
    return [torch.from_numpy(state)[None] for state in states]


def block(kernel, squares, products):
    """Entries of a PairKernel for every pair of samples."""
    states = kernel.states(squares)
    # A copy: entries may overwrite it.
    s12 = torch.tensor(products)
    entries = kernel.entries(columns(states), rows(states), s12)
    return entries.numpy()


@pytest.mark.parametrize("settings", SETTINGS, ids=["centred", "bias"])
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("activation", [*ACTIVATIONS])
@pytest.mark.parametrize("spread", [(1.0, 1.0), (0.3, 3.0), (0.05, 20.0)], ids=str)
def test_fast_form_equals_equations(activation, kernel, settings, spread, rng):
    """At 1e-12 of √(K_ii K_jj), s_ii over a spread, angles up to 0 and π."""
    low, high = spread
    squares = np.exp(rng.uniform(np.log(low), np.log(high), 12))
    squares[:2] = low, high
    cosine = rng.uniform(-1, 1, (12, 12))
    cosine[0], cosine[1], cosine[2] = 1 - 1e-9, -1.0, 0.0
    products = cosine * np.sqrt(np.outer(squares, squares))
    moments = equilibrium_moments(activation, 0.3, 0.7, **settings)
    exact = equilibrium_kernel(moments, kernel)
    fast = fastest(exact, squares, 10**7)
    size = np.sqrt(exact.diagonal(squares))
    error = np.abs(block(fast, squares, products) - block(exact, squares, products))
    # θ from ρ within 1e-9 of 1 has an error of 1e-16/√(2e-9), and a kink's Ḋ with it.
    assert (error / np.outer(size, size)).max() < 1e-11


@pytest.fixture
def made(monkeypatch):
    """Ranges of norms for which tables were made."""
    ranges = []
    make = _tables._make_tables

    def recorded(kernel, low, high, n_entries):
        ranges.append((low, high))
        return make(kernel, low, high, n_entries)

    monkeypatch.setattr(_tables, "_make_tables", recorded)
    return ranges


def _of_norms(low, high, rng, n=300):
    """Samples whose √s_ii are from low to high."""
    X = rng.standard_normal((n, 6))
    norms = np.linspace(low, high, n)
    return X * (norms * np.sqrt(6) / np.linalg.norm(X, axis=1))[:, None]


def test_blocks_of_samples_share_a_table(rng, made):
    """The second needs a wider range than the first, the others no wider round one."""
    blocks = [_of_norms(0.5, 1.3 + 0.01 * k, rng) for k in range(4)]
    settings = {"activation": "tanh", "recurrent_variance": 0.2718}
    found = [deq_kernel(block, **settings) for block in blocks]
    assert len(made) == 2
    assert made[0][0] > made[1][0]
    _tables._KNOWN.clear()
    alone = deq_kernel(blocks[3], **settings)
    assert len(made) == 3
    assert_allclose(found[3], alone, atol=1e-12)


def test_a_table_does_not_outlive_its_kernel(rng, made):
    """That of a gradient is another object every time."""
    X = _of_norms(0.5, 1.5, rng)
    _tables._KNOWN.clear()
    deq_kernel_gradient(X, activation="tanh", variances=("input_variance",))
    assert len(made) == 1
    assert not _tables._KNOWN


def test_a_table_ends_where_the_kernel_does(rng, made):
    """A range that is rounded outwards would reach samples that have none."""
    moments = equilibrium_moments("erf", 1.5, 0.5, center=False)
    squares = np.linspace(0.204, 2.0, 12)
    low = (np.sinh(norm_range(np.sqrt(squares))[0]) / 4) ** 2
    with pytest.raises(ValueError, match="Unstable"):
        equilibrium_variance(moments, np.array([low]))
    exact = equilibrium_kernel(moments, "ntk")
    fastest(exact, np.linspace(0.5, 1.5, 12), 10**7)
    for _ in range(2):
        fast = fastest(exact, squares, 10**7)
    # The first, one that is too wide, and their own.
    assert len(made) == 3
    products = rng.uniform(-1, 1, (12, 12)) * np.sqrt(np.outer(squares, squares))
    size = np.sqrt(exact.diagonal(squares))
    error = np.abs(block(fast, squares, products) - block(exact, squares, products))
    assert (error / np.outer(size, size)).max() < 1e-11


def test_every_form_is_used(rng):
    """Homogeneous, of one norm, tabulated in the norms, left as it is."""
    norms = np.array([0.5, 1.0, 2.0])
    forms = {}
    for name, squares in {
        "relu": norms,
        "elu sphere": np.ones(3),
        "tanh": norms,
        "elu": norms,
        "silu, few": norms,
    }.items():
        # A variance of no other test, whose tables would serve.
        moments = equilibrium_moments(name.split(",")[0].split()[0], 0.2123)
        exact = equilibrium_kernel(moments)
        fast = fastest(exact, squares, 10 if name.endswith("few") else 10**7)
        forms[name] = fast is not exact
    assert forms == {
        "relu": True,
        "elu sphere": True,
        "tanh": True,
        "elu": False,
        "silu, few": False,
    }


@pytest.mark.parametrize("activation", ["relu", "tanh", "elu"])
def test_threads_do_not_show(activation, rng):
    X = rng.standard_normal((600, 5))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = deq_kernel(X, activation=activation)
        torch.set_num_threads(3)
        three = deq_kernel(X, activation=activation)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert_allclose(three, one, rtol=1e-13, atol=1e-15)
    assert_array_equal(three, three.T)


def test_results_do_not_depend_on_the_other_rows(rng):
    """A subset, with another range of norms and another form, has the same entries."""
    X = rng.standard_normal((400, 6)) * rng.uniform(0.5, 2, (400, 1))
    for activation in ("relu", "tanh"):
        whole = deq_kernel(X, activation=activation)
        part = deq_kernel(X[:20], activation=activation)
        assert_allclose(part, whole[:20, :20], atol=1e-11)


@pytest.mark.parametrize("kernel", KERNELS)
def test_equal_rows_have_equal_entries(kernel, rng):
    """Tangent kernels of a ReLU fall off like θ: rounding of ρ must not show."""
    X = rng.standard_normal((30, 7))
    for normalize in (False, True):
        K = deq_kernel(X, X.copy(), kernel=kernel, normalize=normalize)
        diagonal = np.diag(deq_kernel(X, kernel=kernel, normalize=normalize))
        assert_allclose(np.diag(K), diagonal, rtol=1e-12)


def test_symmetry_is_used_when_the_same_array_is_given_twice(rng):
    X = rng.standard_normal((20, 3))
    assert_array_equal(DEQKernel()(X, X), DEQKernel()(X))


def test_explicit_kernel_of_smooth_layers(rng):
    """Tabulated in the norms as well; against one entry at a time."""
    X = rng.standard_normal((300, 5))
    layers = (ExplicitLayer(get_activation("tanh"), 0.0, 1.0),)
    K = explicit_kernel(X, layers=layers)
    for i, j in [(0, 1), (5, 250), (299, 3)]:
        pair = explicit_kernel(X[[i]], X[[j]], layers=layers)
        assert_allclose(K[i, j], pair[0, 0], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("function", "slopes"),
    [
        (lambda x: np.maximum(x, 0.3 * x), (1.0, 0.3)),
        (np.abs, (1.0, -1.0)),
        (lambda x: np.minimum(np.maximum(x, 0), 6.0), None),
        (np.tanh, None),
        (np.exp, None),
        (lambda x: x + 1e-3, None),
    ],
)
def test_homogeneity_is_found(function, slopes):
    found = homogeneous_slopes(Activation(function))
    if slopes is None:
        assert found is None
    else:
        assert_allclose((found.right, found.left), slopes)


def test_user_leaky_relu_in_closed_form(rng):
    """As a ReLU and the identity together: 0.3 x + 0.7 relu(x)."""
    X = rng.standard_normal((6, 4))
    mine = Activation(lambda x: np.maximum(x, 0.3 * x), kinks=(0,))
    K = deq_kernel(X, activation=mine, recurrent_variance=0.0, center=False)
    relu = deq_kernel(X, activation="relu", recurrent_variance=0.0, center=False)
    linear = deq_kernel(X, activation="identity", recurrent_variance=0.0, center=False)
    assert_allclose(K, 0.3 * linear + 0.49 * relu, atol=1e-12)


def test_polynomial_rules(rng):
    """Horner where it is stable, else Clenshaw: the same function."""
    t = torch.from_numpy(rng.uniform(-1, 1, (5, 7)))
    for series, horner in (
        (rng.standard_normal(8), True),
        (np.ones(60), False),
        (np.array([2.0]), True),
        (np.array([2.0, 3.0]), True),
    ):
        polynomial = Polynomial.build(series)
        assert polynomial.horner == horner
        expected = np.polynomial.chebyshev.chebval(t.numpy(), series)
        assert_allclose(polynomial(t).numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("start", [0, 1])
@pytest.mark.parametrize("n_terms", [1, 2, 3, 20, 60])
def test_polynomial_of_even_or_odd_functions(rng, start, n_terms):
    """Half the terms, by either rule."""
    t = torch.from_numpy(np.append(rng.uniform(-1, 1, 30), [-1.0, 0.0, 1.0]))
    for falling in (0.0, 2.0):
        series = np.zeros(2 * n_terms)
        series[start::2] = np.exp(-falling * np.arange(n_terms))
        polynomial = Polynomial.build(series)
        assert len(polynomial.coefficients) == n_terms
        # Clenshaw's error grows like the square of the number of terms.
        expected = np.polynomial.chebyshev.chebval(t.numpy(), series)
        assert_allclose(polynomial(t).numpy(), expected, atol=1e-11)


def test_series_in_the_better_variable():
    # (1 − ρ)^{3/2} is smooth in the angle alone; a polynomial is short in the cosine.
    _, angle = shorter_series(lambda x: (1 - x) ** 1.5, smooth=True)
    assert angle
    series, angle = shorter_series(lambda x: x**3, smooth=True)
    assert not angle
    assert len(series) == 4
    assert series_in(lambda x: np.abs(x - 0.3), angle=True) is None


def test_functions_of_many_norms(rng):
    squares = rng.uniform(0.01, 9, 500)
    squares[0] = 0.0
    found = along_norms(lambda s: np.stack([np.exp(-s), 1e-6 * s]), squares)
    assert_allclose(found[0], np.exp(-squares), atol=1e-12)
    assert_allclose(found[1], 1e-6 * squares, atol=1e-18)
    kinked = along_norms(lambda s: np.abs(s - 4)[None], squares)
    assert_allclose(kinked[0], np.abs(squares - 4), atol=1e-14)


def test_poor_tables_are_warned_of_every_time(rng):
    """Not only when they are built: they are remembered."""
    X = rng.standard_normal((6, 3))

    def kinked(x):
        return np.where(x > 0, x, np.expm1(np.minimum(x, 0)))

    for _ in range(2):
        with pytest.warns(SolverWarning, match="declare that"):
            deq_kernel(X, activation=kinked, kernel="ntk", normalize=True)


def test_a_series_that_does_not_converge_is_not_used(rng):
    """Of a saturated erf: the entries are solved one by one instead."""
    X = rng.standard_normal((8, 3))
    settings = {"kernel": "ntk", "activation": "erf", "input_variance": 1e8}
    K = deq_kernel(X, normalize=True, **settings)
    values = np.linalg.eigvalsh(K)
    assert values[0] > -1e-9 * values[-1]
