"""Reciprocal rank fusion: the formula, and an order that is total."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aistack.aidb.fusion import LegScore, Ranking, reciprocal_rank, single

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


rankings = st.lists(st.integers(1, 60), unique=True, max_size=40)


@given(rankings, rankings, st.floats(1, 200))
def test_the_order_is_total_and_does_not_depend_on_the_order_of_the_legs(
    one: list[int], other: list[int], k: float
) -> None:
    legs: dict[str, Ranking] = {
        "dense": [(chunk, 1.0) for chunk in one],
        "lexical": [(chunk, 1.0) for chunk in other],
    }
    fused = reciprocal_rank(legs, k=k, weights=EVEN)
    swapped = reciprocal_rank(dict(reversed(legs.items())), k=k, weights=EVEN)
    assert [hit.chunk_id for hit in fused] == [hit.chunk_id for hit in swapped]
    assert {hit.chunk_id for hit in fused} == {*one, *other}
    assert all(0 < hit.score <= 1 for hit in fused)
    keys = [(-hit.score, min(leg.rank for leg in hit.legs.values()), hit.chunk_id) for hit in fused]
    assert keys == sorted(keys)
    shuffled = list(fused)
    random.Random(1).shuffle(shuffled)
    assert len({*keys}) == len(fused)


def test_one_leg_keeps_its_order_and_scores() -> None:
    hits = single("lexical", [(9, 4.0), (2, 4.0)])
    assert [(hit.chunk_id, hit.score) for hit in hits] == [(9, 4.0), (2, 4.0)]
    assert hits[1].legs == {"lexical": LegScore(2, 4.0)}
