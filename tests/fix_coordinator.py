"""The coordinator as its own HTTP server on a unix socket, between peers that a test chooses.

`Peer` is a small HTTP server that a test scripts: what a broken or slow dependency does cannot be
had from a good one. The whole story on the real parts is tests/integration/test_story.py.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import httpx
import pytest
import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from aistack.config import Config
from aistack.coordinator.app import create
from aistack.service.app import build
from aistack.service.key_setup import init_store
from aistack.service.lifecycle import Runtime
from aistack.service.notify import Notifier
from aistack.stack import load_stack

DATA = Path(__file__).parent / "data"
READY_SECONDS = 20.0

Handler = Callable[[str, dict[str, Any], Receive, Send], Awaitable[None]]


@asynccontextmanager
async def served(
    app: ASGIApp, socket: Path, *, lifespan: Literal["on", "off"] = "on"
) -> AsyncIterator[None]:
    """`app` behind uvicorn on a unix socket of this loop."""
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            uds=str(socket),
            log_config=None,
            access_log=False,
            lifespan=lifespan,
            timeout_graceful_shutdown=1,
        )
    )
    task = asyncio.create_task(server.serve())
    end = asyncio.get_running_loop().time() + READY_SECONDS
    while not server.started:
        if task.done():
            task.result()
        assert asyncio.get_running_loop().time() < end, "the server did not start"
        await asyncio.sleep(0.01)
    try:
        yield
    finally:
        server.should_exit = True
        await task


async def answer(send: Send, status: int, body: Any, *headers: tuple[bytes, bytes]) -> None:
    """One JSON answer."""
    raw = json.dumps(body).encode()
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [(b"content-type", b"application/json"), *headers],
        }
    )
    await send({"type": "http.response.body", "body": raw})


@dataclass
class Peer:
    """A scripted server: `routes` by path; every request is kept in `seen`."""

    routes: dict[str, Handler]
    seen: list[tuple[str, dict[str, Any], dict[str, str]]] = field(default_factory=list)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        headers = {k.decode(): v.decode() for k, v in scope["headers"]}
        parsed = json.loads(body) if body else {}
        self.seen.append((scope["path"], parsed, headers))
        await self.routes[scope["path"]](scope["path"], parsed, receive, send)


def passages() -> list[dict[str, Any]]:
    """The real passages of the labelled set."""
    lines = (DATA / "attribution_passages.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def hit(passage: dict[str, Any], rank: int, cosine: float | None) -> dict[str, Any]:
    """A passage as /v1/search gives it."""
    return {
        "rank": rank,
        "score": 1 / (60 + rank),
        "chunk_id": f"chunk-{passage['id']}",
        "document_id": f"doc-{passage['source']}",
        "source": passage["source"],
        "title": passage["title"],
        "text": passage["text"],
        "heading_path": [],
        "char_start": passage["char_start"],
        "char_end": passage["char_end"],
        "page_start": None,
        "page_end": None,
        "line_start": 1,
        "line_end": 2,
        "metadata": {},
        "legs": {
            "dense": None if cosine is None else {"rank": rank, "score": cosine},
            "lexical": {"rank": rank, "score": 3.0} if cosine is None else None,
        },
    }


def search_peer(ids: list[str], cosine: float | None = 0.7) -> Peer:
    """An aidb that finds these passages, whatever is asked; by words alone without a cosine."""
    known = {p["id"]: p for p in passages()}

    async def search(_: str, body: dict[str, Any], __: Receive, send: Send) -> None:
        found = [hit(known[i], rank, cosine) for rank, i in enumerate(ids, start=1)]
        await answer(
            send,
            200,
            {
                "query": body["query"],
                "mode": "hybrid",
                "collection": body["collection"],
                "epoch": 1,
                "total": len(found),
                "cached": False,
                "took_ms": 1.5,
                "embedding_set": "test",
                "hits": found,
                "next_offset": None,
                "degraded": ["dense"] if cosine is None else [],
            },
        )

    async def ready(_: str, __: dict[str, Any], ___: Receive, send: Send) -> None:
        await answer(send, 200, {"status": "ready"})

    return Peer({"/v1/search": search, "/readyz": ready})


@dataclass
class Running:
    """A coordinator that is served, and a client with a key for all its scopes."""

    client: httpx.AsyncClient
    keyless: httpx.AsyncClient
    runtime: Runtime

    async def chat(self, **body: Any) -> httpx.Response:
        """POST /v1/chat/completions."""
        return await self.client.post("/v1/chat/completions", json=body)


@asynccontextmanager
async def coordinator(
    folder: Path, *, llama: str, aidb: Peer | None = None, **settings: Any
) -> AsyncIterator[Running]:
    """The coordinator with these peers; an absent one is a socket that nobody listens on."""
    keys = init_store(folder / "keys", load_stack())
    config = Config(
        auth={
            "keys_file": keys.keys_file,
            "pepper_file": keys.pepper_file,
            "internal_key_file": keys.internal_key_file("coordinator"),
        },
        peers={"aidb": f"unix:{folder}/aidb.sock", "embeddings": f"unix:{folder}/emb.sock"},
        llama={"address": llama, "timeout_seconds": 60},
        coordinator=settings,
    )
    runtime = Runtime(Notifier(None, None), start_seconds=60)
    app = build(create(config), config, runtime)
    socket = folder / "coordinator.sock"
    key = keys.default_key_file.read_text().strip()

    def client(headers: dict[str, str]) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            transport=httpx.AsyncHTTPTransport(uds=str(socket)),
            base_url="http://coordinator",
            headers=headers,
            timeout=120,
        )

    async with (
        served(aidb or Peer({}), folder / ("aidb.sock" if aidb else "nobody.sock"), lifespan="off"),
        served(app, socket),
        client({"authorization": f"Bearer {key}"}) as keyed,
        client({}) as keyless,
    ):
        end = asyncio.get_running_loop().time() + READY_SECONDS
        while not runtime.started:
            assert runtime.failure is None, runtime.failure
            assert asyncio.get_running_loop().time() < end, runtime.progress
            await asyncio.sleep(0.02)
        yield Running(keyed, keyless, runtime)


@pytest.fixture
def short_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose path leaves room for a socket's name (108 bytes)."""
    return tmp_path_factory.mktemp("c")
