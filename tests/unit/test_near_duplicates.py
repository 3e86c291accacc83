"""Chunks that say the same: what a fingerprint tells, and what is left of a ranked list."""

from __future__ import annotations

import random

import pytest

from aistack.aidb.analysis import analyze
from aistack.aidb.bm25 import frequencies
from aistack.aidb.fusion import single
from aistack.aidb.near_duplicates import FEWEST_TERMS, NEAR_BITS, Likeness, collapsed, fingerprint

WORDS = [f"word{n}" for n in range(2000)]


def made(words: list[str]) -> int | None:
    return fingerprint(*frequencies(words))


def bits(one: int | None, other: int | None) -> int:
    assert one is not None
    assert other is not None
    return ((one ^ other) & (2**64 - 1)).bit_count()


def test_a_fingerprint_is_the_same_for_the_same_terms_everywhere() -> None:
    # Worked out once: what is stored in a database must not change with a version.
    terms, counts = frequencies(analyze(" ".join(f"alpha{n} beta{n}" for n in range(12))))
    assert fingerprint(terms, counts) == -5905716722952420333
    assert fingerprint(terms[::-1], counts[::-1]) == fingerprint(terms, counts)


def test_the_majority_of_the_weights_decides_each_bit() -> None:
    terms = [f"t{n}" for n in range(FEWEST_TERMS)]
    heavy = fingerprint(terms, [1000, *[1] * (FEWEST_TERMS - 1)])
    assert heavy == fingerprint(terms, [2000, *[1] * (FEWEST_TERMS - 1)])
    assert heavy != fingerprint(terms, [1] * FEWEST_TERMS)


def test_a_short_chunk_has_none() -> None:
    assert made(WORDS[: FEWEST_TERMS - 1]) is None
    assert made(WORDS[:FEWEST_TERMS]) is not None
    assert made([]) is None


def test_a_changed_word_is_near_and_other_texts_are_far() -> None:
    dice = random.Random(5)
    near, far = [], []
    for _ in range(200):
        words = dice.choices(WORDS, k=120)
        changed = list(words)
        changed[dice.randrange(120)] = "another"
        near.append(bits(made(words), made(changed)))
        far.append(bits(made(words), made(dice.choices(WORDS, k=120))))
    assert sum(distance <= NEAR_BITS for distance in near) >= 190
    assert min(far) > 10


ALIKE = Likeness(1, 0b0111, 100)


@pytest.mark.parametrize(
    ("other", "how", "joined"),
    [
        (Likeness(1, 0b1111_0000, 100), "exact", True),
        (Likeness(1, None, 3), "exact", True),
        (Likeness(2, 0b0111, 100), "exact", False),
        (Likeness(2, 0b0111, 100), "near", True),
        (Likeness(2, 0b0011_1111_0111, 100), "near", True),
        (Likeness(2, 0b0111_1111_0111, 100), "near", False),
        (Likeness(2, -8, 100), "near", False),
        (Likeness(2, 0b0000, 110), "near", True),
        (Likeness(2, 0b0000, 111), "near", False),
        (Likeness(2, None, 100), "near", False),
        (Likeness(1, 0b0111, 100), "off", False),
    ],
)
def test_what_is_taken_for_the_same(other: Likeness, how: str, joined: bool) -> None:
    fused = single("dense", [(7, 0.9), (8, 0.8)])
    kept, duplicates = collapsed(fused, {7: ALIKE, 8: other}, how)  # type: ignore[arg-type]
    assert [hit.chunk_id for hit in kept] == ([7] if joined else [7, 8])
    assert duplicates == ({7: 1} if joined else {})


def test_the_best_one_stands_for_all() -> None:
    fused = single("dense", [(chunk, 1 - chunk / 10) for chunk in range(1, 8)])
    likeness = {
        1: Likeness(10, None, 5),
        2: Likeness(20, 0b1, 50),
        3: Likeness(10, None, 5),
        4: Likeness(30, 0b11, 50),  # near 2
        5: Likeness(30, None, 50),  # exactly 4, which 2 stands for
        6: Likeness(10, None, 5),
    }
    kept, duplicates = collapsed(fused, likeness, "near")
    assert [hit.chunk_id for hit in kept] == [1, 2, 7]
    assert [hit.score for hit in kept] == [0.9, 0.8, pytest.approx(0.3)]
    assert duplicates == {1: 2, 2: 2}
