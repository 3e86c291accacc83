"""Hybrid search: a dense leg and a BM25 leg over the same chunks, fused by reciprocal rank.

Everything that a result shows is read in one snapshot (REPEATABLE READ), together with the epoch of
the collection, so that a result is of one state of the collection and may be kept under that epoch.

The dense leg is exact where few enough chunks can be hits (a small collection, or a filter that
leaves few), else HNSW answers with an iterative scan, so that a filter never starves it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray
from prometheus_client import Counter, Histogram
from psycopg import sql

from aistack.aidb import bm25, fusion
from aistack.aidb.analysis import analyze
from aistack.aidb.bm25 import Bm25
from aistack.aidb.documents import DEFAULT_COLLECTION
from aistack.aidb.filters import Filter
from aistack.aidb.fusion import Fused
from aistack.aidb.search_cache import SearchCache
from aistack.aidb.search_model import Hit, SearchRequest, SearchResult
from aistack.clients.postgres import Connection, Postgres
from aistack.config import AidbConfig
from aistack.models import EmbeddingSet
from aistack.service.errors import NotFound, Unavailable

SEARCHES = Counter("aistack_aidb_searches_total", "Searches answered", ["mode", "cached"])
PHASE_SECONDS = Histogram(
    "aistack_aidb_search_seconds",
    "Seconds of one phase of a search that was not cached",
    ["phase"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)

#: Tuples that an HNSW scan may visit to find enough that pass the filter.
MAX_SCAN_TUPLES: Final = 200_000

_COLLECTION: Final = """
SELECT c.id, c.epoch, c.chunk_count, c.total_length, s.id, s.table_name,
       s.model, s.revision, s.engine, s.precision, s.dimension, s.normalized
  FROM collections c LEFT JOIN embedding_sets s ON s.state = 'active'
 WHERE c.name = %s
"""
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
_ALLOWED: Final = """
SELECT c.id FROM chunks c JOIN documents d ON d.id = c.document_id
 WHERE c.collection_id = %(collection)s AND {where}
"""
_HITS: Final = """
SELECT c.id, c.document_id, d.source, coalesce(d.title, d.parsed_title, d.source),
       d.content_type, c.text, c.heading_path, c.char_start, c.char_end,
       c.page_start, c.page_end, c.line_start, c.line_end, d.metadata
  FROM chunks c JOIN documents d ON d.id = c.document_id WHERE c.id = ANY(%s)
"""


class QueryEncoder(Protocol):
    """The embeddings service, as its client shows it."""

    async def embed_in_set(self, texts: list[str]) -> tuple[EmbeddingSet, NDArray[np.float32]]:
        """(n, d) float32 of unit length, and the set they belong to. Raises a StackError."""
        ...


def search_settings(config: AidbConfig) -> str:
    """All of the configuration that changes a result: part of the key of a cached one."""
    numbers = (config.dense_exact_below, config.hnsw_ef_search, config.candidates)
    return repr(
        (
            numbers,
            config.bm25_k1,
            config.bm25_b,
            config.rrf_k,
            config.dense_weight,
            config.lexical_weight,
        )
    )


@dataclass(frozen=True, slots=True)
class State:
    """What a collection was at one moment. `vectors` is the active set's table, if there is one."""

    id: int
    epoch: int
    chunks: int
    total_length: int
    set_id: int | None
    vectors: str | None
    embedding_set: EmbeddingSet | None


@dataclass(frozen=True, slots=True)
class _Legs:
    restriction: sql.Composable | None
    arguments: dict[str, Any]
    exact: bool


class Searcher:
    """Answers searches over one database; holds no state of its own but its clients."""

    def __init__(
        self, postgres: Postgres, encoder: QueryEncoder, cache: SearchCache, config: AidbConfig
    ) -> None:
        self._postgres = postgres
        self._encoder = encoder
        self._cache = cache
        self._config = config
        self._bm25 = Bm25(config.bm25_k1, config.bm25_b)
        self._weights = {"dense": config.dense_weight, "lexical": config.lexical_weight}

    async def search(self, request: SearchRequest) -> SearchResult:
        """Answer from the cache where the collection has not changed since, else search.

        Raises NotFound for an unknown collection, Unavailable when the query cannot be embedded.
        """
        began = time.monotonic()
        async with self._postgres.connection("search.collection") as connection:
            state = await _state(connection, request.collection)
        if state is None:
            return _nothing(request, began)
        found = await self._cache.get(request, state.id, state.epoch, state.set_id)
        if found is not None:
            SEARCHES.labels(request.mode, "true").inc()
            return found.answered(cached=True, seconds=time.monotonic() - began)
        vector = None
        if request.mode != "lexical" and state.chunks:
            vector = await self._embed(request.query)
        async with self._postgres.connection("search") as connection:
            await connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            state = await _state(connection, request.collection)
            if state is None:
                return _nothing(request, began)
            # The first document may have come since the look: its search wants a vector after all.
            late = vector is None and request.mode != "lexical" and state.chunks > 0
            result = None if late else await self._search(connection, state, request, vector)
        if result is None:
            return await self.search(request)
        await self._cache.put(request, state.id, state.epoch, state.set_id, result)
        SEARCHES.labels(request.mode, "false").inc()
        return result.answered(cached=False, seconds=time.monotonic() - began)

    async def _embed(self, query: str) -> tuple[EmbeddingSet, NDArray[np.float32]]:
        with PHASE_SECONDS.labels("embed").time():
            identity, vectors = await self._encoder.embed_in_set([query])
        return identity, vectors[0]

    async def _search(
        self,
        connection: Connection,
        state: State,
        request: SearchRequest,
        embedded: tuple[EmbeddingSet, NDArray[np.float32]] | None,
    ) -> SearchResult:
        scope = await self._scope(connection, state, request.filters)
        rankings: dict[str, fusion.Ranking] = {}
        if request.mode != "lexical":
            with PHASE_SECONDS.labels("dense").time():
                rankings["dense"] = await self._dense(connection, state, scope, embedded)
        if request.mode != "dense":
            with PHASE_SECONDS.labels("lexical").time():
                rankings["lexical"] = await self._lexical(connection, state, scope, request.query)
        if request.mode == "hybrid":
            fused = fusion.reciprocal_rank(rankings, k=self._config.rrf_k, weights=self._weights)
        else:
            fused = fusion.single(request.mode, rankings[request.mode])
        if request.min_score is not None:
            fused = [hit for hit in fused if hit.score >= request.min_score]
        page = fused[request.offset : request.offset + request.limit]
        with PHASE_SECONDS.labels("hits").time():
            hits = await _hits(connection, page, first_rank=request.offset + 1)
        after = request.offset + len(page)
        return SearchResult(
            query=request.query,
            mode=request.mode,
            collection=request.collection,
            epoch=state.epoch,
            total=len(fused),
            embedding_set=state.embedding_set.id if state.embedding_set else None,
            hits=tuple(hits),
            next_offset=after if page and after < len(fused) else None,
        )

    async def _scope(self, connection: Connection, state: State, filters: Filter) -> _Legs:
        """The filter as a condition on chunk ids, and whether exact dense search is affordable."""
        limit = self._config.dense_exact_below
        if not filters:
            return _Legs(None, {}, state.chunks < limit)
        where, arguments = filters.where()
        allowed = sql.SQL(_ALLOWED).format(where=where)
        exact = state.chunks < limit
        if not exact:
            cursor = await connection.execute(
                sql.SQL("SELECT count(*) FROM ({} LIMIT %(most)s) AS few").format(allowed),
                {**arguments, "collection": state.id, "most": limit},
            )
            row = await cursor.fetchone()
            exact = row is not None and row[0] < limit
        return _Legs(allowed, arguments, exact)

    async def _dense(
        self,
        connection: Connection,
        state: State,
        scope: _Legs,
        embedded: tuple[EmbeddingSet, NDArray[np.float32]] | None,
    ) -> list[tuple[int, float]]:
        if state.chunks == 0:
            return []
        if embedded is None or state.vectors is None:
            raise Unavailable("The vectors of this collection are not complete yet; try again.")
        identity, vector = embedded
        if identity != state.embedding_set:
            raise Unavailable(
                "The documents are being embedded anew for another model; mode lexical works."
            )
        if not scope.exact:
            await connection.execute(
                sql.SQL(
                    "SET LOCAL hnsw.ef_search = {}; SET LOCAL hnsw.iterative_scan = strict_order;"
                    " SET LOCAL hnsw.max_scan_tuples = {}; SET LOCAL hnsw.scan_mem_multiplier = 4"
                ).format(max(self._config.hnsw_ef_search, self._config.candidates), MAX_SCAN_TUPLES)
            )
        statement = sql.SQL(_EXACT if scope.exact else _NEAREST).format(
            table=sql.Identifier(state.vectors), restriction=_restrict("v", scope)
        )
        cursor = await connection.execute(
            statement,
            {
                **scope.arguments,
                "vector": vector,
                "collection": state.id,
                "limit": self._config.candidates,
            },
            binary=True,
        )
        return [(int(chunk), round(float(score), 6)) for chunk, score in await cursor.fetchall()]

    async def _lexical(
        self, connection: Connection, state: State, scope: _Legs, query: str
    ) -> list[tuple[int, float]]:
        return await bm25.top(
            connection,
            state.id,
            analyze(query),
            chunks=state.chunks,
            total_length=state.total_length,
            limit=self._config.candidates,
            parameters=self._bm25,
            restriction=_restrict("p", scope),
            arguments=scope.arguments,
        )


def _restrict(table: str, scope: _Legs) -> sql.Composable:
    if scope.restriction is None:
        return sql.SQL("")
    return sql.SQL("AND {}.chunk_id IN ({})").format(sql.Identifier(table), scope.restriction)


def _nothing(request: SearchRequest, began: float) -> SearchResult:
    if request.collection != DEFAULT_COLLECTION:
        raise NotFound(f"There is no collection {request.collection!r}: make it first.")
    # The default collection is made with its first document; until then it is empty.
    empty = SearchResult(request.query, request.mode, request.collection, 0, 0, None, (), None)
    return empty.answered(cached=False, seconds=time.monotonic() - began)


async def _state(connection: Connection, name: str) -> State | None:
    cursor = await connection.execute(_COLLECTION, [name])
    row = await cursor.fetchone()
    if row is None:
        return None
    identity = None if row[4] is None else EmbeddingSet(*row[6:])
    chunks, total_length, set_id, vectors = row[2:6]
    return State(row[0], row[1], chunks, total_length, set_id, vectors, identity)


async def _hits(connection: Connection, page: list[Fused], *, first_rank: int) -> list[Hit]:
    if not page:
        return []
    cursor = await connection.execute(_HITS, [[hit.chunk_id for hit in page]])
    rows = {row[0]: row for row in await cursor.fetchall()}
    return [
        Hit.of(rank, fused, rows[fused.chunk_id])
        for rank, fused in enumerate(page, start=first_rank)
    ]
