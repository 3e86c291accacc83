"""The scheduler: what it refuses, what is cancelled or fails, how it lives and ends."""

from __future__ import annotations

import asyncio
import logging
import threading
import time

import pytest
import structlog.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from aistack.embeddings.cut import Cost
from aistack.embeddings.encoder import EncoderError
from aistack.embeddings.scheduler import Pass, Reservation, Scheduler
from aistack.service.errors import Overloaded, Unavailable
from fix_scheduler import DEADLINE, Gate, MakeScheduler, hold, submit_all, text
from fix_wait import until

# -- overload, cancellation, failure -----------------------------------------------------------


async def test_full_queue_is_overloaded_with_advice(make: MakeScheduler, gate: Gate) -> None:
    scheduler = await make(queue_texts=3)
    first = await hold(gate, scheduler)
    waiting = await submit_all(scheduler, [[text(2)] * 2])
    with pytest.raises(Overloaded) as raised:
        await scheduler.submit([text(2)] * 2)
    assert raised.value.retry_after is not None
    assert raised.value.retry_after >= 1
    taken = await submit_all(scheduler, [[text(2)]])
    gate.open.set()
    await asyncio.gather(first, *waiting, *taken)


async def test_held_places_are_counted_and_given_back(make: MakeScheduler, gate: Gate) -> None:
    scheduler = await make(queue_texts=3)
    first = await hold(gate, scheduler)
    waiting = await submit_all(scheduler, [[text(2)]])
    held = scheduler.reserve(2)
    with pytest.raises(Overloaded):
        scheduler.reserve(1)
    with pytest.raises(Overloaded):
        await scheduler.submit([text(2)])
    held.release(keep=1)
    held.release(keep=1)
    assert (scheduler.depth, scheduler.reserved) == (1, 1)
    with scheduler.reserve(1):
        assert scheduler.reserved == 2
    held.release()
    held.release()
    assert scheduler.reserved == 0
    gate.open.set()
    await asyncio.gather(first, *waiting)


async def test_held_places_are_used_and_the_rest_given_back(
    make: MakeScheduler, gate: Gate
) -> None:
    scheduler = await make(queue_texts=3)
    first = await hold(gate, scheduler)
    held = scheduler.reserve(3)
    waiting = asyncio.create_task(scheduler.submit([text(2)], held))
    await until(lambda: scheduler.depth == 1)
    assert scheduler.reserved == 0
    # What is used up gives no place a second time.
    with pytest.raises(ValueError, match="1 texts on 0 places"):
        await scheduler.submit([text(2)], held)
    gate.open.set()
    await asyncio.gather(first, waiting)


async def test_no_place_is_held_while_stopping(make: MakeScheduler) -> None:
    scheduler = await make()
    held = scheduler.reserve(1)
    assert await scheduler.stop(DEADLINE)
    with pytest.raises(Unavailable):
        scheduler.reserve(1)
    with pytest.raises(Unavailable):
        await scheduler.submit([text(1)], held)
    assert scheduler.reserved == 0


DEEDS = st.tuples(
    st.sampled_from(["submit", "hold", "use", "give back", "cancel", "break", "let one run"]),
    st.integers(1, 5),
)


@settings(deadline=None, max_examples=60)
@given(deeds=st.lists(DEEDS, max_size=30))
def test_no_place_is_ever_lost(deeds: list[tuple[str, int]]) -> None:
    with structlog.testing.capture_logs():
        asyncio.run(_play(deeds))


async def _play(deeds: list[tuple[str, int]], room: int = 12) -> None:
    gate = Gate()
    gate.open.clear()
    gate.poison = 60
    scheduler = Scheduler(
        gate, batch_tokens=64, queue_texts=room, cost=Cost(16), lanes=2, idle_seconds=0.02
    )
    await scheduler.start()
    held: list[Reservation] = []
    allowed = (Overloaded, Unavailable, ValueError)
    tasks: list[asyncio.Task[object]] = []
    for deed, number in deeds:
        given = held[-1] if held else None
        if deed == "submit":
            tasks.append(asyncio.create_task(scheduler.submit([text(number)] * number)))
        elif deed == "break":
            tasks.append(asyncio.create_task(scheduler.submit([text(60)] * number)))
        elif deed == "hold":
            try:
                held.append(scheduler.reserve(number))
            except Overloaded:
                assert scheduler.depth + scheduler.reserved + number > room
        elif deed == "use" and given is not None and given.places:
            tasks.append(asyncio.create_task(scheduler.submit([text(3)] * given.places, given)))
        elif deed == "give back" and given is not None:
            given.release(keep=number % 3)
        elif deed == "cancel" and tasks:
            tasks[-number % len(tasks)].cancel()
        elif deed == "let one run":
            gate.open.set()
            await asyncio.sleep(0)
            gate.open.clear()
        if number % 2:
            await asyncio.sleep(0)
        assert scheduler.depth + scheduler.reserved <= room
    gate.open.set()
    for ended in await asyncio.gather(*tasks, return_exceptions=True):
        # ValueError: places that had been used or given back by then.
        assert not isinstance(ended, Exception) or isinstance(ended, allowed)
    for reservation in held:
        reservation.release()
    assert (scheduler.depth, scheduler.reserved) == (0, 0)
    scheduler.reserve(room).release()
    assert await scheduler.stop(DEADLINE)


async def test_cancelled_request_never_costs_a_pass(make: MakeScheduler, gate: Gate) -> None:
    scheduler = await make()
    first = await hold(gate, scheduler)
    dropped, kept = await submit_all(scheduler, [[text(9)] * 3, [text(5)]])
    dropped.cancel()
    with pytest.raises(asyncio.CancelledError):
        await dropped
    assert scheduler.depth == 1
    gate.open.set()
    await asyncio.gather(first, kept)
    assert gate.batches == [[1], [5]]


async def test_request_cancelled_during_its_pass_harms_no_other(
    make: MakeScheduler, gate: Gate
) -> None:
    scheduler = await make()
    running = await hold(gate, scheduler)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    gate.open.set()
    assert (await scheduler.submit([text(4, mark=2)])).vectors.tolist() == [[2, 4]]


async def test_failed_pass_fails_only_its_requests(
    make: MakeScheduler, gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    passes: list[Pass] = []
    scheduler = await make(observe=passes.append)
    doomed = await hold(gate, scheduler)
    (other,) = await submit_all(scheduler, [[text(5, mark=1)]])
    gate.failure = EncoderError("secret words of the engine")
    gate.open.set()
    with pytest.raises(Unavailable) as raised:
        await doomed
    assert "secret" not in raised.value.detail
    assert (await other).vectors.tolist() == [[1, 5]]
    assert [p.failed for p in passes] == [True, False]


async def test_rest_of_a_failed_request_is_not_encoded(make: MakeScheduler, gate: Gate) -> None:
    scheduler = await make()
    gate.poison = 60
    with pytest.raises(Unavailable):
        await scheduler.submit([text(60)] * 5)
    assert gate.batches == [[60]]
    assert scheduler.depth == 0


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_unannounced_error_answers_everyone_and_stops_the_heartbeat(
    make: MakeScheduler, gate: Gate
) -> None:
    scheduler = await make()
    running = await hold(gate, scheduler)
    (waiting,) = await submit_all(scheduler, [[text(5)]])
    gate.failure = ZeroDivisionError()
    gate.open.set()
    for task in (running, waiting):
        with pytest.raises(Unavailable):
            await task
    with pytest.raises(Unavailable):
        await scheduler.submit([text(1)])
    await until(lambda: scheduler._lanes.join(0))
    beats = scheduler.heartbeat()
    await asyncio.to_thread(threading.Event().wait, 0.1)
    assert scheduler.heartbeat() == beats


# -- life --------------------------------------------------------------------------------------


async def test_heartbeat_advances_while_idle(make: MakeScheduler) -> None:
    scheduler = await make()
    before = scheduler.heartbeat()
    await until(lambda: scheduler.heartbeat() >= before + 3)


async def test_heartbeat_stands_still_while_a_pass_hangs(make: MakeScheduler, gate: Gate) -> None:
    scheduler = await make()
    running = await hold(gate, scheduler)
    before = scheduler.heartbeat()
    await asyncio.to_thread(threading.Event().wait, 0.1)
    assert scheduler.heartbeat() == before
    gate.open.set()
    await running


async def test_stop_finishes_what_is_queued(make: MakeScheduler, gate: Gate) -> None:
    scheduler = await make()
    first = await hold(gate, scheduler)
    tasks = await submit_all(scheduler, [[text(60)] * 3, [text(5)]])
    stopping = asyncio.create_task(scheduler.stop(DEADLINE))
    with pytest.raises(Unavailable):
        await _submit_until_refused(scheduler)
    gate.open.set()
    assert await stopping
    for task in (first, *tasks):
        await task


async def _submit_until_refused(scheduler: Scheduler) -> None:
    async with asyncio.timeout(DEADLINE):
        while True:
            task = asyncio.create_task(scheduler.submit([text(1)]))
            await asyncio.sleep(0.01)
            if task.done():
                await task
            task.cancel()


async def test_stop_past_its_deadline_answers_the_waiting(make: MakeScheduler, gate: Gate) -> None:
    scheduler = await make()
    await hold(gate, scheduler)
    (waiting,) = await submit_all(scheduler, [[text(5)]])
    assert not await scheduler.stop(0.05)
    with pytest.raises(Unavailable):
        await waiting


async def test_passes_are_reported(make: MakeScheduler) -> None:
    passes: list[Pass] = []
    scheduler = await make(observe=passes.append)
    await scheduler.submit([text(10), text(11)])
    (only,) = passes
    assert (only.texts, only.tokens, only.padded, only.failed) == (2, 21, 22, False)
    assert 0 < only.seconds < DEADLINE


async def test_idle_thread_takes_a_text_at_once(make: MakeScheduler) -> None:
    # Idle wakes are a minute apart: an answer within a second proves that nothing waits for them.
    scheduler = await make(idle_seconds=60.0)
    await scheduler.submit([text(1)])
    began = time.perf_counter()
    await scheduler.submit([text(1)])
    assert time.perf_counter() - began < 1.0
