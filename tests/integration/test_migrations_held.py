"""Migration 0008 on filled tables: changes wait for who holds their collection; and down."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from aistack import migrations
from fix_postgres import PostgresServer
from fix_wait import until

CHANGES = (
    "UPDATE collections SET epoch = epoch + 1",
    "DELETE FROM collections",
)
NO_CHANGE = "UPDATE collections SET description = 'other', epoch = epoch"
HOLD = "SELECT name, epoch FROM aidb_hold('{1}')"
#: With a snapshot that is older than the lock.
HOLD_LATER = """
WITH waited AS MATERIALIZED (SELECT '{1}'::integer[] AS ids, pg_advisory_xact_lock(1))
SELECT held.name, held.epoch FROM waited, LATERAL aidb_hold(waited.ids) AS held
"""
WAITING = """
SELECT count(*) FROM pg_locks l JOIN pg_database d ON d.oid = l.database
 WHERE l.locktype = 'advisory' AND NOT l.granted AND d.datname = current_database()
"""


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
            assert holder.execute(HOLD).fetchall() == [("one", 0)]
            for statement in CHANGES:
                with pytest.raises(psycopg.errors.LockNotAvailable):
                    other.execute(statement)
            other.execute(NO_CHANGE)
            holder.commit()
            with other.transaction():
                other.execute(CHANGES[0])
                assert holder.execute(HOLD).fetchall() == [], "it is being changed"
            assert holder.execute(HOLD).fetchall() == [("one", 1)]
            holder.commit()
        other.execute(CHANGES[1])
    migrations.downgrade(dsn, "0007")
    assert migrations.current(dsn) == "0007"
    postgres_server.drop(name)


async def test_what_is_read_is_not_older_than_the_lock(
    postgres_server: PostgresServer, migrated_template: str
) -> None:
    name = postgres_server.create(migrated_template)
    dsn = postgres_server.dsn(name)
    with psycopg.connect(dsn) as holder, psycopg.connect(dsn, autocommit=True) as other:
        other.execute("INSERT INTO collections (name, key_id) VALUES ('one', 'k')")
        other.execute("SELECT pg_advisory_lock(1)")
        with ThreadPoolExecutor(1) as pool:
            held = pool.submit(lambda: holder.execute(HOLD_LATER).fetchall())
            await until(lambda: other.execute(WAITING).fetchone() == (1,))
            other.execute(CHANGES[0])
            other.execute("SELECT pg_advisory_unlock(1)")
            assert held.result() == [("one", 1)]
        holder.rollback()
    postgres_server.drop(name)


def test_a_change_of_all_collections_takes_few_locks(
    postgres_server: PostgresServer, migrated_template: str
) -> None:
    """The server has room for some thousand; all who are connected share them."""
    name = postgres_server.create(migrated_template)
    with psycopg.connect(postgres_server.dsn(name)) as other:
        other.execute(
            "INSERT INTO collections (name, key_id)"
            " SELECT 'c' || one, 'k' FROM generate_series(1, 50000) AS one"
        )
        for statement in CHANGES:
            assert other.execute(statement).rowcount == 50_000
    postgres_server.drop(name)
