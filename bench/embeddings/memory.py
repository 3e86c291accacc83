"""Whether the service's resident set grows under load."""

from __future__ import annotations

import random
import statistics
import time
from pathlib import Path

import psutil

from bench.embeddings.bars import Figure
from bench.embeddings.closed_loop import closed_loop
from bench.embeddings.machine import CLIENT_CORE, pinned
from bench.embeddings.service import running
from bench.embeddings.texts import texts

BAR = 2.0
#: Of the time, before the growth is looked at: pools and arenas fill in the first minutes.
WARM_SHARE = 0.25
MIB = 1 << 20
#: Requests of one turn.
TURN = 200


def measure(state: Path, minutes: float) -> list[Figure]:
    """Texts of all lengths in requests of 1 to 24, from 8 connections for so many minutes.

    Each turn draws its requests anew, so that the passes have ever other shapes.
    """
    random_ = random.Random(0)
    resident: list[float] = []
    with running(state) as service, pinned(CLIENT_CORE):
        given = texts("short", 512) + texts("mixed", 512)
        process = psutil.Process(service.pid)
        end = time.monotonic() + minutes * 60
        answered = 0
        while time.monotonic() < end:
            parts = [
                random_.sample(given, random_.choice([1, 1, 1, 2, 4, 8, 24])) for _ in range(TURN)
            ]
            requests = service.requests(parts)
            load = closed_loop(service.address, requests, connections=8, total=TURN)
            if load.count() != TURN:
                raise SystemExit(f"answers by status: {load.statuses()}")
            answered += load.count()
            resident.append(process.memory_info().rss / MIB)
    warm = resident[int(WARM_SHARE * len(resident)) :]
    piece = max(1, len(warm) // 5)
    before, after = statistics.median(warm[:piece]), statistics.median(warm[-piece:])
    return [
        Figure("answers", answered, note=f"in {minutes:g} minutes"),
        Figure("resident set, warm", before, "MiB"),
        Figure("resident set, at the end", after, "MiB"),
        Figure("growth", 100 * (after - before) / before, "%", at_most=BAR),
    ]
