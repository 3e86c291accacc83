"""Real readiness: each need is probed through its client, at most once a second."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import structlog

from aistack.service import metrics

log = structlog.get_logger()

CACHE_SECONDS = 1.0
PROBE_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Need:
    """A dependency. `probe` raises when it is not good; `breaker` tells its breaker's state."""

    name: str
    required: bool
    probe: Callable[[], Awaitable[None]]
    breaker: Callable[[], str] | None = None


@dataclass(frozen=True, slots=True)
class NeedState:
    """What the last probe found; `seconds` is how long it took."""

    name: str
    required: bool
    up: bool
    seconds: float
    breaker: str | None
    reason: str | None


class Readiness:
    """Answers for `/readyz`."""

    def __init__(self, needs: Sequence[Need]) -> None:
        self._needs = needs
        self._states: list[NeedState] = []
        self._taken = float("-inf")
        self._lock = asyncio.Lock()

    async def states(self) -> list[NeedState]:
        """The state of every need, not older than a second; simultaneous callers share one look."""
        async with self._lock:
            if time.monotonic() - self._taken >= CACHE_SECONDS:
                self._states = list(await asyncio.gather(*map(self._probe, self._needs)))
                self._taken = time.monotonic()
            return self._states

    async def _probe(self, need: Need) -> NeedState:
        started = time.monotonic()
        reason: str | None = None
        try:
            async with asyncio.timeout(PROBE_SECONDS):
                await need.probe()
        except Exception as error:  # noqa: BLE001 - whatever a probe raises means "not up"
            # What the dependency itself said, where a client of ours wrapped it.
            reason = type(error.__cause__ or error).__name__
            log.debug("probe_failed", need=need.name, error=reason, reason=str(error)[:200])
        kind = "required" if need.required else "degrades"
        metrics.NEED_UP.labels(need.name, kind).set(reason is None)
        return NeedState(
            name=need.name,
            required=need.required,
            up=reason is None,
            seconds=round(time.monotonic() - started, 4),
            breaker=need.breaker() if need.breaker else None,
            reason=reason,
        )


def summary(
    states: Sequence[NeedState], *, started: bool, draining: bool, progress: str
) -> tuple[int, dict[str, Any]]:
    """Status code and body of `/readyz`: 503 for a required need, a start or a drain."""
    missing = [state for state in states if not state.up]
    if draining:
        status, code = "draining", 503
    elif not started:
        status, code = "starting", 503
    elif any(state.required for state in missing):
        status, code = "not_ready", 503
    elif missing:
        status, code = "degraded", 200
    else:
        status, code = "ready", 200
    return code, {
        "status": status,
        "progress": progress,
        "needs": [
            {
                "name": state.name,
                "required": state.required,
                "up": state.up,
                "seconds": state.seconds,
                "breaker": state.breaker,
                "reason": state.reason,
            }
            for state in states
        ],
    }
