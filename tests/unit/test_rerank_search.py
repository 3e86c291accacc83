"""How a search is reranked: which hits are read, how they change places, what happens without."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from aistack.aidb.collection_settings import CollectionSettings
from aistack.aidb.fusion import LegScore
from aistack.aidb.rerank import Plan, Reranking, reordered
from aistack.aidb.search_model import Hit, SearchRequest, SearchResult
from aistack.config import AidbConfig
from aistack.service.errors import (
    NotImplementedHere,
    Overloaded,
    StackError,
    TooLarge,
    Unavailable,
    Unprocessable,
)

OFF = CollectionSettings.of(AidbConfig(), {})
ON = CollectionSettings.of(AidbConfig(), {"rerank": True})


def asked(**members: Any) -> SearchRequest:
    return SearchRequest("a lake", "default", **members)


@pytest.mark.parametrize(
    ("members", "settings", "window", "top"),
    [
        ({}, OFF, slice(0, 10), 0),
        ({"rerank": False}, ON, slice(0, 10), 0),
        ({}, ON, slice(0, 20), 20),
        ({"rerank": True}, OFF, slice(0, 20), 20),
        ({"rerank": True, "rerank_top": 5}, OFF, slice(0, 10), 5),
        ({"rerank": True, "limit": 3, "offset": 15}, OFF, slice(0, 20), 20),
        ({"rerank": True, "limit": 10, "offset": 15}, OFF, slice(0, 25), 20),
        ({"rerank": True, "offset": 20}, OFF, slice(20, 30), 0),
    ],
)
def test_a_page_reads_what_it_may_show(
    members: dict[str, Any], settings: CollectionSettings, window: slice, top: int
) -> None:
    assert Plan.of(asked(**members), settings) == Plan(window, top)


@pytest.mark.parametrize("top", [0, 21, -1])
def test_at_most_twenty_are_read(top: int) -> None:
    with pytest.raises(Unprocessable, match="rerank_top: 1 to 20"):
        asked(rerank_top=top)


def test_the_key_of_a_cached_search_tells_them_apart() -> None:
    requests = [asked(), asked(rerank=True), asked(rerank=False), asked(rerank=True, rerank_top=5)]
    assert len({one.canonical() for one in requests}) == len(requests)


def hit(rank: int) -> Hit:
    return Hit(
        rank=rank, score=1 / rank, chunk_id=rank, document_id="d", source="s", title="t",
        content_type="text/plain", text="x", heading_path=(), char_start=0, char_end=1,
        page_start=None, page_end=None, line_start=None, line_end=None, metadata={},
        legs={"dense": LegScore(rank, 0.5), "lexical": None}, duplicates=0,
    )  # fmt: skip


def result(count: int) -> SearchResult:
    hits = tuple(hit(rank) for rank in range(1, count + 1))
    return SearchResult("a lake", "hybrid", "default", 1, 30, None, hits, None)


def test_the_best_change_places_and_the_rest_follows() -> None:
    found = reordered(result(4).hits, [0.2, 0.9, 0.2])
    assert [one.chunk_id for one in found] == [2, 1, 3, 4]
    assert [one.rank for one in found] == [1, 2, 3, 4]
    assert [one.legs["rerank"] for one in found] == [
        LegScore(1, 0.9),
        LegScore(2, 0.2),
        LegScore(3, 0.2),
        None,
    ]
    # What the other legs and the fusion said stays with the hit.
    assert [one.score for one in found] == [1 / 2, 1, 1 / 3, 1 / 4]
    assert found[0].legs["dense"] == LegScore(2, 0.5)


class Judge:
    """Prefers the passages in the reverse order, or fails."""

    def __init__(self, failure: StackError | None = None) -> None:
        self.failure = failure
        self.seconds: float | None = None

    async def scores(
        self, query: str, documents: Sequence[str], *, seconds: float | None = None
    ) -> list[float]:
        self.seconds = seconds
        if self.failure is not None:
            raise self.failure
        return [place / len(documents) for place, _ in enumerate(documents)]


async def test_pages_of_one_search_fit_together() -> None:
    whole: list[int] = []
    for offset in range(0, 9, 3):
        request = asked(rerank=True, rerank_top=5, limit=3, offset=offset)
        plan = Plan.of(request, OFF)
        window = replace(result(30), hits=result(30).hits[plan.window])
        passages = ["x"] * plan.top
        page = await Reranking(Judge()).applied(request, window, passages)
        whole += [one.chunk_id for one in page.hits]
        assert [one.rank for one in page.hits] == [offset + 1, offset + 2, offset + 3]
    assert whole == [5, 4, 3, 2, 1, 6, 7, 8, 9]


async def test_the_reranker_gets_a_part_of_the_time() -> None:
    judge = Judge()
    await Reranking(judge).applied(asked(rerank=True), result(20), ["x"] * 20)
    assert judge.seconds is not None
    assert 0 < judge.seconds <= 20


@pytest.mark.parametrize("failure", [Unavailable("away"), Overloaded("full")])
async def test_without_the_reranker_the_order_stays_and_that_is_said(failure: StackError) -> None:
    request = asked(rerank=True, limit=3, offset=1)
    found = await Reranking(Judge(failure)).applied(request, result(20), ["x"] * 20)
    assert [one.chunk_id for one in found.hits] == [2, 3, 4]
    assert found.degraded == ("rerank",)
    assert all("rerank" not in one.legs for one in found.hits)
    both = replace(result(20), degraded=("dense",))
    assert (await Reranking(Judge(failure)).applied(request, both, ["x"])).degraded == (
        "dense",
        "rerank",
    )


async def test_a_query_that_is_too_long_fails_only_who_asked_for_it() -> None:
    long = Judge(TooLarge("query has 600 tokens"))
    with pytest.raises(TooLarge):
        await Reranking(long).applied(asked(rerank=True), result(20), ["x"] * 20)
    found = await Reranking(long).applied(asked(), result(20), ["x"] * 20)
    assert found.degraded == ("rerank",)
    assert len(found.hits) == 10


@pytest.mark.parametrize("judge", [None, Judge(NotImplementedHere("embeddings.rerank_model"))])
async def test_without_a_model_it_is_said_which_option_is_missing(judge: Judge | None) -> None:
    for request in (asked(rerank=True), asked()):
        with pytest.raises(NotImplementedHere, match=r"embeddings\.rerank_model"):
            await Reranking(judge).applied(request, result(20), ["x"] * 20)


async def test_nothing_found_asks_nobody() -> None:
    empty = result(0)
    assert await Reranking(None).applied(asked(rerank=True), empty, []) is empty
