"""The parts of aidb and their life: what is made, in which order it starts and stops."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from functools import partial

import structlog

from aistack import migrations
from aistack.aidb.chunking import Chunker
from aistack.aidb.ingest import Ingestion, Vectors
from aistack.aidb.jobs import Queue, Worker
from aistack.aidb.search import Searcher, search_settings
from aistack.aidb.search_cache import SearchCache
from aistack.aidb.upkeep import Upkeep
from aistack.aidb.vector_index import VectorIndexes
from aistack.clients.embeddings import EmbeddingsClient
from aistack.clients.http import PeerClient
from aistack.clients.postgres import Postgres
from aistack.clients.redis import Redis
from aistack.config import Config
from aistack.models import find_model
from aistack.service.app import Need, Runtime
from aistack.service.errors import Overloaded, StartError, Unavailable
from aistack.service.keys import read_key
from aistack.stack import load_stack

log = structlog.get_logger()

PAUSE_SECONDS = 0.5
#: How long a start waits for the embeddings service when everything it must know is in the
#: database.
PATIENCE_SECONDS = 10.0
#: Share of the drain time that running jobs get; what is not done then goes back to the queue.
DRAIN_SHARE = 0.5


class Parts:
    """Everything that exists between start and stop."""

    def __init__(self, config: Config) -> None:
        self.config = config
        entry = load_stack().services["aidb"]
        self.postgres = Postgres(config.postgres)
        self.redis = Redis(config.redis)
        key_file = config.auth.internal_key_file
        peer = PeerClient(
            "embeddings",
            config.peers.embeddings,
            key=None if key_file is None else read_key(key_file),
            timeout=60.0,
            concurrency=32,
        )
        self._embeddings_peer = peer
        self.embeddings = EmbeddingsClient(peer)
        self.vectors = Vectors(self.postgres, self.embeddings, dimension=config.aidb.dimension)
        self.search_cache = SearchCache(
            self.redis, seconds=config.aidb.cache_seconds, settings=search_settings(config.aidb)
        )
        self.searcher = Searcher(self.postgres, self.embeddings, self.search_cache, config.aidb)
        self.queue = Queue(self.postgres)
        drain = config.limits.drain_seconds or entry.limits.drain_seconds
        self.worker = Worker(
            self.queue, concurrency=config.aidb.workers, drain_seconds=drain * DRAIN_SHARE
        )
        self.indexes = VectorIndexes(self.postgres, config.aidb)
        self.upkeep = Upkeep(
            self.postgres, self.queue, self.indexes, retired_days=config.aidb.retired_days
        )
        #: How long a request may take, and with it a delete.
        self.request_seconds = config.limits.request_seconds or entry.limits.request_seconds
        self._working = False
        self._needs = entry.needs

    @property
    def needs(self) -> Sequence[Need]:
        """What `/readyz` asks, required or not as stack.toml says."""
        probes = {
            "postgres": (self.postgres.probe, self.postgres.dependency),
            "embeddings": (self.embeddings.probe, self._embeddings_peer.dependency),
            "redis": (self.redis.probe, self.redis.dependency),
        }
        return [
            Need(name, kind == "required", probe, partial(getattr, guard, "state"))
            for name, kind in self._needs.items()
            for probe, guard in (probes[name],)
        ]

    @property
    def heartbeats(self) -> Sequence[Callable[[], int]]:
        """What must go on for as long as the service lives."""
        return [self.worker.beats, *(loop.beats for loop in self.upkeep.loops)]

    async def start(self, runtime: Runtime) -> None:
        """Wait for the database, check schema and model, begin to work. Raises StartError.

        The kit bounds the waiting by the start time of the service.
        """
        chunker = await asyncio.to_thread(self._chunker)
        await self._check_schema(runtime)
        await self.postgres.open()
        await self._wait_for_embeddings(runtime)
        await self.queue.open()
        ingestion = Ingestion(
            self.postgres,
            self.vectors,
            chunker.chunk,
            most_chunks=self.config.aidb.document_chunks,
        )
        self.queue.handle(ingestion.run)
        self._working = True
        self.worker.start()
        self.indexes.tell = runtime.status
        self.upkeep.start(ingestion)

    async def stop(self) -> None:
        """Stop taking jobs, finish or give back the running ones, close the connections."""
        if self._working:
            await self.upkeep.stop()
            await self.worker.stop()
        await self.embeddings.aclose()
        await self.redis.aclose()
        await self.postgres.aclose()

    def _chunker(self) -> Chunker:
        files = find_model(self.config.aidb.embedding_model)
        tokens = self.config.aidb.chunk_tokens
        if tokens > files.max_tokens:
            raise StartError(
                f"aidb.chunk_tokens is {tokens}, but the model {files.name} reads only"
                f" {files.max_tokens}: set aidb.chunk_tokens to {files.max_tokens} or less"
            )
        return Chunker(files.tokenizer, tokens, self.config.aidb.chunk_overlap)

    async def _check_schema(self, runtime: Runtime) -> None:
        while True:
            try:
                found = await self._schema()
            except (Unavailable, Overloaded):
                runtime.status("waiting for PostgreSQL")
                await asyncio.sleep(PAUSE_SECONDS)
            else:
                break
        if found != migrations.HEAD:
            raise StartError(
                f"the database {self.config.postgres.database!r} is at schema"
                f" {found or 'nothing'}, this version needs {migrations.HEAD}:"
                " run `aistack migrate`"
            )

    async def _schema(self) -> str | None:
        # Not from the pool, whose connections want the types that the schema brings.
        async with self.postgres.unpooled("schema.check") as connection:
            cursor = await connection.execute("SELECT to_regclass('alembic_version') IS NOT NULL")
            row = await cursor.fetchone()
            if row is None or not row[0]:
                return None
            cursor = await connection.execute("SELECT version_num FROM alembic_version")
            row = await cursor.fetchone()
            return None if row is None else str(row[0])

    async def _wait_for_embeddings(self, runtime: Runtime) -> None:
        began = time.monotonic()
        while not await self._refreshed():
            runtime.status("waiting for the embeddings service")
            patient = time.monotonic() - began < PATIENCE_SECONDS
            if not patient and await self._knows_its_set():
                # Lexical search works and uploads are kept; the rest comes back with the service.
                log.warning("started_without_embeddings")
                return
            await asyncio.sleep(PAUSE_SECONDS)

    async def _refreshed(self) -> bool:
        # On a cold start both begin at once, and the model takes longer to load than we do: that is
        # no failure, and is not asked for under the breaker.
        if not await self.embeddings.ready():
            log.info("waiting_for_embeddings")
            return False
        try:
            await self.vectors.refresh()
        except (Unavailable, Overloaded):
            return False
        return True

    async def _knows_its_set(self) -> bool:
        async with self.postgres.connection("embedding_set.active") as connection:
            cursor = await connection.execute(
                "SELECT 1 FROM embedding_sets WHERE state = 'active' AND dimension = %s",
                [self.config.aidb.dimension],
            )
            return await cursor.fetchone() is not None
