"""Low-rank features of the kernel transformer: Nyström and random features."""

import pickle

import joblib
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_deq import Activation, DEQKernelTransformer
from sklearn_deq.exceptions import MatchWarning
from sklearn_deq.kernels import deq_kernel, explicit_kernel
from sklearn_deq.linear import nystroem_map

APPROXIMATIONS = ("nystroem", "random_features")


@pytest.fixture
def X(rng):
    """Sixty samples of different norms."""
    return rng.standard_normal((60, 6)) * rng.uniform(0.5, 1.5, (60, 1))


def relative_error(found, expected):
    """Frobenius norm of the difference over that of the kernel."""
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


def test_nystroem_map():
    rng = np.random.default_rng(0)
    factor = rng.standard_normal((8, 5))
    K = factor @ factor.T
    M = nystroem_map(K)
    assert_array_equal(M.shape, K.shape)
    assert_allclose(M, M.T, atol=1e-13)
    # M² is the pseudo-inverse.
    assert_allclose(K @ M @ M @ K, K, atol=1e-11)
    with pytest.raises(ValueError, match="square"):
        nystroem_map(factor)


@pytest.mark.parametrize("kernel", ["ck", "ntk", "ntk_recurrent"])
def test_nystroem_is_exact_with_all_samples(X, kernel):
    model = DEQKernelTransformer(n_components=60, kernel=kernel, random_state=0)
    features = model.fit_transform(X)
    K = deq_kernel(X, kernel=kernel, tau0=model.tau0_)
    assert_allclose(features @ features.T, K, atol=1e-7 * K.max())
    assert_array_equal(np.sort(model.component_indices_), np.arange(60))


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_nystroem_of_float32_is_rounded_only_at_the_end(rng, activation):
    """In two dimensions the map has entries of 1e5: rounding must not meet them."""
    X = rng.standard_normal((300, 2)).astype("float32")
    features = {}
    for dtype in ("float32", "float64"):
        model = DEQKernelTransformer(
            n_components=300, activation=activation, dtype=dtype, random_state=0
        )
        features[dtype] = model.fit_transform(X)
        assert features[dtype].dtype == dtype
    # τ0 is of float64 either way; features are below 2, their roundings 2^-24 of that.
    assert_allclose(features["float32"], features["float64"], atol=2.0**-23)


@pytest.mark.parametrize(
    ("approximation", "sizes", "bounds"),
    [
        ("nystroem", (6, 20, 50), (0.7, 0.25, 0.08)),
        # Errors of random features fall like width^(−1/2): 0.8 at 64, up to spread.
        ("random_features", (64, 1024, 4096), (1.5, 0.4, 0.2)),
    ],
)
def test_error_falls_with_the_number_of_features(X, approximation, sizes, bounds):
    errors = []
    for size in sizes:
        model = DEQKernelTransformer(
            n_components=size, approximation=approximation, random_state=0
        )
        features = model.fit_transform(X)
        assert features.shape == (60, size)
        K = deq_kernel(X, tau0=model.tau0_)
        errors.append(relative_error(features @ features.T, K))
    assert sorted(errors, reverse=True) == errors
    assert (np.array(errors) < bounds).all(), errors


@pytest.mark.slow
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_random_features_are_those_of_the_matched_network(X, activation):
    """On average over draws their inner products are the network's kernel."""
    model = DEQKernelTransformer(
        n_components=256, approximation="random_features", activation=activation
    )
    total = 0.0
    n_draws = 60
    for seed in range(n_draws):
        features = model.set_params(random_state=seed).fit_transform(X)
        total = total + features @ features.T / n_draws
    assert model.match_.converged
    K = explicit_kernel(X, layers=model.match_.layers)
    assert relative_error(total, K) < 0.1


@pytest.mark.parametrize("kernel", ["ntk", "ntk_recurrent"])
def test_random_features_of_tangent_kernels(X, kernel):
    """On one sphere a tangent kernel is the kernel of a layer made for it."""
    model = DEQKernelTransformer(
        n_components=20_000,
        approximation="random_features",
        kernel=kernel,
        normalize=True,
        random_state=0,
    )
    features = model.fit_transform(X)
    assert model.match_.architecture == "hermite"
    K = deq_kernel(X, kernel=kernel, normalize=True)
    # m^(−1/2), times ten for the moments of σ.
    assert relative_error(features @ features.T, K) < 0.07


@pytest.mark.parametrize("approximation", APPROXIMATIONS)
@pytest.mark.parametrize("normalize", [False, True])
def test_blocks_and_copies(approximation, normalize, rng):
    """More rows than a block, against some of them; the same after a pickle."""
    X = rng.standard_normal((2500, 4))
    model = DEQKernelTransformer(
        n_components=10,
        approximation=approximation,
        normalize=normalize,
        random_state=0,
    ).fit(X[:50])
    features = model.transform(X)
    assert_allclose(features[2040:2060], model.transform(X[2040:2060]), atol=1e-11)
    copy = pickle.loads(pickle.dumps(model))
    assert_array_equal(copy.transform(X[:5]), model.transform(X[:5]))
    again = clone(model).fit(X[:50])
    assert_array_equal(again.transform(X[:5]), model.transform(X[:5]))


@pytest.mark.parametrize("approximation", APPROXIMATIONS)
def test_names_dtype_and_output(X, approximation):
    model = DEQKernelTransformer(
        n_components=7, approximation=approximation, random_state=0
    ).fit(X.astype(np.float32))
    assert model.transform(X.astype(np.float32)).dtype == np.float32
    names = model.get_feature_names_out()
    assert list(names[:2]) == ["deqkerneltransformer0", "deqkerneltransformer1"]
    assert len(names) == 7
    frame = model.set_output(transform="pandas").transform(X.astype(np.float32))
    assert list(frame.columns) == list(names)


def test_messages(X):
    few = DEQKernelTransformer(n_components=100, random_state=0)
    with pytest.warns(UserWarning, match="more than the 60 samples"):
        assert few.fit_transform(X).shape == (60, 60)
    with pytest.warns(MatchWarning, match="normalize=True"):
        # Norms of a range from which the NTK of a kinked activation is made worst.
        DEQKernelTransformer(
            n_components=5,
            approximation="random_features",
            kernel="ntk",
            recurrent_variance=0.8,
        ).fit(X * np.geomspace(0.05, 2.0, len(X))[:, None])
    with pytest.raises(ValueError, match="too small for a match"):
        DEQKernelTransformer(n_components=5, approximation="random_features").fit(
            1e-160 * X
        )
    with pytest.raises(ValueError, match="n_components"):
        DEQKernelTransformer(n_components=0).fit(X)
    with pytest.raises(ValueError, match="approximation"):
        DEQKernelTransformer(approximation="fourier").fit(X)


def test_random_features_of_tiny_rows(X):
    """Just above the size that is refused; the ReLU is homogeneous."""
    scale = 1e-69
    model = DEQKernelTransformer(
        n_components=4096, approximation="random_features", random_state=0
    )
    features = model.fit_transform(scale * X) / scale
    K = deq_kernel(X, tau0=model.tau0_ / scale)
    assert relative_error(features @ features.T, K) < 0.2


@pytest.mark.parametrize("approximation", APPROXIMATIONS)
@pytest.mark.filterwarnings("ignore:.*samples have norms:UserWarning")
def test_linear_model_on_features(approximation):
    X, y = load_digits(return_X_y=True)
    model = make_pipeline(
        StandardScaler(),
        DEQKernelTransformer(
            n_components=300, approximation=approximation, random_state=0
        ),
        LogisticRegression(C=100, max_iter=1000),
    ).fit(X[::2], y[::2])
    assert model.score(X[1::2], y[1::2]) > 0.94


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_rounding_of_norms_changes_no_feature(X, dtype):
    """Rows on a sphere in float32 have one norm up to 2e-7."""
    model = DEQKernelTransformer(
        n_components=20_000,
        approximation="random_features",
        normalize=True,
        random_state=0,
    )
    features = model.fit_transform(X.astype(dtype)).astype(float)
    K = deq_kernel(X, normalize=True)
    assert relative_error(features @ features.T, K) < 0.05


def _steep_in_between(x):
    return 2.0 * np.sign(x) * np.clip(np.abs(x) - 1.5, 0.0, 1.0)


@pytest.mark.parametrize("approximation", APPROXIMATIONS)
def test_settings_that_are_unstable_between_the_extremes_are_refused(approximation):
    """By fit, not by transform of the row in question."""
    X = np.sqrt(np.array([0.05, 2.5, 400.0]))[:, None] * np.ones((1, 4))
    model = DEQKernelTransformer(
        n_components=2,
        approximation=approximation,
        activation=Activation(_steep_in_between, kinks=(-2.5, -1.5, 1.5, 2.5)),
        recurrent_variance=1.1,
        input_variance=1.0,
        center=False,
        tau0=1.0,
        random_state=0,
    )
    with pytest.raises(ValueError, match="Unstable DEQ"):
        model.fit(X)


def test_weights_that_are_read_only(rng, tmp_path):
    """As of a model that is loaded with its arrays mapped."""
    X = rng.standard_normal((20, 3))
    model = DEQKernelTransformer(n_components=8, approximation="random_features")
    joblib.dump(model.fit(X), tmp_path / "model.joblib")
    mapped = joblib.load(tmp_path / "model.joblib", mmap_mode="r")
    assert_array_equal(mapped.transform(X), model.transform(X))
