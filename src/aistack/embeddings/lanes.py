"""Lanes: the threads that encode. Their number, their cores, and the proof that each one lives.

Knows no batches: a lane is made ready once and then repeats `step` until that says that all is
done.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager

from aistack.config import EmbeddingsConfig
from aistack.embeddings.encoder import EncoderError
from aistack.service.errors import StartError

#: More lanes than this are only made when the configuration says so.
MOST_LANES = 4
#: What the names of their threads begin with.
LANE = "lane-"


def lane_count(config: EmbeddingsConfig) -> int:
    """How many lanes encode. Raises StartError where `lanes` and `lane_cores` disagree.

    Unless told, one core is left to the event loop, the tokenizers and the other services: one
    lane on one or two cores, else one per further core, at most four. `torch` has one: it uses
    `threads` cores within a pass, or the GPU.
    """
    if config.lane_cores and config.lanes not in (None, len(config.lane_cores)):
        raise StartError(
            f"embeddings.lane_cores: {len(config.lane_cores)} cores for {config.lanes} lanes: name"
            " one core for each lane, or leave embeddings.lanes out"
        )
    if config.lanes is not None:
        return config.lanes
    if config.lane_cores:
        return len(config.lane_cores)
    if config.encoder == "torch":
        return 1
    return max(1, min(MOST_LANES, len(os.sched_getaffinity(0)) - 1))


def bind(cores: Sequence[int]) -> None:
    """Let the calling thread run on `cores` only. Raises StartError."""
    try:
        os.sched_setaffinity(0, cores)
    except (OSError, OverflowError, ValueError) as error:
        named = ", ".join(map(str, cores))
        raise StartError(
            f"embeddings.lane_cores: core {named} cannot be used ({error}): name cores that this"
            " machine has and this service may use"
        ) from error


@contextmanager
def bound(cores: Sequence[int]) -> Iterator[None]:
    """The calling thread, and the threads it makes, on `cores`, if any; afterwards as before."""
    if not cores:
        yield
        return
    before = os.sched_getaffinity(0)
    bind(cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class Lanes:
    """`count` threads that repeat `step`; on core `cores[i]` each, where cores are given."""

    def __init__(
        self,
        step: Callable[[int], bool],
        *,
        ended: Callable[[], None],
        count: int = 1,
        cores: Sequence[int] = (),
    ) -> None:
        """`step` gets the lane's number, and is False when all is done.

        `ended` is called in the last lane's last moment.
        """
        self._step = step
        self._ended = ended
        self._cores = tuple(cores)
        self._lock = threading.Lock()
        self._rounds = 0
        self._all = frozenset(range(count))
        self._silent = set(self._all)
        self._alive = 0
        self._threads: list[threading.Thread] = []

    def start(self, prepare: Callable[[], None]) -> list[Future[None]]:
        """Start the lanes; each calls `prepare` first, whose end its future tells.

        A lane whose `prepare` raises EncoderError, StartError or OSError ends.
        """
        futures: list[Future[None]] = []
        self._alive = len(self._all)
        for lane in sorted(self._all):
            future: Future[None] = Future()
            # Under way: a caller that stops waiting for it does not cancel it.
            future.set_running_or_notify_cancel()
            thread = threading.Thread(
                target=self._run, args=(lane, prepare, future), name=f"{LANE}{lane}", daemon=True
            )
            self._threads.append(thread)
            futures.append(future)
            thread.start()
        return futures

    def join(self, timeout: float) -> bool:
        """Wait for the end of all lanes; False after `timeout` seconds."""
        end = time.monotonic() + timeout
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    @property
    def alive(self) -> int:
        """Lanes that run."""
        return self._alive

    def heartbeat(self) -> int:
        """Advances while every lane does: one that hangs, or has died, stops it."""
        return self._rounds

    def _beat(self, lane: int) -> None:
        with self._lock:
            self._silent.discard(lane)
            if not self._silent:
                self._rounds += 1
                self._silent = set(self._all)

    def _run(self, lane: int, prepare: Callable[[], None], prepared: Future[None]) -> None:
        try:
            try:
                if self._cores:
                    bind([self._cores[lane]])
                prepare()
            except (EncoderError, StartError, OSError) as error:
                prepared.set_exception(error)
                return
            self._beat(lane)
            prepared.set_result(None)
            while self._step(lane):
                self._beat(lane)
        finally:
            if not prepared.done():
                prepared.set_exception(EncoderError("a lane ended before it was ready"))
            with self._lock:
                self._alive -= 1
                last = not self._alive
            if last:
                self._ended()
