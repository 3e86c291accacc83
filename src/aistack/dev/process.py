"""One child process: how it is started, what it prints, how it ends.

Not `asyncio.create_subprocess_exec` alone, because a child here must lead its own process group
(Ctrl-C in the terminal is the supervisor's business), die with the supervisor, find its socket at
descriptor 3, and have every line it prints read without a limit on the line's length.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

_EXEC = Path(__file__).with_name("_exec.py")
_CHUNK = 65536
#: A line longer than this is cut: one runaway line must not fill the supervisor's memory.
_LONGEST_LINE = 1_048_576
_TAIL = 20

LineSink = Callable[[str], None]


def _drop(_line: str) -> None:
    """The sink of a child whose output nobody asked for."""


def launch_command(
    command: Sequence[str],
    *,
    death_signal: signal.Signals = signal.SIGKILL,
    listen: int | None = None,
    prefix: Sequence[str] = (),
) -> list[str]:
    """`command`, run through `_exec.py`; `prefix` (unshare, setpriv) stands before both.

    The order matters: changing credentials or user namespace clears the parent-death signal, so it
    must be set after the prefix has done its work.
    """
    return [
        *prefix,
        sys.executable,
        "-I",
        "-S",
        str(_EXEC),
        str(os.getpid()),
        str(int(death_signal)),
        "-" if listen is None else str(listen),
        *command,
    ]


class Child:
    """A running (or ended) process that leads its own group."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, sink: LineSink) -> None:
        self.name = name
        self.pid = process.pid
        self._process = process
        self._sink = sink
        #: The last lines it printed: what a failed start is explained with.
        self.tail: deque[str] = deque(maxlen=_TAIL)
        self._reader = asyncio.create_task(self._read(), name=f"{name}-output")

    @classmethod
    async def start(
        cls,
        name: str,
        command: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        listen: int | None = None,
        death_signal: signal.Signals = signal.SIGKILL,
        prefix: Sequence[str] = (),
        directory: Path | None = None,
        sink: LineSink = _drop,
    ) -> Child:
        """Start `command`; raises OSError when not even the launcher can be run."""
        process = await asyncio.create_subprocess_exec(
            *launch_command(command, death_signal=death_signal, listen=listen, prefix=prefix),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=None if environment is None else dict(environment),
            cwd=directory,
            process_group=0,
            pass_fds=() if listen is None else (listen,),
        )
        return cls(name, process, sink)

    @property
    def returncode(self) -> int | None:
        """Exit status, minus the signal's number when a signal ended it; None while it runs."""
        return self._process.returncode

    async def wait(self) -> int:
        """Wait for the end of the process and of its output; the exit status."""
        status = await self._process.wait()
        # A grandchild may hold the pipe open: its lines are not worth waiting for.
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(self._reader), 1.0)
        return status

    def send_signal(self, number: signal.Signals) -> None:
        """Signal the process itself; nothing when it has ended."""
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill_group(self) -> None:
        """SIGKILL the process and what it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    async def end(self) -> None:
        """SIGKILL the group if it runs, and wait: nothing of it is left when the loop closes."""
        if self.returncode is None:
            self.kill_group()
            await self.wait()

    async def stop(
        self, number: signal.Signals, grace: float, *, last: signal.Signals | None = None
    ) -> int:
        """`number`, then after `grace` seconds `last` (if any) for 2 s, then SIGKILL the group."""
        self.send_signal(number)
        for seconds, following in ((grace, last), (2.0, None)):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._process.wait(), seconds)
                break
            if following is None:
                break
            self.send_signal(following)
        self.kill_group()
        return await self.wait()

    async def _read(self) -> None:
        stream = self._process.stdout
        if stream is None:
            raise RuntimeError("the output of a child is always a pipe")
        pending = b""
        while chunk := await stream.read(_CHUNK):
            *lines, pending = (pending + chunk).split(b"\n")
            for line in lines:
                self._line(line)
            if len(pending) > _LONGEST_LINE:
                self._line(pending)
                pending = b""
        if pending:
            self._line(pending)

    def _line(self, raw: bytes) -> None:
        line = raw.decode("utf-8", "replace").rstrip()
        if line:
            self.tail.append(line)
            self._sink(line)


def alive(pid: int) -> bool:
    """Whether `pid` is a process that still runs (a zombie does not)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(b")")[2].split()[0] not in (b"Z", b"X")


async def poll(probe: Callable[[], bool], seconds: float, *, interval: float = 0.02) -> bool:
    """Ask `probe` until it is true or `seconds` have passed."""
    deadline = asyncio.get_running_loop().time() + seconds
    while not probe():
        if asyncio.get_running_loop().time() > deadline:
            return False
        await asyncio.sleep(interval)
    return True
