"""A database of vectors without a model: chunks of one collection, and what keeps their index."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, LiteralString
from uuid import uuid4

import numpy as np
import psycopg
import pytest
from numpy.typing import NDArray
from psycopg.conninfo import conninfo_to_dict

from aistack.aidb import embedding_sets
from aistack.aidb.dense import Pgvector, Scope, State
from aistack.aidb.embedding_sets import VectorTable
from aistack.aidb.filters import Filter
from aistack.aidb.fusion import Ranking
from aistack.aidb.swap import copy_vectors
from aistack.aidb.vector_index import VectorIndexes
from aistack.clients.postgres import Connection, Postgres
from aistack.config import AidbConfig, PostgresConfig
from aistack.models import EmbeddingSet


def unit_vectors(count: int, dimension: int, seed: int = 7) -> NDArray[np.float32]:
    """(count, dimension) float32 of unit length."""
    made = np.random.default_rng(seed).normal(size=(count, dimension))
    return np.asarray(made / np.linalg.norm(made, axis=1, keepdims=True), np.float32)


@dataclass(slots=True)
class Store:
    """One collection, its chunks and their vectors."""

    dsn: str
    postgres: Postgres
    tables: dict[EmbeddingSet, VectorTable] = field(default_factory=dict)

    def config(self, **settings: Any) -> AidbConfig:
        """With a threshold that a test can reach."""
        return AidbConfig(**{"dense_exact_below": 50, "index_workers": 0, **settings})

    def indexes(self, **settings: Any) -> VectorIndexes:
        """What a process of aidb has."""
        return VectorIndexes(self.postgres, self.config(**settings))

    async def add(self, count: int, *, dimension: int = 8, revision: str = "1") -> None:
        """More chunks, with vectors of the set."""
        identity = EmbeddingSet("model", revision, "onnx", "fp32", dimension, True)
        vectors = unit_vectors(count, dimension, seed=len(self.rows("SELECT 1 FROM chunks")))
        async with self.postgres.connection("test.add") as connection:
            self.tables[identity] = await embedding_sets.register(connection, identity)
            await connection.execute(
                "INSERT INTO collections (name, key_id) VALUES ('default', 'k')"
                " ON CONFLICT DO NOTHING"
            )
            document = uuid4()
            await connection.execute(
                "INSERT INTO documents (id, collection_id, source, content_type, sha256, byte_size,"
                " key_id) SELECT %s, id, %s, 'text/plain', sha256('x'), 1, 'k' FROM collections",
                [document, str(document)],
            )
            cursor = await connection.execute(
                "INSERT INTO chunks (document_id, collection_id, ordinal, text, char_start,"
                " char_end, token_count, term_count) SELECT d.id, d.collection_id, n, 'a lake', 0,"
                " 6, 2, 0 FROM documents d, generate_series(1, %s) n WHERE d.id = %s"
                " RETURNING id, collection_id",
                [count, document],
            )
            owners = [(int(a), int(b)) for a, b in await cursor.fetchall()]
            await copy_vectors(connection, self.tables[identity], owners, vectors)

    def rows(self, query: LiteralString, *values: object) -> list[tuple[Any, ...]]:
        """What the database itself says."""
        with psycopg.connect(self.dsn) as connection:
            return connection.execute(query, values).fetchall()

    def hnsw(self) -> dict[str, bool]:
        """The HNSW indexes there are, and whether they are valid."""
        return dict(
            self.rows(
                "SELECT c.relname, i.indisvalid FROM pg_index i"
                " JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am a ON a.oid = c.relam"
                " WHERE a.amname = 'hnsw'"
            )
        )

    async def nearest(
        self, vector: NDArray[np.float32], limit: int = 10, **settings: Any
    ) -> tuple[Ranking, list[str]]:
        """The ranking of the active set, and the HNSW indexes that the search scanned."""
        async with self.postgres.connection("test.search") as connection:
            await connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            # Tables this small are sooner read as a whole; the index is what is tested.
            await connection.execute("SET LOCAL enable_seqscan = off")
            await connection.execute("SET LOCAL enable_sort = off")
            cursor = await connection.execute(
                "SELECT c.id, c.epoch, c.chunk_count, c.total_length, s.id, s.table_name, s.model,"
                " s.revision, s.engine, s.precision, s.dimension, s.normalized"
                " FROM collections c, embedding_sets s WHERE s.state = 'active'"
            )
            row = await cursor.fetchone()
            assert row is not None
            a, b, c, d, e, name = row[:6]
            state = State(a, b, c, d, e, name, EmbeddingSet(*row[6:]))
            before = await scans(connection)
            found = await Pgvector(self.config(**settings)).find(
                connection, state, Scope.of(Filter()), vector, limit
            )
            after = await scans(connection)
            return found.ranking, [name for name in after if after[name] > before[name]]

    def phase(self) -> str | None:
        """What a build under way does."""
        found = self.rows("SELECT phase FROM pg_stat_progress_create_index")
        return found[0][0] if found else None

    def stuck(self) -> bool:
        """Whether a build waits for the writer that `writing` is."""
        return self.phase() == "waiting for writers before build"

    @asynccontextmanager
    async def writing(self, table: str = "vectors_1") -> AsyncIterator[None]:
        """A writer who takes his time: a build waits for him, halfway."""
        async with await psycopg.AsyncConnection.connect(self.dsn) as connection:
            await connection.execute(
                psycopg.sql.SQL("DELETE FROM {} WHERE chunk_id = -1").format(
                    psycopg.sql.Identifier(table)
                )
            )
            yield
            await connection.rollback()


async def scans(connection: Connection) -> dict[str, int]:
    """How often this backend has scanned each HNSW index lately."""
    cursor = await connection.execute(
        "SELECT c.relname, pg_stat_get_xact_numscans(c.oid) FROM pg_class c"
        " JOIN pg_am a ON a.oid = c.relam WHERE a.amname = 'hnsw'"
    )
    return dict(await cursor.fetchall())


def database_config(dsn: str) -> PostgresConfig:
    """Of the database of a DSN."""
    said = conninfo_to_dict(dsn)
    return PostgresConfig(host=str(said["host"]), user="postgres", database=str(said["dbname"]))


@pytest.fixture
async def store(database: str) -> AsyncIterator[Store]:
    """An empty one, for one test."""
    postgres = Postgres(database_config(database))
    await postgres.open()
    try:
        yield Store(database, postgres)
    finally:
        await postgres.aclose()
