"""Searches with Qdrant as the engine: exact, or they say so."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from aistack.aidb import filters, search_state
from aistack.aidb.dense import Pgvector, Scope
from aistack.clients.qdrant import Ids, Point, Where
from bench.corpus import Source
from fix_qdrant import QdrantServer, QdrantShim
from fix_qdrant_index import OPEN, breaker, delete, indexed
from fix_search import LAKES, Bench, sources


async def test_what_lags_is_compared_here_and_not_kept(bench: Bench, qdrant: QdrantServer) -> None:
    await bench.corpus.add(LAKES[:2])
    async with indexed(bench, qdrant) as made:
        await made.settle()
        await bench.corpus.add(LAKES[2:])
        for _ in range(2):
            found = await made.search("rotated access keys", mode="dense")
            assert (found.dense_engine, found.degraded, found.cached) == ("qdrant", (), False)
            assert sources(found)[0] == "keys.txt"
            assert len(found.hits) == len(made.chunks())
        await made.parts.sync.drain()
        caught_up = [await made.search("rotated access keys", mode="dense") for _ in range(2)]
        assert [one.cached for one in caught_up] == [False, True]
        assert {one.dense_engine for one in caught_up} == {"qdrant"}


async def test_points_that_postgresql_does_not_have_are_never_shown(
    bench: Bench, qdrant: QdrantServer
) -> None:
    await bench.corpus.add(LAKES)
    async with indexed(bench, qdrant) as made:
        await made.settle()
        true = await made.search("a small lake", mode="dense")
        client, name = made.parts.client, made.collection
        vector = [0.05] * 384
        payload = {"collection_id": made.value("SELECT id FROM collections"), "mark": "x"}
        await client.upsert(name, [Point(999_999, vector, payload)])
        found = await made.search("a small Lake", mode="dense")
        assert (found.dense_engine, found.degraded) == ("pgvector", ("qdrant",))
        assert {hit.chunk_id for hit in found.hits} == {hit.chunk_id for hit in true.hits}
        # Neither are some missing in silence.
        await client.delete(name, Where(must=(Ids((999_999, made.chunks()[0])),)))
        found = await made.search("the small lake", mode="dense")
        assert (found.dense_engine, found.degraded) == ("pgvector", ("qdrant",))
        assert len(found.hits) == len(made.chunks())


async def test_without_qdrant_pgvector_answers_says_so_and_changes_wait(
    bench: Bench, qdrant_shim: QdrantShim
) -> None:
    await bench.corpus.add(LAKES)
    async with indexed(bench, qdrant_shim) as made:
        await made.settle()
        await asyncio.to_thread(qdrant_shim.kill)
        for turn in range(4):
            away = await made.search(f"a small lake {turn}", mode="dense")
            assert (away.dense_engine, away.degraded) == ("pgvector", ("qdrant",))
            assert sources(away)[0] == "tarn.md"
        assert breaker(made) == "open"
        twice = [await made.search("a small lake", mode="dense") for _ in range(2)]
        assert not any(one.cached for one in twice)
        await delete(made, "keys.txt")
        await made.parts.sync.wake()
        assert made.value(OPEN) == 1
        await asyncio.to_thread(qdrant_shim.start)
        async with asyncio.timeout(20):
            while (await made.search("small lake", mode="dense")).dense_engine != "qdrant":
                await asyncio.sleep(0.2)
        assert breaker(made) == "closed"
        async with asyncio.timeout(20):
            # The sweep defers what lost its job; here its work is done by hand.
            while made.value(OPEN):
                await made.parts.sync.wake()
        assert await made.ids() == made.chunks()


async def test_a_server_that_hangs_costs_its_time_once_and_then_nothing(
    bench: Bench, qdrant_shim: QdrantShim
) -> None:
    await bench.corpus.add(LAKES)
    async with indexed(bench, qdrant_shim, timeout_seconds=0.5) as made:
        await made.settle()
        os.kill(qdrant_shim.pid, signal.SIGSTOP)
        try:
            for turn in range(3):
                found = await made.search(f"a lake {turn}", mode="dense")
                assert (found.dense_engine, found.degraded) == ("pgvector", ("qdrant",))
            assert breaker(made) == "open"
        finally:
            os.kill(qdrant_shim.pid, signal.SIGCONT)


async def test_a_filter_without_a_counterpart_is_answered_by_pgvector_and_kept(
    bench: Bench, qdrant: QdrantServer
) -> None:
    await bench.corpus.add(LAKES)
    async with indexed(bench, qdrant) as made:
        await made.settle()
        asked = {"author": {"gte": "B"}}
        answers = [await made.search("web", mode="dense", filters=asked) for _ in range(2)]
        assert [(one.dense_engine, one.degraded, one.cached) for one in answers] == [
            ("pgvector", (), False),
            ("pgvector", (), True),
        ]
        assert sources(answers[0]) == ["nginx.md"]


async def test_many_late_documents_are_left_to_pgvector(
    bench: Bench, qdrant: QdrantServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aistack.aidb.qdrant_engine.MOST_LAGGING", 1)
    await bench.corpus.add(LAKES[:2])
    async with indexed(bench, qdrant) as made:
        await made.settle()
        await bench.corpus.add(LAKES[2:])
        found = await made.search("rotated access keys", mode="dense")
        assert (found.dense_engine, found.degraded) == ("pgvector", ())
        assert sources(found)[0] == "keys.txt"
        again = await made.search("rotated access keys", mode="dense")
        assert again.cached is False


async def test_under_changes_every_answer_is_one_of_postgresql(
    bench: Bench, qdrant: QdrantServer
) -> None:
    """Documents come and go and are told to Qdrant while searches run: each search finds, with
    scores to the last digit, what pgvector finds in the same snapshot or in a newer one."""
    await bench.corpus.add(LAKES)
    async with indexed(bench, qdrant) as made:
        await made.settle()
        pgvector = Pgvector(made.config.aidb)
        vector = bench.encoder.encode(["a small lake"])[0]
        engines: set[str] = set()
        over = asyncio.Event()

        async def change() -> None:
            for turn in range(12):
                await bench.corpus.add([Source(f"new{turn}.txt", f"A small lake, number {turn}.")])
                if turn % 2:
                    await delete(made, f"new{turn - 1}.txt")
                if turn % 3 == 0:
                    await made.parts.sync.drain()
            over.set()

        async def look() -> None:
            while not over.is_set():
                async with bench.corpus.postgres.connection("test.search") as connection:
                    await connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
                    state = await search_state.read(connection, "default")
                    assert state is not None
                    scope = Scope.of(filters.parse(None))
                    found = await made.parts.engine.find(connection, state, scope, vector, 100)
                    true = await pgvector.find(connection, state, scope, vector, 100)
                engines.add(found.engine)
                assert found.ranking == true.ranking

        await asyncio.gather(change(), look(), look())
        assert "qdrant" in engines
