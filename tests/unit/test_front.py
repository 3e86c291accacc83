"""The front door, between a real client and real upstream servers on unix sockets."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from aistack.dev.front import Receive, Send
from aistack.dev.headers import Scope
from fix_front import Door, Upstream, opened, piece, serving, small_stack, start, unix


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[Door]:
    async with opened(tmp_path) as door:
        yield door


async def test_a_request_passes_through_whole(door: Door) -> None:
    answer = await door.client.post(
        "/v1/embeddings?a=b%20c", content=b"payload", headers={"authorization": "Bearer ais_x"}
    )
    assert answer.status_code == 200
    assert answer.json() == {"ok": True}
    assert answer.headers["x-answer"] == "yes"
    assert door.upstream.bodies == [b"payload"]
    scope = door.upstream.scopes[0]
    assert (scope["method"], scope["path"]) == ("POST", "/v1/embeddings")
    assert scope["query_string"] == b"a=b%20c"
    assert door.upstream.header(b"authorization") == [b"Bearer ais_x"]


async def test_the_longest_prefix_on_segment_borders_is_asked(door: Door) -> None:
    for path, status in (
        ("/v1/models", 200),
        ("/v1/models/local", 200),
        ("/docs/embeddings/openapi.json", 200),
        ("/v1/modelsx", 404),
        ("/embedx", 404),
        ("/docs/unknown", 404),
    ):
        assert (await door.client.get(path)).status_code == status, path


@pytest.mark.parametrize("path", ["/metrics", "/livez", "/readyz", "/v1", "/nothing"])
async def test_unknown_paths_and_the_pages_of_services_are_not_found(door: Door, path: str) -> None:
    answer = await door.client.get(path)
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["status"] == 404
    assert answer.headers["x-request-id"]
    assert door.upstream.scopes == []


async def test_an_escaped_path_reaches_only_what_it_names(door: Door) -> None:
    # The service sees the same bytes: what it decodes is what was routed on.
    answer = await door.client.get("/v1/models/..%2f..%2fmetrics")
    assert answer.status_code == 200
    assert door.upstream.scopes[0]["raw_path"] == b"/v1/models/..%2f..%2fmetrics"


async def test_the_request_id_is_made_once_and_passed_on(door: Door) -> None:
    made = await door.client.get("/v1/models")
    assert door.upstream.header(b"x-request-id") == [made.headers["x-request-id"].encode()]
    given = await door.client.get("/v1/models", headers={"x-request-id": "my-id.1"})
    assert given.headers.get_list("x-request-id") == ["my-id.1"]
    assert door.upstream.header(b"x-request-id") == [b"my-id.1"]
    bad = await door.client.get("/v1/models", headers={"x-request-id": "spaces are not"})
    assert bad.headers["x-request-id"] != "spaces are not"


async def test_what_concerns_one_connection_stays_there(door: Door) -> None:
    await door.client.get(
        "/v1/models",
        headers={
            "connection": "keep-alive, x-private",
            "x-private": "1",
            "te": "trailers",
            "x-forwarded-for": "6.6.6.6",
            "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        },
    )
    assert door.upstream.header(b"x-private") == []
    assert door.upstream.header(b"te") == []
    assert door.upstream.header(b"x-forwarded-for") == [b"127.0.0.1"]
    assert door.upstream.header(b"x-forwarded-host") == [f"127.0.0.1:{door.port}".encode()]
    assert len(door.upstream.header(b"traceparent")) == 1


async def test_answers_stream_piece_by_piece(door: Door) -> None:
    release = asyncio.Event()

    async def behave(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send(start(200, (b"content-type", b"text/event-stream")))
        await send(piece(b"data: 1\n\n"))
        await release.wait()
        await send(piece(b"data: 2\n\n", more=False))

    door.upstream.behave = behave
    async with door.client.stream("GET", "/v1/models") as answer:
        pieces = answer.aiter_raw()
        assert await anext(pieces) == b"data: 1\n\n"  # before the second was even made
        release.set()
        assert b"".join([rest async for rest in pieces]) == b"data: 2\n\n"


async def test_requests_stream_piece_by_piece(door: Door) -> None:
    arrived = asyncio.Event()

    async def behave(_scope: Scope, receive: Receive, send: Send) -> None:
        first = await receive()
        assert first["body"] == b"one"
        arrived.set()
        while (await receive()).get("more_body"):
            pass
        await send(start(204))
        await send(piece(b"", more=False))

    async def body() -> AsyncIterator[bytes]:
        yield b"one"
        await asyncio.wait_for(arrived.wait(), 5)
        yield b"two"

    door.upstream.behave = behave
    assert (await door.client.post("/v1/embeddings", content=body())).status_code == 204


async def test_a_client_that_leaves_ends_the_work(door: Door) -> None:
    async def behave(_scope: Scope, receive: Receive, send: Send) -> None:
        await send(start(200))
        await send(piece(b"x"))
        while (await receive())["type"] != "http.disconnect":
            pass
        door.upstream.gone.set()

    door.upstream.behave = behave
    async with door.client.stream("GET", "/v1/models") as answer:
        await anext(answer.aiter_raw())
    await asyncio.wait_for(door.upstream.gone.wait(), 5)


async def test_a_client_that_leaves_before_the_first_byte_ends_the_work(door: Door) -> None:
    asked = asyncio.Event()

    async def behave(_scope: Scope, receive: Receive, _send: Send) -> None:
        asked.set()
        while (await receive())["type"] != "http.disconnect":
            pass
        door.upstream.gone.set()

    door.upstream.behave = behave
    request = asyncio.create_task(door.client.get("/v1/models"))
    await asyncio.wait_for(asked.wait(), 5)
    request.cancel()
    await asyncio.wait_for(door.upstream.gone.wait(), 5)


async def test_a_service_that_is_away_is_a_503_in_the_shape_of_its_routes(door: Door) -> None:
    (door.directory / "embeddings.sock").unlink()
    openai = await door.client.post("/v1/embeddings", json={})
    assert openai.status_code == 503
    assert int(openai.headers["retry-after"]) >= 1
    assert openai.json()["error"]["type"] == "service_unavailable_error"
    problem = await door.client.post("/embed", json={})
    assert problem.status_code == 503
    assert int(problem.headers["retry-after"]) >= 1
    assert problem.headers["content-type"] == "application/problem+json"
    assert problem.json()["error_id"] == problem.headers["x-error-id"]
    never = await door.client.get("/v1/documents")
    assert never.status_code == 503


async def test_a_service_that_dies_before_its_first_byte_is_a_503(tmp_path: Path) -> None:
    async def die(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.transport.abort()

    async with opened(tmp_path) as door:
        server = await asyncio.start_unix_server(die, str(tmp_path / "aidb.sock"))
        async with server:
            answer = await door.client.post("/v1/search", json={"query": "x"})
    assert answer.status_code == 503
    assert answer.headers["retry-after"]


@pytest.mark.parametrize("framing", [b"transfer-encoding: chunked", b"content-length: 100"])
async def test_a_service_that_dies_later_aborts_the_answer(tmp_path: Path, framing: bytes) -> None:
    async def die(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        begun = b"4\r\nhalf\r\n" if b"chunked" in framing else b"half"
        writer.write(b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n\r\n" + begun)
        await writer.drain()
        writer.close()

    async with opened(tmp_path) as door:
        server = await asyncio.start_unix_server(die, str(tmp_path / "aidb.sock"))
        async with server:
            reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
            writer.write(b"GET /v1/documents HTTP/1.1\r\nHost: x\r\n\r\n")
            answer = await asyncio.wait_for(reader.read(), 5)
            writer.close()
    assert answer.startswith(b"HTTP/1.1 200")
    assert b"half" in answer
    assert not answer.endswith(b"0\r\n\r\n"), "a broken answer was ended as if it were whole"


async def test_a_service_that_is_silent_is_a_504(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("aistack.dev.front._READ_MARGIN", 0.1)
    async with opened(tmp_path, small_stack(request_seconds=0.1)) as door:

        async def behave(_scope: Scope, receive: Receive, _send: Send) -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            door.upstream.gone.set()

        door.upstream.behave = behave
        answer = await door.client.get("/v1/models")
        assert answer.status_code == 504
        assert answer.json()["error"]["type"] == "timeout_error"
        await asyncio.wait_for(door.upstream.gone.wait(), 5)


async def test_a_body_over_the_limit_is_refused_declared_or_not(tmp_path: Path) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b"x" * 40

    async with opened(tmp_path, small_stack(body_bytes=100)) as door:
        declared = await door.client.post("/embed", content=b"x" * 101)
        assert declared.status_code == 413
        assert declared.json()["limit"] == 100
        assert door.upstream.scopes == []
        undeclared = await door.client.post("/v1/embeddings", content=chunks())
        assert undeclared.status_code == 413
        assert undeclared.json()["error"]["type"] == "invalid_request_error"
        assert door.upstream.bodies == []
        assert (await door.client.post("/embed", content=b"x" * 100)).status_code == 200


async def test_an_early_refusal_comes_through_before_the_body_is_read(door: Door) -> None:
    async def behave(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send(start(401, (b"content-length", b"0"), (b"connection", b"close")))
        await send(piece(b"", more=False))

    door.upstream.behave = behave
    answer = await door.client.post("/v1/embeddings", content=b"x" * 4_000_000)
    assert answer.status_code == 401


async def test_head_and_empty_answers_keep_their_framing(door: Door) -> None:
    async def behave(scope: Scope, _receive: Receive, send: Send) -> None:
        if scope["method"] == "DELETE":
            await send(start(204))
            await send(piece(b"", more=False))
        else:
            await send(start(200, (b"content-length", b"11")))
            await send(piece(b'{"ok":true}', more=False))

    door.upstream.behave = behave
    head = await door.client.head("/v1/models")
    assert (head.status_code, head.headers["content-length"], head.content) == (200, "11", b"")
    assert (await door.client.delete("/v1/models")).status_code == 204
    assert (await door.client.get("/v1/models")).json() == {"ok": True}


async def test_a_service_that_was_restarted_is_asked_on_a_new_connection(door: Door) -> None:
    assert (await door.client.get("/v1/models")).status_code == 200
    listening = unix(door.directory / "aidb.sock")
    for _ in range(3):
        async with serving(Upstream(), listening.dup()):
            answers = await asyncio.gather(*(door.client.get("/v1/documents") for _ in range(5)))
            assert [answer.status_code for answer in answers] == [200] * 5
    listening.close()


async def test_the_index_lists_the_pages(door: Door) -> None:
    table = (await door.client.get("/")).json()
    assert table["services"]["aidb"]["docs"] == "/docs/aidb"
    page = await door.client.get("/", headers={"accept": "text/html,*/*"})
    assert page.headers["content-type"].startswith("text/html")
    assert 'href="/docs/coordinator"' in page.text
    json.dumps(table)
