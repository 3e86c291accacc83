"""A front door between a real client and upstream servers whose behaviour the test chooses."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from aistack.dev.front import FrontDoor, Message, Receive, Send
from aistack.dev.headers import Scope
from aistack.stack import Limits, Stack, load_stack


@contextlib.asynccontextmanager
async def serving(app: Any, listening: socket.socket) -> AsyncIterator[uvicorn.Server]:
    config = uvicorn.Config(
        app, lifespan="off", ws="none", log_config=None, access_log=False, http="httptools",
        server_header=False, date_header=False, proxy_headers=False, timeout_graceful_shutdown=1,
    )  # fmt: skip
    server = uvicorn.Server(config)
    server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign,assignment]
    task = asyncio.create_task(server.serve(sockets=[listening]))
    try:
        yield server
    finally:
        server.should_exit = True
        await task
        listening.close()


def unix(path: Path) -> socket.socket:
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(path))
    listening.listen(64)
    return listening


def tcp() -> socket.socket:
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen(64)
    return listening


@dataclass
class Upstream:
    """A service whose behaviour the test chooses; it notes what arrived."""

    behave: Callable[[Scope, Receive, Send], Any] | None = None
    scopes: list[Scope] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    gone: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scopes.append(scope)
        if self.behave is not None:
            await self.behave(scope, receive, send)
            return
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message.get("body", b"")
            more = message.get("more_body", False)
        self.bodies.append(body)
        await send(start(200, (b"x-answer", b"yes")))
        await send(piece(b'{"ok":true}', more=False))

    def header(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.scopes[-1]["headers"] if key == name]


def start(status: int, *headers: tuple[bytes, bytes]) -> Message:
    return {"type": "http.response.start", "status": status, "headers": list(headers)}


def piece(body: bytes, *, more: bool = True) -> Message:
    return {"type": "http.response.body", "body": body, "more_body": more}


@dataclass
class Door:
    client: httpx.AsyncClient
    port: int
    upstream: Upstream
    directory: Path


def small_stack(**limits: float) -> Stack:
    stack = load_stack()
    changed = {
        name: entry.model_copy(update={"limits": Limits(**{**entry.limits.model_dump(), **limits})})
        for name, entry in stack.services.items()
    }
    return Stack(services=changed)


@contextlib.asynccontextmanager
async def opened(directory: Path, stack: Stack | None = None) -> AsyncIterator[Door]:
    stack = stack or load_stack()
    upstream = Upstream()
    front = FrontDoor(stack, {name: directory / f"{name}.sock" for name in stack.services})
    listening = tcp()
    port = listening.getsockname()[1]
    async with (
        serving(upstream, unix(directory / "embeddings.sock")),
        serving(upstream, unix(directory / "coordinator.sock")),
        serving(front, listening),
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=10) as client,
    ):
        try:
            yield Door(client, port, upstream, directory)
        finally:
            await front.aclose()
