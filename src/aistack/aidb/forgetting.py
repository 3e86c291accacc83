"""Cached vectors of deleted documents: removed right after them, as well as can be done.

They lie in another service, which may be away; then their time to live removes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

import structlog
from prometheus_client import Counter

from aistack.clients.embeddings import EmbeddingsClient
from aistack.clients.postgres import Connection
from aistack.service.errors import StackError

log = structlog.get_logger()

FORGOTTEN = Counter(
    "aistack_aidb_forgotten_vectors_total",
    "Vectors of deleted chunks whose removal from the cache was asked for: ok, failed",
    ["outcome"],
)


async def embedded_texts(
    connection: Connection, documents: Sequence[UUID], prompt: str
) -> list[str]:
    """Hexadecimal SHA-256 of what was embedded of documents, behind the model's prompt."""
    cursor = await connection.execute(
        "SELECT DISTINCT encode(sha256(convert_to(%s || embed_prefix || text, 'UTF8')), 'hex')"
        " FROM chunks WHERE document_id = ANY(%s)",
        [prompt, list(documents)],
    )
    return [str(row[0]) for row in await cursor.fetchall()]


async def forget_vectors(client: EmbeddingsClient, digests: Sequence[str]) -> None:
    """Have them removed; that it cannot be done is counted and logged."""
    if not digests:
        return
    try:
        await client.forget(digests)
    except StackError as error:
        FORGOTTEN.labels("failed").inc(len(digests))
        log.warning("vectors_not_forgotten", texts=len(digests), error=type(error).__name__)
        return
    FORGOTTEN.labels("ok").inc(len(digests))
