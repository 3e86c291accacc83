"""Cores, CPU time and turns."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

#: The encoder (or the server under test) works on the first, the client on the second.
ENCODER_CORE, CLIENT_CORE = 0, 1


@contextmanager
def pinned(*cores: int) -> Iterator[None]:
    """This thread, and the processes and threads that it starts meanwhile, on these cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, set(cores) & before or before)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def cpu_seconds(pid: int | None = None, *, main: bool = True) -> float:
    """CPU seconds that the threads of a process (or this process) have used so far.

    Without `main` those of the others only: in a service, the lanes and the tokenizers.
    """
    if pid is None:
        return time.process_time()
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        if task.name == str(pid) and not main:
            continue
        # A thread may end between the listing and the reading.
        with suppress(FileNotFoundError, ProcessLookupError):
            total += int((task / "schedstat").read_text(encoding="ascii").split()[0])
    return total / 1e9


@dataclass(frozen=True, slots=True)
class Way:
    """One of the things compared: `run` handles `count` texts or requests, on `core`.

    `pid` is the process whose CPU time counts; None is this one. `main` as for `cpu_seconds`.
    """

    run: Callable[[], object]
    count: int
    core: int
    pid: int | None = None
    main: bool = True


@dataclass(frozen=True, slots=True)
class Rates:
    """What each way did in each round: of its `count` per second, and per CPU second."""

    wall: Mapping[str, list[float]]
    cpu: Mapping[str, list[float]]

    def ratio(self, name: str, other: str) -> float:
        """The median over the rounds of one way's rate by the other's in the same round."""
        return _ratio(self.wall[name], self.wall[other])

    def cpu_ratio(self, name: str, other: str) -> float:
        """As `ratio`, per CPU second: other load on the machine hardly moves it."""
        return _ratio(self.cpu[name], self.cpu[other])

    def per_second(self, name: str) -> float:
        """The median."""
        return statistics.median(self.wall[name])

    def per_cpu_second(self, name: str) -> float:
        """The median."""
        return statistics.median(self.cpu[name])


def _ratio(one: Sequence[float], other: Sequence[float]) -> float:
    return statistics.median(a / b for a, b in zip(one, other, strict=True))


def in_turns(ways: Mapping[str, Way], rounds: int) -> Rates:
    """Each way once a round, after one round that only warms up.

    The order turns round by round, so that none always runs in another's wake.
    """
    rates = Rates({name: [] for name in ways}, {name: [] for name in ways})
    for turn in range(rounds + 1):
        names = list(ways) if turn % 2 else list(ways)[::-1]
        for name in names:
            way = ways[name]
            with pinned(way.core):
                began, spent = time.perf_counter(), cpu_seconds(way.pid, main=way.main)
                way.run()
                if turn:
                    rates.wall[name].append(way.count / (time.perf_counter() - began))
                    used = cpu_seconds(way.pid, main=way.main) - spent
                    rates.cpu[name].append(way.count / used)
    return rates
