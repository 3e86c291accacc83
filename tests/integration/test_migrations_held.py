"""Migration 0008 on filled tables: changes wait for who holds their collection; and down."""

from __future__ import annotations

import psycopg
import pytest

from aistack import migrations
from aistack.aidb.search_memory import LOCK
from fix_postgres import PostgresServer

CHANGES = (
    "UPDATE collections SET epoch = epoch + 1",
    "DELETE FROM collections",
)
NO_CHANGE = "UPDATE collections SET description = 'other', epoch = epoch"


def test_changes_wait_for_who_holds(postgres_server: PostgresServer) -> None:
    name = postgres_server.create()
    dsn = postgres_server.dsn(name)
    migrations.upgrade(dsn, "0007")
    with psycopg.connect(dsn, autocommit=True) as other:
        other.execute("INSERT INTO collections (name, key_id) VALUES ('one', 'k')")
        before = other.execute("TABLE collections").fetchall()
        migrations.upgrade(dsn, "0008")
        assert other.execute("TABLE collections").fetchall() == before
        other.execute("SET lock_timeout = '10ms'")
        with psycopg.connect(dsn) as holder:
            holder.execute("SELECT pg_advisory_xact_lock_shared(%s, id) FROM collections", [LOCK])
            for statement in CHANGES:
                with pytest.raises(psycopg.errors.LockNotAvailable):
                    other.execute(statement)
            other.execute(NO_CHANGE)
            holder.commit()
        other.execute(CHANGES[0])
    migrations.downgrade(dsn, "0007")
    assert migrations.current(dsn) == "0007"
    with psycopg.connect(dsn, autocommit=True) as other, psycopg.connect(dsn) as holder:
        holder.execute("SELECT pg_advisory_xact_lock_shared(%s, id) FROM collections", [LOCK])
        other.execute("SET lock_timeout = '10ms'")
        for statement in CHANGES:
            other.execute(statement)
    postgres_server.drop(name)
