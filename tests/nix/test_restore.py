"""Restore with a real PostgreSQL: what was comes back, or nothing changes.

systemctl is a recorder here (real units: tests/system and nix/tests); everything else is real.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psycopg
import pytest

from fix_backup import REVISIONS, UNITS, Machine


@pytest.fixture
def machine(backup_machine: Machine) -> Machine:
    """Short for the tests here."""
    return backup_machine


def test_restore_brings_back_what_was_and_nothing_else(machine: Machine) -> None:
    name = machine.backup()
    machine.add("later")
    machine.run("restore", name)
    assert machine.collections() == ["first"]
    assert machine.rows("SELECT v::text FROM vectors WHERE v IS NOT NULL") == [("[1,2,3]",)]
    owners = machine.rows("SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = 'public'")
    assert owners == [(machine.role,)]
    machine.add("after")
    assert machine.calls() == [
        "stop aistack-aidb.socket aistack-aidb.service",
        "restart aistack-migrate.service",
        "start aistack-aidb.socket aistack-aidb.service",
    ]
    assert machine.running() == set(UNITS)


def test_restore_twice_and_undo(machine: Machine) -> None:
    machine.run("restore", "undo", fails="nothing to undo")
    name = machine.backup()
    machine.add("later")
    machine.run("restore", name)
    machine.run("restore", "undo")
    assert machine.collections() == ["first", "later"]
    machine.run("restore", "undo")
    assert machine.collections() == ["first"]
    machine.run("restore", "latest")
    machine.run("restore", "latest")
    assert machine.collections() == ["first"]
    assert machine.databases() == {"", "_replaced"}


def test_an_index_outside_the_database_is_not_trusted_after_a_restore(machine: Machine) -> None:
    statements = (
        "INSERT INTO embedding_sets (model, revision, engine, precision, dimension, normalized)"
        " VALUES ('m', '1', 'onnx', 'fp32', 384, true)",
        "INSERT INTO index_state (set_id, state, next_chunk, done, started_at, built_at)"
        " SELECT id, 'ready', 8, 7, '2020-01-01', '2020-01-01' FROM embedding_sets",
    )
    with psycopg.connect(machine.server.dsn(machine.database)) as connection:
        for statement in statements:
            connection.execute(statement.encode())
    name = machine.backup()
    for what in (name, "undo"):
        machine.run("restore", what)
        assert machine.rows(
            "SELECT state, next_chunk, done, started_at > '2026-01-01', built_at FROM index_state"
        ) == [("building", -1, 0, True, None)]


def test_restore_while_clients_are_connected(machine: Machine) -> None:
    name = machine.backup()
    with psycopg.connect(machine.server.dsn(machine.database)) as other:
        other.execute("SELECT 1")
        machine.run("restore", name)
        with pytest.raises(psycopg.OperationalError):
            other.execute("SELECT 1")
    assert machine.collections() == ["first"]


def test_restore_onto_a_machine_that_has_no_database(machine: Machine) -> None:
    name = machine.backup()
    machine.server.drop(machine.database)
    machine.run("restore", name)
    assert machine.collections() == ["first"]


def damage_dump(path: Path) -> None:
    dump = path / "database.dump"
    data = bytearray(dump.read_bytes())
    data[len(data) // 2] ^= 0xFF
    dump.write_bytes(data)


def truncate_dump(path: Path) -> None:
    dump = path / "database.dump"
    dump.write_bytes(dump.read_bytes()[:-100])


def lose_dump(path: Path) -> None:
    (path / "database.dump").unlink()


def change_manifest(path: Path) -> None:
    manifest = path / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"format": 1', '"format": 1 '))


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (damage_dump, "database.dump is damaged"),
        (truncate_dump, "database.dump is damaged"),
        (lose_dump, "database.dump is missing"),
        (change_manifest, "its manifest is damaged"),
    ],
)
def test_a_broken_backup_is_refused_and_nothing_is_lost(
    machine: Machine, harm: Any, reason: str
) -> None:
    name = machine.backup()
    machine.add("later")
    harm(machine.directory / name)
    machine.run("restore", name, fails=reason)
    assert machine.collections() == ["first", "later"]
    assert machine.databases() == {""}
    assert machine.calls() == [], "the services were not touched"


def forge(path: Path, change: Mapping[str, Any]) -> None:
    """A manifest that says something else, with a checksum that fits."""
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["database"] |= change
    text = json.dumps(manifest)
    (path / "manifest.json").write_text(text)
    (path / "manifest.sha256").write_text(hashlib.sha256(text.encode()).hexdigest() + "  x\n")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"server_version": 990001}, "PostgreSQL 99 and this server is"),
        ({"revision": "0099"}, f"has schema 0099, and this aistack knows {', '.join(REVISIONS)}"),
        ({"extensions": {"vector": "99.0"}}, "needs vector 99.0 and this server has"),
        ({"extensions": {"nonesuch": "1.0"}}, "needs the extension nonesuch"),
        ({"tables": {"public.collections": 7}}, "has 1 rows after the restore, the backup had 7"),
    ],
)
def test_another_version_is_refused_and_nothing_is_lost(
    machine: Machine, change: Mapping[str, Any], reason: str
) -> None:
    name = machine.backup()
    machine.add("later")
    forge(machine.directory / name, change)
    machine.run("restore", name, fails=reason)
    assert machine.collections() == ["first", "later"]
    assert machine.databases() == {""}
    assert machine.calls() == []


def test_a_name_that_is_not_there_lists_those_that_are(machine: Machine) -> None:
    name = machine.backup()
    machine.run("restore", "20200101T000000Z", fails=f"there are: {name}")
    machine.run("restore", "../../etc", fails="there is no backup")


def test_a_failed_migration_swaps_back(machine: Machine) -> None:
    name = machine.backup()
    machine.add("later")
    (machine.root / "units" / "fail-restart").touch()
    machine.run("restore", name, fails="systemctl restart aistack-migrate.service failed")
    assert machine.collections() == ["first", "later"]
    assert machine.databases() == {""}
    assert machine.running() == set(UNITS)


def test_an_external_server_where_the_role_may_too_little(machine: Machine) -> None:
    """No administrator's account: the role itself must be allowed to make what is needed."""
    machine.more["AISTACK_RESTORE_ADMIN_ROLE"] = ""
    name = machine.backup()
    machine.add("later")
    machine.run("restore", name, fails="permission denied to create database")
    with psycopg.connect(machine.server.dsn(), autocommit=True) as connection:
        connection.execute(f'ALTER ROLE "{machine.role}" CREATEDB')
        machine.run("restore", name, fails='permission denied to create extension "vector"')
        assert machine.collections() == ["first", "later"]
        assert machine.databases() == {""}
        assert machine.calls() == []
        connection.execute(f'ALTER ROLE "{machine.role}" SUPERUSER')
    machine.run("restore", name)
    assert machine.collections() == ["first"]


def test_superuser_sql_is_run_after_the_swap(machine: Machine) -> None:
    sql = machine.root / "grants.sql"
    sql.write_text("CREATE TABLE IF NOT EXISTS granted ();\n")
    machine.more["AISTACK_RESTORE_SUPERUSER_SQL"] = str(sql)
    name = machine.backup()
    machine.run("restore", name)
    assert machine.rows("SELECT to_regclass('granted') IS NOT NULL") == [(True,)]
    sql.write_text("SELECT nonsense;\n")
    machine.add("later")
    machine.run("restore", name, fails="nonsense")
    assert machine.collections() == ["first", "later"]


def test_keys_come_back_only_when_asked(machine: Machine) -> None:
    name = machine.backup()
    store = machine.root / "state" / "keys" / "keys.json"
    store.write_text('{"keys": ["newer"]}')
    machine.run("restore", name)
    assert store.read_text() == '{"keys": ["newer"]}', "old keys would un-revoke"
    machine.run("restore-keys", name)
    assert store.read_text() == '{"keys": []}'
    assert store.stat().st_mode & 0o777 == 0o640
    aside = list((machine.root / "state").glob("keys.before-*"))
    assert [(path / "keys.json").read_text() for path in aside] == ['{"keys": ["newer"]}']
    assert machine.calls()[-1] == "restart aistack-aidb.service"
