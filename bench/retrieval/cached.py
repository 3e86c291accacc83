"""A cached search against an authenticated no-op route of the same kit, and against itself anew."""

from __future__ import annotations

import json
import statistics
import tempfile
from pathlib import Path

from bench.embeddings.bars import Figure
from bench.retrieval.large import COLLECTION
from bench.retrieval.noop import PATH, noop_service
from bench.retrieval.stand import Stand, body, milliseconds
from bench.retrieval.synthetic import anew

QUERIES = 40
REPEATS = 10


def measure(stand: Stand, chunks: int) -> list[Figure]:
    """Each query once anew, then from the cache in turns with the no-op route."""
    seconds: dict[str, list[float]] = {"first": [], "cached": [], "no-op": []}
    with (
        tempfile.TemporaryDirectory(prefix="an-") as directory,
        noop_service(stand, Path(directory)) as socket,
    ):
        search, noop = stand.route(), stand.route(socket)
        for query in anew(4).queries(QUERIES):
            asked = body(query, COLLECTION)
            taken, answer = search.post("/v1/search", asked)
            if json.loads(answer)["cached"]:
                raise SystemExit("a query that was new is cached: restart the stack's Redis")
            seconds["first"].append(taken)
            for _ in range(REPEATS):
                taken, answer = search.post("/v1/search", asked)
                if not json.loads(answer)["cached"]:
                    raise SystemExit("a repeated query is not cached")
                seconds["cached"].append(taken)
                seconds["no-op"].append(noop.post(PATH, asked)[0])
        search.close()
        noop.close()
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    found = [
        Figure(f"{name}, {share}", value, "ms")
        for name, values in seconds.items()
        for share, value in milliseconds(values).items()
    ]
    return [
        *found,
        Figure("cached / no-op route, p50", medians["cached"] / medians["no-op"], at_most=1.5),
        Figure("first / cached, p50", medians["first"] / medians["cached"]),
    ]
