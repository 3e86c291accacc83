"""0007 on tables with rows: up and down keep what was there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from aistack import migrations
from fix_postgres import PostgresServer


@pytest.fixture
def filled(postgres_server: PostgresServer) -> Iterator[str]:
    """A database at the revision before: an active set, changes told and not told, a job."""
    name = postgres_server.create()
    dsn = postgres_server.dsn(name)
    migrations.upgrade(dsn, "0006")
    rows(dsn, "INSERT INTO collections (name, key_id) VALUES ('one', 'k')")
    rows(
        dsn,
        "INSERT INTO embedding_sets (model, revision, engine, precision, dimension, normalized,"
        " state) VALUES ('m', '1', 'onnx', 'fp32', 8, true, 'active')",
    )
    for done in ("NULL", "now()"):
        rows(dsn, LINE.format(done=done))
    yield dsn
    postgres_server.drop(name)


LINE = (
    "INSERT INTO outbox (kind, collection_id, collection_name, document_id, version, done_at)"
    " SELECT 'document_indexed', id, name, gen_random_uuid(), 1, {done} FROM collections"
)
OUTBOX = "SELECT * FROM outbox ORDER BY id"
JOBS = (
    "SELECT queue_name, task_name, priority, args, status::text FROM procrastinate_jobs"
    " WHERE task_name = 'aidb.index'"
)


def rows(dsn: str, statement: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(dsn) as connection:
        cursor = connection.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []


def test_up_keeps_the_outbox_and_defers_only_where_an_index_is_kept(filled: str) -> None:
    before = rows(filled, OUTBOX)
    migrations.upgrade(filled)
    assert rows(filled, OUTBOX) == before
    rows(filled, LINE.format(done="NULL"))
    assert rows(filled, JOBS) == []
    rows(filled, "INSERT INTO index_state (set_id) SELECT id FROM embedding_sets")
    rows(filled, LINE.format(done="NULL"))
    assert rows(filled, JOBS) == [("aidb", "aidb.index", 10, {}, "todo")]
    assert rows(filled, "SELECT state, next_chunk, done FROM index_state") == [("building", 0, 0)]
    with pytest.raises(psycopg.errors.CheckViolation):
        rows(filled, "UPDATE index_state SET state = 'lost'")
    # A set that is dropped takes its row along.
    rows(filled, "DELETE FROM embedding_sets")
    assert rows(filled, "SELECT * FROM index_state") == []


def test_down_leaves_the_outbox_and_no_job_that_nobody_can_run(filled: str) -> None:
    migrations.upgrade(filled)
    rows(filled, "INSERT INTO index_state (set_id) SELECT id FROM embedding_sets")
    rows(filled, LINE.format(done="NULL"))
    before = rows(filled, OUTBOX)
    migrations.downgrade(filled, "0006")
    assert rows(filled, OUTBOX) == before
    assert rows(filled, JOBS) == []
    assert rows(filled, "SELECT to_regclass('index_state')") == [(None,)]
    rows(filled, LINE.format(done="NULL"))
    assert rows(filled, JOBS) == []
    migrations.upgrade(filled)
    assert migrations.current(filled) == migrations.newest()
