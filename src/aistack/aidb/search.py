"""Hybrid search: a dense leg and a BM25 leg over the same chunks, fused.

Everything that a result shows is read in one snapshot (REPEATABLE READ), together with the epoch of
the collection, so that a result is of one state of the collection and may be kept under that epoch.

A hybrid search whose query cannot be compared with the chunks now (the embeddings service is away,
or the chunks are being embedded anew for another model) is answered by the lexical leg alone, says
so, and is not kept.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache, partial
from typing import Any, Final, NamedTuple, Protocol, Self

import numpy as np
import structlog
from numpy.typing import NDArray
from prometheus_client import Counter, Histogram

from aistack.aidb import bm25, dense, fusion, search_page, search_state
from aistack.aidb.analysis import analyze
from aistack.aidb.collection_settings import CollectionSettings
from aistack.aidb.dense import DenseEngine, Nearest, Pgvector, Scope, State
from aistack.aidb.documents import DEFAULT_COLLECTION
from aistack.aidb.filters import check_fields
from aistack.aidb.fusion import Fused
from aistack.aidb.rerank import Judge, Plan, Reranking
from aistack.aidb.search_cache import SearchCache
from aistack.aidb.search_flights import Flights
from aistack.aidb.search_model import Answer, SearchRequest, SearchResult
from aistack.aidb.search_state import Stamp
from aistack.clients.postgres import Connection, Postgres
from aistack.clients.resilience import Full
from aistack.config import AidbConfig
from aistack.models import EmbeddingSet
from aistack.service.context import remaining
from aistack.service.errors import NotFound, Unavailable

log = structlog.get_logger()

SEARCHES = Counter("aistack_aidb_searches_total", "Searches answered", ["mode", "cached"])
JOINED = Counter(
    "aistack_aidb_searches_joined_total", "Searches that shared the work of an equal one under way"
)
DEGRADED = Counter(
    "aistack_aidb_degraded_searches_total", "Hybrid searches without one of their legs", ["leg"]
)
PHASE_SECONDS = Histogram(
    "aistack_aidb_search_seconds",
    "Seconds of one phase of a search that was not cached",
    ["phase"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)

#: A hybrid search waits for its vector half of the time that its request has, this long at most.
EMBED_SECONDS: Final = 10.0

#: How long a search whose lexical leg is there keeps its connection for the query's vector.
GRACE_SECONDS: Final = 0.05

_SNAPSHOT: Final = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY"

Embedded = tuple[EmbeddingSet, NDArray[np.float32]]


class QueryEncoder(Protocol):
    """The embeddings service, as its client shows it."""

    async def embed_in_set(
        self, texts: list[str], *, seconds: float | None = None
    ) -> tuple[EmbeddingSet, NDArray[np.float32]]:
        """(n, d) float32 of unit length, and the set they belong to.

        Raises a StackError, after `seconds` Unavailable.
        """
        ...


class _Seen(NamedTuple):
    """The collection in the snapshot of `connection`, and which of its chunks may be hits."""

    connection: Connection
    state: State
    settings: CollectionSettings
    scope: Scope

    @property
    def stamp(self) -> Stamp:
        """What tells this state from others."""
        return Stamp.of(self.state)


class _Lexical(NamedTuple):
    """The lexical leg, and the state of the collection that it is of."""

    stamp: Stamp
    ranking: fusion.Ranking


class _Found(NamedTuple):
    """A result of the state `stamp`, whether it may be kept under it, and what is to be read before
    its hits are the page's."""

    result: SearchResult
    stamp: Stamp
    keep: bool
    passages: Sequence[str]


class _Vector:
    """The query's vector, which is made while something else is done; nothing until `begin`."""

    def __init__(self, embed: Callable[[], Coroutine[Any, Any, Embedded | None]]) -> None:
        self._embed = embed
        self._task: asyncio.Task[Embedded | None] | None = None

    def begin(self) -> None:
        """Once; again is harmless."""
        if self._task is None:
            self._task = asyncio.create_task(self._embed())

    async def wait(self, seconds: float | None = None) -> bool:
        """Whether there is nothing to wait for any more, after `seconds` at most."""
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=seconds)
        return self._task is None or self._task.done()

    def result(self) -> Embedded | None:
        """Raises what the embedding raised. None where there is none."""
        return None if self._task is None else self._task.result()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)


class Searcher:
    """Answers searches over one database; holds nothing but its clients and what is under way."""

    def __init__(
        self,
        postgres: Postgres,
        encoder: QueryEncoder,
        cache: SearchCache,
        config: AidbConfig,
        engine: DenseEngine | None = None,
        judge: Judge | None = None,
    ) -> None:
        self._postgres = postgres
        self._encoder = encoder
        self._cache = cache
        self._config = config
        self._engine: DenseEngine = engine or Pgvector(config)
        self._reranking = Reranking(judge)
        self._flights: Flights[Answer] = Flights()

    async def search(self, request: SearchRequest) -> SearchResult:
        """As `answer`, read: for callers in this process."""
        return SearchResult.load((await self.answer(request)).body())

    async def answer(self, request: SearchRequest) -> Answer:
        """Answer from the cache where the collection has not changed since, else search.

        Raises NotFound for an unknown collection, Unprocessable for a filter on a field that it
        does not have, Unavailable when mode dense has no vector to search with.
        """
        began = time.monotonic()
        key = self._cache.key(request)
        looked = await self._cache.look(key, request.collection)
        if looked is None:
            return replace(_nothing(request), seconds=time.monotonic() - began)
        stamp, chunks, wire = looked
        if wire is not None:
            _cached(request.mode).inc()
            return Answer(wire, cached=True, seconds=time.monotonic() - began)
        made, joined = await self._flights.join(
            (key, stamp), partial(self._make, request, key, chunks > 0)
        )
        JOINED.inc(joined)
        SEARCHES.labels(request.mode, "false").inc()
        return replace(made, seconds=time.monotonic() - began)

    async def _make(self, request: SearchRequest, key: bytes, filled: bool) -> Answer:
        """The answer of a search that is not cached; `filled` if there is anything to find."""
        phases: dict[str, float] = {}
        found = await self._find(request, filled, phases)
        if found is None:
            return _nothing(request)
        result = found.result
        if found.passages:
            # Not under the transaction: a cross-encoder takes its time.
            with _phase(phases, "rerank"):
                result = await self._reranking.applied(request, result, found.passages)
        wire = result.wire()
        if result.degraded:
            for leg in result.degraded:
                DEGRADED.labels(leg).inc()
        elif found.keep and not found.passages:
            # Nothing here knows whether the reranking model is still the same at the next look.
            await self._cache.put(key, found.stamp, wire)
        return Answer(wire, cached=False, seconds=0.0, phases=phases)

    async def _find(
        self, request: SearchRequest, filled: bool, phases: dict[str, float]
    ) -> _Found | None:
        """None for a collection that is not there.

        The query is embedded while the lexical leg is read. Where that takes longer, the connection
        goes back meanwhile; the ranking still holds if the collection has not changed since.
        """
        lexical: _Lexical | None = None
        async with _Vector(partial(self._embed, request, phases)) as vector:
            if filled and request.mode != "lexical":
                vector.begin()
            if request.mode == "dense":
                await vector.wait()
            while True:
                async with self._postgres.connection("search") as connection:
                    seen = await self._seen(connection, request)
                    if seen is None:
                        return None
                    if seen.state.chunks and request.mode != "lexical":
                        # The first document may have come since the look.
                        vector.begin()
                    if request.mode != "dense" and (lexical is None or lexical.stamp != seen.stamp):
                        with _phase(phases, "lexical"):
                            lexical = await self._lexical(seen, request)
                    if await vector.wait(GRACE_SECONDS):
                        return await self._search(seen, request, lexical, vector.result(), phases)
                await vector.wait()

    async def _seen(self, connection: Connection, request: SearchRequest) -> _Seen | None:
        """The collection from now on; None where it is not there. Raises Unprocessable."""
        await connection.execute(_SNAPSHOT)
        state = await search_state.read(connection, request.collection)
        if state is None:
            return None
        if state.chunks:
            await check_fields(connection, state.id, request.collection, request.filters)
        settings = CollectionSettings.of(self._config, state.settings)
        return _Seen(connection, state, settings, Scope.of(request.filters))

    async def _embed(self, request: SearchRequest, phases: dict[str, float]) -> Embedded | None:
        """The query's vector; None where a hybrid search goes without."""
        # What hangs must leave the lexical leg its time.
        seconds = None if request.mode == "dense" else remaining(2 * EMBED_SECONDS) / 2
        try:
            with _phase(phases, "embed"):
                identity, vectors = await self._encoder.embed_in_set(
                    [request.query], seconds=seconds
                )
        except (Unavailable, Full) as error:
            if request.mode == "dense":
                raise
            log.warning("search_without_vector", reason=type(error).__name__)
            return None
        return identity, vectors[0]

    async def _search(
        self,
        seen: _Seen,
        request: SearchRequest,
        lexical: _Lexical | None,
        embedded: Embedded | None,
        phases: dict[str, float],
    ) -> _Found:
        connection, state, settings, _ = seen
        rankings: dict[str, fusion.Ranking] = {}
        degraded: tuple[str, ...] = ()
        nearest: Nearest | None = None
        if request.mode != "lexical":
            with _phase(phases, "dense"):
                nearest = await self._dense(seen, request, embedded)
            if nearest is None:
                degraded = ("dense",)
            else:
                rankings["dense"] = nearest.ranking
                degraded = ("qdrant",) if nearest.degraded else ()
        if lexical is not None:
            rankings["lexical"] = lexical.ranking
        with _phase(phases, "fuse"):
            fused = _fused(request, rankings, settings)
            kept, duplicates = await search_page.without_duplicates(
                connection, fused, request.collapse or settings.collapse
            )
        plan = Plan.of(request, settings)
        window = kept[plan.window]
        with _phase(phases, "hits"):
            hits = await search_page.read(
                connection, window, duplicates, first_rank=plan.window.start + 1
            )
            passages = await plan.passages(connection, window)
        after = min(request.offset + request.limit, len(kept))
        result = SearchResult(
            query=request.query,
            mode=request.mode,
            collection=request.collection,
            epoch=state.epoch,
            total=len(kept),
            embedding_set=state.embedding_set.id if state.embedding_set else None,
            hits=tuple(hits),
            next_offset=after if request.offset < after < len(kept) else None,
            dense_engine=nearest.engine if nearest else None,
            degraded=degraded,
        )
        return _Found(result, seen.stamp, nearest is None or nearest.keep, passages)

    async def _dense(
        self, seen: _Seen, request: SearchRequest, embedded: Embedded | None
    ) -> Nearest | None:
        """The dense leg; None where a hybrid search must go without. Raises Unavailable."""
        connection, state, _, scope = seen
        if state.chunks == 0:
            return Nearest([], "pgvector")
        try:
            vector = dense.comparable(state, embedded)
        except Unavailable:
            if request.mode == "dense":
                raise
            return None
        return await self._engine.find(connection, state, scope, vector, self._config.candidates)

    async def _lexical(self, seen: _Seen, request: SearchRequest) -> _Lexical:
        connection, state, settings, scope = seen
        ranking = await bm25.top(
            connection,
            state.id,
            analyze(request.query, settings.language),
            chunks=state.chunks,
            total_length=state.total_length,
            limit=self._config.candidates,
            parameters=settings.bm25,
            restriction=scope.restrict("p"),
            arguments=scope.arguments,
        )
        return _Lexical(seen.stamp, ranking)


def _fused(
    request: SearchRequest, rankings: Mapping[str, fusion.Ranking], settings: CollectionSettings
) -> list[Fused]:
    if request.mode != "hybrid":
        fused = fusion.single(request.mode, rankings[request.mode])
    elif settings.fusion == "dbsf":
        fused = fusion.distribution_based(rankings, weights=settings.weights)
    else:
        fused = fusion.reciprocal_rank(rankings, k=settings.rrf_k, weights=settings.weights)
    if request.min_score is None:
        return fused
    return [hit for hit in fused if hit.score >= request.min_score]


def _nothing(request: SearchRequest) -> Answer:
    if request.collection != DEFAULT_COLLECTION:
        raise NotFound(
            f"There is no collection {request.collection!r}: make it with POST /v1/collections."
        )
    # The default collection is made with its first document; until then it is empty.
    empty = SearchResult(request.query, request.mode, request.collection, 0, 0, None, (), None)
    return Answer(empty.wire(), cached=False, seconds=0.0)


@cache
def _cached(mode: str) -> Counter:
    return SEARCHES.labels(mode, "true")


@contextmanager
def _phase(phases: dict[str, float], name: str) -> Iterator[None]:
    began = time.perf_counter()
    yield
    phases[name] = time.perf_counter() - began
    PHASE_SECONDS.labels(name).observe(phases[name])
