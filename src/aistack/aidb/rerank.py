"""Reranking: a cross-encoder puts the best hits of a search into its own order.

What it reads is what was embedded, the passage with its headings. At most twenty hits, those that
are best without it and after duplicates are gone, change places among themselves; the rest follow
as they were. So pages fit together, and a page behind them costs nothing more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

import structlog

from aistack.aidb.collection_settings import CollectionSettings
from aistack.aidb.fusion import Fused, LegScore
from aistack.aidb.search_model import Hit, SearchRequest, SearchResult
from aistack.clients.postgres import Connection
from aistack.service.context import remaining
from aistack.service.errors import NotImplementedHere, Overloaded, TooLarge, Unavailable

log = structlog.get_logger()

#: A search waits for the reranker half of the time that its request has, of this at most.
RERANK_SECONDS: Final = 20.0
#: The name of the leg in hits, and among the degraded ones.
LEG: Final = "rerank"

_PASSAGES: Final = "SELECT id, embed_prefix || text FROM chunks WHERE id = ANY(%s)"


class Judge(Protocol):
    """The cross-encoder, as its client shows it."""

    async def scores(
        self, query: str, documents: Sequence[str], *, seconds: float | None = None
    ) -> list[float]:
        """A score in 0..1 of each document, in their order. Raises a StackError."""
        ...


@dataclass(frozen=True, slots=True)
class Plan:
    """What is read for one page, and whether it is reranked.

    `window` is of the candidates: the page itself, or everything from the first to its end.
    """

    window: slice
    top: int

    @classmethod
    def of(cls, request: SearchRequest, settings: CollectionSettings) -> Plan:
        """For the page of `request`; the collection decides where it says nothing."""
        end = request.offset + request.limit
        wanted = settings.rerank if request.rerank is None else request.rerank
        if not wanted or request.offset >= request.rerank_top:
            return cls(slice(request.offset, end), 0)
        return cls(slice(0, max(end, request.rerank_top)), request.rerank_top)

    async def passages(self, connection: Connection, window: Sequence[Fused]) -> list[str]:
        """What the cross-encoder reads of each of the best candidates, in their order.

        None where nothing is reranked, and then the window is the page.
        """
        best = [fused.chunk_id for fused in window[: self.top]]
        if not best:
            return []
        cursor = await connection.execute(_PASSAGES, [best])
        texts: Mapping[int, str] = dict(await cursor.fetchall())
        return [texts[chunk] for chunk in best]


class Reranking:
    """Puts the hits of a search into the order of `judge`, if there is one."""

    def __init__(self, judge: Judge | None) -> None:
        self._judge = judge

    async def applied(
        self, request: SearchRequest, result: SearchResult, passages: Sequence[str]
    ) -> SearchResult:
        """`result`, whose hits are those of a plan's window, with the hits of the page.

        Where the reranker is away they are in the order that they had, and it is among the degraded
        legs; so too where a query is too long for it that did not ask for it by itself. Raises
        NotImplementedHere where no model is configured, TooLarge for a query that is too long.
        """
        if not passages:
            return result
        if self._judge is None:
            raise NotImplementedHere(
                "This installation has no reranking model: set embeddings.rerank_model."
            )
        hits = result.hits
        degraded = result.degraded
        try:
            scores = await self._judge.scores(
                request.query, passages, seconds=remaining(2 * RERANK_SECONDS) / 2
            )
        except (Unavailable, Overloaded) as error:
            log.warning("search_without_rerank", reason=type(error).__name__)
            degraded = (*degraded, LEG)
        except TooLarge:
            if request.rerank:
                raise
            degraded = (*degraded, LEG)
        else:
            hits = reordered(hits, scores)
        page = hits[request.offset : request.offset + request.limit]
        return replace(result, hits=page, degraded=degraded)


def reordered(hits: Sequence[Hit], scores: Sequence[float]) -> tuple[Hit, ...]:
    """`hits` from the first, the best of them by `scores`; equal scores stay as they were."""
    order = sorted(range(len(scores)), key=lambda place: (-scores[place], place))
    best = [
        replace(
            hits[place],
            rank=rank,
            legs={**hits[place].legs, LEG: LegScore(rank, scores[place])},
        )
        for rank, place in enumerate(order, start=1)
    ]
    rest = [replace(hit, legs={**hit.legs, LEG: None}) for hit in hits[len(scores) :]]
    return (*best, *rest)
