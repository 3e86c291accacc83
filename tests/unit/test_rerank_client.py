"""The client refuses every bad answer of the reranker.

The peer is a real HTTP server on a unix socket that answers what a test tells it to.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest
from starlette.requests import Request
from starlette.responses import Response

from aistack.clients.http import PeerClient
from aistack.clients.rerank import RerankClient
from aistack.service.errors import NotImplementedHere, Overloaded, TooLarge, Unavailable
from fix_coordinator import served


@asynccontextmanager
async def answering(status: int, body: Any) -> AsyncIterator[RerankClient]:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await Request(scope, receive).body()
        answer = Response(orjson.dumps(body), status, media_type="application/json")
        await answer(scope, receive, send)

    with tempfile.TemporaryDirectory(prefix="air-") as directory:
        socket = Path(directory) / "peer.sock"
        async with served(app, socket, lifespan="off"):
            client = RerankClient(PeerClient("rerank", f"unix:{socket}", attempts=1))
            yield client
            await client.aclose()


def results(*pairs: tuple[Any, Any]) -> dict[str, Any]:
    return {"results": [{"index": index, "relevance_score": score} for index, score in pairs]}


async def test_scores_come_in_the_order_of_the_documents() -> None:
    async with answering(200, results((1, 0.9), (0, 0.2))) as client:
        assert await client.scores("q", ["a", "b"]) == [0.2, 0.9]


@pytest.mark.parametrize(
    "body",
    [
        {},
        [],
        {"results": None},
        {"results": [{"index": 0}]},
        results((0, 0.5)),
        results((0, 0.5), (0, 0.6)),
        results((0, 0.5), (2, 0.6)),
        results((0, 0.5), (1, 0.6), (1, 0.6)),
        results((0, 0.5), (1, 1.5)),
        results((0, 0.5), (1, None)),
        results((0, 0.5), (1, "NaN")),
    ],
)
async def test_bad_answers_are_refused(body: Any) -> None:
    async with answering(200, body) as client:
        with pytest.raises(Unavailable):
            await client.scores("q", ["a", "b"])


async def test_one_that_hangs_is_left_when_the_time_is_over() -> None:
    left = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await Request(scope, receive).body()
        assert (await receive())["type"] == "http.disconnect"
        left.set()

    with tempfile.TemporaryDirectory(prefix="air-") as directory:
        socket = Path(directory) / "peer.sock"
        async with served(app, socket, lifespan="off"):
            client = RerankClient(PeerClient("rerank", f"unix:{socket}"))
            with pytest.raises(Unavailable):
                await client.scores("q", ["a"], seconds=0.2)
            # And it hears of it, so that it may stop.
            async with asyncio.timeout(10):
                await left.wait()
            await client.aclose()


PROBLEM = {"detail": "what to do", "error_id": "err_1"}


@pytest.mark.parametrize(
    ("status", "body", "error", "words"),
    [
        (501, PROBLEM, NotImplementedHere, "what to do"),
        (413, PROBLEM, TooLarge, "what to do"),
        (429, PROBLEM, Overloaded, "what to do"),
        (503, PROBLEM, Unavailable, "rerank is not available"),
        # Of another server: a fault of it, not an option of ours.
        (501, {"detail": "no"}, Unavailable, "rerank is not available"),
    ],
)
async def test_refusals_keep_their_words(
    status: int, body: Any, error: type[Exception], words: str
) -> None:
    async with answering(status, body) as client:
        with pytest.raises(error, match=words):
            await client.scores("q", ["a"])
