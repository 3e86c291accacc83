"""What waits is done together: one call for many, cut when the one before is done, by no timer.

An item that comes alone is done alone and at once. While a call is under way others gather, and
the next call takes as many of them, in the order of their coming, as its weight allows.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class Together(Generic[T, R]):
    """Calls of `run` for one item or many. Belongs to one event loop."""

    def __init__(
        self,
        run: Callable[[Sequence[T]], Awaitable[Sequence[R]]],
        *,
        weight: Callable[[T], int],
        most: int,
        at_once: int = 1,
        of_all: Callable[[BaseException], bool] = lambda error: False,
        idle: Callable[[], object] = lambda: None,
    ) -> None:
        """`run` answers for each item, in order; `at_once` calls of it are under way at most.

        A call holds items of `most` weight together, or a single one. When a call for many ends in
        an error, it is the answer to all where it is `of_all`; for another, which one of them may
        be to blame for, each that still waits is tried alone. `idle` is told when nothing waits any
        more.
        """
        self._run = run
        self._weight = weight
        self._most = most
        self._at_once = at_once
        self._of_all = of_all
        self._idle = idle
        self._waiting: deque[tuple[T, asyncio.Future[R]]] = deque()
        self._calls: set[asyncio.Task[None]] = set()

    async def __call__(self, item: T) -> R:
        """The answer for `item`. Raises what `run` does.

        A caller that is cancelled while its item waits takes it along; once a call has begun it
        goes on for the others.
        """
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        self._begin()
        return await future

    async def aclose(self) -> None:
        """Cancel what is under way and what waits."""
        for call in self._calls:
            call.cancel()
        for _, future in self._waiting:
            future.cancel()
        self._waiting.clear()
        if self._calls:
            await asyncio.wait(self._calls)

    def _begin(self) -> None:
        while self._waiting and len(self._calls) < self._at_once:
            if not (group := self._next()):
                return
            # Of nobody's request or job alone: what is bound to the caller's context is not ours.
            call = asyncio.get_running_loop().create_task(
                self._settle(group), context=contextvars.Context()
            )
            self._calls.add(call)
            call.add_done_callback(self._ended)

    def _ended(self, call: asyncio.Task[None]) -> None:
        self._calls.discard(call)
        self._begin()
        if not self._calls:
            self._idle()

    def _next(self) -> list[tuple[T, asyncio.Future[R]]]:
        group: list[tuple[T, asyncio.Future[R]]] = []
        weight = 0
        while self._waiting:
            item, future = self._waiting[0]
            if not future.done():
                weight += self._weight(item)
                if group and weight > self._most:
                    break
                group.append((item, future))
            self._waiting.popleft()
        return group

    async def _settle(self, group: list[tuple[T, asyncio.Future[R]]]) -> None:
        try:
            (end,) = await asyncio.gather(
                self._called([item for item, _ in group]), return_exceptions=True
            )
        except asyncio.CancelledError:
            for _, future in group:
                future.cancel()
            raise
        if isinstance(end, BaseException):
            if len(group) > 1 and not self._of_all(end):
                for one in group:
                    if not one[1].done():
                        await self._settle([one])
                return
            for _, future in group:
                if not future.done():
                    future.set_exception(end)
            return
        for (_, future), answer in zip(group, end, strict=True):
            if not future.done():
                future.set_result(answer)

    async def _called(self, items: list[T]) -> Sequence[R]:
        answers = await self._run(items)
        if len(answers) != len(items):
            raise ValueError(f"{len(answers)} answers for {len(items)} items")
        return answers
