"""The receiving end of sd_notify(3): one datagram socket per service.

Only the service's main process is believed (systemd's NotifyAccess=main): the kernel stamps every
datagram with its sender's process id (SO_PASSCRED), which nobody can forge without privileges.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid: struct ucred of unix(7)
_LARGEST = 8192
#: Of the largest unsigned 64-bit number.
_DIGITS = 20


@dataclass(frozen=True, slots=True)
class Notice:
    """One datagram: assignments by name, and who sent it."""

    pid: int
    values: dict[str, str]


def parse(raw: bytes) -> dict[str, str]:
    """`NAME=value` lines; anything else in the datagram is ignored, as systemd does."""
    values: dict[str, str] = {}
    for line in raw.decode("utf-8", "replace").split("\n"):
        name, separator, value = line.partition("=")
        if separator and name:
            values[name] = value
    return values


def microseconds(value: str) -> float | None:
    """Seconds from a value in microseconds (an unsigned 64-bit number), or None."""
    if not (value.isascii() and value.isdigit() and len(value) <= _DIGITS):
        return None
    return int(value) / 1e6


class NotifySocket:
    """Hears the notices of one service, on the running event loop."""

    def __init__(self, path: Path, hear: Callable[[Notice], None]) -> None:
        self.path = path
        self._hear = hear
        path.unlink(missing_ok=True)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._socket.bind(str(path))
        path.chmod(0o600)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._socket, self._readable)

    def _readable(self) -> None:
        while True:
            try:
                raw, ancillary, flags, _ = self._socket.recvmsg(
                    _LARGEST, socket.CMSG_SPACE(_CREDENTIALS.size)
                )
            except BlockingIOError:
                return
            if flags & socket.MSG_TRUNC:
                continue
            for level, kind, data in ancillary:
                if level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS:
                    pid, _uid, _gid = _CREDENTIALS.unpack(data[: _CREDENTIALS.size])
                    self._hear(Notice(pid, parse(raw)))

    def close(self) -> None:
        """Stop hearing, and remove the socket."""
        self._loop.remove_reader(self._socket)
        self._socket.close()
        self.path.unlink(missing_ok=True)
