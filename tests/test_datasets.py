"""The Gaussian mixture, and IDX files."""

import gzip
import hashlib
import struct
import tracemalloc

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from sklearn_deq.datasets import load_idx, make_gaussian_mixture


def test_mixture_has_the_announced_means_and_covariances(global_random_seed):
    X, y, means, covariances = make_gaussian_mixture(
        60_000,
        20,
        n_classes=3,
        covariance_scale=2.0,
        return_statistics=True,
        random_state=global_random_seed,
    )
    assert means.shape == (3, 20)
    assert covariances.shape == (3, 20, 20)
    for a in range(3):
        variance = 1 + 2.0 * a / np.sqrt(20)
        assert means[a, 8 * a] == 3.0
        assert np.count_nonzero(means[a]) == 1
        assert_allclose(covariances[a], variance * np.eye(20))
        rows = X[y == a]
        # Six standard errors of a mean and of a covariance's entry.
        atol = 6 * variance / np.sqrt(len(rows))
        assert_allclose(rows.mean(axis=0), means[a], atol=atol)
        assert_allclose(np.cov(rows.T), covariances[a], atol=1.5 * atol)


def test_mixture_defaults_are_those_of_the_paper():
    *_, means, covariances = make_gaussian_mixture(
        10, 400, return_statistics=True, random_state=0
    )
    assert_allclose(means[[0, 1], [0, 8]], 3.0)
    assert_allclose(covariances[1], (1 + 8 / 20) * np.eye(400))


def test_mixture_is_reproducible_and_leaves_the_global_generator_alone():
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    first = make_gaussian_mixture(7, 30, n_classes=3, random_state=3)
    again = make_gaussian_mixture(7, 30, n_classes=3, random_state=3)
    assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002
    assert_array_equal(first[0], again[0])
    counts = np.bincount(first[1])
    assert counts.max() - counts.min() <= 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_samples": 1}, "n_samples must be at least n_classes"),
        ({"n_classes": 0}, "n_samples must be at least n_classes"),
        ({"n_features": 8}, "n_features must be at least 9 for 2 classes, got 8"),
        ({"n_samples": 10.0}, "n_samples must be an integer, got 10.0"),
        ({"n_features": True}, "n_features must be an integer, got True"),
        ({"mean_scale": np.nan}, "mean_scale must be a finite number, got nan"),
        ({"covariance_scale": "8"}, "covariance_scale must be a finite number"),
        ({"covariance_scale": -50.0}, "makes a variance negative or zero"),
        ({"random_state": "a"}, "cannot be used to seed"),
    ],
)
def test_mixture_refuses_bad_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_gaussian_mixture(**arguments)


def _idx(code, array):
    header = bytes([0, 0, code, array.ndim]) + struct.pack(
        f">{array.ndim}I", *array.shape
    )
    return header + array.astype(array.dtype.newbyteorder(">")).tobytes()


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize(
    ("code", "dtype"),
    [(8, "u1"), (9, "i1"), (11, "i2"), (12, "i4"), (13, "f4"), (14, "f8")],
)
def test_idx_round_trip(code, dtype, compress, tmp_path, rng):
    array = (100 * rng.random((5, 3, 2))).astype(dtype)
    content = _idx(code, array)
    path = tmp_path / "array"
    path.write_bytes(gzip.compress(content, mtime=0) if compress else content)
    loaded = load_idx(str(path))
    assert loaded.dtype == array.dtype
    assert loaded.dtype.isnative
    assert_array_equal(loaded, array)


GOOD = _idx(8, np.arange(12, dtype="u1").reshape(3, 4))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not in IDX format"),
        (b"\x01" + GOOD[1:], "not in IDX format"),
        (GOOD[:2] + b"\x0a" + GOOD[3:], "not in IDX format"),
        (GOOD[:7], "its header is incomplete"),
        (GOOD[:-1], "12 bytes of data announced, 11 found"),
        (bytes([0, 0, 8, 65]) + b"\0\0\0\1" * 65 + b"1", "broken-idx .* 65 dimensions"),
        (
            bytes([0, 0, 8, 4]) + bytes(4) + b"\xff" * 12,
            "broken-idx .* 4 dimensions.* which no array has",
        ),
        (GOOD + b"\0", "12 bytes of data announced, more found"),
        (gzip.compress(GOOD, mtime=0)[:-9], "damaged or truncated gzip file"),
        (
            gzip.compress(GOOD, mtime=0)[:-8] + b"\xff" * 8,
            "damaged or truncated gzip file",
        ),
    ],
)
def test_idx_says_what_is_wrong_with_a_file(content, message, tmp_path):
    path = tmp_path / "broken-idx"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_idx(path)


def test_idx_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_idx(tmp_path / "none")


def test_idx_checksum(tmp_path):
    path = tmp_path / "array"
    path.write_bytes(GOOD)
    found = hashlib.sha256(GOOD).hexdigest()
    assert_array_equal(load_idx(path, sha256=found.upper()), load_idx(path))
    with pytest.raises(ValueError, match=f"SHA-256 {found}, expected 0123"):
        load_idx(path, sha256="0123")
    with pytest.raises(ValueError, match="sha256 must be a string or None, got 3"):
        load_idx(path, sha256=3)


def test_idx_unpacks_no_more_than_is_announced(tmp_path):
    path = tmp_path / "bomb"
    path.write_bytes(gzip.compress(GOOD + bytes(2**26), mtime=0))
    tracemalloc.start()
    with pytest.raises(ValueError, match="12 bytes of data announced, more found"):
        load_idx(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**23


def test_idx_header_that_announces_too_much(tmp_path):
    path = tmp_path / "huge"
    path.write_bytes(bytes([0, 0, 14, 3]) + b"\xff" * 12 + bytes(5))
    with pytest.raises(ValueError, match="announced, 5 found"):
        load_idx(path)
