"""Logistic and ridge regression against scikit-learn's, and where that has trouble."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.special import log_softmax
from sklearn.linear_model import LogisticRegression, Ridge
from threadpoolctl import ThreadpoolController

from sklearn_deq.linear import _logistic, fit_logistic, fit_ridge

# Features: many rows; fewer rows than columns; correlated over six decades; constant
# columns and a mean that dwarfs the deviations.
SHAPES = {"tall": (120, 9), "wide": (25, 40), "correlated": (120, 9), "offset": (90, 7)}


@pytest.fixture(params=SHAPES)
def problem(request, rng):
    """Features, codes of three classes and weights."""
    n, m = SHAPES[request.param]
    Z = rng.standard_normal((n, m))
    if request.param == "correlated":
        Z = Z @ np.diag(np.logspace(0, -3, m)) @ rng.standard_normal((m, m))
    if request.param == "offset":
        Z = np.concatenate([Z + 100.0, np.ones((n, 2))], axis=1)
    scores = Z[:, :3] - Z[:, :3].mean(axis=0) + rng.standard_normal((n, 3))
    return Z, scores.argmax(axis=1), rng.uniform(0.1, 3.0, n)


def _oracle(Z, y, penalty, weight):
    model = LogisticRegression(
        C=1.0 / (penalty * len(y)), tol=1e-10, max_iter=10_000, solver="newton-cg"
    )
    # The intercept has no penalty. A mean that dwarfs the deviations would stall the
    # line search by rounding, and it would warn.
    mean = Z.mean(axis=0)
    model.fit(Z - mean, y, sample_weight=weight)
    model.intercept_ -= model.coef_ @ mean
    return model


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("penalty", [1e-3, 1e-1])
def test_exclusive_classes(problem, penalty, weighted):
    Z, y, weight = problem
    weight = weight if weighted else None
    fit = fit_logistic(Z, y, penalty, sample_weight=weight, tol=1e-7)
    oracle = _oracle(Z, y, penalty, weight)
    expected = Z @ oracle.coef_.T + oracle.intercept_
    found = Z @ fit.coef.T + fit.intercept
    # Where classes are separable the curvature is down to 1e-3 of its bound, and the
    # scores are off by the gradient over it, times their size.
    assert_allclose(log_softmax(found, 1), log_softmax(expected, 1), atol=1e-4)
    assert fit.converged
    assert not fit.interrupted


@pytest.mark.parametrize("weighted", [False, True])
def test_labels_are_problems_of_their_own(problem, weighted):
    Z, y, weight = problem
    weight = weight if weighted else None
    labels = np.stack([y == 0, y > 0, y != 1], axis=1)
    fit = fit_logistic(Z, labels.astype(float), 1e-2, sample_weight=weight, tol=1e-7)
    for k in range(3):
        oracle = _oracle(Z, labels[:, k], 1e-2, weight)
        expected = oracle.decision_function(Z)
        assert_allclose(Z @ fit.coef[k] + fit.intercept[k], expected, atol=1e-4)


def test_the_gradient_vanishes(problem):
    Z, y, weight = problem
    fit = fit_logistic(Z, y, 1e-3, sample_weight=weight, tol=1e-7)
    scores = Z @ fit.coef.T + fit.intercept
    errors = weight[:, None] * (np.exp(log_softmax(scores, 1)) - np.eye(3)[y])
    gradient = errors.T @ Z / len(Z) + 1e-3 * fit.coef
    assert_allclose(gradient, 0, atol=1e-6 * np.abs(Z).max())
    assert_allclose(errors.sum(axis=0), 0, atol=1e-6 * len(Z))


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_float32_and_any_scale(rng, scale):
    """Nearly without a penalty: what it converges to is a good fit all the same."""
    Z = (scale * rng.standard_normal((400, 30))).astype(np.float32)
    y = Z[:, :4].argmax(axis=1)
    fit = fit_logistic(Z, y, 1e-6 * scale**2)
    assert fit.converged
    assert np.mean((Z @ fit.coef.T + fit.intercept).argmax(axis=1) == y) > 0.99


def test_few_iterations_whatever_the_spectrum(rng):
    """Features with the spectrum k^(−2) take as many as white ones."""
    white = rng.standard_normal((500, 60))
    y = (white[:, :5] + 2.0 * rng.standard_normal((500, 5))).argmax(axis=1)
    coloured = white * np.arange(1, 61) ** -2.0
    plain = fit_logistic(white, y, 1e-14)
    fit = fit_logistic(coloured, y, 1e-14)
    assert fit.converged
    assert abs(fit.n_iter - plain.n_iter) <= 2


def test_rows_in_blocks(problem, monkeypatch):
    Z, y, _ = problem
    whole = fit_logistic(Z, y, 1e-2, tol=1e-7)
    monkeypatch.setattr("sklearn_deq.linear._logistic._MOST_SCORES", 21)
    parts = fit_logistic(Z, y, 1e-2, tol=1e-7)
    assert_allclose(Z @ parts.coef.T, Z @ whole.coef.T, atol=1e-4)


def test_an_interruption_keeps_what_there_is(problem, monkeypatch):
    Z, y, _ = problem
    from sklearn_deq.linear import _logistic

    calls = []

    def interrupted(self, scores, part):
        calls.append(part)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return original(self, scores, part)

    original = _logistic._Problem._residuals
    monkeypatch.setattr(_logistic._Problem, "_residuals", interrupted)
    fit = fit_logistic(Z, y, 1e-6)
    assert fit.interrupted
    assert 1 <= fit.n_iter < 5
    assert not fit.converged
    assert np.isfinite(fit.coef).all()
    assert np.abs(fit.coef).max() > 0


def test_too_few_iterations_are_no_convergence(problem):
    Z, y, _ = problem
    fit = fit_logistic(Z, y, 1e-6, max_iter=2)
    assert fit.n_iter == 2
    assert not fit.converged


@pytest.mark.parametrize(
    ("Z", "targets", "penalty", "message"),
    [
        (np.ones(3), np.zeros(3, int), 1.0, r"matrix of floats, got shape \(3,\)"),
        (np.ones((3, 2), int), np.zeros(3, int), 1.0, "dtype int64"),
        (np.ones((3, 2)), np.zeros(2, int), 1.0, r"codes \(3,\) or labels \(3, "),
        (np.ones((3, 2)), np.zeros(3, int), 0.0, "penalty must be positive.*got 0.0"),
        (np.ones((3, 2)), np.zeros(3, int), np.nan, "penalty must be positive"),
    ],
)
def test_messages(Z, targets, penalty, message):
    with pytest.raises(ValueError, match=message):
        fit_logistic(Z, targets, penalty)


@pytest.mark.parametrize("penalty", [1e-3, 1.0])
def test_ridge(problem, penalty, rng):
    Z, _, _ = problem
    Y = Z[:, :2] + rng.standard_normal((len(Z), 2)) + 5.0
    coef, intercept = fit_ridge(Z, Y, penalty)
    oracle = Ridge(alpha=penalty * len(Z), solver="svd").fit(Z, Y)
    # The least penalty is up to 1e-8 of the penalty here.
    assert_allclose(coef, oracle.coef_, rtol=1e-6, atol=1e-7)
    assert_allclose(intercept, oracle.intercept_, rtol=1e-6)


@pytest.mark.parametrize("n", [3, 40])
@pytest.mark.parametrize("scale", [1.0, 1e6])
def test_ridge_of_dependent_features(rng, n, scale):
    """Two equal columns, a constant one, and next to no penalty: half of each."""
    x = scale * rng.standard_normal(n).astype(np.float32)
    Z = np.column_stack([x, x, np.full(n, 7.0, np.float32)])
    coef, intercept = fit_ridge(Z, 2.0 * x[:, None] + 1.0, 1e-14)
    # Rounding over the least penalty: 1e-16 over 1e-12, and room for their factors.
    assert_allclose(coef, [[1.0, 1.0, 0.0]], atol=5e-3)
    assert_allclose(coef.sum(), 2.0, rtol=1e-6)
    assert_allclose(intercept, 1.0, atol=1e-6 * scale)


def test_ridge_of_nothing_but_constants():
    coef, intercept = fit_ridge(np.ones((4, 2)), np.full((4, 1), 3.0), 0.0)
    assert_allclose(coef, 0)
    assert_allclose(intercept, 3.0)


@pytest.mark.parametrize(
    ("Y", "penalty"), [(np.ones(3), 1.0), (np.ones((2, 1)), 1.0), (np.ones((3, 1)), -1)]
)
def test_ridge_messages(Y, penalty):
    with pytest.raises(ValueError, match=r"as many rows and penalty not negative, got"):
        fit_ridge(np.ones((3, 2)), Y, penalty)


def _blas_pools():
    return [
        pool
        for pool in ThreadpoolController().lib_controllers
        if pool.user_api == "blas"
    ]


def _set_threads(numbers):
    for pool, number in zip(_blas_pools(), numbers, strict=True):
        pool.set_num_threads(number)
        # Or no other thread can, as long as this one lives.
        getattr(pool, "clear_controlling_thread", lambda: None)()


def test_fits_that_overlap_leave_the_threads_of_the_process(rng, monkeypatch):
    """The second to begin put back the one thread that the first had set, for good."""
    Z, y = rng.standard_normal((30, 3)), np.arange(30) % 2
    fits = [threading.Event() for _ in range(4)]
    events = iter(zip(fits[:2], fits[2:], strict=True))

    def held(*arguments, **options):
        began, may_end = next(events)
        began.set()
        may_end.wait(60)
        return minimize(*arguments, **options)

    minimize = _logistic.minimize
    before = [pool.num_threads for pool in _blas_pools()]
    _set_threads([2] * len(before))
    try:
        # Threads that live on, as those of a server do.
        with ThreadPoolExecutor(2) as pool:
            monkeypatch.setattr(_logistic, "minimize", held)
            futures = []
            for began in fits[:2]:
                futures.append(pool.submit(fit_logistic, Z, y, 0.1, max_iter=5))
                assert began.wait(60)
            for future, may_end in zip(futures, fits[2:], strict=True):
                assert {pool.num_threads for pool in _blas_pools()} == {1}
                may_end.set()
                future.result(60)
            assert {pool.num_threads for pool in _blas_pools()} == {2}
    finally:
        _set_threads(before)
