"""Kernel ridge by low-rank features: what the estimators do for ``n_components``."""

from __future__ import annotations

import os
import sys
from numbers import Integral
from typing import Any

import numpy as np
from sklearn.utils import check_consistent_length
from tqdm import tqdm

from sklearn_deq._warnings import warn
from sklearn_deq.estimators._base import DEQParameters
from sklearn_deq.estimators._blocks import BLOCK_ROWS, Block, Rows
from sklearn_deq.estimators._checkpoint import (
    Checkpoint,
    check_writable,
    fingerprint,
)
from sklearn_deq.estimators._dask import DaskRows
from sklearn_deq.estimators._features import (
    FeatureMap,
    SumsOfBlock,
    feature_map,
    solved_member,
)
from sklearn_deq.estimators._ridge_collection import random_rows
from sklearn_deq.estimators._ridge_problem import RidgeProblem
from sklearn_deq.estimators._ridge_targets import Coding, LabelTotals
from sklearn_deq.kernels._memory import array_bytes, check_memory, memory_budget
from sklearn_deq.theory import get_activation

# Where activations are told apart.
_PROBES = np.linspace(-9.0, 9.0, 37)
# What its tables take while they are made, whatever the number of features (measured).
_ACTIVATION_BYTES = 40_000_000


class FeatureRidge(DEQParameters):
    """Base of the search: the sample, and the fit to sums over blocks of rows."""

    n_components: Any
    approximation: str
    random_state: Any
    checkpoint: str | os.PathLike[str] | None
    max_memory: float | None
    verbose: int
    cv: Any
    scalings_: dict[str, dict[str, Any]]

    def _sample(
        self,
        rows: Rows | DaskRows,
        totals: LabelTotals | None,
        groups: Any,
        seed: int,
    ) -> tuple[Block, Any]:
        """Random rows, with their groups: for the search, and as Nyström's subset.

        All have positive weight, and every class has some.
        """
        size = self._search_size() or 0
        if self.approximation == "nystroem":
            size = max(size, self.n_components)
        if groups is not None:
            groups = np.asarray(groups)
            check_consistent_length(rows, groups)
        if len(rows) <= size:
            return rows.take(slice(0, len(rows))), groups
        splits_any = isinstance(self.cv, Integral) or hasattr(self.cv, "split")
        if self.cv is not None and not splits_any:
            raise ValueError(
                f"cv must be a number or a splitter where the search takes {size} of "
                f"{len(rows)} samples: raise search_samples, or give such a cv."
            )
        codes = self._codes(rows, totals)
        self._check_weight(codes >= 0)
        # Folds are stratified: one of each class for each of them.
        least = max(2, int(self.cv)) if isinstance(self.cv, Integral) else 2
        chosen = random_rows(codes, size, seed, least)
        if totals is not None:
            single = totals.labels[np.bincount(codes[chosen]) < 2].tolist()
            if single:
                warn(
                    f"Classes of one sample, which the search cannot learn: {single}. "
                    "Give more samples of them, or leave them out.",
                )
        return rows.take(chosen), None if groups is None else groups[chosen]

    def _codes(self, rows: Rows | DaskRows, totals: LabelTotals | None) -> np.ndarray:
        """Index of the class of each row, 0 for numbers; -1 where weight is zero."""
        if totals is not None:
            return totals.codes
        codes = np.zeros(len(rows), np.int8)
        weight = rows.weights()
        if weight is not None:
            codes[~(weight > 0)] = -1
        return codes

    def _check_features_memory(self, n_kernels: int) -> None:
        """Compare what the sums over blocks hold with the budget."""
        members = n_kernels if self._averages() else 1
        m = self.n_components
        nystroem = self.approximation == "nystroem"
        matrices = members * (4 if nystroem else 3)
        held = {
            f"{matrices} matrices of shape ({m}, {m})": matrices * array_bytes((m, m)),
            f"blocks of {BLOCK_ROWS} rows": 3 * array_bytes((BLOCK_ROWS, m)),
        }
        if not nystroem:
            held["the activation of random features"] = _ACTIVATION_BYTES
        remedy = "Raise max_memory, lower n_components"
        remedy += ", or set average=False." if members > 1 else "."
        self._check_held("Features of all samples", held, remedy)

    def _check_held(self, what: str, held: dict[str, int], remedy: str) -> None:
        """Compare what is held with the budget, and say it on request."""
        check_memory(held, self.max_memory, remedy)
        if self.verbose:
            total, budget = sum(held.values()), memory_budget(self.max_memory)
            tqdm.write(
                f"{what}: {total / 1e6:.0f} MB of the budget of {budget / 1e6:.0f} MB.",
                file=sys.stderr,
            )

    def _fit_features(
        self,
        rows: Rows | DaskRows,
        problem: RidgeProblem,
        coding: Coding,
        candidates: list[dict[str, Any]],
        seed: int,
    ) -> None:
        """Fit candidates to all rows by their features, which are summed in blocks."""
        vars(self).pop("X_fit_", None)
        self.scalings_ = problem.scalings(candidates)
        maps = [
            feature_map(
                problem,
                self.scalings_,
                params,
                n_components=self.n_components,
                approximation=self.approximation,
                random_state=seed,
                max_memory=self.max_memory,
            )
            for params in candidates
        ]
        made = min(each.transformer._n_features_out for each in maps)
        if made < self.n_components:
            warn(
                f"n_components={self.n_components} is more than the {made} different "
                f"samples of positive weight: {made} features are made.",
            )
        checkpoint = self._checkpoint(rows, problem, coding, maps)
        sums = rows.total(
            SumsOfBlock(maps, coding), verbose=self.verbose, checkpoint=checkpoint
        )
        self._set_members(
            [
                solved_member(problem, *each)
                for each in zip(candidates, maps, sums.members, strict=True)
            ]
        )
        if checkpoint is not None:
            checkpoint.remove()

    def _check_checkpoint(self, rows: Rows | DaskRows) -> None:
        """Refuse a file that would be of no use."""
        if self.checkpoint is None:
            return
        if self.n_components is None:
            raise ValueError(
                "checkpoint is for sums over blocks of rows: set n_components, or "
                "leave it out."
            )
        if isinstance(rows, DaskRows):
            raise ValueError(
                "checkpoint is for arrays on one machine: with dask arrays leave it "
                "out, the scheduler repeats what a lost worker has not finished."
            )
        if not isinstance(self.random_state, Integral):
            raise ValueError(
                "checkpoint needs an integer as random_state, got "
                f"{self.random_state!r}: the same features must be made again."
            )
        check_writable(self.checkpoint)

    def _checkpoint(
        self,
        rows: Rows | DaskRows,
        problem: RidgeProblem,
        coding: Coding,
        maps: list[FeatureMap],
    ) -> Checkpoint | None:
        """File of the sums, of this data and these settings."""
        if self.checkpoint is None:
            return None
        settings = []
        for scaling, transformer in ((each.scaling, each.transformer) for each in maps):
            params = transformer.get_params()
            # Functions may have names in common, hardly values.
            phi = get_activation(params["activation"])
            values = np.asarray(phi.function(_PROBES), dtype=float).round(9) + 0.0
            params |= {"activation": values.tolist(), "max_memory": None}
            params |= {"scale": scaling and scaling["method"]}
            settings.append(params)
        identity = fingerprint(
            settings,
            problem.X,
            problem.weight,
            coding.classes,
            coding.factors,
            *rows.of_targets(fingerprint),
        )
        n_targets = problem.targets.shape[1]
        shapes = [(each.transformer._n_features_out, n_targets) for each in maps]
        return Checkpoint(self.checkpoint, identity, len(rows), shapes)
