"""What the supervisor runs: one frozen description per program."""

from __future__ import annotations

import signal
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

Probe = Callable[[], Awaitable[bool]]
Step = Callable[[], Awaitable[None]]
#: (exit status, last lines printed) -> the one line that makes a failed first start final, or None
Explain = Callable[[int, Sequence[str]], str | None]


def _nothing_to_explain(_status: int, _tail: Sequence[str]) -> str | None:
    return None


@dataclass(frozen=True, slots=True)
class Program:
    """A program, what it needs, and how its life is judged. Times in seconds."""

    name: str
    command: tuple[str, ...]
    #: Names of the programs that must have been ready once before this one starts.
    needs: frozenset[str] = frozenset()
    #: Names of programs that it calls: not waited for at the start, and stopped only after it.
    calls: frozenset[str] = frozenset()
    #: Added to the supervisor's own environment.
    environment: Mapping[str, str] = field(default_factory=dict)
    #: Stands before the command: unshare or setpriv.
    prefix: tuple[str, ...] = ()
    #: Runs to its end once; ready when it has exited with 0.
    oneshot: bool = False
    #: With `oneshot`: asked first; where it says so there is nothing to do and nothing is started.
    unneeded: Probe | None = None
    #: Speaks sd_notify: ready at READY=1. Otherwise `probe` is polled.
    notifies: bool = False
    probe: Probe | None = None
    #: With `notifies`: dies by SIGABRT when WATCHDOG=1 is late. None: no watchdog.
    watchdog_seconds: float | None = None
    #: Passed as descriptor 3; stays open in the supervisor, so that a restart refuses nobody.
    listen: socket.socket | None = None
    #: Before every start; may raise StartError or OSError.
    prepare: Step | None = None
    #: After every readiness, before anybody who needs it is told.
    settle: Step | None = None
    explain: Explain = _nothing_to_explain
    start_seconds: float = 90.0
    stop_signal: signal.Signals = signal.SIGTERM
    stop_seconds: float = 10.0
    #: Sent when `stop_seconds` are over, 2 s before SIGKILL.
    last_signal: signal.Signals | None = None
    #: What the kernel sends it when the supervisor dies.
    death_signal: signal.Signals = signal.SIGKILL
    #: Where it stands when everything stops; the highest goes first.
    stop_rank: int = 0
