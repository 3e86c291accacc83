"""From the first instruction to the last: start, readiness, watchdog, drain."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress

import structlog

from aistack.service import metrics
from aistack.service.errors import StartError
from aistack.service.notify import Notifier

log = structlog.get_logger()

#: How much longer than the start itself its supervisor is asked to wait, in seconds: so that a
#: start that takes too long ends by itself, with a line that says where it was.
EXTEND_MARGIN = 5.0


class Runtime:
    """The state of this process that its parts share; belongs to the event loop."""

    def __init__(self, notifier: Notifier, *, start_seconds: float) -> None:
        self.started = False
        self.draining = False
        self.progress = "starting"
        self.failure: StartError | None = None
        #: Called when the start has failed, so that the server ends.
        self.on_failure: Callable[[], None] = lambda: None
        #: Called when the start's work is done, before anybody is told.
        self.on_started: Callable[[], None] = lambda: None
        self._settled = asyncio.Event()
        self._notifier = notifier
        self._start_seconds = start_seconds
        self._start_clock: asyncio.Timeout | None = None
        self._born = time.monotonic()

    def status(self, text: str) -> None:
        """What the service is doing: `systemctl status` and `/readyz` show it."""
        self.progress = text
        self._notifier.send(f"STATUS={text}")

    async def wait_started(self, seconds: float) -> bool:
        """Whether the service has started; waits at most so long, less where it never will."""
        if not (self.started or self.draining or self.failure):
            with suppress(TimeoutError):
                await asyncio.wait_for(self._settled.wait(), seconds)
        return self.started

    def extend(self, seconds: float) -> None:
        """From now the start has at least so many seconds, here and at the supervisor's.

        Nothing happens when no start is under way: it has ended, or its time is already over.
        """
        clock = self._start_clock
        if clock is None or clock.expired():
            return
        until = asyncio.get_running_loop().time() + seconds
        if (limit := clock.when()) is not None and limit < until:
            clock.reschedule(until)
        self._notifier.send(f"EXTEND_TIMEOUT_USEC={int((seconds + EXTEND_MARGIN) * 1e6)}")

    def uptime(self) -> float:
        """Seconds since this process made its runtime."""
        return time.monotonic() - self._born

    def drain(self) -> None:
        """From now on answers close their connections; `/readyz` says draining."""
        if not self.draining:
            self.draining = True
            self._settled.set()
            metrics.READY.set(0)
            self._notifier.send("STOPPING=1", "STATUS=draining")
            log.info("draining")

    @asynccontextmanager
    async def running(
        self,
        start: Callable[[Runtime], Awaitable[None]],
        stop: Callable[[], Awaitable[None]],
        heartbeats: Sequence[Callable[[], int]],
    ) -> AsyncIterator[None]:
        """Starts in the background, so that early callers wait or are told, and are not refused."""
        starting = asyncio.create_task(self._start(start), name="start")
        watchdog = asyncio.create_task(self._watchdog(heartbeats), name="watchdog")
        try:
            yield
        finally:
            for task in (starting, watchdog):
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
            await stop()

    async def _start(self, start: Callable[[Runtime], Awaitable[None]]) -> None:
        began = time.monotonic()
        try:
            async with asyncio.timeout(self._start_seconds) as clock:
                self._start_clock = clock
                try:
                    await start(self)
                finally:
                    self._start_clock = None
        except StartError as error:
            self._fail(error)
        except TimeoutError as error:
            if not clock.expired():
                self._fail(_unexpected(error))
                return
            # The limit itself where nobody asked for more.
            seconds = max(self._start_seconds, round(time.monotonic() - began))
            self._fail(StartError(f"not ready within {seconds:g} s; last: {self.progress}"))
        except Exception as error:  # noqa: BLE001 - the start's boundary: the process ends with it
            self._fail(_unexpected(error))
        else:
            self.on_started()
            self.started = True
            self._settled.set()
            self.progress = "ready"
            metrics.READY.set(1)
            self._notifier.send("READY=1", "STATUS=ready")
            log.info("ready", seconds=round(self.uptime(), 2))

    def _fail(self, error: StartError) -> None:
        self.failure = error
        self._settled.set()
        self._notifier.send(f"STATUS={error}")
        self.on_failure()

    async def _watchdog(self, heartbeats: Sequence[Callable[[], int]]) -> None:
        """Keeps the supervisor's watchdog fed while the loop and every worker advance.

        This task itself is the loop's proof of life.
        """
        limit = self._notifier.watchdog_seconds
        if limit is None:
            return
        seen = [beat() for beat in heartbeats]
        while True:
            self._notifier.send("WATCHDOG=1")
            await asyncio.sleep(limit / 3)
            while self.started:
                now = [beat() for beat in heartbeats]
                stuck = any(new == old for new, old in zip(now, seen, strict=True))
                if not stuck:
                    seen = now
                    break
                metrics.WATCHDOG_SKIPPED.inc()
                log.warning("worker_stuck", heartbeats=now)
                await asyncio.sleep(limit / 3)


def _unexpected(error: Exception) -> StartError:
    log.error("start_failed", exc_info=error)
    return StartError(f"the start failed ({type(error).__name__}); the log has the traceback")
