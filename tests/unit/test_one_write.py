"""An answer's head and body leave together; nothing is lost, reordered or kept back."""

from __future__ import annotations

import asyncio
from typing import Any

import uvicorn
from uvicorn.server import ServerState

from aistack.service.one_write import MOST, Gathering, OneWrite


class Recorder(asyncio.Transport):
    """A transport that keeps what is written to it."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 2)})
        self.written: list[bytes] = []
        self.closed = False

    def write(self, data: Any) -> None:
        self.written.append(bytes(data))

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed


async def _gathering() -> tuple[Recorder, Gathering]:
    transport = Recorder()
    return transport, Gathering(transport, asyncio.get_running_loop())


async def test_what_one_turn_writes_is_one_piece() -> None:
    transport, gathering = await _gathering()
    gathering.write(b"head ")
    gathering.write(b"body")
    assert transport.written == []
    await asyncio.sleep(0)
    assert transport.written == [b"head body"]
    gathering.write(b"next")
    await asyncio.sleep(0)
    assert transport.written == [b"head body", b"next"]


async def test_much_is_sent_at_once_and_in_order() -> None:
    transport, gathering = await _gathering()
    gathering.write(b"a")
    gathering.write(b"b" * MOST)
    assert transport.written == [b"a" + b"b" * MOST]
    gathering.write(b"c")
    await asyncio.sleep(0)
    assert transport.written == [b"a" + b"b" * MOST, b"c"]


async def test_a_close_sends_what_was_given_before() -> None:
    transport, gathering = await _gathering()
    gathering.write(b"last words")
    gathering.close()
    assert transport.written == [b"last words"]
    assert transport.closed
    await asyncio.sleep(0)
    assert transport.written == [b"last words"]


async def test_nothing_is_written_to_who_has_gone() -> None:
    transport, gathering = await _gathering()
    gathering.write(b"too late")
    transport.closed = True
    await asyncio.sleep(0)
    assert transport.written == []


async def test_the_rest_of_a_transport_is_reached() -> None:
    _, gathering = await _gathering()
    assert gathering.get_extra_info("peername") == ("127.0.0.1", 1)
    assert not gathering.is_closing()


async def test_an_answer_is_one_write_and_each_part_of_a_stream_is_its_own() -> None:
    go = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        if scope["path"] == "/stream":
            await send({"type": "http.response.body", "body": b"one", "more_body": True})
            await go.wait()
        await send({"type": "http.response.body", "body": b"two"})

    config = uvicorn.Config(app, lifespan="off", log_config=None)
    state = ServerState()
    transport = Recorder()
    protocol = OneWrite(config, state, {}, asyncio.get_running_loop())
    protocol.connection_made(transport)
    protocol.data_received(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
    await asyncio.gather(*state.tasks)
    await asyncio.sleep(0)
    assert len(transport.written) == 1
    assert transport.written[0].startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"two" in transport.written[0]

    transport.written.clear()
    protocol.data_received(b"GET /stream HTTP/1.1\r\nhost: a\r\n\r\n")
    (streaming,) = state.tasks
    async with asyncio.timeout(10):
        while not transport.written:
            await asyncio.sleep(0)
    assert b"one" in transport.written[0]
    assert b"two" not in transport.written[0]
    go.set()
    await streaming
    await asyncio.sleep(0)
    assert b"two" in transport.written[-1]
    protocol.connection_lost(None)
