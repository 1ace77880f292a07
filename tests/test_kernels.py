"""Gram matrices: properties that always hold, limits, input checks, memory."""

import numpy as np
import pytest
import scipy.sparse
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.testing import assert_allclose, assert_array_equal

from sklearn_deq import Activation
from sklearn_deq._warnings import solver_warnings
from sklearn_deq.kernels import (
    deq_kernel,
    deq_kernel_diag,
    explicit_kernel,
    explicit_kernel_diag,
)
from sklearn_deq.theory import (
    ACTIVATIONS,
    KERNELS,
    equilibrium_moments,
    solve_match,
)

SAMPLES = arrays(
    np.float64,
    st.tuples(st.integers(1, 7), st.integers(1, 5)),
    elements=st.floats(-4, 4).map(lambda x: round(x, 3)),
)
SETTINGS = st.fixed_dictionaries(
    {
        "kernel": st.sampled_from(KERNELS),
        "activation": st.sampled_from(["relu", "leaky_relu", "erf", "sin", "gelu"]),
        "recurrent_variance": st.sampled_from([0.0, 0.1, 0.4]),
        "bias_variance": st.sampled_from([0.0, 0.5]),
        "center": st.booleans(),
        "normalize": st.booleans(),
    }
)


@given(X=SAMPLES, params=SETTINGS)
def test_gram_matrix_properties(X, params):
    K = deq_kernel(X, **params)
    diagonal = deq_kernel_diag(X, **params)
    top = max(K.max(), 1e-300)
    assert_array_equal(K, K.T)
    assert_array_equal(np.diag(K), diagonal)
    # Cauchy–Schwarz; near |ρ| = 1 a kinked NTK carries errors of 1e-8.
    bound = np.sqrt(np.outer(diagonal, diagonal))
    assert (np.abs(K) <= bound * (1 + 1e-7) + 1e-14).all()
    assert np.linalg.eigvalsh(K)[0] >= -1e-7 * top
    order = np.arange(len(X))[::-1]
    assert_allclose(deq_kernel(X[order], **params), K[::-1, ::-1], atol=1e-7 * top)
    assert_allclose(deq_kernel(X, X, **params), K, atol=1e-7 * top)


# What has no closed form is tabulated for a range of norms, and a table is remembered:
# few norms keep these quick. The kink is one of a user's own function.
DIRECTIONS = arrays(
    np.float64,
    st.tuples(st.integers(1, 7), st.just(3)),
    elements=st.floats(-4, 4).map(lambda x: round(x, 3)),
)
NORMS = st.lists(st.sampled_from([0.97, 1.0, 1.03]), min_size=7, max_size=7)


def _kinked(x):
    return np.maximum(x, 0.0) + 0.3 * np.tanh(x)


def _kinked_derivative(x):
    return (x > 0) + 0.3 / np.cosh(x) ** 2


KINKED = Activation(_kinked, _kinked_derivative, kinks=(0.0,), name="kinked")
TABULATED = st.fixed_dictionaries(
    {
        "kernel": st.sampled_from(KERNELS),
        "bias_variance": st.sampled_from([0.0, 0.05]),
        "center": st.booleans(),
    }
)


@pytest.mark.parametrize("activation", ["tanh", "silu", "elu", KINKED], ids=str)
@given(X=DIRECTIONS, norms=NORMS, params=TABULATED)
def test_properties_of_tabulated_kernels(activation, X, norms, params):
    lengths = np.sqrt(np.mean(X**2, axis=1, keepdims=True))
    X = X / np.where(lengths > 0, lengths, 1.0) * np.array(norms)[: len(X), None]
    # Zero rows have a norm of their own.
    X = np.vstack([X[lengths[:, 0] > 0], np.ones((1, 3)), -np.ones((1, 3))])
    params = params | {"activation": activation}
    K = deq_kernel(X, **params)
    diagonal = deq_kernel_diag(X, **params)
    top = K.max()
    assert_array_equal(K, K.T)
    assert_array_equal(np.diag(K), diagonal)
    # A kinked NTK falls off like the angle: a ulp of ρ near 1 moves it by 1e-8.
    kinked = activation in ("elu", KINKED) and params["kernel"] != "ck"
    rounding = 1e-7 if kinked else 1e-11
    bound = np.sqrt(np.outer(diagonal, diagonal))
    assert (np.abs(K) <= bound * (1 + rounding)).all()
    assert np.linalg.eigvalsh(K)[0] >= -len(X) * rounding * top
    assert_allclose(deq_kernel(X, X[::-1], **params)[:, ::-1], K, atol=rounding * top)
    Q, _ = np.linalg.qr(np.arange(9.0).reshape(3, 3) % 4 + np.eye(3))
    assert_allclose(deq_kernel(X @ Q, **params), K, atol=rounding * top)


@given(X=SAMPLES, seed=st.integers(0, 100))
def test_rotation_invariance(X, seed):
    p = X.shape[1]
    Q, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((p, p)))
    K = deq_kernel(X)
    assert_allclose(deq_kernel(X @ Q), K, atol=1e-7 * max(K.max(), 1e-300))


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("activation", ["relu", "leaky_relu"])
def test_uncentred_relu_is_homogeneous(activation, kernel, rng):
    X = rng.standard_normal((5, 4))
    params = {"activation": activation, "kernel": kernel, "center": False}
    scale = rng.uniform(0.2, 3, 5)
    found = deq_kernel(scale[:, None] * X, **params)
    expected = scale[:, None] * scale * deq_kernel(X, **params)
    assert_allclose(found, expected, rtol=1e-10, atol=1e-12)


def test_identity_in_closed_form(rng):
    """G = σ_b² S/(1 − σ_a²), NTK = (G + σ_b² S)/(1 − σ_a²)."""
    X = rng.standard_normal((5, 4))
    S = X @ X.T / 4
    params = {"activation": "identity", "recurrent_variance": 0.3}
    G = 0.8 * S / 0.7
    assert_allclose(deq_kernel(X, **params), G, rtol=1e-11, atol=1e-13)
    ntk = (G + 0.8 * S) / 0.7
    assert_allclose(deq_kernel(X, kernel="ntk", **params), ntk, rtol=1e-11, atol=1e-12)


def test_no_recurrence_is_a_one_layer_network(rng):
    X = rng.standard_normal((4, 3))
    S = 0.8 * X @ X.T / 3
    root = np.sqrt(np.diag(S))
    rho = np.clip(S / np.outer(root, root), -1, 1)
    arc = (np.sqrt(1 - rho**2) + rho * (np.pi - np.arccos(rho))) / (2 * np.pi)
    K = deq_kernel(X, recurrent_variance=0.0, center=False)
    assert_allclose(K, np.outer(root, root) * arc, rtol=1e-7)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("activation", ["relu", "tanh", "gelu"])
def test_sphere_table_equals_entrywise_solution(activation, kernel, rng):
    """Equal norms go through a table, any others entry by entry."""
    X = rng.standard_normal((20, 6))
    X /= np.sqrt(np.mean(X**2, axis=1, keepdims=True))
    params = {"activation": activation, "kernel": kernel}
    table = deq_kernel(X, **params)
    other = np.vstack([X, 1.5 * X[:1]])
    entrywise = deq_kernel(other, **params)[:20, :20]
    assert_allclose(table, entrywise, atol=1e-11 * table.max())


@pytest.mark.parametrize("activation", ["tanh", "elu", "silu"])
def test_blocks_do_not_show(activation, rng):
    """More rows than a block holds, against the rows one block at a time."""
    X = rng.standard_normal((300, 3))
    Y = X[:5]
    K = deq_kernel(X, Y, activation=activation)
    assert_allclose(K[250:], deq_kernel(X[250:], Y, activation=activation), atol=1e-10)
    whole = deq_kernel(X, activation=activation)
    assert_allclose(whole[:, :5], K, atol=1e-10)
    assert_array_equal(whole, whole.T)


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("kernel", KERNELS)
def test_float32_is_the_rounded_kernel(kernel, activation, normalize, rng):
    X = rng.standard_normal((40, 10)).astype(np.float32)
    params = {"kernel": kernel, "activation": activation, "normalize": normalize}
    single = deq_kernel(X, **params)
    double = deq_kernel(X, dtype="float64", **params)
    assert single.dtype == np.float32
    assert_array_equal(single, double.astype(np.float32))
    assert np.linalg.eigvalsh(double)[0] > -1e-12 * double.max()


def test_zero_rows_duplicates_and_constant_columns():
    X = np.array([[0.0, 0, 0], [1, 2, 0], [1, 2, 0], [-1, -2, 0]])
    for activation in ("relu", "tanh", "elu"):
        for normalize in (False, True):
            K = deq_kernel(X, activation=activation, normalize=normalize)
            assert np.isfinite(K).all()
            assert_allclose(K[1], K[2], rtol=1e-7, atol=1e-12)
            assert_allclose(K[1, 2], K[1, 1], rtol=1e-7)
    # An odd activation is at rest at the origin.
    assert_allclose(deq_kernel(X, activation="tanh")[0], 0, atol=1e-12)
    assert_allclose(deq_kernel(np.zeros((2, 3)), activation="tanh"), 0, atol=1e-12)


@pytest.mark.parametrize(
    ("activation", "scale"),
    [
        *[("relu", 1e-6), ("tanh", 1e-6), ("gelu", 1e-6)],
        *[("relu", 1e6), ("gelu", 1e6), ("tanh", 10.0)],
    ],
)
def test_extreme_scales_stay_finite(activation, scale, rng):
    X = scale * rng.standard_normal((6, 4))
    K = deq_kernel(X, activation=activation)
    assert np.isfinite(K).all()
    assert np.linalg.eigvalsh(K)[0] >= -1e-7 * K.max()


@pytest.mark.parametrize("scale", [1e-300, 1e-170, 1e170, 1e300])
def test_normalized_rows_have_no_scale(scale, rng):
    """Rows whose squares overflow or vanish are no zero rows, and no infinite ones."""
    X = rng.standard_normal((5, 4))
    K = deq_kernel(scale * X, X, normalize=True)
    assert_allclose(K, deq_kernel(X, X, normalize=True), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(
    ("name", "normalize"),
    [
        *[(name, True) for name in ACTIVATIONS],
        *[(name, False) for name in ACTIVATIONS if name != "elu"],
        # Its derivative is differenced at millions of points: tens of seconds.
        pytest.param("elu", False, marks=pytest.mark.slow),
    ],
)
def test_user_activation_gives_the_builtin_kernel(name, normalize, rng):
    """A plain function with its kinks: no derivative, no closed form."""
    X = rng.standard_normal((6, 4))
    mine = Activation(ACTIVATIONS[name].function, kinks=ACTIVATIONS[name].kinks)
    for kernel in KERNELS:
        settings = {"kernel": kernel, "normalize": normalize}
        expected = deq_kernel(X, activation=name, **settings)
        found = deq_kernel(X, activation=mine, **settings)
        assert_allclose(found, expected, atol=1e-10 * expected.max())


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_explicit_kernel_properties(activation, kernel, rng):
    layers = solve_match(equilibrium_moments(activation)).layers
    X = rng.standard_normal((12, 6))
    K = explicit_kernel(X, layers=layers, kernel=kernel)
    assert_array_equal(K, K.T)
    assert_array_equal(
        np.diag(K), explicit_kernel_diag(X, layers=layers, kernel=kernel)
    )
    assert np.linalg.eigvalsh(K)[0] > -1e-7 * K.max()
    same = explicit_kernel(X, X.copy(), layers=layers, kernel=kernel)
    assert_allclose(same, K, atol=1e-7 * K.max())


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("activation", ["relu", "tanh", "elu"])
def test_several_kernels_at_once(activation, normalize, rng):
    X = rng.standard_normal((30, 4))
    settings = {"activation": activation, "normalize": normalize}
    together = deq_kernel(X, kernel=KERNELS, **settings)
    diagonal = deq_kernel_diag(X, kernel=KERNELS, **settings)
    assert together.shape == (3, 30, 30)
    for name, K, diag in zip(KERNELS, together, diagonal, strict=True):
        alone = deq_kernel(X, kernel=name, **settings)
        assert_allclose(K, alone, atol=1e-12 * alone.max())
        assert_array_equal(np.diag(K), diag)
    with pytest.raises(ValueError, match="kernel must be one of"):
        deq_kernel(X, kernel=("ck", "rbf"))


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (np.array([[np.nan]]), "NaN or infinity"),
        (np.array([[np.inf]]), "NaN or infinity"),
        (np.ones(3), "two-dimensional"),
        (np.ones((0, 3)), "at least one row"),
        (np.array([["a"]]), "real numbers"),
        (np.array([[1j]]), "real numbers"),
        (scipy.sparse.eye_array(3), r"give X.toarray\(\)"),
        (np.full((2, 3), 1e200), "squared norms of the rows overflow"),
    ],
)
def test_bad_samples(X, message):
    with pytest.raises(ValueError, match=message):
        deq_kernel(X)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"kernel": "rbf"}, "kernel must be one of 'ck', 'ntk', 'ntk_recurrent'"),
        ({"kernel": "ntk_recurent"}, "Did you mean 'ntk_recurrent'"),
        ({"kernel": "NTK"}, "Did you mean 'ntk'"),
        ({"kernel": None}, "kernel must be one of .* got None"),
        ({"kernel": ()}, r"kernel must be one of .* got \(\)"),
        ({"kernel": ("ck", 3)}, "kernel must be one of .* got 3"),
        ({"normalize": "False"}, "normalize must be True or False, got 'False'"),
        ({"center": "False"}, "center must be True or False, got 'False'"),
        ({"center": 1}, "center must be True or False, got 1"),
        ({"dtype": "single precision"}, "dtype must be 'float32'"),
        ({"activation": "rleu"}, "Did you mean 'relu'"),
        ({"recurrent_variance": 2.5}, "Unstable DEQ"),
        ({"bias_variance": -1}, "bias_variance"),
        ({"recurrent_variance": "0.2"}, "recurrent_variance must be a finite number"),
        ({"dtype": "int32"}, "dtype must be"),
        ({"Y": np.ones((2, 4))}, "same number of features"),
    ],
)
def test_bad_parameters(params, message):
    with pytest.raises(ValueError, match=message):
        deq_kernel(np.ones((2, 3)), **params)
    params.pop("Y", None)
    if params:
        with pytest.raises(ValueError, match=message):
            deq_kernel_diag(np.ones((2, 3)), **params)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_gpu_equals_cpu(activation, rng):
    X = rng.standard_normal((300, 10))
    expected = deq_kernel(X, activation=activation)
    found = deq_kernel(X, activation=activation, device="cuda")
    assert_allclose(found, expected, atol=1e-10)


@pytest.mark.parametrize("kernel", ["ck", "ntk"])
def test_equal_rows_of_a_function_with_kinks(kernel, rng):
    hard_swish = Activation(lambda u: u * np.clip(u + 3, 0, 6) / 6, kinks=(-3.0, 3.0))
    X = rng.standard_normal((40, 10)) * rng.uniform(0.5, 2.0, 40)[:, None]
    settings = {
        "activation": hard_swish,
        "recurrent_variance": 0.4,
        "kernel": kernel,
    }
    across = deq_kernel(X, X.copy(), **settings)
    # NTKs go with √(1 − ρ), which is known to √ε.
    assert_allclose(np.diag(across), deq_kernel_diag(X, **settings), rtol=1e-6)


def test_multipliers_of_explicit_kernels(rng):
    X = rng.standard_normal((6, 4))
    moments = equilibrium_moments("gelu", 0.3)
    for architecture in ("hermite", "rounded"):
        layers = solve_match(
            moments, kernel="ntk", architecture=architecture, norms=(0.5, 2.0), tol=1
        ).layers
        n = len(layers)
        settings = {"layers": layers, "kernel": "ntk"}
        once = explicit_kernel(X, **settings)
        twice = explicit_kernel(X, multipliers=[2.0] * (n + 1), **settings)
        assert_allclose(twice, 2.0 * once, rtol=1e-12)
        several = [0.5] * n + [2.0]
        found = explicit_kernel(X, multipliers=several, **settings)
        diagonal = explicit_kernel_diag(X, multipliers=several, **settings)
        assert_allclose(np.diag(found), diagonal, rtol=1e-12)
        for bad in ([1.0] * n, [1.0] * (n + 2), [-1.0] * (n + 1), [np.nan] * (n + 1)):
            with pytest.raises(
                ValueError, match=f"multipliers must be {n + 1} numbers"
            ):
                explicit_kernel(X, multipliers=bad, **settings)
    with pytest.raises(ValueError, match="at least one layer"):
        explicit_kernel(X, layers=())


def test_a_diagonal_beyond_the_dtype_is_refused():
    layers = solve_match(equilibrium_moments("relu")).layers
    X = np.full((2, 3), 1e25)
    assert np.isfinite(explicit_kernel_diag(X, layers=layers)).all()
    with pytest.raises(ValueError, match="beyond float32"):
        explicit_kernel_diag(X, layers=layers, dtype="float32")


def test_what_threads_have_to_say_is_heard(rng):
    """None of it is left for Python's own warnings, which are errors in these tests."""
    clip = Activation(lambda u: np.clip(u, -1.0, 1.0))
    X = rng.standard_normal((600, 3))
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with solver_warnings() as heard:
            deq_kernel(X, activation=clip)
    finally:
        torch.set_num_threads(before)
    assert any("is tabulated to a relative error" in message for message in heard)


def test_devices_need_float64(rng):
    with pytest.raises(ValueError, match="machine that has float64, got 'meta'"):
        deq_kernel(rng.standard_normal((3, 2)), device="meta")
