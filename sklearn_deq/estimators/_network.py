"""What the network estimators share: fitting a body and a readout, and using them."""

from __future__ import annotations

import math
import warnings
from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import LabelEncoder
from sklearn.utils import check_random_state, compute_class_weight
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data
from skorch.dataset import Dataset
from torch import nn

from sklearn_deq._compat import Interval, StrOptions
from sklearn_deq.estimators._base import DEQParameters, FeaturesMixin
from sklearn_deq.estimators._training import (
    OPTIMIZERS,
    FeaturesReadout,
    TrainingPlan,
    WeightedCrossEntropy,
    as_tensor,
    check_outcome,
    check_training_tools,
    in_blocks,
    loss_curve,
    make_net,
    train,
)
from sklearn_deq.kernels._samples import resolve_device
from sklearn_deq.theory import EquilibriumMoments

# A convex readout needs some regularisation to have a unique optimum.
_LEAST_DECAY = 1e-6
_LARGEST_BATCH = 128


def _trains_batches(estimator: NetworkEstimator) -> bool:
    """Whether the estimator is trained by mini-batches."""
    if estimator.trainable == "readout":
        raise AttributeError(
            "partial_fit needs trainable='all' or 'recurrent': with 'readout' the "
            "readout is the solution of a convex problem on all rows."
        )
    return True


class NetworkEstimator(FeaturesMixin, DEQParameters):
    """Base of the estimators that are a body of features with a linear readout.

    Subclasses provide `_make_body`; the classifier and regressor mixins below provide
    targets, loss and convex readout.
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **DEQParameters._parameter_constraints,
        "width": [Interval(Integral, 1, None, closed="left")],
        "trainable": [StrOptions({"all", "recurrent", "readout"})],
        "optimizer": [StrOptions(set(OPTIMIZERS)), callable],
        "lr": [Interval(Real, 0, None, closed="neither")],
        "weight_decay": [Interval(Real, 0, None, closed="left")],
        "max_epochs": [Interval(Integral, 1, None, closed="left")],
        "batch_size": [
            StrOptions({"auto"}),
            Interval(Integral, 1, None, closed="left"),
        ],
        "early_stopping": ["boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
        "warm_start": ["boolean"],
        "callbacks": [None, list],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }

    def _fit(self, X: Any, y: Any) -> NetworkEstimator:
        """Validate, solve the theory, and train the readout or everything."""
        device = resolve_device(self.device)
        check_training_tools(self.optimizer, self.callbacks)
        going_on = (
            self.warm_start and self.trainable != "readout" and hasattr(self, "net_")
        )
        X, y = self._validate(X, y, reset=not going_on)
        targets = self._targets(X, y, going_on=going_on)
        self._check_rules(targets)
        if not going_on:
            self._start(X, self._solve_equilibrium(X), device)
        if self.trainable == "readout":
            self._fit_readout(X, targets, device)
        else:
            self._fit_net(X, targets, device, going_on=going_on)
        return self

    def _validate(self, X: Any, y: Any, *, reset: bool) -> tuple[Any, Any]:
        X, y = validate_data(
            self,
            X,
            y,
            reset=reset,
            dtype=[np.float64, np.float32],
            multi_output=self._multi_output,
            y_numeric=self._multi_output,
        )
        X = self._prepare_input(X)
        return X if reset else X.astype(self._working_dtype(), copy=False), y

    def _targets(self, X: np.ndarray, y: Any, **options: Any) -> np.ndarray:
        """Encoded labels, or targets in the dtype of X."""
        targets = self._set_targets(y, **options)
        if targets.dtype.kind == "f":
            targets = targets.astype(X.dtype, copy=False)
        return targets

    def _check_rules(self, targets: np.ndarray) -> None:
        """Refuse, before any work, a held-out set that cannot be drawn."""
        if not self.early_stopping or self.trainable == "readout":
            return
        strata = self._strata(targets)
        needed = 1 if strata is None else len(np.unique(strata))
        n = len(targets)
        held = math.ceil(self.validation_fraction * n)
        if held < needed or n - held < needed:
            raise ValueError(
                f"early_stopping with validation_fraction={self.validation_fraction} "
                f"holds out {held} of {n} samples and trains on {n - held}: both need "
                f"at least {needed}, one of every class. Change validation_fraction, "
                "or set early_stopping=False."
            )

    def _start(
        self, X: np.ndarray, moments: EquilibriumMoments, device: torch.device
    ) -> None:
        """Draw the weights of the body."""
        for outdated in ("net_", "readout_"):
            self.__dict__.pop(outdated, None)
        seed = check_random_state(self.random_state).randint(2**31 - 1)
        self._generator = torch.Generator().manual_seed(int(seed))
        dtype = getattr(torch, X.dtype.name)
        self._body = self._make_body(X.shape[1], moments, dtype, device)
        self._n_features_out = self.width

    def _fit_net(
        self, X: np.ndarray, targets: np.ndarray, device: torch.device, going_on: bool
    ) -> None:
        plan = self._plan(X.shape[0], device)
        fit_rows, validation = self._split(X, targets)
        X_train, y_train = X[fit_rows], targets[fit_rows]
        if not going_on:
            self.net_ = self._new_net(y_train, plan)
        with self._solver_warnings_as_sklearn():
            train(self.net_, X_train, y_train, plan.max_epochs, validation=validation)
            self._finish(X, targets, device)
        if self.net_.interrupted:
            raise KeyboardInterrupt("Training was interrupted; the model is fitted.")

    def _new_net(self, targets: np.ndarray, plan: TrainingPlan) -> Any:
        dtype = next(self._body.parameters()).dtype
        module = FeaturesReadout(self._body, self.width, self._n_outputs(), dtype)
        return make_net(
            module.to(plan.device),
            self._criterion(targets, dtype),
            plan,
            self._generator,
        )

    def _plan(self, n_samples: int, device: torch.device) -> TrainingPlan:
        batch_size = self.batch_size
        if batch_size == "auto":
            batch_size = min(_LARGEST_BATCH, n_samples)
        return TrainingPlan(
            optimizer=self.optimizer,
            lr=self.lr,
            weight_decay=self.weight_decay,
            max_epochs=self.max_epochs,
            batch_size=batch_size,
            callbacks=self.callbacks,
            device=device,
            verbose=int(self.verbose),
        )

    def _split(
        self, X: np.ndarray, targets: np.ndarray
    ) -> tuple[np.ndarray, Dataset | None]:
        """Rows to train on, and the validation set of early stopping."""
        rows = np.arange(X.shape[0])
        if not self.early_stopping:
            return rows, None
        fit_rows, held = train_test_split(
            rows,
            test_size=self.validation_fraction,
            random_state=int(torch.randint(2**31 - 1, (1,), generator=self._generator)),
            stratify=self._strata(targets),
        )
        return fit_rows, Dataset(as_tensor(X[held]), as_tensor(targets[held]))

    def _fit_readout(
        self, X: np.ndarray, targets: np.ndarray, device: torch.device
    ) -> None:
        """Solve for the equilibria once, and for the readout as a convex problem."""
        with self._solver_warnings_as_sklearn():
            features = self._block_features(X, device)
        self.readout_, self.n_iter_, self.loss_curve_ = self._convex_readout(
            features, targets, max(self.weight_decay, _LEAST_DECAY)
        )

    def _finish(self, X: np.ndarray, targets: np.ndarray, device: torch.device) -> None:
        """Record the outcome of a training by mini-batches, and judge it."""
        self.loss_curve_ = loss_curve(self.net_)
        self.n_iter_ = max(1, len(self.loss_curve_))
        if not self.net_.interrupted:
            advice = check_outcome(self.net_, self._start_loss(targets))
            if advice is not None:
                warnings.warn(advice, ConvergenceWarning, stacklevel=4)
        self._block_features(X, device)

    def _block_features(self, X: np.ndarray, device: torch.device) -> np.ndarray:
        """Features of the training rows; subclasses record the solves."""
        return in_blocks(self._body, X, device)

    def _partial_fit(self, X: Any, y: Any, classes: Any = None) -> NetworkEstimator:
        device = resolve_device(self.device)
        check_training_tools(self.optimizer, self.callbacks)
        if self.early_stopping:
            raise ValueError(
                "partial_fit sees one batch at a time and cannot hold out samples: set "
                "early_stopping=False."
            )
        first = not hasattr(self, "net_")
        X, y = self._validate(X, y, reset=first)
        targets = self._targets(X, y, going_on=not first, classes=classes)
        self._check_rules(targets)
        if first:
            self._start(X, self._solve_equilibrium(X), device)
            self.net_ = self._new_net(targets, self._plan(X.shape[0], device))
        with self._solver_warnings_as_sklearn():
            # Nobody knows how many calls will come, so the rate stays as it is.
            train(self.net_, X, targets, 1, anneal=False)
            self._finish(X, targets, device)
        if self.net_.interrupted:
            raise KeyboardInterrupt("Training was interrupted; the model is fitted.")
        return self

    def _features(self, X: Any) -> np.ndarray:
        check_is_fitted(self)
        X = self._check_data(X, reset=False)
        X = X.astype(self._working_dtype(), copy=False)
        with self._solver_warnings_as_sklearn():
            return in_blocks(self._body, X, resolve_device(self.device))

    def _working_dtype(self) -> np.dtype:
        dtype = next(self._body.parameters()).dtype
        return np.dtype(str(dtype).removeprefix("torch."))

    def _outputs(self, X: Any) -> np.ndarray:
        """Outputs of the readout, shape (n, n_outputs)."""
        features = self._features(X)
        coef, intercept = self._readout()
        outputs = features @ coef.T + intercept
        return outputs.astype(features.dtype, copy=False)

    def _readout(self) -> tuple[np.ndarray, np.ndarray]:
        """Coefficients (n_outputs, width) and intercept of the readout."""
        if hasattr(self, "readout_"):
            return np.atleast_2d(self.readout_.coef_), self.readout_.intercept_
        readout = self.net_.module_.readout
        return (
            readout.weight.detach().cpu().numpy(),
            readout.bias.detach().cpu().numpy(),
        )

    def transform(self, X: Any) -> np.ndarray:
        """Features: the states that the readout sees.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples.

        Returns
        -------
        Z : ndarray of shape (n_samples, width)
            Equilibrium states of a DEQ, last hidden layer of an explicit network.
        """
        return self._features(X)

    def _make_body(
        self,
        n_features: int,
        moments: EquilibriumMoments,
        dtype: torch.dtype,
        device: torch.device,
    ) -> nn.Module:
        raise AttributeError("A network estimator defines _make_body.")

    def __sklearn_is_fitted__(self) -> bool:
        """Whether there is a readout: a fit that failed half-way leaves none."""
        return hasattr(self, "net_") or hasattr(self, "readout_")

    def __getstate__(self) -> dict[str, Any]:
        """State without the body where the net holds it: copied once, not twice."""
        state = super().__getstate__()
        if "net_" in state:
            state = {k: v for k, v in state.items() if k not in ("_body", "_generator")}
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take the body, which further training changes, from the net again."""
        super().__setstate__(state)
        if "net_" in self.__dict__:
            self._body = self.net_.module_.body
            self._generator = self.net_.iterator_train__generator


class NetworkClassifierMixin:
    """Targets, loss and predictions of a classifier."""

    _multi_output = False

    def _set_targets(
        self, y: np.ndarray, *, going_on: bool, classes: Any = None
    ) -> np.ndarray:
        check_classification_targets(y)
        if going_on:
            unknown = np.setdiff1d(y, self.classes_)
            if unknown.size:
                raise ValueError(
                    f"y has classes that were not seen before: {unknown.tolist()}; "
                    "give all of them to the first partial_fit as classes."
                )
        else:
            encoder = LabelEncoder().fit(y if classes is None else classes)
            unknown = np.setdiff1d(y, encoder.classes_)
            if unknown.size:
                raise ValueError(f"classes lacks values of y: {unknown.tolist()}.")
            self.classes_: np.ndarray = encoder.classes_
        return np.searchsorted(self.classes_, y).astype(np.int64)

    def _n_outputs(self) -> int:
        return len(self.classes_)

    def _strata(self, targets: np.ndarray) -> np.ndarray:
        if np.unique(targets, return_counts=True)[1].min() < 2:
            raise ValueError(
                "early_stopping needs at least 2 samples of every class, to hold out "
                "a stratified validation set; set early_stopping=False."
            )
        return targets

    def _criterion(self, targets: np.ndarray, dtype: torch.dtype) -> nn.Module:
        if self.class_weight is None:
            return nn.CrossEntropyLoss()
        present = np.unique(targets)
        factors = np.ones(len(self.classes_))
        factors[present] = compute_class_weight(
            self._class_weight_by_code(), classes=present, y=targets
        )
        factors /= factors[targets].mean()
        return WeightedCrossEntropy(torch.as_tensor(factors, dtype=dtype))

    def _start_loss(self, targets: np.ndarray) -> float:
        """Loss of equal scores for all classes."""
        return math.log(len(self.classes_))

    def _check_rules(self, targets: np.ndarray) -> None:
        """Refuse, before any work, weights and labels that cannot be trained on."""
        super()._check_rules(targets)  # type: ignore[misc]
        if self.trainable == "readout" and len(np.unique(targets)) < 2:
            raise ValueError(
                "With trainable='readout' y needs samples of at least 2 classes, but "
                "it contains only one class."
            )
        by_code = self._class_weight_by_code()
        if isinstance(by_code, dict):
            values = np.array([by_code.get(c, 1.0) for c in np.unique(targets)])
            if not (np.isfinite(values).all() and values.min() >= 0 < values.max()):
                raise ValueError(
                    "class_weight must be finite, not negative, and positive for one "
                    f"of the classes in y at least, got {self.class_weight!r}."
                )

    def _class_weight_by_code(self) -> Any:
        if not isinstance(self.class_weight, dict):
            return self.class_weight
        codes = {label: code for code, label in enumerate(self.classes_.tolist())}
        unknown = [label for label in self.class_weight if label not in codes]
        if unknown:
            raise ValueError(f"class_weight has labels that y lacks: {unknown}.")
        return {codes[label]: value for label, value in self.class_weight.items()}

    def _convex_readout(
        self, features: np.ndarray, targets: np.ndarray, decay: float
    ) -> tuple[Any, int, list[float]]:
        readout = LogisticRegression(
            C=1.0 / (decay * len(targets)),
            class_weight=self._class_weight_by_code(),
            max_iter=2000,
        ).fit(features, targets)
        return readout, int(np.max(readout.n_iter_)), []

    def decision_function(self, X: Any) -> np.ndarray:
        """Confidence scores.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples.

        Returns
        -------
        scores : ndarray of shape (n_samples,) or (n_samples, n_classes)
            Log-odds of the second class if there are two, else one score per class.
        """
        outputs = self._outputs(X)
        if outputs.shape[1] == 2:
            return outputs[:, 1] - outputs[:, 0]
        return outputs[:, 0] if outputs.shape[1] == 1 else outputs

    def predict_proba(self, X: Any) -> np.ndarray:
        """Class probabilities.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples.

        Returns
        -------
        P : ndarray of shape (n_samples, n_classes)
            Probabilities, in the order of ``classes_``.
        """
        scores = self._outputs(X)
        if scores.shape[1] == 1:
            scores = np.concatenate([np.zeros_like(scores), scores], axis=1)
            if len(self.classes_) == 1:
                scores = scores[:, :1]
        scores = np.exp(scores - scores.max(axis=1, keepdims=True))
        return scores / scores.sum(axis=1, keepdims=True)

    def predict(self, X: Any) -> np.ndarray:
        """Most probable classes.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples.

        Returns
        -------
        y : ndarray of shape (n_samples,)
            Class labels.
        """
        codes = np.argmax(self.predict_proba(X), axis=1)
        return self.classes_[codes]

    @available_if(_trains_batches)
    def partial_fit(self, X: Any, y: Any, classes: Any = None) -> Any:
        """Train one epoch on these samples.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples.
        y : array-like of shape (n_samples,)
            Labels.
        classes : array-like of shape (n_classes,), default=None
            All labels that later calls may bring; needed at the first call only.

        Returns
        -------
        self : object
            The estimator.
        """
        self._validate_params()
        if self.class_weight == "balanced":
            raise ValueError(
                "class_weight='balanced' needs all samples at once, not partial_fit; "
                "give the weights as a dict."
            )
        return self._partial_fit(X, y, classes)


class NetworkRegressorMixin:
    """Targets, loss and predictions of a regressor: y is centred and scaled inside."""

    _multi_output = True

    def __sklearn_tags__(self) -> Any:
        """Describe the regressor to scikit-learn."""
        tags = super().__sklearn_tags__()  # type: ignore[misc]
        tags.target_tags.multi_output = True
        return tags

    def _set_targets(
        self, y: np.ndarray, *, going_on: bool, classes: Any = None
    ) -> np.ndarray:
        y = np.asarray(y, dtype=np.float64)
        columns = y.reshape(len(y), -1)
        if not going_on:
            self._y_mean = columns.mean(axis=0)
            scale = columns.std(axis=0)
            self._y_scale = np.where(scale > 0, scale, 1.0)
            self._y_is_1d = y.ndim == 1
        return (columns - self._y_mean) / self._y_scale

    def _n_outputs(self) -> int:
        return len(self._y_mean)

    def _strata(self, targets: np.ndarray) -> None:
        return None

    def _criterion(self, targets: np.ndarray, dtype: torch.dtype) -> nn.Module:
        return nn.MSELoss()

    def _start_loss(self, targets: np.ndarray) -> float:
        """Loss of predicting the mean."""
        return float(np.mean(np.square(targets, dtype=np.float64)))

    def _convex_readout(
        self, features: np.ndarray, targets: np.ndarray, decay: float
    ) -> tuple[Any, int, list[float]]:
        readout = Ridge(alpha=decay * len(targets)).fit(features, targets)
        return readout, 1, []

    def predict(self, X: Any) -> np.ndarray:
        """Predicted targets.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples.

        Returns
        -------
        y : ndarray of shape (n_samples,) or (n_samples, n_targets)
            Predictions, in the units of the y of `fit`.
        """
        outputs = self._outputs(X)
        predictions = outputs * self._y_scale + self._y_mean
        predictions = predictions.astype(outputs.dtype, copy=False)
        return predictions[:, 0] if self._y_is_1d else predictions

    @available_if(_trains_batches)
    def partial_fit(self, X: Any, y: Any) -> Any:
        """Train one epoch on these samples.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples; those of the first call fix ``tau0_`` and the scale of y.
        y : array-like of shape (n_samples,) or (n_samples, n_targets)
            Targets.

        Returns
        -------
        self : object
            The estimator.
        """
        self._validate_params()
        return self._partial_fit(X, y)
