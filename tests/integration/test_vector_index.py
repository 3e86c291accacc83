"""Vector indexes on a real PostgreSQL: when they are built, and what a build that fails leaves."""

from __future__ import annotations

import asyncio
import resource
import signal
import sys

import psycopg
import pytest
from structlog.testing import capture_logs

from aistack.aidb import vector_index
from aistack.aidb.vector_index import BUILDS, PROGRESS, IndexState, VectorIndexes, index_state
from aistack.clients.postgres import Postgres
from fix_vectors import Store, database_config, unit_vectors
from fix_wait import until


async def state(store: Store) -> IndexState:
    async with store.postgres.connection("test.state") as connection:
        return await index_state(connection)


async def settled(indexes: VectorIndexes) -> None:
    """Turn until the build that the turn began has ended."""
    await indexes.turn()
    if indexes._building is not None:
        await asyncio.wait({indexes._building})
    await indexes.turn()


def share(set_id: int) -> float | None:
    samples = [s for family in PROGRESS.collect() for s in family.samples]
    return next((s.value for s in samples if s.labels == {"set": str(set_id)}), None)


def built(outcome: str) -> float:
    return sum(
        sample.value
        for family in BUILDS.collect()
        for sample in family.samples
        if sample.name.endswith("_total") and sample.labels == {"outcome": outcome}
    )


async def test_an_index_is_built_when_there_are_enough_chunks_and_then_used(store: Store) -> None:
    indexes = store.indexes()
    query = unit_vectors(1, 8, seed=99)[0]
    await store.add(49)
    await settled(indexes)
    assert (store.hnsw(), await state(store), share(1)) == ({}, IndexState("none"), None)
    await store.add(1)
    exact, scanned = await store.nearest(query)
    assert scanned == []
    await settled(indexes)
    assert store.hnsw() == {"vectors_1_hnsw": True}
    assert (await state(store), share(1)) == (IndexState("ready", 1.0), 1.0)
    assert await store.nearest(query) == (exact, ["vectors_1_hnsw"])
    assert await store.nearest(query, dense_exact_below=51) == (exact, [])
    # What comes later is in it too, and there is nothing more to do.
    await store.add(30)
    await settled(indexes)
    assert indexes._building is None
    found, scanned = await store.nearest(query, limit=80)
    assert (len(found), scanned) == (80, ["vectors_1_hnsw"])


async def test_an_empty_table_wants_no_index(store: Store) -> None:
    await store.add(1)
    store.rows("DELETE FROM chunks RETURNING 1")
    await settled(store.indexes(dense_exact_below=0))
    assert store.hnsw() == {}


async def test_writers_and_searches_do_not_wait_for_a_build(store: Store) -> None:
    await store.add(60)
    query = unit_vectors(1, 8, seed=99)[0]
    indexes = store.indexes()
    told: list[str] = []
    indexes.tell = told.append
    async with store.writing():
        await indexes.turn()
        await until(store.stuck)
        await indexes.turn()
        assert await state(store) == IndexState("building", 0.0)
        assert (share(1), told) == (0.0, ["building the vector index: 0%"])
        await store.add(10)
        found, scanned = await store.nearest(query, limit=100)
        assert (len(found), scanned) == (70, [])
        assert store.hnsw() == {"vectors_1_hnsw": False}
    await settled(indexes)
    assert len((await store.nearest(query, limit=100))[0]) == 70
    assert (share(1), told[-1]) == (1.0, "ready")


async def test_only_one_of_two_processes_builds(store: Store) -> None:
    await store.add(60)
    second = Postgres(database_config(store.dsn))
    await second.open()
    try:
        one, other = store.indexes(), VectorIndexes(second, store.config())
        before = built("done")
        async with store.writing():
            await one.turn()
            await until(store.stuck)
            # At once, and without waiting for the first one.
            await asyncio.wait_for(other.build(), 10)
            await other.turn()
            assert other._building is None, "somebody builds already"
            assert store.hnsw() == {"vectors_1_hnsw": False}, "a build under way is no leftover"
        await settled(one)
        await settled(other)
        assert store.hnsw() == {"vectors_1_hnsw": True}
        assert built("done") == before + 1
    finally:
        await second.aclose()


_BUILDER = """
import asyncio, sys
from aistack.aidb.vector_index import VectorIndexes
from aistack.clients.postgres import Postgres
from aistack.config import AidbConfig, PostgresConfig

async def main(host, database):
    postgres = Postgres(PostgresConfig(host=host, user="postgres", database=database))
    await VectorIndexes(postgres, AidbConfig(dense_exact_below=50)).build()

asyncio.run(main(*sys.argv[1:]))
"""


async def test_a_process_killed_in_the_middle_loses_nothing(store: Store) -> None:
    await store.add(60)
    said = database_config(store.dsn)
    async with store.writing():
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", _BUILDER, said.host, said.database
        )
        await until(store.stuck)
        process.send_signal(signal.SIGKILL)
        await process.wait()
        # The server notices, gives up and leaves half an index.
        await until(lambda: store.phase() is None)
        assert store.hnsw() == {"vectors_1_hnsw": False}
        found, scanned = await store.nearest(unit_vectors(1, 8)[0], limit=100)
        assert (len(found), scanned) == (60, [])
    with capture_logs() as logs:
        await settled(store.indexes())
    assert [line["event"] for line in logs] == [
        "vector_index_dropped", "vector_index_begins", "vector_index_built",
    ]  # fmt: skip
    assert store.hnsw() == {"vectors_1_hnsw": True}


async def test_a_lost_connection_is_one_line_and_is_tried_again(store: Store) -> None:
    await store.add(60)
    indexes = store.indexes(index_workers=2)
    before = built("failed")
    with capture_logs() as logs:
        async with store.writing():
            await indexes.turn()
            await until(store.stuck)
            store.rows("SELECT pg_terminate_backend(pid) FROM pg_stat_progress_create_index")
            assert indexes._building is not None
            await asyncio.wait({indexes._building})
            await indexes.turn()
            assert indexes._building is None, "not at once: it would fail as fast as it can"
        failed = [line for line in logs if line["event"] == "vector_index_failed"]
        assert [(f["error"], f["again_seconds"]) for f in failed] == [("AdminShutdown", 30)]
        assert "terminating connection" in failed[0]["reason"]
        assert built("failed") == before + 1
        indexes._not_before = 0.0
        await settled(indexes)
    assert store.hnsw() == {"vectors_1_hnsw": True}
    # The next try does without helpers, whose shared memory may have been the reason.
    assert [line["workers"] for line in logs if line["event"] == "vector_index_begins"] == [2, 0]


async def test_a_disk_without_room_leaves_no_half_index(store: Store) -> None:
    # One page each.
    await store.add(2200, dimension=1000)
    indexes = store.indexes()
    with capture_logs() as logs:
        async with store.writing():
            await indexes.turn()
            await until(store.stuck)
            found = store.rows("SELECT pid FROM pg_stat_progress_create_index")
            # No file may grow beyond 16 MiB, the size of one of the write-ahead log: writing fails
            # as on a full disk.
            resource.prlimit(found[0][0], resource.RLIMIT_FSIZE, (2**24, resource.RLIM_INFINITY))
        assert indexes._building is not None
        await asyncio.wait({indexes._building})
    failed = next(line for line in logs if line["event"] == "vector_index_failed")
    assert "File too large" in failed["reason"]
    told: list[str] = []
    indexes.tell = told.append
    await indexes.turn()
    assert told == [f"no vector index, searches are exact: {failed['reason']}"]
    assert store.hnsw() == {}, "dropped: every write would keep it up to date"
    await store.add(1, dimension=1000)
    assert len((await store.nearest(unit_vectors(1, 1000)[0], limit=2201))[0]) == 2201
    pauses = [failed["again_seconds"]]
    indexes._not_before = 0.0
    await settled(indexes)
    assert store.hnsw() == {"vectors_1_hnsw": True}
    assert (pauses, indexes._pause) == ([vector_index.FIRST_PAUSE_SECONDS], 0.0)


async def test_the_pause_doubles_up_to_an_hour(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.add(60)

    async def fails(*_: object) -> None:
        raise psycopg.errors.DiskFull("could not extend file: No space left on device")

    indexes = store.indexes()
    monkeypatch.setattr(indexes, "_build", fails)
    with capture_logs() as logs:
        for _ in range(9):
            indexes._not_before = 0.0
            await settled(indexes)
    pauses = [line["again_seconds"] for line in logs if line["event"] == "vector_index_failed"]
    assert pauses == [30, 60, 120, 240, 480, 960, 1920, 3600, 3600]


async def test_a_service_that_stops_ends_its_build(store: Store) -> None:
    await store.add(60)
    indexes = store.indexes()
    before = built("stopped")
    async with store.writing():
        await indexes.turn()
        await until(store.stuck)
        await asyncio.wait_for(indexes.aclose(), 20)
        await until(lambda: store.phase() is None)
    assert built("stopped") == before + 1
    await settled(store.indexes())
    assert store.hnsw() == {"vectors_1_hnsw": True}


async def test_a_database_that_is_away_does_not_end_the_loop(store: Store) -> None:
    away = Postgres(database_config(store.dsn).model_copy(update={"host": "/nonexistent"}))
    indexes = VectorIndexes(away, store.config())
    with capture_logs() as logs:
        await indexes._work()
    assert indexes._failure == "postgres is not available right now."
    assert [line["error"] for line in logs if line["event"] == "vector_index_failed"] == ["Failed"]


async def test_half_precision_is_built_beside_and_takes_over(store: Store) -> None:
    await store.add(200, dimension=32)
    await settled(store.indexes())
    queries = unit_vectors(5, 32, seed=99)
    exact = [await store.nearest(q, dense_exact_below=10_000) for q in queries]
    half = store.indexes(vector_storage="halfvec")
    async with store.writing():
        await half.turn()
        await until(store.stuck)
        # Meanwhile the other one is used, whatever is configured.
        assert (await store.nearest(queries[0], vector_storage="halfvec"))[1] == ["vectors_1_hnsw"]
    await settled(half)
    assert store.hnsw() == {"vectors_1_hnsw": True, "vectors_1_hnsw_half": True}
    for query, (ranking, _) in zip(queries, exact, strict=True):
        # Scores are those of the full vectors, not of their copies.
        wanted = ["vectors_1_hnsw_half"]
        assert await store.nearest(query, vector_storage="halfvec") == (ranking, wanted)
    await settled(half)
    assert store.hnsw() == {"vectors_1_hnsw_half": True}
    # A process that is still configured for the other kind uses what there is.
    assert (await store.nearest(queries[0]))[1] == ["vectors_1_hnsw_half"]
    back = store.indexes()
    await settled(back)
    await settled(back)
    assert store.hnsw() == {"vectors_1_hnsw": True}


async def test_more_than_2000_dimensions_want_half_precision(store: Store) -> None:
    await store.add(60, dimension=2500)
    with capture_logs() as logs:
        plain = store.indexes()
        await settled(plain)
        await settled(plain)
    warned = [line for line in logs if line["event"] == "vector_index_impossible"]
    assert [line["fix"] for line in warned] == ["aidb.vector_storage = halfvec indexes 4000"]
    assert store.hnsw() == {}
    query = unit_vectors(1, 2500, seed=99)[0]
    exact, _ = await store.nearest(query)
    await settled(store.indexes(vector_storage="halfvec"))
    assert await store.nearest(query, vector_storage="halfvec") == (exact, ["vectors_1_hnsw_half"])


async def test_beyond_4000_dimensions_searches_are_exact(store: Store) -> None:
    await store.add(60, dimension=4001)
    with capture_logs() as logs:
        await settled(store.indexes(vector_storage="halfvec"))
    assert [line.get("fix") for line in logs] == [None]
    assert len((await store.nearest(unit_vectors(1, 4001)[0]))[0]) == 10
