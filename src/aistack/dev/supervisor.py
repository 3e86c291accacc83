"""Runs a set of programs in the order of what they need, and ends them in the reverse one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from aistack.dev.process import LineSink
from aistack.dev.program import Program
from aistack.dev.unit import Event, State, Unit
from aistack.service.errors import StartError

#: What a unit whose process has ended may still take to notice it.
_LAST_WORDS_SECONDS = 0.5

#: Makes the sink for the output of one program.
Sinks = Callable[[str], LineSink]


class Supervisor:
    """Starts, watches and stops programs. One per data directory."""

    def __init__(
        self,
        programs: Iterable[Program],
        *,
        run_directory: Path,
        report: Callable[[Event], None],
        sinks: Sinks,
    ) -> None:
        self.units: dict[str, Unit] = {}
        for program in programs:
            self.units[program.name] = Unit(
                program, run_directory=run_directory, report=report, sink=sinks(program.name)
            )
        for unit in self.units.values():
            if unknown := unit.program.needs - set(self.units):
                raise ValueError(f"{unit.name} needs {sorted(unknown)}, which nobody starts")
        self.levels = _levels(
            {
                name: unit.program.needs | (unit.program.calls & set(self.units))
                for name, unit in self.units.items()
            }
        )
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._stopped = False

    async def start(self) -> None:
        """Start all, and return when each has been ready once.

        Raises StartError as soon as one of them says that it cannot start; the caller stops the
        rest with `stop`.
        """
        for name, unit in self.units.items():
            self._tasks[name] = asyncio.create_task(self._live(unit), name=f"unit-{name}")
        everyone = asyncio.create_task(self._everyone())
        try:
            while not everyone.done():
                done, _ = await asyncio.wait(
                    {everyone, *self._running()}, return_when=asyncio.FIRST_COMPLETED
                )
                for task in done - {everyone}:
                    await task  # raises what ended it
        finally:
            everyone.cancel()

    async def _everyone(self) -> None:
        for unit in self.units.values():
            await unit.was_ready.wait()

    async def wait(self) -> None:
        """Until every unit has ended, or one has failed (which raises)."""
        while running := self._running():
            done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                await task

    async def stop(self) -> None:
        """End all: by `stop_rank`, then those that need others before what they need."""
        self._stopped = True
        ranks = sorted({unit.program.stop_rank for unit in self.units.values()}, reverse=True)
        for rank in ranks:
            for level in reversed(self.levels):
                await asyncio.gather(
                    *(
                        self.units[name].stop()
                        for name in level
                        if self.units[name].program.stop_rank == rank
                    )
                )
        # Those that still wait for what they need, or prepare, have no process to stop.
        if running := [task for task in self._tasks.values() if not task.done()]:
            await asyncio.wait(running, timeout=_LAST_WORDS_SECONDS)
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    def kill(self) -> None:
        """End all at once, without asking."""
        self._stopped = True
        for unit in self.units.values():
            unit.kill()

    def pids(self) -> Mapping[str, int]:
        """The process of each program that runs now."""
        return {name: pid for name, unit in self.units.items() if (pid := unit.pid) is not None}

    async def _live(self, unit: Unit) -> None:
        for need in unit.program.needs:
            await self.units[need].was_ready.wait()
        if not self._stopped:
            await unit.run()

    def _running(self) -> set[asyncio.Task[None]]:
        return {
            task
            for name, task in self._tasks.items()
            if not task.done() or self._failed(name, task)
        }

    def _failed(self, name: str, task: asyncio.Task[None]) -> bool:
        """A unit that ended with an error; a finished oneshot is no failure."""
        if task.cancelled() or self.units[name].state is State.DONE:
            return False
        return task.exception() is not None


def _levels(needs: Mapping[str, frozenset[str]]) -> list[list[str]]:
    """Names in groups, each needing only earlier groups. Raises StartError on a circle."""
    levels: list[list[str]] = []
    placed: set[str] = set()
    while len(placed) < len(needs):
        level = sorted(name for name, of in needs.items() if name not in placed and of <= placed)
        if not level:
            raise StartError(f"these need each other: {', '.join(sorted(set(needs) - placed))}")
        levels.append(level)
        placed.update(level)
    return levels
