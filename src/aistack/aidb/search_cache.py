"""Results of searches in Redis, each with the state of the collection that it was made from.

The epoch rises in the very transaction that changes what a search can see. A reader takes what is
stored only if it is of the state that PostgreSQL has at that moment, so nothing is ever stale; a
result of an older state is as good as none, and the next one takes its place. The two looks need
not wait for each other, because the state is not part of the key.

Without Redis every look is a miss and every store is dropped: slower, never wrong.
"""

from __future__ import annotations

import hashlib
from typing import Final

import structlog
from prometheus_client import Counter

from aistack.aidb.analysis import ANALYZER_VERSION
from aistack.aidb.search_model import SearchRequest
from aistack.aidb.search_state import Stamp
from aistack.clients.redis import Redis
from aistack.service.errors import Overloaded, Unavailable

log = structlog.get_logger()

LOOKS = Counter(
    "aistack_aidb_search_cache_total",
    "Looks into the search cache: hit, miss, away (no Redis), off",
    ["outcome"],
)

#: Raised when the form of a stored result changes.
_FORM: Final = 2


class SearchCache:
    """`settings` is what else changes a result: the search's own configuration."""

    def __init__(self, redis: Redis, *, seconds: int, settings: str) -> None:
        self._redis = redis
        self._seconds = seconds
        self._settings = hashlib.sha256(f"{settings}|{ANALYZER_VERSION}".encode()).hexdigest()[:16]

    def key(self, request: SearchRequest) -> str:
        """The same for equal searches of one configuration."""
        digest = hashlib.sha256(request.canonical()).hexdigest()[:32]
        return f"aidb:search:{_FORM}:{self._settings}:{request.collection}:{digest}"

    async def look(self, key: str) -> bytes | None:
        """What is stored under `key`, of whatever state."""
        if not self._seconds:
            LOOKS.labels("off").inc()
            return None
        try:
            stored = await self._redis.get(key)
        except (Unavailable, Overloaded):
            LOOKS.labels("away").inc()
            return None
        if stored is None:
            LOOKS.labels("miss").inc()
        return stored

    def fresh(self, stored: bytes | None, stamp: Stamp) -> bytes | None:
        """The result in `stored`, if it was made from the state of `stamp`."""
        if stored is None:
            return None
        header = _header(stamp)
        if not stored.startswith(header):
            LOOKS.labels("miss").inc()
            return None
        LOOKS.labels("hit").inc()
        return stored[len(header) :]

    async def put(self, key: str, stamp: Stamp, wire: bytes) -> None:
        """Keep `wire`, which was made from the state of `stamp`."""
        if not self._seconds:
            return
        try:
            await self._redis.set_listed(
                key,
                _header(stamp) + wire,
                listed_in=_list(stamp.collection_id),
                seconds=self._seconds,
            )
        except (Unavailable, Overloaded):
            log.debug("search_cache_away")

    async def forget(self, collection_id: int) -> None:
        """Remove what is stored of a collection, where Redis is there.

        For what must not lie about after a delete: what is out of date is never served anyway, and
        goes by its time to live.
        """
        listed = _list(collection_id)
        try:
            keys = await self._redis.members(listed)
            await self._redis.delete(listed, *keys)
        except (Unavailable, Overloaded):
            log.warning("search_cache_not_forgotten", collection_id=collection_id)


def _header(stamp: Stamp) -> bytes:
    return f"{stamp.collection_id}:{stamp.epoch}:{stamp.set_id}\n".encode()


def _list(collection_id: int) -> str:
    return f"aidb:search:of:{collection_id}"
