"""Features of patches: what they are of, and what they do not know."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

pytestmark = pytest.mark.usefixtures("benchmarks")


@pytest.fixture
def photographs():
    """Smooth images of three colours: neighbours are alike."""
    rng = np.random.default_rng(0)
    values = rng.standard_normal((40, 3, 12, 12)).cumsum(axis=2).cumsum(axis=3)
    values -= values.min()
    return (255 * values / values.max()).astype(np.uint8).reshape(40, -1)


def test_features_are_averages_over_patches(photographs):
    from benchmarks.paper import _patches

    rng = np.random.default_rng(1)
    filters, mean = rng.standard_normal((5, 108)), rng.standard_normal(108)
    image = photographs[0].reshape(3, 12, 12).astype(float)
    responses = np.empty((5, 7, 7))
    for i in range(7):
        for j in range(7):
            patch = image[:, i : i + 6, j : j + 6].ravel()
            contrast = np.sqrt(patch.var() + _patches.CONTRAST_FLOOR)
            responses[:, i, j] = filters @ ((patch - patch.mean()) / contrast - mean)
    both = np.concatenate([responses, -responses])
    beyond = np.maximum(both - _patches.THRESHOLD, 0.0)
    # Quadrants of seven places share the middle one.
    parts = [slice(0, 4), slice(3, 7)]
    expected = [[beyond[:, a, b].mean(axis=(1, 2)) for b in parts] for a in parts]
    X, *rest = (
        torch.from_numpy(array).float() for array in (image[None], filters, mean)
    )
    found = _patches._pooled(X, *rest)
    # Sums of 108 terms of up to 255, float32, and a threshold: errors of 1e-5 of them.
    assert_allclose(
        found[0].numpy(), np.moveaxis(expected, 2, 0).ravel(), rtol=1e-4, atol=1e-4
    )


def test_patches_are_those_of_training_images(photographs):
    from benchmarks.paper._patches import FILTERS, patch_features

    other = photographs.copy()
    other[30:] = 255 - other[30:, ::-1]
    features, of_other = patch_features(photographs, 30), patch_features(other, 30)
    assert features.shape == (40, 8 * FILTERS)
    assert np.isfinite(features).all()
    assert_array_equal(features[:30], of_other[:30])
    assert not np.allclose(features[30:], of_other[30:])


def test_brightness_does_not_count(photographs):
    from benchmarks.paper._patches import patch_features

    dim = photographs // 2
    assert_allclose(
        patch_features(dim, 40), patch_features(dim + 100, 40), rtol=1e-3, atol=1e-3
    )


@pytest.mark.parametrize("n_values", [16, 120, 2 * 64])
def test_what_is_no_image_is_refused(n_values):
    from benchmarks.paper._patches import patch_features

    with pytest.raises(ValueError, match=f"has {n_values} values"):
        patch_features(np.zeros((3, n_values), dtype=np.uint8), 3)
