"""One call for many: who goes with whom, what an error means for whom, who is left out."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from aistack.aidb.together import Together


class Calls:
    """`run` of the tests: notes its items, waits for the gate, fails where it is told."""

    def __init__(self) -> None:
        self.seen: list[list[str]] = []
        self.gate = asyncio.Event()
        self.errors: dict[str, Exception] = {}
        self.cancelled = 0

    async def __call__(self, items: Sequence[str]) -> list[str]:
        self.seen.append(list(items))
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        for item in items:
            if item in self.errors:
                raise self.errors[item]
        return [item.upper() for item in items]


def _away(error: BaseException) -> bool:
    return isinstance(error, OSError)


async def begun(*items: str, by: Together[str, str]) -> list[asyncio.Task[str]]:
    """A task for each, all of them waiting."""
    tasks = [asyncio.create_task(by(item)) for item in items]
    for _ in range(5):
        await asyncio.sleep(0)
    return tasks


async def test_what_comes_meanwhile_goes_together_as_far_as_its_weight_allows() -> None:
    calls = Calls()
    together = Together(calls, weight=len, most=5)
    tasks = await begun("a", "bb", "ccc", "d", "eeeeeeee", "f", by=together)
    assert calls.seen == [["a"]]
    calls.gate.set()
    assert await asyncio.gather(*tasks) == ["A", "BB", "CCC", "D", "EEEEEEEE", "F"]
    assert calls.seen == [["a"], ["bb", "ccc"], ["d"], ["eeeeeeee"], ["f"]]


async def test_so_many_calls_are_under_way_at_once_and_no_more() -> None:
    calls = Calls()
    together = Together(calls, weight=len, most=10, at_once=2)
    tasks = await begun("a", "b", "c", "d", by=together)
    assert calls.seen == [["a"], ["b"]]
    calls.gate.set()
    await asyncio.gather(*tasks)
    assert calls.seen == [["a"], ["b"], ["c", "d"]]


async def test_an_error_that_one_item_may_be_to_blame_for_is_its_own() -> None:
    calls = Calls()
    calls.errors["bad"] = ValueError("bad")
    together = Together(calls, weight=len, most=100, of_all=_away)
    tasks = await begun("first", "good", "bad", "fine", by=together)
    calls.gate.set()
    ends = await asyncio.gather(*tasks, return_exceptions=True)
    assert [str(end) for end in ends] == ["FIRST", "GOOD", "bad", "FINE"]
    assert calls.seen[1:] == [["good", "bad", "fine"], ["good"], ["bad"], ["fine"]]


async def test_who_has_left_is_not_tried_alone() -> None:
    calls = Calls()
    calls.errors["bad"] = ValueError("bad")
    together = Together(calls, weight=len, most=100)
    (alone,) = await begun("first", by=together)
    bad, gone, good = await begun("bad", "gone", "good", by=together)
    calls.gate.set()
    await alone
    calls.gate.clear()
    while len(calls.seen) < 2:
        await asyncio.sleep(0)
    gone.cancel()
    calls.gate.set()
    ends = await asyncio.gather(bad, good, return_exceptions=True)
    assert [str(end) for end in ends] == ["bad", "GOOD"]
    assert calls.seen[1:] == [["bad", "gone", "good"], ["bad"], ["good"]]


async def test_an_error_of_all_is_tried_for_none_alone() -> None:
    calls = Calls()
    calls.errors["b"] = ConnectionError("away")
    together = Together(calls, weight=len, most=100, of_all=_away)
    tasks = await begun("a", "b", "c", by=together)
    calls.gate.set()
    ends = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(end) for end in ends] == [str, ConnectionError, ConnectionError]
    assert calls.seen == [["a"], ["b", "c"]]


async def test_too_few_answers_are_an_error_and_nobody_gets_anothers() -> None:
    async def run(items: Sequence[str]) -> list[str]:
        return ["only one"]

    together = Together(run, weight=len, most=100)
    tasks = await begun("a", "b", "c", by=together)
    ends = await asyncio.gather(*tasks, return_exceptions=True)
    # Alone each has its answer; together there was one for two.
    assert [str(end) for end in ends] == ["only one"] * 3
    with pytest.raises(ValueError, match="0 answers for 1 items"):
        await Together(_none, weight=len, most=1)("a")


async def _none(items: Sequence[str]) -> list[str]:
    return []


async def test_one_that_leaves_while_it_waits_is_left_out() -> None:
    calls = Calls()
    together = Together(calls, weight=len, most=100)
    first, gone, last = await begun("a", "b", "c", by=together)
    gone.cancel()
    calls.gate.set()
    assert [await first, await last] == ["A", "C"]
    assert calls.seen == [["a"], ["c"]]


async def test_one_that_leaves_a_call_under_way_does_not_end_it_for_the_others() -> None:
    calls = Calls()
    idle: list[bool] = []
    together = Together(calls, weight=len, most=100, idle=lambda: idle.append(True))
    (alone,) = await begun("a", by=together)
    gone, stays = await begun("b", "c", by=together)
    calls.gate.set()
    await alone
    calls.gate.clear()
    while len(calls.seen) < 2:
        await asyncio.sleep(0)
    assert not idle
    gone.cancel()
    calls.gate.set()
    assert await stays == "C"
    assert calls.seen == [["a"], ["b", "c"]]
    while not idle:
        await asyncio.sleep(0)


async def test_closing_cancels_what_is_under_way_and_what_waits() -> None:
    calls = Calls()
    together = Together(calls, weight=len, most=100)
    tasks = await begun("a", "b", by=together)
    await together.aclose()
    await asyncio.wait(tasks)
    assert [task.cancelled() for task in tasks] == [True, True]
    assert calls.seen == [["a"]]
    assert calls.cancelled == 1
