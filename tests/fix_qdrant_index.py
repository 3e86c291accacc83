"""Qdrant as the derived index of a filled database: what aidb has, in this process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import psycopg

from aistack.aidb import filters, store
from aistack.aidb.qdrant_layout import collection_name
from aistack.aidb.qdrant_parts import QdrantParts, qdrant_parts
from aistack.aidb.search import Searcher
from aistack.aidb.search_cache import SearchCache
from aistack.aidb.search_model import SearchRequest, SearchResult
from aistack.config import AidbConfig, Config
from aistack.config_vectors import QdrantConfig, VectorsConfig
from fix_qdrant import QdrantServer
from fix_search import Bench

OPEN = "SELECT count(*) FROM outbox WHERE done_at IS NULL"


@dataclass(slots=True)
class Indexed:
    """A database and the parts that keep Qdrant beside it."""

    bench: Bench
    parts: QdrantParts
    config: Config

    @property
    def collection(self) -> str:
        """The name of the collection of the one embedding set."""
        return collection_name(
            self.value("SELECT id FROM embedding_sets"), self.parts.client.prefix
        )

    async def settle(self) -> None:
        """As the loop does, until there is nothing more to do."""
        await self.parts.keeper.settle()

    async def search(self, query: str, **members: Any) -> SearchResult:
        """One search by a searcher with Qdrant; `filters` as on the wire."""
        raw = members.pop("filters", None)
        collection = members.pop("collection", "default")
        cache = SearchCache(self.bench.corpus.postgres, self.config.aidb, "qdrant")
        searcher = Searcher(
            self.bench.corpus.postgres,
            self.bench.encoder,
            cache,
            self.config.aidb,
            self.parts.engine,
        )
        request = SearchRequest(query, collection, filters=filters.parse(raw), **members)
        return await searcher.search(request)

    def value(self, query: str, *values: object) -> Any:
        """The first column of the first row that the database has for it."""
        return self.bench.rows(query, *values)[0][0]

    def change(self, statement: str, *values: object) -> None:
        """Something done to the database behind everybody's back."""
        with psycopg.connect(self.bench.dsn) as connection:
            connection.execute(statement.encode(), values)

    async def ids(self) -> list[int]:
        """Of the points that Qdrant has."""
        found, following = await self.parts.client.page(
            self.collection, start=0, limit=10_000, field="mark"
        )
        assert following is None
        return [point for point, _ in found]

    def chunks(self) -> list[int]:
        """Of the chunks that PostgreSQL has."""
        return [row[0] for row in self.bench.rows("SELECT id FROM chunks ORDER BY id")]


@asynccontextmanager
async def indexed(
    bench: Bench, server: QdrantServer, *, aidb: AidbConfig | None = None, **qdrant: Any
) -> AsyncIterator[Indexed]:
    """The parts over `bench`; nothing is built yet."""
    given = {**server.settings(), "timeout_seconds": 10, **qdrant}
    vectors = VectorsConfig(engine="qdrant", qdrant=QdrantConfig(**given))
    config = Config(aidb=aidb or AidbConfig(), vectors=vectors)
    parts = qdrant_parts(config, bench.corpus.postgres)
    try:
        yield Indexed(bench, parts, config)
    finally:
        await parts.client.aclose()


async def delete(made: Indexed, source: str) -> None:
    """As the route does."""
    document = made.value("SELECT id FROM documents WHERE source = %s", source)
    async with made.bench.corpus.postgres.connection("test.delete") as connection:
        await store.delete_document(connection, document)


def breaker(made: Indexed) -> str:
    return made.parts.client.dependency.state
