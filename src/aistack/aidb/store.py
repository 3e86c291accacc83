"""Collections and documents in PostgreSQL: what is read and written while answering a request.

Every function works in the transaction of the connection it is given and never commits. Rows are
locked in one order everywhere: a document, then its collection (the triggers on chunks lock the
collection too), then the collection's terms; two writers can wait for each other, never in a ring.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal
from uuid import UUID, uuid4

import orjson
from psycopg import sql
from psycopg.types.json import Jsonb

from aistack.aidb.documents import DEFAULT_COLLECTION, Collection, Document, Job, State, Upload
from aistack.aidb.jobs import Queue
from aistack.clients.postgres import Connection
from aistack.service.errors import NotFound

Outcome = Literal["created", "replaced", "updated", "retried", "unchanged"]

_DOCUMENT = """
    SELECT d.id, c.name, d.source, coalesce(d.title, d.parsed_title, d.source), d.content_type,
           encode(d.sha256, 'hex'), d.byte_size, d.metadata, d.state, d.error, d.version,
           d.ready_version, d.chunk_count, d.key_id, d.created_at, d.updated_at,
           j.id, j.status::text, j.attempts
      FROM documents d
      JOIN collections c ON c.id = d.collection_id
      LEFT JOIN procrastinate_jobs j ON j.id = d.job_id
"""
_COLLECTION = """
    SELECT c.id, c.name, c.description, c.epoch,
           (SELECT count(*) FROM documents d WHERE d.collection_id = c.id),
           c.chunk_count, c.key_id, c.created_at, c.updated_at
      FROM collections c
"""


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where a page of documents ended; newest first."""

    created_at: datetime
    id: UUID


@dataclass(frozen=True, slots=True)
class Accepted:
    """What became of an upload. `created`, `replaced` and `retried` have a job under way."""

    document: Document
    outcome: Outcome

    @property
    def queued(self) -> bool:
        """Whether there is work to wait for that this upload asked for."""
        return self.outcome in ("created", "replaced", "retried")


async def ensure_collection(
    connection: Connection, name: str, *, description: str = "", key: str
) -> tuple[Collection, bool]:
    """The collection of that name and whether it was made now; one that exists is left as it is."""
    cursor = await connection.execute(
        "INSERT INTO collections (name, description, key_id) VALUES (%s, %s, %s)"
        " ON CONFLICT (name) DO NOTHING RETURNING id",
        [name, description, key],
    )
    made = await cursor.fetchone() is not None
    return await get_collection(connection, name), made


async def get_collection(connection: Connection, name: str) -> Collection:
    """Raises NotFound."""
    cursor = await connection.execute(_COLLECTION + " WHERE c.name = %s", [name])
    row = await cursor.fetchone()
    if row is None:
        raise _no_collection(name)
    return Collection(*row)


async def list_collections(connection: Connection) -> list[Collection]:
    """All of them, by name."""
    cursor = await connection.execute(_COLLECTION + " ORDER BY c.name")
    return [Collection(*row) for row in await cursor.fetchall()]


async def delete_collection(connection: Connection, name: str) -> None:
    """Remove a collection with everything in it. Raises NotFound."""
    cursor = await connection.execute(
        "SELECT d.id FROM documents d JOIN collections c ON c.id = d.collection_id"
        " WHERE c.name = %s ORDER BY d.id FOR UPDATE OF d",
        [name],
    )
    await cursor.fetchall()
    # The lock keeps new documents out: their foreign key must wait for it.
    cursor = await connection.execute(
        "SELECT id FROM collections WHERE name = %s FOR UPDATE", [name]
    )
    row = await cursor.fetchone()
    if row is None:
        raise _no_collection(name)
    collection_id = row[0]
    # All postings at once; the triggers then find no terms left to subtract from.
    await connection.execute(
        "DELETE FROM postings p USING terms t WHERE t.collection_id = %s AND p.term_id = t.id",
        [collection_id],
    )
    await connection.execute("DELETE FROM terms WHERE collection_id = %s", [collection_id])
    await connection.execute(
        "DELETE FROM procrastinate_jobs j USING documents d"
        " WHERE d.collection_id = %s AND j.id = d.job_id AND j.status = 'todo'",
        [collection_id],
    )
    await connection.execute("DELETE FROM documents WHERE collection_id = %s", [collection_id])
    await connection.execute("DELETE FROM collections WHERE id = %s", [collection_id])
    await connection.execute(
        "INSERT INTO outbox (kind, collection_id, collection_name)"
        " VALUES ('collection_deleted', %s, %s)",
        [collection_id, name],
    )


async def accept(connection: Connection, queue: Queue, upload: Upload) -> Accepted:
    """Store an upload and its job, in one transaction; the same again is no work.

    Raises NotFound for a collection that is not there (the default one is made at need).
    """
    collection_id = await _collection_id(connection, upload)
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
    if cursor.rowcount == 1:
        await _store_content(connection, document_id, upload.content)
        await enqueue(connection, queue, document_id, 1)
        return Accepted(await get_document(connection, document_id), "created")
    document_id, outcome = await _merge(connection, queue, collection_id, upload)
    return Accepted(await get_document(connection, document_id), outcome)


async def _merge(
    connection: Connection, queue: Queue, collection_id: int, upload: Upload
) -> tuple[UUID, Outcome]:
    """An upload whose source is known already."""
    cursor = await connection.execute(
        "SELECT id, sha256, content_type, title, metadata, state, version, ready_version"
        " FROM documents WHERE collection_id = %s AND source = %s FOR UPDATE",
        [collection_id, upload.source],
    )
    row = await cursor.fetchone()
    if row is None:
        # Deleted between the two statements: the caller may simply send it again.
        raise NotFound("The document was deleted at the same moment: send it again.")
    document_id, sha256, content_type, title, metadata, state, version, ready = row
    if (sha256, content_type) != (upload.sha256, upload.content_type):
        await connection.execute(
            "UPDATE documents SET sha256 = %s, content_type = %s, byte_size = %s, title = %s,"
            " metadata = %s, key_id = %s, version = version + 1, state = 'pending', error = NULL,"
            " interruptions = 0, updated_at = now() WHERE id = %s",
            [
                upload.sha256,
                upload.content_type,
                len(upload.content),
                upload.title,
                Jsonb(dict(upload.metadata)),
                upload.key_id,
                document_id,
            ],
        )
        await _store_content(connection, document_id, upload.content)
        await enqueue(connection, queue, document_id, version + 1)
        return document_id, "replaced"
    outcome: Outcome = "unchanged"
    if title != upload.title or metadata != dict(upload.metadata):
        await connection.execute(
            "UPDATE documents SET title = %s, metadata = %s, key_id = %s, updated_at = now()"
            " WHERE id = %s",
            [upload.title, Jsonb(dict(upload.metadata)), upload.key_id, document_id],
        )
        if ready is not None:
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


async def get_document(connection: Connection, document_id: UUID) -> Document:
    """Raises NotFound."""
    cursor = await connection.execute(_DOCUMENT + " WHERE d.id = %s", [document_id])
    row = await cursor.fetchone()
    if row is None:
        raise _no_document(document_id)
    return _document(row)


async def get_text(connection: Connection, document_id: UUID) -> str:
    """The parsed text that character spans refer to. Raises NotFound, also while there is none."""
    cursor = await connection.execute(
        "SELECT t.text FROM documents d LEFT JOIN document_texts t ON t.document_id = d.id"
        " WHERE d.id = %s",
        [document_id],
    )
    row = await cursor.fetchone()
    if row is None:
        raise _no_document(document_id)
    if row[0] is None:
        raise NotFound("The document has no text yet: wait until its state is 'ready'.")
    return str(row[0])


async def list_documents(
    connection: Connection,
    *,
    collection: str | None,
    state: State | None,
    limit: int,
    after: Cursor | None,
) -> tuple[list[Document], Cursor | None]:
    """A page of documents, newest first, and where the next one begins. Raises NotFound."""
    conditions: list[sql.SQL] = [sql.SQL("TRUE")]
    values: list[Any] = []
    if collection is not None:
        values.append((await get_collection(connection, collection)).id)
        conditions.append(sql.SQL("d.collection_id = %s"))
    if state is not None:
        values.append(state)
        conditions.append(sql.SQL("d.state = %s"))
    if after is not None:
        values += [after.created_at, after.id]
        conditions.append(sql.SQL("(d.created_at, d.id) < (%s, %s)"))
    query = sql.SQL(_DOCUMENT + " WHERE {} ORDER BY d.created_at DESC, d.id DESC LIMIT %s").format(
        sql.SQL(" AND ").join(conditions)
    )
    cursor = await connection.execute(query, [*values, limit + 1])
    documents = [_document(row) for row in await cursor.fetchall()]
    if len(documents) <= limit:
        return documents, None
    last = documents[limit - 1]
    return documents[:limit], Cursor(last.created_at, last.id)


async def delete_document(connection: Connection, document_id: UUID) -> None:
    """Remove a document, its chunks, vectors and waiting job. Raises NotFound."""
    cursor = await connection.execute(
        "SELECT collection_id, version, job_id FROM documents WHERE id = %s FOR UPDATE",
        [document_id],
    )
    row = await cursor.fetchone()
    if row is None:
        raise _no_document(document_id)
    collection_id, version, job_id = row
    await record_change(connection, "document_deleted", collection_id, document_id, version)
    await connection.execute("DELETE FROM documents WHERE id = %s", [document_id])
    if job_id is not None:
        await connection.execute(
            "SELECT procrastinate_cancel_job_v1(%s, false, true)"
            " FROM procrastinate_jobs WHERE id = %s",
            [job_id, job_id],
        )


async def enqueue(connection: Connection, queue: Queue, document_id: UUID, version: int) -> int:
    """A job for this version in the same transaction, and the document's note of it."""
    job_id = await queue.defer(connection, document_id, version)
    await connection.execute(
        "UPDATE documents SET job_id = %s WHERE id = %s", [job_id, document_id]
    )
    return job_id


async def record_change(
    connection: Connection,
    kind: Literal["document_indexed", "document_deleted"],
    collection_id: int,
    document_id: UUID,
    version: int,
) -> None:
    """A change that a search can see: the next epoch, and a line in the outbox."""
    await connection.execute(
        "WITH changed AS (UPDATE collections SET epoch = epoch + 1, updated_at = now()"
        " WHERE id = %s RETURNING id, name)"
        " INSERT INTO outbox (kind, collection_id, collection_name, document_id, version)"
        " SELECT %s, id, name, %s, %s FROM changed",
        [collection_id, kind, document_id, version],
    )


async def _collection_id(connection: Connection, upload: Upload) -> int:
    query = "SELECT id FROM collections WHERE name = %s"
    cursor = await connection.execute(query, [upload.collection])
    row = await cursor.fetchone()
    if row is None:
        if upload.collection != DEFAULT_COLLECTION:
            raise _no_collection(upload.collection)
        made, _ = await ensure_collection(connection, upload.collection, key=upload.key_id)
        return made.id
    return int(row[0])


async def _store_content(connection: Connection, document_id: UUID, content: bytes) -> None:
    await connection.execute(
        "INSERT INTO document_contents (document_id, content) VALUES (%b, %b)"
        " ON CONFLICT (document_id) DO UPDATE SET content = EXCLUDED.content",
        [document_id, content],
    )


def _document(row: Sequence[Any]) -> Document:
    job = None if row[16] is None else Job(*row[16:19])
    return Document(*[*row[:16], job])


def _no_collection(name: str) -> NotFound:
    known = orjson.dumps(name).decode()
    return NotFound(f"There is no collection {known}: make it with POST /v1/collections.")


def _no_document(document_id: UUID) -> NotFound:
    return NotFound(f"There is no document {document_id}.")
