"""0005 on tables with rows: up and down keep what was there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from aistack import migrations
from fix_postgres import PostgresServer


@pytest.fixture
def filled(postgres_server: PostgresServer) -> Iterator[str]:
    """A database at the revision before, with documents in every state."""
    name = postgres_server.create()
    dsn = postgres_server.dsn(name)
    migrations.upgrade(dsn, "0004")
    rows(dsn, "INSERT INTO collections (name, key_id) VALUES ('one', 'k')")
    rows(
        dsn,
        "INSERT INTO documents (id, collection_id, source, content_type, sha256, byte_size, state,"
        " version, ready_version, error, key_id)"
        " SELECT gen_random_uuid(), c.id, s.state || n, 'text/plain', sha256('x'), 1, s.state,"
        "        s.version, s.ready, s.error, 'k'"
        "   FROM collections c, generate_series(1, 3) n, (VALUES"
        "        ('ready', 1, 1, NULL), ('failed', 2, 1, 'Bad.'), ('pending', 1, NULL, NULL)"
        "        ) AS s(state, version, ready, error)",
    )
    yield dsn
    postgres_server.drop(name)


def rows(dsn: str, statement: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(dsn) as connection:
        cursor = connection.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []


DOCUMENTS = "SELECT id, source, state, version, ready_version, error, updated_at FROM documents"
INSERT_KEY = (
    "INSERT INTO idempotency_keys (key_id, key, request_sha256, status, answer)"
    " VALUES ('k', 'once', sha256('x'), 202, '{}')"
)


def test_up_says_how_far_each_document_is(filled: str) -> None:
    before = rows(filled, DOCUMENTS + " ORDER BY id")
    migrations.upgrade(filled)
    assert rows(filled, DOCUMENTS + " ORDER BY id") == before
    progress = rows(filled, "SELECT DISTINCT state, progress FROM documents ORDER BY 1")
    assert progress == [("failed", 0.0), ("pending", 0.0), ("ready", 1.0)]
    rows(filled, INSERT_KEY)
    with pytest.raises(psycopg.errors.UniqueViolation):
        rows(filled, INSERT_KEY)
    with pytest.raises(psycopg.errors.CheckViolation):
        rows(filled, "UPDATE documents SET progress = 1.5")


def test_down_takes_its_own_and_nothing_else(filled: str) -> None:
    before = rows(filled, DOCUMENTS + " ORDER BY id")
    migrations.upgrade(filled)
    rows(filled, INSERT_KEY)
    migrations.downgrade(filled, "0004")
    assert migrations.current(filled) == "0004"
    assert rows(filled, DOCUMENTS + " ORDER BY id") == before
    assert rows(filled, "SELECT to_regclass('idempotency_keys')") == [(None,)]
    columns = (
        "SELECT 1 FROM information_schema.columns WHERE table_name = 'documents'"
        " AND column_name = 'progress'"
    )
    assert rows(filled, columns) == []
    migrations.upgrade(filled)
    assert rows(filled, "SELECT count(*) FROM idempotency_keys") == [(0,)]
