"""The dense leg by Qdrant: it proposes, PostgreSQL disposes.

Qdrant gives the ids of the nearest points. PostgreSQL, in the snapshot of the search, looks up the
vectors of those that are still chunks of the collection and pass its filters, and scores them in
full precision; so the scores, the order of equals and the rules of filters are those of pgvector,
and nothing is shown that PostgreSQL does not have.

Documents whose last change Qdrant may not have yet are left out there and compared here, all of
them: what lags is exact. pgvector answers the search instead where

- the index is being built, or Qdrant is away, late or has lost the collection (`degraded`)
- what Qdrant gave does not stand: points that are no chunks, or fewer than there are (`degraded`)
- more documents lag than are worth comparing
- a filter has no exact counterpart in Qdrant
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final, Literal
from uuid import UUID

import numpy as np
import structlog
from numpy.typing import NDArray
from prometheus_client import Counter
from psycopg import sql

from aistack.aidb import index_state
from aistack.aidb.dense import MAX_EF_SEARCH, Nearest, Pgvector, Scope, State, allowed
from aistack.aidb.fusion import Ranking
from aistack.aidb.qdrant_filters import translate
from aistack.aidb.qdrant_layout import collection_name
from aistack.clients.postgres import Connection
from aistack.clients.qdrant import AnyOf, Qdrant, Where
from aistack.config import AidbConfig
from aistack.service.context import remaining
from aistack.service.errors import NotFound, Overloaded, Unavailable

log = structlog.get_logger()

Outcome = Literal["qdrant", "filter", "lagging", "building", "away", "lost", "incomplete"]

SEARCHES = Counter(
    "aistack_aidb_dense_searches_total",
    "Dense searches where Qdrant is the engine, by who answered and why: qdrant; else pgvector, as"
    " the filter, too many changes (lagging), a build, or Qdrant (away, lost, incomplete) made it",
    ["outcome"],
)

#: Documents that are compared here because Qdrant may not have their last change.
MOST_LAGGING: Final = 64

_SCORES: Final = """
WITH wanted AS (
    SELECT unnest(%(ids)s::bigint[]) AS id, false AS late
    UNION ALL SELECT id, true FROM chunks WHERE document_id = ANY(%(late)s::uuid[])
)
SELECT v.chunk_id, -(v.embedding <#> %(vector)s) AS score, w.late
  FROM wanted w JOIN {table} v ON v.chunk_id = w.id
 WHERE v.collection_id = %(collection)s {restriction}
 ORDER BY (v.embedding <#> %(vector)s) + 0, v.chunk_id
"""


class QdrantEngine:
    """Qdrant where it can answer exactly as pgvector would, else pgvector."""

    def __init__(
        self, qdrant: Qdrant, pgvector: Pgvector, config: AidbConfig, *, seconds: float
    ) -> None:
        self._qdrant = qdrant
        self._pgvector = pgvector
        self._exact_below = config.dense_exact_below
        self._ef_search = config.hnsw_ef_search
        self._seconds = seconds

    async def find(
        self,
        connection: Connection,
        state: State,
        scope: Scope,
        vector: NDArray[np.float32],
        limit: int,
    ) -> Nearest:
        """As DenseEngine says."""
        ranking, outcome, lag = await self._ask(connection, state, scope, vector, limit)
        SEARCHES.labels(outcome).inc()
        if ranking is not None:
            return Nearest(ranking, "qdrant", keep=not lag)
        return replace(
            await self._pgvector.find(connection, state, scope, vector, limit),
            degraded=outcome not in ("filter", "lagging"),
            # A filter that Qdrant cannot take is always answered so; the rest passes.
            keep=outcome == "filter",
        )

    async def _ask(
        self,
        connection: Connection,
        state: State,
        scope: Scope,
        vector: NDArray[np.float32],
        limit: int,
    ) -> tuple[Ranking | None, Outcome, bool]:
        """The ranking, if it stands; why not; whether documents lagged."""
        where = translate(scope.filters, state.id)
        if where is None:
            return None, "filter", False
        assert state.set_id is not None, "what `comparable` has seen"
        ready, late = await index_state.search_view(
            connection, state.set_id, state.id, MOST_LAGGING
        )
        if not ready:
            return None, "building", False
        if late is None:
            return None, "lagging", True
        try:
            ids = await self._qdrant.nearest(
                collection_name(state.set_id, self._qdrant.prefix),
                vector.tolist(),
                _without(where, late),
                limit=limit,
                exact=state.chunks < self._exact_below,
                ef_search=min(max(self._ef_search, limit), MAX_EF_SEARCH),
                # What hangs must leave pgvector its time.
                timeout=remaining(self._seconds * 2) / 2,
            )
        except (Unavailable, Overloaded) as error:
            log.warning("search_without_qdrant", reason=str(error))
            return None, "away", bool(late)
        except NotFound:
            log.error("search_without_qdrant", reason="lost")
            return None, "lost", bool(late)
        ranking = await self._stands(connection, state, scope, vector, ids, late, limit)
        if ranking is None:
            log.warning("search_without_qdrant", reason="incomplete", set=state.set_id)
            return None, "incomplete", bool(late)
        return ranking[:limit], "qdrant", bool(late)

    async def _stands(
        self,
        connection: Connection,
        state: State,
        scope: Scope,
        vector: NDArray[np.float32],
        ids: Sequence[int],
        late: Sequence[UUID],
        limit: int,
    ) -> Ranking | None:
        """The scores of `ids` and of the late documents; None where one of `ids` is no hit here, or
        where there are hits that are neither."""
        assert state.vectors is not None, "what `comparable` has seen"
        arguments: dict[str, Any] = {**scope.arguments, "collection": state.id}
        cursor = await connection.execute(
            sql.SQL(_SCORES).format(
                table=sql.Identifier(state.vectors), restriction=scope.restrict("v")
            ),
            {**arguments, "vector": vector, "ids": list(ids), "late": list(late)},
            binary=True,
        )
        rows = await cursor.fetchall()
        if sum(not row[2] for row in rows) < len(ids):
            return None
        if len(rows) < limit and len(rows) < await allowed(connection, state, scope, limit):
            return None
        return [(int(row[0]), round(float(row[1]), 6)) for row in rows]


def _without(where: Where, late: Sequence[UUID]) -> Where:
    if not late:
        return where
    left_out = AnyOf("document_id", tuple(str(one) for one in late))
    return Where(where.must, (*where.must_not, left_out))
