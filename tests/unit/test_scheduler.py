"""The scheduler: order, batching, fairness, overload, failure and a clean end.

The encoder here is a gate: a function that records each batch and, when told, waits. So every
interleaving is made by hand and no test depends on time.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aistack.embeddings.encoder import EncoderError, Tokens, Vectors
from aistack.embeddings.scheduler import PADDING_SHARE, Encoded, Pass, Scheduler, cut
from aistack.service.errors import Overloaded, Unavailable
from fix_embeddings import until

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

    def __call__(self, batch: Sequence[Tokens]) -> Vectors:
        self.batches.append([len(tokens) for tokens in batch])
        self.entered.release()
        assert self.open.wait(DEADLINE)
        failure, self.failure = self.failure, None
        if failure is not None:
            raise failure
        if self.poison in self.batches[-1]:
            raise EncoderError("a text of this length breaks the engine")
        rows = [[tokens.ids[0], len(tokens)] for tokens in batch]
        return np.array(rows, dtype=np.float32)

    async def wait_entered(self) -> None:
        """Until the encoder thread is inside a pass."""
        assert await asyncio.to_thread(self.entered.acquire, timeout=DEADLINE)


@pytest.fixture
def gate() -> Iterator[Gate]:
    made = Gate()
    yield made
    made.open.set()


MakeScheduler = Callable[..., Scheduler]


@pytest.fixture
async def make(gate: Gate) -> object:
    """Starts schedulers over the gate; stops them at the end."""
    made: list[Scheduler] = []

    def start(**settings: object) -> Scheduler:
        defaults = {"batch_tokens": 64, "queue_texts": 100, "pass_tokens": 4, "idle_seconds": 0.02}
        scheduler = Scheduler(gate, **{**defaults, **settings})  # type: ignore[arg-type]
        scheduler.start()
        made.append(scheduler)
        return scheduler

    yield start
    gate.open.set()
    for scheduler in made:
        await scheduler.stop(DEADLINE)


async def hold(gate: Gate, scheduler: Scheduler) -> asyncio.Task[Encoded]:
    """Close the gate and put one text behind it: what is submitted now waits."""
    gate.open.clear()
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


# -- cutting a batch ---------------------------------------------------------------------------


def test_equal_lengths_fill_the_budget() -> None:
    assert cut([8] * 20, 0, 64, 4) == (0, 8)


def test_batch_stops_where_padding_costs_more_than_a_pass() -> None:
    assert cut([4, 4, 4, 4, 60], 0, 1000, 16) == (0, 4)


def test_small_padding_is_cheaper_than_a_pass() -> None:
    assert cut([4, 5, 6], 0, 1000, 16) == (0, 3)


def test_anchor_is_taken_however_long() -> None:
    assert cut([1, 1, 500], 2, 64, 4) == (2, 3)


def test_window_grows_to_shorter_texts_before_longer_ones() -> None:
    assert cut([10, 10, 10, 11, 11], 2, 33, 16) == (0, 3)


@given(
    lengths=st.lists(st.integers(1, 300), min_size=1, max_size=60).map(sorted),
    data=st.data(),
    budget=st.integers(16, 4096),
    overhead=st.integers(0, 64),
)
def test_every_cut_holds_its_bounds(
    lengths: list[int], data: st.DataObject, budget: int, overhead: int
) -> None:
    anchor = data.draw(st.integers(0, len(lengths) - 1))
    low, high = cut(lengths, anchor, budget, overhead)
    assert 0 <= low <= anchor < high <= len(lengths)
    batch = lengths[low:high]
    padded = max(batch) * len(batch)
    if len(batch) > 1:
        assert padded <= budget
        assert padded - sum(batch) <= overhead + PADDING_SHARE * sum(batch)


# -- order and batching ------------------------------------------------------------------------


async def test_lone_text_on_an_idle_service_is_a_pass_of_its_own(
    make: MakeScheduler, gate: Gate
) -> None:
    encoded = await make().submit([text(5, mark=7)])
    assert encoded.vectors.tolist() == [[7, 5]]
    assert gate.batches == [[5]]
    assert encoded.queue_seconds >= 0
    assert encoded.encode_seconds > 0


async def test_big_request_is_split_and_put_together_in_order(
    make: MakeScheduler, gate: Gate
) -> None:
    lengths = [(7 * i) % 30 + 1 for i in range(90)]
    encoded = await make().submit([text(n, mark=i) for i, n in enumerate(lengths)])
    assert encoded.vectors.tolist() == [[i, n] for i, n in enumerate(lengths)]
    assert len(gate.batches) > 1
    assert all(max(batch) * len(batch) <= 64 for batch in gate.batches)


async def test_texts_of_several_requests_share_a_pass(make: MakeScheduler, gate: Gate) -> None:
    scheduler = make()
    first = await hold(gate, scheduler)
    tasks = await submit_all(scheduler, [[text(5, mark=i)] for i in range(6)])
    gate.open.set()
    results = await asyncio.gather(first, *tasks)
    assert [r.vectors[0][0] for r in results[1:]] == [0, 1, 2, 3, 4, 5]
    assert gate.batches == [[1], [5] * 6]


async def test_short_text_does_not_wait_for_a_bulk_of_long_ones(
    make: MakeScheduler, gate: Gate
) -> None:
    scheduler = make()
    first = await hold(gate, scheduler)
    tasks = await submit_all(scheduler, [[text(60)] * 10, [text(3)]])
    gate.open.set()
    await asyncio.gather(first, *tasks)
    assert [3] in gate.batches[:3]


async def test_long_text_does_not_starve_under_short_ones(make: MakeScheduler, gate: Gate) -> None:
    scheduler = make()
    first = await hold(gate, scheduler)
    tasks = await submit_all(scheduler, [[text(60)], [text(4)] * 90])
    gate.open.set()
    await asyncio.gather(first, *tasks)
    assert len(gate.batches) > 4
    assert [60] in gate.batches[:3]


# -- overload, cancellation, failure -----------------------------------------------------------


async def test_full_queue_is_overloaded_with_advice(make: MakeScheduler, gate: Gate) -> None:
    scheduler = make(queue_texts=3)
    first = await hold(gate, scheduler)
    waiting = await submit_all(scheduler, [[text(2)] * 2])
    with pytest.raises(Overloaded) as raised:
        await scheduler.submit([text(2)] * 2)
    assert raised.value.retry_after is not None
    assert raised.value.retry_after >= 1
    taken = await submit_all(scheduler, [[text(2)]])
    gate.open.set()
    await asyncio.gather(first, *waiting, *taken)


async def test_cancelled_request_never_costs_a_pass(make: MakeScheduler, gate: Gate) -> None:
    scheduler = make()
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
    scheduler = make()
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
    scheduler = make(observe=passes.append)
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
    scheduler = make()
    gate.poison = 60
    with pytest.raises(Unavailable):
        await scheduler.submit([text(60)] * 5)
    assert gate.batches == [[60]]
    assert scheduler.depth == 0


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_unannounced_error_answers_everyone_and_stops_the_heartbeat(
    make: MakeScheduler, gate: Gate
) -> None:
    scheduler = make()
    running = await hold(gate, scheduler)
    (waiting,) = await submit_all(scheduler, [[text(5)]])
    gate.failure = ZeroDivisionError()
    gate.open.set()
    for task in (running, waiting):
        with pytest.raises(Unavailable):
            await task
    with pytest.raises(Unavailable):
        await scheduler.submit([text(1)])
    await until(lambda: not scheduler.alive)
    beats = scheduler.heartbeat()
    await asyncio.to_thread(threading.Event().wait, 0.1)
    assert scheduler.heartbeat() == beats


# -- life --------------------------------------------------------------------------------------


async def test_heartbeat_advances_while_idle(make: MakeScheduler) -> None:
    scheduler = make()
    before = scheduler.heartbeat()
    await until(lambda: scheduler.heartbeat() >= before + 3)


async def test_heartbeat_stands_still_while_a_pass_hangs(make: MakeScheduler, gate: Gate) -> None:
    scheduler = make()
    running = await hold(gate, scheduler)
    before = scheduler.heartbeat()
    await asyncio.to_thread(threading.Event().wait, 0.1)
    assert scheduler.heartbeat() == before
    gate.open.set()
    await running


async def test_stop_finishes_what_is_queued(make: MakeScheduler, gate: Gate) -> None:
    scheduler = make()
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
    scheduler = make()
    await hold(gate, scheduler)
    (waiting,) = await submit_all(scheduler, [[text(5)]])
    assert not await scheduler.stop(0.05)
    with pytest.raises(Unavailable):
        await waiting


async def test_passes_are_reported(make: MakeScheduler) -> None:
    passes: list[Pass] = []
    scheduler = make(observe=passes.append)
    await scheduler.submit([text(10), text(11)])
    (only,) = passes
    assert (only.texts, only.tokens, only.padded, only.failed) == (2, 21, 22, False)
    assert 0 < only.seconds < DEADLINE


async def test_idle_thread_takes_a_text_at_once(make: MakeScheduler) -> None:
    # Idle wakes are a minute apart: an answer within a second proves that nothing waits for them.
    scheduler = make(idle_seconds=60.0)
    await scheduler.submit([text(1)])
    began = time.perf_counter()
    await scheduler.submit([text(1)])
    assert time.perf_counter() - began < 1.0
