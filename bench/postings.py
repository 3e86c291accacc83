"""Three forms of BM25 postings in PostgreSQL: how fast they are written and asked.

    python bench/postings.py [CHUNKS]

The rows are the product's own tables and triggers; the others are made here, without statistics.
The record of a run is docs/decisions/0003-bm25-postings.md.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import psycopg
from psycopg import sql

from aistack import migrations
from aistack.aidb import bm25

PER_DOCUMENT = 20
TERMS_OF_CHUNK = 130
VOCABULARY = 200_000
EXPONENT = 1.05
QUERIES, QUERY_TERMS = 40, 8

Chunk = tuple[list[int], list[int]]
Asked = tuple[list[int], list[float]]
Connection = psycopg.Connection[tuple[Any, ...]]

ARRAYS = """
SELECT a.id, sum(q.idf * u.f / (u.f + 1.5 * (.25 + .75 * a.length / %(average)s))) AS score
  FROM arrays a, unnest(a.terms, a.frequencies) u(term, f)
  JOIN unnest(%(terms)s::int[], %(idf)s::float8[]) q(term, idf) ON q.term = u.term
 WHERE a.terms && %(terms)s::int[] GROUP BY a.id ORDER BY score DESC, a.id LIMIT 100
"""
PACKED = """
SELECT document, ordinal, sum(idf * f / (f + 1.5 * (.25 + .75 * l / %(average)s))) AS score
  FROM (SELECT p.document, e >> 32 AS ordinal, ((e >> 16) & 65535)::float8 AS f,
               (e & 65535)::float8 AS l, q.idf
          FROM unnest(%(terms)s::bigint[], %(idf)s::float8[]) q(term, idf)
          JOIN packed p ON p.term = q.term, unnest(p.entries) e) AS posting
 GROUP BY 1, 2 ORDER BY score DESC, 1, 2 LIMIT 100
"""


def chunks(count: int) -> list[Chunk]:
    """Terms and frequencies of chunks whose words follow Zipf's law."""
    random = np.random.default_rng(1)
    weights = 1 / np.arange(1, VOCABULARY + 1) ** EXPONENT
    ladder = np.cumsum(weights / weights.sum())
    made = []
    for _ in range(count):
        drawn = np.searchsorted(ladder, random.random(TERMS_OF_CHUNK))
        terms, times = np.unique(drawn, return_counts=True)
        made.append((terms.tolist(), times.tolist()))
    return made


def write_rows(connection: Connection, document: int, part: list[Chunk]) -> None:
    """As the product does."""
    cursor = connection.execute(
        "INSERT INTO documents (id, collection_id, source, content_type, sha256, byte_size, key_id)"
        " VALUES (gen_random_uuid(), 1, %s, 'text/plain', sha256('x'), 1, 'bench') RETURNING id",
        [f"{document}"],
    )
    made = cursor.fetchone()
    assert made is not None
    with (
        connection.cursor() as writer,
        writer.copy(
            "COPY chunks (document_id, collection_id, ordinal, text, char_start, char_end,"
            " token_count, term_count, terms, term_frequencies) FROM STDIN"
        ) as copy,
    ):
        for ordinal, (terms, times) in enumerate(part):
            names = [f"t{term}" for term in terms]
            copy.write_row((made[0], 1, ordinal, "x", 0, 1, 1, sum(times), names, times))


def write_arrays(connection: Connection, document: int, part: list[Chunk]) -> None:
    """Terms in the chunk, under a GIN index."""
    with connection.cursor() as cursor, cursor.copy("COPY arrays FROM STDIN") as copy:
        for ordinal, (terms, times) in enumerate(part):
            copy.write_row((document * PER_DOCUMENT + ordinal, terms, times, sum(times)))


def write_packed(connection: Connection, document: int, part: list[Chunk]) -> None:
    """One row per term and document: ordinal, frequency and length in one bigint per chunk."""
    entries: dict[int, list[int]] = {}
    for ordinal, (terms, times) in enumerate(part):
        for term, count in zip(terms, times, strict=True):
            entries.setdefault(term, []).append(ordinal << 32 | count << 16 | sum(times))
    with connection.cursor() as cursor, cursor.copy("COPY packed FROM STDIN") as copy:
        for term in sorted(entries):
            copy.write_row((term, document, entries[term]))


FORMS: dict[str, Callable[[Connection, int, list[Chunk]], None]] = {
    "rows": write_rows,
    "arrays": write_arrays,
    "packed": write_packed,
}


def measure(connection: Connection, count: int) -> None:
    """Write and ask all three; print."""
    connection.execute("INSERT INTO collections (name, key_id) VALUES ('bench', 'bench')")
    connection.execute(
        "CREATE TABLE arrays (id bigint PRIMARY KEY, terms int[], frequencies int[], length int)"
    )
    connection.execute("CREATE INDEX ON arrays USING gin (terms)")
    connection.execute(
        "CREATE TABLE packed"
        " (term bigint, document int, entries bigint[], PRIMARY KEY (term, document))"
    )
    data = chunks(count)
    for name, write in FORMS.items():
        began = time.monotonic()
        for document in range(count // PER_DOCUMENT):
            with connection.transaction():
                first = document * PER_DOCUMENT
                write(connection, document, data[first : first + PER_DOCUMENT])
        print(f"{name:8} ingest {count / (time.monotonic() - began):8.0f} chunks/s")
    connection.execute("VACUUM ANALYZE")
    for table in ("postings", "terms", "arrays", "packed"):
        size = "SELECT pg_size_pretty(pg_total_relation_size(%s))"
        row = connection.execute(size, [table]).fetchone()
        print(f"{table:8} {row[0] if row else ''}")
    ask(connection, data)


def ask(connection: Connection, data: list[Chunk]) -> None:
    """Queries of terms of one chunk, the same for all."""
    row = connection.execute("SELECT chunk_count, total_length FROM collections").fetchone()
    assert row is not None
    total, average = int(row[0]), row[1] / row[0]
    known = connection.execute("SELECT term, document_frequency FROM terms").fetchall()
    idf = {int(term[1:]): bm25.idf(total, frequency) for term, frequency in known}
    random = np.random.default_rng(2)
    queries: list[Asked] = []
    for _ in range(QUERIES):
        terms = data[int(random.integers(len(data)))][0]
        chosen = [terms[place] for place in random.permutation(len(terms))[:QUERY_TERMS]]
        queries.append((chosen, [idf[term] for term in chosen]))
    scores = sql.SQL(bm25._SCORES).format(restriction=sql.SQL(""), max_terms=sql.Literal(128))

    def rows(asked: Asked) -> list[tuple[Any, ...]]:
        names = [f"t{term}" for term in asked[0]]
        arguments = {
            "terms": names, "times": [1.0] * len(names), "chunks": float(total), "average": average,
            "k1": 1.5, "b": 0.75, "collection": 1, "limit": 100,
        }  # fmt: skip
        return connection.execute(scores, arguments).fetchall()

    def other(statement: str) -> Callable[[Asked], list[tuple[Any, ...]]]:
        return lambda asked: connection.execute(
            cast(Any, statement), {"terms": asked[0], "idf": asked[1], "average": average}
        ).fetchall()

    best = []
    for name, run in {"rows": rows, "arrays": other(ARRAYS), "packed": other(PACKED)}.items():
        times = []
        for query in queries:
            began = time.monotonic()
            found = run(query)
            times.append((time.monotonic() - began) * 1000)
        best.append([round(float(hit[-1]), 4) for hit in found[:10]])
        p95 = statistics.quantiles(times, n=20)[-1]
        print(f"{name:8} query p50 {statistics.median(times):7.1f} ms, p95 {p95:7.1f} ms")
    if best.count(best[0]) != len(best):
        raise SystemExit("the forms do not agree on the scores")


def main() -> int:
    """Over an embedded PostgreSQL that is thrown away."""
    from aistack.dev.embedded import running
    from aistack.dev.postgres import Postgres

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("chunks", type=int, nargs="?", default=40_000)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bp-") as place:
        server = Postgres(Path(place) / "pg", Path(place) / "s")
        with running(server.program()):
            migrations.upgrade(server.conninfo())
            with psycopg.connect(server.conninfo(), autocommit=True) as connection:
                measure(connection, given.chunks)
    return 0


if __name__ == "__main__":
    sys.exit(main())
