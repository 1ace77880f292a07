"""DEQKernel: scikit-learn's contract for kernels, gradients, and real use."""

import pickle

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.cluster import SpectralClustering
from sklearn.datasets import load_diabetes, load_iris
from sklearn.decomposition import KernelPCA
from sklearn.gaussian_process import (
    GaussianProcessClassifier,
    GaussianProcessRegressor,
)
from sklearn.gaussian_process.kernels import ConstantKernel, WhiteKernel
from sklearn.kernel_approximation import Nystroem
from sklearn.kernel_ridge import KernelRidge
from sklearn.metrics import adjusted_rand_score
from sklearn.model_selection import GridSearchCV
from sklearn.preprocessing import scale
from sklearn.svm import SVC

from sklearn_deq import Activation, DEQKernel
from sklearn_deq.kernels import deq_kernel, deq_kernel_diag, deq_kernel_gradient
from sklearn_deq.theory import ACTIVATIONS, KERNELS, lipschitz_constant
from sklearn_deq.theory._equilibrium_gradient import VARIANCES

# Central differences of order 6: weights of the steps ±1, ±2, ±3.
DIFFERENCES = {1: 0.75, 2: -0.15, 3: 1 / 60}
STEP = 2e-3
FREE = {"bias_variance": 0.1, "bias_variance_bounds": (1e-4, 10.0)}
KERNEL_OBJECTS = [
    DEQKernel(),
    DEQKernel(kernel="ntk", activation="tanh", **FREE),
    DEQKernel(kernel="ntk_recurrent", recurrent_variance_bounds="fixed"),
    DEQKernel(activation="elu", normalize=True, center=False),
    ConstantKernel(2.0) * DEQKernel() + DEQKernel(activation="gelu") ** 2,
]
IDS = [str(kernel) for kernel in KERNEL_OBJECTS]


@pytest.fixture
def X(rng):
    """Rows of different norms, with a zero row and two that are parallel."""
    X = rng.standard_normal((14, 4))
    X[0] = 0.0
    X[1] = 2.0 * X[2]
    X.flags.writeable = False
    return X


@pytest.fixture(scope="module")
def iris():
    """Standardised iris."""
    X, y = load_iris(return_X_y=True)
    return scale(X), y


def numerical_gradient(function, theta):
    """Order-6 differences of a matrix function of theta."""
    columns = []
    for direction in np.eye(len(theta)):
        total = 0.0
        for steps, weight in DIFFERENCES.items():
            up = function(theta + steps * STEP * direction)
            down = function(theta - steps * STEP * direction)
            total = total + weight / STEP * (up - down)
        columns.append(total)
    return np.stack(columns, axis=-1)


@pytest.mark.parametrize("kernel", KERNEL_OBJECTS, ids=IDS)
def test_contract_of_kernels(kernel, X):
    K = kernel(X)
    assert_array_equal(kernel.diag(X), np.diag(K))
    # Near ρ = 1 a few ulps of ρ move the derivative's dual of a kink by 1e-8.
    assert_allclose(kernel(X, X.copy()), K, atol=1e-7 * K.max())
    assert not kernel.is_stationary()
    assert kernel.n_dims == len(kernel.theta) == len(kernel.bounds)
    assert_array_equal(kernel.bounds[:, 0] < kernel.theta, True)
    copy = clone(kernel)
    assert copy == kernel
    assert copy is not kernel
    assert pickle.loads(pickle.dumps(kernel)) == kernel
    moved = kernel.clone_with_theta(kernel.theta - 0.1)
    assert_allclose(moved.theta, kernel.theta - 0.1)
    assert moved != kernel
    assert eval(repr(DEQKernel(activation="erf"))) == DEQKernel(activation="erf")
    # scikit-learn's kernels take bounds as arrays too.
    shown = repr(DEQKernel(input_variance_bounds=np.array([0.1, 1.0])))
    assert "input_variance_bounds=array([0.1, 1. ])" in shown


@pytest.mark.parametrize("kernel", KERNEL_OBJECTS, ids=IDS)
def test_gradient_against_differences(kernel, X):
    K, gradient = kernel(X, eval_gradient=True)
    # The gradient's table may have other nodes: rounding.
    assert_allclose(K, kernel(X), rtol=1e-7, atol=1e-9 * K.max())
    expected = numerical_gradient(
        lambda theta: kernel.clone_with_theta(theta)(X), kernel.theta
    )
    assert gradient.shape == expected.shape
    assert_allclose(gradient, expected, rtol=1e-5, atol=1e-6 * np.abs(expected).max())


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("activation", ["relu", "tanh", "gelu", "elu", "sigmoid"])
def test_gradient_of_every_form(activation, kernel, normalize, rng):
    """Sphere, homogeneous, tabulated and entrywise forms; no two rows are parallel."""
    X = rng.standard_normal((8, 5))
    variances = {
        "recurrent_variance": 0.3,
        "input_variance": 0.6,
        "bias_variance": 0.2,
    }
    settings = {"kernel": kernel, "activation": activation, "normalize": normalize}
    _, gradient = deq_kernel_gradient(X, **settings, **variances)
    assert_array_equal(gradient, np.swapaxes(gradient, 0, 1))

    def at(theta):
        moved = dict(zip(variances, np.exp(theta), strict=True))
        return deq_kernel(X, **settings, **moved)

    expected = numerical_gradient(at, np.log(list(variances.values())))
    # Differences carry rounding of 1e-13/STEP.
    assert_allclose(gradient, expected, atol=1e-8 * np.abs(expected).max())


def test_gradient_of_the_input_variance_of_homogeneous_kernels(X):
    """Without bias every kernel of a ReLU DEQ is proportional to σ_b² in its CK."""
    for center in (True, False):
        K, gradient = deq_kernel_gradient(
            X, variances=("input_variance",), center=center
        )
        assert_allclose(gradient[..., 0], K, atol=1e-11)


def test_gradient_arguments(X):
    with pytest.raises(ValueError, match="variances must be among"):
        deq_kernel_gradient(X, variances=("tau0",))
    with pytest.raises(ValueError, match="when Y is None"):
        DEQKernel()(X, X, eval_gradient=True)
    assert deq_kernel_gradient(X)[1].shape == (14, 14, len(VARIANCES))
    with pytest.raises(MemoryError, match="max_memory"):
        deq_kernel_gradient(X, max_memory=14 * 14 * 8 * 2)


def test_same_as_the_function(X):
    settings = {"kernel": "ntk", "activation": "tanh", "tau0": 1.3, "normalize": True}
    kernel = DEQKernel(**settings)
    assert_array_equal(kernel(X), deq_kernel(X, **settings))
    assert_array_equal(kernel(X, X), deq_kernel(X, **settings))
    assert_array_equal(kernel.diag(X), deq_kernel_diag(X, **settings))
    assert kernel(X.astype(np.float32)).dtype == np.float32
    assert DEQKernel(dtype="float32")(X).dtype == np.float32


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_search_stays_in_the_stable_region(name, rng):
    """At the upper bound the kernel still exists, for small and large samples."""
    kernel = DEQKernel(activation=name)
    upper = kernel.hyperparameter_recurrent_variance.bounds[0, 1]
    assert upper < 1 / lipschitz_constant(name) ** 2
    X = rng.standard_normal((5, 3)) * np.array([[0.1], [0.3], [1], [2], [3]])
    kernel.set_params(recurrent_variance=upper)
    assert np.isfinite(kernel(X)).all()


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_lipschitz_constant(name):
    x = np.linspace(-20, 20, 100_001)
    steepest = np.abs(ACTIVATIONS[name].derivative(x)).max()
    assert_allclose(lipschitz_constant(name), steepest, rtol=1e-6)


def test_lipschitz_constant_is_remembered():
    """A fit asks for the bounds dozens of times."""
    calls = []

    def function(x):
        calls.append(x.size)
        return np.tanh(x)

    kernel = DEQKernel(activation=Activation(function))
    first = kernel.bounds
    n_calls = len(calls)
    assert_array_equal(kernel.bounds, first)
    assert len(calls) == n_calls
    # What has no hash is computed anew.
    array = np.ones(1)
    odd = Activation(function, kinks=(), name=array)
    assert lipschitz_constant(odd) == lipschitz_constant(Activation(function))


def test_lipschitz_constant_at_a_cusp_of_the_slope():
    """Softsign: between points of a grid its slope of 1 at 0 would be missed."""
    softsign = Activation(lambda x: x / (1 + np.abs(x)), kinks=(0.0,))
    assert_allclose(lipschitz_constant(softsign), 1.0, rtol=1e-6)
    # Of a function in single precision differences over 1e-7 are all rounding.
    rounded = lipschitz_constant(lambda x: np.tanh(x.astype(np.float32)))
    assert_allclose(rounded, 1.0, rtol=1e-2)


def test_messages():
    with pytest.raises(ValueError, match="bias_variance_bounds='fixed'"):
        _ = DEQKernel(bias_variance_bounds=(1e-3, 1)).theta
    with pytest.raises(ValueError, match="lies outside its bounds"):
        _ = DEQKernel(recurrent_variance=1.5).bounds
    with pytest.raises(TypeError, match="Did you mean 'recurrent_variance'"):
        DEQKernel(recurent_variance=0.1)
    with pytest.raises(ValueError, match="faster than linearly"):
        _ = DEQKernel(activation=Activation(np.exp)).bounds
    with pytest.raises(ValueError, match="Did you mean 'recurrent_variance'"):
        DEQKernel().set_params(recurent_variance=0.1)
    assert DEQKernel(
        recurrent_variance=1.5, recurrent_variance_bounds=(0.1, 1.9)
    ).bounds.size


@pytest.mark.parametrize("kernel", [("ck", "ntk"), ["ck"], (), None, "NTK"])
def test_one_kernel_only(kernel, X):
    """Several would be a matrix of three axes."""
    for evaluate in (
        lambda kernel: kernel(X),
        lambda kernel: kernel.diag(X),
        lambda kernel: kernel(X, eval_gradient=True),
    ):
        with pytest.raises(ValueError, match="kernel must be one of 'ck', 'ntk'"):
            evaluate(DEQKernel(kernel=kernel))


BAD_BOUNDS = [
    *["fixd", None, ("a", "b"), (0.1,), (0.1, 0.2, 0.3)],
    *[(0, 0.9), (-1, 1), (1, 0.1), (0.1, np.nan)],
]


@pytest.mark.parametrize("bounds", BAD_BOUNDS, ids=str)
@pytest.mark.parametrize("name", VARIANCES)
def test_bounds_are_checked(name, bounds):
    kernel = DEQKernel(**{f"{name}_bounds": bounds})
    message = rf"{name}_bounds must be \(low, high\) with 0 < low <= high, or 'fixed'"
    for attribute in ("bounds", "theta", "hyperparameters"):
        with pytest.raises(ValueError, match=message):
            getattr(kernel, attribute)


@pytest.mark.parametrize("bounds", [[0.1, 0.9], [(0.1, 0.9)], np.array([[0.1, 0.9]])])
def test_bounds_as_scikit_learn_takes_them(bounds):
    kernel = DEQKernel(recurrent_variance_bounds=bounds, input_variance_bounds="fixed")
    assert_allclose(np.exp(kernel.bounds), [[0.1, 0.9]])


@pytest.mark.parametrize("value", ["0.2", None, -0.1, np.nan])
def test_variances_are_checked_before_their_logarithms(value):
    kernel = DEQKernel(recurrent_variance=value)
    for attribute in ("bounds", "theta"):
        with pytest.raises(ValueError, match="recurrent_variance must be a finite"):
            getattr(kernel, attribute)


@pytest.mark.filterwarnings("ignore:The optimal value found")
def test_regression_with_learnt_hyperparameters():
    X, y = load_diabetes(return_X_y=True)
    X, y = scale(X), scale(y)
    kernel = DEQKernel(recurrent_variance_bounds=(1e-3, 0.99)) + WhiteKernel(2.0)
    model = GaussianProcessRegressor(kernel).fit(X[:300], y[:300])
    learnt = model.log_marginal_likelihood_value_
    assert learnt > model.log_marginal_likelihood(kernel.theta) + 10
    assert model.score(X[300:], y[300:]) > 0.45
    mean, deviation = model.predict(X[300:], return_std=True)
    assert np.isfinite(mean).all()
    assert (deviation > 0).all()


def test_bounds_that_admit_unstable_settings_are_named():
    """The optimizer goes to their ends, with values that nobody has set."""
    X = np.linspace(-1, 1, 12)[:, None]
    kernel = DEQKernel(recurrent_variance_bounds=(1e-5, 3.0))
    message = r"Unstable.*recurrent_variance_bounds=\(1e-05, 3\).*'auto' is 0\.99, "
    with pytest.raises(ValueError, match=message):
        GaussianProcessRegressor(kernel).fit(X, np.sin(3 * X[:, 0]))
    # Values that a user has set are so called.
    unstable = kernel.clone_with_theta(np.log([1.0, 3.0]))
    with pytest.raises(ValueError, match="Unstable") as raised:
        unstable(X)
    assert "bounds" not in str(raised.value)
    fixed = unstable.set_params(recurrent_variance_bounds="fixed")
    with pytest.raises(ValueError, match="Unstable") as raised:
        fixed(X, eval_gradient=True)
    assert "bounds" not in str(raised.value)
    # Without a largest slope there is no "auto" to speak of.
    steep = DEQKernel(
        activation=Activation(lambda x: x * np.abs(x), lambda x: 2 * np.abs(x)),
        recurrent_variance=2.0,
        recurrent_variance_bounds=(1e-5, 3.0),
    )
    with pytest.raises(ValueError, match=r"is to be lowered\.$"):
        steep(X, eval_gradient=True)


def test_gradient_of_the_marginal_likelihood(iris):
    """As the Gaussian process uses it."""
    X, y = iris
    kernel = DEQKernel(activation="gelu", **FREE) + WhiteKernel(0.1)
    model = GaussianProcessRegressor(kernel, optimizer=None).fit(X[::3], y[::3])
    _, gradient = model.log_marginal_likelihood(kernel.theta, eval_gradient=True)
    expected = numerical_gradient(
        lambda theta: np.asarray(model.log_marginal_likelihood(theta)), kernel.theta
    )
    assert_allclose(gradient, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore:The optimal value found")
def test_classification(iris):
    X, y = iris
    kernel = DEQKernel(recurrent_variance_bounds=(1e-2, 0.99))
    model = GaussianProcessClassifier(kernel).fit(X[::2], y[::2])
    assert model.score(X[1::2], y[1::2]) > 0.9


def test_other_estimators(iris):
    X, y = iris
    ridge = KernelRidge(kernel=DEQKernel(), alpha=0.1).fit(X, y)
    precomputed = KernelRidge(kernel="precomputed", alpha=0.1).fit(deq_kernel(X), y)
    assert_allclose(ridge.predict(X), precomputed.predict(deq_kernel(X)), atol=1e-8)
    assert SVC(kernel=DEQKernel(), C=10).fit(X, y).score(X, y) > 0.95
    # With all samples it leaves out the part of the spectrum below 1e-12.
    features = Nystroem(DEQKernel(), n_components=150).fit_transform(X)
    assert_allclose(features @ features.T, deq_kernel(X), atol=1e-6)
    components = KernelPCA(3, kernel=DEQKernel()).fit_transform(X)
    theirs = KernelPCA(3, kernel="precomputed").fit_transform(deq_kernel(X))
    assert_allclose(np.abs(components), np.abs(theirs), atol=1e-8)
    search = GridSearchCV(
        SVC(kernel=DEQKernel()), {"kernel__recurrent_variance": [0.1, 0.5]}
    ).fit(X, y)
    assert search.best_score_ > 0.93


def test_clustering_with_affinities(iris):
    """Affinities must not be negative: without centring they are not."""
    X, y = iris
    kernel = DEQKernel(center=False)
    assert kernel(X).min() >= 0
    model = SpectralClustering(3, affinity=kernel, random_state=0)
    assert adjusted_rand_score(y, model.fit_predict(X)) > 0.5


@pytest.mark.parametrize("kernel", KERNELS)
def test_gradients_of_equal_rows_are_those_of_the_diagonal(kernel, rng):
    """The angle between them is known to √ε only: what it is divided by."""
    clip = Activation(lambda u: np.clip(u, -1.0, 1.0), kinks=(-1.0, 1.0))
    X = rng.standard_normal((40, 10)) * rng.uniform(0.5, 2.0, 40)[:, None]
    _, found = deq_kernel_gradient(
        np.vstack([X, X]),
        variances=VARIANCES[:2],
        kernel=kernel,
        activation=clip,
        recurrent_variance=0.4,
    )
    same = np.arange(40)
    assert_allclose(found[same, same + 40], found[same, same], rtol=1e-5)
