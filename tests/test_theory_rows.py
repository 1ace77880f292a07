"""Sizes of rows and their projection: any scale, any layout, and no copies."""

import tracemalloc

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from sklearn_deq import DEQClassifier
from sklearn_deq.theory._rows import mean_squares, moderate_rows, normalize_rows

# Of sums of this many squares in another order.
ROUNDING = 1e-14


def _peak(function, *args):
    """Bytes that NumPy allocates at once."""
    tracemalloc.start()
    try:
        function(*args)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_mean_squares(kind, order, rng):
    X = np.asarray(rng.standard_normal((30, 200)), dtype=kind, order=order)
    found = mean_squares(X)
    assert found.dtype == np.float64
    assert_allclose(found, (X.astype(float) ** 2).mean(axis=1), rtol=ROUNDING)


def test_mean_squares_beyond_float32_and_float64():
    assert_allclose(mean_squares(np.full((1, 2), 1e30, np.float32)), 1e60, rtol=1e-6)
    assert_array_equal(mean_squares(np.full((1, 2), 1e200)), np.inf)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_rows_on_the_sphere(kind, rng):
    X = rng.standard_normal((6, 50)).astype(kind)
    exact = X.astype(float)
    exact /= np.sqrt(np.mean(exact**2, axis=1, keepdims=True))
    tiny, large = (1e-42, 1e38) if kind == np.float32 else (1e-310, 1e307)
    scales = np.array([1.0, tiny, large, 0.0, 1e-25, 1e20], dtype=kind)
    found = normalize_rows(X * scales[:, None])
    assert found.dtype == kind
    # Numbers next to the least have lost digits before.
    tolerances = np.where(scales == scales[1], 0.01, 8 * np.finfo(kind).eps)
    gaps = np.abs(found - exact * (scales > 0)[:, None]).max(axis=1)
    assert np.all(gaps <= tolerances)


def test_rows_do_not_depend_on_those_beside_them(rng):
    X = rng.standard_normal((3, 20))
    alone = normalize_rows(X)
    X[1:] *= np.array([[1e-200], [1e200]])
    assert_array_equal(normalize_rows(X)[0], alone[0])
    assert_allclose(normalize_rows(X), alone, rtol=ROUNDING)


def test_zero_rows_are_no_reason_for_a_copy(rng):
    X = rng.standard_normal((4, 3))
    X[2] = 0.0
    rows, squares = moderate_rows(X)
    assert rows is X
    assert_allclose(squares, (X**2).sum(axis=1), rtol=ROUNDING)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_no_copies(kind, rng):
    X = rng.standard_normal((500, 4000)).astype(kind)
    # Buffers, and a few numbers for each row.
    assert _peak(mean_squares, X) < 0.1 * X.nbytes
    # The result.
    assert _peak(normalize_rows, X) < 1.1 * X.nbytes


def test_a_fit_of_float32_rows_makes_no_copy_in_float64(rng):
    X = rng.standard_normal((500, 4000)).astype(np.float32)
    model = DEQClassifier(width=4, trainable="readout", random_state=0)
    # Two copies in float64 would be four times X; modules loaded on the way count.
    assert _peak(model.fit, X, X[:, 0] > 0) < 0.5 * X.nbytes
