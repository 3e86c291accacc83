"""Exact and HNSW search of vectors: latency by size, recall, filters, memory of both storages.

    python bench/dense.py [--sizes 5000 10000 …]

The engine is the product's own, in the transaction of a search, over an embedded PostgreSQL that is
thrown away. The vectors are synthetic, about centres whose sizes follow Zipf's law, and harder than
those of texts (SUBSPACE); queries are drawn likewise. CPU is of the backend, on whatever machine;
the others wait for it too. The record of a run is docs/retrieval-dense.md. Exit code 1 where the
largest size misses a bar.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

import numpy as np
import structlog
from numpy.typing import NDArray
from psycopg.conninfo import conninfo_to_dict

from aistack import migrations
from aistack.aidb import embedding_sets, filters
from aistack.aidb.dense import Pgvector, Scope, State
from aistack.aidb.embedding_sets import Storage, VectorTable, index_name
from aistack.aidb.filters import Filter
from aistack.aidb.swap import copy_vectors
from aistack.aidb.vector_index import VectorIndexes
from aistack.clients.postgres import Postgres
from aistack.config import AidbConfig, PostgresConfig
from aistack.models import EmbeddingSet

#: A filter on the document keeps one in so many.
DOCUMENTS: Final = 100
DIMENSION: Final = 384
SIZES: Final = [5_000, 10_000, 20_000, 50_000, 100_000]
CENTRES: Final = 500
#: Points lie about a centre, whose length is 1, in a subspace: estimated from the ten nearest
#: (Levina and Bickel 2004) 700 of them about one centre have 20 dimensions, 700 abstracts of the
#: Cranfield collection in all-MiniLM-L6-v2 have 14.
NOISE: Final = 0.8
SUBSPACE: Final = 32
QUERIES: Final = 50
WARM: Final = 10
CANDIDATES: Final = 100
RECALL: Final = 0.99
EXACT: Final = 10**9
ROWS: Final = 5_000
STORAGES: Final = tuple(embedding_sets.INDEXABLE)


class Points:
    """Draws unit vectors around fixed centres."""

    def __init__(self, dimension: int) -> None:
        self._random = np.random.default_rng(20261122)
        self._centres = _unit(self._random.normal(size=(CENTRES, dimension)))
        scale = NOISE / np.sqrt(SUBSPACE * dimension)
        self._subspace = scale * self._random.normal(size=(SUBSPACE, dimension))
        weights = 1 / np.arange(1, CENTRES + 1)
        self._weights = weights / weights.sum()

    def draw(self, count: int) -> NDArray[np.float32]:
        """(count, dimension) float32, unit length."""
        chosen = self._random.choice(CENTRES, count, p=self._weights)
        steps = self._random.normal(size=(count, SUBSPACE)) @ self._subspace
        return np.asarray(_unit(self._centres[chosen] + steps), np.float32)


def _unit(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    return cast(NDArray[np.float64], rows / np.linalg.norm(rows, axis=1, keepdims=True))


@dataclass(slots=True)
class Found:
    """What one way of searching answered, per query: seconds, those on a CPU, and the ids."""

    seconds: list[float]
    busy: list[float]
    ids: list[list[int]]

    def milliseconds(self) -> str:
        """Median and 95th percentile, and the median of the time that the backend computed."""
        p95 = statistics.quantiles(self.seconds, n=20)[-1]
        times = (statistics.median(self.seconds), p95, statistics.median(self.busy))
        return " ".join(f"{seconds * 1000:8.1f}" for seconds in times)

    def recall(self, exact: Found, count: int = CANDIDATES) -> float:
        """Share of the `count` best that were found too."""
        pairs = zip(self.ids, exact.ids, strict=True)
        return statistics.mean(len({*a[:count]} & {*b[:count]}) / len(b[:count]) for a, b in pairs)


class Bench:
    """Fills and measures one table; `good` tells whether the bars hold."""

    def __init__(self, postgres: Postgres, table: VectorTable) -> None:
        self._postgres = postgres
        self._table = table
        self._name = f"vectors_{table.id}"
        self._rows = 0
        self._points = Points(table.identity.dimension)
        self._queries = self._points.draw(WARM + QUERIES)
        self._slices = [filters.parse({"source": {"eq": str(n)}}) for n in range(DOCUMENTS)]
        self._base = AidbConfig(candidates=CANDIDATES)
        self.good = True

    async def run(self, sizes: Sequence[int]) -> None:
        """Print the figures of each size; both storages and the filter at the largest only."""
        print(f"{QUERIES} queries, {CANDIDATES} candidates, ef_search {self._base.hnsw_ef_search}")
        print("   rows  storage     p50 ms   p95 ms   CPU ms  recall@10   @100   MiB  build s")
        for size in sizes:
            await self._grow(size)
            exact = await self._ask("exact", self._config(EXACT), [Filter()], None, "")
            last = size == sizes[-1]
            for storage in STORAGES if last else STORAGES[:1]:
                config = self._config(1, storage)
                said = await self._index(config)
                found = await self._ask(storage, config, [Filter()], exact, said)
                self.good &= not last or found.recall(exact, 10) >= RECALL
                if last:
                    await self._filtered(config)

    async def _filtered(self, config: AidbConfig) -> None:
        few = await self._ask("", self._config(EXACT), self._slices, None, "1 %, all exact")
        for name, settings in (("default", self._base), ("HNSW", config)):
            kept = await self._ask("", settings, self._slices, few, f"1 %, {name}")
            fewest = min(len(ids) for ids in kept.ids)
            print(f"{'':9}{fewest} hits or more")
            self.good &= fewest >= min(CANDIDATES, self._rows // DOCUMENTS)

    async def _ask(
        self, way: str, config: AidbConfig, only: list[Filter], exact: Found | None, said: str
    ) -> Found:
        found = await self._answers(config, only)
        recall = "" if exact is None else f"{found.recall(exact, 10):.4f} {found.recall(exact):.4f}"
        print(f"{self._rows:7}  {way:8} {found.milliseconds()}   {recall:14}  {said}", flush=True)
        return found

    def _config(self, exact_below: int, storage: Storage = "vector") -> AidbConfig:
        changes = {"dense_exact_below": exact_below, "vector_storage": storage}
        return self._base.model_copy(update=changes)

    async def _grow(self, rows: int) -> None:
        """Add rows, spread evenly over the documents."""
        while self._rows < rows:
            count = min(ROWS, rows - self._rows)
            async with self._postgres.connection("bench.grow", timeout=600) as connection:
                cursor = await connection.execute(
                    "INSERT INTO chunks (document_id, collection_id, ordinal, text, char_start,"
                    " char_end, token_count, term_count)"
                    " SELECT d.id, d.collection_id, n, '', 0, 0, 0, 0 FROM generate_series(%s::int,"
                    " %s::int) n JOIN documents d ON d.source = (n %% %s)::text"
                    " RETURNING id, collection_id",
                    [self._rows, self._rows + count - 1, DOCUMENTS],
                )
                owners = [(int(a), int(b)) for a, b in await cursor.fetchall()]
                await copy_vectors(connection, self._table, owners, self._points.draw(count))
            self._rows += count
        async with self._postgres.session("bench.vacuum") as connection:
            await connection.execute("VACUUM (ANALYZE)")

    async def _index(self, config: AidbConfig) -> str:
        """Build the index anew: MiB and seconds."""
        async with self._postgres.session("bench.drop") as connection:
            for name in (index_name(self._name, storage) for storage in STORAGES):
                await connection.execute(f"DROP INDEX IF EXISTS {name}".encode())
            began = time.perf_counter()
            await VectorIndexes(self._postgres, config).build()
            seconds = time.perf_counter() - began
            name = index_name(self._name, config.vector_storage)
            cursor = await connection.execute("SELECT pg_relation_size(%s::regclass)", [name])
            row = await cursor.fetchone()
        return f"{row[0] / 2**20 if row else 0:5.0f} {seconds:8.1f}"

    async def _answers(self, config: AidbConfig, only: list[Filter]) -> Found:
        """One after the other, each in a transaction of its own, as searches are."""
        found = Found([], [], [])
        engine = Pgvector(config)
        for number, query in enumerate(self._queries):
            scope = Scope.of(only[number % len(only)])
            async with self._postgres.connection("bench.ask", timeout=120) as connection:
                await connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
                # All of the work in the backend, whose time is read.
                await connection.execute("SET LOCAL max_parallel_workers_per_gather = 0")
                state = State(1, 0, self._rows, 0, self._table.id, self._name, self._table.identity)
                backend = Path(f"/proc/{connection.info.backend_pid}/schedstat")
                busy, began = _busy(backend), time.perf_counter()
                nearest = await engine.find(connection, state, scope, query, CANDIDATES)
                if number >= WARM:
                    found.seconds.append(time.perf_counter() - began)
                    found.busy.append(_busy(backend) - busy)
                    found.ids.append([chunk for chunk, _ in nearest.ranking])
        return found


def _busy(backend: Path) -> float:  # seconds on a CPU
    return int(backend.read_text().split()[0]) / 1e9


async def run(conninfo: str, sizes: list[int]) -> bool:
    """Make the collection, and measure."""
    said = conninfo_to_dict(conninfo)
    names = {"host": said["host"], "user": said["user"], "database": said["dbname"]}
    postgres = Postgres(PostgresConfig.model_validate(names))
    await postgres.open()
    try:
        async with postgres.connection("bench.make") as connection:
            identity = EmbeddingSet("bench", "1", "none", "fp32", DIMENSION, True)
            table = await embedding_sets.register(connection, identity)
            await connection.execute("INSERT INTO collections (name, key_id) VALUES ('b', 'b')")
            await connection.execute(
                "INSERT INTO documents (id, collection_id, source, content_type, sha256, byte_size,"
                " key_id) SELECT gen_random_uuid(), c.id, n::text, 'text/plain', sha256(''), 0, 'b'"
                " FROM collections c, generate_series(0, %s - 1) n",
                [DOCUMENTS],
            )
        bench = Bench(postgres, table)
        await bench.run(sorted(sizes))
        return bench.good
    finally:
        await postgres.aclose()


def main() -> int:  # over an embedded PostgreSQL
    from aistack.dev.embedded import running
    from aistack.dev.postgres import Postgres as Server

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    given = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger("warning"))
    with tempfile.TemporaryDirectory(prefix="bd-") as place:
        server = Server(Path(place) / "pg", Path(place) / "s")
        with running(server.program()):
            migrations.upgrade(server.conninfo())
            return 0 if asyncio.run(run(server.conninfo(), given.sizes)) else 1


if __name__ == "__main__":
    sys.exit(main())
