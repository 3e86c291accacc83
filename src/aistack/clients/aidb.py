"""The aidb service: search over the user's documents."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aistack.clients.http import PeerClient


@dataclass(frozen=True, slots=True)
class SearchHit:
    """A chunk that a search found; `text` is `document[char_start:char_end]`."""

    rank: int
    score: float
    chunk_id: str
    document_id: str
    source: str
    title: str
    text: str
    heading_path: tuple[str, ...]
    char_start: int
    char_end: int
    page_start: int | None
    line_start: int | None
    dense_score: float | None
    """Cosine; None when the dense leg did not find it."""
    lexical_score: float | None
    """BM25; None when the lexical leg did not find it."""


@dataclass(frozen=True, slots=True)
class SearchResult:
    """One page of hits, best first. `degraded` names the legs that could not be asked."""

    collection: str
    hits: tuple[SearchHit, ...]
    cached: bool
    took_ms: float
    degraded: tuple[str, ...] = ()


class AidbClient:
    """Calls aidb over its socket; errors are the kit's StackErrors."""

    def __init__(self, address: str, *, key: str | None, timeout: float = 30.0) -> None:
        self._peer = PeerClient("aidb", address, key=key, timeout=timeout)

    def breaker(self) -> str:
        """The breaker's state."""
        return self._peer.dependency.state

    async def probe(self) -> None:
        """Returns when aidb can serve."""
        await self._peer.request("GET", "/readyz")

    async def search(
        self,
        query: str,
        *,
        collection: str,
        limit: int = 10,
        mode: str = "hybrid",
        filters: Mapping[str, Any] | None = None,
    ) -> SearchResult:
        """The best chunks for `query`. Raises NotFound for an unknown collection."""
        body: dict[str, Any] = {
            "query": query,
            "collection": collection,
            "limit": limit,
            "mode": mode,
        }
        if filters:
            body["filters"] = filters
        found = await self._peer.request_json(
            "POST", "/v1/search", json=body, retry=True, operation="search"
        )
        return SearchResult(
            collection=found["collection"],
            hits=tuple(_hit(hit) for hit in found["hits"]),
            cached=bool(found.get("cached", False)),
            took_ms=float(found.get("took_ms", 0.0)),
            degraded=tuple(map(str, found.get("degraded", ()))),
        )

    async def aclose(self) -> None:
        """Closes the connections."""
        await self._peer.aclose()


def _hit(hit: Mapping[str, Any]) -> SearchHit:
    legs = hit.get("legs") or {}
    dense, lexical = legs.get("dense"), legs.get("lexical")
    return SearchHit(
        rank=int(hit["rank"]),
        score=float(hit["score"]),
        chunk_id=str(hit["chunk_id"]),
        document_id=str(hit["document_id"]),
        source=hit.get("source") or "",
        title=hit.get("title") or "",
        text=hit["text"],
        heading_path=tuple(hit.get("heading_path") or ()),
        char_start=int(hit["char_start"]),
        char_end=int(hit["char_end"]),
        page_start=hit.get("page_start"),
        line_start=hit.get("line_start"),
        dense_score=float(dense["score"]) if dense else None,
        lexical_score=float(lexical["score"]) if lexical else None,
    )
