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
    enqueue_new,
    ensure_collection,
    enter_gate,
    get_collection,
    get_document,
    no_collection,
    no_document,
    record_change,
)
from aistack.clients.postgres import Connection
from aistack.service.errors import Conflict

#: Failed documents that one transaction queues again.
RETRIES_AT_ONCE = 200

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
            return Accepted(made, "created")
        if (merged := await _merge(connection, queue, collection_id, upload)) is not None:
            return Accepted(await get_document(connection, merged[0]), merged[1])
    raise deleted_again_and_again()


async def _create(
    connection: Connection, queue: Queue, collection_id: int, upload: Upload
) -> Document | None:
    """A document for a new source; None where the source is known, or the collection has gone."""
    document_id = uuid4()
    cursor = await connection.execute(
        "WITH made AS ("
        "INSERT INTO documents (id, collection_id, source, title, content_type, sha256, byte_size,"
        " metadata, key_id) SELECT %s, id, %s, %s, %s, %s, %s, %s, %s"
        " FROM collections WHERE id = %s"
        " ON CONFLICT (collection_id, source) DO NOTHING RETURNING id)"
        " INSERT INTO document_contents (document_id, content) SELECT id, %b FROM made",
        [
            document_id,
            upload.source,
            upload.title,
            upload.content_type,
            upload.sha256,
            len(upload.content),
            Jsonb(dict(upload.metadata)),
            upload.key_id,
            collection_id,
            upload.content,
        ],
    )
    if cursor.rowcount == 0:
        return None
    return await enqueue_new(connection, queue, document_id, 1)


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
            " version = version + 1, state = 'pending', error = NULL, progress = 0,"
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
        await _try_again(connection, queue, document_id, version)
        outcome = "retried"
    return document_id, outcome


async def retry(connection: Connection, queue: Queue, document_id: UUID) -> Accepted:
    """Queue a failed document again, from the bytes that are stored; one under way stays so.

    Raises NotFound, and Conflict for a document that is ready.
    """
    cursor = await connection.execute(
        "SELECT state, version FROM documents WHERE id = %s FOR UPDATE", [document_id]
    )
    row = await cursor.fetchone()
    if row is None:
        raise no_document(document_id)
    state, version = row
    if state == "ready":
        raise Conflict("The document is ready: only one that failed can be tried again.")
    if state == "failed":
        await _try_again(connection, queue, document_id, version)
    outcome: Outcome = "retried" if state == "failed" else "unchanged"
    return Accepted(await get_document(connection, document_id), outcome)


async def retry_failed(
    connection: Connection,
    queue: Queue,
    *,
    collection: str | None,
    after: UUID | None,
    at_once: int = RETRIES_AT_ONCE,
) -> tuple[int, UUID | None]:
    """Queue failed documents again, in the order of their ids; how many, and after which the next
    call goes on: None when there are no more.

    One that fails again meanwhile is behind that place, so that the calls come to an end. Raises
    NotFound.
    """
    collection_id = (
        None if collection is None else (await get_collection(connection, collection)).id
    )
    cursor = await connection.execute(
        "SELECT id, version FROM documents WHERE state = 'failed'"
        " AND (%s::int IS NULL OR collection_id = %s) AND (%s::uuid IS NULL OR id > %s)"
        " ORDER BY id LIMIT %s FOR UPDATE",
        [collection_id, collection_id, after, after, at_once],
    )
    found = await cursor.fetchall()
    for document_id, version in found:
        await _try_again(connection, queue, document_id, version)
    return len(found), found[-1][0] if len(found) == at_once else None


async def _try_again(connection: Connection, queue: Queue, document_id: UUID, version: int) -> None:
    """A failed document, locked by the caller, back to where its upload left it."""
    await connection.execute(
        "UPDATE documents SET state = 'pending', error = NULL, progress = 0, interruptions = 0,"
        " updated_at = now() WHERE id = %s",
        [document_id],
    )
    await enqueue(connection, queue, document_id, version)


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
        found = await enter_gate(connection, upload.collection)
        if found is not None:
            return found
        if upload.collection != DEFAULT_COLLECTION:
            raise no_collection(upload.collection)
        await ensure_collection(connection, upload.collection, key=upload.key_id)
    raise deleted_again_and_again()


async def _store_content(connection: Connection, document_id: UUID, content: bytes) -> None:
    await connection.execute(
        "INSERT INTO document_contents (document_id, content) VALUES (%b, %b)"
        " ON CONFLICT (document_id) DO UPDATE SET content = EXCLUDED.content",
        [document_id, content],
    )
