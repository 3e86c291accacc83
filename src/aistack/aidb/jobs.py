"""The queue of ingestion jobs: procrastinate on our own pool and in our own transactions.

A job names a document and a version, nothing else. It can be lost, doubled or late without harm:
the sweep finds documents without a job, and `Ingestion` leaves alone what another job has done. So
no lock of the queue is used, and a job of an older version never holds up a newer one.

What the library does not do, and is done here: a worker that outlives its database (`Worker`), jobs
of workers that died (`sweep`), and documents whose job is gone (`sweep`).
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
import structlog
from procrastinate import App, BaseRetryStrategy, PsycopgConnector, RetryDecision
from procrastinate.exceptions import ConnectorException, JobAborted
from procrastinate.jobs import Job as QueuedJob
from procrastinate.worker import Worker as LibraryWorker
from psycopg_pool import PoolClosed, PoolTimeout, TooManyRequests

from aistack.clients.postgres import Connection, Postgres, on_its_own
from aistack.service.errors import DeadlineExceeded, Overloaded, Unavailable

log = structlog.get_logger()

QUEUE = "aidb"
TASK = "aidb.ingest"

#: A worker that has not written for this long is dead; it writes every HEARTBEAT_SECONDS.
STALLED_SECONDS = 10.0
HEARTBEAT_SECONDS = 2.0
#: No job of a living worker takes this long without touching its document.
SILENT_SECONDS = 3600.0
#: A wake-up comes by NOTIFY; retries and lost notifications are found by asking this often.
POLL_SECONDS = 2.0
SWEEP_SECONDS = 5.0
#: A query of the worker takes milliseconds; one that hangs means a server that hangs.
QUERY_SECONDS = 20.0
#: How long the loop may do nothing at all before the watchdog should know.
IDLE_SECONDS = 30.0

#: Waiting for a dependency: at most every 30 s, for about a month.
PATIENCE = 90_000
LONGEST_WAIT = 30.0
#: Anything else that a job raises is a fault of ours; it is tried this often.
TRIES = 3
#: A document whose processing has ended the whole process this often is not tried again.
INTERRUPTIONS = 5

#: What means "not now" and not "never".
WAITING = (
    Unavailable,
    Overloaded,
    DeadlineExceeded,
    ConnectorException,
    psycopg.OperationalError,
    psycopg.InterfaceError,
    PoolTimeout,
    PoolClosed,
    TooManyRequests,
)

Handler = Callable[[UUID, int], Awaitable[None]]


class Patience(BaseRetryStrategy):
    """Which jobs run again, and when: see WAITING, PATIENCE and TRIES."""

    def get_retry_decision(
        self, *, exception: BaseException, job: QueuedJob
    ) -> RetryDecision | None:
        """None ends the job; the sweep then marks its document as failed."""
        if isinstance(exception, asyncio.CancelledError | JobAborted):
            return RetryDecision(retry_at=_later(0.0))  # we are stopping; the next worker takes it
        waiting = isinstance(exception, WAITING)
        log.warning(
            "ingest_retry",
            job=job.id,
            attempts=job.attempts,
            error=type(exception).__name__,
            exc_info=None if waiting else exception,
            **job.task_kwargs,
        )
        if job.attempts + 1 >= (PATIENCE if waiting else TRIES):
            return None
        longest = min(LONGEST_WAIT, 0.5 * 2.0 ** min(job.attempts, 16))
        return RetryDecision(retry_at=_later(longest * random.uniform(0.5, 1.0)))


def _later(seconds: float) -> datetime:
    return datetime.now(UTC) + timedelta(seconds=seconds)


class _Connector(PsycopgConnector):
    """The library's connector, bounded in time and telling when it was last used."""

    used: float = 0.0

    @asynccontextmanager
    async def _get_cursor(
        self, connection: psycopg.AsyncConnection[Any] | None = None
    ) -> AsyncIterator[psycopg.AsyncCursor[dict[str, Any]]]:
        # The library runs one statement on each; a transaction around it is two round trips more.
        if connection is not None:
            async with super()._get_cursor(connection) as cursor:
                yield cursor
            return
        async with (
            self.pool.connection() as own,
            on_its_own(own),
            super()._get_cursor(own) as cursor,
        ):
            yield cursor

    async def execute_query_async(self, query: Any, **arguments: Any) -> None:
        async with self._bounded():
            await super().execute_query_async(query, **arguments)

    async def execute_query_one_async(self, query: Any, **arguments: Any) -> dict[str, Any]:
        async with self._bounded():
            row: dict[str, Any] = await super().execute_query_one_async(query, **arguments)
            return row

    async def execute_query_all_async(self, query: Any, **arguments: Any) -> list[dict[str, Any]]:
        async with self._bounded():
            rows: list[dict[str, Any]] = await super().execute_query_all_async(query, **arguments)
            return rows

    def _bounded(self) -> asyncio.Timeout:
        self.used = time.monotonic()
        return asyncio.timeout(QUERY_SECONDS)


class Queue:
    """Putting jobs in, and taking them out with `worker`."""

    def __init__(self, postgres: Postgres) -> None:
        self.connector = _Connector()
        self.app = App(connector=self.connector)
        self._postgres = postgres

    async def open(self) -> None:
        """Take the pool of `postgres`, which must be open."""
        await self.app.open_async(self._postgres.pool)

    def handle(self, handler: Handler) -> None:
        """What a worker does with a job."""

        @self.app.task(name=TASK, queue=QUEUE, retry=Patience())
        async def ingest(document_id: str, version: int) -> None:
            await handler(UUID(document_id), version)

    async def defer(self, connection: Connection, document_id: UUID, version: int) -> int:
        """Queue a job inside the caller's transaction; its number."""
        deferrer = self.app.configure_task(TASK, queue=QUEUE, connection=connection)
        try:
            return await deferrer.defer_async(document_id=str(document_id), version=version)
        except ConnectorException as error:
            # The caller's guard knows psycopg's errors, and the library has wrapped one.
            if isinstance(error.__cause__, psycopg.Error):
                raise error.__cause__ from None
            raise


class Worker:
    """Runs the library's worker for as long as the process lives, whatever the database does."""

    def __init__(self, queue: Queue, *, concurrency: int, drain_seconds: float) -> None:
        self._queue = queue
        self._concurrency = concurrency
        self._drain = drain_seconds
        self._beats = 0
        self._pausing = False
        self._tasks: list[asyncio.Task[None]] = []
        self._library: LibraryWorker | None = None

    def beats(self) -> int:
        """Grows every second while the loop lives: fetching, beating, or about to reconnect."""
        return self._beats

    def start(self) -> None:
        """Begin to take jobs."""
        self._queue.connector.used = time.monotonic()
        self._tasks = [
            asyncio.create_task(self._run(), name="ingest-worker"),
            asyncio.create_task(self._beat(), name="ingest-beat"),
        ]
        self._tasks[0].add_done_callback(_log_end)

    async def stop(self) -> None:
        """Take no more jobs, wait for the running ones up to the drain time, give the rest back."""
        await end_tasks(self._tasks)

    async def _run(self) -> None:
        pause = 0.2
        while True:
            started = time.monotonic()
            try:
                await self._queue.app.run_worker_async(
                    queues=[QUEUE],
                    name="aidb",
                    concurrency=self._concurrency,
                    fetch_job_polling_interval=POLL_SECONDS,
                    abort_job_polling_interval=60.0,
                    shutdown_graceful_timeout=self._drain,
                    delete_jobs="successful",
                    install_signal_handlers=False,
                    update_heartbeat_interval=HEARTBEAT_SECONDS,
                    stalled_worker_timeout=STALLED_SECONDS,
                )
                reason = "a side task ended"
            except (*WAITING, TimeoutError, OSError) as error:
                reason = type(error).__name__
            if time.monotonic() - started > 10:
                pause = 0.2
            log.warning("ingest_worker_restarts", reason=reason, pause_seconds=pause)
            self._pausing = True
            await asyncio.sleep(pause)
            self._pausing = False
            pause = min(5.0, pause * 2)

    async def _beat(self) -> None:
        while not self._tasks or not self._tasks[0].done():
            if self._pausing or time.monotonic() - self._queue.connector.used < IDLE_SECONDS:
                self._beats += 1
            await asyncio.sleep(1.0)


async def end_tasks(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Cancel and await all; an exception of one is logged and keeps none of the others from it."""
    for task in tasks:
        task.cancel()
    ends = await asyncio.gather(*tasks, return_exceptions=True)
    for task, end in zip(tasks, ends, strict=True):
        if isinstance(end, Exception):
            log.error("task_failed", task=task.get_name(), exc_info=end)


def _log_end(task: asyncio.Task[None]) -> None:
    # Its heart stops with it, and the watchdog acts; the reason must be in the log by then.
    if not task.cancelled():
        log.error("ingest_worker_ended", exc_info=task.exception())


async def sweep(connection: Connection, queue: Queue) -> tuple[int, int, int]:
    """Jobs taken back from dead workers, documents given a job, documents given up; counts.

    Safe beside any number of others: rows that another sweep holds are skipped.
    """
    cursor = await connection.execute(
        "WITH stalled AS MATERIALIZED ("
        "  SELECT j.id FROM procrastinate_jobs j"
        "    LEFT JOIN procrastinate_workers w ON w.id = j.worker_id"
        "   WHERE j.status = 'doing' AND j.queue_name = %s"
        "     AND (w.id IS NULL OR w.last_heartbeat < now() - make_interval(secs => %s)"
        # A worker that lives, but could not tell the queue how the job ended.
        "          OR EXISTS (SELECT 1 FROM documents d WHERE d.job_id = j.id"
        "                      AND d.updated_at < now() - make_interval(secs => %s)))"
        "   ORDER BY j.id FOR UPDATE OF j SKIP LOCKED)"
        " SELECT id, procrastinate_retry_job_v2(id, now(), NULL, NULL, NULL) FROM stalled",
        [QUEUE, STALLED_SECONDS, SILENT_SECONDS],
    )
    stalled = [row[0] for row in await cursor.fetchall()]
    if stalled:
        await connection.execute(
            "UPDATE documents SET interruptions = interruptions + 1 WHERE id IN"
            " (SELECT id FROM documents WHERE job_id = ANY(%s)"
            "     AND state IN ('pending', 'processing') ORDER BY id FOR UPDATE)",
            [stalled],
        )
    given_up = await _give_up(connection)
    cursor = await connection.execute(
        "SELECT d.id, d.version FROM documents d"
        " WHERE d.state IN ('pending', 'processing')"
        "   AND NOT EXISTS (SELECT 1 FROM procrastinate_jobs j WHERE j.id = d.job_id)"
        " ORDER BY d.id LIMIT 500 FOR UPDATE OF d SKIP LOCKED"
    )
    lost = await cursor.fetchall()
    for document_id, version in lost:
        job_id = await queue.defer(connection, document_id, version)
        await connection.execute(
            "UPDATE documents SET state = 'pending', job_id = %s WHERE id = %s",
            [job_id, document_id],
        )
    if stalled or lost or given_up:
        log.warning("ingest_sweep", taken_back=stalled, lost=len(lost), given_up=given_up)
    return len(stalled), len(lost), given_up


async def _give_up(connection: Connection) -> int:
    """Documents whose job ended in a fault, or ended our process too often."""
    cursor = await connection.execute(
        "WITH hopeless AS MATERIALIZED ("
        "  SELECT d.id, d.job_id, d.interruptions >= %s AS deadly FROM documents d"
        "    JOIN procrastinate_jobs j ON j.id = d.job_id"
        "   WHERE d.state IN ('pending', 'processing')"
        "     AND (j.status NOT IN ('todo', 'doing')"
        "          OR (d.interruptions >= %s AND j.status = 'todo'))"
        "   ORDER BY d.id FOR UPDATE OF d SKIP LOCKED"
        " ), ended AS (DELETE FROM procrastinate_jobs WHERE id IN (SELECT job_id FROM hopeless))"
        " UPDATE documents d SET state = 'failed', updated_at = now(), error = CASE WHEN h.deadly"
        "   THEN 'Processing this document stopped the service again and again:"
        " send another version.'"
        "   ELSE 'An unexpected error stopped the processing; it is in the log of aidb under job '"
        "        || h.job_id || '.' END"
        "  FROM hopeless h WHERE d.id = h.id",
        [INTERRUPTIONS, INTERRUPTIONS],
    )
    return cursor.rowcount
