"""High-dimensional equivalents: what a DEQ's kernels tend to as n and p grow.

Docs/theory.md, section 3.
"""

from __future__ import annotations

import numpy as np

from sklearn_deq.theory._dual_partials import dual_partials
from sklearn_deq.theory._equilibrium import EquilibriumMoments
from sklearn_deq.theory._equilibrium_kernel import (
    equilibrium_covariance,
    moment_means,
)

_LEAST_ANGLE = 1e-4


def high_dimensional_equivalent(
    X: np.ndarray,
    moments: EquilibriumMoments,
    *,
    kernel: str = "ck",
    y: np.ndarray | None = None,
    covariances: np.ndarray | None = None,
) -> np.ndarray:
    """Kernel matrix that a DEQ's tends to as n and p grow together.

    Label-free form: α1 S + α2 χχᵀ + α3 offdiag(S∘S) + (γ² − τ0² α1) I, with
    χ_i = s_ii − τ0². With labels and class covariances, the form of [1]_ itself:
    α1 S + V C Vᵀ + (γ² − τ0² α1) I.

    Parameters
    ----------
    X : array-like of shape (n, p)
        Samples of a mixture with well-behaved features, of nearly the same norm. Where
        norms differ, or features are few or strongly correlated, use the exact kernel.
    moments : EquilibriumMoments
        The DEQ, with ``tau0`` that of the data.
    kernel : {"ck", "ntk", "ntk_recurrent"}, default="ck"
        Which kernel.
    y : array-like of shape (n,), default=None
        Class labels; needs ``covariances``.
    covariances : array-like of shape (n_classes, p, p), default=None
        Class covariances in the order of the sorted labels.

    Returns
    -------
    ndarray of shape (n, n)
        The equivalent. Its relative operator-norm error falls like p^{-1/2}.

    Raises
    ------
    ValueError
        If shapes disagree, or if no equivalent is known for the setting: NTKs with a
        bias or without centring, labelled forms of the same.

    References
    ----------
    .. [1] Ling et al. (2024), Theorems 1 and 2.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_deq.theory import (
    ...     equilibrium_moments, high_dimensional_equivalent)
    >>> X = np.random.default_rng(0).standard_normal((5, 400))
    >>> moments = equilibrium_moments("relu", tau0=np.sqrt(np.mean(X**2)))
    >>> high_dimensional_equivalent(X, moments).shape
    (5, 5)
    """
    X = np.asarray(X, dtype=float)
    if X.ndim != 2:
        raise ValueError(f"X must have two dimensions, got {X.ndim}.")
    if not np.isfinite(X).all():
        raise ValueError("X contains NaN or infinity.")
    n, p = X.shape
    gram = X @ X.T / p
    if not moments.equations_hold:
        if kernel != "ck" or y is not None:
            raise ValueError(
                "With bias_variance > 0 or center=False only the label-free "
                "equivalent of the CK is known; use the exact kernel (deq_kernel)."
            )
        return _general_equivalent(gram, moments)
    c1, c2, c3, diagonal = moments.coefficients(kernel)
    if (y is None) != (covariances is None):
        raise ValueError("y and covariances must be given together.")
    if y is None:
        chi = np.diag(gram) - moments.tau0**2
        low_rank = c2 * np.outer(chi, chi)
        low_rank += c3 * (gram**2 - np.diag(np.diag(gram) ** 2))
    else:
        low_rank = _labelled_term(X, c2, c3, np.asarray(y), np.asarray(covariances))
    correction = diagonal - moments.tau0**2 * c1
    return c1 * gram + low_rank + correction * np.eye(n)


def _labelled_term(
    X: np.ndarray, c2: float, c3: float, y: np.ndarray, covariances: np.ndarray
) -> np.ndarray:
    """V C Vᵀ of [L24, Theorem 1], with T_ab = tr(C_a C_b)/p of the covariances."""
    n, p = X.shape
    labels, codes = np.unique(y, return_inverse=True)
    k = labels.size
    if y.shape != (n,) or covariances.shape != (k, p, p):
        raise ValueError(
            f"y must have shape ({n},) and covariances ({k}, {p}, {p}); "
            f"got {y.shape} and {covariances.shape}."
        )
    onehot = np.eye(k)[codes]
    means = (onehot.T @ X) / onehot.sum(axis=0)[:, None]
    traces = np.trace(covariances, axis1=1, axis2=2)
    psi = np.sum((X - means[codes]) ** 2, axis=1) / p - traces[codes] / p
    t = (traces - onehot.mean(axis=0) @ traces) / np.sqrt(p)
    flat = covariances.reshape(k, -1)
    products = flat @ flat.T / p
    core = np.block(
        [
            [c2 * np.outer(t, t) + c3 * products, c2 * t[:, None]],
            [c2 * t[None, :], np.array([[c2]])],
        ]
    )
    frame = np.column_stack([onehot / np.sqrt(p), psi])
    return frame @ core @ frame.T


def _general_equivalent(gram: np.ndarray, m: EquilibriumMoments) -> np.ndarray:
    """CK equivalent with a bias or without centring (docs/theory.md, end of 3)."""
    sa, sb = m.recurrent_variance, m.input_variance
    q = np.array([m.tau_star**2])
    state = (q, moment_means(m, q))
    value, _ = equilibrium_covariance(m, state, state, np.zeros(1))
    g0 = float(value[0])
    rho = (sa * g0 + m.bias_variance) / q[0]
    mixed = _mixed_moments(m, float(q[0]), float(rho))
    d1, d2, hq, hql = mixed
    rest = 1.0 - sa * d1
    a4 = m.alpha[3]
    a1 = sb * d1 / rest
    link = sa * a1 + sb
    eta = hq * a4 / rest
    a3 = d2 * link**2 / (2.0 * rest)
    a2 = (0.25 * d2 * a4**2 + d2 * sa**2 * eta**2 + 2 * hql * sa * a4 * eta) / rest
    chi = np.diag(gram) - m.tau0**2
    result = g0 + a1 * gram + eta * (chi[:, None] + chi) + a2 * np.outer(chi, chi)
    result += a3 * (gram**2 - np.diag(np.diag(gram) ** 2))
    return result + (m.gamma2 - g0 - m.tau0**2 * a1) * np.eye(gram.shape[0])


def _mixed_moments(
    m: EquilibriumMoments, q: float, rho: float
) -> tuple[float, float, float, float]:
    """E[φ'φ'], E[φ''φ''], ½E[φ''(φ − b)] and ½E[φ'''φ'] at correlation ρ.

    The last three are derivatives: of E[φ'φ'] in the covariance c, and of E[φφ] and
    E[φ'φ'] in one variance, at fixed c (at fixed ρ, c moves along by ½c in log q).
    """
    # Beside ρ = 1 the ratio of derivatives in θ and of c is rounding.
    angle = max(float(np.arccos(min(rho, 1.0))), _LEAST_ANGLE)
    found = dual_partials(m.activation, np.array([q]), np.array([q]), np.array([angle]))
    c, d1 = q * np.cos(angle), found.slope
    d2 = found.slope_angle / (-q * np.sin(angle))
    hq = (found.value_log1 - 0.5 * c * d1) / q - 0.5 * m.offset * m.E_d2phi
    hql = (found.slope_log1 - 0.5 * c * d2) / q
    return float(d1[0]), float(d2[0]), float(hq[0]), float(hql[0])
