"""Migration 0004 on filled tables: what it makes of old rows, what the triggers keep, and down."""

from __future__ import annotations

from uuid import uuid4

import psycopg

from aistack import migrations
from fix_postgres import PostgresServer

DOCUMENT = (
    "INSERT INTO documents (id, collection_id, source, content_type, sha256, byte_size, metadata,"
    " key_id) VALUES (%s, 1, %s, 'text/plain', sha256('x'), 1, %s, 'k')"
)
CHUNK = (
    "INSERT INTO chunks (document_id, collection_id, ordinal, text, embed_prefix, char_start,"
    " char_end, token_count, term_count, terms, term_frequencies)"
    " SELECT id, 1, %s, %s, %s, 0, 9, 2, 1, ARRAY['lake'], ARRAY[1] FROM documents LIMIT 1"
)
FIELDS = "SELECT field FROM metadata_fields WHERE collection_id = 1 ORDER BY field"


def test_search_columns_on_filled_tables(postgres_server: PostgresServer) -> None:
    name = postgres_server.create()
    dsn = postgres_server.dsn(name)
    migrations.upgrade(dsn, "0003")
    with psycopg.connect(dsn, autocommit=True) as connection:
        run = connection.execute
        run("INSERT INTO collections (name, key_id) VALUES ('one', 'k')")
        run(DOCUMENT, [uuid4(), "a", '{"year": 1, "tags": ["x"]}'])
        run(DOCUMENT, [uuid4(), "b", '{"year": 2}'])
        run(DOCUMENT, [uuid4(), "c", "{}"])
        for number, (text, prefix) in enumerate(
            [("A small\n lake.", "Lakes\n"), (" a SMALL lake.\t", "Lakes "), ("A small lake.", "")]
        ):
            run(CHUNK, [number, text, prefix])
    migrations.upgrade(dsn, "0004")
    with psycopg.connect(dsn, autocommit=True) as connection:
        run = connection.execute
        assert run(FIELDS).fetchall() == [("tags",), ("year",)]
        hashes = run("SELECT text_hash, fingerprint FROM chunks ORDER BY ordinal").fetchall()
        assert hashes[0] == hashes[1] != hashes[2]
        assert {row[1] for row in hashes} == {None}
        # New documents, changed ones, and those that bring nothing new.
        run(DOCUMENT, [uuid4(), "d", '{"year": 3, "author": "Ann"}'])
        run("UPDATE documents SET metadata = '{\"team\": \"red\"}' WHERE source = 'c'")
        run("DELETE FROM documents WHERE source = 'd'")
        assert run(FIELDS).fetchall() == [("author",), ("tags",), ("team",), ("year",)]
    migrations.downgrade(dsn, "0003")
    with psycopg.connect(dsn, autocommit=True) as connection:
        assert connection.execute("SELECT count(*) FROM chunks").fetchall() == [(3,)]
        assert connection.execute("SELECT to_regclass('metadata_fields')").fetchall() == [(None,)]
        connection.execute("UPDATE documents SET metadata = '{\"x\": 1}' WHERE source = 'c'")
    migrations.upgrade(dsn, "0004")
    with psycopg.connect(dsn) as connection:
        assert connection.execute(FIELDS).fetchall() == [("tags",), ("x",), ("year",)]
    postgres_server.drop(name)


def test_uploads_that_bring_the_same_new_field_do_not_wait(postgres_server: PostgresServer) -> None:
    name = postgres_server.create()
    dsn = postgres_server.dsn(name)
    migrations.upgrade(dsn)
    with psycopg.connect(dsn) as one, psycopg.connect(dsn) as other:
        one.execute("INSERT INTO collections (name, key_id) VALUES ('one', 'k')")
        one.commit()
        for connection in (one, other):
            connection.execute("SET lock_timeout = '5s'")
        one.execute(DOCUMENT, [uuid4(), "a", '{"x": 1, "y": 1}'])
        other.execute(DOCUMENT, [uuid4(), "b", '{"y": 1, "x": 1}'])
        other.commit()
        one.commit()
        assert set(one.execute(FIELDS).fetchall()) == {("x",), ("y",)}
    postgres_server.drop(name)
