"""What nginx answers by itself has the words and the shape of the services' errors."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from aistack.service import errors
from aistack.stack import load_stack
from fix_front import unix
from fix_site import Both, Site

STACK = load_stack()


@pytest.mark.parametrize(
    ("path", "openai"), [("/v1/embeddings", True), ("/embed", False), ("/v1/collections/x", False)]
)
@pytest.mark.parametrize("chunked", [False, True])
async def test_body_over_the_limit_is_413_in_the_routes_shape(
    both: Both, path: str, openai: bool, chunked: bool
) -> None:
    entry = STACK.route(path)
    assert entry is not None
    limit = entry.limits.body_bytes

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(limit // 65536 + 1):
            yield bytes(65536)

    content: Any = pieces() if chunked else bytes(limit + 1)
    answer = await both.one(both.nginx, "POST", path, content=content)
    response = answer.response
    assert (response.status_code, answer.reached) == (413, [])
    expected = errors.TooLarge(f"The body is larger than {limit} bytes.", limit=limit)
    _same_as_python(response, expected, path, openai=openai)
    whole = await both.one(both.nginx, "POST", path, content=bytes(limit))
    assert (whole.response.status_code, whole.reached) == (200, [entry.name])


def _same_as_python(
    response: httpx.Response, error: errors.StackError, path: str, *, openai: bool
) -> None:
    """The answer is, byte for byte of its meaning, what the kit would have said."""
    status, headers, body = errors.render(
        error, identifier=response.headers["x-error-id"], path=path, openai=openai
    )
    assert response.status_code == status
    assert response.json() == json.loads(body)
    for name, value in headers:
        if name != b"content-length":
            assert response.headers[name.decode()] == value.decode(), name


@pytest.mark.parametrize(
    ("path", "openai"),
    [("/v1/chat/completions", True), ("/docs/coordinator", False), ("/v1/documents", False)],
)
@pytest.mark.parametrize("how", ["gone", "refused", "hangs up"])
def test_dead_service_is_503_with_retry_after(
    site: Site, path: str, openai: bool, how: str
) -> None:
    entry = STACK.route(path)
    assert entry is not None
    with _badly_served(site.sockets / f"{entry.name}.sock", how), site.client() as client:
        response = client.post(path, json={})
        expected = errors.Unavailable(
            f"{entry.name} is not there right now; it is being started again."
        )
        _same_as_python(response, expected, path, openai=openai)


@contextlib.contextmanager
def _badly_served(path: Path, how: str) -> Iterator[None]:
    path.unlink(missing_ok=True)
    if how == "gone":
        yield
        return
    with unix(path) as listening, contextlib.ExitStack() as stack:
        if how == "refused":
            listening.close()
        else:
            stack.enter_context(_serving(listening, [b""]))
        yield
    path.unlink()


def test_only_a_safe_request_is_asked_again_when_its_connection_dies(site: Site) -> None:
    path = site.sockets / "aidb.sock"
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    with site.client() as client:
        for method, status, asked in (("GET", 200, 2), ("POST", 503, 1)):
            with unix(path) as listening, _serving(listening, [b"", answer]) as requests:
                response = client.request(method, "/v1/search")
            path.unlink()
            assert (method, response.status_code, len(requests)) == (method, status, asked)


@contextlib.contextmanager
def _serving(listening: socket.socket, answers: list[bytes]) -> Iterator[list[bytes]]:
    """Answers each connection with the next of `answers`, the last one for ever; b"" hangs up."""
    requests: list[bytes] = []

    def answer() -> None:
        with contextlib.suppress(OSError):  # ends when the socket is shut down
            while True:
                connection, _ = listening.accept()
                with connection:
                    requests.append(connection.recv(65536))
                    connection.sendall(answers[min(len(requests), len(answers)) - 1])

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        yield requests
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        thread.join(10)
        assert not thread.is_alive()


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET /\x01 HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET /" + b"x" * 40000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 40000 + b"\r\n\r\n", 431),
        (b"POST /embed HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", 405),
    ],
)
async def test_a_request_that_nobody_understands_gets_a_problem(
    site: Site, request_bytes: bytes, status: int
) -> None:
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", site.https, ssl=site.context(), server_hostname="localhost"
    )
    writer.write(request_bytes)
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    await writer.wait_closed()
    assert head.startswith(f"HTTP/1.1 {status} ".encode()), head
    assert b"application/problem+json" in head
    said = json.loads(body)
    assert said["status"] == status
    assert said["error_id"].encode() in head
