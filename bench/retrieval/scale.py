"""A large collection: latency by mode, HNSW against exact, a filter that keeps 1 %.

Recall is of given vectors through the service's own statements, with and without the index; the
query vectors are drawn as those of the chunks are.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
import time
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from aistack.aidb import filters
from aistack.aidb.search_model import SearchRequest
from aistack.aidb.vector_index import VectorIndexes
from aistack.config import AidbConfig
from aistack.models import EmbeddingSet
from bench.embeddings.bars import Figure
from bench.retrieval.large import COLLECTION
from bench.retrieval.stand import InProcess, Stand, body, milliseconds
from bench.retrieval.synthetic import SLICES, Maker, anew

QUERIES = 100
TOP = 10
BUILD_SECONDS = 1800.0
INDEX_SECONDS = 0.5


class Given:
    """In the place of the embeddings service: the vector of a query is known beforehand."""

    def __init__(self, identity: EmbeddingSet, vectors: Mapping[str, NDArray[np.float32]]) -> None:
        self._identity = identity
        self._vectors = vectors

    async def embed_in_set(
        self, texts: Sequence[str], *, seconds: float | None = None
    ) -> tuple[EmbeddingSet, NDArray[np.float32]]:
        """(n, 384) float32."""
        return self._identity, np.stack([self._vectors[text] for text in texts])


def measure(stand: Stand, chunks: int) -> list[Figure]:
    """Figures of one collection."""
    maker = anew(2)
    queries = maker.queries(QUERIES)
    vectors = dict(zip(queries, maker.vectors(QUERIES), strict=True))
    built = index(stand)
    found = [Figure("HNSW index, seconds to build", built, "s")] if built else []
    inside = InProcess(stand, Given(active_set(stand), vectors))
    try:
        found += recall(inside, queries)
        found += filtered(inside, queries)
    finally:
        inside.close()
    return found + latency(stand, maker)


def active_set(stand: Stand) -> EmbeddingSet:
    """The one that searches use."""
    with stand.database() as connection:
        row = connection.execute(
            "SELECT model, revision, engine, precision, dimension, normalized"
            " FROM embedding_sets WHERE state = 'active'"
        ).fetchone()
    assert row is not None
    return EmbeddingSet(*row)


def index(stand: Stand) -> float | None:
    """Have an index, whatever the size; the seconds that its build took, None if it was there."""
    if _indexed(stand):
        return None
    began = time.monotonic()
    asyncio.run(_build(stand, began))
    return time.monotonic() - began


async def _build(stand: Stand, began: float) -> None:
    from aistack.clients.postgres import Postgres

    postgres = Postgres(stand.aidb.postgres)
    await postgres.open()
    # The service's own way; it may be at it already, then this one waits for it.
    indexes = VectorIndexes(
        postgres, AidbConfig(**{**stand.aidb.aidb.model_dump(), "dense_exact_below": 1})
    )
    try:
        while not _indexed(stand):
            await indexes.turn()
            if time.monotonic() - began > BUILD_SECONDS:
                raise SystemExit(f"no index after {BUILD_SECONDS:.0f} s")
            print(f"\r  index: {time.monotonic() - began:.0f} s ", end="", file=sys.stderr)
            await asyncio.sleep(INDEX_SECONDS)
        print(file=sys.stderr)
    finally:
        await indexes.aclose()
        await postgres.aclose()


def _indexed(stand: Stand) -> bool:
    with stand.database() as connection:
        row = connection.execute(
            "SELECT count(*) FROM embedding_sets s JOIN pg_index i"
            " ON i.indrelid = to_regclass(s.table_name) JOIN pg_class c ON c.oid = i.indexrelid"
            " WHERE s.state = 'active' AND i.indisvalid AND c.relname LIKE '%%hnsw%%'"
        ).fetchone()
    return row is not None and row[0] > 0


def recall(inside: InProcess, queries: Sequence[str]) -> list[Figure]:
    """Of the ten nearest, and what each way takes in process."""
    ways = {
        "HNSW": inside.searcher(dense_exact_below=0),
        "exact": inside.searcher(dense_exact_below=10**9),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    shares = []
    for query in queries:
        hits = {}
        for name, search in ways.items():
            request = SearchRequest(query, COLLECTION, "dense", limit=TOP)
            began = time.perf_counter()
            result = inside.run(search.search(request))
            seconds[name].append(time.perf_counter() - began)
            hits[name] = {hit.chunk_id for hit in result.hits}
        shares.append(len(hits["HNSW"] & hits["exact"]) / TOP)
    found = [Figure("recall@10, HNSW against exact", sum(shares) / len(shares), at_least=0.99)]
    for name, values in seconds.items():
        for share, value in milliseconds(values).items():
            found.append(Figure(f"dense in process, {name}, {share}", value, "ms"))
    return found


def filtered(inside: InProcess, queries: Sequence[str]) -> list[Figure]:
    """Whether a filter that keeps 1 % still gives as many hits as were asked for."""
    search = inside.searcher(dense_exact_below=0)
    short = 0
    for number, query in zip(range(SLICES), itertools.cycle(queries)):
        only = filters.parse({"slice": {"eq": number}})
        request = SearchRequest(query, COLLECTION, "dense", limit=TOP, filters=only)
        result = inside.run(search.search(request))
        right = all(hit.metadata["slice"] == number for hit in result.hits)
        short += not right or len(result.hits) < TOP
    return [Figure("searches short of 10 hits, filter of 1 %, HNSW", short, at_most=0)]


def latency(stand: Stand, maker: Maker) -> list[Figure]:
    """Of the service, for a query that is new to it."""
    route = stand.route()
    seconds: dict[str, list[float]] = {"dense": [], "lexical": [], "hybrid": []}
    for query in maker.queries(QUERIES):
        for mode, values in seconds.items():
            values.append(route.post("/v1/search", body(query, COLLECTION, mode=mode))[0])
    route.close()
    return [
        Figure(f"service, {mode}, {share}", value, "ms")
        for mode, values in seconds.items()
        for share, value in milliseconds(values).items()
    ]
