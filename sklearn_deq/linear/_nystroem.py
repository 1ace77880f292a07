"""Nyström's approximation: features whose inner products are those of a kernel."""

from __future__ import annotations

import numpy as np
from scipy.linalg import eigh


def nystroem_map(K: np.ndarray) -> np.ndarray:
    """Inverse square root of the Gram matrix of the landmarks.

    Parameters
    ----------
    K : ndarray of shape (m, m)
        Symmetric, positive semidefinite Gram matrix of the landmarks.

    Returns
    -------
    ndarray of shape (m, m)
        M, symmetric, so that the rows of K(X, landmarks) M are features: their inner
        products are K(X, landmarks) K⁺ K(landmarks, X). Directions in which K vanishes
        to working precision are left out.

    Notes
    -----
    Source: Williams & Seeger (2001), "Using the Nyström method to speed up kernel
    machines".

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_deq.linear import nystroem_map
    >>> nystroem_map(np.diag([4.0, 0.0]))
    array([[0.5, 0. ],
           [0. , 0. ]])
    """
    K = np.asarray(K)
    if K.ndim != 2 or K.shape[0] != K.shape[1]:
        raise ValueError(f"K must be a square matrix, got shape {K.shape}.")
    values, vectors = eigh(K, check_finite=False)
    matters = values > len(K) * np.finfo(K.dtype).eps * max(values[-1], 0.0)
    root = np.where(matters, 1.0 / np.sqrt(np.where(matters, values, 1.0)), 0.0)
    inverse: np.ndarray = (vectors * root) @ vectors.T
    return inverse
