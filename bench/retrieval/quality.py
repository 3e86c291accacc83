"""Quality on Cranfield: each leg, their fusion, and `bm25s` as the peer of the lexical leg.

Documents are cut by the real chunker, embedded by the real model, put into a real PostgreSQL and
searched by the real searcher; a document is ranked by its best chunk. Odd queries are for tuning,
even queries are what is reported and what the bars hold on. `bm25s` (method "lucene") gets the very
same chunks and terms, and the same k1 and b.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from aistack.aidb.analysis import analyze
from aistack.aidb.bm25 import Bm25
from aistack.aidb.rerank import Judge
from aistack.aidb.search import Searcher
from aistack.aidb.search_cache import SearchCache
from aistack.aidb.search_model import MAX_LIMIT, Hit, Mode, SearchRequest
from aistack.config import AidbConfig
from aistack.evaluation.bootstrap import Interval, difference, interval
from aistack.evaluation.metrics import DEPTH, METRICS, best_first, score
from bench.corpus import Corpus, Source
from bench.cranfield import Cranfield
from bench.embeddings.bars import Figure
from bench.retrieval.reranker import VARIABLE

#: Documents by query.
Rankings = Mapping[int, Sequence[str]]
#: Passages by query, best first.
Hits = Mapping[int, Sequence[Hit]]

LEGS: tuple[Mode, ...] = ("lexical", "dense", "hybrid")
PEER = "bm25s"
#: Both legs, fused and then reranked; only where a reranking model is named.
RERANKED = "+ rerank"

#: Means of the even queries when they were last recorded, in the order of `METRICS`, and how far
#: the lower end of each one's 95 % interval lies below it. Nothing may fall below that end.
RECORDED: Mapping[str, Sequence[tuple[float, float]]] = {
    "lexical": ((0.3673, 0.0474), (0.3858, 0.0534), (0.7119, 0.0526), (0.5284, 0.0672)),
    "dense": ((0.3969, 0.0499), (0.4215, 0.0556), (0.7489, 0.0523), (0.5453, 0.0677)),
    "hybrid": ((0.4221, 0.0484), (0.4458, 0.0536), (0.7602, 0.0505), (0.5693, 0.0661)),
}

#: What the lower end of the paired interval of hybrid minus the best leg may lose, and how far the
#: lexical leg may be from its peer, in nDCG@10.
TOLERANCE = 0.005


@dataclass(frozen=True, slots=True)
class Quality:
    """Rankings of every leg (and of the peer) for every query of the collection."""

    collection: Cranfield
    chunks: int
    rankings: Mapping[str, Rankings]

    def values(self, leg: str, metric: str, queries: Iterable[int]) -> list[float]:
        """One per query."""
        gains = self.collection.gains
        return [score(self.rankings[leg][one], gains[one])[metric] for one in queries]

    def even(self, leg: str, metric: str) -> Interval:
        """Mean of the reported half with its interval."""
        return interval(self.values(leg, metric, self.collection.even))

    def fused_minus_best(self) -> tuple[str, Interval]:
        """The better single leg, and the paired interval of hybrid minus it, nDCG@10, even."""
        even, metric = self.collection.even, METRICS[0]
        legs = {leg: self.values(leg, metric, even) for leg in ("lexical", "dense")}
        best = max(legs, key=lambda leg: sum(legs[leg]))
        return best, difference(legs[best], self.values("hybrid", metric, even))


async def fill(corpus: Corpus, collection: Cranfield) -> None:
    """Put the abstracts in; their text already begins with their title."""
    await corpus.add(
        Source(name, text, title=title) for name, (title, text) in collection.documents.items()
    )


def searcher(corpus: Corpus, config: AidbConfig, judge: Judge | None = None) -> Searcher:
    """The real one, its cache switched off."""
    config = config.model_copy(update={"cache_seconds": 0})
    cache = SearchCache(corpus.postgres, config)
    return Searcher(corpus.postgres, corpus.encoder, cache, config, judge=judge)


async def search_all(
    search: Searcher,
    collection: Cranfield,
    mode: Mode,
    queries: Iterable[int],
    *,
    rerank: bool = False,
) -> Hits:
    """All pages: as deep as the candidates of the mode go."""
    found: dict[int, list[Hit]] = {}
    for number in queries:
        hits = found[number] = []
        offset: int | None = 0
        while offset is not None:
            request = SearchRequest(
                collection.queries[number],
                "default",
                mode,
                limit=MAX_LIMIT,
                offset=offset,
                rerank=rerank,
            )
            result = await search.search(request)
            hits.extend(result.hits)
            offset = result.next_offset
    return found


def documents(found: Hits) -> Rankings:
    """Documents by their best chunk."""
    return {number: best_first(hit.source for hit in hits) for number, hits in found.items()}


async def measure(
    corpus: Corpus, collection: Cranfield, config: AidbConfig, judge: Judge | None = None
) -> Quality:
    """Search every query in every mode, with the peer, and reranked where there is a `judge`."""
    search = searcher(corpus, config, judge)
    rankings: dict[str, Rankings] = {
        leg: documents(await search_all(search, collection, leg, collection.queries))
        for leg in LEGS
    }
    rankings[PEER] = await _peer(corpus, collection, Bm25(config.bm25_k1, config.bm25_b))
    if judge is not None:
        best = await search_all(search, collection, "hybrid", collection.queries, rerank=True)
        rankings[RERANKED] = documents(best)
    async with corpus.postgres.connection("bench") as connection:
        cursor = await connection.execute("SELECT chunk_count FROM collections")
        row = await cursor.fetchone()
    return Quality(collection, row[0] if row else 0, rankings)


async def _peer(corpus: Corpus, collection: Cranfield, parameters: Bm25) -> Rankings:
    """The peer on the same chunks and terms."""
    import bm25s

    async with corpus.postgres.connection("bench") as connection:
        cursor = await connection.execute(
            "SELECT c.terms, c.term_frequencies, d.source FROM chunks c"
            " JOIN documents d ON d.id = c.document_id ORDER BY c.id"
        )
        rows = await cursor.fetchall()
    tokens = [
        [term for term, times in zip(terms, counts, strict=True) for _ in range(times)]
        for terms, counts, _ in rows
    ]
    sources = np.array([source for _, _, source in rows])
    peer = bm25s.BM25(method="lucene", k1=parameters.k1, b=parameters.b)
    peer.index(tokens, show_progress=False)
    rankings = {}
    for number, query in collection.queries.items():
        asked = [term for term in analyze(query) if term in peer.vocab_dict]
        scores = peer.get_scores(asked) if asked else np.zeros(len(sources))
        order = np.argsort(-scores, kind="stable")[:DEPTH]
        rankings[number] = best_first(str(sources[i]) for i in order if scores[i] > 0)
    return rankings


def figures(quality: Quality) -> list[Figure]:
    """The bars, on the even queries."""
    first = METRICS[0]
    best, gain = quality.fused_minus_best()
    distance = abs(quality.even("lexical", first).mean - quality.even(PEER, first).mean)
    found = [
        Figure(f"hybrid - {best}, nDCG@10, lower bound", gain.low, at_least=-TOLERANCE),
        Figure("lexical and bm25s apart, nDCG@10", distance, at_most=TOLERANCE),
    ]
    for leg, recorded in RECORDED.items():
        for metric, (mean, half) in zip(METRICS, recorded, strict=True):
            name = f"{leg} {metric}"
            floor = round(mean - half, 4)
            found.append(Figure(name, quality.even(leg, metric).mean, at_least=floor))
    return found


def table(quality: Quality) -> str:
    """Means of the even queries with their intervals, and nDCG@10 of the odd ones."""
    collection = quality.collection
    lines = [
        f"Cranfield: {len(collection.documents)} documents, {quality.chunks} chunks,"
        f" {len(collection.even)} even queries (95 % intervals)",
        f"{'':10}" + "".join(f"{metric:>22}" for metric in METRICS) + f"{'odd ndcg@10':>14}",
    ]
    for leg in quality.rankings:
        cells = (quality.even(leg, metric) for metric in METRICS)
        odd = quality.values(leg, METRICS[0], collection.odd)
        shown = "".join(f"{f'{c.mean:.4f} [{c.low:.3f} {c.high:.3f}]':>22}" for c in cells)
        lines.append(f"{leg:10}{shown}{sum(odd) / len(odd):>14.4f}")
    if RERANKED not in quality.rankings:
        lines.append(f"{RERANKED:10}  not measured: {VARIABLE} names no reranking model")
    best, gain = quality.fused_minus_best()
    lines.append(
        f"hybrid - {best}, nDCG@10, paired: {gain.mean:+.4f} [{gain.low:+.4f}, {gain.high:+.4f}]"
    )
    return "\n".join(lines)


def recorded(quality: Quality) -> str:
    """What to write into `RECORDED`."""
    lines = []
    for leg in LEGS:
        cells = [quality.even(leg, metric) for metric in METRICS]
        pairs = ", ".join(f"({c.mean:.4f}, {c.half:.4f})" for c in cells)
        lines.append(f'    "{leg}": ({pairs}),')
    return "\n".join(lines)
