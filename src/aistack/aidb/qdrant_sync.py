"""Changes on their way to Qdrant: from the outbox, in the order they were made, never lost.

A line of the outbox is written in the transaction of its change, and a job that wakes us with it.
What is done with a line does not depend on what it says, but on what PostgreSQL has now: the
document's chunks are written, points of its other versions are removed. So a line can be done twice
(killed before it was marked), late, or together with later ones, and the end is the same.

All that write to Qdrant hold one advisory lock meanwhile, across processes: what was read of
PostgreSQL is written before anybody reads anew, so that nothing old is written over something new.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import structlog
from prometheus_client import Counter, Gauge
from psycopg import sql

from aistack.aidb import index_state
from aistack.aidb.index_state import Target
from aistack.aidb.jobs import QUEUE, WAITING, Queue
from aistack.aidb.qdrant_layout import Layout
from aistack.clients.postgres import Connection, Postgres
from aistack.clients.qdrant import AnyOf, Qdrant, Refused, Where
from aistack.service.errors import NotFound

log = structlog.get_logger()

TASK: Final = "aidb.index"

CHANGES = Counter(
    "aistack_aidb_index_changes_total",
    "Changes that Qdrant was told of (done), or could not be told of now (waiting)",
    ["outcome"],
)
OPEN = Gauge("aistack_aidb_index_open_changes", "Changes that Qdrant has not been told of yet")

#: Lines of one transaction, the chunks after which it takes no further line, points of a request.
LINES: Final = 100
CHUNKS: Final = 5000
POINTS: Final = 256
#: The largest document, a request at a time.
BATCH_SECONDS: Final = 600.0

_LINES: Final = """
WITH open AS MATERIALIZED (
    SELECT id, kind, collection_id, document_id FROM outbox
     WHERE done_at IS NULL ORDER BY id LIMIT %(lines)s
), sized AS (
    SELECT o.*, sum(coalesce(d.chunk_count, 0)) OVER (ORDER BY o.id)
                - coalesce(d.chunk_count, 0) AS before
      FROM open o LEFT JOIN documents d ON d.id = o.document_id
)
SELECT id, kind, collection_id, document_id FROM sized WHERE before < %(chunks)s ORDER BY id
"""
_DOCUMENTS: Final = """
SELECT id::text, ready_version FROM documents
 WHERE id = ANY(%s) AND ready_version IS NOT NULL ORDER BY id
"""
_OF_DOCUMENTS: Final = sql.SQL("c.document_id = ANY(%(documents)s) AND c.id >= %(start)s")


class Layouts:
    """The layout of the active set; made anew when another set takes over, or it is built anew,
    which may be in another process."""

    def __init__(self, qdrant: Qdrant) -> None:
        self._qdrant = qdrant
        self._current: Layout | None = None
        self._begun: datetime | None = None

    def of(self, target: Target) -> Layout:
        """Of `target`."""
        begun = _begun(target)
        current = self._current
        if current is None or current.set_id != target.set_id or self._begun != begun:
            current = self._current = Layout(self._qdrant, target.set_id, target.table)
            self._begun = begun
        return current


class IndexSync:
    """Tells Qdrant of what is open in the outbox."""

    def __init__(self, postgres: Postgres, qdrant: Qdrant, layouts: Layouts) -> None:
        self._postgres = postgres
        self._qdrant = qdrant
        self._layouts = layouts
        self._busy = False
        self._again = False

    def register(self, queue: Queue) -> None:
        """What a worker does with a job of ours: all there is to do, not one line of it."""

        @queue.app.task(name=TASK, queue=QUEUE)
        async def index() -> None:
            await self.wake()

    async def wake(self) -> None:
        """Do what is open, as long as Qdrant is there; what stays open is swept up later.

        One at a time in this process: others hand their wake-up over and go.
        """
        if self._busy:
            self._again = True
            return
        self._busy = True
        try:
            self._again = True
            while self._again:
                self._again = False
                await self.drain()
        except (*WAITING, Refused) as error:
            CHANGES.labels("waiting").inc()
            log.warning("index_waits", error=type(error).__name__, reason=str(error)[:200])
        finally:
            self._busy = False

    async def drain(self) -> int:
        """Do all open lines; how many. Raises what a dependency raises; what was done is marked."""
        done = 0
        while lines := await self.batch():
            done += lines
        return done

    async def batch(self, *, wait: bool = True) -> int:
        """Do some open lines; how many. Raises Busy where another writes and it may not `wait`."""
        lost: Target | None = None
        async with self._postgres.connection("index.sync", timeout=BATCH_SECONDS) as connection:
            await index_state.lock(connection, wait=wait)
            target = await index_state.target(connection)
            # Until a build has begun it is the build that will meet what is open.
            if (
                target is None
                or target.progress is None
                or target.progress.next_chunk == index_state.NOT_BEGUN
            ):
                return 0
            cursor = await connection.execute(_LINES, {"lines": LINES, "chunks": CHUNKS})
            lines = await cursor.fetchall()
            if not lines:
                OPEN.set(0)
                return 0
            layout = self._layouts.of(target)
            try:
                await self._apply(connection, layout, lines)
            except NotFound:
                lost = target
            else:
                if layout.refused:
                    await index_state.failed(connection, layout.refused)
                await connection.execute(
                    "UPDATE outbox SET done_at = now() WHERE id = ANY(%s)",
                    [[line[0] for line in lines]],
                )
        if lost is not None:
            await self.lost(lost, wait=wait)
            return 0
        CHANGES.labels("done").inc(len(lines))
        return len(lines)

    async def lost(self, target: Target, *, wait: bool = True) -> None:
        """Qdrant has no such collection: searches go without from now, and it is built anew.

        Nothing, where somebody else has begun anew since `target` was read.
        """
        async with self._postgres.connection("index.lost") as connection:
            await index_state.lock(connection, wait=wait)
            now = await index_state.target(connection)
            if now is None or now.set_id != target.set_id or _begun(now) != _begun(target):
                return
            await index_state.reset(connection, target.set_id)
        log.error("index_lost", set=target.set_id)

    async def _apply(
        self, connection: Connection, layout: Layout, lines: Sequence[tuple[Any, ...]]
    ) -> None:
        gone = sorted({line[2] for line in lines if line[1] == "collection_deleted"})
        if gone:
            where = Where(must=(AnyOf("collection_id", tuple(gone)),))
            await self._qdrant.delete(layout.name, where)
        documents = sorted({line[3] for line in lines if line[3] is not None})
        cursor = await connection.execute(_DOCUMENTS, [documents])
        versions: dict[str, int] = dict(await cursor.fetchall())
        await self._write(connection, layout, documents)
        # After the new ones, so that at no time a document is not there at all.
        for where in leftovers([str(one) for one in documents], versions):
            await self._qdrant.delete(layout.name, where)

    async def _write(
        self, connection: Connection, layout: Layout, documents: Sequence[UUID]
    ) -> None:
        start = 0
        while True:
            points = await layout.points(
                connection,
                _OF_DOCUMENTS,
                {"documents": list(documents), "start": start, "limit": POINTS},
            )
            await layout.upsert(points)
            if len(points) < POINTS:
                return
            start = points[-1].id + 1


def _begun(target: Target) -> datetime | None:
    return target.progress.started_at if target.progress else None


def leftovers(documents: Sequence[str], versions: dict[str, int]) -> list[Where]:
    """The points of `documents` that must not be there; `versions` are the searchable ones.

    A document without one is gone, or has never been searchable: all of its points go.
    """
    found = []
    gone = tuple(one for one in documents if one not in versions)
    if gone:
        found.append(Where(must=(AnyOf("document_id", gone),)))
    for version in sorted(set(versions.values())):
        same = tuple(one for one in documents if versions.get(one) == version)
        found.append(
            Where(must=(AnyOf("document_id", same),), must_not=(AnyOf("version", (version,)),))
        )
    return found
