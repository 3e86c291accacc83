"""A streamed answer and its reader: who goes away, who stalls, and what the log knows of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator

import pytest
from starlette.types import Message
from structlog.testing import capture_logs

from aistack.coordinator.relay import EventStream, ReaderStalled, Relay
from aistack.service.errors import Unavailable


class Source:
    """Events without end, or a failure after the first; knows whether it was closed."""

    def __init__(self, *, fails: bool = False) -> None:
        self.fails = fails
        self.closed = False

    async def events(self) -> AsyncGenerator[bytes, None]:
        try:
            yield b"data: 1\n\n"
            if self.fails:
                raise Unavailable("llama is not available right now.")
            while True:
                yield b"data: more\n\n"
        finally:
            self.closed = True


async def never() -> Message:
    await asyncio.Event().wait()
    raise AssertionError("unreachable")


async def test_a_reader_that_takes_nothing_gives_its_place_back() -> None:
    source = Source()
    relay = Relay(source.events())
    await relay.begin()
    taken = 0

    async def send(_: Message) -> None:
        nonlocal taken
        taken += 1
        if taken > 3:
            await asyncio.Event().wait()

    async with asyncio.timeout(10):
        with pytest.raises(ReaderStalled):
            await EventStream(relay, stall_seconds=0.05)({"type": "http"}, never, send)
    assert source.closed


async def test_a_slow_reader_is_served() -> None:
    source = Source(fails=True)
    relay = Relay(source.events())
    await relay.begin()
    got: list[bytes] = []

    async def send(message: Message) -> None:
        await asyncio.sleep(0.02)
        got.append(message.get("body", b""))

    with pytest.raises(Unavailable):
        await EventStream(relay, stall_seconds=1.0)({"type": "http"}, never, send)
    assert b"data: 1\n\n" in got


async def test_the_error_of_a_stream_is_in_the_log_by_its_id() -> None:
    relay = Relay(Source(fails=True).events())
    await relay.begin()
    got: list[bytes] = []

    async def send(message: Message) -> None:
        got.append(message.get("body", b""))

    with capture_logs() as logged, pytest.raises(Unavailable):
        await EventStream(relay)({"type": "http"}, never, send)
    identifier = json.loads(got[-1].removeprefix(b"data: "))["error"]["error_id"]
    assert [line["error_id"] for line in logged if line["event"] == "stream_failed"] == [identifier]
