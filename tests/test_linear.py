"""Ridge regression by eigendecomposition against solves of each problem by itself."""

import subprocess
import sys

import numpy as np
import pytest
from numpy.testing import assert_allclose
from sklearn.kernel_ridge import KernelRidge

from sklearn_deq.linear import (
    leave_one_out,
    ridge_fit,
    ridge_path,
    ridge_spectrum,
)

ALPHAS = np.array([1e-6, 1e-2, 1.0, 100.0])


@pytest.fixture(params=[12, 3], ids=["full rank", "rank 3"])
def problem(request, rng):
    """A Gram matrix of 12 samples, two targets and weights."""
    features = rng.standard_normal((12, request.param)) + 1.0
    Y = rng.standard_normal((12, 2)) + 5.0
    return features @ features.T, Y, rng.uniform(0.1, 3.0, 12)


def _solve(K, Y, alpha, weight, fit_intercept):
    """The normal equations of the objective, bordered by the intercept."""
    n = len(K)
    system = np.zeros((n + 1, n + 1))
    system[:n, :n] = K + np.diag(alpha / weight)
    system[:n, n] = system[n, :n] = 1.0 if fit_intercept else 0.0
    system[n, n] = 0.0 if fit_intercept else 1.0
    solution = np.linalg.solve(system, np.vstack([Y, np.zeros(Y.shape[1])]))
    return solution[:n], solution[n]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("fit_intercept", [False, True])
def test_leave_one_out_is_that_of_refits(problem, weighted, fit_intercept):
    K, Y, weight = problem
    weight = weight if weighted else np.ones(len(K))
    spectrum = ridge_spectrum(
        K.copy(), weight if weighted else None, fit_intercept=fit_intercept
    )
    predicted = leave_one_out(spectrum, Y, ALPHAS)
    assert predicted.shape == (len(ALPHAS), *Y.shape)
    for alpha, values in zip(ALPHAS, predicted, strict=True):
        for i in range(len(K)):
            rest = np.delete(np.arange(len(K)), i)
            dual, intercept = _solve(
                K[np.ix_(rest, rest)], Y[rest], alpha, weight[rest], fit_intercept
            )
            assert_allclose(values[i], K[i, rest] @ dual + intercept, rtol=1e-6)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("fit_intercept", [False, True])
def test_both_solvers_solve_the_normal_equations(problem, weighted, fit_intercept):
    K, Y, weight = problem
    weight = weight if weighted else None
    spectrum = ridge_spectrum(K.copy(), weight, fit_intercept=fit_intercept)
    duals, intercepts = ridge_path(spectrum, Y, ALPHAS)
    for alpha, dual, intercept in zip(ALPHAS, duals, intercepts, strict=True):
        expected = _solve(
            K, Y, alpha, np.ones(len(K)) if weight is None else weight, fit_intercept
        )
        fitted = ridge_fit(K.copy(), Y, alpha, weight, fit_intercept=fit_intercept)
        for ours in ((dual, intercept), fitted):
            assert_allclose(K @ ours[0] + ours[1], K @ expected[0] + expected[1])
            assert_allclose(ours[0], expected[0], rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("fit_intercept", [False, True])
@pytest.mark.parametrize("alpha", [1e-4, 1e-1, 10.0])
def test_a_matrix_of_float32_is_solved_as_one_of_float64(
    rng, weighted, fit_intercept, alpha
):
    # Of condition 3e6: the decomposition alone would err by tens of per cent.
    features = rng.standard_normal((300, 40)) * np.logspace(0, -3, 40)
    K = (features @ features.T).astype(np.float32)
    K /= K.max()
    Y = rng.standard_normal((300, 2)) * [1.0, 1e30] + 5.0
    weight = rng.uniform(0.1, 3.0, 300) if weighted else None
    mine, theirs = (
        ridge_fit(K.astype(d), Y, alpha, weight, fit_intercept=fit_intercept)
        for d in (np.float32, np.float64)
    )
    assert mine[0].dtype == np.float64
    error = np.linalg.norm(mine[0] - theirs[0], axis=0)
    assert (error < 1e-6 * np.linalg.norm(theirs[0], axis=0)).all()
    assert_allclose(mine[1], theirs[1], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("unit", [1e-200, 1e200])
def test_targets_of_any_unit_are_solved_in_float32(unit, rng):
    """Their squares are zero, or infinite: coefficients once were zeros."""
    features = rng.standard_normal((50, 60))
    K, y = (features @ features.T).astype(np.float32), rng.standard_normal((50, 2))
    y[:, 1] = 0.0
    dual, intercept = ridge_fit(K.copy(), y, 0.1)
    theirs, other = ridge_fit(K.copy(), unit * y, 0.1)
    assert_allclose(theirs / unit, dual, rtol=1e-7, atol=1e-9)
    assert_allclose(other / unit, intercept, rtol=1e-7, atol=1e-9)


def test_what_float32_cannot_solve_is_explained(rng):
    K = (np.ones((50, 50)) - 0.1 * np.eye(50)).astype(np.float32)
    weight = np.logspace(-12, 0, 50)
    y = rng.standard_normal((50, 1))
    with pytest.raises(np.linalg.LinAlgError, match=r"1e\+12 times the smallest"):
        ridge_fit(K.copy(), y, 1e-12, weight)
    with pytest.raises(np.linalg.LinAlgError, match=r"dtype='float64'\.$"):
        ridge_fit(K.copy(), y, 1e-12)
    K[3, 4] = K[4, 3] = np.nan
    with pytest.raises(np.linalg.LinAlgError, match="has NaN or infinity"):
        ridge_fit(K, y, 1.0)


def test_a_matrix_that_rounding_has_spoilt_is_refused(rng):
    # The decomposition does not see an eigenvalue of −1e-6, or it fails at one of −0.1.
    for least in (-1e-6, -0.1):
        K = np.ones((50, 50)) + least * np.eye(50)
        with pytest.raises(np.linalg.LinAlgError, match="alpha, or set dtype='float64"):
            ridge_fit(K.astype(np.float32), rng.standard_normal((50, 1)), 1e-7)


def test_scikit_learn_agrees_without_intercept(problem):
    K, Y, weight = problem
    dual, intercept = ridge_fit(K.copy(), Y, 0.1, weight, fit_intercept=False)
    theirs = KernelRidge(alpha=0.1, kernel="precomputed").fit(K, Y, weight)
    assert_allclose(dual, theirs.dual_coef_, rtol=1e-7)
    assert_allclose(intercept, 0.0)


def test_leave_one_out_does_not_cancel_for_a_tiny_penalty(rng):
    # Almost an interpolation: 1 − h_ii is about 1e-13.
    factors = rng.standard_normal((20, 20))
    K = factors @ factors.T + np.eye(20)
    Y = rng.standard_normal((20, 1))
    predicted = leave_one_out(ridge_spectrum(K.copy()), Y, [1e-13])[0]
    dual, _ = _solve(K, Y, 0.0, np.ones(20), True)
    rest = np.arange(1, 20)
    dual, intercept = _solve(K[1:, 1:], Y[1:], 0.0, np.ones(19), True)
    assert_allclose(predicted[0], K[0, rest] @ dual + intercept, rtol=1e-8)


def test_equal_samples_are_predicted_by_the_mean_of_the_others():
    Y = np.array([[1.0], [2.0], [6.0]])
    predicted = leave_one_out(ridge_spectrum(np.ones((3, 3))), Y, [1e-3])
    assert_allclose(predicted[0], [[4.0], [3.5], [1.5]])


def test_a_singular_matrix_is_refused_with_advice():
    # Rounding leaves pivots of either sign, or none.
    vector = np.linspace(1.0, 2.0, 50)
    for K in (np.full((3, 3), 1e20), np.outer(vector, vector)):
        with pytest.raises(np.linalg.LinAlgError, match="raise alpha, above"):
            ridge_fit(K, np.ones((len(K), 1)), 1e-20)


@pytest.mark.parametrize("weight", [[1.0, 0.0], [1.0, -1.0], [1.0, np.nan], [1.0]])
def test_weights_must_be_positive(weight):
    with pytest.raises(ValueError, match="positive numbers"):
        ridge_spectrum(np.eye(2), np.array(weight))


def test_a_matrix_must_be_square():
    with pytest.raises(ValueError, match="square"):
        ridge_spectrum(np.ones((2, 3)))


MEASURE = """
import resource, sys
import numpy as np
from sklearn_deq.linear import leave_one_out, ridge_fit, ridge_spectrum
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
n = 1500
rng = np.random.default_rng(0)
features, Y, weight = rng.random((n, 30)), rng.random((n, 2)), rng.random(n) + 0.1
alphas = np.logspace(-4, 1, 10)
leave_one_out(ridge_spectrum(np.eye(300)), Y[:300], alphas)
before = peak()
for _ in range(3):
    leave_one_out(ridge_spectrum(features @ features.T, weight), Y, alphas)
    ridge_fit(features @ features.T, Y, 0.1, weight)
print((peak() - before) / (8 * n * n))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the unit of ru_maxrss")
def test_memory_is_that_of_two_gram_matrices():
    prelude = f"import sys; sys.path[:] = {sys.path!r}\n"
    result = subprocess.run(
        [sys.executable, "-c", prelude + MEASURE],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    # Blocks of rows and LAPACK's workspace, of fixed size, are the rest: measured 2.4
    # here, where a Gram matrix takes 18 MB.
    assert float(result.stdout) < 2.7
