"""Migration 0006 on filled tables: cached searches get a table that a crash may empty; and down."""

from __future__ import annotations

import psycopg
import pytest

from aistack import migrations
from fix_postgres import PostgresServer

RESULT = "INSERT INTO search_results (key, collection_id, epoch, wire) VALUES ('k', 1, 0, 'x')"


def test_search_results_on_filled_tables(postgres_server: PostgresServer) -> None:
    name = postgres_server.create()
    dsn = postgres_server.dsn(name)
    migrations.upgrade(dsn, "0005")
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("INSERT INTO collections (name, key_id) VALUES ('one', 'k')")
        before = connection.execute("TABLE collections").fetchall()
    migrations.upgrade(dsn, "0006")
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(RESULT)
        with pytest.raises(psycopg.errors.UniqueViolation):
            connection.execute(RESULT)
        kind = "SELECT relpersistence FROM pg_class WHERE relname = 'search_results'"
        assert connection.execute(kind).fetchone() in [("u",), (b"u",)]
    migrations.downgrade(dsn, "0005")
    assert migrations.current(dsn) == "0005"
    with psycopg.connect(dsn, autocommit=True) as connection:
        gone = connection.execute("SELECT to_regclass('search_results')").fetchone()
        assert gone == (None,)
        assert connection.execute("TABLE collections").fetchall() == before
    migrations.upgrade(dsn, "0006")
    postgres_server.drop(name)
