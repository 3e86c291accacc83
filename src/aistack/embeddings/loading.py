"""Loading the model: tried again where that may help, and given time while it advances."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from contextlib import asynccontextmanager, suppress
from contextvars import copy_context
from functools import partial
from pathlib import Path
from typing import TypeVar

from aistack.config import EmbeddingsConfig
from aistack.embeddings.encoder import Encoder
from aistack.embeddings.engines import open_encoder
from aistack.embeddings.lanes import LANE, bound
from aistack.models import ModelFiles
from aistack.service.errors import StartError
from aistack.service.lifecycle import Runtime

T = TypeVar("T")

#: Attempts to load the model, and the pause before the second (doubled before the third), for
#: what may pass: a disk that is not mounted yet, memory that another service gives back.
LOAD_ATTEMPTS = 3
LOAD_PAUSE_SECONDS = 1.0
#: How often it is looked whether loading advances, and how long it is then allowed to go on.
LOOK_SECONDS = 5.0
EXTEND_SECONDS = 30.0
#: CPU seconds between two looks that count as an advance: a disk of 1 MB/s costs ten times as
#: much in hashing alone, a thread that waits for a dead disk costs none.
ADVANCE_SECONDS = 0.0002
#: Name of the thread that loads.
THREAD = "load"


async def load(config: EmbeddingsConfig, runtime: Runtime) -> tuple[ModelFiles, Encoder]:
    """The configured model in its engine; what may pass is tried again. Raises StartError."""
    return await tried(partial(_open, config), runtime, option="embeddings.model")


async def tried(opened: Callable[[], T], runtime: Runtime, *, option: str) -> T:
    """What `opened` gives, in a thread; what may pass is tried again. Raises StartError."""
    pause = LOAD_PAUSE_SECONDS
    for attempt in range(1, LOAD_ATTEMPTS + 1):
        try:
            return await _in_daemon(opened)
        except (StartError, OSError, MemoryError) as error:
            if not _may_pass(error):
                raise
            if attempt == LOAD_ATTEMPTS:
                raise StartError(
                    f"{option}: the model could not be loaded in {attempt} attempts"
                    f" ({type(error).__name__}: {error}): mend what it names and start again"
                ) from error
            runtime.status(f"loading the model: attempt {attempt} failed, trying again")
            await asyncio.sleep(pause)
            pause *= 2
    raise AssertionError("unreachable: the loop returns or raises")


async def _in_daemon(work: Callable[[], T]) -> T:
    """What `work` gives. No exit waits for its thread, as one does for those of asyncio.

    A disk that is dead may hold it for ever, and the process is to end and say so.
    """
    future: Future[T] = Future()
    future.set_running_or_notify_cancel()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001 - whoever waits gets it
            future.set_exception(error)

    threading.Thread(target=copy_context().run, args=(run,), name=THREAD, daemon=True).start()
    return await asyncio.wrap_future(future)


def _open(config: EmbeddingsConfig) -> tuple[ModelFiles, Encoder]:
    # An engine's own threads stay where the thread was that made them.
    with bound(config.lane_cores):
        return open_encoder(config)


def _may_pass(error: BaseException) -> bool:
    """Whether a second attempt to load may do better: not for a missing or damaged file."""
    cause = error.__cause__ if isinstance(error, StartError) else error
    lasting = (FileNotFoundError, PermissionError, NotADirectoryError, IsADirectoryError)
    return isinstance(cause, (OSError, MemoryError)) and not isinstance(cause, lasting)


@asynccontextmanager
async def extended(runtime: Runtime, seconds: float) -> AsyncIterator[None]:
    """For at most so many seconds, asks for more time while the model's threads work.

    A slow disk advances and is waited for; one that hangs is not: the start's own limit ends it.
    """
    asking = asyncio.create_task(_ask(runtime, seconds), name="extend")
    try:
        yield
    finally:
        asking.cancel()
        with suppress(asyncio.CancelledError):
            await asking


async def _ask(runtime: Runtime, seconds: float) -> None:
    end = time.monotonic() + seconds
    seen = _worked()
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        left = end - time.monotonic()
        if left <= 0:
            return
        worked = _worked()
        if any(now - seen.get(thread, 0.0) >= ADVANCE_SECONDS for thread, now in worked.items()):
            runtime.extend(min(EXTEND_SECONDS, left))
        seen = worked


def _worked() -> dict[int, float]:
    """CPU seconds of the threads that load the model and warm it up, by their ids.

    Those of the exporter of traces, of metrics and of the event loop work while a disk is dead.
    """
    worked = {}
    for thread in threading.enumerate():
        if thread.name == THREAD or thread.name.startswith(LANE):
            path = Path(f"/proc/self/task/{thread.native_id}/schedstat")
            with suppress(OSError, ValueError, IndexError):  # it has just ended
                worked[thread.native_id or 0] = int(path.read_text().split()[0]) / 1e9
    return worked
