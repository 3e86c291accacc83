"""Keeps Qdrant what PostgreSQL says it should be: builds, compares, heals.

A turn of the loop looks at the row of the active set in `index_state`:

- there is none, or another set has taken over, or a rebuild is wanted: begin anew
- building: some more chunks, by their ids; how far it is lies in the row, so that a build that was
  killed goes on where it was, in any process
- ready: every COUNT_SECONDS the points are counted, every RECONCILE_SECONDS (or when asked) ids and
  marks are compared in ranges of ids, and what differs is written or removed

and defers a job for lines of the outbox that have waited too long for theirs. Everything is done
under the lock of `index_state`, a range at a time, so that changes come in between; while somebody
else holds it the turn is over, because a loop that waits for long looks as if it hung.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import structlog
from prometheus_client import Gauge
from psycopg import sql

from aistack.aidb import index_state, search_cache
from aistack.aidb.index_state import NOT_BEGUN, Busy, Target
from aistack.aidb.jobs import WAITING
from aistack.aidb.qdrant_layout import MARK, is_ours
from aistack.aidb.qdrant_sync import BATCH_SECONDS, OPEN, POINTS, TASK, IndexSync, Layouts
from aistack.aidb.vector_index import READY
from aistack.clients.postgres import Connection, Postgres
from aistack.clients.qdrant import Ids, Qdrant, Where
from aistack.clients.resilience import Transient
from aistack.service.errors import NotFound, StackError, Unavailable

log = structlog.get_logger()

BUILD = Gauge(
    "aistack_aidb_index_build_progress",
    "How far Qdrant has the chunks of the active embedding set: 0 to 1; 1 when searches may use it",
)
INDEX_POINTS = Gauge("aistack_aidb_index_points", "Points that Qdrant had when they were counted")
DRIFT = Gauge(
    "aistack_aidb_index_drift",
    "Points that the last comparison found missing, outdated or left over, and mended",
    ["kind"],
)

TURN_SECONDS: Final = 2.0
#: A turn works at most so long before it lets the loop tell that it lives.
SLICE_SECONDS: Final = 5.0
COUNT_SECONDS: Final = 30.0
RECONCILE_SECONDS: Final = 600.0
#: Ids compared in one transaction.
RANGE: Final = 1000
#: A line that is older has lost its job, or its job could do nothing.
PATIENCE_SECONDS: Final = 3.0

_FROM: Final = sql.SQL("c.id >= %(start)s")
_BY_ID: Final = sql.SQL("c.id = ANY(%(ids)s)")
_CHUNKS: Final = """
SELECT coalesce(sum(chunk_count), 0)::bigint,
       EXISTS (SELECT 1 FROM embedding_sets WHERE state = 'filling') FROM collections
"""
_SWEEP: Final = """
SELECT procrastinate_defer_jobs_v1(ARRAY[
           ROW('aidb', %(task)s, 10, NULL, NULL, '{}'::jsonb, NULL)
       ]::procrastinate_job_to_defer_v1[])
 WHERE NOT EXISTS (SELECT 1 FROM procrastinate_jobs
                    WHERE task_name = %(task)s AND status = 'todo')
"""


@dataclass(slots=True)
class Pass:
    """A comparison under way: the next id, and what was found so far."""

    set_id: int
    begun: datetime | None = None
    start: int | None = 0
    missing: int = 0
    outdated: int = 0
    left_over: int = 0
    #: Something was mended, and what searches have kept of before is still there.
    mended: bool = False

    @property
    def drift(self) -> int:
        """All that differed."""
        return self.missing + self.outdated + self.left_over


class Reconciler:
    """The keeper of the index; one in each process, any number of them may work at once."""

    def __init__(
        self,
        postgres: Postgres,
        qdrant: Qdrant,
        layouts: Layouts,
        sync: IndexSync,
        *,
        every: float = RECONCILE_SECONDS,
    ) -> None:
        self._postgres = postgres
        self._qdrant = qdrant
        self._layouts = layouts
        self._sync = sync
        self._every = every
        self._pass: Pass | None = None
        self._count_after = 0.0
        #: Shown to who asks how the service is; set by its owner.
        self.tell: Callable[[str], None] = lambda words: None
        self._told = ""
        self._why: str | None = None
        #: (points, chunks) that differed and were compared: no reason to do so again.
        self._differed: tuple[int, int] | None = None

    async def turn(self) -> bool:
        """Some of what is to do; True: there is more. Raises what a loop waits for."""
        try:
            more = await self._turn()
        except Busy:
            return False
        except StackError as error:
            # While the breaker is open there is no cause: the last one is.
            cause = error.__cause__
            if isinstance(cause, Transient):
                self._why = f"qdrant: {cause}"[:200]
            reason = self._why or error.detail
            async with self._postgres.connection("index.failed") as connection:
                await index_state.failed(connection, reason)
            if isinstance(error, WAITING):
                raise
            # A refusal of what nobody expects to be refused: no reason to end the loop.
            log.error("index_refused", error=type(error).__name__, reason=error.detail)
            raise Unavailable(error.detail) from error
        self._why = None
        return more

    async def settle(self) -> None:
        """Turns until there is nothing more to do: build what is to build, do what is open."""
        while await self.turn():
            pass
        await self._sync.drain()

    async def reconcile(self) -> Pass:
        """A whole comparison now, of an index that is ready."""
        async with self._postgres.connection("index.look") as connection:
            target = await index_state.target(connection)
        assert target is not None, "an index that is ready"
        self._pass = found = self._new_pass(target)
        while self._pass is not None:
            await self._compare(target)
        return found

    async def _turn(self) -> bool:
        async with self._postgres.connection("index.look") as connection:
            target = await index_state.target(connection)
            await self._sweep(connection, target)
        if target is None:
            return False
        progress = target.progress
        if progress is None or _unwanted(target):
            self._pass = None
            async with self._postgres.connection("index.reset") as connection:
                await index_state.lock(connection, wait=False)
                if _unwanted(await index_state.target(connection)):
                    await index_state.reset(connection, target.set_id)
            return True
        self._say(target)
        if progress.state == "building":
            if progress.next_chunk == NOT_BEGUN:
                await self._begin(target)
                return True
            return await self._build(target)
        if self._pass is None and await self._due(target):
            self._pass = self._new_pass(target)
        if self._pass is not None:
            return await self._compare(target)
        return False

    def _new_pass(self, target: Target) -> Pass:
        assert target.progress is not None, "an index that is ready"
        self._layouts.of(target).refused = None
        return Pass(target.set_id, target.progress.started_at)

    async def _begin(self, target: Target) -> None:
        """An empty collection; those of sets that are no longer searched go."""
        async with self._postgres.connection("index.begin", timeout=BATCH_SECONDS) as connection:
            await index_state.lock(connection, wait=False)
            now = await index_state.target(connection)
            if now is None or now.progress is None or now.progress.next_chunk != NOT_BEGUN:
                return
            layout = self._layouts.of(now)
            for name in await self._qdrant.names():
                if name != layout.name and is_ours(name, self._qdrant.prefix):
                    await self._qdrant.drop(name)
            await layout.create(now.dimension)
            await index_state.begun(connection, now.set_id)
        log.info("index_build_begins", set=target.set_id)

    async def _build(self, target: Target) -> bool:
        end = time.monotonic() + SLICE_SECONDS
        while time.monotonic() < end:
            try:
                if not await self._build_some():
                    return False
            except NotFound:
                await self._sync.lost(target, wait=False)
                return True
        return True

    async def _build_some(self) -> bool:
        """The next chunks; False when all are in."""
        async with self._postgres.connection("index.build", timeout=BATCH_SECONDS) as connection:
            await index_state.lock(connection, wait=False)
            target = await index_state.target(connection)
            progress = None if target is None else target.progress
            if target is None or progress is None or progress.state != "building":
                return False
            layout = self._layouts.of(target)
            points = await layout.points(
                connection, _FROM, {"start": progress.next_chunk, "limit": POINTS}
            )
            await layout.upsert(points)
            if points:
                await index_state.advance(
                    connection,
                    target.set_id,
                    next_chunk=points[-1].id + 1,
                    added=len(points),
                )
                BUILD.set(min(0.999, (progress.done + len(points)) / max(1, progress.total)))
            else:
                count = await self._qdrant.count(layout.name)
                await index_state.finished(connection, target.set_id, count)
                if layout.refused:
                    await index_state.failed(connection, layout.refused)
                INDEX_POINTS.set(count)
        if not points:
            BUILD.set(1)
            self._say(None)
            log.info("index_built", set=target.set_id, points=count)
        return bool(points)

    async def _due(self, target: Target) -> bool:
        """Whether to compare now: by the clock, because asked, or because the numbers differ."""
        async with self._postgres.connection("index.claim") as connection:
            if await index_state.claim(connection, target.set_id, self._every):
                return True
        if time.monotonic() < self._count_after:
            return False
        self._count_after = time.monotonic() + COUNT_SECONDS
        try:
            count = await self._qdrant.count(self._layouts.of(target).name)
        except NotFound:
            await self._sync.lost(target, wait=False)
            return False
        INDEX_POINTS.set(count)
        async with self._postgres.connection("index.count") as connection:
            await index_state.failed(connection, self._layouts.of(target).refused)
            lines, _ = await index_state.open_lines(connection)
            cursor = await connection.execute(_CHUNKS)
            row = await cursor.fetchone()
        assert row is not None, "a sum is one row"
        chunks, filling = row
        # A new model's chunks have no vector of the old one.
        if lines or filling:
            return False
        before, self._differed = self._differed, None if chunks == count else (count, chunks)
        if self._differed in (None, before):
            return False
        log.warning("index_count_differs", set=target.set_id, points=count, chunks=chunks)
        return True

    async def _compare(self, target: Target) -> bool:
        """Ranges of ids until the slice is over; True: there are more."""
        made = self._pass
        assert made is not None, "a comparison under way"
        end = time.monotonic() + SLICE_SECONDS
        try:
            while made.start is not None:
                # What is only late is no drift.
                while await self._sync.batch(wait=False):
                    if time.monotonic() >= end:
                        return True
                if not await self._range(made):
                    self._pass = None
                    return True
                if time.monotonic() >= end and made.start is not None:
                    return True
            count = await self._qdrant.count(self._layouts.of(target).name)
        except NotFound:
            self._pass = None
            await self._sync.lost(target, wait=False)
            return True
        self._pass = None
        async with self._postgres.connection("index.reconciled") as connection:
            await index_state.reconciled(
                connection,
                made.set_id,
                points=count,
                drift=made.drift,
                error=self._layouts.of(target).refused,
            )
        INDEX_POINTS.set(count)
        _show(made)
        words = log.warning if made.drift else log.info
        words(
            "index_reconciled",
            points=count,
            missing=made.missing,
            outdated=made.outdated,
            left_over=made.left_over,
        )
        return False

    async def _range(self, made: Pass) -> bool:
        """Compare and mend one range; False where it is no longer this index that is searched."""
        start = made.start or 0
        async with self._postgres.connection("index.compare", timeout=BATCH_SECONDS) as connection:
            await index_state.lock(connection, wait=False)
            target = await index_state.target(connection)
            if (
                target is None
                or target.set_id != made.set_id
                or target.progress is None
                or target.progress.state != "ready"
                or target.progress.started_at != made.begun
            ):
                return False
            layout = self._layouts.of(target)
            should = await layout.marks(connection, start, RANGE + 1)
            has, following = await self._qdrant.page(
                layout.name, start=start, limit=RANGE, field=MARK
            )
            # Both lists are whole below the end.
            ends = [should[RANGE][0]] if len(should) > RANGE else []
            end = min([*ends, following]) if following is not None else min(ends, default=None)
            wanted = {chunk: mark for chunk, mark in should if end is None or chunk < end}
            found = {point: mark for point, mark in has if end is None or point < end}
            missing = [one for one in wanted if one not in found]
            outdated = [one for one in wanted if one in found and found[one] != wanted[one]]
            left = tuple(one for one in found if one not in wanted)
            mend = missing + outdated
            made.mended |= bool(mend or left)
            for first in range(0, len(mend), POINTS):
                ids = mend[first : first + POINTS]
                await layout.upsert(
                    await layout.points(connection, _BY_ID, {"ids": ids, "limit": POINTS})
                )
            if left:
                await self._qdrant.delete(layout.name, Where(must=(Ids(left),)))
            if made.mended:
                await search_cache.outdate(connection)
        made.mended = False
        made.start = end
        made.missing += len(missing)
        made.outdated += len(outdated)
        made.left_over += len(left)
        return True

    async def _sweep(self, connection: Connection, target: Target | None) -> None:
        if target is None or target.progress is None:
            return
        lines, age = await index_state.open_lines(connection)
        OPEN.set(lines)
        if lines and age > PATIENCE_SECONDS:
            await connection.execute(_SWEEP, {"task": TASK})

    def _say(self, target: Target | None) -> None:
        """Tell how far a build is; an empty line when it is over."""
        progress = None if target is None else target.progress
        words = ""
        if progress is not None and progress.state == "building":
            share = progress.done / progress.total if progress.total else 0.0
            BUILD.set(min(share, 0.999))
            words = f"building the index in Qdrant: {share:.0%}"
        elif progress is not None:
            BUILD.set(1)
            if progress.drift == 0 and self._pass is None:
                # Also where another process has found that nothing differs any more.
                _show(Pass(target.set_id if target else 0))
        if words != self._told:
            self._told = words
            self.tell(words or READY)


def _unwanted(target: Target | None) -> bool:
    """Whether what there is of the index is to be thrown away."""
    return target is not None and (target.progress is None or target.progress.wanted == "rebuild")


def _show(found: Pass) -> None:
    DRIFT.labels("missing").set(found.missing)
    DRIFT.labels("outdated").set(found.outdated)
    DRIFT.labels("left_over").set(found.left_over)
