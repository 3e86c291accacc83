"""Qdrant follows PostgreSQL: through the outbox, and after a kill."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from aistack.aidb import index_state, store
from aistack.aidb.jobs import Queue
from aistack.aidb.search_cache import SearchCache
from aistack.aidb.upkeep import Upkeep
from aistack.aidb.vector_index import VectorIndexes
from aistack.clients.qdrant import AnyOf, Where
from aistack.config import AidbConfig
from fix_qdrant import QdrantServer, QdrantShim
from fix_qdrant_index import OPEN, delete, indexed
from fix_search import LAKES, Bench, sources

JOBS = "SELECT count(*) FROM procrastinate_jobs WHERE task_name = 'aidb.index' AND status = 'todo'"


async def test_an_index_is_built_of_what_is_there_and_answers(
    bench: Bench, qdrant: QdrantServer
) -> None:
    await bench.corpus.add(LAKES)
    async with indexed(bench, qdrant) as made:
        before = await made.search("a small lake", mode="dense")
        assert (before.dense_engine, before.degraded) == ("pgvector", ("qdrant",))
        await made.settle()
        assert await made.ids() == made.chunks()
        state = made.bench.rows("SELECT state, done, total, points, error FROM index_state")
        assert state == [
            ("ready", len(made.chunks()), len(made.chunks()), len(made.chunks()), None)
        ]
        after = await made.search("a small lake", mode="dense")
        assert (after.dense_engine, after.degraded) == ("qdrant", ())
        assert [(hit.chunk_id, hit.score) for hit in after.hits] == [
            (hit.chunk_id, hit.score) for hit in before.hits
        ]


async def test_a_change_defers_a_job_with_it_and_the_job_tells_qdrant(
    bench: Bench, qdrant: QdrantServer
) -> None:
    await bench.corpus.add(LAKES[:1])
    async with indexed(bench, qdrant) as made:
        await made.settle()
        assert made.value(JOBS) == 0, "what the build has met needs no job"
        await bench.corpus.add(LAKES[1:])
        assert (made.value(JOBS), made.value(OPEN)) == (len(LAKES) - 1, len(LAKES) - 1)
        document = made.value("SELECT id FROM documents LIMIT 1")
        async with bench.corpus.postgres.connection("test.undone") as connection:
            await store.delete_document(connection, document)
            await connection.rollback()
        assert made.value(JOBS) == len(LAKES) - 1, "a change that was undone has no job"
        queue = Queue(bench.corpus.postgres)
        await queue.open()
        made.parts.sync.register(queue)
        await queue.app.run_worker_async(queues=["aidb"], wait=False, delete_jobs="successful")
        assert (made.value(JOBS), made.value(OPEN)) == (0, 0)
        assert await made.ids() == made.chunks()


async def test_deleted_documents_and_collections_leave_no_point(
    bench: Bench, qdrant: QdrantServer
) -> None:
    await bench.corpus.add(LAKES)
    await bench.corpus.add(LAKES, collection="other")
    async with indexed(bench, qdrant) as made:
        await made.settle()
        await delete(made, "keys.txt")
        async with bench.corpus.postgres.connection("test.delete") as connection:
            assert (await store.delete_collection(connection, "other")).gone
        assert await made.parts.sync.drain() == 2
        assert await made.ids() == made.chunks()
        found = await made.search("access keys", mode="dense")
        assert found.dense_engine == "qdrant"
        assert "keys.txt" not in sources(found)


async def test_new_metadata_reaches_what_filters_ask_for(
    bench: Bench, qdrant: QdrantServer
) -> None:
    (document,) = await bench.corpus.add(LAKES[:1])
    async with indexed(bench, qdrant) as made:
        await made.settle()
        async with bench.corpus.postgres.connection("test.describe") as connection:
            await connection.execute(
                "UPDATE documents SET metadata = metadata || '{\"year\": 1999}'"
            )
            collection = made.value("SELECT id FROM collections")
            await store.record_change(connection, "document_indexed", collection, document, 1)
        await made.parts.sync.drain()
        for filters, hits in (({"year": {"lt": 2000}}, 1), ({"year": {"eq": 2020}}, 0)):
            found = await made.search("lake", mode="dense", filters=filters)
            assert (found.dense_engine, len(found.hits)) == ("qdrant", hits)


async def test_a_line_that_waits_is_given_another_job(bench: Bench, qdrant: QdrantServer) -> None:
    await bench.corpus.add(LAKES)
    async with indexed(bench, qdrant) as made:
        await made.settle()
        await delete(made, "keys.txt")
        made.change("DELETE FROM procrastinate_jobs")
        await made.parts.keeper.turn()
        assert made.value(JOBS) == 0, "it may still be on its way"
        made.change("UPDATE outbox SET created_at = now() - interval '10 s' WHERE done_at IS NULL")
        await made.parts.keeper.turn()
        await made.parts.keeper.turn()
        assert made.value(JOBS) == 1


#: A process of its own that is killed after Qdrant has the change and before the line is marked.
KILLED = """
    import asyncio, os, signal, sys
    from aistack.aidb.qdrant_parts import qdrant_parts
    from aistack.aidb import qdrant_sync
    from aistack.clients.postgres import Postgres
    from aistack.config import Config, PostgresConfig
    from aistack.config_vectors import QdrantConfig, VectorsConfig

    async def main():
        host, name, url = sys.argv[1:]
        postgres = Postgres(PostgresConfig(host=host, user="postgres", database=name))
        await postgres.open()
        vectors = VectorsConfig(engine="qdrant", qdrant=QdrantConfig(url=url, timeout_seconds=10))
        parts = qdrant_parts(Config(vectors=vectors), postgres)
        apply = parts.sync._apply

        async def killed(*arguments):
            await apply(*arguments)
            os.kill(os.getpid(), signal.SIGKILL)

        parts.sync._apply = killed
        await parts.sync.drain()

    asyncio.run(main())
"""


@pytest.mark.parametrize("what", ["aidb", "qdrant"])
async def test_a_kill_between_the_upsert_and_the_mark_loses_nothing(
    bench: Bench, qdrant_shim: QdrantShim, what: str, tmp_path: Path
) -> None:
    await bench.corpus.add(LAKES[:3])
    async with indexed(bench, qdrant_shim) as made:
        await made.settle()
        await bench.corpus.add(LAKES[3:])
        await delete(made, "fell.txt")
        assert made.value(OPEN) == 2
        if what == "aidb":
            config = bench.corpus.postgres.conninfo
            host = next(part for part in config.split() if part.startswith("host=")).split("=")[1]
            name = next(part for part in config.split() if part.startswith("dbname=")).split("=")[1]
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-c", textwrap.dedent(KILLED)),
                *(host.strip("'"), name.strip("'"), qdrant_shim.url),
                env={**os.environ},
            )
            assert await process.wait() == -signal.SIGKILL
        else:
            upsert = made.parts.client.delete

            async def killed(name: str, where: Where) -> None:
                # It has the new points, and dies before it is told which old ones go.
                await asyncio.to_thread(qdrant_shim.kill)
                await upsert(name, where)

            made.parts.client.delete = killed  # type: ignore[method-assign]
            await made.parts.sync.wake()
            made.parts.client.delete = upsert  # type: ignore[method-assign]
            await asyncio.to_thread(qdrant_shim.start)
        assert made.value(OPEN) == 2, "what was not marked is still to do"
        late = await made.search("rotated access keys", mode="dense")
        assert sources(late)[0] == "keys.txt"
        assert "fell.txt" not in sources(late)
        async with asyncio.timeout(20):
            while made.value(OPEN):
                await made.parts.sync.wake()
        assert await made.ids() == made.chunks()
        assert (await made.parts.keeper.reconcile()).drift == 0


async def test_the_configuration_reaches_the_collection(
    bench: Bench, qdrant_shim: QdrantShim
) -> None:
    await bench.corpus.add(LAKES[:1])
    given: dict[str, Any] = {"quantization": "int8", "shards": 3, "replication_factor": 2}
    async with indexed(bench, qdrant_shim, write_consistency_factor=2, **given) as made:
        await made.settle()
        body = qdrant_shim.made_by(made.collection)
        assert (body["shard_number"], body["replication_factor"]) == (3, 2)
        assert body["write_consistency_factor"] == 2
        assert body["quantization_config"]["scalar"]["type"] == "int8"
        assert body["vectors"] == {"text": {"size": 384, "distance": "Dot"}}


async def test_another_engine_chosen_forgets_the_index(bench: Bench, qdrant: QdrantServer) -> None:
    await bench.corpus.add(LAKES[:1])
    async with indexed(bench, qdrant) as made:
        await made.settle()
        async with bench.corpus.postgres.connection("test.forget") as connection:
            await index_state.forget(connection)
        await bench.corpus.add(LAKES[1:])
        assert made.value(JOBS) == 0
        # Chosen again: it is built anew, with what came meanwhile.
        await made.settle()
        assert await made.ids() == made.chunks()
        gone = Where(must=(AnyOf("source", ("nobody.txt",)),))
        await made.parts.client.delete(made.collection, gone)


async def test_open_changes_are_kept_for_as_long_as_there_is_an_index(
    bench: Bench, qdrant: QdrantServer
) -> None:
    await bench.corpus.add(LAKES[:1])
    postgres = bench.corpus.postgres
    upkeep = Upkeep(
        postgres,
        Queue(postgres),
        VectorIndexes(postgres, AidbConfig()),
        SearchCache(postgres, AidbConfig()),
        retired_days=7,
    )
    async with indexed(bench, qdrant) as made:
        await made.settle()
        await bench.corpus.add(LAKES[1:2])
        made.change("UPDATE outbox SET created_at = now() - interval '30 days'")
        await upkeep._prune()
        assert bench.rows("SELECT done_at FROM outbox") == [(None,)]
        assert await made.parts.sync.drain() == 1
        await upkeep._prune()
        assert bench.rows("SELECT done_at FROM outbox") == []
        made.change("DELETE FROM index_state")
        await bench.corpus.add(LAKES[2:3])
        made.change("UPDATE outbox SET created_at = now() - interval '30 days'")
        await upkeep._prune()
        assert made.value(OPEN) == 0
