"""One guard per dependency: deadline, bounded retry with jitter, breaker, bulkhead, span, metrics.

Every call to a dependency goes through its `Dependency`; nothing else in the project waits on
another process. The breaker is ours because the kept libraries either need a decorator per
function, or let more than one probe through in half-open, or have had no release in years.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import cache
from typing import Literal, TypeVar

import structlog
from opentelemetry.trace import SpanKind, Status, StatusCode
from prometheus_client import Counter, Histogram
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, wait_random_exponential

from aistack.service import metrics
from aistack.service.context import remaining
from aistack.service.errors import DeadlineExceeded, Overloaded, StackError, Unavailable
from aistack.service.tracing import tracer

T = TypeVar("T")
State = Literal["closed", "half_open", "open"]
log = structlog.get_logger()

_GAUGE: dict[State, int] = {"closed": 0, "half_open": 1, "open": 2}


class Breaker:
    """Opens after `failures` in a row within `window` seconds, lets one probe through after
    `cooldown` seconds.

    Not thread-safe: it belongs to one event loop.
    """

    def __init__(
        self,
        name: str,
        *,
        failures: int = 5,
        window: float = 10.0,
        cooldown: float = 2.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self.state: State = "closed"
        self._limit = failures
        self._window = window
        self._cooldown = cooldown
        self._clock = clock
        self._failed: deque[float] = deque(maxlen=failures)
        self._opened = 0.0
        self._probing = False
        metrics.BREAKER_STATE.labels(name).set(0)

    def admit(self) -> bool:
        """Lets a call through, telling whether it is the probe; else raises Unavailable.

        What it returns goes back into `success`, `failure` or `release`, so that the late answer
        of a call from before the opening is not taken for the probe's.
        """
        if self.state == "open":
            wait = self._opened + self._cooldown - self._clock()
            if wait > 0:
                raise self._refusal(wait)
            self._turn("half_open")
        if self.state == "half_open":
            if self._probing:
                raise self._refusal(self._cooldown)
            self._probing = True
            return True
        return False

    def success(self, probe: bool) -> None:
        """A call came back."""
        if probe:
            self._probing = False
            self._failed.clear()
            self._turn("closed")
        elif self.state == "closed":
            self._failed.clear()

    def failure(self, probe: bool) -> None:
        """A call failed for the dependency's own reasons."""
        now = self._clock()
        self._failed.append(now)
        full = len(self._failed) == self._limit and now - self._failed[0] <= self._window
        if probe or (self.state == "closed" and full):
            self._probing = False
            self._opened = now
            self._turn("open")

    def release(self, probe: bool) -> None:
        """A call ended without a verdict (cancelled, or refused by us): the probe is free again."""
        if probe:
            self._probing = False

    def _refusal(self, wait: float) -> Unavailable:
        return Unavailable(f"{self.name} is not available right now.", retry_after=max(1.0, wait))

    def _turn(self, to: State) -> None:
        log.warning("breaker", dependency=self.name, was=self.state, now=to)
        self.state = to
        metrics.BREAKER_STATE.labels(self.name).set(_GAUGE[to])
        metrics.BREAKER_CHANGES.labels(self.name, to).inc()


class Transient(Exception):
    """Raised by clients inside a guard for an answer that means that the dependency failed.

    `retry_after` is what the dependency asked for, in seconds. `again` is False where another
    attempt would end the same way: it refuses our own key, or gives nonsense.
    """

    def __init__(
        self, reason: str, *, retry_after: float | None = None, again: bool = True
    ) -> None:
        super().__init__(reason)
        self.retry_after = retry_after
        self.again = again


class Dependency:
    """The guard on the path of every call to one dependency.

    `transient` are the exceptions that mean that the dependency failed; they are counted by the
    breaker and, where `retry=True`, tried again with full jitter. A StackError below 500 raised
    inside is the dependency's own refusal: it passes, and counts as a sign of life. One of 500 and
    above is somebody else's, such as another dependency that is called within a transaction of this
    one: it passes, and says nothing about this one.
    """

    def __init__(
        self,
        name: str,
        *,
        timeout: float,
        transient: tuple[type[BaseException], ...] = (),
        attempts: int = 3,
        backoff: float = 0.1,
        concurrency: int = 64,
        queue_seconds: float = 5.0,
        breaker: Breaker | None = None,
    ) -> None:
        self.name = name
        self._timeout = timeout
        self._transient: tuple[type[BaseException], ...] = (
            *transient,
            Transient,
            TimeoutError,
            ConnectionError,
        )
        self._attempts = attempts
        self._backoff = backoff
        self._slots = asyncio.Semaphore(concurrency)
        self._queue_seconds = queue_seconds
        self.breaker = breaker or Breaker(name)

    @property
    def state(self) -> State:
        """The breaker's state."""
        return self.breaker.state

    async def call(
        self,
        operation: str,
        fn: Callable[[], Awaitable[T]],
        *,
        retry: bool = False,
        timeout: float | None = None,
    ) -> T:
        """`await fn()` under the guard; `timeout` (seconds) is of all attempts together."""
        end = time.monotonic() + (self._timeout if timeout is None else timeout)

        async def attempt() -> T:
            async with self.guard(operation, timeout=end - time.monotonic()):
                return await fn()

        if not retry:
            return await attempt()
        failure: Failed | None = None

        def enough(state: RetryCallState) -> bool:
            late = time.monotonic() + state.upcoming_sleep >= end
            return late or state.attempt_number >= self._attempts

        async for trial in AsyncRetrying(
            stop=enough,
            wait=wait_random_exponential(multiplier=self._backoff, max=2.0),
            retry=retry_if_exception(_retriable),
            reraise=True,
        ):
            with trial:
                if failure is not None:
                    if time.monotonic() >= end:
                        # The pause took longer than it should: what failed is still the answer.
                        raise failure
                    metrics.DEPENDENCY_RETRIES.labels(self.name, operation).inc()
                try:
                    return await attempt()
                except Failed as error:
                    failure = error
                    raise
        raise AssertionError("unreachable: tenacity returns or raises")

    @asynccontextmanager
    async def guard(self, operation: str, timeout: float | None = None) -> AsyncIterator[None]:
        """One attempt, for transactions and streams; `timeout` bounds the whole block."""
        own = self._timeout if timeout is None else timeout
        limit = remaining(own)
        if limit <= 0:
            raise DeadlineExceeded("The time for this request is used up.")
        try:
            probe = self.breaker.admit()
        except Unavailable:
            metrics.DEPENDENCY_CALLS.labels(self.name, operation, "refused").inc()
            raise
        try:
            await self._enter(operation, limit)
        except BaseException:
            self.breaker.release(probe)
            raise
        started = time.monotonic()
        outcome = "failed"
        try:
            with tracer.start_as_current_span(
                f"{self.name} {operation}",
                kind=SpanKind.CLIENT,
                attributes={"peer.service": self.name},
                record_exception=False,
                set_status_on_exception=False,
            ) as span:
                try:
                    async with asyncio.timeout(limit):
                        yield
                    outcome = "ok"
                    self.breaker.success(probe)
                except StackError as error:
                    if error.status < 500:
                        outcome = "rejected"
                        self.breaker.success(probe)
                    else:
                        outcome = "ended"
                        self.breaker.release(probe)
                    raise
                except self._transient as error:
                    if isinstance(error, TimeoutError) and limit < own:
                        # The caller's time ran out, not the dependency's.
                        outcome = "ended"
                        self.breaker.release(probe)
                        raise DeadlineExceeded("The time for this request is used up.") from error
                    span.set_status(Status(StatusCode.ERROR, type(error).__name__))
                    self.breaker.failure(probe)
                    log.warning(
                        "dependency_failed",
                        dependency=self.name,
                        operation=operation,
                        error=type(error).__name__,
                        reason=str(error)[:300],
                    )
                    raise Failed(self.name, error) from error
                except BaseException:
                    # Cancelled, or a fault of our own: it says nothing about the dependency.
                    outcome = "ended"
                    self.breaker.release(probe)
                    raise
        finally:
            self._slots.release()
            took, ended = _series(self.name, operation, outcome)
            took.observe(time.monotonic() - started)
            ended.inc()

    async def _enter(self, operation: str, limit: float) -> None:
        if not self._slots.locked():
            # There is nothing to wait for: a clock would cost as much as the rest of the guard.
            await self._slots.acquire()
            return
        try:
            async with asyncio.timeout(min(limit, self._queue_seconds)):
                await self._slots.acquire()
        except TimeoutError:
            metrics.DEPENDENCY_CALLS.labels(self.name, operation, "full").inc()
            raise Full(f"Too many calls to {self.name} at once.") from None


@cache
def _series(name: str, operation: str, outcome: str) -> tuple[Histogram, Counter]:
    """Looked up once: as many as there are series."""
    return (
        metrics.DEPENDENCY_SECONDS.labels(name, operation),
        metrics.DEPENDENCY_CALLS.labels(name, operation, outcome),
    )


class Full(Overloaded):
    """This process itself has all the calls under way to a dependency that it may have."""


class Failed(Unavailable):
    """The dependency failed: what is tried again, where its cause allows it (`again`).

    `answered` tells a dependency that said that it cannot from one that is away or hangs.
    """

    def __init__(self, name: str, cause: BaseException) -> None:
        asked = cause.retry_after if isinstance(cause, Transient) else None
        super().__init__(f"{name} is not available right now.", retry_after=asked)
        self.again = cause.again if isinstance(cause, Transient) else True
        self.answered = isinstance(cause, Transient)


def _retriable(error: BaseException) -> bool:
    return isinstance(error, Failed) and error.again
