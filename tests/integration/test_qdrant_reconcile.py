"""The index in Qdrant is built, compared, mended, and built again where it was lost."""

from __future__ import annotations

import pytest
from psycopg import sql

from aistack.aidb import embedding_sets, index_state
from aistack.aidb.qdrant_reconcile import DRIFT
from aistack.clients.qdrant import Ids, Point, Where
from fix_qdrant import QdrantServer, QdrantShim
from fix_qdrant_index import OPEN, delete, indexed
from fix_search import LAKES, Bench, sources


async def test_reconcile_heals_both_ways(bench: Bench, qdrant: QdrantServer) -> None:
    await bench.corpus.add(LAKES)
    async with indexed(bench, qdrant) as made:
        await made.settle()
        client, name, chunks = made.parts.client, made.collection, made.chunks()
        await client.delete(name, Where(must=(Ids((chunks[0],)),)))
        await client.upsert(
            name,
            [
                Point(chunks[1], [0.05] * 384, {"collection_id": 1, "mark": "of another time"}),
                Point(888_888, [0.05] * 384, {"collection_id": 1, "mark": "x"}),
            ],
        )
        found = await made.parts.keeper.reconcile()
        assert (found.missing, found.outdated, found.left_over) == (1, 1, 1)
        assert await made.ids() == chunks
        assert made.bench.rows("SELECT drift, points FROM index_state") == [(3, len(chunks))]
        again = await made.parts.keeper.reconcile()
        assert again.drift == 0
        answer = await made.search("a small lake", mode="dense")
        assert (answer.dense_engine, answer.degraded) == ("qdrant", ())


async def test_numbers_that_differ_are_noticed_without_being_asked(
    bench: Bench, qdrant: QdrantServer
) -> None:
    await bench.corpus.add(LAKES)
    async with indexed(bench, qdrant) as made:
        await made.settle()
        await made.parts.client.delete(made.collection, Where(must=(Ids((made.chunks()[0],)),)))
        async with indexed(bench, qdrant) as other:
            await other.settle()
        assert await made.ids() == made.chunks()


async def test_a_wanted_comparison_is_made_by_the_loop(bench: Bench, qdrant: QdrantServer) -> None:
    await bench.corpus.add(LAKES)
    async with indexed(bench, qdrant) as made:
        await made.settle()
        before = made.value("SELECT reconciled_at FROM index_state")
        await made.settle()
        assert made.value("SELECT reconciled_at FROM index_state") == before
        async with bench.corpus.postgres.connection("test.want") as connection:
            assert await index_state.want(connection, "reconcile")
        await made.settle()
        assert made.value("SELECT reconciled_at FROM index_state") > before
        assert made.value("SELECT wanted FROM index_state") is None


async def test_a_lost_collection_is_built_again_and_searches_say_so(
    bench: Bench, qdrant: QdrantServer
) -> None:
    await bench.corpus.add(LAKES)
    async with indexed(bench, qdrant) as made:
        await made.settle()
        await made.parts.client.drop(made.collection)
        lost = await made.search("a small lake", mode="dense")
        assert (lost.dense_engine, lost.degraded) == ("pgvector", ("qdrant",))
        assert sources(lost)[0] == "tarn.md"
        await delete(made, "keys.txt")
        assert await made.parts.sync.drain() == 0
        assert made.value("SELECT state FROM index_state") == "building"
        assert made.value(OPEN) == 1, "nothing is marked that Qdrant was not told of"
        building = await made.search("a Small lake", mode="dense")
        assert (building.dense_engine, building.degraded) == ("pgvector", ("qdrant",))
        await made.settle()
        assert await made.ids() == made.chunks()
        assert made.value(OPEN) == 0
        again = await made.search("a small Lake", mode="dense")
        assert (again.dense_engine, again.degraded) == ("qdrant", ())


async def test_a_build_goes_on_where_it_was_and_tells_how_far_it_is(
    bench: Bench, qdrant: QdrantServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aistack.aidb.qdrant_reconcile.POINTS", 2)
    await bench.corpus.add(LAKES)
    async with indexed(bench, qdrant) as made:
        monkeypatch.setattr("aistack.aidb.qdrant_reconcile.SLICE_SECONDS", 0.0)
        said: list[str] = []
        made.parts.keeper.tell = said.append
        # Reset, begin, and a slice that is over at once: nothing is in yet.
        assert [await made.parts.keeper.turn() for _ in range(3)] == [True, True, True]
        assert made.bench.rows("SELECT state, done, total FROM index_state") == [
            ("building", 0, len(made.chunks()))
        ]
        assert await made.parts.keeper._build_some()
        assert made.bench.rows("SELECT state, done FROM index_state") == [("building", 2)]
        assert await made.ids() == made.chunks()[:2]
        # A change while it is built: of a part that is in, and of one that is not.
        await delete(made, "tarn.md")
        await delete(made, "keys.txt")
        assert await made.parts.sync.drain() == 2
    monkeypatch.setattr("aistack.aidb.qdrant_reconcile.SLICE_SECONDS", 5.0)
    async with indexed(bench, qdrant) as other:
        other.parts.keeper.tell = said.append
        await other.settle()
        assert await other.ids() == other.chunks()
        assert other.value("SELECT state FROM index_state") == "ready"
    assert any(words.startswith("building the index in Qdrant: ") for words in said)
    assert said[-1] == "ready"


async def test_another_model_is_indexed_when_it_takes_over(
    bench: Bench, qdrant: QdrantServer
) -> None:
    await bench.corpus.add(LAKES)
    async with indexed(bench, qdrant) as made:
        await made.settle()
        old = made.collection
        # The same vectors under another identity: the searcher's own stays comparable afterwards.
        made.change(
            "UPDATE embedding_sets SET state = 'retired', retired_at = now(), revision = 'old'"
        )
        identity = bench.encoder.encoder.identity
        async with bench.corpus.postgres.connection("test.register") as connection:
            table = await embedding_sets.register(connection, identity)
            assert table.active is False
            await connection.execute(
                sql.SQL("INSERT INTO {} SELECT * FROM vectors_1").format(table.table)
            )
            assert await embedding_sets.activate_if_complete(connection, table)
        switched = await made.search("a small lake", mode="dense")
        assert (switched.dense_engine, switched.degraded) == ("pgvector", ("qdrant",))
        await made.settle()
        found = await made.search("a small Lake", mode="dense")
        assert (found.dense_engine, found.degraded) == ("qdrant", ())
        assert await made.parts.client.names() == [f"aistack_set_{table.id}"] != [old]
        assert made.bench.rows("SELECT set_id, state FROM index_state") == [(table.id, "ready")]


async def test_drift_that_another_process_has_mended_is_not_shown_for_ever(
    bench: Bench, qdrant: QdrantServer
) -> None:
    await bench.corpus.add(LAKES)
    async with indexed(bench, qdrant) as made:
        await made.settle()
        await made.parts.client.delete(made.collection, Where(must=(Ids((made.chunks()[0],)),)))
        await made.parts.keeper.reconcile()
        await made.parts.keeper.turn()
        assert DRIFT.labels("missing")._value.get() == 1
        made.change("UPDATE index_state SET drift = 0")
        await made.parts.keeper.turn()
        assert DRIFT.labels("missing")._value.get() == 0


async def test_a_rebuild_by_another_process_makes_the_indexes_for_ranges_again(
    bench: Bench, qdrant_shim: QdrantShim
) -> None:
    await bench.corpus.add(LAKES)
    async with indexed(bench, qdrant_shim) as made, indexed(bench, qdrant_shim) as other:
        await made.settle()
        name = made.collection
        async with bench.corpus.postgres.connection("test.want") as connection:
            assert await index_state.want(connection, "rebuild")
        # The other throws away and begins; this one, which had made its indexes, builds.
        assert [await other.parts.keeper.turn() for _ in range(2)] == [True, True]
        await made.settle()
        client = qdrant_shim.client()
        try:
            schema = (await client.get_collection(name)).payload_schema
        finally:
            await client.close()
        assert {"collection_id", "document_id", "terms", "metadata.year"} <= set(schema)
