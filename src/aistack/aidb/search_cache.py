"""Results of searches in Redis. A collection's epoch is part of the key, so nothing is ever stale.

The epoch rises in the very transaction that changes what a search can see. A reader looks under the
epoch that it reads from PostgreSQL at that moment; a writer stores under the epoch of the snapshot
that its result was made from. A result of an older state can therefore only lie under a key that
nobody asks for again. Entries of old epochs go by their time to live.

Without Redis every look is a miss and every store is dropped: slower, never wrong.
"""

from __future__ import annotations

import hashlib
from typing import Final

import structlog
from prometheus_client import Counter

from aistack.aidb.analysis import ANALYZER_VERSION
from aistack.aidb.search_model import SearchRequest, SearchResult
from aistack.clients.redis import Redis
from aistack.service.errors import Overloaded, Unavailable

log = structlog.get_logger()

LOOKS = Counter(
    "aistack_aidb_search_cache_total",
    "Looks into the search cache: hit, miss, away (no Redis), off",
    ["outcome"],
)

#: Raised when the form of a stored result changes.
_FORM: Final = 1


class SearchCache:
    """`settings` is what else changes a result: the search's own configuration."""

    def __init__(self, redis: Redis, *, seconds: int, settings: str) -> None:
        self._redis = redis
        self._seconds = seconds
        self._settings = hashlib.sha256(f"{settings}|{ANALYZER_VERSION}".encode()).hexdigest()[:16]

    async def get(
        self, request: SearchRequest, collection_id: int, epoch: int, set_id: int | None
    ) -> SearchResult | None:
        """The result of this very search on this very state, or None."""
        if not self._seconds:
            LOOKS.labels("off").inc()
            return None
        key = self._key(request, collection_id, epoch, set_id)
        try:
            stored = await self._redis.get(key)
        except (Unavailable, Overloaded):
            LOOKS.labels("away").inc()
            return None
        if stored is None:
            LOOKS.labels("miss").inc()
            return None
        try:
            result = SearchResult.load(stored)
        except (ValueError, KeyError, TypeError):
            log.warning("search_cache_unreadable", key=key)
            LOOKS.labels("miss").inc()
            return None
        LOOKS.labels("hit").inc()
        return result

    async def put(
        self,
        request: SearchRequest,
        collection_id: int,
        epoch: int,
        set_id: int | None,
        result: SearchResult,
    ) -> None:
        """Keep `result`, which was read in the snapshot in which `epoch` was."""
        if not self._seconds:
            return
        key = self._key(request, collection_id, epoch, set_id)
        try:
            await self._redis.set(key, result.dump(), seconds=self._seconds)
        except (Unavailable, Overloaded):
            log.debug("search_cache_away")

    def _key(
        self, request: SearchRequest, collection_id: int, epoch: int, set_id: int | None
    ) -> str:
        digest = hashlib.sha256(request.canonical()).hexdigest()[:32]
        return f"aidb:search:{_FORM}:{self._settings}:{collection_id}:{epoch}:{set_id}:{digest}"
