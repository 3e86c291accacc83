"""A supervisor over small real programs, and what it reported of them."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

from aistack.dev.program import Program
from aistack.dev.supervisor import Supervisor
from aistack.dev.unit import Event, State, Unit

SPEAKER = """
import os, signal, socket, sys, time
def say(text):
    s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    s.sendto(text.encode(), os.environ["NOTIFY_SOCKET"])
"""


def python(name: str, code: str, **options: object) -> Program:
    program = Program(name=name, command=(sys.executable, "-I", "-S", "-c", code), stop_seconds=3.0)
    return replace(program, **options)  # type: ignore[arg-type]


class World:
    """A supervisor with what it reported and what its programs printed."""

    def __init__(self, directory: Path, *programs: Program) -> None:
        self.events: list[Event] = []
        self.lines: dict[str, list[str]] = {program.name: [] for program in programs}
        self.supervisor = Supervisor(
            programs,
            run_directory=directory,
            report=self.events.append,
            sinks=lambda name: self.lines[name].append,
        )

    def unit(self, name: str) -> Unit:
        return self.supervisor.units[name]

    def states(self, name: str) -> list[State]:
        return [event.state for event in self.events if event.unit == name]


@contextlib.asynccontextmanager
async def started(directory: Path, *programs: Program) -> AsyncIterator[World]:
    world = World(directory, *programs)
    try:
        await asyncio.wait_for(world.supervisor.start(), 20)
        yield world
    finally:
        await world.supervisor.stop()
