"""A real PostgreSQL, Valkey and model under a searcher in this process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from aistack.aidb import filters
from aistack.aidb.search import Searcher
from aistack.aidb.search_cache import SearchCache
from aistack.aidb.search_model import Hit, SearchRequest, SearchResult
from aistack.aidb.vector_index import VectorIndexes
from aistack.config import AidbConfig, PostgresConfig
from aistack.models import ModelFiles
from bench.corpus import Corpus, LocalEncoder, Source, open_corpus
from fix_postgres import PostgresServer


@pytest.fixture(scope="session")
def local_encoder(model_files: ModelFiles, graph_state: Path) -> LocalEncoder:
    """The packaged model, in this process."""
    return LocalEncoder(threads=2, state=graph_state)


@dataclass(slots=True)
class Bench:
    """A corpus and what searches it."""

    corpus: Corpus
    encoder: LocalEncoder
    dsn: str

    def searcher(self, **settings: Any) -> Searcher:
        """A searcher with its own configuration, over the common cache."""
        config = AidbConfig(**settings)
        cache = SearchCache(self.corpus.postgres, config)
        return Searcher(self.corpus.postgres, self.encoder, cache, config)

    async def search(self, query: str, **members: Any) -> SearchResult:
        """One search; `filters` as on the wire, `settings` of the searcher."""
        settings = members.pop("settings", {})
        raw = members.pop("filters", None)
        collection = members.pop("collection", "default")
        request = SearchRequest(query, collection, filters=filters.parse(raw), **members)
        return await self.searcher(**settings).search(request)

    async def index(self) -> None:
        """Build the HNSW index, as aidb does once there are enough chunks."""
        config = AidbConfig(dense_exact_below=0, index_workers=0)
        await VectorIndexes(self.corpus.postgres, config).build()

    def rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """What the database itself says."""
        with psycopg.connect(self.dsn) as connection:
            return connection.execute(query.encode(), values).fetchall()


def sources(result: SearchResult) -> list[str]:
    """Where the hits are from, best first."""
    return [hit.source for hit in result.hits]


def named(result: SearchResult, source: str) -> Hit:
    """The first hit from `source`."""
    return next(hit for hit in result.hits if hit.source == source)


@asynccontextmanager
async def open_bench(
    server: PostgresServer, name: str, encoder: LocalEncoder
) -> AsyncIterator[Bench]:
    """Over the database `name`."""
    database = PostgresConfig(host=str(server.directory), user="postgres", database=name)
    async with open_corpus(database, encoder, AidbConfig()) as corpus:
        yield Bench(corpus, encoder, server.dsn(name))


@pytest.fixture
async def bench(
    postgres_server: PostgresServer,
    migrated_template: str,
    local_encoder: LocalEncoder,
) -> AsyncIterator[Bench]:
    """An empty database with a searcher, for one test."""
    name = await asyncio.to_thread(postgres_server.create, migrated_template)
    async with open_bench(postgres_server, name, local_encoder) as made:
        yield made
    await asyncio.to_thread(postgres_server.drop, name)


LAKES = [
    Source(
        "tarn.md",
        "# Tarns\n\nA tarn is a small lake in the mountains.\n",
        "text/markdown",
        metadata={"year": 2020, "tags": ["water", "hills"], "open": True, "author": "Ann"},
    ),
    Source(
        "fell.txt", "A fell is a high and barren hill.", metadata={"year": 2024, "tags": ["hills"]}
    ),
    Source(
        "nginx.md",
        "# Web\n\nSet `services.nginx.enable` to true to serve pages with nginx.\n",
        "text/markdown",
        title="Web server",
        metadata={"year": 2024.5, "author": "Bob"},
    ),
    Source("keys.txt", "Access keys are rotated every ninety days.", metadata={"year": "old"}),
]

#: Filters as on the wire, and the sources of LAKES that pass.
FILTERS: list[tuple[dict[str, Any], set[str]]] = [
    ({"year": {"eq": 2020}}, {"tarn.md"}),
    ({"year": {"eq": "2020"}}, set()),
    ({"year": {"gte": 2024}}, {"fell.txt", "nginx.md"}),
    ({"year": {"gt": 2024, "lt": 2025}}, {"nginx.md"}),
    ({"year": {"lte": "older"}}, {"keys.txt"}),
    ({"tags": {"eq": "hills"}}, {"tarn.md", "fell.txt"}),
    ({"tags": {"in": ["water", "none"]}}, {"tarn.md"}),
    ({"open": {"eq": True}}, {"tarn.md"}),
    ({"open": {"eq": 1}}, set()),
    ({"author": {"exists": True}}, {"tarn.md", "nginx.md"}),
    ({"author": {"exists": False}}, {"fell.txt", "keys.txt"}),
    ({"author": {"eq": "Ann"}, "year": {"lt": 2021}}, {"tarn.md"}),
    ({"absent": {"exists": False}}, {"tarn.md", "fell.txt", "nginx.md", "keys.txt"}),
    ({'o\'dd "key" $ %s {}': {"exists": True}}, set()),
    ({"source": {"in": ["fell.txt", "keys.txt"]}}, {"fell.txt", "keys.txt"}),
    ({"source": {"gte": "keys", "lt": "o"}}, {"keys.txt", "nginx.md"}),
    ({"title": {"eq": "Web server"}}, {"nginx.md"}),
    ({"title": {"eq": "Tarns"}}, {"tarn.md"}),
    ({"content_type": {"eq": "text/markdown"}}, {"tarn.md", "nginx.md"}),
    ({"content_type": {"exists": False}}, set()),
]
