"""Settings of a fit that are each network's own: what does best on rows held out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
from torch import nn

from benchmarks.paper._data import Split
from benchmarks.paper._experiment import Row
from benchmarks.paper._networks import train

# The score on the test rows of a split, with a value of the setting.
Fit = Callable[[Split, float], float]


def choose(
    values: Sequence[float], fit: Fit, data: Split
) -> tuple[float, dict[float, float]]:
    """The value that does best on the last tenth of the training rows; all scores."""
    X, y, *_ = data
    held = len(X) * 9 // 10
    parts = X[:held], y[:held], X[held:], y[held:]
    scores = {value: fit(parts, value) for value in values}
    return max(scores, key=scores.__getitem__), scores


def by_rate(body: Callable[[np.ndarray], nn.Module], epochs: int, seed: int) -> Fit:
    """All weights trained by Adam, at a rate, of the network made for the rows."""

    def fit(data: Split, rate: float) -> float:
        curves = train(
            body(data[0]), data, epochs=epochs, lr=rate, seed=seed, every_epoch=False
        )
        return curves.scores[-1]

    return fit


def often(rows: list[Row]) -> str:
    """Values that were chosen, the most frequent first."""
    counts = Counter(row["chosen"] for row in rows)
    return ", ".join(f"{value:g} ({n})" for value, n in counts.most_common())
