"""Single flight: equal searches at the same time are one.

The key holds the state of the collection that the caller has seen. Who joins a search that is under
way therefore gets a result at least as new as what it saw: the search read its snapshot later than
the state under its key.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

from aistack.service.errors import DeadlineExceeded

T = TypeVar("T")


@dataclass(slots=True)
class _Flight(Generic[T]):
    task: asyncio.Task[T]
    waiters: int = 0


class Flights(Generic[T]):
    """Work under way, by key. Belongs to one event loop."""

    def __init__(self) -> None:
        self._flights: dict[Hashable, _Flight[T]] = {}

    def __len__(self) -> int:
        return len(self._flights)

    async def join(
        self, key: Hashable, begin: Callable[[], Coroutine[Any, Any, T]]
    ) -> tuple[T, bool]:
        """The result of the work under `key`, begun now unless it is under way; whether it was.

        Work that everybody has left is called off. A failure is everybody's, except that the time
        of the one who began it may run out before that of the others: they begin anew.
        """
        while True:
            flight = self._flights.get(key)
            joined = flight is not None
            if flight is None:
                flight = _Flight(asyncio.create_task(begin()))
                self._flights[key] = flight
                flight.task.add_done_callback(partial(self._landed, key, flight))
            flight.waiters += 1
            try:
                await asyncio.wait({flight.task})
            finally:
                flight.waiters -= 1
                if not flight.waiters and not flight.task.done():
                    # Off the board at once: nobody joins what is being called off.
                    self._forget(key, flight)
                    flight.task.cancel()
            try:
                return flight.task.result(), joined
            except DeadlineExceeded:
                if not joined:
                    raise

    def _landed(self, key: Hashable, flight: _Flight[T], _task: asyncio.Task[T]) -> None:
        self._forget(key, flight)

    def _forget(self, key: Hashable, flight: _Flight[T]) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]
