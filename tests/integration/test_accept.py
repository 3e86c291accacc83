"""Uploads against what happens meanwhile: deletions and replacements, and what is searchable."""

from __future__ import annotations

import asyncio
import hashlib
from uuid import UUID

import pytest

from aistack.aidb import store
from aistack.aidb.documents import Document, Pending
from aistack.service.errors import NotFound
from fix_aidb import check_statistics
from fix_ingest import IngestBench

BLOCKED = (
    "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
)
#: It passes the first look, and there is nothing to find in it.
HOLLOW = "<html><script>var x;</script></html>"


async def make(bench: IngestBench, name: str) -> None:
    async with bench.postgres.connection("test") as connection:
        await store.ensure_collection(connection, name, key="k")


async def upload_during_delete(bench: IngestBench, collection: str, text: str) -> Document:
    """An upload that meets a deletion of its collection that has begun and not ended."""
    async with bench.postgres.connection("test") as connection:
        assert (await store.delete_collection(connection, collection)).gone
        upload = asyncio.create_task(bench.upload(text, collection=collection))
        await bench.until(lambda: bool(bench.rows(BLOCKED)))
    return await upload


@pytest.mark.parametrize("known", [False, True])
async def test_an_upload_into_a_collection_that_is_being_deleted_is_told_that_it_is_gone(
    ingest_bench: IngestBench, known: bool
) -> None:
    await make(ingest_bench, "brief")
    if known:
        await ingest_bench.upload("A tarn.", collection="brief")
    with pytest.raises(NotFound, match="brief"):
        await upload_during_delete(ingest_bench, "brief", "A lake.")
    assert ingest_bench.rows("SELECT 1 FROM documents") == []
    assert ingest_bench.rows("SELECT 1 FROM procrastinate_jobs") == []


@pytest.mark.parametrize("known", [False, True])
async def test_an_upload_into_the_default_collection_while_it_is_deleted_makes_it_anew(
    ingest_bench: IngestBench, known: bool
) -> None:
    first = await ingest_bench.upload("A tarn.")
    if known:
        await ingest_bench.ingestion.run(first.id, 1)
    made = await upload_during_delete(ingest_bench, "default", "A lake.")
    assert made.id != first.id
    assert made.version == 1
    await ingest_bench.ingestion.run(made.id, 1)
    assert ingest_bench.rows("SELECT text FROM chunks") == [("A lake.",)]
    check_statistics(ingest_bench.rows)


async def test_uploads_and_deletions_at_once_never_end_in_a_fault(
    ingest_bench: IngestBench,
) -> None:
    async def upload(number: int) -> str:
        try:
            document = await ingest_bench.upload(f"Lake {number}.", f"{number % 3}", collection="c")
        except NotFound:
            return "gone"
        return str(document.id)

    async def delete() -> str:
        try:
            async with ingest_bench.postgres.connection("test") as connection:
                await store.delete_collection(connection, "c")
        except NotFound:
            return "gone"
        return "deleted"

    ends: list[str] = []
    for _ in range(12):
        await make(ingest_bench, "c")
        ends += await asyncio.gather(upload(1), upload(2), delete(), upload(4), upload(5))
    assert "deleted" in ends
    assert ingest_bench.postgres.dependency.state == "closed"


async def test_a_large_collection_is_deleted_in_parts_that_stay_done(
    ingest_bench: IngestBench,
) -> None:
    await make(ingest_bench, "large")
    for number in range(5):
        document = await ingest_bench.upload(f"Hill {number}.", f"{number}", collection="large")
        await ingest_bench.ingestion.run(document.id, 1)
    left = []
    embedded: list[str] = []
    gone = False
    while not gone:
        async with ingest_bench.postgres.connection("test") as connection:
            gone, part = await store.delete_collection(connection, "large", prompt="of ", at_once=2)
        embedded += part
        left.append(ingest_bench.rows("SELECT count(*) FROM documents")[0][0])
        check_statistics(ingest_bench.rows)
    assert left == [3, 1, 0]
    texts = [hashlib.sha256(f"of Hill {number}.".encode()).hexdigest() for number in range(5)]
    assert sorted(embedded) == sorted(texts)
    changes = "SELECT kind, count(*) FROM outbox WHERE kind <> 'document_indexed' GROUP BY 1"
    assert dict(ingest_bench.rows(changes)) == {"document_deleted": 4, "collection_deleted": 1}


async def searchable(bench: IngestBench) -> UUID:
    document = await bench.upload("A tarn.", title="Red", metadata={"team": "red"})
    await bench.ingestion.run(document.id, 1)
    return document.id


def epoch(bench: IngestBench) -> int:
    return int(bench.rows("SELECT epoch FROM collections")[0][0])


async def test_a_replacement_changes_what_a_search_sees_only_with_its_chunks(
    ingest_bench: IngestBench,
) -> None:
    identifier = await searchable(ingest_bench)
    before = epoch(ingest_bench)
    replaced = await ingest_bench.upload(
        "# Lakes\n\nA lake.", title="Blue", metadata={"team": "blue"}, content_type="text/markdown"
    )
    assert replaced.id == identifier
    assert (replaced.title, replaced.metadata, replaced.content_type) == (
        "Red",
        {"team": "red"},
        "text/plain",
    )
    assert replaced.pending == Pending("Blue", "text/markdown", {"team": "blue"})
    assert epoch(ingest_bench) == before
    await ingest_bench.ingestion.run(identifier, 2)
    now = await ingest_bench.document(identifier)
    assert (now.state, now.title, now.metadata, now.content_type, now.pending) == (
        "ready",
        "Blue",
        {"team": "blue"},
        "text/markdown",
        None,
    )
    # Parsed as what it is now: only Markdown has headings.
    assert ingest_bench.rows("SELECT parsed_title FROM documents") == [("Lakes",)]
    assert epoch(ingest_bench) == before + 1


async def test_a_replacement_that_fails_leaves_the_old_attributes(
    ingest_bench: IngestBench,
) -> None:
    identifier = await searchable(ingest_bench)
    before = epoch(ingest_bench)
    await ingest_bench.upload(HOLLOW, metadata={"team": "blue"}, content_type="text/html")
    await ingest_bench.ingestion.run(identifier, 2)
    failed = await ingest_bench.document(identifier)
    assert (failed.state, failed.version, failed.ready_version) == ("failed", 2, 1)
    assert (failed.title, failed.metadata, failed.content_type) == (
        "Red",
        {"team": "red"},
        "text/plain",
    )
    assert failed.pending == Pending(None, "text/html", {"team": "blue"})
    # The same bytes with other attributes: tried again, and still nothing for a search to see.
    again = await ingest_bench.accept(HOLLOW, metadata={"team": "sky"}, content_type="text/html")
    assert again.outcome == "retried"
    assert again.document.metadata == {"team": "red"}
    assert again.document.pending == Pending(None, "text/html", {"team": "sky"})
    assert epoch(ingest_bench) == before
    # And the way back is a version like any other.
    await ingest_bench.upload("A tarn.", metadata={"team": "old"})
    await ingest_bench.ingestion.run(identifier, 3)
    back = await ingest_bench.document(identifier)
    assert (back.state, back.metadata, back.pending) == ("ready", {"team": "old"}, None)


async def test_the_same_replacement_twice_is_one(ingest_bench: IngestBench) -> None:
    await searchable(ingest_bench)
    one = await ingest_bench.accept("A lake.", title="Blue", metadata={"team": "blue"})
    two = await ingest_bench.accept("A lake.", title="Blue", metadata={"team": "blue"})
    assert (one.outcome, two.outcome) == ("replaced", "unchanged")
    assert two.document.version == 2


async def test_attributes_alone_raise_the_epoch_once_something_can_be_found(
    ingest_bench: IngestBench,
) -> None:
    waiting = await ingest_bench.accept("A tarn.", metadata={"team": "red"})
    assert waiting.outcome == "created"
    unseen = await ingest_bench.accept("A tarn.", metadata={"team": "blue"})
    assert (unseen.outcome, unseen.document.metadata) == ("updated", {"team": "blue"})
    assert epoch(ingest_bench) == 0
    await ingest_bench.ingestion.run(unseen.document.id, 1)
    before = epoch(ingest_bench)
    seen = await ingest_bench.accept("A tarn.", metadata={"team": "sky"})
    assert (seen.outcome, seen.document.metadata) == ("updated", {"team": "sky"})
    assert epoch(ingest_bench) == before + 1


async def test_a_document_of_too_many_chunks_fails_with_the_limit(
    ingest_bench: IngestBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest_bench.ingestion, "_most_chunks", 3)
    document = await ingest_bench.upload("\n\n".join(f"Lake {n}. " * 30 for n in range(9)))
    await ingest_bench.ingestion.run(document.id, 1)
    failed = await ingest_bench.document(document.id)
    assert failed.state == "failed"
    assert failed.error is not None
    assert "the limit is 3 (aidb.document_chunks): split it." in failed.error
    assert ingest_bench.encoder.texts == 0
