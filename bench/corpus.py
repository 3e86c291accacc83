"""A filled aidb database for benchmarks and tests of retrieval, without HTTP and queue."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import numpy as np
from numpy.typing import NDArray
from psycopg.types.json import Jsonb

from aistack.aidb import embedding_sets, parsing
from aistack.aidb.analysis import ENGLISH, analyzer_version
from aistack.aidb.chunking import Chunker
from aistack.aidb.embedding_sets import VectorTable
from aistack.aidb.ingest import indexed
from aistack.aidb.swap import Swap, swap_documents
from aistack.clients.postgres import Postgres
from aistack.config import AidbConfig, EmbeddingsConfig, PostgresConfig
from aistack.embeddings.encoder import Encoder
from aistack.embeddings.engines import open_encoder
from aistack.models import EmbeddingSet, ModelFiles


class LocalEncoder:
    """The real model in this process; counts its calls."""

    def __init__(
        self,
        threads: int = 1,
        state: Path | None = None,
        config: EmbeddingsConfig | None = None,
    ) -> None:
        directory = state or Path(tempfile.mkdtemp(prefix="aistack-graph-"))
        self.files: ModelFiles
        self.encoder: Encoder
        self.files, self.encoder = open_encoder(
            config or EmbeddingsConfig(state_dir=directory, threads=threads)
        )
        self.calls = 0

    async def embed_in_set(
        self, texts: Sequence[str], *, seconds: float | None = None
    ) -> tuple[EmbeddingSet, NDArray[np.float32]]:
        """As the client of the embeddings service."""
        self.calls += 1
        return self.encoder.identity, self.encode(texts)

    def encode(self, texts: Sequence[str], batch: int = 16) -> NDArray[np.float32]:
        """(n, d) float32, unit length; sorted by length inside, for speed."""
        tokens = self.encoder.tokenize(texts)
        order = sorted(range(len(tokens)), key=lambda place: len(tokens[place]))
        vectors = np.empty((len(texts), self.encoder.identity.dimension), np.float32)
        for start in range(0, len(order), batch):
            places = order[start : start + batch]
            vectors[places] = self.encoder.encode([tokens[place] for place in places])
        return vectors


@dataclass(frozen=True, slots=True)
class Source:
    """A document to put in."""

    name: str
    text: str
    content_type: str = "text/plain"
    title: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


class Corpus:
    """Documents in one database, put in as ingestion does: parsed, cut, embedded, swapped."""

    def __init__(self, postgres: Postgres, encoder: LocalEncoder, config: AidbConfig) -> None:
        self.postgres = postgres
        self.encoder = encoder
        self._chunker = Chunker(encoder.files.tokenizer, config.chunk_tokens, config.chunk_overlap)
        self._table: VectorTable | None = None

    async def add(self, sources: Iterable[Source], collection: str = "default") -> list[UUID]:
        """Put documents in; their ids."""
        parsed = [(one, parsing.parse(one.text.encode(), one.content_type)) for one in sources]
        cut = [
            [indexed(chunk, ENGLISH) for chunk in self._chunker.chunk(text)] for _, text in parsed
        ]
        vectors = self.encoder.encode(
            [chunk.embed_prefix + chunk.text for chunks in cut for chunk in chunks]
        )
        ids = []
        position = 0
        for (source, text), chunks in zip(parsed, cut, strict=True):
            async with self.postgres.connection("corpus.add") as connection:
                if self._table is None:
                    identity = self.encoder.encoder.identity
                    self._table = await embedding_sets.register(connection, identity)
                await connection.execute(
                    "INSERT INTO collections (name, key_id) VALUES (%s, 'bench')"
                    " ON CONFLICT DO NOTHING",
                    [collection],
                )
                document = uuid4()
                content = source.text.encode()
                await connection.execute(
                    "INSERT INTO documents (id, collection_id, source, title, content_type, sha256,"
                    " byte_size, metadata, key_id)"
                    " SELECT %s, id, %s, %s, %s, %s, %s, %s, 'bench' FROM collections"
                    " WHERE name = %s",
                    [
                        document,
                        source.name,
                        source.title,
                        source.content_type,
                        hashlib.sha256(content).digest(),
                        len(content),
                        Jsonb(dict(source.metadata)),
                        collection,
                    ],
                )
                swap = Swap(
                    document_id=document,
                    version=1,
                    title=text.title,
                    text=text.text,
                    chunks=chunks,
                    vectors=vectors[position : position + len(chunks)],
                    analyzer=analyzer_version(ENGLISH),
                )
                if not all(await swap_documents(connection, [swap], self._table)):
                    raise RuntimeError(f"{source.name} was not put in")
            ids.append(document)
            position += len(chunks)
        return ids


@asynccontextmanager
async def open_corpus(
    database: PostgresConfig, encoder: LocalEncoder, config: AidbConfig
) -> AsyncIterator[Corpus]:
    """A corpus over a migrated database."""
    postgres = Postgres(database)
    await postgres.open()
    try:
        yield Corpus(postgres, encoder, config)
    finally:
        await postgres.aclose()
