"""What a page of hits shows, read in the snapshot of its search."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from aistack.aidb.fusion import Fused
from aistack.aidb.near_duplicates import Collapse, Likeness, collapsed
from aistack.aidb.search_model import Hit
from aistack.clients.postgres import Connection

_LIKENESS: Final = "SELECT id, text_hash, fingerprint, term_count FROM chunks WHERE id = ANY(%s)"
_HITS: Final = """
SELECT c.id, c.document_id, d.source, coalesce(d.title, d.parsed_title, d.source),
       d.content_type, c.text, c.heading_path, c.char_start, c.char_end,
       c.page_start, c.page_end, c.line_start, c.line_end, d.metadata
  FROM chunks c JOIN documents d ON d.id = c.document_id WHERE c.id = ANY(%s)
"""


async def without_duplicates(
    connection: Connection, fused: list[Fused], how: Collapse
) -> tuple[list[Fused], dict[int, int]]:
    """The list without duplicates, and how many each kept chunk stands for."""
    if how == "off" or len(fused) < 2:
        return fused, {}
    cursor = await connection.execute(_LIKENESS, [[hit.chunk_id for hit in fused]])
    likeness = {row[0]: Likeness(*row[1:]) for row in await cursor.fetchall()}
    return collapsed(fused, likeness, how)


async def read(
    connection: Connection, page: list[Fused], duplicates: Mapping[int, int], *, first_rank: int
) -> list[Hit]:
    """The hits of `page`, of chunks of this snapshot."""
    if not page:
        return []
    cursor = await connection.execute(_HITS, [[hit.chunk_id for hit in page]])
    rows = {row[0]: row for row in await cursor.fetchall()}
    return [
        Hit.of(rank, fused, rows[fused.chunk_id], duplicates.get(fused.chunk_id, 0))
        for rank, fused in enumerate(page, start=first_rank)
    ]
