"""Several lanes over one queue: order, failure, heartbeat, cores and how many there are."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Callable

import pytest
from pydantic import ValidationError

from aistack.config import EmbeddingsConfig
from aistack.embeddings.cut import Cost
from aistack.embeddings.encoder import EncoderError
from aistack.embeddings.lanes import bind, bound, lane_count
from aistack.embeddings.scheduler import Scheduler
from aistack.service.errors import StartError, Unavailable
from fix_scheduler import DEADLINE, Gate, MakeScheduler, submit_all, text
from fix_wait import until

STUCK = 50


async def test_lanes_work_at_the_same_time(make: MakeScheduler, gate: Gate) -> None:
    scheduler = await make(lanes=2)
    gate.close()
    tasks = [asyncio.create_task(scheduler.submit([text(n, mark=n)])) for n in (3, 60)]
    # The first pass has not ended: without a second lane this would wait for ever.
    await gate.wait_entered()
    await gate.wait_entered()
    gate.open.set()
    assert [(await task).vectors.tolist() for task in tasks] == [[[3, 3]], [[60, 60]]]


async def test_requests_are_put_together_in_order(make: MakeScheduler, gate: Gate) -> None:
    scheduler = await make(lanes=4, queue_texts=2000)
    requests = [[text((7 * i) % 30 + 1, mark=i) for i in range(start, 90)] for start in range(20)]
    tasks = [asyncio.create_task(scheduler.submit(request)) for request in requests]
    for request, task in zip(requests, tasks, strict=True):
        wanted = [[t.ids[0], len(t)] for t in request]
        assert (await task).vectors.tolist() == wanted
    assert sum(map(len, gate.batches)) == sum(map(len, requests))
    assert all(max(batch) * len(batch) <= 64 for batch in gate.batches)


async def test_long_text_does_not_starve_on_several_lanes(make: MakeScheduler, gate: Gate) -> None:
    scheduler = await make(lanes=3)
    gate.close()
    first = [asyncio.create_task(scheduler.submit([text(n)])) for n in (1, 20, 40)]
    for _ in first:
        await gate.wait_entered()
    tasks = await submit_all(scheduler, [[text(60)], [text(4)] * 90])
    gate.open.set()
    await asyncio.gather(*first, *tasks)
    # No text is older, so it is in one of the next two passes; those that other lanes take
    # meanwhile may be noted before it.
    assert [60] in gate.batches[3 : 3 + 2 + 2]


async def test_burst_is_divided_among_the_lanes(make: MakeScheduler, gate: Gate) -> None:
    scheduler = await make(lanes=2)
    gate.close()
    first = [asyncio.create_task(scheduler.submit([text(n)])) for n in (1, 60)]
    for _ in first:
        await gate.wait_entered()
    tasks = await submit_all(scheduler, [[text(5)] for _ in range(12)])
    gate.open.set()
    await asyncio.gather(*first, *tasks)
    # A third of what waits and of what both lanes took last, so that answers go out meanwhile.
    assert sorted(map(len, gate.batches[2:])) == [2, 5, 5]


async def test_failed_pass_leaves_the_other_lane_alone(
    make: MakeScheduler, gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    scheduler = await make(lanes=2)
    gate.poison, gate.stuck = 60, STUCK
    kept = asyncio.create_task(scheduler.submit([text(STUCK, mark=1)]))
    await gate.wait_entered()
    with pytest.raises(Unavailable):
        await scheduler.submit([text(60)])
    assert (await scheduler.submit([text(5, mark=2)])).vectors.tolist() == [[2, 5]]
    gate.free.set()
    assert (await kept).vectors.tolist() == [[1, STUCK]]
    assert scheduler.alive == 2


async def test_too_few_vectors_fail_the_pass(
    make: MakeScheduler, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    gate = Gate()
    scheduler = Scheduler(
        lambda batch: gate(batch)[1:], batch_tokens=64, queue_texts=9, cost=Cost(16)
    )
    await scheduler.start()
    with pytest.raises(Unavailable):
        await scheduler.submit([text(3)] * 2)
    assert scheduler.alive == 1
    assert await scheduler.stop(DEADLINE)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_lane_that_dies_answers_its_callers_and_stops_the_heartbeat(
    make: MakeScheduler, gate: Gate
) -> None:
    scheduler = await make(lanes=2)
    gate.failure = ZeroDivisionError()
    with pytest.raises(Unavailable):
        await scheduler.submit([text(1)])
    await until(lambda: scheduler.alive == 1)
    await _settled(scheduler)
    beats = scheduler.heartbeat()
    for mark in range(5):
        assert (await scheduler.submit([text(5, mark=mark)])).vectors.tolist() == [[mark, 5]]
    assert scheduler.heartbeat() == beats
    # The last one takes the rest with it.
    gate.close()
    gate.failure = ZeroDivisionError()
    running = asyncio.create_task(scheduler.submit([text(1)]))
    await gate.wait_entered()
    (waiting,) = await submit_all(scheduler, [[text(60)]])
    gate.open.set()
    for task in (running, waiting):
        with pytest.raises(Unavailable):
            await task
    await until(lambda: scheduler._lanes.join(0))
    with pytest.raises(Unavailable):
        scheduler.reserve(1)


async def test_hung_lane_stops_the_heartbeat(make: MakeScheduler, gate: Gate) -> None:
    scheduler = await make(lanes=2)
    gate.stuck = STUCK
    hung = asyncio.create_task(scheduler.submit([text(STUCK)]))
    await gate.wait_entered()
    await _settled(scheduler)
    beats = scheduler.heartbeat()
    for _ in range(5):
        await scheduler.submit([text(5)])
    assert scheduler.heartbeat() == beats
    gate.free.set()
    await hung
    await until(lambda: scheduler.heartbeat() > beats + 2)


async def _settled(scheduler: Scheduler) -> None:
    """Until the lane that still works has said so once more.

    A text is answered within its pass and the lane beats after it: with the second answer the
    beat of the first pass is there, and what it completed.
    """
    for _ in range(2):
        await scheduler.submit([text(5)])


async def test_stop_finishes_every_lane(make: MakeScheduler, gate: Gate) -> None:
    scheduler = await make(lanes=2)
    gate.close()
    first = [asyncio.create_task(scheduler.submit([text(n)])) for n in (3, 60)]
    for _ in first:
        await gate.wait_entered()
    waiting = await submit_all(scheduler, [[text(30)] * 9])
    stopping = asyncio.create_task(scheduler.stop(DEADLINE))
    gate.open.set()
    assert await stopping
    for task in (*first, *waiting):
        await task
    assert scheduler.alive == 0


async def test_stop_past_its_deadline_answers_the_waiting(make: MakeScheduler, gate: Gate) -> None:
    scheduler = await make(lanes=2)
    gate.stuck = STUCK
    hung = asyncio.create_task(scheduler.submit([text(STUCK)]))
    await gate.wait_entered()
    gate.close()
    running = asyncio.create_task(scheduler.submit([text(3)]))
    await gate.wait_entered()
    (waiting,) = await submit_all(scheduler, [[text(5)]])
    assert not await scheduler.stop(0.05)
    with pytest.raises(Unavailable):
        await waiting
    gate.open.set()
    gate.free.set()
    await asyncio.gather(hung, running)


# -- made ready --------------------------------------------------------------------------------


async def test_every_lane_is_made_ready_before_the_start_ends(gate: Gate) -> None:
    scheduler = Scheduler(
        gate, batch_tokens=64, queue_texts=9, cost=Cost(16), lanes=3, idle_seconds=0.02
    )
    together = threading.Barrier(3)
    ready: list[str] = []

    def prepare() -> None:
        # One lane alone, or one after the other, would not get past this.
        together.wait(DEADLINE)
        ready.append(threading.current_thread().name)

    await scheduler.start(prepare)
    assert sorted(ready) == ["lane-0", "lane-1", "lane-2"]
    assert scheduler.heartbeat() > 0
    assert await scheduler.stop(DEADLINE)


async def test_lane_that_cannot_be_made_ready_ends_all(gate: Gate) -> None:
    scheduler = Scheduler(
        gate, batch_tokens=64, queue_texts=9, cost=Cost(16), lanes=2, idle_seconds=0.02
    )

    def prepare() -> None:
        if threading.current_thread().name == "lane-1":
            raise EncoderError("no memory for a second lane")

    with pytest.raises(EncoderError, match="second lane"):
        await scheduler.start(prepare)
    await until(lambda: scheduler.alive == 0)
    with pytest.raises(Unavailable):
        await scheduler.submit([text(1)])


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_unannounced_error_while_a_lane_is_made_ready_ends_the_start(gate: Gate) -> None:
    scheduler = Scheduler(gate, cost=Cost(16), batch_tokens=64, queue_texts=9)

    def prepare() -> None:
        raise ZeroDivisionError

    with pytest.raises(EncoderError):
        await scheduler.start(prepare)
    await until(lambda: scheduler._lanes.join(0))


async def test_start_that_is_given_up_leaves_no_lane(gate: Gate) -> None:
    scheduler = Scheduler(gate, cost=Cost(16), batch_tokens=64, queue_texts=9)
    go = threading.Event()

    def prepare() -> None:
        go.wait(DEADLINE)

    starting = asyncio.create_task(scheduler.start(prepare))
    await until(lambda: scheduler.alive == 1)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    go.set()
    await until(lambda: scheduler.alive == 0)


# -- cores -------------------------------------------------------------------------------------


async def test_each_lane_is_bound_to_its_core(gate: Gate) -> None:
    mine = os.sched_getaffinity(0)
    cores = [min(mine), max(mine)]
    scheduler = Scheduler(gate, cost=Cost(16), batch_tokens=64, queue_texts=9, lanes=2, cores=cores)
    seen: dict[str, set[int]] = {}

    def prepare() -> None:
        seen[threading.current_thread().name] = os.sched_getaffinity(0)

    await scheduler.start(prepare)
    assert seen == {"lane-0": {cores[0]}, "lane-1": {cores[1]}}
    assert os.sched_getaffinity(0) == mine
    assert await scheduler.stop(DEADLINE)


@pytest.mark.parametrize("core", [1023, 2**40, -1])
async def test_core_that_is_not_there_is_named(gate: Gate, core: int) -> None:
    scheduler = Scheduler(gate, cost=Cost(16), batch_tokens=64, queue_texts=9, cores=[core])
    with pytest.raises(StartError, match=f"^embeddings.lane_cores: core {core} cannot be used"):
        await scheduler.start()
    await until(lambda: scheduler.alive == 0)


def test_loading_is_bound_for_its_time_only() -> None:
    mine = os.sched_getaffinity(0)
    with bound([min(mine)]):
        assert os.sched_getaffinity(0) == {min(mine)}
    assert os.sched_getaffinity(0) == mine
    with bound([]):
        assert os.sched_getaffinity(0) == mine
    with pytest.raises(StartError, match=r"core 1022, 1023 cannot"):
        bind([1022, 1023])
    assert os.sched_getaffinity(0) == mine


@pytest.mark.parametrize(
    ("cores", "settings", "lanes"),
    [
        (1, {}, 1),
        (2, {}, 1),
        (3, {}, 2),
        (5, {}, 4),
        (64, {}, 4),
        (64, {"encoder": "torch"}, 1),
        (64, {"encoder": "torch", "lanes": 3}, 3),
        (2, {"lanes": 8}, 8),
        (2, {"lane_cores": [0, 1, 1]}, 3),
        (2, {"lanes": 2, "lane_cores": [0, 1]}, 2),
    ],
)
def test_as_many_lanes_as_the_machine_has_room_for(
    monkeypatch: pytest.MonkeyPatch, cores: int, settings: dict[str, object], lanes: int
) -> None:
    available: Callable[[int], set[int]] = lambda _: set(range(cores))  # noqa: E731
    monkeypatch.setattr(os, "sched_getaffinity", available)
    assert lane_count(EmbeddingsConfig.model_validate(settings)) == lanes


def test_lanes_and_their_cores_must_agree() -> None:
    with pytest.raises(StartError, match=r"^embeddings.lane_cores: 1 cores for 2 lanes"):
        lane_count(EmbeddingsConfig(lanes=2, lane_cores=(0,)))
    with pytest.raises(ValidationError):
        EmbeddingsConfig(lanes=0)
