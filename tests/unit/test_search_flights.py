"""Single flight: who begins, who joins, who pays when one leaves or fails."""

from __future__ import annotations

import asyncio

import pytest

from aistack.aidb.search_flights import Flights
from aistack.service.errors import DeadlineExceeded, Unavailable


class Work:
    """Work that ends when the test says so; counts how often it was begun and called off."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.begun = 0
        self.cancelled = 0
        self.failures: list[Exception] = []

    async def __call__(self) -> int:
        self.begun += 1
        number = self.begun
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.failures:
            raise self.failures.pop(0)
        return number


async def started(tasks: list[asyncio.Task[tuple[int, bool]]], work: Work, begun: int) -> None:
    """Returns when every task waits for its flight."""
    while work.begun < begun:
        await asyncio.sleep(0)
    assert not any(task.done() for task in tasks)


async def test_equal_work_at_the_same_time_is_done_once() -> None:
    flights: Flights[int] = Flights()
    work, other = Work(), Work()
    tasks = [asyncio.create_task(flights.join("a", work)) for _ in range(5)]
    apart = asyncio.create_task(flights.join("b", other))
    await started([*tasks, apart], work, 1)
    await started([*tasks, apart], other, 1)
    work.go.set()
    other.go.set()
    assert await asyncio.gather(*tasks) == [(1, False), *[(1, True)] * 4]
    assert await apart == (1, False)
    assert (work.begun, len(flights)) == (1, 0)
    assert await flights.join("a", work) == (2, False)


async def test_one_that_leaves_takes_nothing_from_the_others() -> None:
    flights: Flights[int] = Flights()
    work = Work()
    tasks = [asyncio.create_task(flights.join("a", work)) for _ in range(3)]
    await started(tasks, work, 1)
    tasks[0].cancel()
    with pytest.raises(asyncio.CancelledError):
        await tasks[0]
    work.go.set()
    assert await asyncio.gather(*tasks[1:]) == [(1, True), (1, True)]
    assert work.cancelled == 0


async def test_work_that_all_have_left_is_called_off_and_joined_by_nobody() -> None:
    flights: Flights[int] = Flights()
    work = Work()
    tasks = [asyncio.create_task(flights.join("a", work)) for _ in range(2)]
    await started(tasks, work, 1)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    late = asyncio.create_task(flights.join("a", work))
    await started([late], work, 2)
    assert work.cancelled == 1
    work.go.set()
    assert await late == (2, False)


async def test_a_failure_is_everybody_s() -> None:
    flights: Flights[int] = Flights()
    work = Work()
    work.failures = [Unavailable("away")]
    tasks = [asyncio.create_task(flights.join("a", work)) for _ in range(3)]
    await started(tasks, work, 1)
    work.go.set()
    ended = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(one) for one in ended] == [Unavailable] * 3
    assert (work.begun, len(flights)) == (1, 0)


async def test_the_time_of_the_first_is_not_that_of_the_others() -> None:
    flights: Flights[int] = Flights()
    work = Work()
    work.failures = [DeadlineExceeded("over")]
    tasks = [asyncio.create_task(flights.join("a", work)) for _ in range(3)]
    await started(tasks, work, 1)
    work.go.set()
    first, *others = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(first, DeadlineExceeded)
    assert sorted(map(str, others)) == ["(2, False)", "(2, True)"]
