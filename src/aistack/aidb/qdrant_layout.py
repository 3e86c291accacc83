"""How chunks lie in Qdrant: one collection per embedding set, one point per chunk.

A point's id is the chunk's id, so that what Qdrant finds can be looked up in PostgreSQL. Its
payload is what a filter may ask for:

    collection_id, document_id, version, source, content_type, metadata
    terms   the metadata as exact tokens: `"year"` (there is such a key), `"year"=2020`,
            `"tags"="hills"` for each element of a list. Qdrant's own matching of values has no
            exact rule for 1, 1.0, "1" and true; tokens have PostgreSQL's.
    mark    a digest of the rest, made by PostgreSQL: two equal marks are two equal payloads
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, Final

import structlog
from psycopg import sql

from aistack.aidb.filters import MAX_VALUE_CHARS
from aistack.clients.postgres import Connection
from aistack.clients.qdrant import IndexKind, Point, Qdrant, Refused
from aistack.service.errors import Conflict

log = structlog.get_logger()

MARK: Final = "mark"
#: Fields that every search or change asks by.
INDEXED: Final[Mapping[str, IndexKind]] = {
    "collection_id": "integer",
    "document_id": "keyword",
    "source": "keyword",
    "content_type": "keyword",
    "terms": "keyword",
}
#: Metadata keys with numbers that get an index for ranges; further ones are compared without.
MOST_NUMBER_FIELDS: Final = 64
#: Keys that need no quoting in a path of Qdrant's.
PLAIN_KEY: Final = re.compile(r"[A-Za-z0-9_-]+")

#: Text of jsonb is canonical: keys in order, one spelling of each value.
_MARK: Final = sql.SQL(
    "md5(jsonb_build_array(d.collection_id, d.ready_version, d.source, d.content_type,"
    " d.metadata)::text)"
)
_POINTS: Final = """
SELECT c.id, v.embedding::real[], c.collection_id, c.document_id::text, d.ready_version, d.source,
       d.content_type, d.metadata, {mark}
  FROM chunks c JOIN documents d ON d.id = c.document_id JOIN {table} v ON v.chunk_id = c.id
 WHERE {where} ORDER BY c.id LIMIT %(limit)s
"""
_MARKS: Final = """
SELECT c.id, {mark} FROM chunks c JOIN documents d ON d.id = c.document_id
  JOIN {table} v ON v.chunk_id = c.id WHERE c.id >= %(start)s ORDER BY c.id LIMIT %(limit)s
"""


def collection_name(set_id: int, prefix: str = "aistack") -> str:
    """Of the points of an embedding set, in the installation that has the prefix."""
    return f"{prefix}_set_{set_id}"


def is_ours(name: str, prefix: str) -> bool:
    """Whether it is the name of such a collection."""
    return re.fullmatch(re.escape(prefix) + r"_set_[0-9]+", name) is not None


def key_term(key: str) -> str:
    """The token of every document that has the metadata key."""
    return json.dumps(key, ensure_ascii=False)


def value_term(key: str, value: Any) -> str:
    """The token of every document whose `key` equals `value`, or has it as an element.

    Two values have the same token where jsonb calls them equal: 1 and 1.0, not 1 and "1" or true.
    """
    return f"{key_term(key)}={_canonical(value)}"


def terms(metadata: Mapping[str, Any]) -> list[str]:
    """All tokens of a document's metadata."""
    found = []
    for key, value in metadata.items():
        found.append(key_term(key))
        for one in value if isinstance(value, list) else [value]:
            # No filter can ask for a longer one.
            if not isinstance(one, str) or len(one) <= MAX_VALUE_CHARS:
                found.append(value_term(key, one))
    return found


def number_fields(metadata: Mapping[str, Any]) -> set[str]:
    """The keys whose value is a number that a range can ask for."""
    return {
        key
        for key, value in metadata.items()
        if isinstance(value, int | float)
        and not isinstance(value, bool)
        and PLAIN_KEY.fullmatch(key)
    }


class Layout:
    """Writes the points of one embedding set; knows which payload indexes it has asked for."""

    def __init__(self, qdrant: Qdrant, set_id: int, table: str) -> None:
        self.set_id = set_id
        self.name = collection_name(set_id, qdrant.prefix)
        self._qdrant = qdrant
        self._table = sql.Identifier(table)
        self._numbers: set[str] = set()
        #: Why a point is not there that should be, since the last comparison began.
        self.refused: str | None = None

    async def create(self, dimension: int) -> None:
        """Make the collection anew, empty, with its indexes."""
        self._numbers.clear()
        await self._qdrant.drop(self.name)
        try:
            await self._qdrant.create(self.name, dimension)
        except Conflict:
            # Another process that had the same to do, and ended between the two.
            await self._qdrant.drop(self.name)
            await self._qdrant.create(self.name, dimension)
        for field, kind in INDEXED.items():
            await self._qdrant.index(self.name, field, kind)

    async def points(
        self, connection: Connection, where: sql.Composable, arguments: Mapping[str, Any]
    ) -> list[Point]:
        """Chunks with their vectors, by id; `where` is over `chunks c`, `limit` an argument."""
        cursor = await connection.execute(
            sql.SQL(_POINTS).format(table=self._table, where=where, mark=_MARK),
            arguments,
            binary=True,
        )
        return [_point(row) for row in await cursor.fetchall()]

    async def marks(self, connection: Connection, start: int, limit: int) -> list[tuple[int, str]]:
        """(chunk id, mark) from the id `start` on, as they should be."""
        cursor = await connection.execute(
            sql.SQL(_MARKS).format(table=self._table, mark=_MARK), {"start": start, "limit": limit}
        )
        return [(int(chunk), str(mark)) for chunk, mark in await cursor.fetchall()]

    async def upsert(self, points: Sequence[Point]) -> None:
        """Write `points`, with an index for each metadata key that has numbers.

        What Qdrant refuses for ever is left out, logged and kept in `refused`.
        """
        if not points:
            return
        wanted: set[str] = set()
        for point in points:
            wanted |= number_fields(point.payload["metadata"])
        for key in sorted(wanted - self._numbers):
            if len(self._numbers) < MOST_NUMBER_FIELDS:
                try:
                    await self._qdrant.index(self.name, f"metadata.{key}", "float")
                except Refused as error:
                    # Ranges of it are compared without.
                    log.error("index_field_refused", key=key, reason=error.detail)
                self._numbers.add(key)
        await self._put(points)

    async def _put(self, points: Sequence[Point]) -> None:
        try:
            await self._qdrant.upsert(self.name, points)
        except Refused as error:
            if len(points) == 1:
                self.refused = f"qdrant refuses chunk {points[0].id}: {error.detail}"[:200]
                log.error("index_point_refused", chunk=points[0].id, reason=error.detail)
                return
            half = len(points) // 2
            await self._put(points[:half])
            await self._put(points[half:])


def _point(row: Sequence[Any]) -> Point:
    chunk, vector, collection, document, version, source, content_type, metadata, mark = row
    payload = {
        "collection_id": collection,
        "document_id": document,
        "version": version,
        "source": source,
        "content_type": content_type,
        "metadata": metadata,
        "terms": terms(metadata),
        MARK: mark,
    }
    return Point(int(chunk), vector, payload)


def _canonical(value: Any) -> str:
    if isinstance(value, float):
        exact = Decimal(repr(value))
        return "0" if exact == 0 else format(exact.normalize(), "f")
    return json.dumps(value, ensure_ascii=False, sort_keys=True)
