"""BM25 in its Lucene variant, over the postings that PostgreSQL keeps.

    idf(t)     = ln(1 + (N - df + 0.5) / (df + 0.5))
    weight     = f / (f + k1 * (1 - b + b * length / average_length))
    score(q,c) = sum over the terms of q of  idf * weight     (a repeated query term counts again)

N and the average length are over the chunks of one collection, df counts the chunks that hold the
term. Robertson and Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond" (2009); the
idf that is never negative and the missing factor (k1 + 1), which changes no order, are Lucene's
(BM25Similarity), and `bm25s`' method "lucene".

`terms`, `postings` and the counts of `collections` are kept by triggers on `chunks` (migration
0001); a writer gives each chunk the two arrays of `frequencies`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from psycopg import AsyncConnection, sql

#: Query terms beyond these are dropped, the most common ones of the collection last.
MAX_QUERY_TERMS: Final = 128


@dataclass(frozen=True, slots=True)
class Bm25:
    """`k1` >= 0 says how soon repetition stops to count; `b` in 0..1 how much length counts."""

    k1: float = 1.5
    b: float = 0.75


def frequencies(terms: Iterable[str]) -> tuple[list[str], list[int]]:
    """Distinct terms and how often each occurs, as the parallel arrays that a chunk stores."""
    counted = sorted(Counter(terms).items())
    return [term for term, _ in counted], [count for _, count in counted]


def idf(chunks: int, document_frequency: int) -> float:
    """Inverse document frequency; positive for every term that occurs."""
    return math.log1p((chunks - document_frequency + 0.5) / (document_frequency + 0.5))


def weight(frequency: int, length: int, average_length: float, parameters: Bm25) -> float:
    """What `frequency` occurrences in a chunk of `length` terms are worth, 0..1."""
    norm = 1 - parameters.b + parameters.b * length / average_length
    return frequency / (frequency + parameters.k1 * norm)


# The scores are rounded to 1e-6 before the cut: the order in which PostgreSQL adds them up may
# change from one run to the next, and with it the last bits; the order of equal scores must not.
_SCORES: Final = """
WITH asked AS (
    SELECT t.id, q.times * ln(1 + (%(chunks)s::float8 - t.document_frequency + 0.5::float8)
                                  / (t.document_frequency + 0.5::float8)) AS idf
      FROM unnest(%(terms)s::text[], %(times)s::float8[]) AS q(term, times)
      JOIN terms t ON t.collection_id = %(collection)s AND t.term = q.term COLLATE "C"
     ORDER BY t.document_frequency, t.id LIMIT {max_terms}
)
SELECT p.chunk_id,
       round(sum(a.idf * p.frequency / (p.frequency + %(k1)s::float8
                     * (1 - %(b)s::float8 + %(b)s::float8 * p.length / %(average)s::float8)))
             * 1e6::float8) / 1e6::float8 AS score
  FROM asked a JOIN postings p ON p.term_id = a.id {restriction}
 GROUP BY p.chunk_id ORDER BY score DESC, p.chunk_id LIMIT %(limit)s
"""


async def top(
    connection: AsyncConnection[Any],
    collection_id: int,
    terms: list[str],
    *,
    chunks: int,
    total_length: int,
    limit: int,
    parameters: Bm25,
    restriction: sql.Composable | None = None,
    arguments: dict[str, Any] | None = None,
) -> list[tuple[int, float]]:
    """The `limit` best chunks as (chunk id, score), best first, ties by chunk id.

    `chunks` and `total_length` are the counts of the collection's row; `restriction` is a condition
    on `p.chunk_id` (it begins with AND) with its `arguments`.
    """
    if not terms or chunks == 0 or total_length == 0:
        return []
    distinct, times = frequencies(terms)
    statement = sql.SQL(_SCORES).format(
        restriction=restriction or sql.SQL(""), max_terms=sql.Literal(MAX_QUERY_TERMS)
    )
    parameters_of = {
        "collection": collection_id,
        "terms": distinct,
        "times": [float(n) for n in times],
        "chunks": float(chunks),
        "average": total_length / chunks,
        "k1": parameters.k1,
        "b": parameters.b,
        "limit": limit,
        **(arguments or {}),
    }
    cursor = await connection.execute(statement, parameters_of)
    return [(int(chunk), float(score)) for chunk, score in await cursor.fetchall()]
