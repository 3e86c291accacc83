"""The HNSW indexes of the vector tables: built when a table has grown enough to want one.

Below `aidb.dense_exact_below` chunks every search is exact and an index would only make writing
slow, so a vector table begins without one. A turn of the loop looks at the tables that are used or
filled; what one of them lacks is built beside it, with CREATE INDEX CONCURRENTLY on a connection of
its own, so that neither searches nor uploads wait. An advisory lock lets one process of all build.

An index counts from the moment PostgreSQL calls it valid; until then, and whatever becomes of the
build, searches are exact. A build that ended halfway leaves an invalid index, which is dropped
before the next try. A failed build is tried again after a pause that doubles.

`aidb.vector_storage` may change at any time: the index of the other kind is built first, and the
old one is dropped when the new one is valid.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import psycopg
import structlog
from prometheus_client import Counter, Gauge
from psycopg import sql

from aistack.aidb.embedding_sets import FILLED, INDEXABLE, filled, index_name
from aistack.clients.postgres import Connection, Postgres
from aistack.config import AidbConfig
from aistack.service.errors import StackError

log = structlog.get_logger()

PROGRESS = Gauge(
    "aistack_aidb_vector_index_progress",
    "How far the vector index of an embedding set is: 0 to 1; 1 when searches may use it",
    ["set"],
)
BUILDS = Counter(
    "aistack_aidb_vector_index_builds_total",
    "Builds of a vector index by how they ended: done, failed, stopped",
    ["outcome"],
)

#: How often a build is looked after, and the tables are looked at.
TURN_SECONDS: Final = 5.0
FIRST_PAUSE_SECONDS: Final = 30.0
#: Counting what a new model's set holds may take so long at every turn.
SHORT_SECONDS: Final = 0.2
#: What the kit calls a service that has started and has nothing to say.
READY: Final = "ready"
LONGEST_PAUSE_SECONDS: Final = 3600.0
#: Any constant of our own: held by the one who builds or drops.
_LOCK: Final = 0x_A15_7AC_0003

_TABLES: Final = """
SELECT s.id, s.table_name, s.dimension,
       ARRAY(SELECT c.relname::text FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
              WHERE i.indrelid = to_regclass(s.table_name) AND i.indisvalid),
       ARRAY(SELECT c.relname::text FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
              WHERE i.indrelid = to_regclass(s.table_name) AND NOT i.indisvalid)
  FROM embedding_sets s WHERE s.state IN ('active', 'filling') ORDER BY s.state, s.id
"""
_UNDER_WAY: Final = """
SELECT phase, blocks_done / nullif(blocks_total, 0)::float FROM pg_stat_progress_create_index
 WHERE relid = to_regclass(%s)
"""
_MADE_OF: Final = {
    "vector": "embedding vector_ip_ops",
    "halfvec": "(embedding::halfvec({dimension})) halfvec_ip_ops",
}


@dataclass(frozen=True, slots=True)
class Table:
    """A vector table that is used or filled, and the names of all of its indexes."""

    set_id: int
    name: str
    dimension: int
    valid: tuple[str, ...]
    invalid: tuple[str, ...]

    def hnsw(self, names: tuple[str, ...]) -> list[str]:
        """Those of `names` that are HNSW indexes of ours."""
        return [name for name in names if name in {index_name(self.name, k) for k in INDEXABLE}]


@dataclass(frozen=True, slots=True)
class Work:
    """What a table wants: `build` and `drop` are names of indexes."""

    table: Table
    build: str | None
    drop: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class IndexState:
    """How the active set is searched where it is large."""

    state: Literal["none", "building", "ready"]
    progress: float | None = None


class VectorIndexes:
    """Keeps the tables' indexes as the configuration wants them; one build at a time."""

    def __init__(self, postgres: Postgres, config: AidbConfig) -> None:
        self._postgres = postgres
        self._storage = config.vector_storage
        # An empty table wants none, even where every search shall use it.
        self._from = max(1, config.dense_exact_below)
        self._memory = config.index_memory_mb
        self._workers = config.index_workers
        self._building: asyncio.Task[None] | None = None
        self._pause = 0.0
        self._not_before = 0.0
        self._failure: str | None = None
        self._filled: dict[int, float] = {}
        self._count_after = 0.0
        self._too_wide: set[int] = set()
        #: Shown to who asks how the service is; set by its owner.
        self.tell: Callable[[str], None] = lambda words: None
        self._told = READY

    async def turn(self) -> bool:
        """Look after the build under way, or begin one if a table wants it. False: no hurry."""
        if self._building is not None and self._building.done():
            building, self._building = self._building, None
            # A fault of ours ends the loop, as everywhere.
            building.result()
        async with self._postgres.connection("vector_index.look") as connection:
            tables = await _tables(connection)
            states = [await _index_state(connection, table) for table in tables]
            _show(PROGRESS, {t.set_id: s.progress for t, s in zip(tables, states, strict=True)})
            await self._count_filled(connection)
            free = self._building is None and time.monotonic() >= self._not_before
            elsewhere = any(state.state == "building" for state in states)
            work = await self._wanted(connection, tables) if free and not elsewhere else []
        if work:
            self._building = asyncio.create_task(self._work(), name="vector-index")
        self._say(states, self._filled)
        return False

    async def aclose(self) -> None:
        """End a build under way; the next process begins it anew."""
        if self._building is None:
            return
        self._building.cancel()
        # Its outcome has been logged; a fault of ours is one of a service that ends anyway.
        await asyncio.wait({self._building})

    async def build(self) -> None:
        """Do now what is to do, and wait for it; nothing where another process is at it.

        Raises psycopg.Error or a StackError; then the half-made index is dropped, if the connection
        still lives.
        """
        async with self._postgres.session("vector_index.connect") as connection:
            cursor = await connection.execute("SELECT pg_try_advisory_lock(%s)", [_LOCK])
            if await cursor.fetchone() != (True,):
                log.debug("vector_index_elsewhere")
                return
            await self._settings(connection)
            for work in await self._wanted(connection, await _tables(connection)):
                for name in work.drop:
                    await _drop(connection, name)
                if work.build is not None:
                    await self._build(connection, work.table, work.build)

    async def _work(self) -> None:
        try:
            await self.build()
        except asyncio.CancelledError:
            BUILDS.labels("stopped").inc()
            log.info("vector_index_stopped")
            raise
        except (psycopg.Error, StackError) as error:
            BUILDS.labels("failed").inc()
            self._pause = min(max(FIRST_PAUSE_SECONDS, self._pause * 2), LONGEST_PAUSE_SECONDS)
            self._not_before = time.monotonic() + self._pause
            # Workers share memory outside maintenance_work_mem, which a container may not have.
            self._workers = 0
            self._failure = " ".join(str(error).split())[:300]
            log.error(
                "vector_index_failed",
                error=type(error).__name__,
                reason=self._failure,
                again_seconds=self._pause,
                meanwhile="searches are exact",
            )
        else:
            self._pause = 0.0
            self._failure = None

    async def _count_filled(self, connection: Connection) -> None:
        began = time.monotonic()
        if began < self._count_after:
            return
        self._filled = await filled(connection)
        _show(FILLED, self._filled)
        took = time.monotonic() - began
        if took > SHORT_SECONDS:
            # Large tables take their time to count: it shall be a twentieth of ours.
            self._count_after = began + 20 * took

    def _say(self, states: Sequence[IndexState], filling: Mapping[int, float]) -> None:
        words = [f"embedding for another model: {share:.0%}" for share in filling.values()] + [
            f"building the vector index: {state.progress or 0:.0%}"
            for state in states
            if state.state == "building"
        ]
        if self._failure is not None:
            words.append(f"no vector index, searches are exact: {self._failure}")
        text = "; ".join(words) or READY
        if text != self._told:
            self._told = text
            self.tell(text)

    async def _wanted(self, connection: Connection, tables: list[Table]) -> list[Work]:
        found = []
        for table in tables:
            wanted: str | None = index_name(table.name, self._storage)
            if table.dimension > INDEXABLE[self._storage]:
                self._warn(table)
                wanted = None
            others = tuple(name for name in table.hnsw(table.valid) if name != wanted)
            leftovers = tuple(table.hnsw(table.invalid))
            if wanted is not None and wanted not in table.valid:
                if await self._grown(connection, table):
                    # The others are of use until this one is valid: the next look drops them.
                    found.append(Work(table, wanted, leftovers))
                    continue
                others = ()
            if others or leftovers:
                found.append(Work(table, None, others + leftovers))
        return found

    def _warn(self, table: Table) -> None:
        if table.set_id not in self._too_wide:
            self._too_wide.add(table.set_id)
            log.warning(
                "vector_index_impossible",
                dimension=table.dimension,
                most=INDEXABLE[self._storage],
                storage=self._storage,
                meanwhile="searches are exact",
                fix="aidb.vector_storage = halfvec indexes 4000"
                if table.dimension <= INDEXABLE["halfvec"]
                else None,
            )

    async def _grown(self, connection: Connection, table: Table) -> bool:
        # The known sum spares counting rows at every turn of a small database.
        cursor = await connection.execute(
            sql.SQL(
                "SELECT CASE WHEN (SELECT sum(chunk_count) FROM collections) >= %(from)s THEN"
                " (SELECT count(*) FROM (SELECT 1 FROM {} LIMIT %(from)s) AS enough) END"
            ).format(sql.Identifier(table.name)),
            {"from": self._from},
        )
        return await cursor.fetchone() == (self._from,)

    async def _settings(self, connection: Connection) -> None:
        settings = {
            "statement_timeout": "0",
            "max_parallel_maintenance_workers": str(self._workers),
            # The server notices when we die in the middle, and stops.
            "client_connection_check_interval": "5s",
        }
        if self._memory:
            settings["maintenance_work_mem"] = f"{self._memory}MB"
        for name, value in settings.items():
            await connection.execute("SELECT set_config(%s, %s, false)", [name, value])

    async def _build(self, connection: Connection, table: Table, name: str) -> None:
        began = time.monotonic()
        cursor = await connection.execute("SELECT current_setting('maintenance_work_mem')")
        memory = await cursor.fetchone()
        log.info(
            "vector_index_begins",
            index=name,
            workers=self._workers,
            memory=memory[0] if memory else None,
        )
        statement = sql.SQL("CREATE INDEX CONCURRENTLY {} ON {} USING hnsw ({})").format(
            sql.Identifier(name),
            sql.Identifier(table.name),
            sql.SQL(_MADE_OF[self._storage]).format(dimension=sql.Literal(table.dimension)),
        )
        try:
            await connection.execute(statement)
        except psycopg.Error:
            if not connection.broken:
                # It would be kept up to date by every write, and hold the disk that was full.
                await _drop(connection, name)
            raise
        cursor = await connection.execute("SELECT pg_relation_size(%s::regclass)", [name])
        row = await cursor.fetchone()
        BUILDS.labels("done").inc()
        log.info(
            "vector_index_built",
            index=name,
            seconds=round(time.monotonic() - began, 1),
            bytes=row[0] if row else None,
        )


def _show(gauge: Gauge, shares: Mapping[int, float | None]) -> None:
    """Set the gauge per set; a set that has no share (any more) is not shown."""
    for labels in {sample.labels["set"] for family in gauge.collect() for sample in family.samples}:
        if shares.get(int(labels)) is None:
            gauge.remove(labels)
    for set_id, share in shares.items():
        if share is not None:
            gauge.labels(str(set_id)).set(share)


async def index_state(connection: Connection) -> IndexState:
    """The state of the active set's index, whoever builds it. `progress` is 0 to 1."""
    tables = await _tables(connection)
    # The active one comes first.
    return await _index_state(connection, tables[0]) if tables else IndexState("none")


async def _index_state(connection: Connection, table: Table) -> IndexState:
    if table.hnsw(table.valid):
        return IndexState("ready", 1.0)
    if not table.hnsw(table.invalid):
        return IndexState("none")
    cursor = await connection.execute(_UNDER_WAY, [table.name])
    row = await cursor.fetchone()
    # A leftover that nobody works at.
    if row is None:
        return IndexState("none")
    phase, share = str(row[0]), row[1]
    if phase.startswith("building"):
        return IndexState("building", round(0.99 * (share or 0.0), 3))
    before = phase.startswith(("initializing", "waiting for writers before build"))
    return IndexState("building", 0.0 if before else 0.99)


async def _tables(connection: Connection) -> list[Table]:
    cursor = await connection.execute(_TABLES)
    rows: list[tuple[Any, ...]] = await cursor.fetchall()
    return [Table(a, b, c, tuple(valid), tuple(bad)) for a, b, c, valid, bad in rows]


async def _drop(connection: Connection, name: str) -> None:
    await connection.execute(
        sql.SQL("DROP INDEX CONCURRENTLY IF EXISTS {}").format(sql.Identifier(name))
    )
    log.info("vector_index_dropped", index=name)
