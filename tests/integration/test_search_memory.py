"""Frequent hits come from memory while their collection is held still, and are never stale."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import psycopg
import pytest
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from aistack.aidb import search_memory, store
from aistack.aidb.search import Searcher
from aistack.aidb.search_cache import SearchCache
from aistack.aidb.search_memory import SearchMemory
from aistack.aidb.search_model import SearchRequest, SearchResult
from aistack.config import AidbConfig
from bench.corpus import Source
from fix_search import LAKES, Bench, sources

LAKE = SearchRequest("small lake", "default")
OTHER = SearchRequest("access keys", "default")
HOLDS = (
    "SELECT count(*) FROM pg_locks l JOIN pg_database d ON d.oid = l.database"
    " WHERE l.locktype = 'advisory' AND d.datname = current_database()"
)


def held() -> float:
    return REGISTRY.get_sample_value("aistack_aidb_searches_held_total") or 0.0


def statements() -> float:
    """Asked of PostgreSQL on the way of a search."""
    name, labels = "aistack_dependency_call_seconds_count", {"dependency": "postgres"}
    return REGISTRY.get_sample_value(name, {**labels, "operation": "search.look"}) or 0.0


@pytest.fixture(autouse=True)
def long_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine that is so slow that nothing would happen in 20 ms there is time, too."""
    monkeypatch.setattr(search_memory, "HOLD_SECONDS", 0.1)


@asynccontextmanager
async def searching(
    bench: Bench, clock: Callable[[], float] = time.monotonic, **settings: int
) -> AsyncIterator[tuple[Searcher, SearchMemory]]:
    memory = SearchMemory(bench.corpus.postgres, clock=clock)
    config = AidbConfig(**settings)
    cache = SearchCache(bench.corpus.postgres, config, memory=memory)
    try:
        yield Searcher(bench.corpus.postgres, bench.encoder, cache, config), memory
    finally:
        await memory.aclose()


async def from_memory(searcher: Searcher, request: SearchRequest = LAKE) -> SearchResult:
    """Search until a hit comes from memory; that one."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        before = held()
        answer = await searcher.answer(request)
        if held() > before and answer.cached:
            return SearchResult.load(answer.body())
        # The task that holds the collection gets its turn.
        await asyncio.sleep(0)
    raise AssertionError("no hit came from memory")


async def test_frequent_hits_ask_nobody(bench: Bench) -> None:
    await bench.corpus.add(LAKES)
    async with searching(bench) as (searcher, _):
        first = await searcher.search(LAKE)
        await from_memory(searcher)
        seen = 0
        for _ in range(2000):
            asked, told = statements(), held()
            again = await searcher.search(LAKE)
            assert again.cached
            assert again.hits == first.hits
            if held() > told:
                assert statements() == asked, "a hit from memory asks nothing"
                seen += 1
            else:
                assert statements() == asked + 1, "another one statement"
            await asyncio.sleep(0)
        assert seen > 10


async def test_hits_that_are_seldom_hold_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search_memory, "HOLD_SECONDS", -1.0)
    await bench.corpus.add(LAKES)
    async with searching(bench) as (searcher, memory):
        before = held()
        for _ in range(20):
            await searcher.search(LAKE)
        assert held() == before
        assert memory._task is None


async def test_every_confirmed_change_is_seen_by_the_next_search(bench: Bench) -> None:
    """Writers and a reader that never stops; after each commit nothing of before is served."""
    await bench.corpus.add(LAKES)
    async with searching(bench) as (searcher, _):
        stop = asyncio.Event()

        async def read() -> int:
            count = 0
            while not stop.is_set():
                await searcher.search(LAKE)
                count += 1
                await asyncio.sleep(0)
            return count

        reader = asyncio.create_task(read())
        for turn in range(30):
            await from_memory(searcher)
            name = f"new-{turn}.txt"
            (made,) = await bench.corpus.add([Source(name, "A small lake, a small lake.")])
            assert name in sources(await searcher.search(LAKE)), "an added document is found"
            await from_memory(searcher)
            async with bench.corpus.postgres.connection("test") as connection:
                await store.delete_document(connection, made)
            assert name not in sources(await searcher.search(LAKE)), "a deleted one is not"
        stop.set()
        assert await reader > 60


async def test_what_was_made_from_another_state_stays_unused(bench: Bench) -> None:
    await bench.corpus.add(LAKES)
    async with searching(bench) as (searcher, _):
        await from_memory(searcher)
        await from_memory(searcher, OTHER)
        await bench.corpus.add([Source("new.txt", "A small lake, a small lake.")])
        await from_memory(searcher, OTHER)
        again = await searcher.search(LAKE)
        assert not again.cached
        assert "new.txt" in sources(again)


async def test_a_change_by_anybody_waits_for_who_holds(bench: Bench) -> None:
    """Also one by hand in psql: the database sees to it."""
    change = "UPDATE collections SET epoch = epoch + 1"
    await bench.corpus.add(LAKES)
    async with searching(bench) as (searcher, _):
        with psycopg.connect(bench.dsn) as other:
            await from_memory(searcher)
            other.execute("SET lock_timeout = '10ms'")
            with pytest.raises(psycopg.errors.LockNotAvailable):
                other.execute(change)
            other.rollback()
            # This process stood still meanwhile, loses the lock, and comes back with what it held.
            other.execute(change)
            before = held()
            other.commit()
            assert not (await searcher.search(LAKE)).cached
            assert held() == before


async def test_while_a_change_is_under_way_nothing_is_held(bench: Bench) -> None:
    await bench.corpus.add(LAKES)
    async with searching(bench) as (searcher, _):
        await from_memory(searcher)
        async with bench.corpus.postgres.connection("test") as connection:
            await connection.execute("UPDATE collections SET epoch = epoch + 1")
            before = held()
            for _ in range(200):
                assert (await searcher.search(LAKE)).cached, "what was committed still holds"
            assert held() == before
        assert not (await searcher.search(LAKE)).cached
        await from_memory(searcher)


async def test_a_connection_that_was_ended_holds_nothing(bench: Bench) -> None:
    await bench.corpus.add(LAKES)
    async with searching(bench) as (searcher, memory):
        with psycopg.connect(bench.dsn, autocommit=True) as other, capture_logs() as logs:
            await from_memory(searcher)
            ended = other.execute(
                "SELECT pg_terminate_backend(l.pid, 5000) FROM pg_locks l"
                " JOIN pg_database d ON d.oid = l.database AND d.datname = current_database()"
                " WHERE l.locktype = 'advisory'"
            ).fetchall()
            assert ended == [(True,)], "the loop stands still, and with it what it holds"
            memory._until = time.monotonic() + 60
            before = held()
            assert (await searcher.search(LAKE)).cached
            assert held() == before
            assert memory._task is not None
            await memory._task
            assert [one["event"] for one in logs] == ["searches_not_held"]
            memory._not_before = 0.0
            await from_memory(searcher)


async def test_memory_forgets_what_is_over(bench: Bench) -> None:
    await bench.corpus.add(LAKES)
    late = 0.0
    async with searching(bench, lambda: time.monotonic() + late, cache_seconds=60) as (
        searcher,
        memory,
    ):
        await from_memory(searcher)
        assert memory._kept
        late = 61.0
        memory._until += late
        assert memory._held
        before = held()
        await searcher.search(LAKE)
        assert held() == before, "the life of a result is the same in memory"


async def test_memory_of_another_connection_is_forgotten(bench: Bench) -> None:
    """A database that a standby or a dump has taken back has the same epochs anew."""
    await bench.corpus.add(LAKES)
    async with searching(bench) as (searcher, memory):
        key = SearchCache(bench.corpus.postgres, AidbConfig()).key(LAKE)
        first = await from_memory(searcher)
        await memory.aclose()
        memory._kept[key] = memory._kept[key]._replace(wire=b"of a lost time")
        await from_memory(searcher, OTHER)
        assert (await searcher.search(LAKE)).hits == first.hits
        memory.clear()
        assert (memory._kept, memory._bytes) == ({}, 0)


async def test_memory_is_bounded(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    await bench.corpus.add(LAKES)
    async with searching(bench) as (searcher, memory):
        await from_memory(searcher)
        (size,) = (len(kept.wire) for kept in memory._kept.values())
        monkeypatch.setattr(search_memory, "MOST_BYTES", 3 * size)
        for limit in range(1, 9):
            await from_memory(searcher, SearchRequest("small lake", "default", limit=limit))
            assert memory._bytes == sum(len(kept.wire) for kept in memory._kept.values())
            assert memory._bytes <= 3 * size
        await from_memory(searcher)


async def test_closing_gives_up_what_is_held(bench: Bench) -> None:
    await bench.corpus.add(LAKES)
    async with searching(bench) as (searcher, memory):
        await from_memory(searcher)
        assert memory._held
    assert not memory._held
    assert bench.rows(HOLDS) == [(0,)]
