"""A generator that runs in its own task, and an answer that is sent while it is made."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, suppress
from typing import Generic, TypeVar

import structlog
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from aistack.coordinator import wire
from aistack.service.disconnect import disconnected
from aistack.service.errors import StackError, error_id

log = structlog.get_logger()
T = TypeVar("T")
AHEAD = 64  # events that may wait for a slow reader; then the source waits
STALL_SECONDS = 30.0
"""How long a reader may take nothing at all before it is taken for gone: its place is wanted."""


class ReaderStalled(StackError):
    """The client is there and takes nothing; the status is for the log and the metrics."""

    status = 499
    slug = "reader-stalled"
    title = "The client takes nothing"


class Relay(Generic[T]):
    """Runs `source` in one task from its first step to its last.

    Spans and deadlines inside it stay in one context, and closing the relay closes the source at
    once, and with it the connection to whatever it reads from.
    """

    def __init__(self, source: AsyncGenerator[T, None]) -> None:
        self._queue: asyncio.Queue[T | None] = asyncio.Queue(AHEAD)
        self._first: T | None = None
        self._task = asyncio.create_task(self._run(source), name="relay")

    async def _run(self, source: AsyncGenerator[T, None]) -> None:
        async with aclosing(source) as events:
            async for event in events:
                await self._queue.put(event)
        await self._queue.put(None)

    async def begin(self) -> None:
        """Returns when there is a first event. Raises what the source raised before it."""
        self._first = await self._get()

    async def _get(self) -> T | None:
        getting = asyncio.ensure_future(self._queue.get())
        try:
            await asyncio.wait({getting, self._task}, return_when=asyncio.FIRST_COMPLETED)
            if not getting.done():
                if not self._queue.empty():
                    return await getting
                self._task.result()  # raises what ended it
            return await getting
        finally:
            getting.cancel()

    async def __aiter__(self) -> AsyncIterator[T]:
        event = self._first
        while event is not None:
            yield event
            event = await self._get()

    async def aclose(self) -> None:
        """Ends the source if it has not ended; whatever it raises now is of no interest."""
        self._task.cancel()
        with suppress(asyncio.CancelledError, StackError):
            await self._task


class EventStream(Response):
    """Server-sent events from a relay that has begun.

    A failure becomes an error event and then a body without an end: no `[DONE]`, no last chunk, so
    that no client takes a cut answer for a whole one. A client that goes away, or takes nothing
    for `stall_seconds`, closes the relay.
    """

    media_type = "text/event-stream"

    def __init__(self, relay: Relay[bytes], *, stall_seconds: float = STALL_SECONDS) -> None:
        super().__init__()
        self._stall_seconds = stall_seconds
        self._relay = relay
        del self.headers["content-length"]
        self.headers["cache-control"] = "no-store"
        self.headers["x-accel-buffering"] = "no"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sending = asyncio.create_task(self._send(send))
        gone = asyncio.create_task(disconnected(receive))
        try:
            await asyncio.wait({sending, gone}, return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
        finally:
            for part in (sending, gone):
                part.cancel()
            with suppress(asyncio.CancelledError, StackError):
                await sending
            await self._relay.aclose()

    async def _send(self, send: Send) -> None:
        async def put(body: bytes, *, more: bool = True) -> None:
            try:
                async with asyncio.timeout(self._stall_seconds):
                    await send({"type": "http.response.body", "body": body, "more_body": more})
            except TimeoutError as error:
                raise ReaderStalled("The client takes nothing.") from error

        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        try:
            async for event in self._relay:
                await put(event)
        except ReaderStalled:
            raise
        except StackError as error:
            identifier = error_id()
            log.warning("stream_failed", error_id=identifier, error=error.slug, detail=error.detail)
            await put(wire.error(error, identifier))
            raise
        await put(wire.DONE, more=False)
