"""Whether the service's resident set grows under load."""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import psutil

from bench.embeddings.bars import Figure
from bench.embeddings.closed_loop import closed_loop
from bench.embeddings.machine import CLIENT_CORE, pinned
from bench.embeddings.service import running
from bench.embeddings.texts import batches, texts

BAR = 2.0
#: Of the time, before the growth is looked at: pools and arenas fill in the first minutes.
WARM_SHARE = 0.25
MIB = 1 << 20


def measure(state: Path, minutes: float) -> list[Figure]:
    """Texts of all lengths, singly and in batches, from 8 connections for so many minutes."""
    resident: list[float] = []
    with running(state) as service, pinned(CLIENT_CORE):
        parts = batches(texts("short", 512), 1) + batches(texts("mixed", 256), 8)
        requests = service.requests(parts)
        process = psutil.Process(service.pid)
        end = time.monotonic() + minutes * 60
        answered = 0
        while time.monotonic() < end:
            load = closed_loop(service.address, requests, connections=8, total=200)
            if load.count() != 200:
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
