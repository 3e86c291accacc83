"""Schedulers over a gate: an encoder that records each pass and, when told, waits.

So every interleaving is made by hand and no test depends on time.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from functools import partial

import numpy as np
import pytest

from aistack.embeddings.cut import Cost
from aistack.embeddings.encoder import EncoderError, Tokens, Vectors
from aistack.embeddings.request import Encoded
from aistack.embeddings.scheduler import Scheduler
from fix_wait import until

DEADLINE = 10.0


def text(length: int, mark: int = 0) -> Tokens:
    """A text of `length` tokens whose vector will be [mark, length]."""
    return Tokens(np.full(length, mark, dtype=np.int32))


class Gate:
    """Encodes by copying marks; can be closed, and can be made to fail."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.open = threading.Event()
        self.open.set()
        self.entered = threading.Semaphore(0)
        self.failure: Exception | None = None
        self.poison = 0
        #: Passes with a text of this length wait until `free` is set.
        self.stuck = 0
        self.free = threading.Event()

    def __call__(self, batch: Sequence[Tokens]) -> Vectors:
        lengths = [len(tokens) for tokens in batch]
        self.batches.append(lengths)
        self.entered.release()
        assert self.open.wait(DEADLINE)
        if self.stuck in lengths:
            assert self.free.wait(DEADLINE)
        failure, self.failure = self.failure, None
        if failure is not None:
            raise failure
        if self.poison in lengths:
            raise EncoderError("a text of this length breaks the engine")
        rows = [[tokens.ids[0], len(tokens)] for tokens in batch]
        return np.array(rows, dtype=np.float32)

    def close(self) -> None:
        """Let passes begin, but none end, and forget those that have begun before."""
        self.open.clear()
        while self.entered.acquire(blocking=False):
            pass

    async def wait_entered(self) -> None:
        """Until one more pass has begun, since the gate was closed."""
        assert await asyncio.to_thread(self.entered.acquire, timeout=DEADLINE)


@pytest.fixture
def gate() -> Iterator[Gate]:
    made = Gate()
    yield made
    made.open.set()
    made.free.set()


MakeScheduler = Callable[..., Awaitable[Scheduler]]


@pytest.fixture
async def make(gate: Gate) -> AsyncIterator[MakeScheduler]:
    """Starts schedulers over the gate; stops them at the end."""
    made: list[Scheduler] = []

    async def start(**settings: object) -> Scheduler:
        defaults = {"batch_tokens": 64, "queue_texts": 100, "cost": Cost(4), "idle_seconds": 0.02}
        scheduler = Scheduler(gate, **{**defaults, **settings})  # type: ignore[arg-type]
        await scheduler.start()
        made.append(scheduler)
        return scheduler

    yield start
    gate.open.set()
    gate.free.set()
    for scheduler in made:
        await scheduler.stop(DEADLINE)


async def hold(gate: Gate, scheduler: Scheduler) -> asyncio.Task[Encoded]:
    """Close the gate and put one text behind it: what is submitted now waits."""
    gate.close()
    first = asyncio.create_task(scheduler.submit([text(1)]))
    await gate.wait_entered()
    return first


async def submit_all(
    scheduler: Scheduler, requests: Sequence[Sequence[Tokens]]
) -> list[asyncio.Task[Encoded]]:
    """Queue `requests` in this order."""
    tasks = []
    for request in requests:
        wanted = scheduler.depth + len(request)
        tasks.append(asyncio.create_task(scheduler.submit(request)))
        await until(partial(_deep, scheduler, wanted))
    return tasks


def _deep(scheduler: Scheduler, wanted: int) -> bool:
    return scheduler.depth == wanted
