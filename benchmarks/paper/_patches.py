"""Features of images from patches: kernels of raw pixels do poorly on photographs.

One layer, whose filters are patches of training images: each patch is centred, divided
by its contrast and whitened; responses beyond a threshold, of both signs, are averaged
over the quadrants of the image, which may share a row or column in the middle (Coates
and Ng, ICML 2011: random patches, soft threshold).
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

SIDE = 6
FILTERS = 256
# Of brightnesses from 0 to 255: added to variances, so that noise is not blown up.
CONTRAST_FLOOR = 10.0
WHITENING_FLOOR = 0.1
THRESHOLD = 1.0
# Patches that are whitened, and training images that they are from.
PATCHES, IMAGES = 100_000, 5000
SEED = 0
# What features depend on, beside the images.
SETTINGS = (
    SIDE,
    FILTERS,
    CONTRAST_FLOOR,
    WHITENING_FLOOR,
    THRESHOLD,
    PATCHES,
    IMAGES,
    SEED,
)


def patch_features(X: np.ndarray, n_train: int) -> np.ndarray:
    """Averages over quadrants of the responses to FILTERS patches, of both signs.

    Parameters
    ----------
    X : ndarray of shape (n, …)
        Images of n, rows of squares, or of three squares one after the other.
    n_train : int
        How many of the first are training images: patches are of these, all of them,
        and always the same ones.

    Returns
    -------
    ndarray of shape (n, 8 · FILTERS), float32

    Raises
    ------
    ValueError
        If rows are no squares, or smaller than a patch.
    """
    squares = torch.from_numpy(_squares(X))
    found = _some_patches(squares[:n_train])
    mean = found.mean(dim=0)
    values, vectors = torch.linalg.eigh(torch.cov(found.T))
    whiten = (vectors / torch.sqrt(values + WHITENING_FLOOR)) @ vectors.T
    filters = F.normalize((found[:FILTERS] - mean) @ whiten, dim=1) @ whiten
    features = np.empty((len(X), 8 * FILTERS), dtype=np.float32)
    # Few at a time, so that their responses stay in the cache.
    for start in range(0, len(X), 10):
        block = squares[start : start + 10].float()
        features[start : start + 10] = _pooled(block, filters, mean).numpy()
    return features


def _some_patches(squares: torch.Tensor) -> torch.Tensor:
    """Patches at random places of images at random: (n, values)."""
    rng = np.random.default_rng(SEED)
    images = np.sort(rng.permutation(len(squares))[:IMAGES])
    places = (squares.shape[-1] - SIDE + 1) ** 2
    chosen = rng.permutation(len(images) * places)[:PATCHES]
    found = torch.empty(len(chosen), squares.shape[1] * SIDE**2)
    # Few images at a time, as each has hundreds of places.
    for start in range(0, len(images), 100):
        patches = _normalised(squares[images[start : start + 100]].float())
        patches = patches.transpose(1, 2).flatten(0, 1)
        at = chosen - start * places
        here = (at >= 0) & (at < len(patches))
        found[here] = patches[at[here]]
    return found


def _pooled(X: torch.Tensor, filters: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
    """Features of some images; as of `_normalised` patches, which would be slower."""
    shape = (len(filters), X.shape[1], SIDE, SIDE)
    # A filter without its mean does not see that of a patch.
    kernels = (filters - filters.mean(dim=1, keepdim=True)).reshape(shape)
    first, second = (
        F.avg_pool2d(values, SIDE, stride=1).mean(dim=1, keepdim=True)
        for values in (X, X * X)
    )
    contrasts = torch.sqrt((second - first * first).clamp(min=0.0) + CONTRAST_FLOOR)
    responses = F.conv2d(X, kernels) / contrasts - (filters @ mean)[:, None, None]
    both = torch.cat([F.relu(responses - THRESHOLD), F.relu(-responses - THRESHOLD)], 1)
    return F.adaptive_avg_pool2d(both, 2).flatten(1)


def _normalised(block: torch.Tensor) -> torch.Tensor:
    """All patches of images, centred and of contrast 1: (n, values, places)."""
    patches = F.unfold(block, SIDE)
    patches = patches - patches.mean(dim=1, keepdim=True)
    variances = patches.square().mean(dim=1, keepdim=True)
    return patches / torch.sqrt(variances + CONTRAST_FLOOR)


def _squares(X: np.ndarray) -> np.ndarray:
    """Rows as squares of one channel, or of three."""
    flat = np.ascontiguousarray(X.reshape(len(X), -1))
    for channels in (1, 3):
        side = round((flat.shape[1] / channels) ** 0.5)
        if channels * side**2 == flat.shape[1]:
            if side < SIDE:
                break
            return flat.reshape(len(X), channels, side, side)
    raise ValueError(
        f"Patches of {SIDE} × {SIDE} are cut out of square images of one or three "
        f"colours; an image of these has {flat.shape[1]} values."
    )
