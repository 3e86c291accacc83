"""A child's end, when the event loop ends right after it."""

from __future__ import annotations

import subprocess
import sys

_CANCELLED = """
import asyncio, gc
from aistack.dev.process import Child

async def work(started):
    child = await Child.start("x", ["sleep", "30"])
    try:
        started.set()
        await child.wait()
    finally:
        await child.end()
        assert child.returncode == -9

async def main():
    started = asyncio.Event()
    task = asyncio.create_task(work(started))
    await started.wait()
    task.cancel()
    assert isinstance((await asyncio.gather(task, return_exceptions=True))[0], BaseException)

asyncio.run(main())
gc.collect()
"""


def test_nothing_is_said_by_a_closed_loop() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _CANCELLED],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
