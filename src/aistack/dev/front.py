"""The front door of `aistack up`: one HTTP port, routed by stack.toml to the services' sockets.

It streams both ways without buffering, and it never makes an end where there was none: a service
that dies before its first byte is a 503, one that dies later is an aborted connection. The health
and metrics pages of the services are not reachable through it.

httpcore rather than httpx: the same pool and protocol code (it is what httpx runs on) without the
request and response objects that a proxy would only fill and empty again.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, MutableMapping
from email.utils import formatdate
from pathlib import Path
from typing import Any
from urllib.parse import quote

import h11
import httpcore
import orjson
import structlog

from aistack.dev.headers import (
    Headers,
    Scope,
    first,
    is_chunked,
    request_headers,
    request_id,
    response_headers,
)
from aistack.service.errors import (
    BadRequest,
    DeadlineExceeded,
    NotFound,
    NotImplementedHere,
    StackError,
    TooLarge,
    Unavailable,
    error_id,
    render,
)
from aistack.stack import ServiceEntry, Stack

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

log = structlog.get_logger("aistack.front")

#: The pool is no limit: the services say 429 themselves.
_CONNECTIONS = 1024
_CONNECT_SECONDS = 5.0
#: After the time that the service has for its first byte.
_READ_MARGIN = 10.0
#: Of a path in a log line, quoted: a terminal shows these lines too.
_LONGEST_PATH = 200
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})


class FrontDoor:
    """An ASGI application over the sockets of the services."""

    def __init__(self, stack: Stack, sockets: Mapping[str, Path]) -> None:
        self._stack = stack
        self._pools = {
            name: httpcore.AsyncConnectionPool(
                uds=str(path),
                max_connections=_CONNECTIONS,
                max_keepalive_connections=64,
                keepalive_expiry=4.0,  # the services close an idle one after 75 s
            )
            for name, path in sockets.items()
        }

    async def aclose(self) -> None:
        """Close the connections to the services."""
        for pool in self._pools.values():
            await pool.aclose()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise RuntimeError(f"the front door speaks HTTP only, not {scope['type']}")
        path: str = scope["path"]
        identifier = request_id(scope["headers"])
        answer = _Answer(send, identifier)
        if path == "/":
            await answer.whole(200, *_index(self._stack, scope["headers"]), head=_is_head(scope))
            return
        entry = self._stack.route(path)
        if entry is None or entry.name not in self._pools:
            known = NotFound(f"Nothing answers here; {self._prefixes()} do.")
            await answer.error(known, path, openai=False)
            return
        try:
            await self._exchange(entry, scope, receive, answer)
        except StackError as error:
            if answer.started:
                log.warning(
                    "answer_aborted",
                    upstream=entry.name,
                    error=error.slug,
                    detail=error.detail,
                    request_id=answer.request_id,
                )
                return  # uvicorn closes the connection of an answer that was not finished
            await answer.error(error, path, openai=entry.speaks_openai(path))
        except Exception as fault:  # the boundary of this process: told by its id alone
            if answer.started:
                raise
            told = StackError("An internal error; the log has its id.")
            await answer.error(told, path, openai=entry.speaks_openai(path), fault=fault)

    async def _exchange(
        self, entry: ServiceEntry, scope: Scope, receive: Receive, answer: _Answer
    ) -> None:
        """Pass the request on and its answer back; ends early when the client goes away."""
        body = _Body(receive, scope["headers"], entry.limits.body_bytes)
        passing = asyncio.ensure_future(self._pass(entry, scope, body, answer))
        leaving = asyncio.ensure_future(body.client_gone())
        try:
            await asyncio.wait({passing, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if not passing.done():
                passing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await passing
        finally:
            for task in (passing, leaving):
                task.cancel()

    async def _pass(self, entry: ServiceEntry, scope: Scope, body: _Body, answer: _Answer) -> None:
        method: str = scope["method"]
        read = entry.limits.request_seconds + _READ_MARGIN
        request = httpcore.Request(
            method,
            httpcore.URL(scheme=b"http", host=b"localhost", port=None, target=_target(scope)),
            headers=request_headers(scope, answer.identifier),
            content=body.stream() if body.expected else None,
            extensions={
                "timeout": {
                    "connect": _CONNECT_SECONDS,
                    "pool": _CONNECT_SECONDS,
                    "write": read,
                    "read": read,
                }
            },
        )
        pool = self._pools[entry.name]
        attempts = 2 if method in _SAFE and not body.expected else 1
        with _told(entry.name):
            while True:
                attempts -= 1
                try:
                    response = await pool.handle_async_request(request)
                    break
                except (httpcore.ReadError, httpcore.RemoteProtocolError):
                    # A kept connection whose other end has just been restarted.
                    if not attempts:
                        raise
            try:
                await answer.start(response.status, response_headers(response.headers))
                async for chunk in response.aiter_stream():
                    await answer.more(chunk)
            finally:
                await response.aclose()
        await answer.end()

    def _prefixes(self) -> str:
        routes = [route for entry in self._stack.services.values() for route in entry.routes]
        return ", ".join(["/", *sorted(routes), "/docs/<service>"])


@contextlib.contextmanager
def _told(name: str) -> Any:
    """The transport's errors in the words of ours."""
    try:
        yield
    except (httpcore.ReadTimeout, httpcore.WriteTimeout) as error:
        raise DeadlineExceeded(f"{name} did not answer in time.") from error
    except (httpcore.LocalProtocolError, h11.LocalProtocolError) as error:
        # Ours is the end that would not say it: what the client sent is no HTTP.
        raise BadRequest("The request is not well-formed HTTP.") from error
    except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException) as error:
        log.warning("upstream_away", upstream=name, error=type(error).__name__)
        raise Unavailable(f"{name} is not there right now; it is being started again.") from error


class _Body:
    """The request's body as it comes in, counted; and the news that the client has gone.

    Raises TooLarge for a declared length over the limit, NotImplementedHere for a transfer coding
    that nobody here reads.
    """

    def __init__(self, receive: Receive, headers: Headers, limit: int) -> None:
        self._receive = receive
        self._limit = limit
        self._complete = asyncio.Event()
        length = first(headers, b"content-length")
        self.expected = is_chunked(headers) or length not in (None, b"0")
        if length is not None and length.isdigit() and int(length) > limit:
            raise self._too_large()
        if not self.expected:
            self._complete.set()

    async def stream(self) -> AsyncIterator[bytes]:
        """Chunks as they arrive. Raises TooLarge."""
        taken = 0
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise asyncio.CancelledError  # nobody is left to answer
            chunk: bytes = message.get("body", b"")
            taken += len(chunk)
            if taken > self._limit:
                raise self._too_large()
            if chunk:
                yield chunk
            if not message.get("more_body", False):
                self._complete.set()
                return

    async def client_gone(self) -> None:
        """Returns when the client has closed its connection; not before its body is read."""
        await self._complete.wait()
        while (await self._receive())["type"] != "http.disconnect":
            pass

    def _too_large(self) -> TooLarge:
        return TooLarge(f"The body is larger than {self._limit} bytes.", limit=self._limit)


class _Answer:
    """One answer on its way out."""

    def __init__(self, send: Send, identifier: bytes) -> None:
        self._send = send
        self.identifier = identifier
        self.started = False

    @property
    def request_id(self) -> str:
        """The identifier, for a log line."""
        return self.identifier.decode("latin-1")

    async def start(self, status: int, headers: Headers) -> None:
        """Status and headers; nothing else may be answered after this."""
        self.started = True
        headers = [
            *headers,
            (b"x-request-id", self.identifier),
            (b"date", formatdate(usegmt=True).encode()),
        ]
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def more(self, chunk: bytes) -> None:
        """A piece of the body, sent on at once."""
        await self._send({"type": "http.response.body", "body": chunk, "more_body": True})

    async def end(self) -> None:
        """The clean end."""
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def whole(
        self, status: int, headers: Headers, body: bytes, *, head: bool = False
    ) -> None:
        """An answer of one piece."""
        await self.start(status, headers)
        await self.more(b"" if head else body)
        await self.end()

    async def error(
        self, error: StackError, path: str, *, openai: bool, fault: Exception | None = None
    ) -> None:
        """An answer that says what went wrong, and the line of the log with the same `error_id`."""
        identifier = error_id()
        status, headers, body = render(error, identifier=identifier, path=path, openai=openai)
        write = log.warning if status >= 500 else log.info
        write(
            "answered_error",
            status=status,
            error_id=identifier,
            error=error.slug,
            detail=error.detail,
            path=quote(path)[:_LONGEST_PATH],
            request_id=self.request_id,
            exc_info=fault,
        )
        if isinstance(error, TooLarge | NotImplementedHere | BadRequest):
            headers = [*headers, (b"connection", b"close")]  # the rest of the body is not read
        await self.whole(status, headers, body)


def _target(scope: Scope) -> bytes:
    raw: bytes = scope.get("raw_path") or scope["path"].encode()
    query: bytes = scope["query_string"]
    return raw + b"?" + query if query else raw


def _is_head(scope: Scope) -> bool:
    return bool(scope["method"] == "HEAD")


def _index(stack: Stack, headers: Headers) -> tuple[Headers, bytes]:
    """What is here: a page for a browser, JSON for everybody else."""
    accept = first(headers, b"accept") or b""
    if b"text/html" in accept:
        items = "".join(
            f'<li><a href="{entry.docs_path}">{entry.name}</a>: {entry.summary}</li>'
            for entry in stack.services.values()
        )
        page = (
            '<!doctype html><html lang="en"><meta charset="utf-8"><title>aistack</title>'
            f"<h1>aistack</h1><p>API pages of the services:</p><ul>{items}</ul></html>"
        )
        return [(b"content-type", b"text/html; charset=utf-8")], page.encode()
    table = {
        "name": "aistack",
        "services": {
            entry.name: {
                "summary": entry.summary,
                "docs": entry.docs_path,
                "routes": list(entry.routes),
            }
            for entry in stack.services.values()
        },
    }
    return [(b"content-type", b"application/json")], orjson.dumps(table)
