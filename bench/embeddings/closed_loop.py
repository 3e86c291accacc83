"""An HTTP/1.1 client that costs less than what it measures.

Requests are bytes made beforehand, connections are kept, an answer is read as far as its status,
length and `Retry-After`. `closed_loop`: so many connections, each with one request under way.
`open_loop`: requests begin at a fixed rate, whatever the service makes of them.
"""

from __future__ import annotations

import asyncio
import socket
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import uvloop

#: Where a service listens: a unix socket, or host and port.
Address = Path | tuple[str, int]


@dataclass(slots=True)
class Load:
    """What came back. Latencies in seconds, by the status of the answer."""

    seconds: float = 0.0
    #: Until the last answer; `seconds` ends with the last request of an open loop.
    whole: float = 0.0
    latencies: dict[int, list[float]] = field(default_factory=dict)
    without_advice: int = 0

    def count(self, status: int = 200) -> int:
        """Answers with this status."""
        return len(self.latencies.get(status, ()))

    def quantile(self, share: float, status: int = 200) -> float:
        """Seconds within which this share of the answers with this status came; nan for none."""
        found = sorted(self.latencies.get(status, ()))
        return found[min(len(found) - 1, int(share * len(found)))] if found else float("nan")

    def median(self, status: int = 200) -> float:
        """Seconds."""
        return statistics.median(self.latencies.get(status, [float("nan")]))

    def statuses(self) -> dict[int, int]:
        """How many answers of each status."""
        return {status: len(found) for status, found in sorted(self.latencies.items())}


class _Connection(asyncio.Protocol):
    """One kept connection; `answered` is called with the status, the headers and the body."""

    def __init__(self, answered: Callable[[_Connection, int, bytes, bytes], None]) -> None:
        self.answered = answered
        self.transport: asyncio.Transport | None = None
        self.began = 0.0
        self._held = b""
        self._wanted = -1

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclasses of asyncio's.
        self.transport = cast(asyncio.Transport, transport)

    def send(self, request: bytes) -> None:
        assert self.transport is not None
        self.began = time.perf_counter()
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        held = self._held = self._held + data if self._held else data
        if self._wanted < 0:
            end = held.find(b"\r\n\r\n")
            if end < 0:
                return
            self._wanted = end + 4 + _length(held[: end + 2])
        if len(held) < self._wanted:
            return
        head, _, body = held.partition(b"\r\n\r\n")
        self._held, self._wanted = b"", -1
        self.answered(self, int(head[9:12]), head, body)

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        if exc is not None or self.began < 0:
            return
        # -1: the peer ended it; the run shows it as an answer of status 0.
        self.answered(self, 0, b"", b"")


def _length(head: bytes) -> int:
    lower = head.lower()
    at = lower.find(b"content-length:")
    if at < 0:
        raise ValueError(f"an answer without a length: {head!r}")
    return int(lower[at + 15 : lower.index(b"\r", at)])


async def _connect(
    address: Address, answered: Callable[[_Connection, int, bytes, bytes], None]
) -> _Connection:
    loop = asyncio.get_running_loop()
    if isinstance(address, Path):
        _, protocol = await loop.create_unix_connection(
            lambda: _Connection(answered), path=str(address)
        )
    else:
        _, protocol = await loop.create_connection(lambda: _Connection(answered), *address)
        sock = protocol.transport.get_extra_info("socket") if protocol.transport else None
        if sock is not None:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return protocol


class _Run:
    """The connections and counts of one measurement."""

    def __init__(self) -> None:
        self.load = Load()
        self.done = asyncio.Event()
        self.connections: list[_Connection] = []

    def account(self, connection: _Connection, status: int, head: bytes) -> None:
        now = time.perf_counter()
        self.load.latencies.setdefault(status, []).append(now - connection.began)
        if status in (429, 503) and b"retry-after:" not in head.lower():
            self.load.without_advice += 1

    def close(self) -> None:
        for connection in self.connections:
            connection.began = -1.0
            if connection.transport is not None:
                connection.transport.close()


async def _closed(
    address: Address, requests: Sequence[bytes], connections: int, total: int
) -> Load:
    run = _Run()
    left: Iterator[bytes] = (requests[i % len(requests)] for i in range(total))
    open_ = min(connections, total)

    def answered(connection: _Connection, status: int, head: bytes, _body: bytes) -> None:
        nonlocal open_
        run.account(connection, status, head)
        following = next(left, None)
        if following is None or connection.transport is None:
            open_ -= 1
            if not open_:
                run.done.set()
        else:
            connection.send(following)

    run.connections = [await _connect(address, answered) for _ in range(open_)]
    began = time.perf_counter()
    for connection in run.connections:
        connection.send(next(left))
    await run.done.wait()
    run.load.seconds = run.load.whole = time.perf_counter() - began
    run.close()
    return run.load


async def _opened(
    address: Address, requests: Sequence[bytes], rate: float, seconds: float, settle: float
) -> Load:
    run = _Run()
    idle: list[_Connection] = []
    under_way = 0

    def answered(connection: _Connection, status: int, head: bytes, _body: bytes) -> None:
        nonlocal under_way
        run.account(connection, status, head)
        under_way -= 1
        if connection.transport is not None:
            idle.append(connection)

    began = time.perf_counter()
    sent = 0
    while (now := time.perf_counter() - began) < seconds:
        while sent < now * rate:
            if not idle:
                idle.append(await _connect(address, answered))
                run.connections.append(idle[-1])
            under_way += 1
            idle.pop().send(requests[sent % len(requests)])
            sent += 1
        await asyncio.sleep(1 / min(rate, 500))
    run.load.seconds = time.perf_counter() - began
    end = time.perf_counter() + settle
    while under_way and time.perf_counter() < end:  # noqa: ASYNC110 - a client, not a service
        await asyncio.sleep(0.01)
    run.load.whole = time.perf_counter() - began
    if under_way:
        run.load.latencies.setdefault(-1, []).extend([settle] * under_way)
    run.close()
    return run.load


async def _once(address: Address, request: bytes) -> tuple[int, bytes]:
    found: asyncio.Future[tuple[int, bytes]] = asyncio.get_running_loop().create_future()

    def answered(_connection: _Connection, status: int, _head: bytes, body: bytes) -> None:
        found.set_result((status, body))

    connection = await _connect(address, answered)
    connection.send(request)
    try:
        return await found
    finally:
        connection.began = -1.0
        if connection.transport is not None:
            connection.transport.close()


def closed_loop(
    address: Address, requests: Sequence[bytes], *, connections: int, total: int
) -> Load:
    """`total` requests, the given ones in turns, over so many connections."""
    return uvloop.run(_closed(address, requests, connections, total))


def open_loop(
    address: Address, requests: Sequence[bytes], *, rate: float, seconds: float, settle: float
) -> Load:
    """`rate` requests a second for so many seconds, then up to `settle` seconds for their answers.

    Status -1 stands for those that had none by then.
    """
    return uvloop.run(_opened(address, requests, rate, seconds, settle))


def once(address: Address, request: bytes) -> tuple[int, bytes]:
    """Status and body of one request on a connection of its own."""
    return uvloop.run(_once(address, request))
