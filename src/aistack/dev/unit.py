"""The life of one program: started, judged ready, watched, started again, stopped."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from aistack.dev.logfile import read_line
from aistack.dev.notify import Notice, NotifySocket, microseconds
from aistack.dev.process import Child, LineSink
from aistack.dev.program import Program
from aistack.service.errors import EX_CONFIG, StartError

FIRST_PAUSE = 0.2
LONGEST_PAUSE = 10.0
#: A program that has been ready for this long (seconds) begins again with the first pause.
HEALTHY_AFTER = 20.0
#: In a pause at least this long (seconds) callers are turned away; in a shorter one they wait.
TURN_AWAY_FROM = 1.0
#: After a missed watchdog's SIGABRT, before SIGKILL.
_ABORT_SECONDS = 3.0


class State(StrEnum):
    """Where a program stands."""

    WAITING = "waiting"
    STARTING = "starting"
    READY = "ready"
    PAUSING = "pausing"
    STOPPING = "stopping"
    STOPPED = "stopped"
    DONE = "done"


@dataclass(frozen=True, slots=True)
class Event:
    """Something worth a line on the screen."""

    unit: str
    state: State
    words: str = ""
    bad: bool = False


class Unit:
    """Runs one program until it is told to stop; never gives up and never hides a restart."""

    def __init__(
        self,
        program: Program,
        *,
        run_directory: Path,
        report: Callable[[Event], None],
        sink: LineSink,
    ) -> None:
        self.program = program
        self.name = program.name
        self.state = State.WAITING
        self.status = ""
        self.restarts = 0
        self.child: Child | None = None
        #: Set at the first readiness and never cleared: what the programs behind it wait for.
        self.was_ready = asyncio.Event()
        #: Set while it is ready.
        self.ready = asyncio.Event()
        self.failure: StartError | None = None
        self._report = report
        self._sink = sink
        self._notify_path = run_directory / f"notify-{program.name}.sock"
        self._notify: NotifySocket | None = None
        self._stopping = asyncio.Event()
        self._beat = 0.0
        self._start_until = 0.0
        self._pause = FIRST_PAUSE

    @property
    def pid(self) -> int | None:
        """The process that runs now, if any."""
        return self.child.pid if self.child and self.child.returncode is None else None

    async def run(self) -> None:
        """Live. Raises StartError only before the first readiness; after it every end is a pause.

        What cannot even be forked or prepared later (no memory, no file descriptor, a full disk)
        is tried again like what died: the rest of the stack goes on meanwhile.
        """
        if self.program.notifies:
            self._notify = NotifySocket(self._notify_path, self._hear)
        try:
            while not self._stopping.is_set():
                try:
                    ended = await self._one_life()
                except StartError as error:
                    if not self.was_ready.is_set():
                        raise
                    ended = str(error)
                if self.program.oneshot and self.state is State.DONE:
                    return
                if self._stopping.is_set():
                    break
                self.restarts += 1
                self._tell(State.PAUSING, f"{ended}; again in {self._pause:.1f} s", bad=True)
                await self._wait_out()
                self._pause = min(self._pause * 2, LONGEST_PAUSE)
        finally:
            self.ready.clear()
            if self.child is not None and self.child.returncode is None:
                self.child.kill_group()
                await self.child.wait()
            if self._notify is not None:
                self._notify.close()
            if self.state is not State.DONE:
                self.state = State.STOPPED

    async def _wait_out(self) -> None:
        """The pause. In a long one nobody is left waiting in the queue of a socket of ours."""
        listen = self.program.listen if self._pause >= TURN_AWAY_FROM else None
        loop = asyncio.get_running_loop()
        if listen is not None:
            loop.add_reader(listen, _turn_away, listen)
        try:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), self._pause)
        finally:
            if listen is not None:
                loop.remove_reader(listen)

    async def stop(self) -> None:
        """End it: its stop signal, its time to drain, then SIGKILL."""
        if self._stopping.is_set():
            return
        self._stopping.set()
        if self.child is not None and self.child.returncode is None:
            self._tell(State.STOPPING)
            await self.child.stop(
                self.program.stop_signal, self.program.stop_seconds, last=self.program.last_signal
            )

    def kill(self) -> None:
        """End it at once."""
        self._stopping.set()
        if self.child is not None and self.child.returncode is None:
            if self.program.last_signal is not None:
                self.child.send_signal(self.program.last_signal)
            else:
                self.child.kill_group()

    async def _one_life(self) -> str:
        """From start to end; returns the words for how it ended. Raises StartError."""
        self._tell(State.STARTING)
        try:
            if self.program.prepare is not None:
                await self.program.prepare()
            if self._stopping.is_set():
                return "stopped"
            if self.program.unneeded is not None and await self.program.unneeded():
                return self._done()
            child = self.child = await self._spawn()
        except OSError as error:
            why = error.strerror or type(error).__name__
            raise StartError(f"{self.name} cannot be started: {why}") from error
        ended = asyncio.create_task(child.wait(), name=f"{self.name}-wait")
        try:
            judged = await self._until_ready(child, ended)
            if judged is not None:
                return judged
            began = time.monotonic()
            self._tell(State.READY)
            self.ready.set()
            self.was_ready.set()
            late = await self._watch(ended)
            self.ready.clear()
            if time.monotonic() - began > HEALTHY_AFTER:
                self._pause = FIRST_PAUSE
            if late:
                await child.stop(signal.SIGABRT, _ABORT_SECONDS)
                return f"watchdog: silent for {self.program.watchdog_seconds:g} s, ended"
            return _how(await ended)
        finally:
            if not ended.done() and not self._stopping.is_set():
                child.kill_group()
            await ended

    async def _spawn(self) -> Child:
        program = self.program
        environment = {**os.environ, **program.environment}
        for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID"):
            environment.pop(name, None)
        if program.notifies:
            environment["NOTIFY_SOCKET"] = str(self._notify_path)
        if program.watchdog_seconds is not None:
            environment["WATCHDOG_USEC"] = str(round(program.watchdog_seconds * 1e6))
        return await Child.start(
            program.name,
            program.command,
            environment=environment,
            listen=None if program.listen is None else program.listen.fileno(),
            death_signal=program.death_signal,
            prefix=program.prefix,
            sink=self._sink,
        )

    async def _until_ready(self, child: Child, ended: asyncio.Task[int]) -> str | None:
        """None when it is ready, else the words for how it failed to become so."""
        self._notified = False
        began = time.monotonic()
        self._start_until = began + self.program.start_seconds
        while True:
            if self._stopping.is_set():
                return "stopped"
            if ended.done():
                return self._ended_early(child, ended.result())
            if time.monotonic() > self._start_until:
                # More than `start_seconds` where the program asked for it.
                allowed = max(self.program.start_seconds, round(self._start_until - began))
                await child.stop(signal.SIGABRT, _ABORT_SECONDS)
                return f"not ready after {allowed:g} s, ended"
            if await self._is_ready():
                if self.program.settle is not None:
                    try:
                        await self.program.settle()
                    except OSError as error:  # it died again, or its socket did
                        self.status = str(error)
                        await asyncio.wait({ended}, timeout=FIRST_PAUSE)
                        continue
                return None
            await asyncio.wait({ended}, timeout=0.02)

    async def _is_ready(self) -> bool:
        if self.program.notifies:
            return self._notified
        if self.program.probe is not None:
            return await self.program.probe()
        return not self.program.oneshot

    def _ended_early(self, child: Child, status: int) -> str | None:
        if self.program.oneshot and status == 0:
            return self._done()
        if not self.was_ready.is_set():
            if status == EX_CONFIG:
                words = self._last_words(child) or "it did not say why"
                raise StartError(f"{self.name}: {words.removeprefix(f'aistack {self.name}: ')}")
            if (why := self.program.explain(status, list(child.tail))) is not None:
                raise StartError(why)
        said = self._last_words(child)
        return f"{_how(status)} while starting{f': {said[:300]}' if said else ''}"

    def _done(self) -> str:
        self._tell(State.DONE)
        self.ready.set()
        self.was_ready.set()
        return "done"

    def _last_words(self, child: Child) -> str:
        return read_line(self.name, child.tail[-1])[0].words if child.tail else ""

    async def _watch(self, ended: asyncio.Task[int]) -> bool:
        """Wait for the end; True when a watchdog was missed instead."""
        allowed = self.program.watchdog_seconds
        if allowed is None:
            await asyncio.wait({ended})
            return False
        self._beat = time.monotonic()
        while not ended.done():
            left = self._beat + allowed - time.monotonic()
            if left <= 0 and not self._stopping.is_set():
                return True
            await asyncio.wait({ended}, timeout=max(left, 0.05))
        return False

    def _hear(self, notice: Notice) -> None:
        if notice.pid != self.pid:
            return
        values = notice.values
        if values.get("READY") == "1":
            self._notified = True
        if values.get("WATCHDOG") == "1":
            self._beat = time.monotonic()
        if (status := values.get("STATUS")) is not None:
            self.status = status
        if (more := microseconds(values.get("EXTEND_TIMEOUT_USEC", ""))) is not None:
            self._start_until = max(self._start_until, time.monotonic() + more)

    def _tell(self, state: State, words: str = "", *, bad: bool = False) -> None:
        self.state = state
        self._report(Event(self.name, state, words, bad))


def _turn_away(listening: socket.socket) -> None:
    """Close the connection that has waited longest: its client learns at once that nobody comes."""
    with contextlib.suppress(BlockingIOError, ConnectionAbortedError):
        listening.accept()[0].close()


def _how(status: int) -> str:
    if status < 0:
        try:
            return f"ended by {signal.Signals(-status).name}"
        except ValueError:
            return f"ended by signal {-status}"
    return f"ended with status {status}"
