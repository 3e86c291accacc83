"""The keeper beside others: another writer, another process, another model, a restore."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from aistack.aidb import index_state
from aistack.aidb.index_state import Target
from aistack.aidb.search_cache import SearchCache
from aistack.clients.postgres import Connection
from aistack.clients.qdrant import Ids, Where
from aistack.service.errors import Unavailable
from fix_qdrant import QdrantServer
from fix_qdrant_index import OPEN, Indexed, indexed
from fix_search import LAKES, Bench

KEPT = "SELECT count(*) FROM search_results"


async def seen(made: Indexed) -> Target:
    async with made.bench.corpus.postgres.connection("test.target") as connection:
        target = await index_state.target(connection)
    assert target is not None
    return target


async def test_while_another_writes_the_keeper_comes_back_later(
    bench: Bench, qdrant: QdrantServer
) -> None:
    await bench.corpus.add(LAKES[:1])
    async with indexed(bench, qdrant) as made:
        async with bench.corpus.postgres.connection("test.lock") as connection:
            await index_state.lock(connection)
            assert not await made.parts.keeper.turn()
        assert made.bench.rows("SELECT error FROM index_state") == []
        await made.settle()
        made.change("UPDATE index_state SET wanted = 'reconcile'")
        async with bench.corpus.postgres.connection("test.lock") as connection:
            await index_state.lock(connection)
            assert not await made.parts.keeper.turn()
            assert made.value("SELECT wanted FROM index_state") == "reconcile"
        await made.settle()
        assert made.bench.rows("SELECT wanted, error FROM index_state") == [(None, None)]


async def test_a_batch_ends_with_the_line_that_fills_it(
    bench: Bench, qdrant: QdrantServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bench.corpus.add(LAKES[:1])
    async with indexed(bench, qdrant) as made:
        await made.settle()
        await bench.corpus.add(LAKES[1:])
        waiting = made.value(OPEN)
        first = made.value(
            "SELECT d.chunk_count FROM outbox o JOIN documents d ON d.id = o.document_id"
            " WHERE o.done_at IS NULL ORDER BY o.id LIMIT 1"
        )
        monkeypatch.setattr("aistack.aidb.qdrant_sync.CHUNKS", first)
        assert await made.parts.sync.batch() == 1
        assert made.value(OPEN) == waiting - 1
        assert await made.parts.sync.drain() == waiting - 1
        assert await made.ids() == made.chunks()


async def test_what_a_wrong_index_has_found_is_not_kept(bench: Bench, qdrant: QdrantServer) -> None:
    await bench.corpus.add(LAKES)
    async with indexed(bench, qdrant) as made:
        await made.settle()
        await made.search("a small lake", mode="dense")
        await made.parts.keeper.reconcile()
        assert made.value(KEPT) == 1, "nothing was wrong"
        await made.parts.client.delete(made.collection, Where(must=(Ids((made.chunks()[0],)),)))
        await made.parts.keeper.reconcile()
        assert made.value(KEPT) == 0


async def test_what_is_under_way_while_a_wrong_index_is_mended_is_not_kept(
    bench: Bench, qdrant: QdrantServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bench.corpus.add(LAKES)
    async with indexed(bench, qdrant) as made:
        await made.settle()
        put = SearchCache.put

        async def late(self: SearchCache, *values: Any) -> None:
            await made.parts.client.delete(made.collection, Where(must=(Ids((made.chunks()[0],)),)))
            await made.parts.keeper.reconcile()
            await put(self, *values)

        monkeypatch.setattr(SearchCache, "put", late)
        await made.search("a small lake", mode="dense")
        assert made.value(KEPT) == 0
        monkeypatch.undo()
        assert not (await made.search("a small lake", mode="dense")).cached


async def test_a_mend_that_failed_at_its_end_is_made_up_for(
    bench: Bench, qdrant: QdrantServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bench.corpus.add(LAKES)
    async with indexed(bench, qdrant) as made:
        await made.settle()
        await made.search("a small lake", mode="dense")
        await made.parts.client.delete(made.collection, Where(must=(Ids((made.chunks()[0],)),)))

        async def fails(_connection: Connection) -> None:
            raise psycopg.OperationalError("gone")

        monkeypatch.setattr("aistack.aidb.search_cache.outdate", fails)
        comparison = made.parts.keeper._new_pass(await seen(made))
        with pytest.raises(Unavailable):
            await made.parts.keeper._range(comparison)
        assert await made.ids() == made.chunks(), "the index is mended, and what was kept is there"
        assert made.value(KEPT) == 1
        monkeypatch.undo()
        assert await made.parts.keeper._range(comparison)
        assert made.value(KEPT) == 0


async def test_a_collection_that_is_lost_is_thrown_away_once(
    bench: Bench, qdrant: QdrantServer
) -> None:
    await bench.corpus.add(LAKES[:1])
    async with indexed(bench, qdrant) as made:
        await made.settle()
        before = await seen(made)
        await made.parts.sync.lost(before)
        assert made.value("SELECT state FROM index_state") == "building"
        await made.settle()
        await made.parts.sync.lost(before)
        assert made.value("SELECT state FROM index_state") == "ready"


async def test_a_comparison_of_what_was_built_anew_meanwhile_ends(
    bench: Bench, qdrant: QdrantServer
) -> None:
    await bench.corpus.add(LAKES[:1])
    async with indexed(bench, qdrant) as made:
        await made.settle()
        keeper = made.parts.keeper
        made_of = keeper._new_pass(await seen(made))
        assert await keeper._range(made_of)
        made.change("UPDATE index_state SET started_at = now() + interval '1 s'")
        assert not await keeper._range(made_of)


async def test_an_index_that_was_built_with_other_numbers_is_compared(
    bench: Bench, qdrant: QdrantServer
) -> None:
    await bench.corpus.add(LAKES)
    async with indexed(bench, qdrant) as made:
        assert [await made.parts.keeper.turn() for _ in range(2)] == [True, True]
        await made.parts.keeper._build_some()
        await made.parts.client.delete(made.collection, Where(must=(Ids((made.chunks()[0],)),)))
        assert not await made.parts.keeper._build_some()
        assert made.bench.rows("SELECT state, wanted, drift FROM index_state") == [
            ("ready", "reconcile", None)
        ]
        await made.settle()
        assert await made.ids() == made.chunks()


async def test_numbers_say_nothing_while_another_model_is_filled(
    bench: Bench, qdrant: QdrantServer
) -> None:
    await bench.corpus.add(LAKES)
    async with indexed(bench, qdrant) as made:
        await made.settle()
        await made.parts.client.delete(made.collection, Where(must=(Ids((made.chunks()[0],)),)))
        made.change(
            "INSERT INTO embedding_sets (model, revision, engine, precision, dimension, normalized)"
            " VALUES ('other', '1', 'onnx', 'fp32', 384, true)"
        )
        made.parts.keeper._count_after = 0.0
        assert not await made.parts.keeper._due(await seen(made))
        made.change("DELETE FROM embedding_sets WHERE state = 'filling'")
        made.parts.keeper._count_after = 0.0
        assert await made.parts.keeper._due(await seen(made))


async def test_a_long_transaction_may_pause_as_long_as_it_may_take(bench: Bench) -> None:
    asked = "SELECT current_setting('idle_in_transaction_session_timeout')"
    for timeout, setting in ((600.0, "10min"), (45.0, "1min"), (None, "1min")):
        async with bench.corpus.postgres.connection("test.idle", timeout=timeout) as connection:
            row = await (await connection.execute(asked)).fetchone()
            assert row == (setting,)


async def test_two_installations_with_their_own_prefixes_leave_each_other_alone(
    bench: Bench, qdrant: QdrantServer
) -> None:
    await bench.corpus.add(LAKES[:1])
    others = ["aistack_two_set_9", "aistack_set_1_set_2", "aistack_notes"]
    async with indexed(bench, qdrant) as made, indexed(bench, qdrant, prefix="aistack_two") as two:
        for name in (*others, "aistack_set_9"):
            await made.parts.client.create(name, 384)
        await made.settle()
        assert sorted(await made.parts.client.names()) == sorted([made.collection, *others])
        # The same database here, so the other one's index is lost at its first look.
        await two.settle()
        await two.settle()
        assert two.collection == "aistack_two_set_1"
        assert await two.ids() == two.chunks() == await made.ids()
        found = await two.search("a small lake", mode="dense")
        assert found.dense_engine == "qdrant"
        names = [two.collection, made.collection, *others[1:]]
        assert sorted(await made.parts.client.names()) == sorted(names)
