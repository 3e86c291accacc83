"""`aistack up`: the whole stack on one data directory, until Ctrl-C."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path

from aistack.dev import programs, settings
from aistack.dev.llama_server import PACKAGED
from aistack.dev.logfile import LogFile
from aistack.dev.paths import Paths, run_directory
from aistack.dev.preflight import (
    check_data_directory,
    lock_data_directory,
    open_port,
    open_unix,
)
from aistack.dev.process import LineSink
from aistack.dev.screen import Own, Screen
from aistack.dev.state import write_state
from aistack.dev.supervisor import Supervisor
from aistack.dev.unit import Event
from aistack.service.errors import EX_CONFIG, StartError
from aistack.service.key_setup import KeyPaths, init_store
from aistack.service.private_files import write_private
from aistack.stack import load_stack

DEFAULT_PORT = 8600


def main(
    *,
    data_dir: Path,
    port: int = DEFAULT_PORT,
    config: Path | None = None,
    model: str = PACKAGED,
    verbose: bool = False,
    own: Own | None = None,
) -> int:
    """Run the stack in the foreground; the exit code. One line on stderr when it cannot start.

    `own` is how the commands on the last screen are typed.
    """
    screen = Screen(verbose=verbose)
    try:
        with _prepared(data_dir.expanduser().resolve(), port, config, model, screen) as stack:
            asyncio.run(stack.live(own or Own()))
    except StartError as error:
        screen.failed(str(error))
        return EX_CONFIG
    screen.stopped()
    return 0


@contextmanager
def _prepared(
    data: Path, port: int, config: Path | None, model: str, screen: Screen
) -> Iterator[_Stack]:
    """Everything that can fail before the first process starts. Raises StartError."""
    overlay = settings.read_overlay(config)
    check_data_directory(data)
    with lock_data_directory(data / "lock"):
        listening = open_port(port)
        run = run_directory(data)
        try:
            paths = Paths(data, run)
            keys = init_store(paths.keys, load_stack())
            yield _Stack(paths, keys, overlay, listening, model, screen)
        finally:
            listening.close()
            paths.endpoint.unlink(missing_ok=True)
            shutil.rmtree(run, ignore_errors=True)


class _Stack:
    """One run of the stack."""

    def __init__(
        self,
        paths: Paths,
        keys: KeyPaths,
        overlay: settings.Table,
        listening: socket.socket,
        model: str,
        screen: Screen,
    ) -> None:
        self._paths = paths
        self._keys = keys
        self._screen = screen
        self._listening = listening
        self._stack = load_stack()
        self._logs: list[LogFile] = []
        settings.write_configs(
            paths, keys, self._stack, overlay, llama=f"unix:{paths.socket('llama')}"
        )
        self._sockets = {name: open_unix(paths.socket(name)) for name in self._stack.services}
        body_bytes = overlay.get("limits", {}).get("body_bytes")
        with_database = next(
            name for name, entry in self._stack.services.items() if "postgres" in entry.needs
        )
        self._programs = [
            *programs.servers(paths, model=model, sink=self._sink("initdb")),
            programs.migrations(paths, with_database),
            *programs.services(self._stack, paths, self._sockets),
            programs.front(paths, listening, body_bytes=body_bytes),
        ]

    async def live(self, own: Own) -> None:
        """From the first process to the last. Raises StartError."""

        def report(event: Event) -> None:
            self._screen.event(event)
            write_state(self._paths.state, supervisor.units.values())

        supervisor = Supervisor(
            self._programs, run_directory=self._paths.run, report=report, sinks=self._sink
        )
        asked = asyncio.Event()

        def ask() -> None:
            if asked.is_set():
                supervisor.kill()
            else:
                asked.set()
                self._screen.stopping()

        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, ask)
        self._screen.begin(self._paths.data)
        asking = asyncio.create_task(asked.wait())
        try:
            if await self._before(asking, supervisor.start()):
                self._announce(own)
                await self._before(asking, supervisor.wait())
        finally:
            asked.set()
            self._paths.endpoint.unlink(missing_ok=True)
            await supervisor.stop()
            for log in self._logs:
                log.close()
            for listening in self._sockets.values():
                listening.close()

    @staticmethod
    async def _before(asking: asyncio.Task[bool], work: Coroutine[None, None, None]) -> bool:
        """Do `work` unless the end is asked for first; whether it was done. Raises its error."""
        doing = asyncio.ensure_future(work)
        await asyncio.wait({doing, asking}, return_when=asyncio.FIRST_COMPLETED)
        if not doing.done():
            doing.cancel()
            await asyncio.wait({doing})
            return False
        await doing
        return True

    def _announce(self, own: Own) -> None:
        host, port = self._listening.getsockname()
        base_url = f"http://{host}:{port}"
        endpoint = {
            "base_url": base_url,
            "key_file": str(self._keys.default_key_file),
            "run_dir": str(self._paths.run),
            "pid": os.getpid(),
        }
        write_private(self._paths.endpoint, json.dumps(endpoint, indent=1).encode())
        self._screen.ready(base_url, self._keys.default_key_file, self._paths.logs, own)

    def _sink(self, program: str) -> LineSink:
        log = LogFile(self._paths.logs, program, self._screen.output)
        self._logs.append(log)
        return log.write
