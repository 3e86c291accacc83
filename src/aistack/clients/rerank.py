"""The embeddings service's reranker, for the service that searches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from aistack.clients.http import PeerClient
from aistack.service.errors import Unavailable


class RerankClient:
    """Documents to checked scores.

    `peer` is one of its own beside the client of the vectors: a cross-encoder that hangs must open
    its own breaker and fill its own slots only.
    """

    def __init__(self, peer: PeerClient) -> None:
        self._peer = peer

    async def scores(
        self, query: str, documents: Sequence[str], *, seconds: float | None = None
    ) -> list[float]:
        """A score in 0..1 of each of `documents` (at least one), in their order.

        Raises NotImplementedHere where the service has no reranking model, TooLarge for a query
        that is too long for it, Unavailable (also after `seconds`), Overloaded.
        """
        body = await self._peer.request_json(
            "POST",
            "/v1/rerank",
            json={"query": query, "documents": list(documents)},
            retry=True,
            timeout=seconds,
        )
        try:
            return _checked(body["results"], len(documents))
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise Unavailable("embeddings gave scores that cannot be read.") from error

    async def aclose(self) -> None:
        """Close the connections."""
        await self._peer.aclose()


def _checked(results: Sequence[Any], count: int) -> list[float]:
    scores = {int(result["index"]): float(result["relevance_score"]) for result in results}
    if len(results) != count or set(scores) != set(range(count)):
        raise ValueError("one score for each document is wanted")
    # Written so that a NaN, which compares false, fails as well.
    if not all(math.isfinite(score) and 0.0 <= score <= 1.0 for score in scores.values()):
        raise ValueError("a score is not between 0 and 1")
    return [scores[index] for index in range(count)]
