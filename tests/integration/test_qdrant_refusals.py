"""What is not Qdrant, or refuses, does not end the keeper, and its reason can be read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from aistack.clients.qdrant import Point, Qdrant, Refused
from aistack.config_vectors import QdrantConfig
from aistack.service.errors import Overloaded, Unavailable
from fix_qdrant import QdrantServer, kept_key
from fix_qdrant_index import OPEN, breaker, indexed
from fix_search import LAKES, Bench

KEY = "a-key-of-32-characters-or-so-0001"
REASON = b'{"status": {"error": "Wrong input: it is too odd"}, "time": 0.0}'


@asynccontextmanager
async def answering(status: int, body: bytes = b"", *headers: str) -> AsyncIterator[QdrantServer]:
    """A plain HTTP server that gives everybody the same answer."""
    lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", "Connection: close", *headers]
    answer = "\r\n".join([*lines, "", ""]).encode() + body

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = await reader.readuntil(b"\r\n\r\n")
        for line in asked.lower().splitlines():
            if line.startswith(b"content-length:"):
                await reader.readexactly(int(line.split(b":")[1]))
        writer.write(answer)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield QdrantServer(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", None)


@pytest.mark.parametrize("status", [404, 409])
async def test_a_server_that_is_not_qdrant_leaves_the_keeper_alive(
    bench: Bench, status: int
) -> None:
    await bench.corpus.add(LAKES[:1])
    async with (
        answering(status, b"<h1>nothing here</h1>") as server,
        indexed(bench, server) as made,
    ):
        assert await made.parts.keeper.turn(), "the row"
        for _ in range(5):
            with pytest.raises(Unavailable):
                await made.parts.keeper.turn()
        assert breaker(made) == "open"
        assert made.value("SELECT error FROM index_state") == (
            f"qdrant: status {status}: <h1>nothing here</h1>"
        )


async def test_a_refusal_that_nobody_expects_is_one_that_the_loop_waits_for(bench: Bench) -> None:
    await bench.corpus.add(LAKES[:1])
    unknown = b'{"status": {"error": "Not found: nothing is"}}'
    async with answering(404, unknown) as server, indexed(bench, server) as made:
        assert await made.parts.keeper.turn()
        with pytest.raises(Unavailable):
            await made.parts.keeper.turn()
        assert made.value("SELECT error FROM index_state") == "qdrant has no such collection."


async def test_a_key_that_is_refused_is_said_without_it(bench: Bench, tmp_path: Path) -> None:
    await bench.corpus.add(LAKES[:1])
    async with answering(401, KEY.encode()) as server:
        server.key_file = kept_key(tmp_path, KEY)
        async with indexed(bench, server) as made:
            assert await made.parts.keeper.turn()
            with pytest.raises(Unavailable):
                await made.parts.keeper.turn()
            error = made.value("SELECT error FROM index_state")
            assert error == "qdrant: the key is refused (status 401)"


async def test_a_busy_server_that_names_a_date_is_busy() -> None:
    async with answering(429, b"", "Retry-After: Sun, 22 Nov 2026 21:37:00 GMT") as server:
        client = Qdrant(QdrantConfig(url=server.url))
        try:
            with pytest.raises(Overloaded):
                await client.names()
        finally:
            await client.aclose()


async def test_a_write_that_is_refused_is_no_failure_of_the_server() -> None:
    async with answering(400, REASON) as server:
        client = Qdrant(QdrantConfig(url=server.url))
        try:
            for _ in range(5):
                with pytest.raises(Refused, match="it is too odd"):
                    await client.upsert("aistack_set_1", [Point(1, [1.0], {})])
            assert client.dependency.state == "closed"
        finally:
            await client.aclose()


async def test_a_point_that_is_refused_keeps_back_nothing_else(
    bench: Bench, qdrant: QdrantServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bench.corpus.add(LAKES[:2])
    async with indexed(bench, qdrant) as made:
        await made.settle()
        before = made.chunks()
        await bench.corpus.add(LAKES[2:])
        odd = next(one for one in made.chunks() if one not in before)
        upsert = made.parts.client.upsert

        async def refusing(name: str, points: Sequence[Point]) -> None:
            if any(point.id == odd for point in points):
                raise Refused("status 400: it is too odd")
            await upsert(name, points)

        monkeypatch.setattr(made.parts.client, "upsert", refusing)
        await made.parts.sync.wake()
        reason = f"qdrant refuses chunk {odd}: status 400: it is too odd"
        assert made.value(OPEN) == 0
        assert await made.ids() == [one for one in made.chunks() if one != odd]
        assert made.value("SELECT error FROM index_state") == reason
        for _ in range(2):
            # The numbers differ; compared once, they are no news.
            made.parts.keeper._count_after = 0.0
            await made.parts.keeper.turn()
        at = made.value("SELECT reconciled_at FROM index_state")
        made.parts.keeper._count_after = 0.0
        assert not await made.parts.keeper.turn()
        assert made.bench.rows("SELECT reconciled_at, error, drift FROM index_state") == [
            (at, reason, 1)
        ]
        monkeypatch.undo()
        assert (await made.parts.keeper.reconcile()).missing == 1
        assert await made.ids() == made.chunks()
        assert made.value("SELECT error FROM index_state") is None
