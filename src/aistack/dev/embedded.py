"""An embedded server for the length of a `with`, in a program that is not the supervisor: tests.

    with running(Postgres(directory, socket_directory).program()) as server:
        server.pid ...

The event loop that watches the server runs in a thread of its own, which lives as long as the
`with` (the kernel's parent-death signal belongs to the thread that forked). What dies is started
again, as by `aistack up`.
"""

from __future__ import annotations

import asyncio
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path

from aistack.dev.process import LineSink
from aistack.dev.program import Program
from aistack.dev.supervisor import Supervisor
from aistack.dev.unit import Unit


class _Output(list[str]):
    def sink(self, _name: str) -> LineSink:
        return self.append


async def _run(
    program: Program, output: _Output, started: Future[tuple[Unit, asyncio.Event]]
) -> None:
    stop = asyncio.Event()
    with tempfile.TemporaryDirectory(prefix="aistack-") as directory:
        supervisor = Supervisor(
            [program],
            run_directory=Path(directory),
            report=lambda event: output.append(f"{event.unit} {event.state} {event.words}"),
            sinks=output.sink,
        )
        try:
            await supervisor.start()
            started.set_result((supervisor.units[program.name], stop))
            await stop.wait()
        finally:
            await supervisor.stop()


@contextmanager
def running(program: Program) -> Iterator[Unit]:
    """Start `program`, wait until it is ready, and stop it at the end. Raises StartError."""
    output = _Output()
    started: Future[tuple[Unit, asyncio.Event]] = Future()
    loop = asyncio.new_event_loop()

    def live() -> None:
        try:
            loop.run_until_complete(_run(program, output, started))
        except BaseException as error:
            if started.done():
                raise
            started.set_exception(error)
        finally:
            loop.close()

    thread = threading.Thread(target=live, name=f"embedded-{program.name}", daemon=True)
    thread.start()
    unit, stop = started.result()
    try:
        yield unit
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
