"""Embedding sets: which vectors may be compared, and the table each set keeps them in.

A set is a model's whole identity. One set is active: searches use it. The set of the embeddings
service that runs now is the current one; it is active at once when nothing is embedded yet, else it
is filled beside the active one and takes its place when no chunk lacks a vector.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Literal

import psycopg
import structlog
from prometheus_client import Gauge
from psycopg import sql

from aistack.aidb.store import raise_epochs
from aistack.clients.postgres import Connection
from aistack.models import EmbeddingSet

log = structlog.get_logger()

FILLED = Gauge(
    "aistack_aidb_embedding_set_filled_ratio",
    "Share of the chunks that have their vector in a set that is being filled, 0 to 1",
    ["set"],
)

#: What an HNSW index is made of: the vectors, or half-precision copies of them.
Storage = Literal["vector", "halfvec"]
#: Dimensions that pgvector indexes at most.
INDEXABLE: Final[dict[Storage, int]] = {"vector": 2000, "halfvec": 4000}
#: How long the drop of a retired table may hold up others.
DROP_LOCK_SECONDS: Final = 1

#: Any constant of our own: two services that start together register the set one after the other.
_LOCK = 0x_A15_7AC_0002


@dataclass(frozen=True, slots=True)
class VectorTable:
    """A registered set and the table of its vectors."""

    id: int
    identity: EmbeddingSet
    table: sql.Identifier
    active: bool


def index_name(table_name: str, storage: Storage) -> str:
    """The name of the HNSW index of a vector table."""
    return f"{table_name}_hnsw" if storage == "vector" else f"{table_name}_hnsw_half"


async def register(connection: Connection, identity: EmbeddingSet) -> VectorTable:
    """The vector table of `identity`, made if it is new; active if it may be at once."""
    await connection.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK])
    values = [
        identity.model,
        identity.revision,
        identity.engine,
        identity.precision,
        identity.dimension,
        identity.normalized,
    ]
    await connection.execute(
        "INSERT INTO embedding_sets (model, revision, engine, precision, dimension, normalized)"
        " VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING",
        values,
    )
    cursor = await connection.execute(
        "SELECT id, aidb_create_vector_table(id) FROM embedding_sets WHERE (model, revision,"
        " engine, precision, dimension, normalized) = (%s, %s, %s, %s, %s, %s)",
        values,
    )
    row = await cursor.fetchone()
    assert row is not None, "the row was inserted or was there"
    # A model that comes back: its set lacks what was added since.
    await connection.execute(
        "UPDATE embedding_sets SET state = 'filling', retired_at = NULL"
        " WHERE id = %s AND state = 'retired'",
        [row[0]],
    )
    found = VectorTable(row[0], identity, sql.Identifier(row[1]), active=False)
    return replace(found, active=await activate_if_complete(connection, found))


async def activate_if_complete(connection: Connection, vectors: VectorTable) -> bool:
    """Make the set the active one if every chunk has its vector; whether it is active now."""
    # Waits for the swaps under way, which hold their set's row, and holds up the next ones: none
    # can add a chunk to the old set after this look.
    cursor = await connection.execute(
        "SELECT state, id = %s FROM embedding_sets WHERE id = %s OR state = 'active'"
        " ORDER BY id FOR UPDATE",
        [vectors.id, vectors.id],
    )
    if ("active", True) in await cursor.fetchall():
        return True
    cursor = await connection.execute(
        sql.SQL(
            "SELECT 1 FROM chunks c WHERE NOT EXISTS (SELECT 1 FROM {} v WHERE v.chunk_id = c.id)"
            " LIMIT 1"
        ).format(vectors.table)
    )
    if await cursor.fetchone() is not None:
        return False
    await connection.execute(
        "UPDATE embedding_sets SET state = 'retired', retired_at = now() WHERE state = 'active'"
    )
    await connection.execute(
        "UPDATE embedding_sets SET state = 'active', activated_at = now() WHERE id = %s",
        [vectors.id],
    )
    await raise_epochs(connection)
    return True


async def chunks_without_vectors(
    connection: Connection, vectors: VectorTable, limit: int
) -> list[tuple[int, int, str]]:
    """(chunk id, collection id, text to embed) of chunks that the set lacks."""
    cursor = await connection.execute(
        sql.SQL(
            "SELECT c.id, c.collection_id, c.embed_prefix || c.text FROM chunks c"
            " WHERE NOT EXISTS (SELECT 1 FROM {} v WHERE v.chunk_id = c.id) ORDER BY c.id LIMIT %s"
        ).format(vectors.table),
        [limit],
    )
    return [(int(a), int(b), str(c)) for a, b, c in await cursor.fetchall()]


async def drop_retired(connection: Connection, days: int) -> list[str]:
    """Drop the tables of sets that were retired more than `days` ago; their names.

    The set is forgotten with its table: a model that comes back later begins anew. Dropping locks
    `chunks` too; where it cannot have that lock soon it leaves the table for the next time.
    """
    await connection.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK])
    cursor = await connection.execute(
        "SELECT id, table_name, model, retired_at::text FROM embedding_sets"
        " WHERE state = 'retired' AND retired_at <= now() - make_interval(days => %s) ORDER BY id",
        [days],
    )
    dropped = []
    for set_id, name, model, since in await cursor.fetchall():
        try:
            async with connection.transaction():
                await connection.execute(
                    "SELECT set_config('lock_timeout', %s, true)", [f"{DROP_LOCK_SECONDS}s"]
                )
                await connection.execute(
                    sql.SQL("DROP TABLE IF EXISTS {}").format(sql.Identifier(name))
                )
                await connection.execute("DELETE FROM embedding_sets WHERE id = %s", [set_id])
        except psycopg.errors.LockNotAvailable:
            log.info("retired_vectors_in_use", table=name)
            break
        log.info("retired_vectors_dropped", table=name, model=model, retired_at=since)
        dropped.append(str(name))
    return dropped


async def filled(connection: Connection) -> dict[int, float]:
    """Per set that is being filled: the share of chunks that have their vector, 0 to 1."""
    cursor = await connection.execute(
        "SELECT id, table_name, (SELECT sum(chunk_count) FROM collections)::bigint"
        " FROM embedding_sets WHERE state = 'filling'"
    )
    shares = {}
    for set_id, name, chunks in await cursor.fetchall():
        counted = await connection.execute(
            sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(name))
        )
        row = await counted.fetchone()
        assert row is not None, "a count is one row"
        shares[int(set_id)] = min(1.0, row[0] / chunks) if chunks else 1.0
    return shares
