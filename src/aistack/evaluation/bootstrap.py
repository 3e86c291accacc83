"""Bootstrap intervals over queries.

Efron and Tibshirani, "An Introduction to the Bootstrap" (1993): the percentile interval of the mean
over `RESAMPLES` draws with replacement. For a comparison the differences of each query are drawn
(paired): Smucker, Allan and Carterette, "A Comparison of Statistical Significance Tests for
Information Retrieval Evaluation" (CIKM 2007). The same values give the same interval: the generator
is seeded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

RESAMPLES: Final = 10_000
LEVEL: Final = 0.95
SEED: Final = 20_260_101

#: Values drawn at a time, which bounds the memory.
_AT_ONCE: Final = 2_000_000


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean and the interval that the bootstrap gives it."""

    mean: float
    low: float
    high: float

    @property
    def half(self) -> float:
        """How far the lower end lies below the mean."""
        return self.mean - self.low


def interval(
    values: Sequence[float],
    *,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> Interval:
    """Of the mean of `values`, one per query. Raises ValueError when there are none."""
    given = np.asarray(values, dtype=np.float64)
    if given.ndim != 1 or not given.size:
        raise ValueError("no values to draw from")
    random = np.random.default_rng(seed)
    means = np.empty(resamples)
    step = max(1, _AT_ONCE // given.size)
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        drawn = random.integers(0, given.size, size=(rows, given.size))
        means[start : start + rows] = given[drawn].mean(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(given.mean()), float(low), float(high))


def difference(
    before: Sequence[float],
    after: Sequence[float],
    *,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> Interval:
    """Of the mean of `after - before`; both name the same queries in the same order."""
    if len(before) != len(after):
        raise ValueError(f"{len(before)} and {len(after)} values are no pairs")
    pairs = zip(before, after, strict=True)
    return interval([b - a for a, b in pairs], level=level, resamples=resamples, seed=seed)
