"""The same request sent twice is answered twice and done once.

After the draft "The Idempotency-Key HTTP Header Field"
(datatracker.ietf.org/doc/draft-ietf-httpapi-idempotency-key-header), per API key. The row of a key
is written in the transaction of what it answers: a second request with the key waits in PostgreSQL
for the first one's end, and either finds its answer or, where the first came to nothing, takes its
place. So only answers that changed something are kept, and an error may be tried again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import orjson

from aistack.aidb.documents import Upload
from aistack.clients.postgres import Connection
from aistack.service.errors import Unprocessable

#: How long an answer is kept.
HOURS = 24


@dataclass(frozen=True, slots=True)
class Answer:
    """Status and JSON of an answer; `again` where it was given before."""

    status: int
    body: bytes
    again: bool = False


def fingerprint(upload: Upload) -> bytes:
    """32 bytes that two requests share which ask for the same."""
    asked = orjson.dumps(
        [
            upload.collection,
            upload.source,
            upload.title,
            upload.content_type,
            dict(upload.metadata),
        ],
        option=orjson.OPT_SORT_KEYS,
    )
    return hashlib.sha256(asked + upload.sha256).digest()


async def once(
    connection: Connection,
    *,
    key_id: str,
    key: str,
    request: bytes,
    make: Callable[[], Awaitable[Answer]],
) -> Answer:
    """The answer that `key` has had, or that of `make`, which works in the same transaction.

    `request` is the fingerprint. Raises Unprocessable where `key` was used for another request.
    """
    cursor = await connection.execute(
        "INSERT INTO idempotency_keys AS k (key_id, key, request_sha256) VALUES (%s, %s, %s)"
        " ON CONFLICT (key_id, key) DO UPDATE SET request_sha256 = EXCLUDED.request_sha256,"
        "   created_at = now() WHERE k.created_at < now() - make_interval(hours => %s)",
        [key_id, key, request, HOURS],
    )
    if cursor.rowcount == 1:
        answer = await make()
        await connection.execute(
            "UPDATE idempotency_keys SET status = %s, answer = %s WHERE key_id = %s AND key = %s",
            [answer.status, answer.body, key_id, key],
        )
        return answer
    cursor = await connection.execute(
        "SELECT request_sha256, status, answer FROM idempotency_keys"
        " WHERE key_id = %s AND key = %s",
        [key_id, key],
        binary=True,
    )
    row = await cursor.fetchone()
    assert row is not None, "the conflict has locked it"
    if bytes(row[0]) != request:
        raise Unprocessable(
            "This Idempotency-Key was used for another request in the last"
            f" {HOURS} hours: send a new key with a new request.",
            code="idempotency_key_reused",
        )
    return Answer(int(row[1]), bytes(row[2]), again=True)


async def prune(connection: Connection) -> None:
    """Forget the answers that are older than `HOURS`."""
    await connection.execute(
        "DELETE FROM idempotency_keys WHERE created_at < now() - make_interval(hours => %s)",
        [HOURS],
    )
