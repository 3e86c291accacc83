"""The atomic swap: the chunks of one version of a document take the place of those before.

One transaction, so that a search sees the old chunks or the new ones, with their postings, vectors,
statistics and epoch, and never a mixture; a crash leaves the old ones. Several documents of one
collection may share it: most of what it costs, the round trips, the commit and the triggers on
chunks, is then paid once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import numpy as np
from numpy.typing import NDArray
from psycopg import sql

from aistack.aidb.embedding_sets import VectorTable
from aistack.aidb.search_cache import forget
from aistack.aidb.store import record_indexed
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

#: The signature, no flags, no extension; and in the end a row of -1 fields.
_COPY_HEAD = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_COPY_TAIL = b"\xff\xff"


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


@dataclass(frozen=True, slots=True, eq=False)
class Swap:
    """One version of a document as it shall be searched.

    `vectors` is (chunks, dimension) float32, unit length, in the order of `chunks`. `analyzer` says
    what made the terms.
    """

    document_id: UUID
    version: int
    title: str | None
    text: str
    chunks: Sequence[IndexedChunk]
    vectors: NDArray[np.float32]
    analyzer: str


#: (id, collection) of chunks to be.
Owners = Sequence[tuple[int, int]]


async def swap_documents(
    connection: Connection, swaps: Sequence[Swap], table: VectorTable
) -> list[bool]:
    """Make the versions the searchable ones; all are of one collection, each of another document.

    False, and nothing changed, for one that no longer should be: the document was deleted, has
    newer bytes, or another job was first. Raises Unavailable when the set is retired.
    """
    for swap in swaps:
        if swap.vectors.shape != (len(swap.chunks), table.identity.dimension):
            raise ValueError(f"{swap.vectors.shape} vectors for {len(swap.chunks)} chunks")
    await _hold_set(connection, table)
    owners = await _owners(connection, swaps)
    there = [swap for swap in swaps if swap.document_id in owners]
    if not there:
        return [False] * len(swaps)
    # First, and before any lock: the index makes it slow, and others may write meanwhile.
    await copy_vectors(
        connection,
        table,
        [owner for swap in there for owner in owners[swap.document_id]],
        np.concatenate([swap.vectors for swap in there]),
    )
    wanted_ids = await _still_wanted(connection, there)
    wanted = [swap for swap in there if swap.document_id in wanted_ids]
    if len(wanted) < len(there):
        unwanted = [
            chunk
            for swap in there
            if swap.document_id not in wanted_ids
            for chunk, _ in owners[swap.document_id]
        ]
        statement = sql.SQL("DELETE FROM {} WHERE chunk_id = ANY(%s)").format(table.table)
        await connection.execute(statement, [unwanted])
    if wanted:
        await _replace(connection, wanted, owners)
    return [swap.document_id in wanted_ids for swap in swaps]


async def _owners(connection: Connection, swaps: Sequence[Swap]) -> dict[UUID, Owners]:
    """Ids for the chunks of the documents that are there."""
    cursor = await connection.execute(
        "SELECT d.id, d.collection_id,"
        " array(SELECT nextval(pg_get_serial_sequence('chunks', 'id'))"
        "         FROM generate_series(1, s.chunks))"
        " FROM unnest(%s::uuid[], %s::int[]) AS s(id, chunks) JOIN documents d ON d.id = s.id",
        [[swap.document_id for swap in swaps], [len(swap.chunks) for swap in swaps]],
        binary=True,
    )
    return {
        document: [(chunk, collection) for chunk in chunks]
        for document, collection, chunks in await cursor.fetchall()
    }


async def _replace(
    connection: Connection, swaps: Sequence[Swap], owners: Mapping[UUID, Owners]
) -> None:
    ids = [swap.document_id for swap in swaps]
    versions = [swap.version for swap in swaps]
    collection_id = owners[ids[0]][0][1]
    await record_indexed(connection, collection_id, ids, versions)
    cursor = await connection.execute("DELETE FROM chunks WHERE document_id = ANY(%s)", [ids])
    replaced = cursor.rowcount > 0
    await _copy_chunks(connection, swaps, owners)
    await connection.execute(
        "INSERT INTO document_texts (document_id, version, text)"
        " SELECT * FROM unnest(%s::uuid[], %s::int[], %s::text[])"
        " ON CONFLICT (document_id) DO UPDATE"
        " SET version = EXCLUDED.version, text = EXCLUDED.text",
        [ids, versions, [swap.text for swap in swaps]],
    )
    await connection.execute(
        "UPDATE documents d SET state = 'ready', error = NULL, ready_version = s.version,"
        " progress = 1, parsed_title = s.title, chunk_count = s.chunks,"
        " analyzer = s.analyzer,"
        " interruptions = 0,"
        # What a search shows and filters by changes with the chunks that it belongs to.
        " title = CASE WHEN pending IS NULL THEN d.title ELSE pending ->> 'title' END,"
        " content_type = coalesce(pending ->> 'content_type', content_type),"
        " metadata = coalesce(pending -> 'metadata', metadata), pending = NULL,"
        " updated_at = now()"
        " FROM unnest(%s::uuid[], %s::int[], %s::text[], %s::int[], %s::text[])"
        "   AS s(id, version, title, chunks, analyzer) WHERE d.id = s.id",
        [
            ids,
            versions,
            [swap.title for swap in swaps],
            [len(swap.chunks) for swap in swaps],
            [swap.analyzer for swap in swaps],
        ],
    )
    if replaced:
        # As after a delete: nobody is given them any more, and they quote what was replaced. Last:
        # a search that keeps its result wants the same rows.
        await forget(connection, collection_id)


async def _still_wanted(connection: Connection, swaps: Sequence[Swap]) -> set[UUID]:
    """The documents of which the version is the newest and not yet the searchable one; locked."""
    cursor = await connection.execute(
        "SELECT d.id, d.version = s.version AND d.ready_version IS DISTINCT FROM s.version"
        " FROM documents d JOIN unnest(%s::uuid[], %s::int[]) AS s(id, version) ON d.id = s.id"
        " ORDER BY d.id FOR UPDATE OF d",
        [[swap.document_id for swap in swaps], [swap.version for swap in swaps]],
    )
    return {document for document, wanted in await cursor.fetchall() if wanted}


async def _hold_set(connection: Connection, table: VectorTable) -> None:
    """Keep the set from being retired until we commit. Raises Unavailable if it is already."""
    cursor = await connection.execute(
        "SELECT state FROM embedding_sets WHERE id = %s FOR SHARE", [table.id]
    )
    row = await cursor.fetchone()
    if row is None or row[0] == "retired":
        raise Unavailable("The embedding model has just changed.")


async def _copy_chunks(
    connection: Connection, swaps: Sequence[Swap], owners: Mapping[UUID, Owners]
) -> None:
    async with connection.cursor() as cursor, cursor.copy(_COPY_CHUNKS) as copy:
        copy.set_types([kind for _, kind in _COLUMNS])
        for swap in swaps:
            placed = zip(owners[swap.document_id], swap.chunks, strict=True)
            for ordinal, ((chunk_id, collection_id), chunk) in enumerate(placed):
                row: tuple[Any, ...] = (
                    chunk_id,
                    swap.document_id,
                    collection_id,
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
    connection: Connection, table: VectorTable, owners: Owners, vectors: NDArray[np.float32]
) -> None:
    """Write vectors of chunks; `owners` are (chunk id, collection id) in the order of `vectors`."""
    statement = sql.SQL(
        "COPY {} (chunk_id, collection_id, embedding) FROM STDIN (FORMAT BINARY)"
    ).format(table.table)
    async with connection.cursor() as cursor, cursor.copy(statement) as copy:
        await copy.write(_binary_rows(owners, vectors))


def _binary_rows(owners: Owners, vectors: NDArray[np.float32]) -> bytes:
    """PostgreSQL's binary COPY of (bigint, integer, vector), with no Python object for a number.

    A field is its length in bytes and its value, big-endian; a vector is its dimension, a zero, and
    its floats (`vector_recv` of pgvector).
    """
    dimension = vectors.shape[1]
    row = np.dtype(
        [
            ("fields", ">i2"),
            ("chunk_length", ">i4"),
            ("chunk", ">i8"),
            ("collection_length", ">i4"),
            ("collection", ">i4"),
            ("vector_length", ">i4"),
            ("dimension", ">i2"),
            ("zero", ">i2"),
            ("vector", ">f4", (dimension,)),
        ]
    )
    rows = np.zeros(len(owners), row)
    rows["fields"] = 3
    rows["chunk_length"], rows["collection_length"] = 8, 4
    rows["vector_length"] = 4 + 4 * dimension
    rows["chunk"] = [chunk for chunk, _ in owners]
    rows["collection"] = [collection for _, collection in owners]
    rows["dimension"] = dimension
    rows["vector"] = vectors
    return _COPY_HEAD + rows.tobytes() + _COPY_TAIL
