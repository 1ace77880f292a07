"""What the network estimators share: fitting a body and a readout, and using them."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from skorch.dataset import Dataset
from torch import nn

from sklearn_deq._compat import Interval, StrOptions
from sklearn_deq._warnings import solver_warnings, warn
from sklearn_deq.estimators._base import (
    TARGET_HEADROOM,
    DEQParameters,
    FeaturesMixin,
    cast,
    check_target_size,
)
from sklearn_deq.estimators._persistence import (
    device_at_hand,
    restore_generator,
    to_plain,
    to_tensors,
)
from sklearn_deq.estimators._training import (
    FeaturesReadout,
    InterruptibleNet,
    TrainingPlan,
    check_outcome,
    in_blocks,
    loss_curve,
    make_net,
    train,
    training_progress,
    validation_outcome,
)
from sklearn_deq.estimators._training_tools import OPTIMIZERS, check_training_tools
from sklearn_deq.kernels._samples import as_tensor, resolve_device
from sklearn_deq.theory import EquilibriumMoments

# A convex readout needs some regularisation to have a unique optimum.
_LEAST_DECAY = 1e-6
_LARGEST_BATCH = 128
# Stable for targets and data of unit size.
_SGD_LR = 1.0
# What a file holds in another form: rebuilt from the arrays in `_saved`.
_LIVE = ("_body", "_generator", "net_")


class NetworkEstimator(FeaturesMixin, DEQParameters):
    """Base of the estimators that are a body of features with a linear readout.

    Subclasses provide the body: its class, and its settings; the mixins of `_targets`
    provide targets, loss and convex readout.
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **DEQParameters._parameter_constraints,
        "width": [Interval(Integral, 1, None, closed="left")],
        "trainable": [StrOptions({"all", "recurrent", "readout"})],
        "optimizer": [StrOptions(set(OPTIMIZERS)), callable],
        "lr": [StrOptions({"auto"}), Interval(Real, 0, None, closed="neither")],
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
    # A training that goes on follows these, too; the rest is what the network is.
    _followed: ClassVar[frozenset[str]] = frozenset(
        {"optimizer", "lr", "weight_decay", "max_epochs", "batch_size", "callbacks"}
        | {"early_stopping", "validation_fraction", "class_weight", "warm_start"}
        | {"device", "random_state", "verbose"}
    )
    _body_class: ClassVar[type[nn.Module]]
    # What lr="auto" is with Adam, and with other optimizers but SGD.
    _adam_lr: ClassVar[float]
    _body: Any
    _plan: TrainingPlan
    _generator: torch.Generator
    net_: InterruptibleNet
    loss_curve_: list[float]
    validation_loss_curve_: list[float] | None
    best_iter_: int | None

    def _fit(self, X: Any, y: Any) -> NetworkEstimator:
        """Validate, solve the theory, and train the readout or everything."""
        device = self._check_tools(held_out=self.early_stopping)
        trains = self.trainable != "readout"
        going_on = self.warm_start and trains and hasattr(self, "net_")
        with self._all_or_nothing():
            X, targets = self._begin(X, y, device, going_on=going_on)
            if trains:
                rows, held_out = self._split(X, targets)
                self._train(
                    X[rows],
                    targets[rows],
                    device,
                    self.max_epochs,
                    going_on=going_on,
                    validation=held_out,
                )
                interrupted = self._finish_in_any_case(X, targets)
            else:
                interrupted = self._fit_readout(X, targets)
        return self._return(interrupted)

    def _partial_fit(self, X: Any, y: Any, classes: Any = None) -> NetworkEstimator:
        """Validate, and train for an epoch."""
        device = self._check_tools(held_out=False)
        if self.early_stopping:
            raise ValueError(
                "partial_fit sees one batch at a time and cannot hold out samples: set "
                "early_stopping=False."
            )
        going_on = hasattr(self, "net_")
        with self._all_or_nothing():
            X, targets = self._begin(
                X, y, device, going_on=going_on, in_batches=True, classes=classes
            )
            # Nobody knows how many calls will come, so the rate stays as it is.
            self._train(X, targets, device, 1, going_on=going_on, anneal=False)
            interrupted = self._finish_in_any_case(X, targets)
        return self._return(interrupted)

    def _return(self, interrupted: bool) -> NetworkEstimator:
        if interrupted:
            raise KeyboardInterrupt("Training was interrupted; the model is fitted.")
        return self

    def _check_tools(self, *, held_out: bool) -> torch.device:
        """Refuse a device, an optimizer or callbacks that are of no use."""
        device = resolve_device(self.device)
        if self.trainable != "readout":
            check_training_tools(
                self.optimizer, self.weight_decay, self.callbacks, held_out=held_out
            )
        return device

    def _begin(
        self,
        X: Any,
        y: Any,
        device: torch.device,
        *,
        going_on: bool,
        in_batches: bool = False,
        **options: Any,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Validate; draw the weights, or go on with those that there are."""
        if going_on:
            self._refuse_another_structure()
        X, y = self._validate(X, y, reset=not going_on)
        targets = self._targets(X, y, going_on=going_on, **options)
        self._check_rules(targets)
        if going_on:
            # Of its own, lest a failure leave the earlier model with another.
            self._generator = restore_generator(self._generator.get_state().numpy())
        else:
            with self._solver_warnings_as_sklearn():
                moments = self._solve_equilibrium(X)
            self._warn_of_small_features()
            if in_batches:
                self._forget_norms(moments)
            # A table of the activation, or the moments of a layer, may be poor.
            with self._solver_warnings_as_sklearn():
                self._start(X, moments, device)
        return X, targets

    def _refuse_another_structure(self) -> None:
        """Refuse to go on with parameters that the network was not made with."""
        for name, value in self._structure().items():
            known = self._made_with[name]
            if value is not known and not value == known:
                raise ValueError(
                    f"{name} was {known!r} when the network was made, and is {value!r} "
                    "now, which training cannot go on with: set it back, or call fit "
                    "with warm_start=False. Parameters that may change are "
                    f"{sorted(self._followed)}."
                )

    def _forget_norms(self, moments: EquilibriumMoments) -> None:
        """Rely on no norms of a first batch, if there is a way without."""

    def _validate(self, X: Any, y: Any, *, reset: bool) -> tuple[Any, Any]:
        X, y = validate_data(
            self,
            X,
            y,
            reset=reset,
            dtype=[np.float64, np.float32],
            multi_output=True,
            y_numeric=self._numeric_targets,
        )
        X = self._prepare_input(X)
        return X if reset else self._as_trained(X), y

    def _targets(self, X: np.ndarray, y: Any, **options: Any) -> np.ndarray:
        """Encoded labels, or targets in the dtype of X."""
        if self._numeric_targets and y.dtype.kind not in "fiub":
            raise ValueError(f"y must be real numbers, got dtype {y.dtype}.")
        limit = TARGET_HEADROOM * float(np.finfo(X.dtype).max)
        if self._numeric_targets:
            check_target_size(y, X.dtype, limit)
        targets = self._set_targets(y, **options)
        if targets.dtype.kind != "f":
            return targets
        if not np.abs(targets).max() <= math.sqrt(limit):
            raise ValueError(
                "y is too far from the targets that training began with: it is up to "
                f"{np.abs(targets).max():.1e} of their standard deviations away. Scale "
                "y, or call fit anew."
            )
        return targets.astype(X.dtype, copy=False)

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
        self._made_with = self._structure()
        self._settings = self._body_settings(X.shape[1], moments, X.dtype)
        dtype = getattr(torch, X.dtype.name)
        self._body = self._build_body(dtype, device, self._generator)
        self._n_features_out = int(self.width)

    def _body_settings(
        self, n_features: int, moments: EquilibriumMoments, dtype: np.dtype
    ) -> dict[str, Any]:
        """Arguments of the body's class, plain values and activations alone."""
        raise AttributeError("A network estimator defines _body_settings.")

    def _build_body(
        self, dtype: torch.dtype, device: Any, generator: torch.Generator
    ) -> nn.Module:
        return self._body_class(
            **self._settings, generator=generator, dtype=dtype, device=device
        )

    def _train(
        self,
        X: np.ndarray,
        targets: np.ndarray,
        device: torch.device,
        epochs: int,
        *,
        going_on: bool,
        validation: Dataset | None = None,
        anneal: bool = True,
    ) -> None:
        """Train a net anew, or go on with a copy of the one that there is."""
        if going_on:
            module = copy.deepcopy(self.net_.module_)
            self._body = module.body
            self._follow(X)
        else:
            self._check_start(X)
            module = self._module(self._n_outputs())
        # Only `partial_fit` keeps the rate.
        self._weigh(targets, in_batches=not anneal, anew=anneal or not going_on)
        plan = self._make_plan(X.shape[0], device)
        earlier: dict[str, Any] = {}
        if going_on:
            earlier["progress"] = copy.deepcopy(training_progress(self.net_))
            if plan.callbacks is self._plan.callbacks:
                earlier["own_callbacks"] = self.net_.own_callbacks
        criterion = self._criterion(self._torch_dtype())
        # Built anew, so that it follows the parameters as they are now.
        self.net_ = make_net(module, criterion, plan, self._generator, **earlier)
        self._plan = plan
        # Moved to another device it is another module.
        self._body = self.net_.module_.body
        train(
            self.net_,
            X,
            targets,
            epochs,
            anneal=anneal,
            validation=validation,
            # A table tells more, and a bar would stand in its lines.
            progress_bar=type(self).__name__ if int(self.verbose) == 1 else None,
        )

    def _module(self, n_outputs: int) -> FeaturesReadout:
        return FeaturesReadout(
            self._body, self._n_features_out, n_outputs, self._torch_dtype()
        )

    def _make_plan(self, n_samples: int, device: torch.device) -> TrainingPlan:
        batch_size = self.batch_size
        if batch_size == "auto":
            batch_size = min(_LARGEST_BATCH, n_samples)
        lr = self.lr
        if lr == "auto":
            # Of a partial one what it makes.
            kind = getattr(self.optimizer, "func", self.optimizer)
            is_sgd = kind in ("sgd", OPTIMIZERS["sgd"])
            lr = _SGD_LR if is_sgd else self._adam_lr
        return TrainingPlan(
            optimizer=self.optimizer,
            lr=lr,
            weight_decay=self.weight_decay,
            batch_size=batch_size,
            callbacks=self.callbacks,
            device=str(device),
            holds=getattr(self, "stability", None) is not None,
            verbose=int(self.verbose),
        )

    def _split(self, X: np.ndarray, targets: np.ndarray) -> tuple[Any, Dataset | None]:
        """Rows to train on, and the validation set of early stopping."""
        if not self.early_stopping:
            return slice(None), None
        fit_rows, held = train_test_split(
            np.arange(X.shape[0]),
            test_size=self.validation_fraction,
            random_state=int(torch.randint(2**31 - 1, (1,), generator=self._generator)),
            stratify=self._strata(targets),
        )
        return fit_rows, Dataset(as_tensor(X[held]), as_tensor(targets[held]))

    def _fit_readout(self, X: np.ndarray, targets: np.ndarray) -> bool:
        """Solve for the equilibria once, and for the readout as a convex problem.

        Returns whether it was interrupted.
        """
        with self._solver_warnings_as_sklearn():
            features = self._frozen_features(X)
        decay = max(self.weight_decay, _LEAST_DECAY)
        self.readout_, interrupted = self._convex_readout(features, targets, decay)
        self.n_iter_, self.loss_curve_ = self.readout_.n_iter_, []
        self.validation_loss_curve_ = self.best_iter_ = None
        return interrupted

    def _finish_in_any_case(self, X: np.ndarray, targets: np.ndarray) -> bool:
        """Finish, and again if interrupted; returns whether something was.

        A second interruption ends in what there was before.
        """
        try:
            self._finish(X, targets)
        except KeyboardInterrupt:
            self._finish(X, targets)
            return True
        return self.net_.interrupted

    def _finish(self, X: np.ndarray, targets: np.ndarray) -> None:
        """Record the outcome of a training by mini-batches, and judge it."""
        self.loss_curve_ = loss_curve(self.net_)
        self.n_iter_ = max(1, len(self.loss_curve_))
        self.validation_loss_curve_ = self.best_iter_ = None
        if self.early_stopping:
            outcome = validation_outcome(self.net_)
            self.validation_loss_curve_, self.best_iter_ = outcome
        messages = [
            check_outcome(self.net_, self._start_loss(targets)),
            self.net_.callback("guard").report(),
            *self._settle(X),
        ]
        said = " ".join(filter(None, messages))
        if said:
            warn(said, ConvergenceWarning)

    def _follow(self, X: np.ndarray) -> None:
        """Bring the body of a training that goes on up to the parameters."""

    def _check_start(self, X: np.ndarray) -> None:
        """Refuse to start without the equilibria that training is to hold on to."""

    def _settle(self, X: np.ndarray) -> list[str]:
        """Leave a trained body well-posed on the training rows; record its solves.

        Returns what there is to say of it.
        """
        return []

    def _frozen_features(self, X: np.ndarray) -> np.ndarray:
        """Features of the training rows of a body that is not trained."""
        return in_blocks(self._body, X)

    def _check_input(self, X: Any) -> np.ndarray:
        """Samples for the body, of a fitted estimator."""
        check_is_fitted(self)
        return self._as_trained(self._as_fitted()._check_data(X, reset=False))

    def _features(self, X: Any) -> np.ndarray:
        return self._evaluate(X)

    def _evaluate(
        self, X: Any, readout: tuple[np.ndarray, np.ndarray] | None = None
    ) -> np.ndarray:
        """Features of new samples, or what a readout makes of them."""
        X = self._check_input(X)
        with self._solver_warnings_as_sklearn():
            return in_blocks(self._body, X, readout)

    def _torch_dtype(self) -> torch.dtype:
        return next(self._body.parameters()).dtype

    def _as_trained(self, X: np.ndarray) -> np.ndarray:
        """X in the dtype of the weights."""
        return cast(X, self._working_dtype(), "fit to float64")

    def _working_dtype(self) -> np.dtype:
        return np.dtype(str(self._torch_dtype()).removeprefix("torch."))

    def _outputs(self, X: Any) -> np.ndarray:
        """Outputs of the readout, shape (n, n_outputs)."""
        check_is_fitted(self)
        return self._evaluate(X, self._readout())

    def _readout(self) -> tuple[np.ndarray, np.ndarray]:
        """Coefficients (n_outputs, width) and intercept of the readout."""
        if hasattr(self, "readout_"):
            return self.readout_.coef_, self.readout_.intercept_
        readout = self.net_.module_.readout
        return to_plain(readout.weight), to_plain(readout.bias)

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

    def __getstate__(self) -> dict[str, Any]:
        """State in arrays and plain values: no torch object is pickled."""
        state = super().__getstate__()
        if not hasattr(self, "_body"):
            return state
        state = {name: value for name, value in state.items() if name not in _LIVE}
        state["_saved"] = {
            "body": to_plain(self._body.state_dict()),
            "dtype": self._working_dtype().name,
            "device": str(next(self._body.parameters()).device),
            "generator": self._generator.get_state().numpy(),
        }
        if hasattr(self, "net_"):
            net = self.net_
            state["_saved"] |= {
                "readout": to_plain(net.module_.readout.state_dict()),
                "progress": to_plain(training_progress(net)),
            }
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Build the torch objects again."""
        saved = state.get("_saved")
        super().__setstate__({k: v for k, v in state.items() if k != "_saved"})
        if saved is None:
            return
        device = device_at_hand(saved["device"])
        dtype = getattr(torch, saved["dtype"])
        # The weights drawn here, with a generator of their own, are written over; of a
        # poor table of the activation `fit` has warned.
        with solver_warnings():
            self._body = self._build_body(dtype, device, torch.Generator())
        self._body.load_state_dict(to_tensors(saved["body"]))
        self._generator = restore_generator(saved["generator"])
        if "progress" in saved:
            self._restore_net(saved, device)

    def _restore_net(self, saved: dict[str, Any], device: str) -> None:
        readout = to_tensors(saved["readout"])
        module = self._module(len(readout["bias"]))
        module.readout.load_state_dict(readout)
        criterion = self._criterion(self._torch_dtype())
        plan = replace(self._plan, device=device)
        progress = to_tensors(saved["progress"])
        self.net_ = make_net(
            module, criterion, plan, self._generator, progress=progress
        )
        self._body = self.net_.module_.body
