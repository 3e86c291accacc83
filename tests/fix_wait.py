"""Waiting in tests: for a condition, never for a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

#: Between two looks, with the event loop free.
PAUSE_SECONDS = 0.005


async def until(holds: Callable[[], bool], seconds: float = 30) -> None:
    """Return once it holds; fails the test after `seconds`."""
    try:
        async with asyncio.timeout(seconds):
            while not holds():
                await asyncio.sleep(PAUSE_SECONDS)
    except TimeoutError:
        pytest.fail(f"not within {seconds} s")
