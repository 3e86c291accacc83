"""Fusion of ranked lists: by reciprocal rank, or by the distribution of the scores.

Reciprocal rank fusion (RRF):

    score(c) = sum over legs of  weight / (k + rank of c in the leg)        ranks from 1

divided by the best score there can be (rank 1 in every leg). Cormack, Clarke, Büttcher, "Reciprocal
Rank Fusion outperforms Condorcet and individual Rank Learning Methods" (SIGIR 2009), where k = 60.

Distribution-based score fusion (DBSF):

    low, high = mean - 3 * deviation, mean + 3 * deviation      of the scores that the leg gave
    score(c)  = sum over legs of  weight * (score of c in the leg - low) / (high - low)

cut to 0..1 per leg, 0.5 for each where all scores of a leg are equal, 0 where the leg did not find
c, and divided by the sum of the weights. The deviation is that of a sample (n - 1). Mazzeschi,
"Distribution-Based Score Fusion (DBSF)" (2023), as Qdrant has it.

Both give 0..1, and an order that is total: by score, then the better best rank, then the chunk id.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

#: A ranked list: (chunk id, score), best first.
Ranking = Sequence[tuple[int, float]]

#: Deviations from the mean that DBSF takes for the ends of a leg's scale.
DEVIATIONS: Final = 3.0


@dataclass(frozen=True, slots=True)
class LegScore:
    """Where one leg put a chunk, from 1, and with which score of its own."""

    rank: int
    score: float


@dataclass(frozen=True, slots=True)
class Fused:
    """A chunk, its score in 0..1, and what each leg that found it said."""

    chunk_id: int
    score: float
    legs: Mapping[str, LegScore]


def reciprocal_rank(
    legs: Mapping[str, Ranking], *, k: float, weights: Mapping[str, float]
) -> list[Fused]:
    """Fuse `legs` by rank; 1 is the first in every leg."""
    best = sum(weights[name] for name in legs) / (k + 1)

    def value(name: str, place: LegScore) -> float:
        return weights[name] / (k + place.rank)

    return _fuse(legs, value, best)


def distribution_based(legs: Mapping[str, Ranking], *, weights: Mapping[str, float]) -> list[Fused]:
    """Fuse `legs` by where each score lies in the distribution of its leg's scores."""
    scales = {name: _scale(ranking) for name, ranking in legs.items()}
    best = sum(weights[name] for name in legs)

    def value(name: str, place: LegScore) -> float:
        low, width = scales[name]
        share = (place.score - low) / width if width > 0 else 0.5
        return weights[name] * min(1.0, max(0.0, share))

    return _fuse(legs, value, best)


def single(name: str, ranking: Ranking) -> list[Fused]:
    """One leg alone: its order and its own scores."""
    return [
        Fused(chunk_id, score, {name: LegScore(rank, score)})
        for rank, (chunk_id, score) in enumerate(ranking, start=1)
    ]


def _scale(ranking: Ranking) -> tuple[float, float]:
    """The low end of a leg's scale and its width; width 0 where all scores are equal."""
    scores = [score for _, score in ranking]
    if len(set(scores)) < 2:
        return 0.0, 0.0
    mean = math.fsum(scores) / len(scores)
    variance = math.fsum((score - mean) ** 2 for score in scores) / (len(scores) - 1)
    reach = DEVIATIONS * math.sqrt(variance)
    return mean - reach, 2 * reach


def _fuse(
    legs: Mapping[str, Ranking], value: Callable[[str, LegScore], float], best: float
) -> list[Fused]:
    found: dict[int, dict[str, LegScore]] = {}
    for name, ranking in legs.items():
        for rank, (chunk_id, score) in enumerate(ranking, start=1):
            found.setdefault(chunk_id, {})[name] = LegScore(rank, score)
    # Rounded: the sum must not depend on the order of the legs.
    fused = [
        Fused(
            chunk_id,
            round(sum(value(name, place) for name, place in places.items()) / best, 9),
            places,
        )
        for chunk_id, places in found.items()
    ]
    fused.sort(key=lambda hit: (-hit.score, min(p.rank for p in hit.legs.values()), hit.chunk_id))
    return fused
