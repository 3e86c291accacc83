"""A small service on the real kit, in process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict

from aistack.config import Config
from aistack.service import app as kit
from aistack.service.context import remaining
from aistack.service.errors import NotFound, Overloaded
from aistack.service.key_setup import KeyPaths, init_store
from aistack.service.lifecycle import Runtime
from aistack.service.notify import Notifier
from aistack.stack import load_stack

SILENT = Notifier(None, None)


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid")
    number: int


class Probe:
    """A need whose state the test sets; counts how often it was asked."""

    def __init__(self) -> None:
        self.good = True
        self.asked = 0

    async def __call__(self) -> None:
        self.asked += 1
        if not self.good:
            raise ConnectionRefusedError("secret address")


def make(needs: list[kit.Need] | None = None, **options: Any) -> kit.Service:
    router = kit.service_router()

    @router.post("/v1/embeddings", **kit.scope("embed", openai=True))
    async def openai_route(body: Body, request: Request) -> dict[str, str]:
        return {"key": kit.caller(request)}

    @router.post("/embed", **kit.scope("embed"))
    async def own_route(body: Body) -> dict[str, float]:
        return {"left": remaining(1e9)}

    @router.get("/embed/broken", **kit.scope("embed"))
    async def broken() -> None:
        raise ValueError("the password is hunter2")

    @router.get("/embed/missing", **kit.scope("embed"))
    async def missing() -> None:
        raise NotFound("No such thing.")

    @router.get("/embed/busy", **kit.scope("embed"))
    async def busy() -> None:
        raise Overloaded("Busy.", retry_after=7)

    @router.get("/embed/hang", **kit.scope("embed"))
    async def hang() -> None:
        await asyncio.Event().wait()

    @router.get("/embed/stream", **kit.scope("embed"))
    async def stream() -> StreamingResponse:
        async def body() -> AsyncIterator[bytes]:
            yield b"first"
            raise ValueError("after the first byte")

        return StreamingResponse(body())

    async def start(_runtime: Runtime) -> None:
        return

    return kit.Service("embeddings", router, options.pop("start", start), needs=needs or [])


class Running:
    def __init__(self, client: httpx.AsyncClient, runtime: Runtime, paths: KeyPaths) -> None:
        self.client = client
        self.runtime = runtime
        self.paths = paths
        self.auth = {"authorization": f"Bearer {paths.default_key_file.read_text()}"}

    async def get(self, path: str, **headers: str) -> httpx.Response:
        return await self.client.get(path, headers={**self.auth, **headers})

    async def post(self, path: str, body: Any = None, **headers: str) -> httpx.Response:
        return await self.client.post(path, json=body, headers={**self.auth, **headers})


@asynccontextmanager
async def run(service: kit.Service, tmp_path: Path, **limits: Any) -> AsyncIterator[Running]:
    paths = init_store(tmp_path / "keys", load_stack())
    config = Config(
        auth={"keys_file": paths.keys_file, "pepper_file": paths.pepper_file},
        limits=limits,
    )
    runtime = Runtime(SILENT, start_seconds=5)
    app = kit.build(service, config, runtime)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(app.router.lifespan_context(app))
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        client = await stack.enter_async_context(
            httpx.AsyncClient(transport=transport, base_url="http://kit")
        )
        yield Running(client, runtime, paths)


async def until_started(running: Running) -> None:
    async with asyncio.timeout(5):
        while not running.runtime.started:
            await asyncio.sleep(0)


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    async with run(make(), tmp_path) as found:
        await until_started(found)
        yield found
