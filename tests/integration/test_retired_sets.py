"""Sets of a model that was replaced: how far the new one is, and the end of the old one's table."""

from __future__ import annotations

import asyncio

from structlog.testing import capture_logs

from aistack.aidb import embedding_sets
from aistack.aidb.embedding_sets import FILLED, VectorTable
from aistack.aidb.swap import copy_vectors
from aistack.models import EmbeddingSet
from fix_vectors import Store, unit_vectors

AFTER = EmbeddingSet("model", "2", "onnx", "fp32", 4, True)
TABLES = "SELECT table_name FROM embedding_sets WHERE to_regclass(table_name) IS NOT NULL"


async def begin(store: Store) -> VectorTable:
    """The set of another model beside that of `store`."""
    async with store.postgres.connection("test.register") as connection:
        table = await embedding_sets.register(connection, AFTER)
    assert not table.active
    return table


async def fill(store: Store, table: VectorTable, count: int) -> None:
    async with store.postgres.connection("test.fill") as connection:
        missing = await embedding_sets.chunks_without_vectors(connection, table, count)
        owners = [(chunk, collection) for chunk, collection, _ in missing]
        await copy_vectors(connection, table, owners, unit_vectors(len(owners), 4))


async def replace_model(store: Store, *, days_ago: float) -> None:
    """All of 20 chunks in another set, since `days_ago`."""
    await store.add(20)
    table = await begin(store)
    await fill(store, table, 20)
    async with store.postgres.connection("test.activate") as connection:
        assert await embedding_sets.activate_if_complete(connection, table)
        await connection.execute(
            "UPDATE embedding_sets SET retired_at = retired_at - make_interval(secs => %s)"
            " WHERE state = 'retired'",
            [days_ago * 86400],
        )


async def drop(store: Store, days: int = 7) -> list[str]:
    async with store.postgres.connection("test.drop") as connection:
        return await embedding_sets.drop_retired(connection, days)


async def test_a_retired_table_is_dropped_after_its_days(store: Store) -> None:
    await replace_model(store, days_ago=6.9)
    assert await drop(store) == []
    assert len(store.rows(TABLES)) == 2
    with capture_logs() as logs:
        assert await drop(store, days=6) == ["vectors_1"]
    (line,) = [line for line in logs if line["event"] == "retired_vectors_dropped"]
    assert (line["table"], line["model"]) == ("vectors_1", "model")
    assert store.rows(TABLES) == [("vectors_2",)]
    assert store.rows("SELECT to_regclass('vectors_1')") == [(None,)]
    assert len((await store.nearest(unit_vectors(1, 4)[0]))[0]) == 10
    # Never the active one, whatever its age.
    assert await drop(store, days=0) == []


async def test_a_model_that_comes_back_keeps_its_table_and_after_the_drop_begins_anew(
    store: Store,
) -> None:
    await replace_model(store, days_ago=8)
    before = EmbeddingSet("model", "1", "onnx", "fp32", 8, True)
    async with store.postgres.connection("test.back") as connection:
        table = await embedding_sets.register(connection, before)
        assert (table.id, table.active) == (1, True), "it lacks nothing"
    assert await drop(store) == []
    assert store.rows("SELECT id, retired_at IS NULL FROM embedding_sets ORDER BY id") == [
        (1, True),
        (2, False),
    ]
    assert await drop(store, days=0) == ["vectors_2"]
    table = await begin(store)
    assert table.id > 2
    async with store.postgres.connection("test.missing") as connection:
        missing = await embedding_sets.chunks_without_vectors(connection, table, 100)
    assert len(missing) == 20


async def test_a_table_in_use_is_left_for_the_next_time(store: Store) -> None:
    await replace_model(store, days_ago=8)
    async with store.writing("vectors_1"):
        # Others wait behind the drop for a second at most, and it does not fail.
        with capture_logs() as logs:
            assert await asyncio.wait_for(drop(store), 10) == []
        assert [line["event"] for line in logs] == ["retired_vectors_in_use"]
        assert store.rows("SELECT count(*) FROM vectors_1") == [(20,)]
    assert await drop(store) == ["vectors_1"]


async def test_the_progress_of_filling_is_shown(store: Store) -> None:
    def shown() -> dict[str, float]:
        return {s.labels["set"]: s.value for family in FILLED.collect() for s in family.samples}

    await store.add(20)
    indexes = store.indexes()
    told: list[str] = []
    indexes.tell = told.append
    await indexes.turn()
    assert shown() == {}
    table = await begin(store)
    await indexes.turn()
    assert shown() == {"2": 0.0}
    await fill(store, table, 5)
    await indexes.turn()
    assert (shown(), told[-1]) == ({"2": 0.25}, "embedding for another model: 25%")
    await fill(store, table, 15)
    async with store.postgres.connection("test.activate") as connection:
        assert await embedding_sets.activate_if_complete(connection, table)
    await indexes.turn()
    assert (shown(), told[-1]) == ({}, "ready")
