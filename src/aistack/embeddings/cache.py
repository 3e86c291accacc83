"""Vectors in Redis, keyed by the embedding set's whole identity and the text's SHA-256.

The cache is an accelerator only: when it is away every look-up is a miss, one line is logged when
it goes and one when it comes back, and a counter tells the rest. A value of the wrong length, or
whose vector is not of unit length, is a miss.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import structlog
from numpy.typing import NDArray

from aistack.embeddings import metrics
from aistack.models import UNIT_TOLERANCE, EmbeddingSet
from aistack.service.errors import StackError

log = structlog.get_logger()

#: In front of the vector: tokens, and whether the text was cut. So a hit needs no tokenizer.
HEAD = struct.Struct("<IB")


@dataclass(frozen=True, slots=True)
class Embedding:
    """One text's vector, (d,) float32 of unit length, and how many tokens made it."""

    vector: NDArray[np.float32]
    tokens: int
    truncated: bool


class Store(Protocol):
    """The part of `aistack.clients.redis.Redis` that is used here."""

    async def mget(self, keys: Sequence[str | bytes]) -> list[bytes | None]: ...

    async def mset(self, values: Mapping[str | bytes, bytes], *, seconds: int) -> None: ...

    async def delete(self, *keys: str | bytes) -> None: ...


class VectorCache:
    """Look-ups and writes of many vectors at once; neither ever raises for the store's sake."""

    def __init__(
        self, store: Store, identity: EmbeddingSet, *, settings: str, seconds: int
    ) -> None:
        """`settings`: the digest of the model's other files (`ModelFiles.settings`)."""
        self._store = store
        self._dimension = identity.dimension
        self._prefix = b"emb:" + identity.id.encode() + settings[:8].encode() + b":"
        self._seconds = seconds
        self._away = False

    async def get(self, digests: Sequence[bytes]) -> dict[bytes, Embedding]:
        """What is there of `digests` (`text_digest` of the texts)."""
        try:
            values = await self._store.mget([self._prefix + digest for digest in digests])
        except StackError as error:
            self._lost(error)
            metrics.CACHE.labels("error").inc(len(digests))
            return {}
        self._found()
        hits: dict[bytes, Embedding] = {}
        corrupt = 0
        for digest, value in zip(digests, values, strict=True):
            if value is None:
                continue
            if (embedding := self._decode(value)) is not None:
                hits[digest] = embedding
            else:
                corrupt += 1
        metrics.CACHE.labels("hit").inc(len(hits))
        metrics.CACHE.labels("corrupt").inc(corrupt)
        metrics.CACHE.labels("miss").inc(len(digests) - len(hits) - corrupt)
        return hits

    async def put(self, embeddings: Mapping[bytes, Embedding]) -> None:
        """Store `embeddings`, by text digest, for the configured time."""
        values: dict[str | bytes, bytes] = {
            self._prefix + digest: self._encode(embedding)
            for digest, embedding in embeddings.items()
        }
        try:
            await self._store.mset(values, seconds=self._seconds)
        except StackError as error:
            self._lost(error)
            metrics.CACHE_WRITES.labels("error").inc(len(values))
            return
        self._found()
        metrics.CACHE_WRITES.labels("ok").inc(len(values))

    async def forget(self, digests: Sequence[bytes]) -> None:
        """Remove what is there of `digests`. Raises a StackError when the store is away."""
        await self._store.delete(*(self._prefix + digest for digest in digests))

    def _encode(self, embedding: Embedding) -> bytes:
        head = HEAD.pack(embedding.tokens, embedding.truncated)
        return head + embedding.vector.astype("<f4", copy=False).tobytes()

    def _decode(self, value: bytes) -> Embedding | None:
        if len(value) != HEAD.size + 4 * self._dimension:
            return None
        tokens, truncated = HEAD.unpack_from(value)
        vector = np.frombuffer(value, dtype="<f4", offset=HEAD.size)
        # Written so that a NaN, which compares false, is refused as well.
        if not abs(float(vector @ vector) - 1.0) <= UNIT_TOLERANCE:
            return None
        # A copy: behind the head the numbers are not aligned.
        return Embedding(vector.astype(np.float32), tokens, bool(truncated))

    def _lost(self, error: StackError) -> None:
        if not self._away:
            self._away = True
            log.warning("vector_cache_away", reason=error.slug, effect="every text is encoded")

    def _found(self) -> None:
        if self._away:
            self._away = False
            log.info("vector_cache_back")


def text_digest(text: str) -> bytes:
    """SHA-256 of the text's UTF-8."""
    return hashlib.sha256(text.encode()).digest()
