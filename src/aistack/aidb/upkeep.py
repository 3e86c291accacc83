"""What aidb does by itself, beside requests and jobs: sweeping, following the model, indexing.

Its loops. One that meets a dependency that is away tries again at its next turn; so does one
whose query fails in a way that we did not expect, because its transaction leaves nothing behind.
What else goes wrong ends the loop, is logged, and stops its heartbeat, so that the watchdog acts.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

import psycopg
import structlog

from aistack.aidb import embedding_sets, idempotency, jobs, vector_index
from aistack.aidb.ingest import QUEUED, SEARCHABLE, Ingestion
from aistack.aidb.jobs import SWEEP_SECONDS, WAITING, Queue, end_tasks
from aistack.aidb.search_cache import SearchCache
from aistack.aidb.vector_index import VectorIndexes
from aistack.clients.postgres import Connection, Postgres
from aistack.service.errors import StartError

log = structlog.get_logger()

#: How often the embeddings service is asked which model it has.
MODEL_SECONDS = 15.0
PRUNE_SECONDS = 3600.0
#: How often what is kept of searches is cut to its size.
SEARCHES_SECONDS = 60.0
#: Lines of the outbox that nobody has fetched by then are dropped: an index that was away for
#: longer is rebuilt from the tables.
OUTBOX_DAYS = 7
#: A turn that takes longer hangs: it is a few bounded queries, or some calls to embeddings.
TURN_SECONDS = 300.0
BEAT_SECONDS = 1.0

#: Whether there is more to do at once.
Turn = Callable[[], Awaitable[bool]]


class Loop:
    """One turn every `seconds`, for ever; `beats` tells that it lives."""

    def __init__(self, name: str, turn: Turn, seconds: float) -> None:
        self.name = name
        self._turn = turn
        self._seconds = seconds
        self._beats = 0
        self._began: float | None = None

    def beats(self) -> int:
        """Grows every second while the loop runs, waiting or in a turn that does not hang."""
        return self._beats

    async def run(self) -> None:
        """Ends only with what nobody expected."""
        turns = asyncio.create_task(self._turns(), name=f"{self.name}-turns")
        try:
            while not turns.done():
                if self._began is None or time.monotonic() - self._began < TURN_SECONDS:
                    self._beats += 1
                await asyncio.wait({turns}, timeout=BEAT_SECONDS)
            log.error("upkeep_ended", loop=self.name, exc_info=turns.exception())
        finally:
            if not turns.done():
                await end_tasks([turns])

    async def _turns(self) -> None:
        while True:
            self._began = time.monotonic()
            more = False
            try:
                more = await self._turn()
            except WAITING as error:
                log.warning("upkeep_waits", loop=self.name, error=type(error).__name__)
            except psycopg.Error as error:
                log.error("upkeep_failed", loop=self.name, exc_info=error)
            self._began = None
            if not more:
                await asyncio.sleep(self._seconds)


class Upkeep:
    """The loops; their heartbeats exist before they start."""

    def __init__(
        self,
        postgres: Postgres,
        queue: Queue,
        indexes: VectorIndexes,
        searches: SearchCache,
        *,
        retired_days: int,
        more: Sequence[Loop] = (),
    ) -> None:
        self._postgres = postgres
        self._retired_days = retired_days
        self._indexes = indexes
        self._queue = queue
        self._ingestion: Ingestion | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self.loops: Sequence[Loop] = (
            Loop("sweep", self._sweep, SWEEP_SECONDS),
            Loop("follow_model", self._follow_model, MODEL_SECONDS),
            Loop("prune", self._prune, PRUNE_SECONDS),
            Loop("vector_index", indexes.turn, vector_index.TURN_SECONDS),
            Loop("search_cache", searches.prune, SEARCHES_SECONDS),
            *more,
        )

    def start(self, ingestion: Ingestion) -> None:
        """Begin; the first turn of each loop is at once."""
        self._ingestion = ingestion
        self._tasks = [asyncio.create_task(loop.run(), name=loop.name) for loop in self.loops]

    async def stop(self) -> None:
        """End the loops; what one of them raises is logged."""
        await end_tasks(self._tasks)
        await self._indexes.aclose()

    async def _sweep(self) -> bool:
        async with self._postgres.connection("sweep") as connection:
            await jobs.sweep(connection, self._queue)
            await _count(connection)
        return False

    async def _follow_model(self) -> bool:
        assert self._ingestion is not None, "given before the loops begin"
        try:
            filled = await self._ingestion.fill()
        except StartError as error:
            # The model was changed under us for one of another dimension: nothing can be embedded
            # until somebody acts, and searches say so themselves.
            log.error("embedding_set_mismatch", reason=str(error))
            return False
        if filled:
            log.info("embedding_set_filled", chunks=filled)
        return filled > 0

    async def _prune(self) -> bool:
        async with self._postgres.connection("prune") as connection:
            await connection.execute(
                "DELETE FROM outbox WHERE done_at IS NOT NULL"
                # What a derived index has not been told of stays as long as there is one.
                " OR (created_at < now() - make_interval(days => %s)"
                "     AND NOT EXISTS (SELECT 1 FROM index_state))",
                [OUTBOX_DAYS],
            )
            await idempotency.prune(connection)
        async with self._postgres.connection("prune.retired") as connection:
            await embedding_sets.drop_retired(connection, self._retired_days)
        return False


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
