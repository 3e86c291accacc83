"""Documents that are ready together share a transaction; each is still swapped for itself."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import psycopg
import pytest

from aistack.aidb import store
from aistack.aidb.swaps import CHUNKS_TOGETHER
from fix_aidb import check_statistics
from fix_ingest import IngestBench as Bench

TRANSACTIONS = "SELECT count(*) FROM chunks GROUP BY xmin::text ORDER BY 1"


async def swapping(bench: Bench, count: int, *, lock: psycopg.Connection) -> asyncio.Task[None]:
    """`count` jobs, the first of them in its transaction and the others at the end of theirs.

    `lock` holds the collection, so that nobody comes further until it is rolled back.
    """
    documents = [await bench.upload(f"Lake {n}.", f"s{n}") for n in range(count)]
    lock.execute("SELECT 1 FROM collections FOR UPDATE")

    async def run_all() -> None:
        await asyncio.gather(*(bench.ingestion.run(one.id, 1) for one in documents))

    running = asyncio.create_task(run_all())
    blocked = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    await bench.until(lambda: bool(bench.rows(blocked)) and bench.encoder.texts == count)
    return running


async def test_what_is_ready_meanwhile_shares_one_transaction(ingest_bench: Bench) -> None:
    bench = ingest_bench
    with psycopg.connect(bench.dsn) as lock:
        running = await swapping(bench, 6, lock=lock)
    await running
    # The first was alone or with a few; the rest went together.
    assert len(bench.rows(TRANSACTIONS)) == 2
    # Each is a change that a search can see.
    assert bench.rows("SELECT epoch, chunk_count FROM collections") == [(2, 6)]
    kinds = "SELECT count(*), count(DISTINCT document_id) FROM outbox"
    assert bench.rows(kinds) == [(6, 6)]
    states = "SELECT state, ready_version, chunk_count, progress FROM documents"
    assert bench.rows(states) == [("ready", 1, 1, 1.0)] * 6
    check_statistics(bench.rows)


async def test_one_that_is_not_wanted_any_more_leaves_nothing_and_holds_up_nobody(
    ingest_bench: Bench,
) -> None:
    bench = ingest_bench
    with psycopg.connect(bench.dsn) as lock:
        running = await swapping(bench, 6, lock=lock)
        # Before the transaction that they wait for: one has newer bytes, one is gone.
        lock.execute("UPDATE documents SET version = 2, state = 'pending' WHERE source = 's4'")
        lock.execute("DELETE FROM documents WHERE source = 's5'")
        lock.commit()
    await running
    left = "SELECT d.source FROM chunks c JOIN documents d ON d.id = c.document_id ORDER BY 1"
    assert bench.rows(left) == [("s0",), ("s1",), ("s2",), ("s3",)]
    assert bench.rows("SELECT count(*) FROM vectors_1") == [(4,)]
    assert bench.rows("SELECT ready_version FROM documents WHERE source = 's4'") == [(None,)]
    check_statistics(bench.rows)


async def test_one_that_cannot_be_written_fails_alone(
    ingest_bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = ingest_bench
    put = bench.ingestion._swaps.put

    async def spoilt(collection: int, table: object, swap: object) -> bool:
        if "3" in swap.text:  # type: ignore[attr-defined]
            swap = replace(swap, text="NUL \0")  # type: ignore[type-var]
        return await put(collection, table, swap)  # type: ignore[arg-type]

    monkeypatch.setattr(bench.ingestion._swaps, "put", spoilt)
    with psycopg.connect(bench.dsn) as lock:
        running = await swapping(bench, 6, lock=lock)
    with pytest.raises(psycopg.DataError):
        await running
    ready = "SELECT count(*) FROM documents WHERE state = 'ready'"
    await bench.until(lambda: bench.rows(ready) == [(5,)])
    assert bench.rows("SELECT count(*), (SELECT count(*) FROM vectors_1) FROM chunks") == [(5, 5)]
    check_statistics(bench.rows)


async def test_a_document_of_many_chunks_shares_with_nobody(ingest_bench: Bench) -> None:
    bench = ingest_bench
    text = "\n\n".join(f"Paragraph {n} on lake{n} and hill{n}. " * 6 for n in range(200))
    large = await bench.upload(text, "large")
    small = [await bench.upload(f"Lake {n}.", f"s{n}") for n in range(2)]
    await asyncio.gather(*(bench.ingestion.run(one.id, 1) for one in (large, *small)))
    count = (await bench.document(large.id)).chunk_count
    assert count > CHUNKS_TOGETHER
    assert (count,) in bench.rows(TRANSACTIONS)
    async with bench.postgres.connection("test") as connection:
        await store.delete_document(connection, large.id)
    assert bench.rows("SELECT count(*) FROM vectors_1") == [(2,)]
    check_statistics(bench.rows)


async def test_a_replacement_removes_what_is_kept_of_searches_and_a_new_document_does_not(
    ingest_bench: Bench,
) -> None:
    bench = ingest_bench
    document = await bench.upload("The first edition.")
    await bench.ingestion.run(document.id, 1)
    bench.rows(
        "INSERT INTO search_results (key, collection_id, epoch, wire)"
        " SELECT 'k', id, epoch, 'The first edition.' FROM collections"
    )
    kept = "SELECT count(*) FROM search_results"
    other = await bench.upload("Another one.", "other")
    await bench.ingestion.run(other.id, 1)
    assert bench.rows(kept) == [(1,)]
    await bench.upload("The second edition.")
    await bench.ingestion.run(document.id, 2)
    assert bench.rows(kept) == [(0,)]
