"""Reciprocal rank fusion of ranked lists.

    score(c) = sum over legs of  weight / (k + rank of c in the leg)        ranks from 1

divided by the best score there can be (rank 1 in every leg), so that it lies in 0..1 whatever k and
the weights are. Cormack, Clarke, Büttcher, "Reciprocal Rank Fusion outperforms Condorcet and
individual Rank Learning Methods" (SIGIR 2009), where k = 60.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

#: A ranked list: (chunk id, score), best first.
Ranking = Sequence[tuple[int, float]]


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
    """Fuse `legs`. Best first; ties by the better best rank, then by chunk id: a total order."""
    found: dict[int, dict[str, LegScore]] = {}
    for name, ranking in legs.items():
        for rank, (chunk_id, score) in enumerate(ranking, start=1):
            found.setdefault(chunk_id, {})[name] = LegScore(rank, score)
    best = sum(weights[name] for name in legs) / (k + 1)

    def fused_score(places: Mapping[str, LegScore]) -> float:
        # Rounded: the sum must not depend on the order of the legs.
        raw = sum(weights[name] / (k + place.rank) for name, place in places.items())
        return round(raw / best, 9)

    fused = [Fused(chunk_id, fused_score(places), places) for chunk_id, places in found.items()]
    fused.sort(key=lambda hit: (-hit.score, min(p.rank for p in hit.legs.values()), hit.chunk_id))
    return fused


def single(name: str, ranking: Ranking) -> list[Fused]:
    """One leg alone: its order and its own scores."""
    return [
        Fused(chunk_id, score, {name: LegScore(rank, score)})
        for rank, (chunk_id, score) in enumerate(ranking, start=1)
    ]
