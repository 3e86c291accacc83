"""Grids over the odd queries: k1 and b of BM25, and the numbers of the fusion.

A default is changed when the odd queries show that another number is better: when the paired
interval of the difference leaves out 0. The best of a grid alone would be a choice of noise.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence

from aistack.aidb import fusion
from aistack.config import AidbConfig
from aistack.evaluation.bootstrap import difference
from aistack.evaluation.metrics import best_first, ndcg
from bench.corpus import Corpus
from bench.cranfield import Cranfield
from bench.retrieval.quality import Hits, Rankings, documents, search_all, searcher

K1 = (0.9, 1.2, 1.5, 2.0, 2.5)
B = (0.3, 0.5, 0.75, 0.9)
RRF_K = (5, 10, 20, 40, 60, 100)
LEXICAL_WEIGHT = (0.5, 0.75, 1.0, 1.5, 2.0)

Fuse = Callable[[Mapping[str, fusion.Ranking], Mapping[str, float]], list[fusion.Fused]]


async def tune(corpus: Corpus, collection: Cranfield, say: Callable[[str], None]) -> None:
    """Print the grids."""
    say("odd queries, nDCG@10 of BM25:")
    best = (0.0, 0.0, 0.0)
    for k1, b in itertools.product(K1, B):
        search = searcher(corpus, AidbConfig(bm25_k1=k1, bm25_b=b))
        found = documents(await search_all(search, collection, "lexical", collection.odd))
        score = _mean(found, collection)
        best = max(best, (score, k1, b))
        say(f"  k1 {k1:<4} b {b:<5} {score:.4f}")
    say(f"  best k1 {best[1]} b {best[2]} {best[0]:.4f}")
    # Fusion is tuned over the legs as they are by default.
    search = searcher(corpus, AidbConfig())
    dense = await search_all(search, collection, "dense", collection.odd)
    lexical = await search_all(search, collection, "lexical", collection.odd)
    config = AidbConfig()
    usual = values(
        dense, lexical, _rrf(config.rrf_k), config.lexical_weight / config.dense_weight, collection
    )
    say("odd queries, nDCG@10 fused, and in pairs against the defaults (95 % interval):")
    rows = sorted(fusions(dense, lexical, collection), key=lambda row: -sum(row[1]))
    for name, scores in rows:
        gain = difference(usual, scores)
        mean = sum(scores) / len(scores)
        say(f"  {mean:.4f}  {name}  {gain.mean:+.4f} [{gain.low:+.4f}, {gain.high:+.4f}]")


def fusions(dense: Hits, lexical: Hits, collection: Cranfield) -> Iterator[tuple[str, list[float]]]:
    """The name of every fusion in the grid, and its nDCG@10 of each odd query."""
    ways: list[tuple[str, Fuse]] = [(f"rrf k {k:<4}", _rrf(k)) for k in RRF_K]
    ways.append(("dbsf      ", _dbsf))
    for (name, fuse), weight in itertools.product(ways, LEXICAL_WEIGHT):
        found = values(dense, lexical, fuse, weight, collection)
        yield f"{name} lexical weight {weight}", found


def values(
    dense: Hits, lexical: Hits, fuse: Fuse, weight: float, collection: Cranfield
) -> list[float]:
    """nDCG@10 of each odd query with this fusion."""
    fused = refuse(dense, lexical, fuse, weight, collection.odd)
    return [ndcg(fused[number], collection.gains[number]) for number in collection.odd]


def _rrf(k: float) -> Fuse:
    return lambda legs, weights: fusion.reciprocal_rank(legs, k=k, weights=weights)


def _dbsf(legs: Mapping[str, fusion.Ranking], weights: Mapping[str, float]) -> list[fusion.Fused]:
    return fusion.distribution_based(legs, weights=weights)


def refuse(
    dense: Hits, lexical: Hits, fuse: Fuse, weight: float, queries: Sequence[int]
) -> Rankings:
    """Fusion with other numbers, over the legs as they were found."""
    fused = {}
    for number in queries:
        sources = {h.chunk_id: h.source for leg in (dense, lexical) for h in leg[number]}
        legs = {
            "dense": [(h.chunk_id, h.score) for h in dense[number]],
            "lexical": [(h.chunk_id, h.score) for h in lexical[number]],
        }
        ranked = fuse(legs, {"dense": 1.0, "lexical": weight})
        fused[number] = best_first(sources[hit.chunk_id] for hit in ranked)
    return fused


def _mean(rankings: Rankings, collection: Cranfield) -> float:
    odd = collection.odd
    return sum(ndcg(rankings[number], collection.gains[number]) for number in odd) / len(odd)
