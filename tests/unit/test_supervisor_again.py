"""What the supervisor does about a program that cannot even be started, before and after it was."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
from pathlib import Path

import pytest

from aistack.dev.process import Child
from aistack.dev.unit import State
from aistack.service.errors import StartError
from fix_supervisor import python, started
from fix_wait import until

SLEEP = "import time; time.sleep(60)"


class Failing:
    """A step that raises while `error` is set."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error

    async def __call__(self) -> None:
        if self.error is not None:
            raise self.error


FAULTS = [
    StartError("the disk of /data is full: free some space"),
    OSError(errno.ENOSPC, "No space left on device"),
]


@pytest.mark.parametrize(
    ("step", "fault"), [("prepare", FAULTS[0]), ("prepare", FAULTS[1]), ("settle", FAULTS[0])]
)
async def test_a_failing_step_after_the_first_readiness_is_tried_again(
    tmp_path: Path, step: str, fault: Exception
) -> None:
    failing = Failing()
    program = python("disky", SLEEP, **{step: failing})
    async with started(tmp_path, program, python("other", SLEEP)) as world:
        watching = asyncio.create_task(world.supervisor.wait())
        disky, other = world.unit("disky"), world.unit("other").pid
        failing.error = fault
        old = disky.pid
        assert old is not None
        os.kill(old, signal.SIGKILL)
        await until(lambda: disky.restarts >= 2)
        words = [event.words for event in world.events if event.state is State.PAUSING]
        assert "SIGKILL" in words[0]
        assert str(fault.args[-1]).rsplit(":")[0] in words[1]
        assert words[1].endswith("again in 0.4 s"), "the pause did not grow"
        assert not watching.done(), "one part ended the whole stack"
        assert world.unit("other").pid == other
        failing.error = None
        await until(disky.ready.is_set)
        watching.cancel()


async def test_a_failing_fork_after_the_first_readiness_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with started(tmp_path, python("poor", SLEEP)) as world:
        watching = asyncio.create_task(world.supervisor.wait())
        poor = world.unit("poor")
        assert poor.pid is not None

        async def refuse(*_: object, **__: object) -> Child:
            raise OSError(errno.EAGAIN, "Resource temporarily unavailable")

        with monkeypatch.context() as patched:
            patched.setattr(Child, "start", refuse)
            os.kill(poor.pid, signal.SIGKILL)
            await until(lambda: poor.restarts == 2)
            assert not watching.done()
        await until(poor.ready.is_set)
        words = [event.words for event in world.events if event.state is State.PAUSING]
        assert words[1].startswith("poor cannot be started: Resource temporarily unavailable")
        watching.cancel()


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: type(fault).__name__)
async def test_the_same_before_the_first_readiness_ends_the_start(
    tmp_path: Path, fault: Exception
) -> None:
    with pytest.raises(StartError, match=r"the disk of /data|cannot be started: No space left"):
        async with started(tmp_path, python("disky", SLEEP, prepare=Failing(fault))):
            pytest.fail("it started")


async def test_a_oneshot_that_is_not_needed_is_done_without_a_process(tmp_path: Path) -> None:
    mark = tmp_path / "ran"

    async def unneeded() -> bool:
        return True

    once = python("once", f"open({str(mark)!r}, 'w')", oneshot=True, unneeded=unneeded)
    then = python("then", SLEEP, needs=frozenset({"once"}))
    async with started(tmp_path, once, then) as world:
        assert world.unit("once").state is State.DONE
        assert world.unit("once").child is None
    assert not mark.exists()
