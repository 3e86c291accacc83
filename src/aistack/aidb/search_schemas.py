"""The wire of `POST /v1/search`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from aistack.aidb import documents, filters
from aistack.aidb.near_duplicates import Collapse
from aistack.aidb.search_model import (
    MAX_LIMIT,
    MAX_OFFSET,
    MAX_QUERY_CHARS,
    MAX_RERANK,
    Mode,
    SearchRequest,
)

FilterValue = str | int | float | bool


class FilterIn(BaseModel):
    """All given operators must hold."""

    model_config = ConfigDict(extra="forbid", strict=True)

    eq: FilterValue | None = None
    in_: Annotated[list[FilterValue] | None, Field(alias="in")] = None
    gt: str | int | float | None = None
    gte: str | int | float | None = None
    lt: str | int | float | None = None
    lte: str | int | float | None = None
    exists: bool | None = None


class SearchIn(BaseModel):
    """A search. Fields of the document (`source`, `title`, …) and keys of its metadata filter."""

    model_config = ConfigDict(extra="forbid")

    query: str = Field(min_length=1, max_length=MAX_QUERY_CHARS, examples=["How are keys made?"])
    collection: str = Field(documents.DEFAULT_COLLECTION, min_length=1, max_length=128)
    mode: Mode = "hybrid"
    limit: int = Field(10, ge=1, le=MAX_LIMIT, strict=True)
    offset: int = Field(0, ge=0, le=MAX_OFFSET, strict=True)
    filters: dict[str, FilterIn] | None = Field(None, examples=[{"year": {"gte": 2020}}])
    min_score: float | None = Field(
        None, allow_inf_nan=False, description="on the scale of the mode's score"
    )
    collapse: Collapse | None = Field(
        None,
        description="hits that say the same as a better one are left out and counted: exact (but"
        " for white space and case), near (a few words differ), off; without it the collection's",
    )
    rerank: bool | None = Field(
        None,
        strict=True,
        description="whether a cross-encoder puts the best hits into its own order; without it the"
        " collection's",
    )
    rerank_top: int = Field(
        MAX_RERANK, ge=1, le=MAX_RERANK, strict=True, description="hits that it reads"
    )

    def request(self) -> SearchRequest:
        """Raises Unprocessable, naming the field."""
        given = {
            name: one.model_dump(by_alias=True, exclude_unset=True)
            for name, one in (self.filters or {}).items()
        }
        return SearchRequest(
            query=self.query,
            collection=documents.checked_collection_name(self.collection),
            mode=self.mode,
            limit=self.limit,
            offset=self.offset,
            filters=filters.parse(given),
            min_score=self.min_score,
            collapse=self.collapse,
            rerank=self.rerank,
            rerank_top=self.rerank_top,
        )


class LegOut(BaseModel):
    """What one leg said of a chunk: its rank there, from 1, and its own score."""

    rank: int
    score: float


class LegsOut(BaseModel):
    """Null where the leg did not find the chunk."""

    dense: LegOut | None = Field(description="cosine")
    lexical: LegOut | None = Field(description="BM25")
    rerank: LegOut | None = Field(
        None,
        description="0..1 by the cross-encoder; only in a search that was reranked, and null beyond"
        " the hits that it read",
    )


class HitOut(BaseModel):
    """A passage. `text` is the document's text from `char_start` to `char_end`."""

    rank: int = Field(description="from 1, over all pages")
    score: float = Field(description="hybrid: 0..1, by the collection's fusion; else the leg's own")
    chunk_id: int
    document_id: str
    source: str
    title: str
    content_type: str
    text: str
    heading_path: list[str]
    char_start: int
    char_end: int
    page_start: int | None
    page_end: int | None
    line_start: int | None
    line_end: int | None
    metadata: dict[str, Any]
    legs: LegsOut
    duplicates: int = Field(description="candidates left out because they say the same")


class SearchOut(BaseModel):
    """A page of hits. `epoch` is the state of the collection that it was read from."""

    query: str
    mode: Mode
    collection: str
    epoch: int
    total: int = Field(description="candidates of both legs after min_score, duplicates once")
    embedding_set: str | None
    hits: list[HitOut]
    next_offset: int | None
    dense_engine: Literal["pgvector", "qdrant"] | None = Field(
        description="what found the nearest vectors; null where none were looked for"
    )
    degraded: list[str] = Field(
        description="what was not asked because it is away or not ready: `dense`, the leg,"
        " `qdrant`, for which pgvector answered, or `rerank`; such an answer is not cached"
    )
    cached: bool
    took_ms: float
