"""Texts of several documents in one call: whose failure is whose."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray
from psycopg import sql

from aistack.aidb.embedding_sets import VectorTable
from aistack.aidb.vectors import CALLS_AT_ONCE, Vectors
from aistack.clients.embeddings import BadVectors
from aistack.clients.resilience import Failed, Transient
from aistack.models import EmbeddingSet
from aistack.service.errors import Unavailable
from fix_ingest import IDENTITY, HashEncoder


class Refusing(HashEncoder):
    """Fails for every call that has the text "bad"."""

    def __init__(self, reason: Exception) -> None:
        super().__init__()
        self.reason = reason
        self.seen: list[list[str]] = []

    async def embed_in_set(self, texts: Sequence[str]) -> tuple[EmbeddingSet, NDArray[np.float32]]:
        self.seen.append(list(texts))
        answer = await super().embed_in_set(texts)
        if "bad" in texts:
            raise self.reason
        return answer


async def embedded(reason: Exception) -> tuple[list[str], list[list[str]]]:
    """How each of three documents ends that share a call, and the calls after the first ones."""
    encoder = Refusing(reason)
    vectors = Vectors(cast(Any, None), encoder, dimension=8)
    vectors.current = VectorTable(1, IDENTITY, sql.Identifier("vectors_1"), True)
    encoder.gate.clear()
    first = [asyncio.create_task(vectors.embed([f"first {n}"])) for n in range(CALLS_AT_ONCE)]
    while len(encoder.seen) < CALLS_AT_ONCE:
        await asyncio.sleep(0)
    ends = [asyncio.create_task(vectors.embed([text])) for text in ("good", "bad", "fine")]
    for _ in range(5):
        await asyncio.sleep(0)
    encoder.gate.set()
    await asyncio.gather(*first)
    done = await asyncio.gather(*ends, return_exceptions=True)
    await vectors.aclose()
    names = [type(end).__name__ if isinstance(end, BaseException) else "done" for end in done]
    return names, encoder.seen[CALLS_AT_ONCE:]


@pytest.mark.parametrize(
    "reason",
    [BadVectors("not of unit length"), Failed("embeddings", Transient("status 503"))],
    ids=["a vector is bad", "the service cannot encode it"],
)
async def test_a_text_that_cannot_be_encoded_fails_its_own_document_alone(
    reason: Exception,
) -> None:
    ends, calls = await embedded(reason)
    assert ends == ["done", type(reason).__name__, "done"]
    assert calls == [["good", "bad", "fine"], ["good"], ["bad"], ["fine"]]


@pytest.mark.parametrize(
    "reason",
    [Unavailable("its breaker is open"), Failed("embeddings", TimeoutError())],
    ids=["refused", "hangs"],
)
async def test_a_service_that_is_away_is_not_asked_for_each_document(reason: Exception) -> None:
    ends, calls = await embedded(reason)
    assert ends == [type(reason).__name__] * 3
    assert calls == [["good", "bad", "fine"]]
