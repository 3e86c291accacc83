"""One request in the scheduler: its texts one by one, and the answer when all have vectors."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from aistack.embeddings.encoder import Tokens, Vectors
from aistack.service.errors import StackError


@dataclass(frozen=True, slots=True)
class Encoded:
    """The vectors of one request, (n, d) float32 in its order, and where the seconds went."""

    vectors: Vectors
    queue_seconds: float
    encode_seconds: float


@dataclass(slots=True, eq=False)
class Request:
    """What waits for `remaining` more vectors. Times are of `time.perf_counter`.

    `started` is the first pass's, 0 before it; an `ended` one gets no answer any more.
    """

    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Encoded]
    vectors: list[Vectors | None]
    remaining: int
    queued: float
    started: float = 0.0
    ended: bool = False

    def deliver(self) -> None:
        """Answer, from any thread; every vector is there."""
        result = Encoded(
            np.stack([vector for vector in self.vectors if vector is not None]),
            self.started - self.queued,
            time.perf_counter() - self.started,
        )
        self._settle(lambda: self.future.set_result(result))

    def fail(self, error: StackError) -> None:
        """Answer with an error, from any thread."""
        self._settle(lambda: self.future.set_exception(error))

    def _settle(self, settle: Callable[[], None]) -> None:
        def unless_gone() -> None:
            if not self.future.done():
                settle()

        # The loop of a process that is being torn down may be gone, and its callers with it.
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(unless_gone)


@dataclass(slots=True, eq=False)
class Entry:
    """One text of a request. `key` sorts by length, then by age; `gone` when it waits no more."""

    request: Request
    index: int
    tokens: Tokens
    sequence: int
    key: tuple[int, int] = field(init=False)
    gone: bool = False

    def __post_init__(self) -> None:
        self.key = (len(self.tokens), self.sequence)
