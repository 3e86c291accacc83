"""`aistack serve <service>`: one process, one event loop, one listening socket."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib
import os
import signal
import socket
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import structlog
import uvicorn

from aistack.config import Config, Listen, load_config
from aistack.service import logs, tracing
from aistack.service.app import Service, build, effective_limits
from aistack.service.errors import EX_CONFIG, StartError
from aistack.service.lifecycle import Runtime
from aistack.service.notify import Notifier, inherited_socket
from aistack.service.one_write import OneWrite
from aistack.stack import load_stack

log = structlog.get_logger()

#: New objects that the garbage collector looks through at a time; Python's own number is 700.
YOUNG_OBJECTS = 10_000
#: How long an accepted connection has to send its request after SIGTERM; seconds.
_HEARING_SECONDS = 0.5


class _Server(uvicorn.Server):
    """Uvicorn whose signals begin our drain; it then ends with exit code 0."""

    def __init__(self, config: uvicorn.Config, runtime: Runtime) -> None:
        super().__init__(config)
        self._runtime = runtime

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._drain)
        try:
            yield
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)

    def _drain(self) -> None:
        self._runtime.drain()
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accepts no more, hears out who was accepted already, then drains.

        Uvicorn closes a connection without a request at once, also one whose request lies unread
        in its socket: a reset for a request that nobody saw, which a proxy may not repeat. What was
        not accepted waits in the socket, which is systemd's, for the next process.
        """
        for server in self.servers:
            server.close()
        loop = asyncio.get_running_loop()
        end = loop.time() + _HEARING_SECONDS
        await asyncio.sleep(0.01)  # the loop learns of an accepted connection in its next turns
        while self._unheard() and loop.time() < end:  # noqa: ASYNC110 - uvicorn tells of none
            await asyncio.sleep(0.01)
        await super().shutdown(sockets)

    def _unheard(self) -> bool:
        return any(getattr(one, "cycle", None) is None for one in self.server_state.connections)


def serve(name: str, config_path: Path | None) -> int:
    """Runs service `name` until SIGTERM. Returns the exit code; says why on stderr when not 0."""
    try:
        return _serve(name, config_path)
    except StartError as error:
        print(f"aistack {name}: {error}", file=sys.stderr)  # noqa: T201 - the one clear line
        return EX_CONFIG


def _serve(name: str, config_path: Path | None) -> int:
    stack = load_stack()
    if name not in stack.services:
        raise StartError(f"no such service; there are: {', '.join(stack.services)}")
    entry = stack.services[name]
    notifier = Notifier.from_environment()
    listener = inherited_socket()
    config = load_config(config_path)
    logs.configure(name, config.log)
    provider = tracing.configure(name, config.tracing)
    runtime = Runtime(notifier, start_seconds=effective_limits(entry, config).start_seconds)
    service = create(entry.module, config)
    app = build(service, config, runtime)
    if listener is None:
        listener = open_listener(config.listen)
    server = _Server(
        uvicorn.Config(
            app,
            http=OneWrite,
            loop="uvloop",
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=int(effective_limits(entry, config).drain_seconds),
            backlog=2048,
        ),
        runtime,
    )

    def end() -> None:
        server.should_exit = True

    runtime.on_failure = end
    runtime.on_started = spare_what_stays
    try:
        server.run(sockets=[listener])
    finally:
        tracing.finish(provider)
    if runtime.failure is not None:
        raise runtime.failure
    log.info("stopped")
    return 0


def spare_what_stays() -> None:
    """What the start has made stays for good: the garbage collector need not look at it again.

    There are 100,000 objects, and each full collection, one every few seconds under load, held up
    the event loop for .1 s. Requests come and go by hundreds of objects, which took the collector
    to work again and again for nothing: a tenth of a request through the encoder's queue.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, *gc.get_threshold()[1:])


def create(module: str, config: Config) -> Service:
    """Calls the service package's `create(config)`."""
    made = importlib.import_module(module).create(config)
    assert isinstance(made, Service)
    return made


def open_listener(listen: Listen) -> socket.socket:
    """A listening socket of our own, when nobody handed one over. Raises StartError."""
    if listen.socket is not None:
        path = listen.socket
        with contextlib.suppress(FileNotFoundError):
            if stat.S_ISSOCK(path.stat().st_mode):
                path.unlink()
        server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        previous = os.umask(0o177)
        try:
            server.bind(str(path))
        except OSError as error:
            raise StartError(f"listen.socket: {path}: {error.strerror}") from error
        finally:
            os.umask(previous)
    elif listen.port is not None:
        server = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            server.bind((listen.host, listen.port))
        except OSError as error:
            raise StartError(
                f"listen.port: {listen.host}:{listen.port}: {error.strerror}; choose another"
            ) from error
    else:
        raise StartError(
            "nothing to listen on: start it by a socket unit, or set listen.socket or listen.port"
        )
    server.listen(2048)
    server.setblocking(False)
    return server
