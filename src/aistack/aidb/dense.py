"""The dense leg of a search: the chunks whose vectors are nearest to that of the query.

An engine is asked for the nearest; pgvector is the one that is always there, `qdrant_engine` the
other. pgvector is exact where few enough chunks can be hits (a small collection, or a filter that
leaves few) and while there is no index that PostgreSQL calls valid; else HNSW answers with an
iterative scan, so that a filter never starves it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from psycopg import sql

from aistack.aidb.embedding_sets import Storage, index_name
from aistack.aidb.filters import Filter
from aistack.aidb.fusion import Ranking
from aistack.clients.postgres import Connection
from aistack.config import AidbConfig
from aistack.models import EmbeddingSet
from aistack.service.errors import Unavailable

#: Tuples that an HNSW scan may visit to find enough that pass the filter.
MAX_SCAN_TUPLES: Final = 200_000

#: What pgvector allows; the iterative scan finds more.
MAX_EF_SEARCH: Final = 1000
#: How many more a half-precision index is asked for than are wanted: its order is nearly right.
RERANK: Final = 1.5

# The sum is no expression of the HNSW index: every row is compared.
_EXACT: Final = """
SELECT v.chunk_id, -(v.embedding <#> %(vector)s) AS score
  FROM {table} v WHERE v.collection_id = %(collection)s {restriction}
 ORDER BY (v.embedding <#> %(vector)s) + 0, v.chunk_id LIMIT %(limit)s
"""
_NEAREST: Final = """
WITH nearest AS MATERIALIZED (
    SELECT v.chunk_id, v.embedding <#> %(vector)s AS distance
      FROM {table} v WHERE v.collection_id = %(collection)s {restriction}
     ORDER BY v.embedding <#> %(vector)s LIMIT %(limit)s
)
SELECT chunk_id, -distance FROM nearest ORDER BY distance, chunk_id
"""
_NEAREST_HALF: Final = """
WITH nearest AS MATERIALIZED (
    SELECT v.chunk_id, v.embedding <#> %(vector)s AS distance
      FROM {table} v WHERE v.collection_id = %(collection)s {restriction}
     ORDER BY v.embedding::halfvec({dimension}) <#> %(vector)s::halfvec({dimension}) LIMIT %(more)s
)
SELECT chunk_id, -distance FROM nearest ORDER BY distance, chunk_id LIMIT %(limit)s
"""
# One round trip: the settings of the scan, and which indexes it may use. Read in the search's own
# snapshot: an index that has become valid since is used by the next search.
_PREPARE: Final = """
SELECT set_config('hnsw.ef_search', %(ef)s, true),
       set_config('hnsw.iterative_scan', 'strict_order', true),
       set_config('hnsw.max_scan_tuples', %(tuples)s, true),
       set_config('hnsw.scan_mem_multiplier', '4', true),
       ARRAY(SELECT c.relname::text FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
              WHERE i.indrelid = to_regclass(%(table)s) AND i.indisvalid)
"""
_ALLOWED: Final = """
SELECT c.id FROM chunks c JOIN documents d ON d.id = c.document_id
 WHERE c.collection_id = %(collection)s AND {where}
"""


_STATEMENTS: Final[dict[Storage, str]] = {"vector": _NEAREST, "halfvec": _NEAREST_HALF}


@dataclass(frozen=True, slots=True)
class State:
    """What a collection was at one moment. `vectors` is the active set's table, if there is one.

    `settings` is what the collection itself stores (`collection_settings`).
    """

    id: int
    epoch: int
    chunks: int
    total_length: int
    set_id: int | None
    vectors: str | None
    embedding_set: EmbeddingSet | None
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Scope:
    """Which chunks of the collection may be hits. `allowed` selects their ids; None: all."""

    filters: Filter
    allowed: sql.Composable | None
    arguments: dict[str, Any]

    @classmethod
    def of(cls, filters: Filter) -> Scope:
        """The chunks that pass `filters`; statements with `allowed` want `collection` too."""
        if not filters:
            return cls(filters, None, {})
        where, arguments = filters.where()
        return cls(filters, sql.SQL(_ALLOWED).format(where=where), arguments)

    def restrict(self, table: str) -> sql.Composable:
        """A condition to add on `table`.chunk_id."""
        if self.allowed is None:
            return sql.SQL("")
        return sql.SQL("AND {}.chunk_id IN ({})").format(sql.Identifier(table), self.allowed)


@dataclass(frozen=True, slots=True)
class Nearest:
    """(chunk id, inner product with the query's vector), best first, and which engine found them.

    `degraded`: the engine that should have answered could not. `keep`: the same search finds the
    same for as long as the collection does not change, from the engine that should answer it.
    """

    ranking: Ranking
    engine: Literal["pgvector", "qdrant"]
    degraded: bool = False
    keep: bool = True


class DenseEngine(Protocol):
    """Finds nearest vectors."""

    async def find(
        self,
        connection: Connection,
        state: State,
        scope: Scope,
        vector: NDArray[np.float32],
        limit: int,
    ) -> Nearest:
        """At most `limit` chunks of the collection that `scope` allows.

        `vector` is (d,) float32 of the active set. `connection` is in the snapshot of `state`.
        """
        ...


def comparable(
    state: State, embedded: tuple[EmbeddingSet, NDArray[np.float32]] | None
) -> NDArray[np.float32]:
    """The query's vector, if it may be compared with the collection's; else raises Unavailable."""
    if embedded is None or state.vectors is None:
        raise Unavailable("The vectors of this collection are not complete yet; try again.")
    identity, vector = embedded
    if identity != state.embedding_set:
        raise Unavailable(
            "The documents are being embedded anew for another model; mode lexical works."
        )
    return vector


class Pgvector:
    """The vector tables of PostgreSQL."""

    def __init__(self, config: AidbConfig) -> None:
        self._exact_below = config.dense_exact_below
        self._ef_search = config.hnsw_ef_search
        self._storage = config.vector_storage

    async def find(
        self,
        connection: Connection,
        state: State,
        scope: Scope,
        vector: NDArray[np.float32],
        limit: int,
    ) -> Nearest:
        """As DenseEngine says."""
        assert state.vectors is not None, "what `comparable` has seen"
        index = None
        if not await self._few(connection, state, scope):
            index = await self._index(connection, state, limit)
        statement = _EXACT if index is None else _STATEMENTS[index]
        assert state.embedding_set is not None, "a set that has a table"
        cursor = await connection.execute(
            sql.SQL(statement).format(
                table=sql.Identifier(state.vectors),
                restriction=scope.restrict("v"),
                dimension=sql.Literal(state.embedding_set.dimension),
            ),
            {
                **scope.arguments,
                "vector": vector,
                "collection": state.id,
                "limit": limit,
                "more": int(limit * RERANK),
            },
            binary=True,
        )
        rows = await cursor.fetchall()
        return Nearest([(int(chunk), round(float(score), 6)) for chunk, score in rows], "pgvector")

    async def _index(self, connection: Connection, state: State, limit: int) -> Storage | None:
        """Make ready for a scan of the table's index: the wanted one, else the other, if valid."""
        assert state.vectors is not None, "what `comparable` has seen"
        cursor = await connection.execute(
            _PREPARE,
            {
                "ef": str(min(max(self._ef_search, limit), MAX_EF_SEARCH)),
                "tuples": str(MAX_SCAN_TUPLES),
                "table": state.vectors,
            },
        )
        row = await cursor.fetchone()
        assert row is not None, "a SELECT without FROM is one row"
        for storage in sorted(_STATEMENTS, key=lambda name: name != self._storage):
            if index_name(state.vectors, storage) in row[4]:
                return storage
        return None

    async def _few(self, connection: Connection, state: State, scope: Scope) -> bool:
        """Whether few enough chunks can be hits to compare them all."""
        most = self._exact_below
        return state.chunks < most or await allowed(connection, state, scope, most) < most


async def allowed(connection: Connection, state: State, scope: Scope, most: int) -> int:
    """How many chunks of the collection can be hits; those that pass a filter counted to `most`."""
    if scope.allowed is None:
        return state.chunks
    cursor = await connection.execute(
        sql.SQL("SELECT count(*) FROM ({} LIMIT %(most)s) AS few").format(scope.allowed),
        {**scope.arguments, "collection": state.id, "most": most},
    )
    row = await cursor.fetchone()
    assert row is not None, "a count is one row"
    return int(row[0])
