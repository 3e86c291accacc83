"""What every request passes, outermost first; each a plain ASGI class.

RequestContext → Errors → Authenticate → Gate → Limits → the routes.
"""

from __future__ import annotations

import asyncio
import math
import random
import re
import time
from collections.abc import Awaitable, Callable, Iterable
from functools import cache

import structlog
from prometheus_client import Counter, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from aistack.service import metrics
from aistack.service.context import caller_key, deadline, remaining, request_id
from aistack.service.errors import (
    DeadlineExceeded,
    Forbidden,
    Overloaded,
    StackError,
    TooLarge,
    Unavailable,
    error_id,
    render,
)
from aistack.service.keys import KeyStore
from aistack.service.tracing import RequestSpan
from aistack.stack import Limits, ServiceEntry

log = structlog.get_logger()

#: Served without a key, and only to the unix socket and to loopback.
PROBES = frozenset({"/livez", "/readyz", "/metrics"})
_REQUEST_ID = re.compile(rb"^[A-Za-z0-9._:-]{1,128}$")


def header(scope: Scope, name: bytes) -> bytes | None:
    """The first value of a request header; names are lower case in ASGI."""
    headers: Iterable[tuple[bytes, bytes]] = scope["headers"]
    for key, value in headers:
        if key == name:
            return value
    return None


def route_of(scope: Scope) -> str:
    """The template of the matched route: the only path that becomes a label."""
    route = scope.get("route")
    path = getattr(route, "path", None)
    if isinstance(path, str) and path:
        return path
    return scope["path"] if scope["path"] in PROBES else "unmatched"


class RequestContext:
    """Request id, trace context, access line and request metrics."""

    def __init__(self, app: ASGIApp, draining: Callable[[], bool]) -> None:
        self.app = app
        self.draining = draining

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = header(scope, b"x-request-id")
        good = given is not None and _REQUEST_ID.match(given)
        # Not a secret: it only has to be another one each time.
        identifier = given.decode() if given and good else f"req_{random.getrandbits(96):024x}"
        carrier = {
            name: value.decode("latin-1")
            for name in ("traceparent", "tracestate")
            if (value := header(scope, name.encode())) is not None
        }
        answer = _Answer(send, identifier.encode(), self.draining)
        id_token = request_id.set(identifier)
        span = RequestSpan(scope["method"], carrier)
        started = time.perf_counter()
        metrics.IN_FLIGHT.inc()
        try:
            await self.app(scope, receive, answer.send)
        finally:
            route = route_of(scope)
            self._account(scope, route, answer, time.perf_counter() - started)
            span.end(scope["method"], route, answer.status)
            metrics.IN_FLIGHT.dec()
            request_id.reset(id_token)

    def _account(self, scope: Scope, route: str, answer: _Answer, seconds: float) -> None:
        method = scope["method"] if scope["method"] in _METHODS else "other"
        status = str(answer.status) if answer.complete else "aborted"
        answered, took = _series(method, route, status)
        answered.inc()
        took.observe(seconds)
        if answer.status and not answer.complete:
            metrics.ABORTED.labels(route).inc()
        write = log.debug if route in PROBES else log.info
        caller = scope.get("state", {}).get("caller")
        write(
            "request",
            **({"key_id": caller} if caller else {}),
            method=method,
            route=route,
            status=answer.status,
            complete=answer.complete,
            ms=round(seconds * 1000, 2),
        )


@cache
def _series(method: str, route: str, status: str) -> tuple[Counter, Histogram]:
    """Looked up once: as many as there are series."""
    return (
        metrics.REQUESTS.labels(method, route, status),
        metrics.REQUEST_SECONDS.labels(method, route),
    )


_METHODS = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"})


class _Answer:
    """The state of one response: its status, and whether it came to its end."""

    def __init__(self, send: Send, identifier: bytes, draining: Callable[[], bool]) -> None:
        self._send = send
        self._identifier = identifier
        self._draining = draining
        self.status = 0
        self.complete = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = [*message.get("headers", ()), (b"x-request-id", self._identifier)]
            if self._draining():
                message["headers"].append((b"connection", b"close"))
        elif message["type"] == "http.response.body" and not message.get("more_body", False):
            self.complete = True
        await self._send(message)


class Errors:
    """Every error becomes an answer with an `error_id`; after the first byte, a broken body."""

    def __init__(self, app: ASGIApp, entry: ServiceEntry, draining: Callable[[], bool]) -> None:
        self.app = app
        self.entry = entry
        self.draining = draining

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun = False

        async def watch(message: Message) -> None:
            nonlocal begun
            begun = begun or message["type"] == "http.response.start"
            await send(message)

        try:
            await self.app(scope, receive, watch)
        except asyncio.CancelledError:
            # The drain's deadline: the server cancels what still runs, once, and then ends.
            if begun or not self.draining():
                raise
            await self._answer(scope, send, Unavailable("The service stops."), error_id())
        except StackError as error:
            if begun:
                log.warning("answer_aborted", error=error.slug, detail=error.detail)
                raise
            await self._answer(scope, send, error, error_id())
        except Exception as error:
            identifier = error_id()
            log.error("unexpected", error_id=identifier, path=scope["path"], exc_info=error)
            if begun:
                raise
            await self._answer(
                scope, send, StackError("An internal error; the log has its id."), identifier
            )

    async def _answer(self, scope: Scope, send: Send, error: StackError, identifier: str) -> None:
        path = scope["path"]
        status, headers, body = render(
            error, identifier=identifier, path=path, openai=self.entry.speaks_openai(path)
        )
        if status >= 500 or status == 429:
            log.warning(
                "answered_error",
                status=status,
                error_id=identifier,
                error=error.slug,
                detail=error.detail,
            )
        else:
            log.info("answered_error", status=status, error_id=identifier, error=error.slug)
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


class Authenticate:
    """No valid key, no route. Probes are for the socket and loopback; docs pages are open."""

    def __init__(self, app: ASGIApp, keys: KeyStore, entry: ServiceEntry) -> None:
        self.app = app
        self.keys = keys
        self.entry = entry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path: str = scope["path"]
        if path in PROBES:
            if not _local(scope):
                raise Forbidden("Probes answer on the unix socket and on loopback only.")
            await self.app(scope, receive, send)
            return
        if self._open_page(path):
            await self.app(scope, receive, send)
            return
        given = header(scope, b"authorization")
        kind, _, token = (given or b"").decode("latin-1").partition(" ")
        principal = self.keys.verify(token.strip() if kind.lower() == "bearer" else None)
        scope.setdefault("state", {})["principal"] = principal
        caller = principal.key_id
        if principal.internal:
            forwarded = header(scope, b"x-aistack-key-id")
            if forwarded is not None and _REQUEST_ID.match(forwarded):
                caller = forwarded.decode()
        scope["state"]["caller"] = caller
        token_ = caller_key.set(caller)
        try:
            await self.app(scope, receive, send)
        finally:
            caller_key.reset(token_)

    def _open_page(self, path: str) -> bool:
        docs = self.entry.docs_path
        return path in (docs, docs + "/") or path.startswith(docs + "/assets/")


def _local(scope: Scope) -> bool:
    client = scope.get("client")
    return client is None or client[0] in ("", "127.0.0.1", "::1")


class Gate:
    """Holds requests while the service starts; 503 with Retry-After where that takes longer.

    A restart of a second or two is then a pause to a client and no failed request. Inside
    LimitRequests: those that wait are counted, and their time runs.
    """

    def __init__(
        self,
        app: ASGIApp,
        started: Callable[[float], Awaitable[bool]],
        status: Callable[[], str],
        hold_seconds: float,
    ) -> None:
        self.app = app
        self.started = started
        self.status = status
        self.hold_seconds = hold_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and "principal" in scope.get("state", {}):
            # Answered before the caller's own time is over, so that it learns why.
            ready = await self.started(min(self.hold_seconds, 0.8 * remaining(math.inf)))
            if not ready:
                metrics.REFUSED.labels("loading").inc()
                raise Unavailable(f"Still starting: {self.status()}.", retry_after=2.0)
        await self.app(scope, receive, send)


class LimitRequests:
    """Bounds of the body, of requests at once, and of the time to the first byte."""

    def __init__(self, app: ASGIApp, limits: Limits) -> None:
        self.app = app
        self.limits = limits
        self.running = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in PROBES:
            await self.app(scope, receive, send)
            return
        length = header(scope, b"content-length")
        if length is not None and length.isdigit() and int(length) > self.limits.body_bytes:
            raise self._too_large()
        if self.running >= self.limits.concurrency:
            metrics.REFUSED.labels("concurrency").inc()
            raise Overloaded("Too many requests at once.")
        self.running += 1
        token = deadline.set(time.monotonic() + self.limits.request_seconds)
        taken = 0
        begun = over = False

        async def bounded() -> Message:
            nonlocal taken, over
            message = await receive()
            if message["type"] == "http.request":
                taken += len(message.get("body", b""))
                if taken > self.limits.body_bytes:
                    over = True
                    raise self._too_large()
            return message

        try:
            async with asyncio.timeout(self.limits.request_seconds) as clock:

                async def watch(message: Message) -> None:
                    nonlocal begun
                    if not begun:
                        begun = True
                        clock.reschedule(None)
                    await send(message)

                await self.app(scope, bounded, watch)
        except StackError as error:
            # The framework turns what is raised while it reads a body into a 400.
            if over and not begun and not isinstance(error, TooLarge):
                raise self._too_large() from error
            raise
        except TimeoutError as error:
            if begun or not clock.expired():
                raise
            raise DeadlineExceeded(
                f"No answer within {self.limits.request_seconds:g} seconds."
            ) from error
        finally:
            deadline.reset(token)
            self.running -= 1

    def _too_large(self) -> TooLarge:
        metrics.REFUSED.labels("body").inc()
        return TooLarge(
            f"The body is over {self.limits.body_bytes} bytes: send it in parts, or raise"
            " limits.body_bytes."
        )
