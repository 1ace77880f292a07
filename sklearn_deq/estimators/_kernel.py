"""The DEQ kernel as a transformer: exact, or as low-rank features."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
import torch
from sklearn.base import clone
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from sklearn_deq._compat import Interval, StrOptions, fit_context
from sklearn_deq._warnings import warn
from sklearn_deq.estimators._base import (
    KERNEL_CONSTRAINTS,
    DEQParameters,
    FeaturesMixin,
)
from sklearn_deq.estimators._blocks import (
    BLOCK_ROWS,
    Block,
    Rows,
    check_columns,
    rows_of,
)
from sklearn_deq.estimators._dask import DaskRows, is_dask, lazy_rows
from sklearn_deq.estimators._norms import outside_norms, warn_of_norms
from sklearn_deq.kernels import deq_kernel
from sklearn_deq.kernels._memory import array_bytes, check_memory
from sklearn_deq.kernels._samples import as_tensor, resolve_device
from sklearn_deq.linear import nystroem_map
from sklearn_deq.nn import draw_weights, explicit_features, layer_activations
from sklearn_deq.theory import Activation, EquilibriumMoments, solve_match
from sklearn_deq.theory._rows import mean_squares

# Sizes between the least and the largest for which a setting is checked.
_BETWEEN = 33
# What fits of one mode leave and those of another do not overwrite.
_OF_A_MODE = ("X_fit_", "component_indices_", "normalization_", "weights_", "match_")


@dataclass(frozen=True)
class Sizes:
    """What τ0 depends on, of some rows; sums of two are those of both together.

    Attributes
    ----------
    mean : float
        Mean of |x|²/p.
    n_rows : int
        Number of rows.
    extremes : ndarray
        The least and the largest, and the least that is positive.
    dtype : dtype
        Of the rows.
    """

    mean: float
    n_rows: int
    extremes: np.ndarray
    dtype: np.dtype

    @classmethod
    def of(cls, block: Block) -> Sizes:
        """Measure a block of rows."""
        s = mean_squares(block.X)
        positive = s[s > 0] if s.any() else s
        extremes = np.array([s.min(), s.max(), positive.min()])
        return cls(float(s.mean()), len(s), extremes, block.X.dtype)

    def spread(self) -> np.ndarray:
        """The extremes and sizes between, where a DEQ may be unstable, too."""
        low, high = self.extremes[2], self.extremes[1]
        if not 0.0 < low < high < np.inf:
            return self.extremes
        return np.concatenate([self.extremes, np.geomspace(low, high, _BETWEEN)])

    def __add__(self, other: Sizes) -> Sizes:
        """Measures of the rows of both."""
        n_rows = self.n_rows + other.n_rows
        mean = self.mean + (other.mean - self.mean) * (other.n_rows / n_rows)
        every = np.concatenate([self.extremes, other.extremes])
        positive = every[every > 0] if every.any() else every
        extremes = np.array([every.min(), every.max(), positive.min()])
        return Sizes(mean, n_rows, extremes, self.dtype)


class DEQKernelTransformer(FeaturesMixin, DEQParameters):
    """Map samples to their DEQ kernel, or to features that have this kernel.

    Without ``n_components``, X → K(X, X_fit), for estimators with
    ``kernel="precomputed"``; with it, X → features whose inner products approximate
    the kernel, for linear models. The kernel is that of an infinitely wide DEQ.

    Parameters
    ----------
    n_components : int, default=None
        Number of features; None: the exact kernel with the training samples.
    approximation : {"nystroem", "random_features"}, default="nystroem"
        What the ``n_components`` are, if given: features from the kernel with a random
        subset of the training samples, or from a random explicit network of this width
        that matches the DEQ: it needs nothing of the data but the sizes of its rows.
        For tangent kernels that network is exact where all rows have one norm
        (``normalize=True``).
    kernel : {"ck", "ntk", "ntk_recurrent"}, default="ck"
        The conjugate kernel (of a DEQ whose readout is trained), or the neural tangent
        kernel (all weights, or readout and recurrent weights, trained).
    activation : str, Activation or callable, default="relu"
        Activation of the DEQ.
    recurrent_variance : float, default=0.2
        σ_a²; larger values look deeper.
    input_variance : float, default=0.8
        σ_b².
    bias_variance : float, default=0.0
        σ_c².
    center : bool, default=True
        Whether the activation is centred at equilibrium.
    tau0 : float, default=None
        Size of the data, √(mean |x|²/p); None: that of the training rows.
    normalize : bool, default=False
        Whether rows are projected on the sphere of radius √p; zero rows stay zero.
    device : str, default="cpu"
        Torch device of the computation, or "auto".
    dtype : {"float32", "float64"}, default=None
        Of the result; None: that of X.
    max_memory : float, default=None
        Budget in bytes of what is held at once: the output, and in `fit` the weights of
        "random_features" or the matrices of "nystroem"; None: half of the memory of
        the machine or its container.
    random_state : int, RandomState or None, default=None
        Of the subset, or of the network's weights.

    Attributes
    ----------
    X_fit_ : ndarray of shape (n_samples, n_features)
        Training samples, on the sphere if ``normalize``; of "nystroem", the subset.
    component_indices_ : ndarray of shape (n_components,)
        Rows of the subset ("nystroem").
    normalization_ : ndarray of shape (n_components, n_components)
        K(X_fit, X_fit)^(−1/2), in float64 ("nystroem").
    weights_ : list of ndarray
        Weights of the explicit network ("random_features").
    match_ : MatchResult
        The explicit network ("random_features").
    tau0_ : float
        Size of the training data.
    tau_star_ : float
        Standard deviation of a pre-activation at equilibrium.
    offset_ : float
        Centring constant of the activation.
    n_features_in_ : int
        Number of features seen during `fit`.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of features seen during `fit`, if all are strings.

    See Also
    --------
    sklearn_deq.kernels.deq_kernel : The kernel as a function.
    DEQClassifier : A finite DEQ.

    References
    ----------
    .. [1] Ling et al. (2024), "Deep Equilibrium Models are Almost Equivalent to Not-so-
       deep Explicit Models for High-dimensional Gaussian Mixtures", arXiv 2402.02697.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> from sklearn.svm import SVC
    >>> from sklearn_deq import DEQKernelTransformer
    >>> X, y = load_iris(return_X_y=True)
    >>> model = make_pipeline(
    ...     StandardScaler(), DEQKernelTransformer(), SVC(kernel="precomputed", C=10))
    >>> model.fit(X, y).score(X, y) > 0.95
    True

    Twenty features for a linear model:

    >>> DEQKernelTransformer(n_components=20, random_state=0).fit_transform(X).shape
    (150, 20)
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **DEQParameters._parameter_constraints,
        **KERNEL_CONSTRAINTS,
        "max_memory": [None, Interval(Real, 0, None, closed="neither")],
        "n_components": [None, Interval(Integral, 1, None, closed="left")],
        "approximation": [StrOptions({"nystroem", "random_features"})],
        "random_state": ["random_state"],
    }

    def __init__(
        self,
        *,
        n_components: int | None = None,
        approximation: str = "nystroem",
        kernel: str = "ck",
        activation: str | Activation | Callable[..., Any] = "relu",
        recurrent_variance: float = 0.2,
        input_variance: float = 0.8,
        bias_variance: float = 0.0,
        center: bool = True,
        tau0: float | None = None,
        normalize: bool = False,
        device: str = "cpu",
        dtype: str | None = None,
        max_memory: float | None = None,
        random_state: Any = None,
    ) -> None:
        self.n_components = n_components
        self.approximation = approximation
        self.kernel = kernel
        self.activation = activation
        self.recurrent_variance = recurrent_variance
        self.input_variance = input_variance
        self.bias_variance = bias_variance
        self.center = center
        self.tau0 = tau0
        self.normalize = normalize
        self.device = device
        self.dtype = dtype
        self.max_memory = max_memory
        self.random_state = random_state

    @fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any = None) -> DEQKernelTransformer:
        """Measure the training samples, and keep those that the features need.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Training samples. With ``n_components`` also an array that is larger than
            memory: a `numpy.memmap`, or a dask array in chunks of whole rows.
        y : Ignored
            Not used.

        Returns
        -------
        self : object
            The fitted transformer.
        """
        resolve_device(self.device)
        with self._all_or_nothing(), self._solver_warnings_as_sklearn():
            for outdated in _OF_A_MODE:
                vars(self).pop(outdated, None)
            n_components = self.n_components
            self._made_with = self._structure()
            if n_components is None:
                self.X_fit_ = self._check_data(X, reset=True)
                self._n_features_out = len(self.X_fit_)
                self._solve_equilibrium(self.X_fit_)
                return self
            rows = self._rows(X, reset=True)
            sizes = rows.total(Sizes.of)
            moments = self._solve_for(sizes.spread(), sizes.mean, sizes.dtype)
            if self.approximation == "nystroem":
                self._fit_nystroem(rows, n_components)
            else:
                self._fit_network(sizes.dtype, moments, n_components)
        return self

    def _rows(self, X: Any, *, reset: bool) -> Rows | DaskRows:
        """Rows of X, prepared block by block."""
        # Of an estimator that is not fitted, which is little to send to workers.
        return rows_of(self, X, clone(self)._prepare_input, reset=reset)

    def _fit_nystroem(self, rows: Rows | DaskRows, n_components: int) -> None:
        """Choose a subset, and orthonormalise its kernel functions."""
        rng = check_random_state(self.random_state)
        size = min(n_components, len(rows))
        if size < n_components:
            warn(
                f"n_components={n_components} is more than the {len(rows)} "
                f"samples: {size} features are made.",
            )
        self.component_indices_ = rng.permutation(len(rows))[:size]
        order = np.argsort(self.component_indices_)
        X = rows.take(self.component_indices_[order]).X
        self.X_fit_ = np.empty_like(X)
        self.X_fit_[order] = X
        # The Gram matrix, eigenvectors and two products of them, in `nystroem_map`.
        square = array_bytes((size, size))
        self._check_memory(
            {f"4 matrices of shape ({size}, {size}) in float64": 4 * square}
        )
        # In float64, as the kernel is: roots of small eigenvalues enlarge rounding.
        K = self._kernel(self.X_fit_, None, dtype="float64")
        self.normalization_ = nystroem_map(K)
        self._n_features_out = size

    def _fit_network(
        self, dtype: np.dtype, moments: EquilibriumMoments, n_components: int
    ) -> None:
        """Match an explicit network to the DEQ, and draw its weights."""
        self.match_ = solve_match(
            moments, kernel=self.kernel, norms=self._norms, trainable="readout"
        )
        seed = check_random_state(self.random_state).randint(2**31)
        widths = [n_components] * len(self.match_.layers)
        shapes = list(zip(widths, [self.n_features_in_, *widths], strict=False))
        # They are drawn in float64 and kept in the dtype of X.
        dtypes = {np.dtype(np.float64), dtype}
        size = sum(array_bytes(s, each) for s in shapes for each in dtypes)
        drawn = ", ".join(map(str, shapes))
        self._check_memory({f"the network's weights of shapes {drawn}": size})
        weights = draw_weights(
            self.n_features_in_, widths, torch.Generator().manual_seed(int(seed))
        )
        self.weights_ = [weight.numpy().astype(dtype, copy=False) for weight in weights]
        self._n_features_out = n_components

    def transform(self, X: Any) -> np.ndarray:
        """Kernel between X and the training samples, or features of X.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples; of a `numpy.memmap` a block at a time is read.

        Returns
        -------
        ndarray of shape (n_samples, n_samples_fit) or (n_samples, n_components)
            K(X, X_fit), or the features, which are computed in blocks of rows. Of a
            dask array a dask array that is computed when it is asked for.
        """
        check_is_fitted(self)
        model = self._as_fitted()
        if is_dask(X):
            check_columns(model, X, reset=False)
            dtype = model._prepare_input(np.ones((1, X.shape[1]), X.dtype)).dtype
            return lazy_rows(model, "transform", X, self._n_features_out, dtype)
        with self._solver_warnings_as_sklearn():
            if model.n_components is None:
                return model._kernel(model._check_data(X, reset=False), self.X_fit_)
            return model._features(model._rows(X, reset=False))

    def _features(self, rows: Any) -> np.ndarray:
        """Low-rank features, block by block."""
        shape, dtype = (len(rows), self._n_features_out), rows.take(slice(0, 1)).X.dtype
        block = array_bytes((min(len(rows), BLOCK_ROWS), shape[1]))
        self._check_memory(
            {
                f"features of shape {shape} in {dtype}": array_bytes(shape, dtype),
                "two blocks of them in float64": 2 * block,
            },
            "transform fewer rows at a time",
        )
        features, block_features = np.empty(shape, dtype), self._feature_map()
        outside = []
        for where, (X, _, _) in rows.blocks():
            features[where] = block_features(X)
            if self.approximation == "random_features":
                outside.append(outside_norms(self.match_, X))
        if outside:
            norms = np.concatenate(outside)
            warn_of_norms(self.match_, norms, len(rows), "approximation='nystroem'")
        return features

    def fit_transform(self, X: Any, y: Any = None) -> np.ndarray:
        """Fit, and transform the training samples.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Training samples.
        y : Ignored
            Not used.

        Returns
        -------
        ndarray of shape (n_samples, n_samples) or (n_samples, n_components)
            K(X, X), by symmetry, or the features.
        """
        self.fit(X)
        if self.n_components is not None:
            return self.transform(X)
        with self._solver_warnings_as_sklearn():
            return self._kernel(self.X_fit_, None)

    def _check_memory(self, held: dict[str, int], *ways: str) -> None:
        """Compare what low-rank features hold with the budget."""
        ways = ("Raise max_memory", *ways, "lower n_components")
        check_memory(held, self.max_memory, f"{', or '.join(ways)}.")

    def _feature_map(self) -> Callable[[np.ndarray], np.ndarray]:
        """What makes the features of a block of rows."""
        if self.approximation == "nystroem":
            root = self.normalization_
            return lambda X: self._kernel(X, self.X_fit_, dtype="float64") @ root
        place = resolve_device(self.device)
        weights = [as_tensor(weight).to(place) for weight in self.weights_]
        activations = layer_activations(self.match_.layers)
        offsets = [layer.offset for layer in self.match_.layers]

        def features(X: np.ndarray) -> np.ndarray:
            x = torch.from_numpy(X / np.sqrt(X.shape[1], dtype=X.dtype))
            x = x.to(place, weights[0].dtype)
            return explicit_features(x, weights, activations, offsets).cpu().numpy()

        return features

    def _kernel(
        self, X: np.ndarray, Y: np.ndarray | None, dtype: str | None = None
    ) -> np.ndarray:
        return deq_kernel(
            X,
            Y,
            kernel=self.kernel,
            activation=self.activation,
            recurrent_variance=self.recurrent_variance,
            input_variance=self.input_variance,
            bias_variance=self.bias_variance,
            tau0=self.tau0_,
            center=self.center,
            normalize=self.normalize,
            device=self.device,
            dtype=dtype,
            max_memory=self.max_memory,
        )
