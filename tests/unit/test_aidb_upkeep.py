"""The loops of aidb's upkeep: their heartbeats, and what ends them."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import psycopg
import pytest
import structlog

from aistack.aidb import upkeep
from aistack.aidb.jobs import Worker, end_tasks
from aistack.aidb.parts import Parts
from aistack.aidb.upkeep import Loop
from aistack.config import Config
from aistack.service.errors import Unavailable
from fix_wait import until


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "BEAT_SECONDS", 0.01)


class Turns:
    """Turns that the test scripts; the last one is repeated."""

    def __init__(self, *script: BaseException | bool) -> None:
        self.script = list(script)
        self.taken = 0

    async def __call__(self) -> bool:
        self.taken += 1
        what = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        if isinstance(what, BaseException):
            raise what
        return what


async def test_a_loop_beats_while_it_waits_for_its_next_turn() -> None:
    turns = Turns(False)
    loop = Loop("x", turns, 3600)
    task = asyncio.create_task(loop.run())
    await until(lambda: turns.taken == 1)
    before = loop.beats()
    await until(lambda: loop.beats() > before + 3)
    assert turns.taken == 1
    await end_tasks([task])


async def test_what_is_away_or_refused_by_the_database_is_logged_and_tried_again() -> None:
    turns = Turns(Unavailable("away"), psycopg.errors.UndefinedTable("what"), True, False)
    loop = Loop("x", turns, 0.01)
    with structlog.testing.capture_logs() as logs:
        task = asyncio.create_task(loop.run())
        await until(lambda: turns.taken >= 5)
        await end_tasks([task])
    assert [(one["event"], one["log_level"]) for one in logs] == [
        ("upkeep_waits", "warning"),
        ("upkeep_failed", "error"),
    ]


async def test_a_fault_ends_the_loop_loudly_and_its_heart_stops() -> None:
    loop = Loop("x", Turns(RuntimeError("nobody expected it")), 0.01)
    with structlog.testing.capture_logs() as logs:
        await asyncio.wait_for(loop.run(), 5)
    assert [(one["event"], one["loop"]) for one in logs] == [("upkeep_ended", "x")]
    assert isinstance(logs[0]["exc_info"], RuntimeError)


async def test_a_turn_that_hangs_stops_the_heart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "TURN_SECONDS", 0.05)
    hung = asyncio.Event()
    beats = []

    async def hang() -> bool:
        await hung.wait()
        return False

    loop = Loop("x", hang, 3600)
    monkeypatch.setattr(upkeep, "BEAT_SECONDS", 0.2)
    task = asyncio.create_task(loop.run())
    await until(lambda: loop.beats() == 1)
    # Two further looks at it, and no beat.
    original = asyncio.wait

    async def counted(*rest: Any, **keywords: Any) -> Any:
        beats.append(loop.beats())
        return await original(*rest, **keywords)

    monkeypatch.setattr(asyncio, "wait", counted)
    await until(lambda: len(beats) >= 2)
    assert set(beats) == {1}
    hung.set()
    await until(lambda: loop.beats() > 1)
    await end_tasks([task])


async def test_one_task_that_fails_keeps_no_other_from_its_end() -> None:
    async def fails_to_end() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise RuntimeError("at the end")

    async def ends() -> None:
        await asyncio.Event().wait()

    tasks = [asyncio.create_task(fails_to_end(), name="bad"), asyncio.create_task(ends())]
    await asyncio.sleep(0)
    with structlog.testing.capture_logs() as logs:
        await end_tasks(tasks)
    assert tasks[1].cancelled()
    assert [(one["event"], one["task"]) for one in logs] == [("task_failed", "bad")]


async def test_a_worker_that_ends_says_why() -> None:
    class Broken:
        async def run_worker_async(self, **_: Any) -> None:
            raise RuntimeError("nobody expected it")

    class Queue:
        app = Broken()
        connector = type("Connector", (), {"used": 0.0})()

    worker = Worker(cast(Any, Queue()), concurrency=1, drain_seconds=1)
    with structlog.testing.capture_logs() as logs:
        worker.start()
        await until(lambda: bool(logs))
        await worker.stop()
    assert logs[0]["event"] == "ingest_worker_ended"
    assert isinstance(logs[0]["exc_info"], RuntimeError)


async def test_every_loop_is_among_the_heartbeats_of_the_service() -> None:
    parts = Parts(Config())
    assert {loop.name for loop in parts.upkeep.loops} == {
        "sweep",
        "follow_model",
        "prune",
        "vector_index",
        "search_cache",
    }
    assert len(parts.heartbeats) == 1 + len(parts.upkeep.loops)
    assert [beat() for beat in parts.heartbeats] == [0] * len(parts.heartbeats)
    await parts.stop()
