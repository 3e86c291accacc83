"""Fusion by rank and by distribution: the formulas, and an order that is total."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from aistack.aidb.fusion import (
    Fused,
    LegScore,
    Ranking,
    distribution_based,
    reciprocal_rank,
    single,
)

EVEN = {"dense": 1.0, "lexical": 1.0}


def test_scores_worked_out_by_hand() -> None:
    fused = reciprocal_rank(
        {"dense": [(1, 0.9), (2, 0.8)], "lexical": [(2, 7.0), (3, 5.0)]}, k=60, weights=EVEN
    )
    assert [hit.chunk_id for hit in fused] == [2, 1, 3]
    best = 2 / 61
    assert fused[0].score == pytest.approx((1 / 62 + 1 / 61) / best, abs=1e-8)
    assert fused[1].score == pytest.approx((1 / 61) / best, abs=1e-8)
    assert fused[0].legs == {"dense": LegScore(2, 0.8), "lexical": LegScore(1, 7.0)}
    assert fused[2].legs == {"lexical": LegScore(2, 5.0)}


def test_first_in_both_legs_is_one() -> None:
    fused = reciprocal_rank(
        {"dense": [(5, 0.1)], "lexical": [(5, 0.1)]}, k=3, weights={"dense": 2.0, "lexical": 0.5}
    )
    assert fused[0].score == 1.0


def test_weights_decide_between_the_legs() -> None:
    legs: dict[str, Ranking] = {"dense": [(1, 1.0)], "lexical": [(2, 1.0)]}
    heavy = reciprocal_rank(legs, k=60, weights={"dense": 1.0, "lexical": 1.1})
    assert [hit.chunk_id for hit in heavy] == [2, 1]


def test_distribution_based_scores_worked_out_by_hand() -> None:
    fused = distribution_based(
        {"dense": [(1, 0.9), (2, 0.6), (3, 0.3)], "lexical": [(2, 10.0), (4, 4.0)]}, weights=EVEN
    )
    # dense: mean .6, deviation .3, so 0.9 lies at 2/3 of -0.3..1.5; lexical: mean 7, deviation
    # sqrt(18), so 10 lies 3 above the middle of a scale of 6 * sqrt(18).
    upper = 0.5 + 3 / (6 * math.sqrt(18))
    expected = {1: (2 / 3) / 2, 2: (0.5 + upper) / 2, 3: (1 / 3) / 2, 4: (1 - upper) / 2}
    assert {hit.chunk_id: hit.score for hit in fused} == pytest.approx(expected, abs=1e-8)
    assert [hit.chunk_id for hit in fused] == [2, 1, 4, 3]
    assert fused[0].legs == {"dense": LegScore(2, 0.6), "lexical": LegScore(1, 10.0)}


def test_equal_scores_and_a_lone_one_are_the_middle_of_their_scale() -> None:
    fused = distribution_based(
        {"dense": [(1, 0.1), (2, 0.1)], "lexical": [(3, 8.0)]},
        weights={"dense": 1.0, "lexical": 3.0},
    )
    assert [(hit.chunk_id, hit.score) for hit in fused] == [(3, 0.375), (1, 0.125), (2, 0.125)]


def test_a_score_beyond_the_ends_of_the_scale_is_cut() -> None:
    ranking = [(1, 100.0), *((chunk, 1.0) for chunk in range(2, 40))]
    fused = distribution_based({"lexical": ranking}, weights=EVEN)
    assert fused[0].score == 1.0
    assert all(0.4 < hit.score < 0.5 for hit in fused[1:])


Fusion = Callable[[dict[str, Ranking]], list[Fused]]
FUSIONS: list[Fusion] = [
    lambda legs: reciprocal_rank(legs, k=7.5, weights={"dense": 1.3, "lexical": 0.7}),
    lambda legs: distribution_based(legs, weights={"dense": 1.3, "lexical": 0.7}),
]
scores = st.floats(-1e6, 1e6).map(lambda score: round(score, 6))
rankings = st.dictionaries(st.integers(1, 60), scores, max_size=40).map(
    lambda found: sorted(found.items(), key=lambda row: (-row[1], row[0]))
)


@pytest.mark.parametrize("fuse", FUSIONS)
@given(dense=rankings, lexical=rankings)
def test_the_order_is_total_and_does_not_depend_on_the_order_of_the_legs(
    fuse: Fusion, dense: Ranking, lexical: Ranking
) -> None:
    legs = {"dense": dense, "lexical": lexical}
    fused = fuse(legs)
    assert fused == fuse(dict(reversed(legs.items())))
    assert sorted(hit.chunk_id for hit in fused) == sorted(
        {c for leg in legs.values() for c, _ in leg}
    )
    assert all(0 <= hit.score <= 1 for hit in fused)
    keys = [(-hit.score, min(leg.rank for leg in hit.legs.values()), hit.chunk_id) for hit in fused]
    assert keys == sorted(keys)
    assert len({*keys}) == len(fused)


@pytest.mark.parametrize("fuse", FUSIONS)
@given(ranking=rankings)
def test_one_leg_keeps_its_order_under_fusion(fuse: Fusion, ranking: Ranking) -> None:
    assert [hit.chunk_id for hit in fuse({"dense": ranking})] == [chunk for chunk, _ in ranking]


@given(rankings, rankings, st.floats(0.001, 1000), st.floats(-1000, 1000))
def test_distribution_based_scores_do_not_depend_on_the_scale_of_a_leg(
    dense: Ranking, lexical: Ranking, factor: float, offset: float
) -> None:
    other = [(chunk, score * factor + offset) for chunk, score in lexical]
    # Not so small a factor that scores become equal.
    assume(len({score for _, score in other}) == len({score for _, score in lexical}))
    one = distribution_based({"dense": dense, "lexical": lexical}, weights=EVEN)
    same = distribution_based({"dense": dense, "lexical": other}, weights=EVEN)
    assert {hit.chunk_id: hit.score for hit in one} == pytest.approx(
        {hit.chunk_id: hit.score for hit in same}, abs=1e-3
    )


def test_one_leg_keeps_its_order_and_scores() -> None:
    hits = single("lexical", [(9, 4.0), (2, 4.0)])
    assert [(hit.chunk_id, hit.score) for hit in hits] == [(9, 4.0), (2, 4.0)]
    assert hits[1].legs == {"lexical": LegScore(2, 4.0)}
