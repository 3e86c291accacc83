"""Loading the model: tried again where that may help, and given time while it advances."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from aistack.config import EmbeddingsConfig
from aistack.embeddings.encoder import Encoder
from aistack.embeddings.engines import open_encoder
from aistack.embeddings.lanes import bound
from aistack.models import ModelFiles
from aistack.service.errors import StartError
from aistack.service.lifecycle import Runtime

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


async def load(config: EmbeddingsConfig, runtime: Runtime) -> tuple[ModelFiles, Encoder]:
    """The configured model in its engine; what may pass is tried again. Raises StartError."""
    pause = LOAD_PAUSE_SECONDS
    for attempt in range(1, LOAD_ATTEMPTS + 1):
        try:
            return await asyncio.to_thread(_open, config)
        except (StartError, OSError, MemoryError) as error:
            if not _may_pass(error):
                raise
            if attempt == LOAD_ATTEMPTS:
                raise StartError(
                    f"embeddings.model: the model could not be loaded in {attempt} attempts"
                    f" ({type(error).__name__}: {error}): mend what it names and start again"
                ) from error
            runtime.status(f"loading the model: attempt {attempt} failed, trying again")
            await asyncio.sleep(pause)
            pause *= 2
    raise AssertionError("unreachable: the loop returns or raises")


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
    """For at most so many seconds, asks for more time while other threads than this one work.

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
        if worked - seen >= ADVANCE_SECONDS:
            runtime.extend(min(EXTEND_SECONDS, left))
        seen = worked


def _worked() -> float:
    """CPU seconds of this process's threads but the event loop's, which is the caller's."""
    mine = time.thread_time()
    return time.process_time() - mine
