"""Results that are asked for again and again, answered from memory and yet never stale.

A hit costs one round trip to PostgreSQL, because only there it shows whether the collection has
changed. Where hits follow each other within `HOLD_SECONDS`, the collection is held still instead: a
transaction has an advisory lock that every change that a search can see needs, too, before it
commits (migration 0008). While it is held nothing can change, and what was made from just this
state is answered without asking. After `HOLD_SECONDS` the lock is given up, whoever waits for it
goes first, and it is taken again only if something was answered.

So a change waits for about `HOLD_SECONDS`, and only while its collection is searched that often.
The lock ends with its connection: each answer first looks whether the server has ended that, and a
process that stands still with a lock loses it after `STILL_SECONDS`.
"""

from __future__ import annotations

import asyncio
import select
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextvars import Context
from typing import Final, LiteralString, NamedTuple

import psycopg
import structlog
from prometheus_client import Counter
from psycopg import sql

from aistack.aidb.search_state import Look, Stamp
from aistack.clients.postgres import Connection, Postgres
from aistack.service.errors import Overloaded, Unavailable

log = structlog.get_logger()

HELD = Counter(
    "aistack_aidb_searches_held_total",
    "Hits of the search cache answered from memory while their collection was held still",
)

HOLD_SECONDS: Final = 0.02
STILL_SECONDS: Final = 1.0
#: Without frequent hits for so long, the connection goes.
IDLE_SECONDS: Final = 60.0
#: After a failure.
PAUSE_SECONDS: Final = 1.0
#: Of the results in memory.
MOST_BYTES: Final = 16 * 1024 * 1024
#: Collections that are held at the same time.
MOST_COLLECTIONS: Final = 64

_SETTINGS: Final = sql.SQL(
    "SET idle_in_transaction_session_timeout = {still}; SET statement_timeout = {still}"
).format(still=sql.Literal(int(STILL_SECONDS * 1000)))
_HOLD: Final = (
    "BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY; SELECT * FROM aidb_hold({}::integer[])"
)


class _Kept(NamedTuple):
    stamp: Stamp
    wire: bytes
    expires: float


class SearchMemory:
    """Of one process and one event loop. Without `aclose` a task is left behind."""

    def __init__(self, postgres: Postgres, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._postgres = postgres
        self._clock = clock
        self._kept: OrderedDict[bytes, _Kept] = OrderedDict()
        self._bytes = 0
        #: By the collection's name; valid until `_until`, and while the server says nothing.
        self._held: Mapping[str, Look] = {}
        self._until = 0.0
        self._said = select.poll()
        #: When a result of a collection was last read from PostgreSQL.
        self._read: dict[str, float] = {}
        #: Collections that are to be held next.
        self._wanted: set[int] = set()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._not_before = 0.0

    def look(self, key: bytes, collection: str) -> Look | None:
        """As `SearchCache.look`, where it can be told without asking; else None."""
        held = self._held.get(collection)
        kept = None if held is None else self._kept.get(key)
        if held is None or kept is None or kept.stamp != held.stamp:
            return None
        now = self._clock()
        if now >= self._until or now >= kept.expires or self._said.poll(0):
            return None
        self._kept.move_to_end(key)
        self._wanted.add(held.stamp.collection_id)
        HELD.inc()
        return held._replace(wire=kept.wire)

    def learn(self, key: bytes, collection: str, stamp: Stamp, wire: bytes, seconds: float) -> None:
        """What PostgreSQL has just given, and may be given for `seconds` more."""
        now = self._clock()
        self._keep(key, _Kept(stamp, wire, now + seconds))
        before = self._read.get(collection)
        self._read[collection] = now
        if before is None or now - before > HOLD_SECONDS or now < self._not_before:
            return
        self._wanted.add(stamp.collection_id)
        self._wake.set()
        if self._task is None or self._task.done():
            # Not within the request that comes first: its time and its trace end.
            self._task = asyncio.create_task(self._hold(), name="search_memory", context=Context())

    def clear(self) -> None:
        """Drop all results: texts that were deleted do not stay."""
        self._kept.clear()
        self._bytes = 0
        self._read.clear()

    async def aclose(self) -> None:
        """Give up what is held."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def _keep(self, key: bytes, kept: _Kept) -> None:
        before = self._kept.pop(key, None)
        self._kept[key] = kept
        self._bytes += len(kept.wire) - (0 if before is None else len(before.wire))
        while self._bytes > MOST_BYTES:
            _, oldest = self._kept.popitem(last=False)
            self._bytes -= len(oldest.wire)

    async def _hold(self) -> None:
        """Hold what is wanted for as long as something is."""
        try:
            async with self._postgres.session("search.hold") as connection:
                await connection.execute(_SETTINGS)
                said = select.poll()
                said.register(connection.fileno(), select.POLLIN)
                self._said = said
                # Without a connection the database may have gone back to before: a standby took
                # over, a dump was read. The same epoch is then of something else.
                self.clear()
                while await self._is_wanted():
                    await self._windows(connection)
        except (psycopg.Error, Unavailable, Overloaded) as error:
            self._not_before = self._clock() + PAUSE_SECONDS
            log.warning("searches_not_held", error=type(error).__name__, reason=str(error)[:300])
        finally:
            self._wanted = set()

    async def _is_wanted(self) -> bool:
        if not self._wanted:
            self._wake.clear()
            try:
                async with asyncio.timeout(IDLE_SECONDS):
                    await self._wake.wait()
            except TimeoutError:
                return False
        return True

    async def _windows(self, connection: Connection) -> None:
        """One after the other, while something is answered in each."""
        before = ""
        while self._wanted:
            wanted = list(self._wanted)[:MOST_COLLECTIONS]
            self._wanted = set()
            asked = self._clock()
            self._held = await _held(connection, wanted, before)
            before = "COMMIT;"
            # The server does not end it sooner than STILL_SECONDS from when it was asked.
            self._until = min(self._clock() + HOLD_SECONDS, asked + STILL_SECONDS / 2)
            try:
                await asyncio.sleep(HOLD_SECONDS)
            finally:
                # Before the lock goes.
                self._held = {}
        await connection.execute("COMMIT")


async def _held(connection: Connection, ids: list[int], before: LiteralString) -> dict[str, Look]:
    """By name, those of the collections that nobody is about to change; held until the commit."""
    # One round trip.
    statement = sql.SQL(before + _HOLD).format(sql.Literal(ids))
    cursor = await connection.execute(statement)
    while cursor.nextset():
        pass
    return {
        name: Look(Stamp(collection_id, epoch, set_id), chunks, None)
        for name, collection_id, epoch, set_id, chunks in await cursor.fetchall()
    }
