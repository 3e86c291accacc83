"""The guard of dependencies: breaker, retry, deadline, bulkhead."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest
from prometheus_client import REGISTRY

from aistack.clients.resilience import Breaker, Dependency, Transient
from aistack.service.context import deadline
from aistack.service.errors import DeadlineExceeded, NotFound, Overloaded, Unavailable


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def failing(error: BaseException) -> Callable[[], Awaitable[None]]:
    async def fn() -> None:
        raise error

    return fn


async def fine() -> str:
    return "fine"


def state_of(it: Dependency | Breaker) -> str:
    """Its state, read anew: mypy takes an attribute for unchanged between two lines."""
    return it.state


def value(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


def breaker(name: str, clock: Clock) -> Breaker:
    return Breaker(name, failures=3, window=10, cooldown=2, clock=clock)


async def test_breaker_opens_after_the_limit_and_refuses_without_calling() -> None:
    clock = Clock()
    guard = Dependency("b-opens", timeout=1, breaker=breaker("b-opens", clock))
    for _ in range(3):
        with pytest.raises(Unavailable):
            await guard.call("op", failing(Transient("down")))
    assert guard.state == "open"
    called = False

    async def spy() -> None:
        nonlocal called
        called = True

    with pytest.raises(Unavailable) as refused:
        await guard.call("op", spy)
    assert not called
    assert refused.value.retry_after is not None
    assert value("aistack_dependency_breaker_state", dependency="b-opens") == 2
    assert (
        value(
            "aistack_dependency_calls_total",
            dependency="b-opens",
            operation="op",
            outcome="refused",
        )
        == 1
    )


async def test_half_open_lets_one_probe_through_and_its_success_closes() -> None:
    clock = Clock()
    guard = Dependency("b-probe", timeout=5, breaker=breaker("b-probe", clock))
    for _ in range(3):
        with pytest.raises(Unavailable):
            await guard.call("op", failing(ConnectionRefusedError()))
    clock.now += 2
    release = asyncio.Event()

    async def slow() -> None:
        await release.wait()

    probe = asyncio.create_task(guard.call("op", slow))
    while guard.state != "half_open":
        await asyncio.sleep(0)
    with pytest.raises(Unavailable):
        await guard.call("op", fine)
    release.set()
    await probe
    assert state_of(guard) == "closed"
    assert await guard.call("op", fine) == "fine"


async def test_half_open_probe_that_fails_opens_again() -> None:
    clock = Clock()
    guard = Dependency("b-again", timeout=5, breaker=breaker("b-again", clock))
    for _ in range(3):
        with pytest.raises(Unavailable):
            await guard.call("op", failing(TimeoutError()))
    clock.now += 2
    with pytest.raises(Unavailable):
        await guard.call("op", failing(Transient("still down")))
    assert guard.state == "open"
    with pytest.raises(Unavailable):
        await guard.call("op", fine)


async def test_cancelled_probe_frees_the_place_of_the_probe() -> None:
    clock = Clock()
    guard = Dependency("b-cancel", timeout=5, breaker=breaker("b-cancel", clock))
    for _ in range(3):
        with pytest.raises(Unavailable):
            await guard.call("op", failing(Transient("down")))
    clock.now += 2
    probe = asyncio.create_task(guard.call("op", asyncio.Event().wait))
    while guard.state != "half_open":
        await asyncio.sleep(0)
    probe.cancel()
    with pytest.raises(asyncio.CancelledError):
        await probe
    assert await guard.call("op", fine) == "fine"
    assert state_of(guard) == "closed"


def test_late_answer_from_before_the_opening_is_not_the_probes() -> None:
    clock = Clock()
    tested = breaker("b-late", clock)
    early = tested.admit()
    for _ in range(3):
        tested.failure(tested.admit())
    assert state_of(tested) == "open"
    clock.now += 2
    probe = tested.admit()
    tested.success(early)
    assert state_of(tested) == "half_open"
    tested.failure(early)
    assert state_of(tested) == "half_open"
    tested.success(probe)
    assert state_of(tested) == "closed"


def test_failures_spread_over_more_than_the_window_do_not_open() -> None:
    clock = Clock()
    tested = breaker("b-window", clock)
    for _ in range(6):
        tested.failure(tested.admit())
        clock.now += 6
    assert tested.state == "closed"


async def test_own_refusal_of_the_dependency_is_a_sign_of_life() -> None:
    clock = Clock()
    guard = Dependency("b-life", timeout=1, breaker=breaker("b-life", clock))
    for _ in range(10):
        with pytest.raises(NotFound):
            await guard.call("op", failing(NotFound("no such thing")), retry=True)
    assert guard.state == "closed"
    assert (
        value(
            "aistack_dependency_calls_total",
            dependency="b-life",
            operation="op",
            outcome="rejected",
        )
        == 10
    )


async def test_retry_tries_again_only_where_it_is_allowed() -> None:
    guard = Dependency("r-retry", timeout=5, attempts=3, backoff=0.001)
    calls = 0

    async def flaky() -> str:
        nonlocal calls
        calls += 1
        if calls < 3:
            raise Transient("not yet")
        return "done"

    assert await guard.call("op", flaky, retry=True) == "done"
    assert calls == 3
    assert value("aistack_dependency_retries_total", dependency="r-retry", operation="op") == 2
    calls = 0
    with pytest.raises(Unavailable):
        await guard.call("op", flaky)
    assert calls == 1


async def test_no_pause_goes_beyond_the_time_of_the_call() -> None:
    # The pause is random, of up to two seconds: nearly always longer than the call may take.
    guard = Dependency("r-late", timeout=0.01, backoff=60)
    for _ in range(3):
        with pytest.raises(Unavailable, match="r-late is not available"):
            await guard.call("op", failing(Transient("down")), retry=True)


async def test_a_pause_that_took_too_long_leaves_the_failure_as_it_was() -> None:
    guard = Dependency("r-slept", timeout=0.02, backoff=0.001)
    calls = 0

    async def down() -> None:
        nonlocal calls
        calls += 1
        # Something keeps the event loop busy while the pause ends.
        asyncio.get_running_loop().call_soon(time.sleep, 0.03)
        raise Transient("down")

    with pytest.raises(Unavailable, match="r-slept is not available"):
        await guard.call("op", down, retry=True)
    assert calls == 1


async def test_retry_after_of_the_dependency_reaches_the_caller() -> None:
    guard = Dependency("r-after", timeout=5)
    with pytest.raises(Unavailable) as error:
        await guard.call("op", failing(Transient("busy", retry_after=7)))
    assert error.value.retry_after == 7


async def test_failure_of_another_dependency_within_is_not_this_ones() -> None:
    clock = Clock()
    outer = Dependency("o-outer", timeout=5, breaker=breaker("o-outer", clock))
    inner = Dependency("o-inner", timeout=5, breaker=breaker("o-inner", clock))

    async def through() -> None:
        await inner.call("op", failing(Transient("down")))

    for _ in range(6):
        with pytest.raises(Unavailable, match="o-inner"):
            await outer.call("op", through, retry=True)
    assert state_of(inner) == "open"
    assert state_of(outer) == "closed"
    with pytest.raises(Unavailable, match="while it is filled"):
        await outer.call("op", failing(Unavailable("Not while it is filled.")))
    assert state_of(outer) == "closed"


async def test_failure_that_another_attempt_cannot_mend_is_not_tried_again() -> None:
    guard = Dependency("r-final", timeout=5, backoff=0.001)
    calls = 0

    async def refused() -> None:
        nonlocal calls
        calls += 1
        raise Transient("status 401", again=False)

    with pytest.raises(Unavailable):
        await guard.call("op", refused, retry=True)
    assert calls == 1


async def test_fault_of_our_own_travels_and_says_nothing_about_the_dependency() -> None:
    clock = Clock()
    guard = Dependency("r-own", timeout=5, breaker=breaker("r-own", clock))
    for _ in range(5):
        with pytest.raises(ZeroDivisionError):
            await guard.call("op", failing(ZeroDivisionError()), retry=True)
    assert guard.state == "closed"


async def test_hung_dependency_is_cut_at_the_timeout_and_counted() -> None:
    guard = Dependency("d-hung", timeout=0.02)
    with pytest.raises(Unavailable):
        await guard.call("op", asyncio.Event().wait)
    assert (
        value(
            "aistack_dependency_calls_total",
            dependency="d-hung",
            operation="op",
            outcome="failed",
        )
        == 1
    )


async def test_deadline_of_the_request_cuts_the_call_and_blames_nobody() -> None:
    clock = Clock()
    guard = Dependency(
        "d-request", timeout=30, breaker=Breaker("d-request", failures=1, clock=clock)
    )
    token = deadline.set(time.monotonic() + 0.02)
    try:
        with pytest.raises(DeadlineExceeded):
            await guard.call("op", asyncio.Event().wait)
        assert guard.state == "closed"
        deadline.set(time.monotonic() - 1)
        with pytest.raises(DeadlineExceeded):
            await guard.call("op", fine)
    finally:
        deadline.reset(token)


async def test_bulkhead_refuses_what_waits_too_long() -> None:
    guard = Dependency("bulk", timeout=5, concurrency=1, queue_seconds=0.02)
    entered, release = asyncio.Event(), asyncio.Event()

    async def hold() -> None:
        entered.set()
        await release.wait()

    holder = asyncio.create_task(guard.call("op", hold))
    await entered.wait()
    with pytest.raises(Overloaded):
        await guard.call("op", fine)
    release.set()
    await holder
    assert await guard.call("op", fine) == "fine"
