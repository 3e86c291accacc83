"""Where the derived index stands: the rows of `index_state`, and how much of the outbox is open.

There are rows only while vectors.engine is `qdrant`; the trigger on the outbox goes by that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal
from uuid import UUID

from aistack.aidb import search_cache
from aistack.clients.postgres import Connection

#: Any constant of our own: held, until the commit, by the one who writes to the index.
_LOCK: Final = 0x_A15_7AC_0004
#: The collection of points is still to be made.
NOT_BEGUN: Final = -1

_TARGET: Final = """
SELECT s.id, s.table_name, s.dimension, s.model,
       i.state, i.next_chunk, i.done, i.total, i.wanted, i.drift, i.points, i.error,
       i.started_at, i.built_at, i.reconciled_at
  FROM embedding_sets s LEFT JOIN index_state i ON i.set_id = s.id WHERE s.state = 'active'
"""
_OPEN: Final = "SELECT count(*), extract(epoch FROM now() - min(created_at))::float FROM outbox"


@dataclass(frozen=True, slots=True)
class Progress:
    """One row. `next_chunk` of NOT_BEGUN: nothing of the index can be relied on."""

    state: Literal["building", "ready"]
    next_chunk: int
    done: int
    total: int
    wanted: Literal["reconcile", "rebuild"] | None
    drift: int | None
    points: int | None
    error: str | None
    started_at: datetime
    built_at: datetime | None
    reconciled_at: datetime | None


@dataclass(frozen=True, slots=True)
class Target:
    """The active embedding set and how far its index is; None: nobody has begun."""

    set_id: int
    table: str
    dimension: int
    model: str
    progress: Progress | None


class Busy(Exception):
    """Somebody else writes to the index now."""


async def lock(connection: Connection, *, wait: bool = True) -> None:
    """From now until the commit nobody else writes to the index. Raises Busy, or waits."""
    if wait:
        await connection.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK])
        return
    cursor = await connection.execute("SELECT pg_try_advisory_xact_lock(%s)", [_LOCK])
    row = await cursor.fetchone()
    if row is None or not row[0]:
        raise Busy


async def target(connection: Connection) -> Target | None:
    """What the index should be of; None before the first document."""
    cursor = await connection.execute(_TARGET)
    row = await cursor.fetchone()
    if row is None:
        return None
    progress = None if row[4] is None else Progress(*row[4:])
    return Target(row[0], row[1], row[2], row[3], progress)


async def reset(connection: Connection, set_id: int) -> None:
    """The index of the set is to be made anew, and of no other set; searches go without it, and
    nothing that it may have found wrong is kept."""
    await connection.execute("DELETE FROM index_state WHERE set_id <> %s", [set_id])
    await connection.execute(
        "INSERT INTO index_state (set_id, next_chunk) VALUES (%s, %s) ON CONFLICT (set_id)"
        " DO UPDATE SET state = 'building', next_chunk = excluded.next_chunk, done = 0, total = 0,"
        " wanted = NULL, drift = NULL, points = NULL, started_at = now(), built_at = NULL",
        [set_id, NOT_BEGUN],
    )
    await search_cache.outdate(connection)


async def begun(connection: Connection, set_id: int) -> None:
    """An empty index is there: every change so far is one that the build will meet."""
    await connection.execute("UPDATE outbox SET done_at = now() WHERE done_at IS NULL")
    await connection.execute(
        "UPDATE index_state SET next_chunk = 0, total ="
        " (SELECT coalesce(sum(chunk_count), 0) FROM collections) WHERE set_id = %s",
        [set_id],
    )


async def advance(connection: Connection, set_id: int, *, next_chunk: int, added: int) -> None:
    """`added` more chunks are in."""
    await connection.execute(
        "UPDATE index_state SET next_chunk = %s, done = done + %s, error = NULL,"
        " total = greatest(total, done + %s) WHERE set_id = %s",
        [next_chunk, added, added, set_id],
    )


async def finished(connection: Connection, set_id: int, points: int) -> None:
    """Searches may use it from the commit on; it is compared where the numbers differ."""
    await connection.execute(
        "UPDATE index_state SET state = 'ready', built_at = now(), reconciled_at = now(),"
        " total = done, points = %(points)s, error = NULL, drift = n.drift,"
        " wanted = CASE WHEN n.drift IS NULL THEN coalesce(wanted, 'reconcile') ELSE wanted END"
        " FROM (SELECT CASE WHEN coalesce(sum(chunk_count), 0) = %(points)s THEN 0 END AS drift"
        "         FROM collections) n WHERE set_id = %(set)s",
        {"points": points, "set": set_id},
    )


async def reconciled(
    connection: Connection, set_id: int, *, points: int, drift: int, error: str | None = None
) -> None:
    """A whole comparison has ended; it found `drift` points, and could not mend what `error` says.
    What was asked for is done."""
    await connection.execute(
        "UPDATE index_state SET reconciled_at = now(), points = %s, drift = %s, error = %s,"
        " wanted = nullif(wanted, 'reconcile') WHERE set_id = %s",
        [points, drift, error, set_id],
    )


async def want(connection: Connection, what: Literal["reconcile", "rebuild"]) -> bool:
    """Ask whoever keeps the index; a rebuild is not taken back by less. False: there is none."""
    cursor = await connection.execute(
        "UPDATE index_state SET wanted = CASE WHEN wanted = 'rebuild' THEN wanted ELSE %s END",
        [what],
    )
    return cursor.rowcount > 0


async def claim(connection: Connection, set_id: int, every: float) -> bool:
    """Whether a comparison is due, or was asked for; then it is the caller's to make.

    What was asked for stays so until it is done: whoever makes it may be killed.
    """
    cursor = await connection.execute(
        "UPDATE index_state SET claimed_at = now() WHERE set_id = %s"
        " AND (wanted = 'reconcile' OR (wanted IS NULL AND"
        "  greatest(reconciled_at, claimed_at) <= now() - make_interval(secs => %s)))",
        [set_id, every],
    )
    return cursor.rowcount > 0


async def failed(connection: Connection, reason: str | None) -> None:
    """Say why the index does not get on; None: it does."""
    await connection.execute(
        "UPDATE index_state SET error = %s WHERE error IS DISTINCT FROM %s", [reason, reason]
    )


async def forget(connection: Connection) -> None:
    """No index is kept any more: no job is deferred from the commit on."""
    await connection.execute("DELETE FROM index_state")
    await connection.execute(
        "DELETE FROM procrastinate_jobs WHERE task_name = 'aidb.index' AND status = 'todo'"
    )


async def open_lines(connection: Connection) -> tuple[int, float]:
    """Changes that the index has not been told of, and the seconds since the oldest of them."""
    cursor = await connection.execute(_OPEN + " WHERE done_at IS NULL")
    row = await cursor.fetchone()
    assert row is not None, "a count is one row"
    return int(row[0]), float(row[1] or 0.0)


async def search_view(
    connection: Connection, set_id: int, collection_id: int, most: int
) -> tuple[bool, Sequence[UUID] | None]:
    """In the caller's snapshot: whether the set's index may answer, and the collection's documents
    whose last change it may not have; None for more than `most`."""
    cursor = await connection.execute(
        "SELECT EXISTS (SELECT 1 FROM index_state WHERE set_id = %s AND state = 'ready'),"
        " ARRAY(SELECT DISTINCT document_id FROM outbox"
        "  WHERE collection_id = %s AND done_at IS NULL AND document_id IS NOT NULL LIMIT %s)",
        [set_id, collection_id, most + 1],
    )
    row = await cursor.fetchone()
    assert row is not None, "a SELECT without FROM is one row"
    return bool(row[0]), None if len(row[1]) > most else row[1]
