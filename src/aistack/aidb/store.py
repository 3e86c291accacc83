"""Collections and documents in PostgreSQL: what is read and written while answering a request.

Every function works in the transaction of the connection it is given and never commits. Rows are
locked in one order everywhere: a document, then its collection (the triggers on chunks lock the
collection too), then the collection's terms; two writers can wait for each other, never in a ring.
An upload, which may add a document, and the deletion of a collection, which must know them all,
first meet at the collection's gate, an advisory lock.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, NamedTuple
from uuid import UUID

import orjson
from psycopg import sql
from psycopg.types.json import Jsonb

from aistack.aidb.documents import Collection, Document, Job, Pending, State
from aistack.aidb.forgetting import embedded_texts
from aistack.aidb.jobs import Queue
from aistack.clients.postgres import Connection
from aistack.service.errors import Conflict, NotFound

#: Chunks that one transaction of deleting a collection removes.
CHUNKS_AT_ONCE = 10_000
#: Any constant of our own; the other half of an advisory lock's key is the collection.
_GATE = 0x_A15_7AC
#: How often a write begins again because what it stood on was deleted meanwhile.
TRIES = 8

_DOCUMENT_OF = """
    SELECT d.id, c.name, d.source, coalesce(d.title, d.parsed_title, d.source), d.content_type,
           encode(d.sha256, 'hex'), d.byte_size, d.metadata, d.state, d.error, d.version,
           d.ready_version, d.chunk_count, d.key_id, d.created_at, d.updated_at, d.progress,
           d.pending, j.id, j.status::text, j.attempts
      FROM {} d
      JOIN collections c ON c.id = d.collection_id
      LEFT JOIN procrastinate_jobs j ON j.id = d.job_id
"""
_DOCUMENT = _DOCUMENT_OF.format("documents")
_NOTE_JOB = "WITH noted AS (UPDATE documents SET job_id = %s WHERE id = %s RETURNING *)"
_NOTED = _NOTE_JOB + _DOCUMENT_OF.format("noted")
_COLLECTION = """
    SELECT c.id, c.name, c.description, c.settings, c.epoch,
           (SELECT count(*) FROM documents d WHERE d.collection_id = c.id),
           c.chunk_count, c.key_id, c.created_at, c.updated_at
      FROM collections c
"""


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where a page of documents ended; newest first."""

    created_at: datetime
    id: UUID


async def ensure_collection(
    connection: Connection,
    name: str,
    *,
    description: str = "",
    settings: Mapping[str, Any] | None = None,
    key: str,
) -> tuple[Collection, bool]:
    """The collection of that name and whether it was made now; one that exists is left as it is."""
    for _ in range(TRIES):
        cursor = await connection.execute(
            "INSERT INTO collections (name, description, settings, key_id)"
            " VALUES (%s, %s, %s, %s) ON CONFLICT (name) DO NOTHING RETURNING id",
            [name, description, Jsonb(dict(settings or {})), key],
        )
        made = await cursor.fetchone() is not None
        # Another's that was there may be gone by now.
        with suppress(NotFound):
            return await get_collection(connection, name), made
    raise deleted_again_and_again()


async def get_collection(connection: Connection, name: str) -> Collection:
    """Raises NotFound."""
    cursor = await connection.execute(_COLLECTION + " WHERE c.name = %s", [name])
    row = await cursor.fetchone()
    if row is None:
        raise no_collection(name)
    return Collection(*row)


async def list_collections(
    connection: Connection, *, limit: int, after: str | None
) -> tuple[list[Collection], str | None]:
    """A page of collections, by name, and the name after which the next one begins."""
    cursor = await connection.execute(
        _COLLECTION + " WHERE %s::text IS NULL OR c.name > %s ORDER BY c.name LIMIT %s",
        [after, after, limit + 1],
    )
    found = [Collection(*row) for row in await cursor.fetchall()]
    return found[:limit], found[limit - 1].name if len(found) > limit else None


class Deleted(NamedTuple):
    """How a collection stands; `embedded` as of `forgetting.embedded_texts`, of what is removed."""

    gone: bool
    embedded: list[str]


async def delete_collection(
    connection: Connection, name: str, *, prompt: str = "", at_once: int = CHUNKS_AT_ONCE
) -> Deleted:
    """Remove a collection with everything in it.

    One of more than `at_once` chunks loses some of its documents and is to be asked for again, in
    another transaction: so each is short, and what is done stays done. `prompt` is the model's for
    documents. Raises NotFound.
    """
    collection = await get_collection(connection, name)
    if collection.chunk_count > at_once:
        return Deleted(False, await _delete_some(connection, collection.id, at_once, prompt))
    collection_id = collection.id
    await connection.execute("SELECT pg_advisory_xact_lock(%s, %s)", [_GATE, collection_id])
    cursor = await connection.execute(
        "SELECT id FROM documents WHERE collection_id = %s ORDER BY id FOR UPDATE", [collection_id]
    )
    embedded = await embedded_texts(connection, [row[0] for row in await cursor.fetchall()], prompt)
    cursor = await connection.execute(
        "SELECT 1 FROM collections WHERE id = %s FOR UPDATE", [collection_id]
    )
    if await cursor.fetchone() is None:
        raise no_collection(name)
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
    return Deleted(True, embedded)


async def enter_gate(connection: Connection, name: str) -> int | None:
    """The id of the collection, which from now until the commit nobody deletes.

    None where there is none. It may have gone while we waited: a later statement sees that.
    """
    cursor = await connection.execute(
        "SELECT id, pg_advisory_xact_lock_shared(%s, id) FROM collections WHERE name = %s",
        [_GATE, name],
    )
    row = await cursor.fetchone()
    return None if row is None else int(row[0])


async def _delete_some(
    connection: Connection, collection_id: int, chunks: int, prompt: str
) -> list[str]:
    """Remove documents until `chunks` are gone; what was embedded of them."""
    cursor = await connection.execute(
        "SELECT id, version FROM documents WHERE id IN (SELECT id FROM ("
        " SELECT id, sum(chunk_count) OVER (ORDER BY id) - chunk_count AS before"
        "   FROM documents WHERE collection_id = %s) AS counted WHERE before < %s)"
        " ORDER BY id FOR UPDATE",
        [collection_id, chunks],
    )
    found = await cursor.fetchall()
    ids = [row[0] for row in found]
    embedded = await embedded_texts(connection, ids, prompt)
    await connection.execute(
        "WITH changed AS (UPDATE collections SET epoch = epoch + 1, updated_at = now()"
        " WHERE id = %s RETURNING id, name)"
        " INSERT INTO outbox (kind, collection_id, collection_name, document_id, version)"
        " SELECT 'document_deleted', c.id, c.name, d.id, d.version"
        "   FROM changed c, unnest(%s::uuid[], %s::int[]) AS d(id, version)",
        [collection_id, ids, [row[1] for row in found]],
    )
    await connection.execute(
        "DELETE FROM procrastinate_jobs j USING documents d"
        " WHERE d.id = ANY(%s) AND j.id = d.job_id AND j.status = 'todo'",
        [ids],
    )
    await connection.execute("DELETE FROM documents WHERE id = ANY(%s)", [ids])
    return embedded


async def get_document(connection: Connection, document_id: UUID) -> Document:
    """Raises NotFound."""
    cursor = await connection.execute(_DOCUMENT + " WHERE d.id = %s", [document_id])
    row = await cursor.fetchone()
    if row is None:
        raise no_document(document_id)
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
        raise no_document(document_id)
    if row[0] is None:
        raise NotFound("The document has no text yet: wait until its state is 'ready'.")
    return str(row[0])


async def list_documents(
    connection: Connection,
    *,
    collection: str | None,
    state: State | None,
    sources: Sequence[str] | None = None,
    limit: int,
    after: Cursor | None,
) -> tuple[list[Document], Cursor | None]:
    """A page of documents, newest first, and where the next one begins. Raises NotFound.

    `sources`: only those of these names, which needs a collection to be quick.
    """
    conditions: list[sql.SQL] = [sql.SQL("TRUE")]
    values: list[Any] = []
    if collection is not None:
        values.append((await get_collection(connection, collection)).id)
        conditions.append(sql.SQL("d.collection_id = %s"))
    if sources is not None:
        values.append(list(sources))
        conditions.append(sql.SQL("d.source = ANY(%s)"))
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


async def delete_document(connection: Connection, document_id: UUID) -> int:
    """Remove a document, its chunks, vectors and waiting job; the id of its collection.

    Raises NotFound.
    """
    cursor = await connection.execute(
        "SELECT collection_id, version, job_id FROM documents WHERE id = %s FOR UPDATE",
        [document_id],
    )
    row = await cursor.fetchone()
    if row is None:
        raise no_document(document_id)
    collection_id, version, job_id = row
    await record_change(connection, "document_deleted", collection_id, document_id, version)
    await connection.execute("DELETE FROM documents WHERE id = %s", [document_id])
    if job_id is not None:
        await connection.execute(
            "SELECT procrastinate_cancel_job_v1(%s, false, true)"
            " FROM procrastinate_jobs WHERE id = %s",
            [job_id, job_id],
        )
    return int(collection_id)


async def enqueue(connection: Connection, queue: Queue, document_id: UUID, version: int) -> int:
    """A job for this version in the same transaction, and the document's note of it."""
    job_id = await queue.defer(connection, document_id, version)
    await connection.execute(
        "UPDATE documents SET job_id = %s WHERE id = %s", [job_id, document_id]
    )
    return job_id


async def enqueue_new(
    connection: Connection, queue: Queue, document_id: UUID, version: int
) -> Document:
    """As `enqueue`; the document as it is then, in the same round trip."""
    job_id = await queue.defer(connection, document_id, version)
    cursor = await connection.execute(_NOTED, [job_id, document_id])
    row = await cursor.fetchone()
    assert row is not None, "the caller has just made it"
    return _document(row)


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


async def record_indexed(
    connection: Connection, collection_id: int, ids: Sequence[UUID], versions: Sequence[int]
) -> None:
    """As `record_change` for documents that are indexed together: one epoch, a line for each."""
    await connection.execute(
        "WITH changed AS (UPDATE collections SET epoch = epoch + 1, updated_at = now()"
        " WHERE id = %s RETURNING id, name)"
        " INSERT INTO outbox (kind, collection_id, collection_name, document_id, version)"
        " SELECT 'document_indexed', c.id, c.name, d.id, d.version"
        "   FROM changed c, unnest(%s::uuid[], %s::int[]) AS d(id, version)",
        [collection_id, list(ids), list(versions)],
    )


async def raise_epochs(connection: Connection) -> None:
    """A change that a search of any collection can see."""
    # In one order: two of these do not wait for each other.
    await connection.execute(
        "SELECT count(*) FROM (SELECT id FROM collections ORDER BY id FOR NO KEY UPDATE) AS locked"
    )
    await connection.execute("UPDATE collections SET epoch = epoch + 1")


def _document(row: Sequence[Any]) -> Document:
    pending = None if row[17] is None else Pending(**row[17])
    job = None if row[18] is None else Job(*row[18:21])
    return Document(*[*row[:17], pending, job])


def no_collection(name: str) -> NotFound:
    known = orjson.dumps(name).decode()
    return NotFound(f"There is no collection {known}: make it with POST /v1/collections.")


def deleted_again_and_again() -> Conflict:
    return Conflict("It was deleted again and again at the same moment: send it again.")


def no_document(document_id: UUID) -> NotFound:
    return NotFound(f"There is no document {document_id}.")
