"""A small service on the real kit, run as a process by test_kit_process.py.

It takes the place of `embeddings`, so that it needs no entry of its own in stack.toml.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
import time
import types
from pathlib import Path

from aistack.config import Config
from aistack.service import app as kit
from aistack.service.run import serve

#: The slow route answers when this file is there: it can be made while the service drains.
RELEASE = Path(sys.argv[1]).with_name("release")


class Worker(threading.Thread):
    """Advances its counter until it is told to hang."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.beats = 0
        self.hang = threading.Event()

    def run(self) -> None:
        while not self.hang.wait(0.01):
            self.beats += 1


def create(_config: Config) -> kit.Service:
    router = kit.service_router()
    worker = Worker()
    entered = asyncio.Event()

    @router.get("/embed/slow", **kit.scope("embed"))
    async def slow() -> dict[str, bool]:
        entered.set()
        while not RELEASE.exists():
            await asyncio.sleep(0.01)
        return {"done": True}

    @router.get("/embed/entered", **kit.scope("embed"))
    async def is_entered() -> dict[str, bool]:
        await entered.wait()
        return {"entered": True}

    @router.get("/embed/spared", **kit.scope("embed"))
    async def spared() -> dict[str, int]:
        gc.collect()
        return {
            "spared": gc.get_freeze_count(),
            "looked_at": len(gc.get_objects()),
            "young": gc.get_threshold()[0],
        }

    @router.post("/embed/hang-worker", **kit.scope("embed"))
    async def hang_worker() -> dict[str, bool]:
        worker.hang.set()
        return {"hung": True}

    @router.post("/embed/hang-loop", **kit.scope("embed"))
    async def hang_loop() -> None:
        time.sleep(3600)  # noqa: ASYNC251 - the fault that the watchdog is for

    async def start(_runtime: kit.Runtime) -> None:
        worker.start()

    return kit.Service("embeddings", router, start, heartbeats=(lambda: worker.beats,))


if __name__ == "__main__":
    module = types.ModuleType("aistack.embeddings.app")
    module.create = create  # type: ignore[attr-defined]
    sys.modules["aistack.embeddings.app"] = module
    sys.exit(serve("embeddings", Path(sys.argv[1])))
