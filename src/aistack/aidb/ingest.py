"""From stored bytes to searchable chunks: parse, cut, analyse, embed, swap.

Runs in a job, any number of times for the same version: what is done is not done again, and every
write asks first whether the version is still wanted. What the document itself is to blame for ends
in state `failed` with one sentence; what a dependency is to blame for is raised, and the queue
tries again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

import numpy as np
import structlog
from numpy.typing import NDArray
from prometheus_client import Counter, Gauge, Histogram

from aistack.aidb import embedding_sets, parsing
from aistack.aidb.analysis import analyze
from aistack.aidb.bm25 import frequencies
from aistack.aidb.chunking import Chunk
from aistack.aidb.embedding_sets import VectorTable
from aistack.aidb.jobs import WAITING
from aistack.aidb.near_duplicates import fingerprint
from aistack.aidb.parsing import ParsedDocument, ParseError
from aistack.aidb.swap import IndexedChunk, copy_vectors, swap_chunks
from aistack.clients.postgres import Postgres
from aistack.models import EmbeddingSet
from aistack.service.errors import StackError, StartError, Unavailable

log = structlog.get_logger()

DOCUMENTS = Counter(
    "aistack_aidb_ingested_documents_total",
    "Ingestion jobs by how they ended: ready, failed, superseded, waiting",
    ["outcome"],
)
CHUNKS = Counter("aistack_aidb_ingested_chunks_total", "Chunks made searchable")
SECONDS = Histogram(
    "aistack_aidb_ingest_seconds",
    "Seconds of one phase of an ingestion job",
    ["phase"],
    buckets=(0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300),
)
QUEUED = Gauge("aistack_aidb_queue_documents", "Documents not yet ready, by state", ["state"])
SEARCHABLE = Gauge("aistack_aidb_chunks", "Chunks that can be found")

#: Texts of one call to the embeddings service. It batches on its own; this bounds how long one call
#: takes on a slow CPU, and lets the queries of searches in between.
EMBED_TEXTS = 64
#: Calls of one document at once: while the answer of one is read, the encoder has the next.
EMBEDS_IN_FLIGHT = 2
#: Documents that are parsed at once, in threads, however many jobs there are: it takes the most
#: memory of all, and more threads than this only wait for each other.
PARSES_AT_ONCE = 2
#: How often a document under way says how far it is.
PROGRESS_SECONDS = 1.0
#: The swap of the largest document: thousands of vectors into an HNSW index, on a slow disk.
SWAP_SECONDS = 600.0
#: Chunks of one round of filling a new embedding set.
FILL_CHUNKS = 256


class Encoder(Protocol):
    """The embeddings service, as its client shows it."""

    async def embed_in_set(self, texts: Sequence[str]) -> tuple[EmbeddingSet, NDArray[np.float32]]:
        """(n, dimension) float32, checked to be of unit length, and the one set they are of.

        Raises a StackError.
        """
        ...

    async def embedding_set(self) -> EmbeddingSet:
        """What the vectors are of. Raises a StackError."""
        ...


@dataclass(frozen=True, slots=True)
class Prepared:
    """A parsed and cut document, before its vectors."""

    parsed: ParsedDocument
    chunks: tuple[IndexedChunk, ...]


#: Told which share of something is done, 0 to 1.
Tell = Callable[[float], Awaitable[None]]


class Progress:
    """Writes how far one version of a document is, once in PROGRESS_SECONDS at most."""

    def __init__(
        self,
        postgres: Postgres,
        document_id: UUID,
        version: int,
        *,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._postgres = postgres
        self._document_id = document_id
        self._version = version
        self._now = now
        self._written = now()

    async def __call__(self, share: float) -> None:
        """`share` of the chunks is embedded."""
        now = self._now()
        if now - self._written < PROGRESS_SECONDS:
            return
        self._written = now
        async with self._postgres.connection("ingest.progress") as connection:
            await connection.execute(
                "UPDATE documents SET progress = %s, updated_at = now() WHERE id = %s"
                " AND version = %s AND state = 'processing' AND progress < %s",
                [share, self._document_id, self._version, share],
            )


class Vectors:
    """The current embedding set: asked of the service, registered in the database."""

    def __init__(self, postgres: Postgres, encoder: Encoder, *, dimension: int) -> None:
        self._postgres = postgres
        self._encoder = encoder
        self._dimension = dimension
        self.current: VectorTable | None = None

    async def refresh(self) -> VectorTable:
        """Ask the service which set it has now, and make its table if it is new.

        Raises StartError when its dimension is not the configured one, Unavailable when it is away.
        """
        return await self._table(await self._encoder.embedding_set())

    async def embed(
        self, texts: Sequence[str], tell: Tell | None = None
    ) -> tuple[VectorTable, NDArray[np.float32]]:
        """Vectors in the order of `texts` (one at least) and their table. Raises Unavailable.

        `tell` hears after each call to the service which share of them is done.
        """
        starts = range(0, len(texts), EMBED_TEXTS)
        found: dict[int, tuple[EmbeddingSet, NDArray[np.float32]]] = {}
        todo = iter(starts)

        async def lane() -> None:
            for start in todo:
                found[start] = await self._encoder.embed_in_set(texts[start : start + EMBED_TEXTS])
                if tell is not None:
                    await tell(len(found) / len(starts))

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(EMBEDS_IN_FLIGHT, len(starts))):
                    group.create_task(lane())
        except ExceptionGroup as failures:
            # The others were cancelled with the first.
            raise failures.exceptions[0] from None
        parts = [found[start] for start in starts]
        identity = parts[0][0]
        if any(part[0] != identity for part in parts):
            raise Unavailable("The embedding model has just changed.")
        try:
            return await self._table(identity), np.concatenate([part[1] for part in parts])
        except StartError as error:
            raise Unavailable(
                "The embeddings service has a model of another dimension than aidb.dimension."
            ) from error

    async def _table(self, identity: EmbeddingSet) -> VectorTable:
        if identity.dimension != self._dimension:
            raise StartError(
                f"aidb.dimension is {self._dimension}, but the embeddings service has the model"
                f" {identity.model} with {identity.dimension}: set aidb.dimension ="
                f" {identity.dimension}, or give the embeddings service the model it had"
            )
        if self.current is None or self.current.identity != identity:
            async with self._postgres.connection("embedding_set.register") as connection:
                self.current = await embedding_sets.register(connection, identity)
            log.info("embedding_set", id=self.current.id, active=self.current.active)
        return self.current


class Ingestion:
    """Processes one version of one document; `cut` is the chunker.

    A document of more than `most_chunks` chunks fails: its swap is one transaction.
    """

    def __init__(
        self,
        postgres: Postgres,
        vectors: Vectors,
        cut: Callable[[ParsedDocument], Sequence[Chunk]],
        *,
        most_chunks: int,
    ) -> None:
        self._postgres = postgres
        self._vectors = vectors
        self._cut = cut
        self._most_chunks = most_chunks
        self._parsing = asyncio.Semaphore(PARSES_AT_ONCE)

    async def run(self, document_id: UUID, version: int) -> None:
        """Make the version searchable, or mark it failed, or find that nobody wants it.

        Raises what the queue retries: a StackError of a dependency, or a fault of ours.
        """
        with structlog.contextvars.bound_contextvars(document=str(document_id), version=version):
            content = await self._begin(document_id, version)
            if content is None:
                DOCUMENTS.labels("superseded").inc()
                return
            try:
                outcome = await self._process(document_id, version, *content)
            except WAITING as error:
                DOCUMENTS.labels("waiting").inc()
                await self._wait(document_id, version, error)
                raise
            DOCUMENTS.labels(outcome).inc()

    async def _process(
        self, document_id: UUID, version: int, content: bytes, content_type: str
    ) -> str:
        started = time.monotonic()
        try:
            async with self._parsing:
                prepared = await asyncio.to_thread(self._prepare, content, content_type)
        except ParseError as error:
            return await self._fail(document_id, version, error.detail)
        if not prepared.chunks:
            return await self._fail(document_id, version, "There is no text in the document.")
        parsed = time.monotonic()
        SECONDS.labels("parse").observe(parsed - started)
        table, vectors = await self._vectors.embed(
            [chunk.embed_prefix + chunk.text for chunk in prepared.chunks],
            Progress(self._postgres, document_id, version),
        )
        embedded = time.monotonic()
        SECONDS.labels("embed").observe(embedded - parsed)
        async with self._postgres.connection("ingest.swap", timeout=SWAP_SECONDS) as connection:
            swapped = await swap_chunks(
                connection,
                document_id=document_id,
                version=version,
                title=prepared.parsed.title,
                text=prepared.parsed.text,
                chunks=prepared.chunks,
                vectors=vectors,
                table=table,
            )
        SECONDS.labels("swap").observe(time.monotonic() - embedded)
        if not swapped:
            return "superseded"
        CHUNKS.inc(len(prepared.chunks))
        log.info(
            "ingested",
            chunks=len(prepared.chunks),
            bytes=len(content),
            seconds=round(time.monotonic() - started, 3),
        )
        return "ready"

    async def _begin(self, document_id: UUID, version: int) -> tuple[bytes, str] | None:
        """The bytes and their type, if this version still waits to be processed."""
        async with self._postgres.connection("ingest.begin") as connection:
            cursor = await connection.execute(
                "UPDATE documents SET state = 'processing', progress = 0, updated_at = now()"
                " WHERE id = %s AND version = %s AND state IN ('pending', 'processing')"
                " RETURNING coalesce(pending ->> 'content_type', content_type)",
                [document_id, version],
            )
            row = await cursor.fetchone()
            if row is None:
                return None
            cursor = await connection.execute(
                "SELECT content FROM document_contents WHERE document_id = %s",
                [document_id],
                binary=True,
            )
            stored = await cursor.fetchone()
            assert stored is not None, "contents are written with their document"
            return bytes(stored[0]), str(row[0])

    def _prepare(self, content: bytes, content_type: str) -> Prepared:
        """CPU work, in a thread. Raises ParseError."""
        parsed = parsing.parse(content, content_type)
        chunks = self._cut(parsed)
        if len(chunks) > self._most_chunks:
            raise ParseError(
                f"The document makes {len(chunks)} chunks; the limit is {self._most_chunks}"
                " (aidb.document_chunks): split it."
            )
        return Prepared(parsed, tuple(indexed(chunk) for chunk in chunks))

    async def _fail(self, document_id: UUID, version: int, sentence: str) -> str:
        """The document is to blame; chunks of an older version stay searchable."""
        async with self._postgres.connection("ingest.fail") as connection:
            await connection.execute(
                "UPDATE documents SET state = 'failed', error = %s, updated_at = now()"
                " WHERE id = %s AND version = %s",
                [sentence, document_id, version],
            )
        log.info("ingest_failed", reason=sentence)
        return "failed"

    async def _wait(self, document_id: UUID, version: int, error: Exception) -> None:
        """Show what is being waited for, if the database itself can be told."""
        if isinstance(error, StackError) and self._postgres.dependency.state == "closed":
            async with self._postgres.connection("ingest.wait") as connection:
                await connection.execute(
                    "UPDATE documents SET state = 'pending', error = %s, updated_at = now()"
                    " WHERE id = %s AND version = %s AND state = 'processing'",
                    [f"{error.detail} It will be tried again.", document_id, version],
                )

    async def fill(self) -> int:
        """Give chunks that lack one a vector of the current set; how many were given one.

        A set that has them all becomes the active one. Called in rounds until it returns 0.
        """
        table = await self._vectors.refresh()
        if table.active:
            return 0
        async with self._postgres.connection("embedding_set.missing") as connection:
            missing = await embedding_sets.chunks_without_vectors(connection, table, FILL_CHUNKS)
        if not missing:
            async with self._postgres.connection("embedding_set.activate") as connection:
                active = await embedding_sets.activate_if_complete(connection, table)
            if active:
                self._vectors.current = None
                await self._vectors.refresh()
            return 0
        table, vectors = await self._vectors.embed([text for _, _, text in missing])
        async with self._postgres.connection("embedding_set.fill") as connection:
            cursor = await connection.execute(
                "SELECT id FROM chunks WHERE id = ANY(%s) FOR KEY SHARE",
                [[chunk for chunk, _, _ in missing]],
            )
            alive = {int(row[0]) for row in await cursor.fetchall()}
            kept = [place for place, row in enumerate(missing) if row[0] in alive]
            owners = [missing[place][:2] for place in kept]
            await copy_vectors(connection, table, owners, vectors[kept])
        return len(missing)


def indexed(chunk: Chunk) -> IndexedChunk:
    """A chunk with its analysed terms, as both legs want it."""
    terms, counts = frequencies(analyze(chunk.embed_text))
    return IndexedChunk(
        text=chunk.text,
        embed_prefix=chunk.embed_text.removesuffix(chunk.text),
        heading_path=chunk.heading_path,
        char_start=chunk.char_start,
        char_end=chunk.char_end,
        page_start=chunk.page_start,
        page_end=chunk.page_end,
        line_start=chunk.line_start,
        line_end=chunk.line_end,
        token_count=chunk.token_count,
        terms=terms,
        frequencies=counts,
        fingerprint=fingerprint(terms, counts),
    )
