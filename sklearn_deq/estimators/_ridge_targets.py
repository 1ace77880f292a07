"""Targets of ridge regressions: numbers as they are, classes as signs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.utils.multiclass import check_classification_targets

from sklearn_deq.estimators._base import check_one_type, check_weighted_labels

ALL_WEIGHTS_ZERO = "sample_weight must not be zero for all samples."


@dataclass(frozen=True)
class Coding:
    """Turns what the user gives as y into columns of a ridge regression.

    Attributes
    ----------
    classes : ndarray of shape (n_classes,) or None
        Labels; None: y has numbers.
    factors : ndarray of shape (n_classes,) or None
        Of the weights of the classes.
    """

    classes: np.ndarray | None = None
    factors: np.ndarray | None = None

    def targets(self, y: np.ndarray) -> np.ndarray:
        """Numbers, or signs of the classes: one column each or, for two, one."""
        if self.classes is None:
            return _numbers(y).reshape(len(y), -1)
        targets = 2.0 * (y[:, None] == self.classes) - 1.0
        return targets[:, 1:] if len(self.classes) == 2 else targets

    def weight(
        self, y: np.ndarray, sample_weight: np.ndarray | None
    ) -> np.ndarray | None:
        """Weights of fits and scores: of the samples, times those of the classes."""
        if self.classes is None or self.factors is None:
            return sample_weight
        weight = self.factors[_codes(self.classes, y)]
        return weight if sample_weight is None else sample_weight * weight


def _numbers(y: np.ndarray) -> np.ndarray:
    try:
        return y.astype(np.float64, copy=False)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"y must have numbers: {error}. For labels there is "
            "DEQKernelRidgeClassifierCV."
        ) from error


def _codes(classes: np.ndarray, y: np.ndarray) -> np.ndarray:
    # A label that all its samples have with weight zero is none of the classes.
    codes: np.ndarray = np.minimum(np.searchsorted(classes, y), len(classes) - 1)
    return codes


@dataclass(frozen=True)
class LabelTotals:
    """Labels of some samples, and the sums of their weights.

    Attributes
    ----------
    labels : ndarray of shape (n_labels,)
        Sorted.
    totals : ndarray of shape (n_labels,)
        Sums of weights, all positive.
    codes : ndarray of shape (n,)
        Index of the label of each sample; -1 where weight is zero.
    """

    labels: np.ndarray
    totals: np.ndarray
    codes: np.ndarray

    @classmethod
    def of(cls, y: np.ndarray, sample_weight: np.ndarray | None) -> LabelTotals:
        """Count the samples of positive weight."""
        check_one_type(y)
        check_classification_targets(y)
        labels, codes, totals = _totals(y, sample_weight)
        kept = totals > 0
        numbers = np.where(kept, np.cumsum(kept) - 1, -1)[codes]
        if sample_weight is not None:
            numbers[~(sample_weight > 0)] = -1
        return cls(labels[kept], totals[kept], _small(numbers, kept.sum()))

    @classmethod
    def merged(cls, parts: list[LabelTotals]) -> LabelTotals:
        """Totals of all parts together."""
        names = np.concatenate([part.labels for part in parts])
        check_one_type(names)
        totals = np.concatenate([part.totals for part in parts])
        labels, numbers, totals = _totals(names, totals)
        ends = np.cumsum([len(part.labels) for part in parts])
        codes = [
            # The last number is that of -1.
            np.append(_small(own, len(labels)), np.int8(-1))[part.codes]
            for own, part in zip(np.split(numbers, ends[:-1]), parts, strict=True)
        ]
        return cls(labels, totals, np.concatenate(codes))


def _totals(
    y: np.ndarray, weight: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, the index of each sample's, and the sums of weights."""
    labels, codes = np.unique(y, return_inverse=True)
    totals = np.bincount(codes, weights=weight, minlength=len(labels))
    return labels, codes, totals.astype(np.float64)


def _small(codes: np.ndarray, n: int) -> np.ndarray:
    """Codes as they are kept for all rows: a byte each, unless of many labels."""
    return codes.astype(np.min_scalar_type(-max(n, 1)))


def class_factors(
    class_weight: dict[Any, float] | str | None, totals: LabelTotals
) -> np.ndarray | None:
    """Factors of the weights of the classes.

    Parameters
    ----------
    class_weight : dict, "balanced" or None
        As the classifier takes it.
    totals : LabelTotals
        Of all samples.

    Returns
    -------
    ndarray of shape (n_classes,) or None
        Positive factors.
    """
    if class_weight is None:
        return None
    if not isinstance(class_weight, dict):
        factors: np.ndarray = totals.totals.mean() / totals.totals
        return factors
    labels = totals.labels.tolist()
    check_weighted_labels(class_weight, labels)
    factors = np.array([class_weight.get(c, 1.0) for c in labels], float)
    if not (np.isfinite(factors) & (factors > 0)).all():
        raise ValueError(
            f"class_weight must have positive, finite values, got {class_weight!r}."
        )
    return factors
