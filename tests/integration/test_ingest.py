"""Ingestion against a real PostgreSQL, with an encoder whose behaviour the test decides."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from dataclasses import replace

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from aistack.aidb import jobs, schemas, store
from aistack.aidb.chunking import Chunk, Chunker
from aistack.aidb.documents import Document
from aistack.aidb.ingest import Ingestion, Progress
from aistack.aidb.jobs import INTERRUPTIONS
from aistack.aidb.parsers import PARSES_AT_ONCE
from aistack.aidb.parsing import ParsedDocument
from aistack.aidb.vectors import EMBED_TEXTS, EMBEDS_IN_FLIGHT, Vectors
from aistack.clients.postgres import Postgres
from aistack.config import PostgresConfig
from aistack.models import ModelFiles
from aistack.service.errors import StartError, Unavailable
from fix_aidb import check_statistics
from fix_ingest import IDENTITY
from fix_ingest import IngestBench as Bench


@pytest.fixture
def bench(ingest_bench: Bench) -> Bench:
    return ingest_bench


async def test_a_job_run_twice_changes_nothing_the_second_time(bench: Bench) -> None:
    document = await bench.upload("A lake.")
    await bench.ingestion.run(document.id, 1)
    before = bench.rows("SELECT id FROM chunks")
    await bench.ingestion.run(document.id, 1)
    assert bench.rows("SELECT id FROM chunks") == before
    assert bench.encoder.texts == 1
    assert bench.rows("SELECT epoch FROM collections") == [(1,)]


async def test_the_largest_document_takes_longer_than_a_statement_may(
    bench: Bench, model_files: ModelFiles
) -> None:
    # The configured limit is cut instead of the document being made enormous.
    postgres = Postgres(
        PostgresConfig(
            host=str(conninfo_to_dict(bench.dsn)["host"]),
            user="postgres",
            database=str(conninfo_to_dict(bench.dsn)["dbname"]),
            timeout_seconds=0.5,
        )
    )
    await postgres.open()
    vectors = Vectors(postgres, bench.encoder, dimension=8)
    ingestion = Ingestion(
        postgres, vectors, Chunker(model_files.tokenizer, 64, 8).chunk, most_chunks=20_000
    )
    text = "\n\n".join(f"Paragraph {n} on lake{n % 700} and hill{n}. " * 4 for n in range(4000))
    document = await bench.upload(text)
    await ingestion.run(document.id, 1)
    await ingestion.aclose()
    await postgres.aclose()
    ready = await bench.document(document.id)
    assert (ready.state, ready.chunk_count > 2000) == ("ready", True)
    check_statistics(bench.rows)


async def test_two_jobs_of_one_version_at_once_write_it_once(bench: Bench) -> None:
    document = await bench.upload("A lake.")
    bench.encoder.gate.clear()
    both = [asyncio.create_task(bench.ingestion.run(document.id, 1)) for _ in range(2)]
    await asyncio.sleep(0)
    bench.encoder.gate.set()
    await asyncio.gather(*both)
    assert bench.rows("SELECT count(*) FROM chunks") == [(1,)]
    assert bench.rows("SELECT epoch FROM collections") == [(1,)]
    check_statistics(bench.rows)


async def test_an_older_version_never_overwrites_a_newer_one(bench: Bench) -> None:
    document = await bench.upload("The first edition.")
    bench.encoder.gate.clear()
    first = asyncio.create_task(bench.ingestion.run(document.id, 1))
    await bench.until(lambda: bool(bench.rows("SELECT 1 FROM documents WHERE state='processing'")))
    await bench.upload("The second edition.")
    bench.encoder.gate.set()
    await first
    assert bench.rows("SELECT count(*) FROM chunks") == [(0,)]
    await bench.ingestion.run(document.id, 2)
    assert bench.rows("SELECT text FROM chunks") == [("The second edition.",)]


async def test_many_documents_at_once_keep_the_statistics_right(bench: Bench) -> None:
    documents = [
        await bench.upload(f"Lake {n % 5}, hill {n % 3} and word{n}.", f"s{n}") for n in range(20)
    ]
    await asyncio.gather(*(bench.ingestion.run(document.id, 1) for document in documents))

    async def delete(document: Document) -> None:
        async with bench.postgres.connection("test") as connection:
            await store.delete_document(connection, document.id)

    changed = [await bench.upload(f"Another text {n}.", f"s{n}") for n in range(6)]
    await asyncio.gather(
        *(bench.ingestion.run(document.id, 2) for document in changed),
        *(delete(document) for document in documents[10:]),
    )
    assert bench.rows("SELECT count(*) FROM chunks") == [(10,)]
    check_statistics(bench.rows)


async def test_a_dependency_that_is_away_leaves_no_vector_and_a_sentence(bench: Bench) -> None:
    document = await bench.upload("A lake.")
    bench.encoder.failure = Unavailable("embeddings is not available right now.")
    with pytest.raises(Unavailable):
        await bench.ingestion.run(document.id, 1)
    waiting = await bench.document(document.id)
    assert waiting.state == "pending"
    assert waiting.error == "embeddings is not available right now. It will be tried again."
    assert bench.rows("SELECT count(*) FROM chunks") == [(0,)]
    assert bench.rows("SELECT count(*) FROM vectors_1") == [(0,)]


async def test_the_queue_tries_again_until_the_dependency_is_back(bench: Bench) -> None:
    bench.encoder.failure = Unavailable("embeddings is not available right now.")
    bench.work()
    document = await bench.upload("A lake.")
    await bench.until(
        lambda: bool(bench.rows("SELECT 1 FROM procrastinate_jobs WHERE attempts >= 2"))
    )
    bench.encoder.failure = None
    assert (await bench.finished(document.id)).state == "ready"
    await bench.until(lambda: bench.rows("SELECT 1 FROM procrastinate_jobs") == [])


async def test_a_fault_of_ours_ends_in_failed_and_says_where_to_look(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_parsed: ParsedDocument) -> Sequence[Chunk]:
        raise RuntimeError("secret words")

    monkeypatch.setattr(bench.ingestion, "_cut", broken)
    monkeypatch.setattr(jobs, "LONGEST_WAIT", 0.01)
    bench.work()
    document = await bench.upload("A lake.")
    await bench.until(
        lambda: bool(bench.rows("SELECT 1 FROM procrastinate_jobs WHERE status = 'failed'"))
    )
    assert await bench.sweep() == (0, 0, 1)
    failed = await bench.document(document.id)
    assert failed.state == "failed"
    assert failed.error is not None
    assert "secret" not in failed.error
    assert "job" in failed.error
    assert bench.rows("SELECT 1 FROM procrastinate_jobs") == []


async def test_a_document_without_a_job_is_given_one(bench: Bench) -> None:
    document = await bench.upload("A lake.")
    bench.rows("DELETE FROM procrastinate_jobs")
    assert await bench.sweep() == (0, 1, 0)
    assert await bench.sweep() == (0, 0, 0)
    bench.work()
    assert (await bench.finished(document.id)).state == "ready"


async def test_a_job_of_a_dead_worker_is_taken_back(bench: Bench) -> None:
    document = await bench.upload("A lake.")
    bench.rows("SELECT procrastinate_fetch_job_v2(NULL, (procrastinate_register_worker_v1()))")
    assert await bench.sweep() == (0, 0, 0)
    bench.rows("UPDATE procrastinate_workers SET last_heartbeat = now() - interval '1 minute'")
    assert await bench.sweep() == (1, 0, 0)
    bench.work()
    assert (await bench.finished(document.id)).state == "ready"


async def test_a_document_that_kills_the_service_again_and_again_is_given_up(
    bench: Bench,
) -> None:
    document = await bench.upload("A lake.")
    for _ in range(INTERRUPTIONS):
        bench.rows("SELECT procrastinate_fetch_job_v2(NULL, (procrastinate_register_worker_v1()))")
        bench.rows("UPDATE procrastinate_workers SET last_heartbeat = now() - interval '1 minute'")
        await bench.sweep()
    failed = await bench.document(document.id)
    assert failed.state == "failed"
    assert failed.error is not None
    assert "again and again" in failed.error
    assert bench.rows("SELECT 1 FROM procrastinate_jobs") == []


async def test_a_new_model_is_filled_beside_the_old_one_and_then_takes_over(bench: Bench) -> None:
    documents = [await bench.upload(f"Lake number {n}.", f"s{n}") for n in range(3)]
    for document in documents:
        await bench.ingestion.run(document.id, 1)
    bench.encoder.identity = replace(IDENTITY, revision="2")
    table = await bench.vectors.refresh()
    assert not table.active
    active = "SELECT revision FROM embedding_sets WHERE state = 'active'"
    assert bench.rows(active) == [("1",)]
    later = await bench.upload("A document of the time between.", "later")
    await bench.ingestion.run(later.id, 1)
    epoch = bench.rows("SELECT epoch FROM collections")[0][0]
    while await bench.ingestion.fill():
        pass
    assert bench.rows(active) == [("2",)]
    assert bench.rows("SELECT count(*) FROM vectors_2") == [(4,)]
    assert bench.rows("SELECT epoch FROM collections") == [(epoch + 1,)]
    assert bench.vectors.current is not None
    assert bench.vectors.current.active


async def test_a_swap_into_a_set_that_was_retired_meanwhile_is_refused(bench: Bench) -> None:
    document = await bench.upload("A lake.")
    bench.encoder.gate.clear()
    first = asyncio.create_task(bench.ingestion.run(document.id, 1))
    await bench.until(lambda: bool(bench.rows("SELECT 1 FROM documents WHERE state='processing'")))
    bench.rows("UPDATE embedding_sets SET state = 'retired'")
    bench.encoder.gate.set()
    with pytest.raises(Unavailable, match="just changed"):
        await first
    assert bench.rows("SELECT count(*) FROM chunks") == [(0,)]


async def test_a_model_of_another_dimension_is_refused_by_name(bench: Bench) -> None:
    document = await bench.upload("A lake.")
    bench.encoder.identity = replace(IDENTITY, dimension=16)
    with pytest.raises(StartError, match=r"aidb\.dimension is 8.*with 16"):
        await bench.vectors.refresh()
    with pytest.raises(Unavailable, match="another dimension"):
        await bench.ingestion.run(document.id, 1)
    assert bench.rows("SELECT count(*) FROM embedding_sets") == [(1,)]


async def test_a_refused_upload_leaves_no_row(bench: Bench) -> None:
    # The job cannot be queued: the document must not be kept either.
    bench.rows("ALTER TABLE procrastinate_jobs RENAME TO away")
    with pytest.raises(psycopg.Error):
        await bench.upload("A lake.")
    assert bench.rows("SELECT count(*) FROM documents") == [(0,)]
    assert bench.rows("SELECT count(*) FROM collections") == [(0,)]


async def test_a_long_document_is_embedded_by_two_calls_at_once(bench: Bench) -> None:
    texts = [f"Text {number}." for number in range(EMBED_TEXTS * 5 + 3)]
    bench.encoder.gate.clear()
    told: list[float] = []

    async def tell(share: float) -> None:
        told.append(share)

    running = asyncio.create_task(bench.vectors.embed(texts, tell))
    await bench.until(lambda: bench.encoder.calls > 0)
    await asyncio.sleep(0)
    assert bench.encoder.calls == EMBEDS_IN_FLIGHT == 2
    bench.encoder.gate.set()
    _, vectors = await running
    assert told == sorted(told)
    assert (len(told), told[-1]) == (6, 1.0)
    # In the order of the texts, whichever call ended first.
    _, each = await bench.encoder.embed_in_set(texts)
    assert (vectors == each).all()


async def test_a_call_that_fails_ends_the_other_and_is_raised_as_it_is(bench: Bench) -> None:
    bench.encoder.gate.clear()
    running = asyncio.create_task(bench.vectors.embed(["x"] * EMBED_TEXTS * 4))
    await bench.until(lambda: bench.encoder.calls == EMBEDS_IN_FLIGHT)
    bench.encoder.failure = Unavailable("Away.")
    bench.encoder.gate.set()
    with pytest.raises(Unavailable, match="Away"):
        await running
    assert bench.encoder.calls == EMBEDS_IN_FLIGHT
    assert bench.encoder.texts == 0


async def test_two_documents_are_parsed_at_once_and_no_more(
    bench: Bench, model_files: ModelFiles
) -> None:
    chunker = Chunker(model_files.tokenizer, 64, 8)
    together, go, lock = [0], threading.Event(), threading.Lock()
    most = 0

    def cut(parsed: ParsedDocument) -> Sequence[Chunk]:
        nonlocal most
        with lock:
            together[0] += 1
            most = max(most, together[0])
        assert go.wait(30)
        with lock:
            together[0] -= 1
        return chunker.chunk(parsed)

    ingestion = Ingestion(bench.postgres, bench.vectors, cut, most_chunks=100)
    documents = [await bench.upload(f"Lake {n}.", f"{n}") for n in range(4)]
    running = [asyncio.create_task(ingestion.run(one.id, 1)) for one in documents]
    begun = "SELECT 1 FROM documents WHERE state = 'processing'"
    await bench.until(lambda: len(bench.rows(begun)) == 4 and together[0] >= PARSES_AT_ONCE)
    go.set()
    await asyncio.gather(*running)
    assert most == PARSES_AT_ONCE == 2
    await ingestion.aclose()
    assert bench.rows("SELECT count(*) FROM documents WHERE state = 'ready'") == [(4,)]


async def test_progress_is_seen_while_embedding_and_begins_again_with_a_retry(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aistack.aidb.ingest.PROGRESS_SECONDS", 0.0)
    text = "\n\n".join(f"Paragraph {n} on lake{n} and hill{n}. " * 4 for n in range(400))
    document = await bench.upload(text)
    assert document.progress == 0.0
    bench.encoder.held = 3
    running = asyncio.create_task(bench.ingestion.run(document.id, 1))
    await bench.until(lambda: bench.encoder.calls == 3 + EMBEDS_IN_FLIGHT)
    seen = await bench.document(document.id)
    assert seen.state == "processing"
    assert 0.0 < seen.progress < 1.0
    out = schemas.DocumentOut.of(seen)
    assert out.job is not None
    assert out.job.progress == out.progress == round(seen.progress, 4)
    bench.encoder.failure = Unavailable("Away.")
    bench.encoder.gate.set()
    with pytest.raises(Unavailable):
        await running
    assert (await bench.document(document.id)).state == "pending"
    bench.encoder.failure = None
    await bench.ingestion.run(document.id, 1)
    ready = await bench.document(document.id)
    assert (ready.state, ready.progress) == ("ready", 1.0)
    # Late words of an older job change nothing.
    await Progress(bench.postgres, document.id, 1)(0.1)
    assert (await bench.document(document.id)).progress == 1.0
    await bench.upload("Other words.")
    assert (await bench.document(document.id)).progress == 0.0


async def test_progress_is_written_once_a_second_at_most(bench: Bench) -> None:
    document = await bench.upload("A lake.")
    bench.rows("UPDATE documents SET state = 'processing'")
    progress = Progress(bench.postgres, document.id, 1)
    await progress(0.25)
    assert (await bench.document(document.id)).progress == 0.0
    moments = iter([10.0, 12.0, 12.5, 14.0])
    progress = Progress(bench.postgres, document.id, 1, now=lambda: next(moments))
    await progress(0.5)
    await progress(0.75)
    assert (await bench.document(document.id)).progress == 0.5
    await progress(0.25)
    assert (await bench.document(document.id)).progress == 0.5


async def test_the_worker_beats_while_idle(bench: Bench) -> None:
    bench.work()
    first = bench.worker.beats()
    await bench.until(lambda: bench.worker.beats() >= first + 2, 10)
