"""The search cache: what a hit costs, that nothing stale is served, and how little is kept."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace as replace_dataclass
from typing import Any, cast

import psycopg
import pytest
from prometheus_client import REGISTRY

from aistack.aidb.accept import accept
from aistack.aidb.documents import Document, checked_upload
from aistack.aidb.ingest import Ingestion
from aistack.aidb.jobs import Queue
from aistack.aidb.search_cache import SearchCache, forget
from aistack.aidb.search_model import Answer, SearchRequest, SearchResult
from aistack.aidb.search_schemas import SearchOut
from aistack.aidb.vectors import Vectors
from aistack.clients.postgres import Postgres
from aistack.config import AidbConfig
from aistack.service.errors import Unavailable
from bench.corpus import Source
from fix_postgres import PostgresServer
from fix_search import LAKES, Bench, sources

CORPUS_TABLES = re.compile(r"\b(documents|document_texts|chunks|terms|postings|vectors_\d+)\b")


def looks(outcome: str) -> float:
    return REGISTRY.get_sample_value("aistack_aidb_search_cache_total", {"outcome": outcome}) or 0.0


@contextmanager
def statements(server: PostgresServer, dsn: str) -> Iterator[list[str]]:
    """What this database is asked meanwhile, from the server's own log."""
    name = psycopg.conninfo.conninfo_to_dict(dsn)["dbname"]
    log = server.directory / "log"
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        connection.execute(f"ALTER DATABASE {name} SET log_statement = 'all'")
    seen: list[str] = []
    start = log.stat().st_size
    yield seen
    with log.open("rb") as stream:
        stream.seek(start)
        seen += stream.read().decode(errors="replace").split("LOG:")
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        connection.execute(f"ALTER DATABASE {name} RESET log_statement")


async def test_a_cached_search_embeds_nothing_and_reads_no_documents(
    bench: Bench, postgres_server: PostgresServer
) -> None:
    await bench.corpus.add(LAKES)
    first = await bench.search("small lake")
    assert not first.cached
    calls, hits = bench.encoder.calls, looks("hit")
    # The pool's connections take the new setting when they are made anew.
    with statements(postgres_server, bench.dsn) as seen:
        await bench.corpus.postgres.reads.aclose()
        second = await bench.search("small lake")
    assert second.cached
    assert (bench.encoder.calls, looks("hit")) == (calls, hits + 1)
    asked = [one for one in seen if "execute" in one or "statement" in one]
    assert any("collections" in one for one in asked), "the log shows what is asked"
    assert [one for one in asked if CORPUS_TABLES.search(one)] == []
    assert len(asked) == 1, "one statement, without a transaction around it"
    assert second.hits == first.hits
    assert (second.total, second.epoch) == (first.total, first.epoch)


async def test_the_log_would_show_a_search_that_is_not_cached(
    bench: Bench, postgres_server: PostgresServer
) -> None:
    await bench.corpus.add(LAKES)
    with statements(postgres_server, bench.dsn) as seen:
        await bench.corpus.postgres.pool.drain()
        await bench.search("small lake", settings={"cache_seconds": 0})
    assert any(CORPUS_TABLES.search(one) for one in seen)


async def test_every_change_of_the_collection_is_seen_at_once(bench: Bench) -> None:
    ids = await bench.corpus.add(LAKES)
    assert "tarn.md" in sources(await bench.search("small lake"))
    await bench.corpus.add([Source("new.txt", "A small lake, a small lake.")])
    added = await bench.search("small lake")
    assert not added.cached
    assert "new.txt" in sources(added)
    from aistack.aidb import store

    async with bench.corpus.postgres.connection("test") as connection:
        await store.delete_document(connection, ids[0])
    removed = await bench.search("small lake")
    assert not removed.cached
    assert "tarn.md" not in sources(removed)


async def test_everything_that_changes_a_result_is_in_the_key(bench: Bench) -> None:
    await bench.corpus.add(LAKES)
    await bench.search("small lake")
    for members in (
        {"mode": "dense"},
        {"limit": 2},
        {"offset": 1},
        {"min_score": 0.1},
        {"filters": {"year": {"gte": 1}}},
        {"filters": {"year": {"eq": 1}}},
        {"filters": {"year": {"eq": "1"}}},
        {"collapse": "near"},
        {"settings": {"bm25_k1": 0.5}},
        {"settings": {"fusion": "dbsf"}},
    ):
        assert not (await bench.search("small lake", **members)).cached, members
    assert not (await bench.search("Small lake")).cached
    assert (await bench.search("small lake")).cached


async def test_a_slow_search_never_stores_its_result_under_a_newer_epoch(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bench.corpus.add(LAKES)
    put = SearchCache.put
    waiting, go = asyncio.Event(), asyncio.Event()

    async def slow(self: SearchCache, *rest: object) -> None:
        waiting.set()
        await go.wait()
        await put(self, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(SearchCache, "put", slow)
    old = asyncio.create_task(bench.search("small lake"))
    await waiting.wait()
    await bench.corpus.add([Source("new.txt", "A small lake, a small lake.")])
    go.set()
    assert "new.txt" not in sources(await old)
    monkeypatch.undo()
    now = await bench.search("small lake")
    assert not now.cached
    assert "new.txt" in sources(now)


async def test_equal_searches_at_the_same_time_are_one(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bench.corpus.add(LAKES)
    searcher = bench.searcher()
    embed = bench.encoder.embed_in_set
    waiting, go, calls = asyncio.Event(), asyncio.Event(), 0

    async def slow(texts: Any, **_: object) -> Any:
        nonlocal calls
        calls += 1
        waiting.set()
        await go.wait()
        return await embed(texts)

    monkeypatch.setattr(bench.encoder, "embed_in_set", slow)
    request = SearchRequest("small lake", "default")
    tasks = [asyncio.create_task(searcher.search(request)) for _ in range(8)]
    await waiting.wait()
    misses = looks("miss")
    # What begins after a change is another search: it must not get the older result.
    await bench.corpus.add([Source("new.txt", "A small lake, a small lake.")])
    later = asyncio.create_task(searcher.search(request))
    while looks("miss") == misses or calls == 1:
        await asyncio.sleep(0.001)
    go.set()
    found = await asyncio.gather(*tasks)
    assert calls == 2
    assert [(one.hits, one.cached) for one in found] == [(found[0].hits, False)] * 8
    assert "new.txt" in sources(await later)
    assert len(searcher._flights) == 0


async def test_what_is_stored_of_a_collection_can_be_forgotten(bench: Bench) -> None:
    await bench.corpus.add(LAKES)
    await bench.corpus.add(LAKES, "other")
    for query in ("small lake", "high hill"):
        await bench.search(query)
        await bench.search(query, collection="other")
    [(collection_id,)] = bench.rows("SELECT id FROM collections WHERE name = 'default'")
    async with bench.corpus.postgres.connection("test") as connection:
        await forget(connection, collection_id)
    left = bench.rows(
        "SELECT collection_id = %s, count(*) FROM search_results GROUP BY 1", collection_id
    )
    assert left == [(False, 2)]
    assert not (await bench.search("small lake")).cached
    assert (await bench.search("small lake", collection="other")).cached


async def replace(bench: Bench, queue: Queue, **members: Any) -> Document:
    """Upload a new version of one source; the caller says when it is processed."""
    fields: dict[str, Any] = {"content_type": "text/plain", **members}
    upload = checked_upload(
        collection="default", source="s", title=None, key_id="k", limit=10_000, **fields
    )
    async with bench.corpus.postgres.connection("test") as connection:
        return (await accept(connection, queue, upload)).document


async def test_a_replacement_is_seen_whole_or_not_at_all(bench: Bench) -> None:
    """Cached and uncached, filtered searches agree at every step of it, also when it fails."""
    corpus = bench.corpus
    queue = Queue(corpus.postgres)
    await queue.open()
    vectors = Vectors(corpus.postgres, cast(Any, bench.encoder), dimension=384)
    ingestion = Ingestion(corpus.postgres, vectors, corpus._chunker.chunk, most_chunks=100)

    async def seen() -> dict[str, list[str]]:
        """The texts that each team's filter finds; three searches of each must agree."""
        found = {}
        for team in ("red", "blue", "sky"):
            query: dict[str, Any] = {"query": "small lake", "filters": {"team": {"eq": team}}}
            fresh = await bench.search(**query, settings={"cache_seconds": 0})
            first, again = await bench.search(**query), await bench.search(**query)
            assert again.cached
            assert first.hits == again.hits == fresh.hits, team
            if fresh.hits:
                found[team] = [hit.text for hit in fresh.hits]
        return found

    first = await replace(bench, queue, content=b"A small lake.", metadata={"team": "red"})
    await ingestion.run(first.id, 1)
    assert await seen() == {"red": ["A small lake."]}
    hollow = b"<script>a small lake</script>"
    await replace(bench, queue, content=hollow, metadata={"team": "blue"}, content_type="text/html")
    assert await seen() == {"red": ["A small lake."]}
    await ingestion.run(first.id, 2)
    assert await seen() == {"red": ["A small lake."]}
    await replace(bench, queue, content=b"A large lake.", metadata={"team": "sky"})
    assert await seen() == {"red": ["A small lake."]}
    await ingestion.run(first.id, 3)
    assert await seen() == {"sky": ["A large lake."]}
    await replace(bench, queue, content=b"A large lake.", metadata={"team": "blue"})
    assert await seen() == {"blue": ["A large lake."]}


async def test_a_result_that_cannot_be_kept_is_answered(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bench.corpus.add(LAKES)
    await bench.search("high hill")
    row = Postgres.row

    async def away(self: Postgres, operation: str, *rest: Any) -> tuple[Any, ...] | None:
        if operation == "search.keep":
            raise Unavailable("postgres is not available right now.")
        return await row(self, operation, *rest)

    monkeypatch.setattr(Postgres, "row", away)
    for _ in range(2):
        found = await bench.search("small lake")
        assert not found.cached
        assert sources(found)[0] == "tarn.md"
    assert (await bench.search("high hill")).cached


async def test_a_cached_search_lives_for_its_time(bench: Bench) -> None:
    await bench.corpus.add(LAKES)
    await bench.search("small lake")
    bench.rows("UPDATE search_results SET made_at = now() - interval '59 s' RETURNING 1")
    lives = {"cache_seconds": 60}
    assert (await bench.search("small lake", settings=lives)).cached
    bench.rows("UPDATE search_results SET made_at = now() - interval '61 s' RETURNING 1")
    assert not (await bench.search("small lake", settings=lives)).cached
    assert (await bench.search("small lake", settings=lives)).cached


async def test_only_what_can_be_served_is_kept_and_the_newest_of_it(bench: Bench) -> None:
    await bench.corpus.add(LAKES)
    await bench.corpus.add(LAKES, "other")
    asked = ["one", "two", "three", "four"]
    for query in asked:
        await bench.search(query)
    await bench.search("small lake", collection="other")
    bench.rows(
        "UPDATE search_results SET made_at = made_at - interval '1 h' WHERE key ="
        " (SELECT key FROM search_results ORDER BY made_at LIMIT 1) RETURNING 1"
    )
    await bench.corpus.add([Source("new.txt", "A small lake.")], "other")
    cache = SearchCache(bench.corpus.postgres, AidbConfig(cache_seconds=1800, cache_results=3))
    # The three newest of the five, one of which is out of date.
    assert not await cache.prune()
    assert bench.rows("SELECT count(*) FROM search_results") == [(2,)]
    assert [(await bench.search(query)).cached for query in asked] == [False, False, True, True]


async def test_what_went_out_of_date_is_not_kept(bench: Bench) -> None:
    await bench.corpus.add(LAKES)
    await bench.search("small lake")
    cache = SearchCache(bench.corpus.postgres, AidbConfig())
    request = SearchRequest("small lake", "default")
    looked = await cache.look(cache.key(request), "default")
    assert looked is not None
    assert looked.wire is not None
    await bench.corpus.add([Source("new.txt", "A small lake.")])
    await cache.put(b"k" * 32, looked.stamp, looked.wire)
    assert bench.rows("SELECT count(*) FROM search_results WHERE key = %s", b"k" * 32) == [(0,)]


async def test_what_another_transaction_holds_is_not_waited_for(bench: Bench) -> None:
    """A swap that has forgotten a result and not yet committed does not hold up the look-ups."""
    await bench.corpus.add(LAKES)
    await bench.search("small lake")
    postgres = bench.corpus.postgres
    cache = SearchCache(postgres, AidbConfig())
    key = cache.key(SearchRequest("small lake", "default"))
    looked = await cache.look(key, "default")
    assert looked is not None
    assert looked.wire is not None
    async with postgres.connection("test") as connection:
        await forget(connection, looked.stamp.collection_id)
        async with asyncio.timeout(5):
            await asyncio.gather(*(cache.put(key, looked.stamp, looked.wire) for _ in range(8)))
        # It still holds the row, and the connections and the breaker are as before.
        assert await cache.look(key, "default") == looked
        assert postgres.dependency.state == "closed"
    assert bench.rows("SELECT count(*) FROM search_results") == [(0,)]
    await cache.put(key, looked.stamp, looked.wire)
    assert await cache.look(key, "default") == looked


async def test_a_restart_of_the_database_costs_no_cached_search(
    bench: Bench, postgres_server: PostgresServer
) -> None:
    await bench.corpus.add(LAKES)
    await bench.search("small lake")
    with psycopg.connect(postgres_server.dsn(), autocommit=True) as connection:
        gone = connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s",
            [psycopg.conninfo.conninfo_to_dict(bench.dsn)["dbname"]],
        ).fetchall()
    assert gone
    assert (await bench.search("small lake")).cached


async def test_the_bytes_of_a_cached_search_are_those_of_the_first(bench: Bench) -> None:
    await bench.corpus.add(LAKES)
    searcher = bench.searcher()
    first, again = [await searcher.answer(SearchRequest("lake", "default")) for _ in range(2)]
    assert (first.cached, again.cached) == (False, True)
    assert first.wire == again.wire
    assert set(first.phases) == {"embed", "dense", "lexical", "fuse", "hits"}
    for answer in (first, again):
        read = SearchOut.model_validate_json(answer.body())
        assert read.cached == answer.cached
        assert read.took_ms == round(answer.seconds * 1000, 2)


def test_a_result_comes_back_as_it_was_stored() -> None:
    result = SearchResult("q", "hybrid", "default", 3, 0, None, (), None, degraded=("dense",))
    whole = replace_dataclass(result, cached=True, took_ms=1.5)
    assert SearchResult.load(Answer(result.wire(), cached=True, seconds=0.0015).body()) == whole
    one = SearchRequest("q", "a", limit=5).canonical()
    assert one == SearchRequest("q", "b", limit=5).canonical()
