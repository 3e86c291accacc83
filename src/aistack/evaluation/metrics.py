"""Metrics of one ranking of documents, and what a grade of relevance is worth.

A document is relevant where its gain is above 0. A ranking names each document once; a document
stands where its best chunk stands (`best_first`). All metrics lie in 0..1.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

#: Metrics in the order in which they are shown; the first one decides.
METRICS: Final = ("ndcg@10", "recall@10", "recall@100", "mrr")

#: Grades and gains are no larger, so that their sums are exact enough.
MAX_GRADE: Final = 1e6

#: How deep a ranking is read.
DEPTH: Final = 100


class UnknownGrade(ValueError):
    """A grade that an explicit map of grades does not have."""


@dataclass(frozen=True, slots=True)
class Grades:
    """Gain of each grade. Without a map a grade is its own gain, and 0 where it is negative.

    A map is complete: grades run in either direction (Cranfield's 1 is the best), so that nothing
    is guessed of one that is not named. Raises ValueError for a gain that is not in 0..`MAX_GRADE`.
    """

    gains: Mapping[float, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for grade, gain in self.gains.items():
            if not 0 <= gain <= MAX_GRADE:
                raise ValueError(
                    f"the gain of grade {grade:g} is {gain:g}, not between 0 and {MAX_GRADE:g}"
                )

    def gain(self, grade: float) -> float:
        """What finding a document of this grade is worth. Raises UnknownGrade."""
        if not self.gains:
            return max(0.0, float(grade))
        if grade not in self.gains:
            known = ", ".join(f"{one:g}" for one in sorted(self.gains))
            raise UnknownGrade(f"grade {grade:g} is not one of {known}")
        return self.gains[grade]

    @classmethod
    def parse(cls, text: str) -> Grades:
        """From `1=3,2=2,3=1,0=0`. Raises ValueError with what is wrong."""
        gains: dict[float, float] = {}
        for part in text.split(","):
            grade, sign, gain = part.partition("=")
            try:
                key, value = float(grade), float(gain)
            except ValueError:
                sign = ""
                key = value = 0.0
            if not sign or not math.isfinite(key):
                raise ValueError(f"{part.strip()!r} is not GRADE=GAIN")
            if key in gains:
                raise ValueError(f"grade {key:g} is given twice")
            gains[key] = value
        return cls(gains)


def ndcg(ranking: Sequence[str], gains: Mapping[str, float], depth: int = 10) -> float:
    """Normalised discounted cumulative gain; Järvelin and Kekäläinen (2002), log base 2.

    0 where nothing is relevant.
    """
    best = _discounted(sorted(gains.values(), reverse=True)[:depth])
    if best == 0:
        return 0.0
    return _discounted(gains.get(one, 0.0) for one in ranking[:depth]) / best


def _discounted(gains: Iterable[float]) -> float:
    return math.fsum(gain / math.log2(rank + 1) for rank, gain in enumerate(gains, start=1))


def recall(ranking: Sequence[str], gains: Mapping[str, float], depth: int) -> float:
    """Share of the relevant documents among the first `depth`; 0 where nothing is relevant."""
    relevant = {one for one, gain in gains.items() if gain > 0}
    return len(relevant.intersection(ranking[:depth])) / len(relevant) if relevant else 0.0


def reciprocal_rank(ranking: Sequence[str], gains: Mapping[str, float]) -> float:
    """1 / rank of the first relevant document in the whole ranking; 0 where there is none."""
    for rank, one in enumerate(ranking, start=1):
        if gains.get(one, 0.0) > 0:
            return 1 / rank
    return 0.0


def score(ranking: Sequence[str], gains: Mapping[str, float]) -> dict[str, float]:
    """All of `METRICS`; the ranking is read to `DEPTH`."""
    ranking = ranking[:DEPTH]
    return {
        "ndcg@10": ndcg(ranking, gains, 10),
        "recall@10": recall(ranking, gains, 10),
        "recall@100": recall(ranking, gains, 100),
        "mrr": reciprocal_rank(ranking, gains),
    }


def best_first(documents: Iterable[str]) -> list[str]:
    """Documents in the order of their best chunk, each once."""
    return list(dict.fromkeys(documents))
