"""A cached search against an authenticated no-op route of the same kit, and against itself anew.

Both are served by processes that are started here in the same way. Frequent hits follow each other
at once and are answered from memory; seldom ones are further apart than that holds, and make one
round trip to PostgreSQL for the collection's epoch. The no-op route that asks PostgreSQL `SELECT 1`
shows how much that is.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from aistack.aidb.search_memory import HOLD_SECONDS
from bench.embeddings.bars import Figure
from bench.retrieval.large import COLLECTION
from bench.retrieval.noop import ASKING, PATH, beside
from bench.retrieval.stand import Route, Stand, body, milliseconds
from bench.retrieval.synthetic import anew

QUERIES = 40
REPEATS = 50
SELDOM_REPEATS = 3


def measure(stand: Stand, chunks: int) -> list[Figure]:
    """All queries once anew, then each from the cache in turns with the no-op routes."""
    with (
        tempfile.TemporaryDirectory(prefix="an-") as place,
        beside(stand, Path(place), "n", ["-m", "bench.retrieval.noop"]) as noop,
        beside(stand, Path(place), "a", ["-m", "aistack", "serve", "aidb", "--config"]) as aidb,
    ):
        seconds = _seconds(stand.route(aidb), stand.route(noop))
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    found = [
        Figure(f"{name}, {share}", value, "ms")
        for name, values in seconds.items()
        for share, value in milliseconds(values).items()
    ]
    return [
        *found,
        Figure("cached / no-op", _in_turns(seconds, "cached", "no-op"), at_most=1.5,
               note="median of the turns' p50"),
        Figure("seldom: cached / no-op, p50", medians["seldom"] / medians["seldom no-op"]),
        Figure("no-op that asks PostgreSQL / no-op", _in_turns(seconds, "asking", "no-op")),
        Figure("first / cached, p50", medians["first"] / medians["cached"]),
    ]  # fmt: skip


def _in_turns(seconds: Mapping[str, Sequence[float]], one: str, other: str) -> float:
    """The median over the turns, of which each has REPEATS of both: the machine wanders."""
    starts = range(0, len(seconds[one]), REPEATS)
    ones, others = (
        [statistics.median(seconds[name][start : start + REPEATS]) for start in starts]
        for name in (one, other)
    )
    return statistics.median(a / b for a, b in zip(ones, others, strict=True))


def _seconds(search: Route, noop: Route) -> dict[str, list[float]]:
    names = ("first", "cached", "no-op", "asking", "seldom", "seldom no-op")
    seconds: dict[str, list[float]] = {name: [] for name in names}
    asked = [body(query, COLLECTION) for query in anew(4).queries(QUERIES)]
    for one in asked:
        taken, answer = search.post("/v1/search", one)
        if json.loads(answer)["cached"]:
            raise SystemExit("a query that was new is cached")
        seconds["first"].append(taken)
    for one in asked:
        # In runs of each: a process that has just slept is slower, whatever it does.
        seconds["cached"] += [_cached(search, one) for _ in range(REPEATS)]
        for name, path in (("no-op", PATH), ("asking", ASKING)):
            seconds[name] += [noop.post(path, one)[0] for _ in range(REPEATS)]
    # By themselves: whatever comes after a pause is slower.
    for one in asked:
        for _ in range(SELDOM_REPEATS):
            time.sleep(2 * HOLD_SECONDS)
            seconds["seldom"].append(_cached(search, one))
            time.sleep(2 * HOLD_SECONDS)
            seconds["seldom no-op"].append(noop.post(PATH, one)[0])
    search.close()
    noop.close()
    return seconds


def _cached(search: Route, asked: bytes) -> float:
    taken, answer = search.post("/v1/search", asked)
    if not json.loads(answer)["cached"]:
        raise SystemExit("a repeated query is not cached")
    return taken
