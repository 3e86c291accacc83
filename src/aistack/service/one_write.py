"""An HTTP connection that sends an answer's head and body as one piece.

Uvicorn writes them one after the other, and uvloop makes a system call of each: two packets, and a
client that is woken up twice. What is written within one turn of the event loop goes out together
here, at the beginning of the next.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

#: Bytes that are not kept back; the transport's own limits then hold up who writes more.
MOST = 65_536


class OneWrite(HttpToolsProtocol):
    """Uvicorn's protocol over a transport that gathers."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the event loop."""
        gathering = Gathering(cast(asyncio.Transport, transport), self.loop)
        super().connection_made(cast(asyncio.Transport, gathering))


class Gathering:
    """`transport` with writes that wait for the end of this turn of the event loop."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._pieces: list[bytes] = []
        self._size = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Send `data`, after what was given before."""
        if not self._pieces:
            self._loop.call_soon(self._flush)
        self._pieces.append(data)
        self._size += len(data)
        if self._size >= MOST:
            self._flush()

    def close(self) -> None:
        """Send what was given, then close."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        pieces, self._pieces, self._size = self._pieces, [], 0
        if pieces and not self._transport.is_closing():
            self._transport.write(b"".join(pieces))
