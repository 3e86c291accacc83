"""The parts of aidb and their life: what is made, in which order it starts and stops."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import structlog
from tokenizers import Tokenizer

from aistack import migrations
from aistack.aidb import index_state
from aistack.aidb.chunking import Chunker
from aistack.aidb.ingest import Ingestion
from aistack.aidb.jobs import Queue, Worker
from aistack.aidb.search import Searcher
from aistack.aidb.search_cache import SearchCache
from aistack.aidb.search_memory import SearchMemory
from aistack.aidb.upkeep import Upkeep
from aistack.aidb.upload import Uploads
from aistack.aidb.vector_index import VectorIndexes
from aistack.aidb.vectors import Vectors
from aistack.clients.embeddings import EmbeddingsClient
from aistack.clients.http import PeerClient
from aistack.clients.postgres import Postgres
from aistack.clients.rerank import RerankClient
from aistack.config import Config
from aistack.models import ModelFiles, find_model
from aistack.service.app import Need, Runtime
from aistack.service.errors import Overloaded, StartError, Unavailable
from aistack.service.keys import read_key
from aistack.stack import load_stack

if TYPE_CHECKING:
    from aistack.aidb.qdrant_parts import QdrantParts

log = structlog.get_logger()

PAUSE_SECONDS = 0.5
#: How long a start waits for the embeddings service when everything it must know is in the
#: database.
PATIENCE_SECONDS = 10.0
#: Share of the drain time that running jobs get; what is not done then goes back to the queue.
DRAIN_SHARE = 0.5


#: As the least of aidb.chunk_tokens.
CHUNK_TOKENS_LEAST = 32


def prompt_tokens(files: ModelFiles) -> int:
    """Tokens of the model's prompt for documents; 0 where it has none."""
    prompt = files.prompts.for_input("document")
    if not prompt:
        return 0
    tokenizer = Tokenizer.from_file(str(files.tokenizer))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return len(tokenizer.encode(prompt, add_special_tokens=False))


class Parts:
    """Everything that exists between start and stop."""

    def __init__(self, config: Config) -> None:
        self.config = config
        entry = load_stack().services["aidb"]
        self.postgres = Postgres(config.postgres)
        key_file = config.auth.internal_key_file
        key = None if key_file is None else read_key(key_file)
        peer = PeerClient(
            "embeddings", config.peers.embeddings, key=key, timeout=60.0, concurrency=32
        )
        self._embeddings_peer = peer
        self.embeddings = EmbeddingsClient(peer)
        self.rerank = RerankClient(
            PeerClient("rerank", config.peers.embeddings, key=key, timeout=30.0, concurrency=8)
        )
        self.vectors = Vectors(
            self.postgres, self.embeddings.of("document"), dimension=config.aidb.dimension
        )
        self._memory = SearchMemory(self.postgres)
        self.search_cache = SearchCache(
            self.postgres, config.aidb, config.vectors.engine, memory=self._memory
        )
        #: Where it is the engine of the nearest vectors.
        self.qdrant = _qdrant(config, self.postgres)
        self.searcher = Searcher(
            self.postgres,
            self.embeddings.of("query"),
            self.search_cache,
            config.aidb,
            self.qdrant.engine if self.qdrant else None,
            self.rerank,
        )
        self.uploads = Uploads(config.aidb.document_bytes)
        self.queue = Queue(self.postgres)
        drain = config.limits.drain_seconds or entry.limits.drain_seconds
        self.worker = Worker(
            self.queue, concurrency=config.aidb.workers, drain_seconds=drain * DRAIN_SHARE
        )
        self.indexes = VectorIndexes(self.postgres, config.aidb)
        self.upkeep = Upkeep(
            self.postgres,
            self.queue,
            self.indexes,
            self.search_cache,
            retired_days=config.aidb.retired_days,
            more=[self.qdrant.loop] if self.qdrant else [],
        )
        #: What the model puts before a chunk; known from the start on.
        self.document_prompt = ""
        #: How long a request may take, and with it a delete.
        self.request_seconds = config.limits.request_seconds or entry.limits.request_seconds
        self._ingestion: Ingestion | None = None
        self._working = False
        self._needs = entry.needs

    @property
    def needs(self) -> Sequence[Need]:
        """What `/readyz` asks, required or not as stack.toml says."""
        probes = {
            "postgres": (self.postgres.probe, self.postgres.dependency),
            "embeddings": (self.embeddings.probe, self._embeddings_peer.dependency),
        }
        if self.qdrant:
            probes["qdrant"] = (self.qdrant.client.probe, self.qdrant.client.dependency)
        return [
            Need(name, kind == "required", probe, partial(getattr, guard, "state"))
            for name, kind in self._needs.items()
            if name in probes
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
        self._ingestion = ingestion
        self.queue.handle(ingestion.run)
        await self._begin_index(runtime)
        self._working = True
        self.worker.start()
        self.indexes.tell = runtime.status
        self.upkeep.start(ingestion)

    async def stop(self) -> None:
        """Stop taking jobs, finish or give back the running ones, close the connections."""
        if self._working:
            await self.upkeep.stop()
            await self.worker.stop()
        if self._ingestion is not None:
            await self._ingestion.aclose()
        if self.qdrant:
            await self.qdrant.client.aclose()
        await self.uploads.aclose()
        await self._memory.aclose()
        await self.embeddings.aclose()
        await self.rerank.aclose()
        await self.postgres.aclose()

    async def _begin_index(self, runtime: Runtime) -> None:
        if self.qdrant:
            self.qdrant.sync.register(self.queue)
            self.qdrant.keeper.tell = runtime.status
            return
        # From here on nobody is told of changes: an engine that is chosen again begins anew.
        async with self.postgres.connection("index.forget") as connection:
            await index_state.forget(connection)

    def _chunker(self) -> Chunker:
        files = find_model(self.config.aidb.embedding_model)
        self.document_prompt = files.prompts.for_input("document")
        tokens = self.config.aidb.chunk_tokens
        if tokens > files.max_tokens:
            raise StartError(
                f"aidb.chunk_tokens is {tokens}, but the model {files.name} reads only"
                f" {files.max_tokens}: set aidb.chunk_tokens to {files.max_tokens} or less"
            )
        # What is encoded is the chunk behind the model's prompt for documents, if it has one.
        room = files.max_tokens - prompt_tokens(files)
        if room < CHUNK_TOKENS_LEAST:
            raise StartError(
                f"the prompt for documents of the model {files.name} leaves {room} of its"
                f" {files.max_tokens} tokens for a chunk: choose another model"
            )
        return Chunker(files.tokenizer, min(tokens, room), self.config.aidb.chunk_overlap)

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


def _qdrant(config: Config, postgres: Postgres) -> QdrantParts | None:
    """Raises StartError where its client is not installed, or its key cannot be read."""
    if config.vectors.engine != "qdrant":
        return None
    # Loaded only where it is wanted: it takes more than a second.
    try:
        from aistack.aidb.qdrant_parts import qdrant_parts
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != "qdrant_client":
            raise
        raise StartError(
            "vectors.engine is qdrant, but qdrant-client is not installed:"
            " pip install 'aistack[qdrant]', or set vectors.engine = \"pgvector\""
        ) from None
    return qdrant_parts(config, postgres)
