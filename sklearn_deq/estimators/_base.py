"""What all estimators share: parameters, their checks, and the size of the data."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from numbers import Real
from typing import Any, ClassVar, Self

import numpy as np
from scipy.sparse import issparse
from sklearn.base import (
    BaseEstimator,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
    clone,
)
from sklearn.compose import TransformedTargetRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import validate_data

from sklearn_deq._compat import Interval, StrOptions
from sklearn_deq._warnings import solver_warnings, warn
from sklearn_deq.estimators._norms import matched_norms
from sklearn_deq.theory import (
    KERNELS,
    Activation,
    EquilibriumMoments,
    equilibrium_moments,
    equilibrium_variance,
    get_activation,
)
from sklearn_deq.theory._checks import did_you_mean
from sklearn_deq.theory._rows import mean_squares, normalize_rows

# Squares of the data, and of states that are as large, must stay far from overflow.
_HEADROOM = 1e-8
# Of the largest number: what targets may reach, with room for predictions beyond.
TARGET_HEADROOM = 1e-3
# Steps of rounding in a deviation of y, below which they cost a share of 1e-3 of R².
_COARSE = 10.0
# Root mean square of the features below which little or nothing is learned.
_SMALL = 0.01


def final_step(estimator: Any) -> tuple[Any, list[Any]]:
    """Return what a pipeline or search ends in, and the transformers before it.

    Parameters
    ----------
    estimator : estimator, Pipeline, search or TransformedTargetRegressor
        Of a fitted search the best estimator counts, or with refit=False the best
        parameters; others are returned as they are.

    Returns
    -------
    estimator, list of transformers
        The last step, and what is applied before it.
    """
    steps: list[Any] = []
    while True:
        if isinstance(estimator, Pipeline):
            steps += [s for s in estimator[:-1] if s not in (None, "passthrough")]
            estimator = estimator[-1]
        elif hasattr(estimator, "cv") and hasattr(estimator, "estimator"):
            best = getattr(estimator, "best_params_", None)
            if best is not None and not hasattr(estimator, "best_estimator_"):
                # refit=False: the best one has not been fitted.
                estimator = clone(estimator.estimator).set_params(
                    **clone(best, safe=False)
                )
            else:
                estimator = getattr(estimator, "best_estimator_", estimator.estimator)
        elif isinstance(estimator, TransformedTargetRegressor):
            estimator = getattr(estimator, "regressor_", estimator.regressor)
        else:
            return estimator, steps


def cast(X: np.ndarray, dtype: Any, remedy: str) -> np.ndarray:
    """X in a dtype, None being its own; refuse what is too large for it."""
    dtype = np.dtype(dtype or X.dtype)
    if X.dtype.itemsize > dtype.itemsize:
        largest = float(np.abs(X).max(initial=0.0))
        if largest > float(np.finfo(dtype).max):
            raise ValueError(
                f"X is too large for {dtype.name}: it reaches {largest:.1e}. Scale X, "
                f"or {remedy}."
            )
    return X.astype(dtype, copy=False)


def check_target_size(y: Any, dtype: np.dtype, limit: float) -> None:
    """Refuse targets beyond a limit, where predictions have this dtype.

    Warn of those whose differences are lost when predictions are rounded to float32.
    """
    largest = float(np.abs(y).max())
    if not largest <= limit:
        remedy = "Scale y" if dtype == np.float64 else "Scale y, or use float64"
        raise ValueError(
            f"y is too large for {dtype.name}: it reaches {largest:.1e}. {remedy}."
        )
    if dtype == np.float64:
        return
    y = y.toarray() if issparse(y) else y
    columns = y.reshape(len(y), -1).astype(np.float64, copy=False)
    peaks = np.abs(columns).max(axis=0)
    steps = np.spacing(peaks.astype(dtype)).astype(np.float64)
    # Relative to the step, lest squares overflow.
    spreads = np.std(columns / steps, axis=0)
    # Not of roundings of one number.
    differ = np.ptp(columns, axis=0) > 8 * np.finfo(np.float64).eps * peaks
    for step, spread in zip(steps[differ], spreads[differ], strict=True):
        if spread < _COARSE:
            warn(
                f"y varies by {spread * step:.1e} around numbers that {dtype.name} has "
                f"in steps of {step:.1e}: predictions are rounded to these. Subtract "
                "the mean from y, or use float64."
            )
            break


def check_one_type(labels: Any) -> None:
    """Refuse labels that have no order."""
    if not isinstance(labels, np.ndarray) or labels.dtype.kind != "O":
        return
    # NumPy's strings are strings.
    types = sorted(
        {"str" if isinstance(v, str) else type(v).__name__ for v in labels.flat}
    )
    if "str" in types and len(types) > 1:
        raise ValueError(
            f"y has labels of several types ({', '.join(types)}): make them of one."
        )


def check_weighted_labels(class_weight: dict[Any, Any], labels: list[Any]) -> None:
    """Refuse weights of labels that y lacks, unless all labels of y have one.

    That is scikit-learn's rule: a fold of cross-validation may lack a rare class, but
    other names than those of y are a mistake.
    """
    unknown = [label for label in class_weight if label not in labels]
    missing = [label for label in labels if label not in class_weight]
    if unknown and missing:
        raise ValueError(
            f"class_weight has labels that y lacks: {unknown}, but none for {missing}."
        )


class RefusesUnknownParameters:
    """Mixin: an unknown keyword is refused with a suggestion."""

    def __init_subclass__(cls, **more: Any) -> None:
        """Show the parameters in help and documentation, not those of `__new__`."""
        super().__init_subclass__(**more)
        parameters = list(inspect.signature(cls.__init__).parameters.values())[1:]
        cls.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]

    def __new__(cls, *args: Any, **params: Any) -> Any:
        """Refuse unknown parameters with a suggestion; `__init__` does the rest."""
        valid = inspect.signature(cls.__init__).parameters
        for name in params:
            if name not in valid:
                raise TypeError(
                    f"{cls.__name__} has no parameter {name!r}."
                    f"{did_you_mean(name, valid)}"
                )
        return super().__new__(cls)

    def set_params(self, **params: Any) -> Any:
        """Set parameters; unknown ones are refused with a suggestion.

        Parameters
        ----------
        **params : dict
            Parameters of the estimator or kernel.

        Returns
        -------
        self : object
            The estimator or kernel.
        """
        valid = self.get_params(deep=True)  # type: ignore[attr-defined]
        for name in params:
            # No parameter is an estimator, so that a__b is unknown as well.
            if name not in valid:
                hint = did_you_mean(name, valid)
                raise ValueError(
                    f"Invalid parameter {name!r} for estimator {self}.{hint} Valid "
                    f"parameters are: {sorted(valid)!r}."
                )
        return super().set_params(**params)  # type: ignore[misc]


class DEQParameters(RefusesUnknownParameters, BaseEstimator):
    """Base of all estimators: the parameters that define a wide DEQ."""

    # Of the samples that the estimator is matched for; None: they are not known.
    _norms: tuple[float, float] | None
    # √(mean |x|²/p) of the training rows, whatever tau0.
    _size: float
    # Parameters that a fitted estimator follows; the rest is what it was fitted with.
    _followed: ClassVar[frozenset[str]] = frozenset({"device", "max_memory"})
    _made_with: dict[str, Any]

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "activation": [str, Activation, callable],
        "recurrent_variance": [Interval(Real, 0, None, closed="left")],
        "input_variance": [Interval(Real, 0, None, closed="left")],
        "bias_variance": [Interval(Real, 0, None, closed="left")],
        "center": ["boolean"],
        "tau0": [None, Interval(Real, 0, None, closed="left")],
        "normalize": ["boolean"],
        "device": [str],
        "dtype": [None, StrOptions({"float32", "float64"})],
    }

    def _check_data(self, X: Any, *, reset: bool) -> np.ndarray:
        """X in the dtype to compute in: that of `dtype`, else its own float dtype."""
        X = validate_data(self, X, reset=reset, dtype=[np.float64, np.float32])
        return self._prepare_input(X)

    def _prepare_input(self, X: np.ndarray) -> np.ndarray:
        """Cast to the working dtype, and project on the sphere if asked."""
        if self.normalize:
            # First: what is too large for a dtype is not so on the sphere.
            X = normalize_rows(X)
        return cast(X, self.dtype, "set normalize=True")

    def _solve_equilibrium(
        self, X: np.ndarray, sample_weight: np.ndarray | None = None
    ) -> EquilibriumMoments:
        """Set τ0 and what follows from it; refuse settings that are unstable on X."""
        s = mean_squares(X)
        mean = float(np.average(s, weights=sample_weight))
        return self._solve_for(s, mean, X.dtype)

    def _solve_for(
        self, s: np.ndarray, mean: float, dtype: np.dtype
    ) -> EquilibriumMoments:
        """Do so for rows of these mean squares, or of their least and largest."""
        if not s.max() < _HEADROOM * np.finfo(dtype).max:
            raise ValueError(
                f"X is too large for {dtype.name}: its mean squares reach "
                f"{s.max():.1e}. Scale X, or set normalize=True."
            )
        if self.normalize:
            # Up to rounding they are, and zero rows stay zero.
            s = (s > 0).astype(np.float64)
            mean = 1.0 if s.all() else mean
        self._size = float(np.sqrt(mean))
        tau0 = self._size if self.tau0 is None else float(self.tau0)
        moments = self._moments(tau0)
        equilibrium_variance(moments, s)
        self._norms = matched_norms(moments, np.sqrt(s))
        self.tau0_ = tau0
        self.tau_star_ = moments.tau_star
        self.offset_ = moments.offset
        return moments

    def _warn_of_small_features(self) -> None:
        """Say that weights and penalties are not made for a drive close to zero."""
        if 0.0 < self._size < _SMALL and self.bias_variance == 0.0:
            warn(
                f"The root mean square of X is {self._size:.1e}: weights and penalties "
                "are those for features near 1, and little may be learned. Put a "
                "StandardScaler before, or set normalize=True.",
            )

    def _moments(self, tau0: float) -> EquilibriumMoments:
        """The wide DEQ of these parameters, for data of this size."""
        return equilibrium_moments(
            get_activation(self.activation),
            self.recurrent_variance,
            self.input_variance,
            bias_variance=self.bias_variance,
            tau0=tau0,
            center=self.center,
        )

    def _structure(self) -> dict[str, Any]:
        """Parameters that nothing can follow but another fit."""
        parameters = self.get_params(deep=False)
        return {k: v for k, v in parameters.items() if k not in self._followed}

    def _as_fitted(self) -> Self:
        """Return the estimator as it was fitted, whatever `set_params` has set since.

        It shares all arrays with this one.
        """
        model: Self = type(self).__new__(type(self))
        vars(model).update(vars(self) | self._made_with)
        return model

    @contextmanager
    def _all_or_nothing(self) -> Iterator[None]:
        """Leave all as it was by an error: nothing half fitted, no model lost."""
        before = dict(vars(self))
        try:
            yield
        except BaseException:
            vars(self).clear()
            vars(self).update(before)
            raise

    @contextmanager
    def _solver_warnings_as_sklearn(self) -> Iterator[None]:
        """Raise the last of the solver's warnings as a ConvergenceWarning."""
        with solver_warnings() as heard:
            yield
        if heard:
            # The last is that of the final weights.
            warn(heard[-1], ConvergenceWarning)


class FeaturesMixin(ClassNamePrefixFeaturesOutMixin, TransformerMixin):
    """Makes an estimator of ours a transformer with named features."""

    def __sklearn_tags__(self) -> Any:
        """Describe the estimator to scikit-learn: features come in the dtype of X."""
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = (
            ["float64", "float32"] if self.dtype is None else [self.dtype]
        )
        return tags


KERNEL_CONSTRAINTS: dict[str, list[Any]] = {"kernel": [StrOptions(set(KERNELS))]}
