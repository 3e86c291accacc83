"""What the service adds: a search over HTTP against the same work in this process.

In process: the query is embedded by the same encoder, and the service's own searcher sends the same
statements on a pool of its own; no HTTP, keys, logs or caches. Both sides get the same queries, new
to both, in turns; which is first changes with every query.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from aistack.aidb.search_model import SearchRequest
from bench.corpus import LocalEncoder
from bench.embeddings.bars import Figure
from bench.retrieval.large import COLLECTION
from bench.retrieval.scale import active_set
from bench.retrieval.stand import InProcess, Stand, body, milliseconds
from bench.retrieval.synthetic import anew

QUERIES = 120
WARM = 10


def measure(stand: Stand, chunks: int) -> list[Figure]:
    """Hybrid searches of ten hits."""
    encoder = LocalEncoder(config=stand.embeddings.embeddings)
    wanted = active_set(stand)
    if encoder.encoder.identity != wanted:
        raise SystemExit(f"the encoder here is {encoder.encoder.identity}, the stack's {wanted}")
    inside = InProcess(stand, encoder)
    route = stand.route()
    search = inside.searcher()

    def service(query: str) -> None:
        route.post("/v1/search", body(query, COLLECTION))

    def in_process(query: str) -> None:
        inside.run(search.answer(SearchRequest(query, COLLECTION)))

    queries = anew(3).queries(QUERIES + WARM)
    seconds: dict[str, list[float]] = {"service": [], "in process": []}
    ways = {"service": service, "in process": in_process}
    try:
        for place, query in enumerate(queries):
            for name in ways if place % 2 else reversed(ways):
                began = time.perf_counter()
                ways[name](query)
                if place >= WARM:
                    seconds[name].append(time.perf_counter() - began)
    finally:
        route.close()
        inside.close()
    return _figures(seconds["service"], seconds["in process"])


def _figures(service: Sequence[float], inside: Sequence[float]) -> list[Figure]:
    one, other = milliseconds(service), milliseconds(inside)
    found = [
        Figure(f"{name}, {share}", value, "ms")
        for name, values in (("service", one), ("in process", other))
        for share, value in values.items()
    ]
    return [
        *found,
        Figure("service / in process, p50", one["p50"] / other["p50"], at_most=1.3),
        Figure("service / in process, p95", one["p95"] / other["p95"], at_most=2.0),
    ]
