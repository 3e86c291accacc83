"""Ingestion against a real PostgreSQL, with an encoder whose behaviour the test decides."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any
from uuid import UUID

import numpy as np
import psycopg
import pytest
from numpy.typing import NDArray
from psycopg.conninfo import conninfo_to_dict

from aistack.aidb import jobs, store
from aistack.aidb.accept import Accepted, accept
from aistack.aidb.chunking import Chunker
from aistack.aidb.documents import Document, checked_upload
from aistack.aidb.ingest import Ingestion
from aistack.aidb.jobs import Queue, Worker
from aistack.aidb.vectors import Vectors
from aistack.clients.postgres import Postgres
from aistack.config import PostgresConfig
from aistack.models import EmbeddingSet, ModelFiles

IDENTITY = EmbeddingSet("hash", "1", "test", "fp32", 8, normalized=True)


class HashEncoder:
    """Unit vectors made from the hash of the text; `identity` and `failure` are the test's."""

    def __init__(self) -> None:
        self.identity = IDENTITY
        self.failure: Exception | None = None
        self.texts = 0
        self.calls = 0
        #: How many calls are answered before the gate counts; None: it counts from the first.
        self.held: int | None = None
        self.gate = asyncio.Event()
        self.gate.set()

    async def embedding_set(self) -> EmbeddingSet:
        return self.identity

    async def embed_in_set(self, texts: Sequence[str]) -> tuple[EmbeddingSet, NDArray[np.float32]]:
        self.calls += 1
        if self.held is not None and self.calls > self.held:
            self.gate.clear()
            self.held = None
        await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        self.texts += len(texts)
        rows = []
        for text in texts:
            seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
            row = np.random.default_rng(seed).standard_normal(self.identity.dimension)
            rows.append((row / np.linalg.norm(row)).astype(np.float32))
        return self.identity, np.stack(rows)


class IngestBench:
    """The parts of ingestion on one database, without HTTP."""

    def __init__(self, dsn: str, model: ModelFiles) -> None:
        self.dsn = dsn
        where = conninfo_to_dict(dsn)
        self.postgres = Postgres(
            PostgresConfig(
                host=str(where["host"]), user="postgres", database=str(where["dbname"]), pool_max=6
            )
        )
        self.encoder = HashEncoder()
        self.vectors = Vectors(self.postgres, self.encoder, dimension=8)
        self.queue = Queue(self.postgres)
        self.ingestion = Ingestion(
            self.postgres,
            self.vectors,
            Chunker(model.tokenizer, 64, 8).chunk,
            most_chunks=20_000,
        )
        self.worker = Worker(self.queue, concurrency=2, drain_seconds=5)
        self.working = False

    async def upload(self, text: str, source: str = "s", **members: Any) -> Document:
        return (await self.accept(text, source, **members)).document

    async def accept(self, text: str, source: str = "s", **members: Any) -> Accepted:
        upload = checked_upload(
            **{
                "collection": "default",
                "source": source,
                "title": None,
                "content_type": "text/plain",
                "content": text.encode(),
                "metadata": {},
                "key_id": "k",
                "limit": 1_000_000,
                **members,
            }
        )
        async with self.postgres.connection("test") as connection:
            return await accept(connection, self.queue, upload)

    async def document(self, document_id: UUID) -> Document:
        async with self.postgres.connection("test") as connection:
            return await store.get_document(connection, document_id)

    async def sweep(self) -> tuple[int, int, int]:
        async with self.postgres.connection("test") as connection:
            return await jobs.sweep(connection, self.queue)

    def work(self) -> None:
        self.worker.start()
        self.working = True

    def rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            cursor = connection.execute(query.encode(), values or None)
            return cursor.fetchall() if cursor.description else []

    async def until(self, holds: Callable[[], bool], seconds: float = 30) -> None:
        async with asyncio.timeout(seconds):
            while not holds():
                await asyncio.sleep(0.02)

    async def finished(self, document_id: UUID) -> Document:
        query = "SELECT 1 FROM documents WHERE id = %s AND state IN ('ready', 'failed')"
        await self.until(lambda: bool(self.rows(query, document_id)))
        return await self.document(document_id)


@pytest.fixture
async def ingest_bench(database: str, model_files: ModelFiles) -> AsyncIterator[IngestBench]:
    made = IngestBench(database, model_files)
    await made.postgres.open()
    await made.queue.open()
    await made.vectors.refresh()
    made.queue.handle(made.ingestion.run)
    yield made
    if made.working:
        await made.worker.stop()
    await made.ingestion.aclose()
    await made.postgres.aclose()
