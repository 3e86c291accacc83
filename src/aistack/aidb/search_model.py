"""What a search is asked and what it answers; checks that need no database."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import orjson

from aistack.aidb.filters import Filter
from aistack.aidb.fusion import Fused, LegScore
from aistack.aidb.near_duplicates import Collapse
from aistack.service.errors import Unprocessable

Mode = Literal["hybrid", "dense", "lexical"]

MAX_QUERY_CHARS: Final = 4096
MAX_LIMIT: Final = 100
MAX_OFFSET: Final = 2000
#: Hits that a cross-encoder reads at most.
MAX_RERANK: Final = 20

#: The fields of a hit that are columns of its row, after the two ids.
_COLUMNS: Final = (
    "source", "title", "content_type", "text", "heading_path", "char_start", "char_end",
    "page_start", "page_end", "line_start", "line_end", "metadata",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class SearchRequest:
    """A checked search. `min_score` is on the scale of the mode's `score` (see `Hit`).

    `collapse` and `rerank` of None are the collection's; the `rerank_top` best are reranked.
    """

    query: str
    collection: str
    mode: Mode = "hybrid"
    limit: int = 10
    offset: int = 0
    filters: Filter = field(default_factory=Filter)
    min_score: float | None = None
    collapse: Collapse | None = None
    rerank: bool | None = None
    rerank_top: int = MAX_RERANK

    def __post_init__(self) -> None:
        """Raises Unprocessable, naming the field."""
        if not self.query or self.query.isspace():
            raise Unprocessable("query: there is nothing to search for.")
        if len(self.query) > MAX_QUERY_CHARS:
            raise Unprocessable(f"query: at most {MAX_QUERY_CHARS} characters.")
        if "\0" in self.query:
            raise Unprocessable("query: it has a NUL character.")
        if any("\ud800" <= letter <= "\udfff" for letter in self.query):
            raise Unprocessable("query: it is not valid Unicode.")
        if not 1 <= self.limit <= MAX_LIMIT:
            raise Unprocessable(f"limit: 1 to {MAX_LIMIT}.")
        if not 0 <= self.offset <= MAX_OFFSET:
            raise Unprocessable(f"offset: 0 to {MAX_OFFSET}.")
        if not 1 <= self.rerank_top <= MAX_RERANK:
            raise Unprocessable(f"rerank_top: 1 to {MAX_RERANK}.")

    def canonical(self) -> bytes:
        """The same bytes for the same search, without the collection's name."""
        conditions = [[c.field, c.metadata, c.operator, c.value] for c in self.filters.conditions]
        return orjson.dumps(
            [
                self.query,
                self.mode,
                self.limit,
                self.offset,
                conditions,
                self.min_score,
                self.collapse,
                self.rerank,
                self.rerank_top,
            ]
        )


@dataclass(frozen=True, slots=True)
class Hit:
    """A passage found. `rank` counts from 1 over all pages.

    `score` is, by mode: hybrid 0..1 (see `fusion`), dense the cosine, lexical BM25. `legs` has each
    leg's own rank and score, None where it did not find it, and "rerank" where the search was
    reranked, None beyond the hits that were. `duplicates` counts the candidates that
    say the same and were left out for this one.
    """

    rank: int
    score: float
    chunk_id: int
    document_id: str
    source: str
    title: str
    content_type: str
    text: str
    heading_path: Sequence[str]
    char_start: int
    char_end: int
    page_start: int | None
    page_end: int | None
    line_start: int | None
    line_end: int | None
    metadata: Mapping[str, Any]
    legs: Mapping[str, LegScore | None]
    duplicates: int

    @classmethod
    def of(cls, rank: int, fused: Fused, row: Sequence[Any], duplicates: int) -> Hit:
        """From a fused candidate and its row (columns in the order of the fields)."""
        legs = {"dense": fused.legs.get("dense"), "lexical": fused.legs.get("lexical")}
        fields: dict[str, Any] = dict(zip(_COLUMNS, row[2:], strict=True))
        return cls(
            rank=rank,
            score=fused.score,
            chunk_id=int(row[0]),
            document_id=str(row[1]),
            legs=legs,
            duplicates=duplicates,
            **fields,
        )


@dataclass(frozen=True, slots=True)
class SearchResult:
    """One page. `total` counts the candidates of all legs that passed `min_score`, duplicates once.

    `dense_engine` is what found the nearest vectors; None where none were wanted. `degraded` names
    the legs that a hybrid search should have asked and could not, the engine (`qdrant`) that
    should have answered the dense one, and `rerank`; such a result is not kept. `cached` and
    `took_ms` come last: they are of one answer, the rest is of the search.
    """

    query: str
    mode: Mode
    collection: str
    epoch: int
    total: int
    embedding_set: str | None
    hits: tuple[Hit, ...]
    next_offset: int | None
    dense_engine: str | None = None
    degraded: tuple[str, ...] = ()
    cached: bool = False
    took_ms: float = 0.0

    def wire(self) -> bytes:
        """The JSON of the answer but for its end: what an `Answer` adds, and the cache keeps."""
        whole = orjson.dumps(self)
        return whole[: whole.rindex(b',"cached":')]

    @classmethod
    def load(cls, body: bytes) -> SearchResult:
        """From the JSON of an answer. Raises ValueError, KeyError or TypeError on anything else."""
        raw = orjson.loads(body)
        hits = tuple(
            Hit(
                **{
                    **hit,
                    "legs": {
                        name: None if leg is None else LegScore(**leg)
                        for name, leg in hit["legs"].items()
                    },
                }
            )
            for hit in raw["hits"]
        )
        return cls(**{**raw, "hits": hits, "degraded": tuple(raw["degraded"])})


@dataclass(frozen=True, slots=True)
class Answer:
    """A result on its way to one caller: `SearchResult.wire`, and how it came about.

    `phases` are the seconds of each phase of the search; empty for a cached one.
    """

    wire: bytes
    cached: bool
    seconds: float
    phases: Mapping[str, float] = field(default_factory=dict)

    def body(self) -> bytes:
        """The JSON of the answer."""
        end = b"true" if self.cached else b"false"
        return b'%b,"cached":%b,"took_ms":%.2f}' % (self.wire, end, self.seconds * 1000)
