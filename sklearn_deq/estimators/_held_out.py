"""What a scorer is given in place of an estimator, and the splits it is given for."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin

from sklearn_deq.linear import class_probabilities, fit_temperature

Split = tuple[np.ndarray, np.ndarray]


class HeldOutRegressor(RegressorMixin, BaseEstimator):
    """What a scorer is given: its samples are held-out predictions."""

    def predict(self, values: np.ndarray) -> np.ndarray:
        """Return the predictions themselves."""
        return values


class HeldOutClassifier(ClassifierMixin, BaseEstimator):
    """What a scorer is given: its samples are held-out decision values."""

    def __init__(
        self, classes: np.ndarray, y: np.ndarray, weight: np.ndarray | None
    ) -> None:
        self.classes = self.classes_ = classes
        self.y = y
        self.weight = weight

    def decision_function(self, values: np.ndarray) -> np.ndarray:
        """Return the decision values themselves."""
        return values

    def predict(self, values: np.ndarray) -> np.ndarray:
        """Classes of the decision values."""
        predicted: np.ndarray = self.classes[decide(values)]
        return predicted

    def predict_proba(self, values: np.ndarray) -> np.ndarray:
        """Probabilities at the temperature that fits these values."""
        codes = np.searchsorted(self.classes, self.y)
        temperature = fit_temperature(values, codes, self.weight)
        return class_probabilities(values, temperature)


def decide(values: np.ndarray) -> np.ndarray:
    """Indices of the classes of largest decision value."""
    return (values > 0).astype(int) if values.ndim == 1 else values.argmax(axis=1)


def checked_splits(
    splits: Any, weight: np.ndarray | None, n_samples: int
) -> list[Split]:
    """Rows of every split, counted among those of positive weight."""
    kept = np.ones(n_samples, dtype=bool) if weight is None else weight > 0
    number = np.cumsum(kept) - 1
    every = np.arange(n_samples)
    checked: list[Split] = []
    for parts in splits:
        # Indices or masks, as scikit-learn takes both.
        train, test = (every[part][kept[part]] for part in parts)
        if not (len(train) and len(test)):
            raise ValueError(
                "Every split of cv needs samples of positive weight, to train on and "
                f"to test; split {len(checked)} has {len(train)} and {len(test)}."
            )
        checked.append((number[train], number[test]))
    return checked
