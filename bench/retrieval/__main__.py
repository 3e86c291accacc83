"""`python -m bench.retrieval`: every part, or one of them.

Parts: quality, scale, overhead, cached, ingestion. A bar stands beside its figure; the exit status
is 1 when one is missed. Large collections are made once and kept below $AISTACK_BENCH_DIR or
~/.cache/aistack-bench; `--quick` makes do with 10,000 chunks. Cranfield is looked for in
$AISTACK_TEST_DATA; without it quality is left out. Reranking is measured where
$AISTACK_RERANK_MODEL names the directory of a cross-encoder.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

from aistack import migrations
from aistack.config import AidbConfig, PostgresConfig
from bench.corpus import LocalEncoder, open_corpus
from bench.cranfield import read
from bench.embeddings.bars import Figure, show
from bench.retrieval import cached, ingestion, overhead, quality, reranker, scale, tuning
from bench.retrieval.large import large_stack
from bench.retrieval.stand import Stand

SIZES = (10_000, 100_000)

#: Parts that want a large collection.
LARGE: Mapping[str, Callable[[Stand, int], list[Figure]]] = {
    "scale": scale.measure,
    "overhead": overhead.measure,
    "cached": cached.measure,
}
PARTS = ("quality", *LARGE, "ingestion")


async def _quality(directory: Path, database: PostgresConfig, tuned: bool) -> list[Figure]:
    collection = read(directory)
    config = AidbConfig()
    async with open_corpus(database, LocalEncoder(threads=2), config) as corpus:
        await quality.fill(corpus, collection)
        if tuned:
            await tuning.tune(corpus, collection, print)
        found = await quality.measure(corpus, collection, config, reranker.named())
        identity = corpus.encoder.encoder.identity
    print(f"{identity.model}, {identity.engine} {identity.precision}")
    print(quality.table(found))
    print(f"as recorded:\n{quality.recorded(found)}")
    return quality.figures(found)


def measure_quality(directory: Path, *, tuned: bool) -> list[Figure]:
    """On an embedded PostgreSQL that is thrown away."""
    from aistack.dev.embedded import running
    from aistack.dev.postgres import DATABASE, PORT, ROLE
    from aistack.dev.postgres import Postgres as Embedded

    with tempfile.TemporaryDirectory(prefix="br-") as place:
        server = Embedded(Path(place) / "pg", Path(place) / "s")
        with running(server.program()):
            migrations.upgrade(server.conninfo())
            database = PostgresConfig(
                host=str(server.socket_directory), port=PORT, user=ROLE, database=DATABASE
            )
            return asyncio.run(_quality(directory, database, tuned))


def main() -> int:
    """Run, print, and return 1 when a figure is under its bar."""
    parser = argparse.ArgumentParser(prog="python -m bench.retrieval", description=__doc__)
    shared = Path(__file__).parents[3] / "shared" / "data"
    data = Path(os.environ.get("AISTACK_TEST_DATA") or shared)
    parser.add_argument("cranfield", type=Path, nargs="?", default=data / "cranfield")
    parser.add_argument("--only", choices=PARTS, action="append", help="may be given again")
    parser.add_argument("--quick", action="store_true", help="10,000 chunks, not 100,000 as well")
    parser.add_argument("--tune", action="store_true", help="print the grids of the odd queries")
    parser.add_argument("--json", type=Path, metavar="FILE", help="the figures too")
    given = parser.parse_args()
    wanted = given.only or PARTS
    directory = given.cranfield if (given.cranfield / "cran.all.1400.xml").exists() else None
    found: dict[str, list[Figure]] = {}

    def add(name: str, figures: list[Figure]) -> None:
        found[name] = figures
        show(name, figures)

    if "quality" in wanted and directory is None:
        print("quality: left out, no Cranfield: name its directory, or set AISTACK_TEST_DATA")
    elif "quality" in wanted and directory is not None:
        add("quality on Cranfield", measure_quality(directory, tuned=given.tune))
    large = [name for name in LARGE if name in wanted]
    for chunks in SIZES[:1] if given.quick else SIZES:
        if large:
            with large_stack(chunks) as stand:
                for name in large:
                    add(f"{name}, {chunks:,} chunks", LARGE[name](stand, chunks))
    if "ingestion" in wanted:
        add("ingestion", ingestion.measure(directory))
    if given.json:
        plain = {name: [asdict(one) for one in figures] for name, figures in found.items()}
        given.json.write_text(json.dumps(plain, indent=2) + "\n", encoding="utf-8")
    missed = [f"{name}: {one.name}" for name, all_ in found.items() for one in all_ if not one.good]
    if missed:
        print("missed: " + "; ".join(missed), file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
