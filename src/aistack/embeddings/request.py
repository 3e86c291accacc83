"""One request in the scheduler: its texts one by one, and the answer when all have vectors."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from aistack.embeddings.encoder import Tokens, Vectors, stacked
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

    def answer(self, ended: float) -> Encoded:
        """What goes to the caller; every vector is there. `ended` is the last pass's end."""
        return Encoded(
            stacked([vector for vector in self.vectors if vector is not None]),
            self.started - self.queued,
            ended - self.started,
        )

    def fail(self, error: StackError) -> None:
        """Answer with an error, from any thread."""

        def settle() -> None:
            if not self.future.done():
                self.future.set_exception(error)

        _call(self.loop, settle)


def deliver(complete: Sequence[Request]) -> None:
    """Answer requests that have all their vectors, from any thread.

    The event loop is woken once for all of them, and once for each loop where there are several;
    it makes the answers, for the lane has the next pass to begin.
    """
    ended = time.perf_counter()
    by_loop: dict[asyncio.AbstractEventLoop, list[Request]] = {}
    for request in complete:
        by_loop.setdefault(request.loop, []).append(request)
    for loop, requests in by_loop.items():
        _call(loop, partial(_settle, requests, ended))


def _settle(complete: Sequence[Request], ended: float) -> None:
    for request in complete:
        if not request.future.done():
            request.future.set_result(request.answer(ended))


def _call(loop: asyncio.AbstractEventLoop, settle: Callable[[], None]) -> None:
    # The loop of a process that is being torn down may be gone, and its callers with it.
    if not loop.is_closed():
        loop.call_soon_threadsafe(settle)


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
