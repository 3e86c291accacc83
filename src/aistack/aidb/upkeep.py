"""What aidb does by itself, beside requests and jobs: sweeping the queue, following the model."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import structlog

from aistack.aidb import jobs
from aistack.aidb.ingest import QUEUED, SEARCHABLE, Ingestion
from aistack.aidb.jobs import SWEEP_SECONDS, WAITING, Queue
from aistack.clients.postgres import Connection, Postgres
from aistack.service.errors import StartError

log = structlog.get_logger()

#: How often the embeddings service is asked which model it has.
MODEL_SECONDS = 15.0
PRUNE_SECONDS = 3600.0
#: Lines of the outbox that nobody has fetched by then are dropped: an index that was away for
#: longer is rebuilt from the tables.
OUTBOX_DAYS = 7


class Upkeep:
    """Three loops; one that meets a dependency that is away tries again at its next turn."""

    def __init__(self, postgres: Postgres, queue: Queue, ingestion: Ingestion) -> None:
        self._postgres = postgres
        self._queue = queue
        self._ingestion = ingestion
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin; the first turn of each loop is at once."""
        loops = (
            (self._sweep, SWEEP_SECONDS),
            (self._follow_model, MODEL_SECONDS),
            (self._prune, PRUNE_SECONDS),
        )
        self._tasks = [
            asyncio.create_task(_repeat(turn, seconds), name=turn.__name__.strip("_"))
            for turn, seconds in loops
        ]

    async def stop(self) -> None:
        """End the loops."""
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with suppress(asyncio.CancelledError):
                await task

    async def _sweep(self) -> None:
        async with self._postgres.connection("sweep") as connection:
            await jobs.sweep(connection, self._queue)
            await _count(connection)

    async def _follow_model(self) -> None:
        try:
            while (filled := await self._ingestion.fill()) > 0:
                log.info("embedding_set_filled", chunks=filled)
        except StartError as error:
            # The model was changed under us for one of another dimension: nothing can be embedded
            # until somebody acts, and searches say so themselves.
            log.error("embedding_set_mismatch", reason=str(error))

    async def _prune(self) -> None:
        async with self._postgres.connection("prune") as connection:
            await connection.execute(
                "DELETE FROM outbox WHERE done_at IS NOT NULL"
                " OR created_at < now() - make_interval(days => %s)",
                [OUTBOX_DAYS],
            )


async def _repeat(turn: Callable[[], Awaitable[None]], seconds: float) -> None:
    while True:
        try:
            await turn()
        except WAITING as error:
            log.warning("upkeep_waits", loop=turn.__name__, error=type(error).__name__)
        await asyncio.sleep(seconds)


async def _count(connection: Connection) -> None:
    cursor = await connection.execute(
        "SELECT state, count(*) FROM documents WHERE state IN ('pending', 'processing') GROUP BY 1"
    )
    counts: dict[str, int] = dict(await cursor.fetchall())
    for state in ("pending", "processing"):
        QUEUED.labels(state).set(counts.get(state, 0))
    cursor = await connection.execute("SELECT coalesce(sum(chunk_count), 0) FROM collections")
    row = await cursor.fetchone()
    SEARCHABLE.set(float(row[0]) if row else 0.0)
