"""Chunks to vectors: the service's current set, and texts of many documents in one call."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

import numpy as np
import structlog
from numpy.typing import NDArray

from aistack.aidb import embedding_sets
from aistack.aidb.embedding_sets import VectorTable
from aistack.aidb.jobs import WAITING
from aistack.aidb.together import Together
from aistack.clients.embeddings import BadVectors
from aistack.clients.postgres import Postgres
from aistack.clients.resilience import Failed
from aistack.models import EmbeddingSet
from aistack.service.errors import StartError, Unavailable

log = structlog.get_logger()

#: Texts of one call to the embeddings service. It batches on its own; this bounds how long one call
#: takes on a slow CPU, and lets the queries of searches in between.
EMBED_TEXTS = 64
#: Parts of one document at once: while the answer of one is read, the encoder has the next.
EMBEDS_IN_FLIGHT = 2
#: Calls at once, of all documents. Few: what waits for them goes together.
CALLS_AT_ONCE = 3

Part = tuple[EmbeddingSet, NDArray[np.float32]]

#: Told which share of something is done, 0 to 1.
Tell = Callable[[float], Awaitable[None]]


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


class Vectors:
    """The current embedding set: asked of the service, registered in the database."""

    def __init__(self, postgres: Postgres, encoder: Encoder, *, dimension: int) -> None:
        self._postgres = postgres
        self._encoder = encoder
        self._dimension = dimension
        self._parts: Together[Sequence[str], Part] = Together(
            self._call, weight=len, most=EMBED_TEXTS, at_once=CALLS_AT_ONCE, of_all=_of_all
        )
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

        `tell` hears after each part of them which share is done.
        """
        starts = range(0, len(texts), EMBED_TEXTS)
        found: dict[int, Part] = {}
        todo = iter(starts)

        async def lane() -> None:
            for start in todo:
                found[start] = await self._parts(texts[start : start + EMBED_TEXTS])
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

    async def aclose(self) -> None:
        """Cancel the calls under way."""
        await self._parts.aclose()

    async def _call(self, parts: Sequence[Sequence[str]]) -> Sequence[Part]:
        identity, vectors = await self._encoder.embed_in_set(
            [text for part in parts for text in part]
        )
        ends = np.cumsum([len(part) for part in parts])
        return [(identity, rows) for rows in np.split(vectors, ends[:-1])]

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


def _of_all(error: BaseException) -> bool:
    """Whether no single text of a call can be to blame for its end.

    A service that answers that it cannot is tried with each part alone: as soon as its breaker is
    open, this costs nothing. One that is away or hangs is not.
    """
    if isinstance(error, BadVectors) or (isinstance(error, Failed) and error.answered):
        return False
    return isinstance(error, WAITING)
