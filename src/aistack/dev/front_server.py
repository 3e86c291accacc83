"""The process of the front door: python -m aistack.dev.front_server --run-directory DIR

It is given its listening socket and speaks sd_notify like every service, so the supervisor starts
it again without a client being refused.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import socket
import sys
import time
from pathlib import Path

import uvicorn

from aistack.config import Log
from aistack.dev.front import FrontDoor
from aistack.service import logs
from aistack.service.errors import EX_CONFIG, StartError
from aistack.service.notify import Notifier, inherited_socket
from aistack.stack import Limits, Stack, load_stack

log = logging.getLogger("aistack.front")

#: What an open answer may take after SIGTERM; seconds.
DRAIN_SECONDS = 5


class _Server(uvicorn.Server):
    """uvicorn, telling the supervisor when it listens and that its loop turns."""

    def __init__(self, config: uvicorn.Config, notifier: Notifier) -> None:
        super().__init__(config)
        self._notifier = notifier
        self._every = (notifier.watchdog_seconds or 0) / 3
        self._last = 0.0

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        log.info("open")
        self._notifier.send("READY=1", "STATUS=open")

    async def on_tick(self, counter: int) -> bool:
        if self._every and time.monotonic() - self._last >= self._every:
            self._last = time.monotonic()
            self._notifier.send("WATCHDOG=1")
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._notifier.send("STOPPING=1", "STATUS=draining")
        await super().shutdown(sockets=sockets)


def _with_body_limit(stack: Stack, body_bytes: int | None) -> Stack:
    if body_bytes is None:
        return stack
    return Stack(
        services={
            name: entry.model_copy(
                update={"limits": Limits(**{**entry.limits.model_dump(), "body_bytes": body_bytes})}
            )
            for name, entry in stack.services.items()
        }
    )


async def _serve(run_directory: Path, body_bytes: int | None) -> None:
    notifier = Notifier.from_environment()
    listening = inherited_socket()
    if listening is None:
        raise StartError("the front door is started by `aistack up`, which gives it its socket")
    stack = _with_body_limit(load_stack(), body_bytes)
    door = FrontDoor(stack, {name: run_directory / f"{name}.sock" for name in stack.services})
    config = uvicorn.Config(
        door,
        lifespan="off",
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=DRAIN_SECONDS,
    )
    try:
        await _Server(config, notifier).serve(sockets=[listening])
    finally:
        await door.aclose()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m aistack.dev.front_server")
    parser.add_argument("--run-directory", type=Path, required=True)
    parser.add_argument("--body-bytes", type=int)
    arguments = parser.parse_args()
    logs.configure("front", Log())
    try:
        asyncio.run(_serve(arguments.run_directory, arguments.body_bytes))
    except StartError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(EX_CONFIG)


if __name__ == "__main__":
    main()
