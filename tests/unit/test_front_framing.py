"""What crosses the front door and what does not, byte by byte; and what it logs of its refusals."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from structlog.testing import LogCapture

from aistack.dev import front
from fix_front import Door, opened, small_stack


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[Door]:
    async with opened(tmp_path, small_stack(body_bytes=1000)) as door:
        yield door


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> LogCapture:
    capture = LogCapture()
    logger = structlog.wrap_logger(
        structlog.PrintLogger(),
        processors=[capture],
        wrapper_class=structlog.make_filtering_bound_logger(0),
        cache_logger_on_first_use=False,
    )
    monkeypatch.setattr(front, "log", logger)
    return capture


async def said(door: Door, request: bytes) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of the answer to `request` as it stands."""
    reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
    writer.write(request)
    async with asyncio.timeout(5):
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
        body = await reader.readexactly(int(headers.get("content-length", 0)))
    writer.close()
    return int(head[0].split()[1]), headers, body


def post(*lines: str, body: bytes = b"") -> bytes:
    return "\r\n".join(("POST /embed HTTP/1.1", *lines, "", "")).encode() + body


CHUNKS = b"3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n"


@pytest.mark.parametrize("coding", ["chunked", "Chunked", "CHUNKED"])
async def test_a_chunked_body_arrives_however_the_word_is_written(door: Door, coding: str) -> None:
    status, _, _ = await said(door, post("Host: x", f"Transfer-Encoding: {coding}", body=CHUNKS))
    assert status == 200
    assert door.upstream.bodies == [b"onetwo"]
    assert door.upstream.header(b"transfer-encoding") == [b"chunked"]


@pytest.mark.parametrize(
    "lines",
    [
        ["Transfer-Encoding: gzip, chunked"],
        ["Transfer-Encoding: gzip", "Transfer-Encoding: chunked"],
    ],
)
async def test_another_transfer_coding_is_refused_and_the_body_not_dropped(
    door: Door, lines: list[str]
) -> None:
    status, headers, body = await said(door, post("Host: x", *lines, body=CHUNKS))
    assert status == 501
    assert headers["connection"] == "close", "what follows on it is no request"
    assert "chunked" in json.loads(body)["detail"]
    assert door.upstream.scopes == []


async def test_what_the_other_end_needs_cannot_be_named_away(door: Door) -> None:
    status, _, _ = await said(
        door,
        post(
            "Host: x",
            "Authorization: Bearer ais_x",
            "Content-Type: application/json",
            "Content-Length: 2",
            "Connection: close, content-length, Authorization, host, content-type",
            body=b"{}",
        ),
    )
    assert status == 200
    assert door.upstream.bodies == [b"{}"]
    assert door.upstream.header(b"content-length") == [b"2"]
    assert door.upstream.header(b"authorization") == [b"Bearer ais_x"]
    assert door.upstream.header(b"content-type") == [b"application/json"]
    assert door.upstream.header(b"host") == [b"x"]


async def test_every_connection_header_is_read(door: Door) -> None:
    status, _, _ = await said(
        door,
        post(
            "Host: x",
            "Content-Length: 0",
            "Connection: x-one",
            "Connection: keep-alive, X-Two",
            "X-One: 1",
            "X-Two: 2",
            "X-Three: 3",
        ),
    )
    assert status == 200
    assert door.upstream.header(b"x-one") == door.upstream.header(b"x-two") == []
    assert door.upstream.header(b"x-three") == [b"3"]


@pytest.mark.parametrize("hosts", [[], ["Host: a", "Host: b"]])
async def test_a_request_without_one_host_is_a_400(door: Door, hosts: list[str]) -> None:
    status, headers, body = await said(door, post(*hosts, "Content-Length: 2", body=b"{}"))
    assert status == 400
    assert "Host" in json.loads(body)["detail"]
    assert "retry-after" not in headers
    assert door.upstream.scopes == []


async def test_http_1_0_needs_no_host(door: Door) -> None:
    status, _, _ = await said(door, b"GET /v1/models HTTP/1.0\r\n\r\n")
    assert status == 200
    assert door.upstream.header(b"host") == [b"localhost"]


@pytest.mark.parametrize(
    "headers",
    [
        [(b"host", b"x"), (b"content-length", b"2"), (b"x-a", b"a\x00b")],  # refused in the head
        [(b"host", b"x"), (b"content-length", b"1")],  # and in the body
    ],
)
async def test_what_cannot_be_said_to_the_service_as_http_is_a_400(
    door: Door, monkeypatch: pytest.MonkeyPatch, headers: list[tuple[bytes, bytes]]
) -> None:
    # The parser of this door lets neither in; another one might.
    monkeypatch.setattr(front, "request_headers", lambda *_: headers)
    answer = await door.client.post("/embed", content=b"{}")
    assert answer.status_code == 400
    assert "retry-after" not in answer.headers
    assert door.upstream.bodies == []


async def test_the_key_id_that_services_tell_each_other_is_not_taken_from_a_client(
    door: Door,
) -> None:
    await door.client.get("/v1/models", headers={"x-aistack-key-id": "somebody"})
    assert door.upstream.header(b"x-aistack-key-id") == []


async def test_every_error_id_is_in_the_log(door: Door, logged: LogCapture) -> None:
    given = {"x-request-id": "mine-1"}
    missing = await door.client.get("/no%1Bthing", headers=given)
    large = await door.client.post("/embed", content=b"x" * 1001, headers=given)
    away = await door.client.get("/v1/documents", headers=given)
    for answer, status, slug in (
        (missing, 404, "not-found"),
        (large, 413, "too-large"),
        (away, 503, "unavailable"),
    ):
        assert answer.status_code == status
        lines = [
            line for line in logged.entries if line.get("error_id") == answer.headers["x-error-id"]
        ]
        assert len(lines) == 1
        assert lines[0]["event"] == "answered_error"
        assert (lines[0]["status"], lines[0]["error"]) == (status, slug)
        assert lines[0]["request_id"] == "mine-1"
        assert lines[0]["log_level"] == ("warning" if status >= 500 else "info")
    paths = [line["path"] for line in logged.entries if line["event"] == "answered_error"]
    assert paths == ["/no%1Bthing", "/embed", "/v1/documents"]


async def test_a_504_is_in_the_log(
    tmp_path: Path, logged: LogCapture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def silent(_scope: Any, receive: Any, _send: Any) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    monkeypatch.setattr(front, "_READ_MARGIN", 0.1)
    async with opened(tmp_path, small_stack(request_seconds=0.1)) as door:
        door.upstream.behave = silent
        answer = await door.client.get("/v1/models")
    assert answer.status_code == 504
    assert [line["error_id"] for line in logged.entries if line.get("status") == 504] == [
        answer.headers["x-error-id"]
    ]


async def test_a_fault_of_its_own_is_told_by_its_id_alone(
    door: Door, logged: LogCapture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("a secret")

    monkeypatch.setattr(front, "request_headers", broken)
    answer = await door.client.get("/v1/models")
    assert answer.status_code == 500
    assert "secret" not in answer.text
    (line,) = logged.entries
    assert line["error_id"] == answer.json()["error"]["error_id"]
    assert isinstance(line["exc_info"], RuntimeError)
