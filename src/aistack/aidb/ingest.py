"""From stored bytes to searchable chunks: parse, cut, analyse, embed, swap.

Runs in a job, any number of times for the same version: what is done is not done again, and every
write asks first whether the version is still wanted. What the document itself is to blame for ends
in state `failed` with one sentence; what a dependency is to blame for is raised, and the queue
tries again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from uuid import UUID

import structlog
from prometheus_client import Counter, Gauge, Histogram

from aistack.aidb import embedding_sets, parsing
from aistack.aidb.analysis import ENGLISH, analyze, analyzer_version
from aistack.aidb.bm25 import frequencies
from aistack.aidb.chunking import Chunk
from aistack.aidb.jobs import WAITING
from aistack.aidb.near_duplicates import fingerprint
from aistack.aidb.parsers import PARSES_AT_ONCE, Parsers, apart
from aistack.aidb.parsing import ParsedDocument, ParseError
from aistack.aidb.swap import IndexedChunk, Swap, copy_vectors
from aistack.aidb.swaps import Swaps
from aistack.aidb.vectors import Vectors
from aistack.clients.postgres import Postgres
from aistack.service.errors import StackError

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

#: How often a document under way says how far it is.
PROGRESS_SECONDS = 1.0
#: Documents of more bytes than this take one of a few places, however many jobs there are: what
#: is made of their text takes many times their size.
LARGE_BYTES = 1_048_576
LARGE_AT_ONCE = 4
#: How often a document that waits for such a place says that it is not forgotten.
TOUCH_SECONDS = 600.0
#: Chunks of one round of filling a new embedding set.
FILL_CHUNKS = 256


@dataclass(frozen=True, slots=True)
class Begun:
    """A version under way; `content` is None where it is large and not read yet."""

    collection_id: int
    content_type: str
    language: str
    content: bytes | None


@dataclass(frozen=True, slots=True)
class Prepared:
    """A parsed and cut document, before its vectors."""

    parsed: ParsedDocument
    chunks: tuple[IndexedChunk, ...]


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
        self._parsers = Parsers()
        self._vectors = vectors
        self._cut = cut
        self._most_chunks = most_chunks
        self._parsing = asyncio.Semaphore(PARSES_AT_ONCE)
        self._large = asyncio.Semaphore(LARGE_AT_ONCE)
        self._swaps = Swaps(postgres)

    async def run(self, document_id: UUID, version: int) -> None:
        """Make the version searchable, or mark it failed, or find that nobody wants it.

        Raises what the queue retries: a StackError of a dependency, or a fault of ours.
        """
        with structlog.contextvars.bound_contextvars(document=str(document_id), version=version):
            begun = await self._begin(document_id, version)
            if begun is None:
                DOCUMENTS.labels("superseded").inc()
                return
            try:
                async with self._content(document_id, version, begun) as content:
                    outcome = "superseded"
                    if content is not None:
                        outcome = await self._process(document_id, version, begun, content)
            except WAITING as error:
                DOCUMENTS.labels("waiting").inc()
                await self._wait(document_id, version, error)
                raise
            DOCUMENTS.labels(outcome).inc()

    async def aclose(self) -> None:
        """Cancel what goes on for several jobs at once; the jobs themselves have ended."""
        await self._vectors.aclose()
        await self._swaps.aclose()
        await self._parsers.aclose()

    async def _process(self, document_id: UUID, version: int, begun: Begun, content: bytes) -> str:
        started = time.monotonic()
        try:
            async with self._parsing:
                parsed = None
                if apart(content, begun.content_type):
                    parsed = await self._parsers.parse(content, begun.content_type)
                prepared = await asyncio.to_thread(self._prepare, content, begun, parsed)
        except ParseError as error:
            return await self._fail(document_id, version, error.detail)
        if not prepared.chunks:
            return await self._fail(document_id, version, "There is no text in the document.")
        ready = time.monotonic()
        SECONDS.labels("parse").observe(ready - started)
        table, vectors = await self._vectors.embed(
            [chunk.embed_prefix + chunk.text for chunk in prepared.chunks],
            Progress(self._postgres, document_id, version),
        )
        embedded = time.monotonic()
        SECONDS.labels("embed").observe(embedded - ready)
        swap = Swap(
            document_id=document_id,
            version=version,
            title=prepared.parsed.title,
            text=prepared.parsed.text,
            chunks=prepared.chunks,
            vectors=vectors,
            analyzer=analyzer_version(begun.language),
        )
        swapped = await self._swaps.put(begun.collection_id, table, swap)
        SECONDS.labels("swap").observe(time.monotonic() - embedded)
        if not swapped:
            return "superseded"
        CHUNKS.inc(len(prepared.chunks))
        log.info(
            "ingested",
            parser=prepared.parsed.parser or begun.content_type,
            chunks=len(prepared.chunks),
            bytes=len(content),
            seconds=round(time.monotonic() - started, 3),
        )
        return "ready"

    async def _begin(self, document_id: UUID, version: int) -> Begun | None:
        """What there is to do, if this version still waits to be processed."""
        async with self._postgres.statements("ingest.begin") as connection:
            cursor = await connection.execute(
                "WITH begun AS (UPDATE documents"
                " SET state = 'processing', progress = 0, updated_at = now()"
                " WHERE id = %s AND version = %s AND state IN ('pending', 'processing')"
                " RETURNING id, collection_id, byte_size,"
                " coalesce(pending ->> 'content_type', content_type) AS content_type)"
                " SELECT b.collection_id, b.content_type,"
                " (SELECT coalesce(settings ->> 'language', %s) FROM collections"
                "   WHERE id = b.collection_id),"
                " CASE WHEN b.byte_size <= %s THEN c.content END"
                " FROM begun b JOIN document_contents c ON c.document_id = b.id",
                [document_id, version, ENGLISH, LARGE_BYTES],
                binary=True,
            )
            row = await cursor.fetchone()
        return None if row is None else Begun(*row)

    @asynccontextmanager
    async def _content(
        self, document_id: UUID, version: int, begun: Begun
    ) -> AsyncIterator[bytes | None]:
        """The bytes; of a large document when there is a place for it, which it then holds.

        None where it was deleted meanwhile.
        """
        if begun.content is not None:
            yield begun.content
            return
        while True:
            try:
                async with asyncio.timeout(TOUCH_SECONDS):
                    await self._large.acquire()
                break
            except TimeoutError:
                await self._touch(document_id, version)
        try:
            async with self._postgres.statements("ingest.content") as connection:
                cursor = await connection.execute(
                    "SELECT content FROM document_contents WHERE document_id = %s",
                    [document_id],
                    binary=True,
                )
                stored = await cursor.fetchone()
            # Newer bytes that have come meanwhile are another job's: the swap finds that out.
            yield None if stored is None else bytes(stored[0])
        finally:
            self._large.release()

    async def _touch(self, document_id: UUID, version: int) -> None:
        async with self._postgres.statements("ingest.touch") as connection:
            await connection.execute(
                "UPDATE documents SET updated_at = now() WHERE id = %s AND version = %s",
                [document_id, version],
            )

    def _prepare(self, content: bytes, begun: Begun, parsed: ParsedDocument | None) -> Prepared:
        """CPU work, in a thread, all of it in one. Raises ParseError."""
        parsed = parsed or parsing.parse(content, begun.content_type)
        chunks = self._cut(parsed)
        if len(chunks) > self._most_chunks:
            raise ParseError(
                f"The document makes {len(chunks)} chunks; the limit is {self._most_chunks}"
                " (aidb.document_chunks): split it."
            )
        return Prepared(parsed, tuple(indexed(chunk, begun.language) for chunk in chunks))

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


def indexed(chunk: Chunk, language: str) -> IndexedChunk:
    """A chunk with its analysed terms, as both legs want it."""
    terms, counts = frequencies(analyze(chunk.embed_text, language))
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
