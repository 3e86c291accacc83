"""Taking an upload in: stored with its job in one transaction, merged with what is there.

Rows are locked in the order that `store` describes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal
from uuid import UUID, uuid4

from psycopg.types.json import Jsonb

from aistack.aidb.documents import DEFAULT_COLLECTION, Document, Upload
from aistack.aidb.jobs import Queue
from aistack.aidb.store import (
    TRIES,
    deleted_again_and_again,
    enqueue,
    ensure_collection,
    enter_gate,
    get_document,
    no_collection,
    record_change,
)
from aistack.clients.postgres import Connection

Outcome = Literal["created", "replaced", "updated", "retried", "unchanged"]


@dataclass(frozen=True, slots=True)
class Accepted:
    """What became of an upload. `created`, `replaced` and `retried` have a job under way."""

    document: Document
    outcome: Outcome

    @property
    def queued(self) -> bool:
        """Whether there is work to wait for that this upload asked for."""
        return self.outcome in ("created", "replaced", "retried")


async def accept(connection: Connection, queue: Queue, upload: Upload) -> Accepted:
    """Store an upload and its job, in one transaction; the same again is no work.

    Raises NotFound for a collection that is not there (the default one is made at need), also for
    one that is deleted meanwhile.
    """
    for _ in range(TRIES):
        collection_id = await _collection_id(connection, upload)
        if (made := await _create(connection, queue, collection_id, upload)) is not None:
            return Accepted(await get_document(connection, made), "created")
        if (merged := await _merge(connection, queue, collection_id, upload)) is not None:
            return Accepted(await get_document(connection, merged[0]), merged[1])
    raise deleted_again_and_again()


async def _create(
    connection: Connection, queue: Queue, collection_id: int, upload: Upload
) -> UUID | None:
    """A document for a new source; None where the source is known."""
    document_id = uuid4()
    cursor = await connection.execute(
        "INSERT INTO documents (id, collection_id, source, title, content_type, sha256, byte_size,"
        " metadata, key_id) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)"
        " ON CONFLICT (collection_id, source) DO NOTHING",
        [
            document_id,
            collection_id,
            upload.source,
            upload.title,
            upload.content_type,
            upload.sha256,
            len(upload.content),
            Jsonb(dict(upload.metadata)),
            upload.key_id,
        ],
    )
    if cursor.rowcount == 0:
        return None
    await _store_content(connection, document_id, upload.content)
    await enqueue(connection, queue, document_id, 1)
    return document_id


async def _merge(
    connection: Connection, queue: Queue, collection_id: int, upload: Upload
) -> tuple[UUID, Outcome] | None:
    """An upload whose source is known already; None where the document has just gone."""
    cursor = await connection.execute(
        "SELECT id, sha256, content_type, title, metadata, pending, state, version, ready_version"
        " FROM documents WHERE collection_id = %s AND source = %s FOR UPDATE",
        [collection_id, upload.source],
    )
    row = await cursor.fetchone()
    if row is None:
        return None
    document_id, sha256, content_type, title, metadata, pending, state, version, ready = row
    if pending is not None:
        content_type, title = pending["content_type"], pending["title"]
        metadata = pending["metadata"]
    if (sha256, content_type) != (upload.sha256, upload.content_type):
        await connection.execute(
            "UPDATE documents SET sha256 = %s, byte_size = %s, key_id = %s,"
            " version = version + 1, state = 'pending', error = NULL,"
            " interruptions = 0, updated_at = now() WHERE id = %s",
            [upload.sha256, len(upload.content), upload.key_id, document_id],
        )
        await _describe(connection, document_id, upload, staged=ready is not None)
        await _store_content(connection, document_id, upload.content)
        await enqueue(connection, queue, document_id, version + 1)
        return document_id, "replaced"
    outcome: Outcome = "unchanged"
    if title != upload.title or metadata != dict(upload.metadata):
        await _describe(connection, document_id, upload, staged=pending is not None)
        if ready is not None and pending is None:
            await record_change(connection, "document_indexed", collection_id, document_id, ready)
        outcome = "updated"
    if state == "failed":
        # The same bytes again is how a person says "try once more".
        await connection.execute(
            "UPDATE documents SET state = 'pending', error = NULL, interruptions = 0,"
            " updated_at = now() WHERE id = %s",
            [document_id],
        )
        await enqueue(connection, queue, document_id, version)
        outcome = "retried"
    return document_id, outcome


async def _describe(
    connection: Connection, document_id: UUID, upload: Upload, *, staged: bool
) -> None:
    """Write the attributes; `staged` where they wait for the swap of the bytes they are of."""
    if staged:
        pending = {
            "title": upload.title,
            "content_type": upload.content_type,
            "metadata": dict(upload.metadata),
        }
        await connection.execute(
            "UPDATE documents SET pending = %s, key_id = %s, updated_at = now() WHERE id = %s",
            [Jsonb(pending), upload.key_id, document_id],
        )
        return
    await connection.execute(
        "UPDATE documents SET title = %s, content_type = %s, metadata = %s, key_id = %s,"
        " updated_at = now() WHERE id = %s",
        [
            upload.title,
            upload.content_type,
            Jsonb(dict(upload.metadata)),
            upload.key_id,
            document_id,
        ],
    )


async def _collection_id(connection: Connection, upload: Upload) -> int:
    """The collection, which nobody deletes until we commit. Raises NotFound."""
    for _ in range(TRIES):
        query = "SELECT id FROM collections WHERE name = %s"
        cursor = await connection.execute(query, [upload.collection])
        row = await cursor.fetchone()
        if row is not None:
            identifier = int(row[0])
        elif upload.collection == DEFAULT_COLLECTION:
            made, _ = await ensure_collection(connection, upload.collection, key=upload.key_id)
            identifier = made.id
        else:
            raise no_collection(upload.collection)
        await enter_gate(connection, identifier)
        # It may have been deleted while we waited.
        cursor = await connection.execute("SELECT 1 FROM collections WHERE id = %s", [identifier])
        if await cursor.fetchone() is not None:
            return identifier
    raise deleted_again_and_again()


async def _store_content(connection: Connection, document_id: UUID, content: bytes) -> None:
    await connection.execute(
        "INSERT INTO document_contents (document_id, content) VALUES (%b, %b)"
        " ON CONFLICT (document_id) DO UPDATE SET content = EXCLUDED.content",
        [document_id, content],
    )
