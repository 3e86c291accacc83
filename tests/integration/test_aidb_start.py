"""A cold start: aidb waits for an embeddings service that is still loading its model."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import orjson
import pytest
import structlog
from psycopg.conninfo import conninfo_to_dict

from aistack.aidb import parts as parts_module
from aistack.aidb.parts import Parts
from aistack.config import AidbConfig, Config, Peers, PostgresConfig
from aistack.service.lifecycle import Runtime
from aistack.service.notify import Notifier
from fix_ingest import IDENTITY

MODELS = {
    "data": [
        {
            "aistack": {
                "embedding_set": {
                    "id": IDENTITY.id,
                    "model": IDENTITY.model,
                    "revision": IDENTITY.revision,
                    "engine": IDENTITY.engine,
                    "precision": IDENTITY.precision,
                    "dimension": IDENTITY.dimension,
                    "normalized": IDENTITY.normalized,
                },
                "max_tokens": 256,
                "client_batch": 64,
            }
        }
    ]
}


class Loading:
    """Says 503 to everything for the first `looks` requests, as a service that is starting does."""

    def __init__(self, looks: int) -> None:
        self.looks = looks
        self.asked: list[str] = []

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        self.asked.append(head.split(b" ")[1].decode())
        up = len(self.asked) > self.looks
        body = orjson.dumps(MODELS if up else {"detail": "Still starting."})
        status = b"200 OK" if up else b"503 Service Unavailable"
        writer.write(
            b"HTTP/1.1 %s\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % (status, len(body))
            + body
        )
        await writer.drain()
        writer.close()
        await writer.wait_closed()


@asynccontextmanager
async def serving(
    answer: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[str]:
    with tempfile.TemporaryDirectory(prefix="emb-") as directory:
        path = Path(directory) / "e.sock"
        async with await asyncio.start_unix_server(answer, path):
            yield f"unix:{path}"


async def test_waiting_for_a_model_that_loads_leaves_the_breaker_alone(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = conninfo_to_dict(database)
    service = Loading(looks=8)
    assert parts_module.PAUSE_SECONDS >= 0.5
    monkeypatch.setattr(parts_module, "PAUSE_SECONDS", 0.01)
    async with serving(service.answer) as address:
        parts = Parts(
            Config(
                peers=Peers(embeddings=address),
                postgres=PostgresConfig(
                    host=str(where["host"]), user="postgres", database=str(where["dbname"])
                ),
                aidb=AidbConfig(dimension=IDENTITY.dimension),
            )
        )
        await parts.postgres.open()
        try:
            with structlog.testing.capture_logs() as logs:
                runtime = Runtime(Notifier(None, None), start_seconds=60)
                await asyncio.wait_for(parts._wait_for_embeddings(runtime), 30)
        finally:
            await parts.stop()
    assert service.asked == ["/readyz"] * 9 + ["/v1/models"]
    assert [one for one in logs if one["log_level"] not in ("debug", "info")] == []
    assert parts.vectors.current is not None
    assert parts.embeddings._peer.dependency.state == "closed"
