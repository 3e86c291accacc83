"""Results of searches, kept in PostgreSQL with the state of the collection they were made from.

The epoch rises in the very transaction that changes what a search can see. One statement reads the
collection's state and the result that was made from exactly this state, in one snapshot: what it
gives is never older than the last commit, and a hit costs one round trip; where hits are frequent,
none (`search_memory`).

A result that cannot be kept is answered all the same: slower the next time, never wrong.
"""

from __future__ import annotations

import hashlib
from typing import Final

import structlog
from prometheus_client import Counter

from aistack.aidb.analysis import ANALYZER_VERSION
from aistack.aidb.collection_settings import CollectionSettings
from aistack.aidb.search_memory import SearchMemory
from aistack.aidb.search_model import SearchRequest
from aistack.aidb.search_state import Look, Stamp
from aistack.aidb.store import raise_epochs
from aistack.clients.postgres import Connection, Postgres
from aistack.config import AidbConfig
from aistack.service.errors import Overloaded, Unavailable

log = structlog.get_logger()

LOOKS = Counter(
    "aistack_aidb_search_cache_total", "Looks into the search cache: hit, miss, off", ["outcome"]
)
_HIT, _MISS, _OFF = (LOOKS.labels(outcome) for outcome in ("hit", "miss", "off"))

#: Raised when the form of a stored result changes.
_FORM: Final = 3

# OFFSET 0: by the key, whatever the planner thinks of the other index.
_LOOK: Final = """
SELECT c.id, c.epoch, s.id, c.chunk_count, r.wire,
       %s - extract(epoch FROM now() - r.made_at)::float8
  FROM collections c
  LEFT JOIN embedding_sets s ON s.state = 'active'
  LEFT JOIN LATERAL (SELECT * FROM search_results WHERE key = %b OFFSET 0) r
         ON r.made_at > now() - make_interval(secs => %s)
        AND r.collection_id = c.id AND r.epoch = c.epoch AND r.set_id IS NOT DISTINCT FROM s.id
 WHERE c.name = %s
"""
# What has gone out of date since it was read is not kept: its texts may have been deleted. Where
# a swap or a delete holds the stored row, it is not waited for: look-ups need the connection.
_PUT: Final = """
INSERT INTO search_results AS r (key, collection_id, epoch, set_id, wire)
SELECT %b, c.id, c.epoch, %s, %b FROM collections c
 WHERE c.id = %s AND c.epoch = %s AND set_config('lock_timeout', '10ms', true) IS NOT NULL
    ON CONFLICT (key) DO UPDATE SET collection_id = excluded.collection_id,
       epoch = excluded.epoch, set_id = excluded.set_id, made_at = now(), wire = excluded.wire
RETURNING true
"""
_FORGET: Final = "DELETE FROM search_results WHERE collection_id = %s"
_PRUNE: Final = """
DELETE FROM search_results r
 WHERE r.made_at <= now() - make_interval(secs => %s)
    OR NOT EXISTS (SELECT 1 FROM collections c WHERE c.id = r.collection_id AND c.epoch = r.epoch)
    OR r.key IN (SELECT key FROM search_results ORDER BY made_at DESC, key OFFSET %s)
"""


class SearchCache:
    """Keeps results of one configuration; off where their life is 0 seconds.

    With `memory`, what is asked for again and again is answered from there, and is as new.
    """

    def __init__(
        self,
        postgres: Postgres,
        config: AidbConfig,
        engine: str = "pgvector",
        *,
        memory: SearchMemory | None = None,
    ) -> None:
        self._postgres = postgres
        self._memory = memory
        self._seconds = config.cache_seconds
        self._most = config.cache_results
        settings = f"{_FORM}|{ANALYZER_VERSION}|{engine}|{_settings(config)}"
        self._begun = hashlib.sha256(settings.encode())

    def key(self, request: SearchRequest) -> bytes:
        """The same 32 bytes for equal searches of one configuration."""
        digest = self._begun.copy()
        digest.update(b"\0%b\0%b" % (request.collection.encode(), request.canonical()))
        return digest.digest()

    async def look(self, key: bytes, collection: str) -> Look | None:
        """The collection at this moment, and what is stored under `key` of just this state.

        None for a collection that is not there. Raises Unavailable.
        """
        found = None if self._memory is None else self._memory.look(key, collection)
        if found is not None:
            _HIT.inc()
            return found
        values = [self._seconds, key, self._seconds, collection]
        row = await self._postgres.row("search.look", _LOOK, values)
        if row is None:
            return None
        found = Look(Stamp(*row[:3]), row[3], row[4])
        if found.wire is None:
            (_MISS if self._seconds else _OFF).inc()
            return found
        _HIT.inc()
        if self._memory is not None:
            self._memory.learn(key, collection, found.stamp, found.wire, row[5])
        return found

    async def put(self, key: bytes, stamp: Stamp, wire: bytes) -> None:
        """Keep `wire`, which was made from the state of `stamp`, if this still is the state."""
        if not self._seconds:
            return
        values = [key, stamp.set_id, wire, stamp.collection_id, stamp.epoch]
        try:
            await self._postgres.row("search.keep", _PUT, values)
        except (Unavailable, Overloaded) as error:
            log.warning("search_not_kept", error=type(error).__name__)

    async def prune(self) -> bool:
        """Drop what is too old, out of date, or too much; whether there is more to do: never."""
        if self._memory is not None:
            self._memory.clear()
        async with self._postgres.connection("prune.searches") as connection:
            await connection.execute(_PRUNE, [self._seconds, self._most])
        return False


def _settings(config: AidbConfig) -> str:
    """All of the configuration that changes a result."""
    vectors = (config.dense_exact_below, config.hnsw_ef_search, config.vector_storage)
    return repr((vectors, config.candidates, CollectionSettings.of(config, {})))


async def forget(connection: Connection, collection_id: int) -> None:
    """Remove what is stored of a collection, in the transaction that deletes what it says."""
    await connection.execute(_FORGET, [collection_id])


async def outdate(connection: Connection) -> None:
    """Every result is of before, also what is under way: an index that was wrong may have made it.

    As the last of a transaction: others cannot change a collection until its commit.
    """
    await raise_epochs(connection)
    await connection.execute("DELETE FROM search_results")
