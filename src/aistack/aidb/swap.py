"""The atomic swap: the chunks of one version of a document take the place of those before.

One transaction, so that a search sees the old chunks or the new ones, with their postings, vectors,
statistics and epoch, and never a mixture; a crash leaves the old ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import numpy as np
from numpy.typing import NDArray
from psycopg import Rollback, sql

from aistack.aidb.analysis import ANALYZER_VERSION
from aistack.aidb.embedding_sets import VectorTable
from aistack.aidb.store import record_change
from aistack.clients.postgres import Connection
from aistack.service.errors import Unavailable

_COLUMNS = (
    ("id", "int8"),
    ("document_id", "uuid"),
    ("collection_id", "int4"),
    ("ordinal", "int4"),
    ("text", "text"),
    ("embed_prefix", "text"),
    ("heading_path", "text[]"),
    ("char_start", "int4"),
    ("char_end", "int4"),
    ("page_start", "int4"),
    ("page_end", "int4"),
    ("line_start", "int4"),
    ("line_end", "int4"),
    ("token_count", "int4"),
    ("term_count", "int4"),
    ("terms", "text[]"),
    ("term_frequencies", "int4[]"),
    ("fingerprint", "int8"),
)
_COPY_CHUNKS = sql.SQL("COPY chunks ({}) FROM STDIN (FORMAT BINARY)").format(
    sql.SQL(", ").join(sql.Identifier(name) for name, _ in _COLUMNS)
)


@dataclass(frozen=True, slots=True)
class IndexedChunk:
    """A chunk with what both legs need of it; `text` is `document_text[char_start:char_end]`.

    `embed_prefix + text` is what was embedded and analysed. `terms` are distinct, `frequencies`
    parallel to them. `fingerprint` tells near duplicates (`near_duplicates`).
    """

    text: str
    embed_prefix: str
    heading_path: Sequence[str]
    char_start: int
    char_end: int
    page_start: int | None
    page_end: int | None
    line_start: int | None
    line_end: int | None
    token_count: int
    terms: Sequence[str]
    frequencies: Sequence[int]
    fingerprint: int | None = None


async def swap_chunks(
    connection: Connection,
    *,
    document_id: UUID,
    version: int,
    title: str | None,
    text: str,
    chunks: Sequence[IndexedChunk],
    vectors: NDArray[np.float32],
    table: VectorTable,
) -> bool:
    """Make `version` the searchable one. False, and nothing changed, when it no longer should be:
    the document was deleted, has newer bytes, or another job was first.

    `vectors` is (chunks, dimension) float32, unit length, in the order of `chunks`.
    """
    if vectors.shape != (len(chunks), table.identity.dimension):
        raise ValueError(f"{vectors.shape} vectors for {len(chunks)} chunks")
    cursor = await connection.execute(
        "SELECT collection_id, nextval(pg_get_serial_sequence('chunks', 'id'))"
        " FROM documents, generate_series(1, %s) WHERE id = %s",
        [len(chunks), document_id],
    )
    owners = [
        (int(chunk_id), int(collection_id)) for collection_id, chunk_id in await cursor.fetchall()
    ]
    if not owners:
        return False
    async with connection.transaction() as work:
        await _hold_set(connection, table)
        # First, and before any lock: the index makes it slow, and others may write meanwhile.
        await copy_vectors(connection, table, owners, vectors)
        if not await _still_wanted(connection, document_id, version):
            raise Rollback(work)
        collection_id = owners[0][1]
        await record_change(connection, "document_indexed", collection_id, document_id, version)
        await connection.execute("DELETE FROM chunks WHERE document_id = %s", [document_id])
        await _copy_chunks(connection, document_id, owners, chunks)
        await connection.execute(
            "INSERT INTO document_texts (document_id, version, text) VALUES (%s, %s, %s)"
            " ON CONFLICT (document_id) DO UPDATE"
            " SET version = EXCLUDED.version, text = EXCLUDED.text",
            [document_id, version, text],
        )
        await connection.execute(
            "UPDATE documents SET state = 'ready', error = NULL, ready_version = %s, progress = 1,"
            " parsed_title = %s, chunk_count = %s, analyzer = %s, interruptions = 0,"
            # What a search shows and filters by changes with the chunks that it belongs to.
            " title = CASE WHEN pending IS NULL THEN title ELSE pending ->> 'title' END,"
            " content_type = coalesce(pending ->> 'content_type', content_type),"
            " metadata = coalesce(pending -> 'metadata', metadata), pending = NULL,"
            " updated_at = now() WHERE id = %s",
            [version, title, len(chunks), ANALYZER_VERSION, document_id],
        )
        return True
    return False


async def _still_wanted(connection: Connection, document_id: UUID, version: int) -> bool:
    """Whether `version` is the newest and not yet the searchable one; locks the document."""
    cursor = await connection.execute(
        "SELECT version, ready_version FROM documents WHERE id = %s FOR UPDATE", [document_id]
    )
    row = await cursor.fetchone()
    return row is not None and row[0] == version and row[1] != version


async def _hold_set(connection: Connection, table: VectorTable) -> None:
    """Keep the set from being retired until we commit. Raises Unavailable if it is already."""
    cursor = await connection.execute(
        "SELECT state FROM embedding_sets WHERE id = %s FOR SHARE", [table.id]
    )
    row = await cursor.fetchone()
    if row is None or row[0] == "retired":
        raise Unavailable("The embedding model has just changed.")


async def _copy_chunks(
    connection: Connection,
    document_id: UUID,
    owners: Sequence[tuple[int, int]],
    chunks: Sequence[IndexedChunk],
) -> None:
    async with connection.cursor() as cursor, cursor.copy(_COPY_CHUNKS) as copy:
        copy.set_types([kind for _, kind in _COLUMNS])
        for ordinal, (owner, chunk) in enumerate(zip(owners, chunks, strict=True)):
            row: tuple[Any, ...] = (
                owner[0],
                document_id,
                owner[1],
                ordinal,
                chunk.text,
                chunk.embed_prefix,
                list(chunk.heading_path),
                chunk.char_start,
                chunk.char_end,
                chunk.page_start,
                chunk.page_end,
                chunk.line_start,
                chunk.line_end,
                chunk.token_count,
                sum(chunk.frequencies),
                list(chunk.terms),
                list(chunk.frequencies),
                chunk.fingerprint,
            )
            await copy.write_row(row)


async def copy_vectors(
    connection: Connection,
    table: VectorTable,
    owners: Sequence[tuple[int, int]],
    vectors: NDArray[np.float32],
) -> None:
    """Write vectors of chunks; `owners` are (chunk id, collection id) in the order of `vectors`."""
    statement = sql.SQL(
        "COPY {} (chunk_id, collection_id, embedding) FROM STDIN (FORMAT BINARY)"
    ).format(table.table)
    async with connection.cursor() as cursor, cursor.copy(statement) as copy:
        copy.set_types(["int8", "int4", "vector"])
        for (chunk_id, collection_id), vector in zip(owners, vectors, strict=True):
            await copy.write_row((chunk_id, collection_id, vector))
