"""Settings that are each network's own: those that do best on rows held out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from benchmarks.paper._data import Split
from benchmarks.paper._experiment import Row

# The score on the test rows of a split, with a value of the setting.
Fit = Callable[[Split, float], float]


def choose(values: Sequence[float], fit: Fit, data: Split) -> float:
    """The value that does best on the last tenth of the training rows."""
    X, y, *_ = data
    held = len(X) * 9 // 10
    parts = X[:held], y[:held], X[held:], y[held:]
    return best({value: fit(parts, value) for value in values})


def best(scores: Mapping[float, float]) -> float:
    """The value with the highest score; of equals, whatever their rounding, the least.

    NaN is the lowest of all.
    """

    def order(value: float) -> tuple[float, float]:
        score = round(scores[value], 9)
        return (score if score == score else float("-inf"), -value)

    return max(scores, key=order)


def often(rows: list[Row]) -> str:
    """Values that were chosen, the most frequent first, of these the least."""
    counts = Counter(sorted(row["chosen"] for row in rows))
    return ", ".join(f"{value:g} ({n})" for value, n in counts.most_common())
