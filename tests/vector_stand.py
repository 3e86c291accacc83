"""The engines of vectors behind one search: pgvector, and Qdrant kept in step with PostgreSQL."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal
from uuid import UUID

from aistack.aidb import embedding_sets, filters, parsing
from aistack.aidb.analysis import ENGLISH, analyzer_version
from aistack.aidb.chunking import Chunker
from aistack.aidb.dense import Pgvector
from aistack.aidb.ingest import indexed
from aistack.aidb.qdrant_engine import QdrantEngine
from aistack.aidb.qdrant_reconcile import Reconciler
from aistack.aidb.qdrant_sync import IndexSync, Layouts
from aistack.aidb.search import Searcher
from aistack.aidb.search_cache import SearchCache
from aistack.aidb.search_model import SearchRequest, SearchResult
from aistack.aidb.swap import Swap, swap_documents
from aistack.clients.qdrant import Qdrant
from aistack.config import AidbConfig
from aistack.config_vectors import QdrantConfig
from fix_search import Bench

Engine = Literal["pgvector", "qdrant"]


@dataclass(slots=True)
class Keeper:
    """What keeps a Qdrant in step, and what asks it."""

    bench: Bench
    config: QdrantConfig
    qdrant: Qdrant = field(init=False)
    sync: IndexSync = field(init=False)
    reconciler: Reconciler = field(init=False)

    def __post_init__(self) -> None:
        postgres = self.bench.corpus.postgres
        self.qdrant = Qdrant(self.config)
        layouts = Layouts(self.qdrant)
        self.sync = IndexSync(postgres, self.qdrant, layouts)
        self.reconciler = Reconciler(postgres, self.qdrant, layouts, self.sync)


@dataclass(slots=True)
class EngineBench:
    """A corpus that is searched by one engine; `keeper` where that is Qdrant."""

    bench: Bench
    engine: Engine
    keeper: Keeper | None = None

    async def settle(self) -> None:
        """Until the engine has all that PostgreSQL has, and an index over it."""
        await self.bench.index()
        if self.keeper is not None:
            await self.keeper.reconciler.settle()

    async def search(self, query: str, **members: Any) -> SearchResult:
        """One search, nothing of it cached; `exact` compares with all, else an index is used."""
        exact = members.pop("exact", True)
        candidates = members.pop("candidates", 100)
        config = AidbConfig(
            cache_seconds=0, dense_exact_below=20_000 if exact else 0, candidates=candidates
        )
        raw = members.pop("filters", None)
        collection = members.pop("collection", "default")
        request = SearchRequest(query, collection, filters=filters.parse(raw), **members)
        engine = None
        if self.keeper is not None:
            engine = QdrantEngine(
                self.keeper.qdrant,
                Pgvector(config),
                config,
                seconds=self.keeper.config.timeout_seconds,
            )
        postgres = self.bench.corpus.postgres
        cache = SearchCache(postgres, config, self.engine)
        searcher = Searcher(postgres, self.bench.encoder, cache, config, engine=engine)
        return await searcher.search(request)

    async def replace(self, document: UUID, text: str) -> None:
        """The next version of a document, of plain text."""
        encoder, config = self.bench.encoder, AidbConfig()
        chunker = Chunker(encoder.files.tokenizer, config.chunk_tokens, config.chunk_overlap)
        parsed = parsing.parse(text.encode(), "text/plain")
        chunks = [indexed(chunk, ENGLISH) for chunk in chunker.chunk(parsed)]
        vectors = encoder.encode([chunk.embed_prefix + chunk.text for chunk in chunks])
        async with self.bench.corpus.postgres.connection("test.replace") as connection:
            table = await embedding_sets.register(connection, encoder.encoder.identity)
            cursor = await connection.execute(
                "UPDATE documents SET version = version + 1, state = 'pending', progress = 0"
                " WHERE id = %s RETURNING version",
                [document],
            )
            row = await cursor.fetchone()
            assert row is not None, "a document"
            analyzer = analyzer_version(ENGLISH)
            swap = Swap(document, row[0], None, parsed.text, chunks, vectors, analyzer)
            assert await swap_documents(connection, [swap], table) == [True]
