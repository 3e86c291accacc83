"""Metrics of rankings against values worked out by hand, and bootstrap intervals."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aistack.evaluation.bootstrap import difference, interval
from aistack.evaluation.metrics import (
    DEPTH,
    METRICS,
    Grades,
    UnknownGrade,
    best_first,
    ndcg,
    recall,
    reciprocal_rank,
    score,
)

GAINS = {"a": 3.0, "b": 2.0, "c": 1.0, "d": 0.0}
NAMES = st.lists(st.sampled_from("abcdefgh"), unique=True)


def test_ndcg_is_what_the_formula_gives_by_hand() -> None:
    # Found: x, b, a. 2 / log2(3) + 3 / log2(4) of the ideal 3 + 2 / log2(3) + 1 / log2(4).
    got = 2 / math.log2(3) + 3 / 2
    ideal = 3 + 2 / math.log2(3) + 1 / 2
    assert ndcg(["x", "b", "a"], GAINS) == pytest.approx(got / ideal)
    assert ndcg(["x", "b", "a"], GAINS) == pytest.approx(0.58, abs=1e-4)


def test_ndcg_at_a_depth_cuts_the_ideal_there_too() -> None:
    assert ndcg(["a"], GAINS, 1) == 1.0
    assert ndcg(["b", "a"], GAINS, 1) == pytest.approx(2 / 3)


def test_recall_counts_relevant_documents_alone() -> None:
    assert recall(["d", "a", "x", "c"], GAINS, 3) == pytest.approx(1 / 3)
    assert recall(["d", "a", "x", "c"], GAINS, 4) == pytest.approx(2 / 3)


def test_reciprocal_rank_is_of_the_first_relevant_one() -> None:
    assert reciprocal_rank(["d", "x", "b", "a"], GAINS) == pytest.approx(1 / 3)
    assert reciprocal_rank(["d", "x"], GAINS) == 0


def test_nothing_relevant_scores_nothing() -> None:
    assert set(score(["a", "b"], {"a": 0.0}).values()) == {0.0}


def test_a_ranking_is_read_to_its_depth() -> None:
    far = [f"x{i}" for i in range(DEPTH)] + ["a"]
    assert score(far, GAINS) == dict.fromkeys(METRICS, 0.0)
    assert score(far[1:], GAINS)["mrr"] == 1 / DEPTH


def test_a_document_stands_where_its_best_chunk_stands() -> None:
    assert best_first(["b", "a", "b", "c", "a"]) == ["b", "a", "c"]


@given(NAMES, st.dictionaries(st.sampled_from("abcdefgh"), st.floats(0, 5), min_size=1))
def test_metrics_lie_between_0_and_1_and_the_ideal_order_has_1(
    ranking: list[str], gains: dict[str, float]
) -> None:
    assert all(0 <= one <= 1 + 1e-9 for one in score(ranking, gains).values())
    ideal = sorted(gains, key=lambda name: -gains[name])
    if any(gains.values()):
        assert all(one == pytest.approx(1) for one in score(ideal, gains).values())


@given(NAMES.filter(bool), st.data())
def test_a_relevant_document_moved_up_never_scores_less(
    ranking: list[str], data: st.DataObject
) -> None:
    gains = dict.fromkeys(data.draw(st.sets(st.sampled_from(ranking), min_size=1)), 1.0)
    name = data.draw(st.sampled_from(sorted(gains)))
    place = ranking.index(name)
    higher = data.draw(st.integers(0, place))
    moved = [one for one in ranking if one != name]
    moved.insert(higher, name)
    before, after = score(ranking, gains), score(moved, gains)
    # Above another relevant one nothing changes; above one that is not, everything may rise.
    assert all(after[metric] >= before[metric] - 1e-12 for metric in METRICS)


def test_a_grade_is_its_own_gain_and_never_below_0() -> None:
    assert [Grades().gain(grade) for grade in (-1, 0, 1, 2.5)] == [0, 0, 1, 2.5]


def test_a_map_of_grades_can_turn_their_direction_and_guesses_nothing() -> None:
    grades = Grades.parse("1=3, 2=2,3=1,-1=0")
    assert [grades.gain(grade) for grade in (1, 2, 3, -1)] == [3, 2, 1, 0]
    with pytest.raises(UnknownGrade, match="grade 4 is not one of -1, 1, 2, 3"):
        grades.gain(4)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "'' is not GRADE=GAIN"),
        ("1", "'1' is not"),
        ("1=a", "'1=a' is not"),
        ("1=2,nan=1", "'nan=1' is not"),
        ("1=2,1=3", "grade 1 is given twice"),
        ("1=-1", "the gain of grade 1 is -1"),
        ("1=inf", "the gain of grade 1 is inf"),
        ("1=nan", "the gain of grade 1 is nan"),
    ],
)
def test_a_map_of_grades_that_makes_no_sense_is_refused(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Grades.parse(text)


def test_an_interval_is_that_of_the_normal_distribution_where_that_holds() -> None:
    drawn = random.Random(1)
    values = [drawn.gauss(0.5, 0.2) for _ in range(400)]
    found = interval(values)
    half = 1.96 * 0.2 / math.sqrt(400)
    assert found.mean == pytest.approx(sum(values) / 400)
    assert found.high - found.low == pytest.approx(2 * half, rel=0.1)
    assert found.low < 0.5 < found.high


def test_the_same_values_give_the_same_interval_and_another_seed_another() -> None:
    values = [0.0, 0.2, 0.9, 1.0, 0.4]
    assert interval(values) == interval(values)
    assert interval(values) != interval(values, seed=1)


def test_the_paired_interval_sees_what_two_of_their_own_cannot() -> None:
    drawn = random.Random(2)
    before = [drawn.random() for _ in range(100)]
    after = [one + 0.02 + drawn.gauss(0, 0.01) for one in before]
    found = difference(before, after)
    assert found.low > 0.015
    assert interval(before).high > interval(after).low  # unpaired, nothing could be said


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_an_interval_lies_within_the_values_and_around_their_mean(values: list[float]) -> None:
    found = interval(values, resamples=500)
    assert min(values) - 1e-12 <= found.low <= found.high <= max(values) + 1e-12
    assert difference(values, values, resamples=100).low == 0


def test_values_that_are_no_pairs_are_refused() -> None:
    with pytest.raises(ValueError, match="no pairs"):
        difference([1.0], [1.0, 0.0])
    with pytest.raises(ValueError, match="no values"):
        interval([])
