"""Search over real PostgreSQL and the real model: legs, fusion, filters, pages, limits."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest

from aistack.aidb.analysis import analyze
from aistack.aidb.bm25 import Bm25, idf, weight
from aistack.aidb.search import EMBED_SECONDS
from aistack.aidb.search_cache import SearchCache
from aistack.aidb.search_model import SearchRequest
from aistack.aidb.search_state import Look
from aistack.clients.resilience import Dependency
from aistack.service.context import deadline
from aistack.service.errors import NotFound, Overloaded, Unavailable, Unprocessable
from bench.corpus import Source
from fix_search import FILTERS, LAKES, Bench, named, sources


async def test_each_leg_finds_what_it_is_for(bench: Bench) -> None:
    await bench.corpus.add(LAKES)
    dense = await bench.search("how often must passwords be changed?", mode="dense")
    assert sources(dense)[0] == "keys.txt"
    assert dense.hits[0].legs["lexical"] is None
    assert dense.hits[0].score == pytest.approx(dense.hits[0].legs["dense"].score)  # type: ignore[union-attr]
    for query in ("services.nginx.enable", "NGINX", "enable"):
        lexical = await bench.search(query, mode="lexical")
        assert sources(lexical)[0] == "nginx.md", query
    nothing = await bench.search("zzzz", mode="lexical")
    assert (nothing.hits, nothing.total, nothing.next_offset) == ((), 0, None)
    both = await bench.search("small lake in the mountains")
    first = both.hits[0]
    assert first.source == "tarn.md"
    assert first.score == 1.0
    assert [leg and leg.rank for leg in first.legs.values()] == [1, 1]
    assert both.total == 4


async def test_a_hit_says_where_it_is_from(bench: Bench) -> None:
    await bench.corpus.add(LAKES)
    hit = named(await bench.search("serve pages"), "nginx.md")
    text = bench.rows("SELECT text FROM document_texts WHERE document_id = %s", hit.document_id)
    assert text[0][0][hit.char_start : hit.char_end] == hit.text
    assert (hit.title, hit.content_type) == ("Web server", "text/markdown")
    assert (hit.line_start, hit.page_start) == (1, None)
    assert hit.metadata == {"year": 2024.5, "author": "Bob"}
    assert tuple(hit.heading_path) == ("Web",)
    untitled = named(await bench.search("barren hill"), "fell.txt")
    assert untitled.title == "fell.txt"


async def test_the_cosine_is_that_of_the_vectors_and_bm25_that_of_the_formula(
    bench: Bench,
) -> None:
    await bench.corpus.add(LAKES)
    query = "the high hill in the mountains"
    result = await bench.search(query)
    vector = bench.encoder.encode([query])[0]
    rows = bench.rows("SELECT id, embed_prefix || text, terms, term_frequencies FROM chunks")
    lengths = [sum(row[3]) for row in rows]
    average = sum(lengths) / len(rows)
    for hit in result.hits:
        row = next(row for row in rows if row[0] == hit.chunk_id)
        cosine = float(np.dot(vector, bench.encoder.encode([row[1]])[0]))
        dense, lexical = hit.legs["dense"], hit.legs["lexical"]
        assert dense is not None
        assert dense.score == pytest.approx(cosine, abs=1e-4)
        held = dict(zip(row[2], row[3], strict=True))
        expected = sum(
            idf(len(rows), sum(term in other[2] for other in rows))
            * weight(held[term], sum(row[3]), average, Bm25())
            for term in analyze(query)
            if term in held
        )
        assert (lexical.score if lexical else 0.0) == pytest.approx(expected, abs=2e-6)


@pytest.mark.parametrize("exact", [True, False])
async def test_filters_hold_in_every_mode(bench: Bench, exact: bool) -> None:
    ids = await bench.corpus.add(LAKES)
    await bench.index()
    settings = {"dense_exact_below": 20_000 if exact else 0}
    query = "small lake hill keys nginx"
    for raw, expected in FILTERS:
        for mode in ("hybrid", "dense", "lexical"):
            result = await bench.search(query, filters=raw, mode=mode, settings=settings)
            assert set(sources(result)) == expected, (raw, mode)
    one = await bench.search(query, filters={"document_id": {"eq": str(ids[1])}})
    assert sources(one) == ["fell.txt"]


async def test_filters_hold_before_the_cut(bench: Bench) -> None:
    await bench.corpus.add(
        Source(f"{n}.txt", f"A lake and a hill and a mountain, number {n}.", metadata={"n": n})
        for n in range(60)
    )
    await bench.index()
    for exact in (20_000, 0):
        for mode in ("dense", "lexical", "hybrid"):
            found = await bench.search(
                "lake hill mountain",
                mode=mode,
                filters={"n": {"gte": 48}},
                limit=100,
                settings={"candidates": 10, "dense_exact_below": exact},
            )
            assert len(found.hits) >= 10, (exact, mode)
            assert all(hit.metadata["n"] >= 48 for hit in found.hits)


async def test_pages_are_stable_and_complete(bench: Bench) -> None:
    # Many equal scores: only the tie-break decides.
    await bench.corpus.add(
        Source(f"{n}.txt", "The same words about a lake." + " And more." * (n % 3), metadata={})
        for n in range(30)
    )
    for mode in ("hybrid", "dense", "lexical"):
        whole = await bench.search("lake", mode=mode, limit=100, collapse="off")
        assert [hit.rank for hit in whole.hits] == list(range(1, len(whole.hits) + 1))
        paged: list[int] = []
        offset: int | None = 0
        while offset is not None:
            page = await bench.search("lake", mode=mode, limit=7, offset=offset, collapse="off")
            assert page.total == whole.total
            paged += [hit.chunk_id for hit in page.hits]
            offset = page.next_offset
        assert paged == [hit.chunk_id for hit in whole.hits]
        assert len(set(paged)) == len(paged) == 30
        beyond = await bench.search("lake", mode=mode, offset=2000)
        assert (beyond.hits, beyond.next_offset) == ((), None)


async def test_min_score_cuts(bench: Bench) -> None:
    await bench.corpus.add(LAKES)
    everything = await bench.search("small lake in the mountains", mode="dense")
    second = everything.hits[1].score
    kept = await bench.search("small lake in the mountains", mode="dense", min_score=second)
    assert [hit.score >= second for hit in kept.hits] == [True, True]
    assert kept.total == 2


async def test_hnsw_answers_as_exact_search_does(bench: Bench) -> None:
    await bench.corpus.add(
        Source(f"{n}.txt", f"Passage {n * 7919 % 1000} on subject {n * 31 % 97} of the atlas.")
        for n in range(300)
    )
    await bench.index()
    overlap = 0
    for query in ("subject 12", "passage 500", "an atlas", "number 7"):
        exact = await bench.search(query, mode="dense")
        nearest = await bench.search(query, mode="dense", settings={"dense_exact_below": 0})
        overlap += len({h.chunk_id for h in exact.hits} & {h.chunk_id for h in nearest.hits})
    assert overlap >= 38


async def test_collections_do_not_see_each_other(bench: Bench) -> None:
    await bench.corpus.add(LAKES, "one")
    await bench.corpus.add([Source("other.txt", "A small lake elsewhere.")], "two")
    await bench.index()
    for exact in (20_000, 0):
        found = await bench.search(
            "small lake", collection="two", settings={"dense_exact_below": exact}
        )
        assert sources(found) == ["other.txt"]
    with pytest.raises(NotFound):
        await bench.search("x", collection="three")
    empty = await bench.search("x")
    assert (empty.collection, empty.hits) == ("default", ())


@pytest.mark.parametrize(
    "members",
    [
        {"query": ""},
        {"query": " \n"},
        {"query": "a\0b"},
        {"query": "x" * 5000},
        {"query": "\ud800"},
        {"limit": 0},
        {"limit": 101},
        {"offset": -1},
        {"offset": 10**9},
    ],
)
def test_a_bad_request_names_its_field(members: dict[str, Any]) -> None:
    with pytest.raises(Unprocessable) as caught:
        SearchRequest(**{"query": "x", "collection": "default", **members})
    assert caught.value.detail.startswith(next(iter(members)))


async def test_any_query_is_answered(bench: Bench) -> None:
    await bench.corpus.add(LAKES)
    for query in ("%s {} $1", "'; DROP TABLE chunks; --", "💧" * 50, "x" * 4096, "a " * 2000):
        result = await bench.search(query)
        assert result.total >= 1


async def test_the_first_document_may_come_between_the_look_and_the_search(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bench.corpus.add(LAKES)
    look, calls = SearchCache.look, bench.encoder.calls

    async def empty_at_first(cache: SearchCache, key: bytes, collection: str) -> Look:
        monkeypatch.undo()
        found = await look(cache, key, collection)
        assert found is not None
        return found._replace(stamp=found.stamp._replace(epoch=-1), chunks=0)

    monkeypatch.setattr(SearchCache, "look", empty_at_first)
    found = await bench.search("how often must passwords be changed?")
    assert sources(found)[0] == "keys.txt"
    assert found.degraded == ()
    assert bench.encoder.calls == calls + 1


async def test_a_query_vector_of_another_model_is_never_used(bench: Bench) -> None:
    await bench.corpus.add(LAKES)
    bench.rows("UPDATE embedding_sets SET revision = 'another' RETURNING id")
    await only_words_are_searched(bench)


async def only_words_are_searched(bench: Bench) -> None:
    """Mode dense is an error, hybrid the lexical leg, said so and not kept, lexical as ever."""
    with pytest.raises(Unavailable):
        await bench.search("small lake", mode="dense")
    words = await bench.search("small lake", mode="lexical")
    assert words.degraded == ()
    for _ in range(2):
        found = await bench.search("small lake")
        assert (found.degraded, found.cached) == (("dense",), False)
        assert sources(found) == sources(words) == ["tarn.md"]
        assert found.hits[0].legs["dense"] is None
        assert found.hits[0].score == 1.0


async def test_without_the_embeddings_service_a_hybrid_search_is_of_words(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bench.corpus.add(LAKES)

    async def away(texts: object, **_: object) -> Any:
        raise Unavailable("embeddings is not available right now.")

    monkeypatch.setattr(bench.encoder, "embed_in_set", away)
    await only_words_are_searched(bench)
    monkeypatch.undo()
    again = await bench.search("small lake")
    assert (again.degraded, again.cached, again.total) == ((), False, 4)


async def test_an_embeddings_service_that_hangs_leaves_the_words_their_time(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bench.corpus.add(LAKES)

    given: list[float] = []

    async def hangs(texts: object, *, seconds: float) -> Any:
        # As the client does, which then tells its breaker; here nobody waits for it.
        given.append(seconds)
        raise Unavailable("embeddings is not available right now.")

    monkeypatch.setattr(bench.encoder, "embed_in_set", hangs)
    token = deadline.set(time.monotonic() + 4.0)
    try:
        found = await bench.search("small lake")
    finally:
        deadline.reset(token)
    assert (found.degraded, sources(found)) == (("dense",), ["tarn.md"])
    assert 0 < given[0] <= 2.0
    await bench.search("small lake")
    assert given[1] == EMBED_SECONDS


async def test_while_this_process_asks_too_much_a_hybrid_search_is_of_words(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bench.corpus.add(LAKES)
    guard = Dependency("full", timeout=5, concurrency=1, queue_seconds=0.01)
    embed = bench.encoder.embed_in_set

    async def guarded(texts: Any, **_: object) -> Any:
        return await guard.call("op", lambda: embed(texts))

    monkeypatch.setattr(bench.encoder, "embed_in_set", guarded)
    async with guard.guard("holds the only place"):
        found = await bench.search("small lake")
        with pytest.raises(Overloaded):
            await bench.search("small lake", mode="dense")
    assert (found.degraded, sources(found)) == (("dense",), ["tarn.md"])
    assert (await bench.search("small lake")).degraded == ()


async def test_a_query_that_is_refused_is_refused(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bench.corpus.add(LAKES)

    async def full(texts: object, **_: object) -> Any:
        raise Overloaded("Too many texts at once.")

    monkeypatch.setattr(bench.encoder, "embed_in_set", full)
    for mode in ("dense", "hybrid"):
        with pytest.raises(Overloaded):
            await bench.search("lake", mode=mode)
