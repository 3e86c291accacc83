"""Four times more than the service can do, for some seconds."""

from __future__ import annotations

import statistics
from pathlib import Path

from bench.embeddings.bars import Figure
from bench.embeddings.closed_loop import closed_loop, open_loop
from bench.embeddings.machine import CLIENT_CORE, pinned
from bench.embeddings.service import running
from bench.embeddings.texts import batches, texts

TIMES = 4
SECONDS = 8.0
#: Texts of a request: as many as make the refusals a good part of the requests, not all of them.
BATCH = 8
#: Texts that may wait: about a second's worth, so that the queue is full for most of the run.
QUEUE = 512
#: Requests at once for the peak: as many as the queue has room for.
PEAK_CLIENTS = QUEUE // BATCH - 8
GOODPUT_BAR, REFUSAL_BAR = 0.95, 0.10


def measure(state: Path, rounds: int) -> list[Figure]:
    """The peak of a closed loop, and an open loop at four times that rate, in turns."""
    goodput, refusals, advice, fives, lost = [], [], 0, 0, 0
    served, refused, peaks = [], [], []
    with running(state, options={"queue_texts": QUEUE, "client_batch": 256}) as service:
        requests = service.requests(batches(texts("short", 4096), BATCH))
        with pinned(CLIENT_CORE):
            closed_loop(service.address, requests, connections=16, total=100)
            for _ in range(rounds):
                calm = closed_loop(service.address, requests, connections=PEAK_CLIENTS, total=400)
                peak = calm.count() / calm.seconds
                load = open_loop(
                    service.address, requests, rate=TIMES * peak, seconds=SECONDS, settle=30
                )
                # Until the last served one came: what was taken is part of what was done.
                peaks.append(peak * BATCH)
                goodput.append(load.count() / load.whole / peak)
                served.append(load.median())
                refused.append(load.quantile(0.99, 429))
                refusals.append(load.count(429))
                advice += load.without_advice
                lost += load.count(0) + load.count(-1)
                fives += sum(n for status, n in load.statuses().items() if status >= 500)
    return [
        Figure(
            "peak", statistics.median(peaks), "texts/s", note=f"requests of {BATCH} short texts"
        ),
        Figure("goodput / peak", statistics.median(goodput), at_least=GOODPUT_BAR),
        Figure("refusals", statistics.median(refusals), "a run", at_least=1),
        Figure("answers of 5xx", fives, at_most=0),
        Figure("requests without an answer", lost, at_most=0),
        Figure("refusals without Retry-After", advice, at_most=0),
        Figure("p50 of what is served", 1e3 * statistics.median(served), "ms"),
        Figure("p99 of a refusal", 1e3 * statistics.median(refused), "ms"),
        Figure(
            "p99 of a refusal / p50 of what is served",
            statistics.median(a / b for a, b in zip(refused, served, strict=True)),
            at_most=REFUSAL_BAR,
        ),
    ]
