"""The formula, against numbers worked out by hand and against a peer."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aistack.aidb.bm25 import Bm25, frequencies, idf, weight


def test_frequencies_are_parallel_and_sorted() -> None:
    assert frequencies(["b", "a", "b"]) == (["a", "b"], [1, 2])
    assert frequencies([]) == ([], [])


def test_numbers_worked_out_by_hand() -> None:
    assert idf(10, 1) == pytest.approx(math.log(1 + 9.5 / 1.5))
    # length = average: the length plays no part.
    assert weight(3, 50, 50.0, Bm25(1.5, 0.75)) == pytest.approx(3 / 4.5)
    assert weight(1, 200, 50.0, Bm25(1.0, 0.0)) == pytest.approx(0.5)


@given(st.integers(1, 10**6), st.data())
def test_a_term_is_never_worth_less_than_nothing(chunks: int, data: st.DataObject) -> None:
    df = data.draw(st.integers(1, chunks))
    assert idf(chunks, df) > 0
    assert 0 < weight(data.draw(st.integers(1, 1000)), 100, 80.0, Bm25()) < 1


def test_the_formula_is_that_of_bm25s() -> None:
    bm25s = pytest.importorskip("bm25s", reason="the peer is not installed")
    corpus = [["a", "b", "b"], ["a", "c"], ["c", "c", "d", "a"], ["e"]]
    parameters = Bm25(1.3, 0.6)
    peer = bm25s.BM25(method="lucene", k1=parameters.k1, b=parameters.b)
    peer.index(corpus, show_progress=False)
    average = sum(map(len, corpus)) / len(corpus)
    ours = np.zeros(len(corpus))
    for term in ("a", "b", "c"):
        df = sum(term in one for one in corpus)
        for place, one in enumerate(corpus):
            if term in one:
                held = weight(one.count(term), len(one), average, parameters)
                ours[place] += idf(len(corpus), df) * held
    assert ours == pytest.approx(peer.get_scores(["a", "b", "c"]), abs=1e-6)
