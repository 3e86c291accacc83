"""The scheduler: what makes a batch, and in which order texts go."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aistack.embeddings.cut import DIVIDED_STARTS, PADDING_SHARE, Cost, cut
from aistack.embeddings.encoder import Tokens
from fix_scheduler import Gate, MakeScheduler, hold, submit_all, text

# -- cutting a batch ---------------------------------------------------------------------------


def test_equal_lengths_fill_the_budget() -> None:
    assert cut([8] * 20, 0, 64, Cost(4)) == (0, 8)


def test_batch_stops_where_padding_costs_more_than_a_pass() -> None:
    assert cut([4, 4, 4, 4, 60], 0, 1000, Cost(16)) == (0, 4)


def test_small_padding_is_cheaper_than_a_pass() -> None:
    assert cut([4, 5, 6], 0, 1000, Cost(16)) == (0, 3)


def test_padding_that_costs_little_lets_texts_of_other_lengths_share_a_pass() -> None:
    lengths = [10, 10, 30, 30]
    assert cut(lengths, 0, 1000, Cost(8)) == (0, 2)
    assert cut(lengths, 0, 1000, Cost(8, 0.25)) == (0, 4)


def test_anchor_is_taken_however_long() -> None:
    assert cut([1, 1, 500], 2, 64, Cost(4)) == (2, 3)


def test_window_grows_to_shorter_texts_before_longer_ones() -> None:
    assert cut([10, 10, 10, 11, 11], 2, 33, Cost(16)) == (0, 3)


def test_texts_of_the_same_length_come_before_shorter_ones() -> None:
    assert cut([8, 9, 10, 10, 10, 10, 11], 2, 30, Cost(16)) == (2, 5)


def test_no_more_texts_than_told_but_where_the_pass_is_small() -> None:
    assert cut([10] * 20, 0, 1000, Cost(16), most=9) == (0, 9)
    assert cut([10] * 20, 0, 1000, Cost(16), most=3) == (0, 6)


@given(
    lengths=st.lists(st.integers(1, 300), min_size=1, max_size=60).map(sorted),
    data=st.data(),
    budget=st.integers(16, 4096),
    start=st.integers(0, 64),
    padding=st.floats(0, 1),
    most=st.none() | st.integers(1, 60),
)
def test_every_cut_holds_its_bounds(
    lengths: list[int],
    data: st.DataObject,
    budget: int,
    start: int,
    padding: float,
    most: int | None,
) -> None:
    anchor = data.draw(st.integers(0, len(lengths) - 1))
    low, high = cut(lengths, anchor, budget, Cost(start, padding), most=most)
    assert 0 <= low <= anchor < high <= len(lengths)
    batch = lengths[low:high]
    cost = padding * (max(batch) * len(batch) - sum(batch))
    if len(batch) > 1:
        assert sum(batch) + cost <= budget
        assert cost <= start + PADDING_SHARE * sum(batch)
        if most is not None and len(batch) > most:
            assert sum(batch) + cost <= DIVIDED_STARTS * start


# -- order and batching ------------------------------------------------------------------------


async def test_lone_text_on_an_idle_service_is_a_pass_of_its_own(
    make: MakeScheduler, gate: Gate
) -> None:
    encoded = await (await make()).submit([text(5, mark=7)])
    assert encoded.vectors.tolist() == [[7, 5]]
    assert gate.batches == [[5]]
    assert encoded.queue_seconds >= 0
    assert encoded.encode_seconds > 0


async def test_big_request_is_split_and_put_together_in_order(
    make: MakeScheduler, gate: Gate
) -> None:
    lengths = [(7 * i) % 30 + 1 for i in range(90)]
    encoded = await (await make()).submit([text(n, mark=i) for i, n in enumerate(lengths)])
    assert encoded.vectors.tolist() == [[i, n] for i, n in enumerate(lengths)]
    assert len(gate.batches) > 1
    assert all(max(batch) * len(batch) <= 64 for batch in gate.batches)


async def test_texts_of_several_requests_share_a_pass(make: MakeScheduler, gate: Gate) -> None:
    scheduler = await make()
    first = await hold(gate, scheduler)
    tasks = await submit_all(scheduler, [[text(2, mark=i)] for i in range(6)])
    gate.open.set()
    results = await asyncio.gather(first, *tasks)
    assert [r.vectors[0][0] for r in results[1:]] == [0, 1, 2, 3, 4, 5]
    assert gate.batches == [[1], [2] * 6]


async def test_burst_of_single_texts_goes_in_even_passes(make: MakeScheduler, gate: Gate) -> None:
    scheduler = await make()
    first = await hold(gate, scheduler)
    tasks = await submit_all(scheduler, [[text(5)] for _ in range(12)])
    gate.open.set()
    await asyncio.gather(first, *tasks)
    # Half of the 12 that wait and the one that was encoded before, whose caller may come back.
    assert gate.batches == [[1], [5] * 7, [5] * 5]


async def test_request_of_several_texts_is_not_divided(make: MakeScheduler, gate: Gate) -> None:
    scheduler = await make()
    first = await hold(gate, scheduler)
    tasks = await submit_all(scheduler, [[text(5)] * 12])
    gate.open.set()
    await asyncio.gather(first, *tasks)
    assert gate.batches == [[1], [5] * 12]


async def test_pass_wakes_the_event_loop_once(
    make: MakeScheduler, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler = await make()
    first = await hold(gate, scheduler)
    tasks = await submit_all(scheduler, [[text(2, mark=i)] for i in range(6)])
    loop = asyncio.get_running_loop()
    woken: list[str] = []
    wake = loop.call_soon_threadsafe

    def counted(callback: Callable[..., object], *arguments: Any, **options: Any) -> object:
        woken.append(threading.current_thread().name)
        return wake(callback, *arguments, **options)

    monkeypatch.setattr(loop, "call_soon_threadsafe", counted)
    gate.open.set()
    results = await asyncio.gather(first, *tasks)
    assert gate.batches == [[1], [2] * 6]
    # The held pass and the one of six.
    assert woken.count("lane-0") == 2
    assert [one.vectors[0][0] for one in results[1:]] == [0, 1, 2, 3, 4, 5]


async def test_short_text_does_not_wait_for_a_bulk_of_long_ones(
    make: MakeScheduler, gate: Gate
) -> None:
    scheduler = await make()
    first = await hold(gate, scheduler)
    tasks = await submit_all(scheduler, [[text(60)] * 10, [text(3)]])
    gate.open.set()
    await asyncio.gather(first, *tasks)
    assert [3] in gate.batches[:3]


async def test_texts_of_about_one_length_go_by_age(make: MakeScheduler, gate: Gate) -> None:
    scheduler = await make()
    first = await hold(gate, scheduler)
    tasks = await submit_all(scheduler, [[text(length)] for length in range(32, 24, -1)])
    gate.open.set()
    await asyncio.gather(first, *tasks)
    assert [sorted(batch) for batch in gate.batches[1:]] == [[31, 32], [29, 30], [27, 28], [25, 26]]


@pytest.mark.parametrize("short", [[[text(4)] * 90], [[text(4)]] * 90], ids=["bulk", "singles"])
async def test_long_text_does_not_starve_under_short_ones(
    make: MakeScheduler, gate: Gate, short: list[list[Tokens]]
) -> None:
    scheduler = await make()
    first = await hold(gate, scheduler)
    tasks = await submit_all(scheduler, [[text(60)], *short])
    gate.open.set()
    await asyncio.gather(first, *tasks)
    assert len(gate.batches) > 4
    assert [60] in gate.batches[:3]
