"""Quality of retrieval on Cranfield: nDCG@10 of each leg and of their fusion, and of `bm25s`.

    python -m bench.retrieval [DATA/cranfield] [--tune] [--json FILE]

Documents are cut by the real chunker, embedded by the real model, put into a real PostgreSQL and
searched by the real searcher; a document is ranked by its best chunk. Odd queries are for tuning
(`--tune` prints the grid), even queries are what is reported. `bm25s` (method "lucene") gets the
very same chunks and terms, and the same k1 and b.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from aistack import migrations
from aistack.aidb import fusion
from aistack.aidb.analysis import analyze
from aistack.aidb.bm25 import Bm25
from aistack.aidb.search import Searcher
from aistack.aidb.search_cache import SearchCache
from aistack.aidb.search_model import Mode, SearchRequest, SearchResult
from aistack.clients.redis import Redis
from aistack.config import AidbConfig, PostgresConfig, RedisConfig
from bench.corpus import Corpus, LocalEncoder, Source, open_corpus
from bench.cranfield import Cranfield, best_first, ndcg, read

Rankings = Mapping[int, list[str]]
K1 = (0.9, 1.2, 1.5, 2.0, 2.5)
B = (0.3, 0.5, 0.75, 0.9)
RRF_K = (5, 10, 20, 40, 60, 100)
LEXICAL_WEIGHT = (0.5, 0.75, 1.0, 1.5, 2.0)
DEPTH = 100


def mean(rankings: Rankings, collection: Cranfield, queries: Sequence[int]) -> float:
    """Mean nDCG@10 over `queries`."""
    scores = [ndcg(rankings[number], collection.gains[number]) for number in queries]
    return sum(scores) / len(scores)


async def fill(corpus: Corpus, collection: Cranfield) -> None:
    """Put the abstracts in; their text already begins with their title."""
    await corpus.add(
        Source(name, text, title=title) for name, (title, text) in collection.documents.items()
    )


def searcher(corpus: Corpus, config: AidbConfig) -> Searcher:
    """The real one, its cache switched off."""
    cache = SearchCache(Redis(RedisConfig()), seconds=0, settings="")
    return Searcher(corpus.postgres, corpus.encoder, cache, config)


async def search_all(
    search: Searcher, collection: Cranfield, mode: Mode
) -> Mapping[int, SearchResult]:
    """Every query, as deep as a leg goes."""
    return {
        number: await search.search(SearchRequest(query, "default", mode, limit=DEPTH))
        for number, query in collection.queries.items()
    }


def documents(results: Mapping[int, SearchResult]) -> Rankings:
    """Documents by their best chunk."""
    return {n: best_first([hit.source for hit in r.hits]) for n, r in results.items()}


async def bm25s_rankings(corpus: Corpus, collection: Cranfield, parameters: Bm25) -> Rankings:
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
        rankings[number] = best_first([str(sources[i]) for i in order if scores[i] > 0])
    return rankings


def refuse(
    dense: Mapping[int, SearchResult],
    lexical: Mapping[int, SearchResult],
    k: float,
    weight: float,
) -> Rankings:
    """Fusion with other numbers, over the legs as they were found."""
    fused = {}
    for number in dense:
        sources = {h.chunk_id: h.source for r in (dense, lexical) for h in r[number].hits}
        legs = {
            "dense": [(h.chunk_id, h.score) for h in dense[number].hits],
            "lexical": [(h.chunk_id, h.score) for h in lexical[number].hits],
        }
        ranked = fusion.reciprocal_rank(legs, k=k, weights={"dense": 1.0, "lexical": weight})
        fused[number] = best_first([sources[hit.chunk_id] for hit in ranked])
    return fused


async def tune(corpus: Corpus, collection: Cranfield, say: Callable[[str], None]) -> None:
    """Print the grids over the odd queries."""
    say("odd queries, nDCG@10 of BM25:")
    best = (0.0, 0.0, 0.0)
    for k1, b in itertools.product(K1, B):
        search = searcher(corpus, AidbConfig(bm25_k1=k1, bm25_b=b))
        found = documents(await search_all(search, collection, "lexical"))
        score = mean(found, collection, collection.odd)
        best = max(best, (score, k1, b))
        say(f"  k1 {k1:<4} b {b:<5} {score:.4f}")
    say(f"  best {best}")
    search = searcher(corpus, AidbConfig(bm25_k1=best[1], bm25_b=best[2]))
    dense = await search_all(search, collection, "dense")
    lexical = await search_all(search, collection, "lexical")
    say("odd queries, nDCG@10 fused:")
    for k, weight in itertools.product(RRF_K, LEXICAL_WEIGHT):
        score = mean(refuse(dense, lexical, k, weight), collection, collection.odd)
        say(f"  k {k:<4} lexical weight {weight:<5} {score:.4f}")


async def measure(corpus: Corpus, collection: Cranfield, config: AidbConfig) -> dict[str, Any]:
    """nDCG@10 of every leg on both halves of the queries; the even half is the result."""
    search = searcher(corpus, config)
    rankings = {
        "dense": documents(await search_all(search, collection, "dense")),
        "bm25": documents(await search_all(search, collection, "lexical")),
        "fused": documents(await search_all(search, collection, "hybrid")),
        "bm25s": await bm25s_rankings(corpus, collection, Bm25(config.bm25_k1, config.bm25_b)),
    }
    async with corpus.postgres.connection("bench") as connection:
        cursor = await connection.execute("SELECT chunk_count FROM collections")
        row = await cursor.fetchone()
    return {
        "documents": len(collection.documents),
        "chunks": row[0] if row else 0,
        "even": {name: mean(one, collection, collection.even) for name, one in rankings.items()},
        "odd": {name: mean(one, collection, collection.odd) for name, one in rankings.items()},
    }


def report(result: dict[str, Any]) -> str:
    """The table."""
    lines = [f"Cranfield: {result['documents']} documents, {result['chunks']} chunks, nDCG@10"]
    lines.append(f"{'':8}{'even (reported)':>18}{'odd (tuned on)':>18}")
    for name, score in result["even"].items():
        lines.append(f"{name:8}{score:>18.4f}{result['odd'][name]:>18.4f}")
    return "\n".join(lines)


async def run(directory: Path, tuning: bool, socket: Path, dsn: PostgresConfig) -> dict[str, Any]:
    """Fill, perhaps tune, measure."""
    collection = read(directory)
    config = AidbConfig()
    async with open_corpus(dsn, LocalEncoder(threads=2), config) as corpus:
        await fill(corpus, collection)
        if tuning:
            await tune(corpus, collection, print)
        return await measure(corpus, collection, config)


def main() -> int:
    """Start an embedded PostgreSQL, measure, print."""
    from aistack.dev.embedded import running
    from aistack.dev.postgres import DATABASE, PORT, ROLE
    from aistack.dev.postgres import Postgres as Embedded

    parser = argparse.ArgumentParser(description=__doc__)
    data = Path(
        os.environ.get("AISTACK_TEST_DATA") or Path(__file__).parents[2] / "shared" / "data"
    )
    parser.add_argument("directory", type=Path, nargs="?", default=data / "cranfield")
    parser.add_argument("--tune", action="store_true")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    if not (given.directory / "cran.all.1400.xml").exists():
        print(
            "skipped: no Cranfield; name its directory, or set AISTACK_TEST_DATA", file=sys.stderr
        )
        return 0
    with tempfile.TemporaryDirectory(prefix="br-") as place:
        server = Embedded(Path(place) / "pg", Path(place) / "s")
        with running(server.program()):
            migrations.upgrade(server.conninfo())
            config = PostgresConfig(
                host=str(server.socket_directory), port=PORT, user=ROLE, database=DATABASE
            )
            result = asyncio.run(run(given.directory, given.tune, Path(place), config))
    print(report(result))
    if given.json:
        given.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
