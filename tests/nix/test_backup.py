"""Backups of a real PostgreSQL: the very program that the units run (see also test_restore.py).

systemctl is a recorder here (real units: tests/system and nix/tests); everything else is real.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import sqlite3
import subprocess
from pathlib import Path

import psycopg
import pytest

from aistack import migrations
from fix_backup import PROGRAM, Machine, new_machine
from fix_postgres import oldest_binaries, running_server
from nix.hosts import BASE
from nix.toolchain import Nix

PORT_AND_DISK = (
    "{ services.postgresql.settings.port = 5433;"
    ' services.aistack.backup.directory = "/mnt/backup"; }'
)


@pytest.fixture
def machine(backup_machine: Machine) -> Machine:
    """Short for the tests here."""
    return backup_machine


def test_a_backup_says_what_is_in_it_and_is_readable_by_root_alone(machine: Machine) -> None:
    name = machine.backup()
    path = machine.directory / name
    manifest = json.loads((path / "manifest.json").read_text())
    assert manifest["database"]["tables"]["public.collections"] == 1
    assert manifest["database"]["tables"]["public.vectors"] == 2
    assert manifest["database"]["revision"] == migrations.HEAD
    assert "public.search_results" not in manifest["database"]["tables"]
    assert manifest["database"]["extensions"].keys() >= {"vector"}
    assert manifest["facts"]["models"] == {"chat": {"hash": "sha256-x"}}
    assert manifest["absent"] == ["absent"]
    assert manifest["files"]["files/keys/internal/aidb.key"]["mode"] == "0640"
    assert (path / "files/secrets/grafana-admin-password").read_text() == "p"
    assert path.stat().st_mode & 0o777 == 0o700
    assert machine.run("verify", name) == f"{name} is whole"
    seen = machine.metrics()
    assert seen["aistack_backup_last_run_success"] == 1
    assert seen["aistack_backup_last_success_timestamp_seconds"] == pytest.approx(
        manifest["created"], abs=1
    )
    assert seen["aistack_backup_size_bytes"] > 1000


def test_only_so_many_are_kept_and_a_failure_deletes_none(machine: Machine) -> None:
    made = [machine.backup() for _ in range(4)]
    assert machine.names() == sorted(made)[-3:]
    machine.more["PGDATABASE"] = "nonesuch"
    machine.run("backup", fails="the database cannot be read.*nonesuch")
    assert machine.names() == sorted(made)[-3:]
    seen = machine.metrics()
    assert seen["aistack_backup_last_run_success"] == 0
    assert seen["aistack_backup_last_success_timestamp_seconds"] > 0


def test_what_a_killed_run_left_is_swept(machine: Machine) -> None:
    machine.directory.mkdir()
    (machine.directory / ".partial-20200101T000000Z").mkdir()
    name = machine.backup()
    assert machine.names() == [name]


def test_a_dump_that_cannot_be_read_back_is_no_backup(machine: Machine) -> None:
    tools = machine.root / "tools"
    tools.mkdir()
    broken = tools / "pg_dump"
    broken.write_text(
        f'#!/bin/sh\n{machine.server.bindir}/pg_dump "$@" || exit\n'
        "for a; do case $a in --file=*) f=${a#--file=};; esac; done\n"
        'size=$(wc -c < "$f"); truncate -s $((size - 200)) "$f"\n'
    )
    broken.chmod(0o755)
    machine.more["PATH"] = f"{tools}:{machine.server.bindir}:{os.environ['PATH']}"
    machine.run("backup", fails="the dump cannot be (read|unpacked)")
    assert machine.names() == []


def test_a_second_run_at_the_same_time_is_refused(machine: Machine) -> None:
    machine.directory.mkdir()
    with (machine.directory / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        machine.run("backup", fails="another backup or restore runs")


def test_an_empty_database_is_not_backed_up_as_if_it_were_good(machine: Machine) -> None:
    empty = machine.server.create()
    try:
        machine.more |= {"PGDATABASE": empty, "PGUSER": "postgres"}
        machine.run("backup", fails="has no tables")
    finally:
        machine.server.drop(empty)


def test_rows_that_come_during_the_dump_do_not_make_it_look_wrong(machine: Machine) -> None:
    tools = machine.root / "tools"
    tools.mkdir()
    slow = tools / "pg_dump"
    # A row is committed after the counts and before the dump reads.
    slow.write_text(
        f"#!/bin/sh\n{machine.server.bindir}/psql -XAtq -c"
        " \"INSERT INTO collections (name, key_id) VALUES ('during', 'test')\" || exit\n"
        f'exec {machine.server.bindir}/pg_dump "$@"\n'
    )
    slow.chmod(0o755)
    machine.more["PATH"] = f"{tools}:{machine.server.bindir}:{os.environ['PATH']}"
    name = machine.backup()
    assert machine.collections() == ["during", "first"]
    machine.run("restore", name)
    assert machine.collections() == ["first"]


def test_sqlite_in_use_is_copied_whole(machine: Machine) -> None:
    source = machine.root / "state" / "secrets" / "grafana.db"
    writer = sqlite3.connect(source, isolation_level=None)
    try:
        writer.execute("PRAGMA journal_mode=wal")
        writer.execute("CREATE TABLE t (n)")
        writer.execute("INSERT INTO t VALUES (7)")
        name = machine.backup()
    finally:
        writer.close()
    copied = machine.directory / name / "files/secrets/grafana.db"
    reader = sqlite3.connect(copied)
    try:
        assert reader.execute("SELECT n FROM t").fetchall() == [(7,)]
    finally:
        reader.close()
    assert not copied.with_name("grafana.db-wal").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small tmpfs takes root")
def test_a_full_disk_keeps_the_older_backup(machine: Machine) -> None:
    machine.directory.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m,mode=700", "tmpfs", str(machine.directory)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if mounted.returncode != 0:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.strip()}")
    try:
        name = machine.backup()
        dsn = f"{machine.server.dsn(machine.database)} user={machine.role}"
        with psycopg.connect(dsn) as connection:
            connection.execute("CREATE TABLE big (data bytea)")
            connection.execute("ALTER TABLE big ALTER COLUMN data SET STORAGE EXTERNAL")
            for _ in range(8):
                connection.execute("INSERT INTO big VALUES (%s)", (os.urandom(300_000),))
        machine.run("backup", fails="No space left|could not write")
        assert machine.names() == [name]
        assert machine.run("verify", name) == f"{name} is whole"
        assert machine.metrics()["aistack_backup_last_run_success"] == 0
    finally:
        subprocess.run(["umount", str(machine.directory)], check=True)


def test_the_oldest_postgresql_too(tmp_path: Path) -> None:
    bindir = oldest_binaries()
    if bindir is None or not (bindir / "pg_dump").exists():
        pytest.skip("no older PostgreSQL with pg_dump")
    with running_server(bindir) as server:
        machine = new_machine(server, tmp_path)
        machine.add("first")
        name = machine.backup()
        machine.add("later")
        machine.run("restore", name)
        assert machine.collections() == ["first"]


def test_another_port_and_another_disk_are_followed(nix_tool: Nix) -> None:
    found = nix_tool.eval_json(
        f"let c = {nix_tool.host(BASE, PORT_AND_DISK)}.config; s = c.systemd.services; in {{"
        " units = map (unit: { inherit (unit) environment unitConfig; })"
        ' [ s.aistack-backup s."aistack-restore@" s."aistack-restore-keys@" ];'
        " exporter = c.services.prometheus.exporters.postgres.dataSourceName; }"
    )
    for unit in found["units"]:
        assert unit["environment"]["PGHOST"] == "/run/postgresql"
        assert unit["environment"]["PGPORT"] == "5433"
        assert unit["unitConfig"]["RequiresMountsFor"] == "/mnt/backup"
    assert " port=5433 " in found["exporter"]


def test_units_pass_what_the_program_reads(nix_tool: Nix) -> None:
    units = nix_tool.eval_json(
        f"let s = {nix_tool.host(BASE)}.config.systemd; in"
        " builtins.mapAttrs (_: unit: {"
        " inherit (unit) environment; inherit (unit.serviceConfig) ExecStart; })"
        ' { inherit (s.services) aistack-backup "aistack-restore@" "aistack-restore-keys@"; }'
    )
    program = re.compile(
        r"^/nix/store/\S+/bin/python3 -I (/nix/store/\S+) (backup|restore(-keys)? %i)$"
    )
    read = set(re.findall(r'"(AISTACK_\w+)"', (PROGRAM / "settings.py").read_text()))
    for unit in units.values():
        match = program.match(unit["ExecStart"])
        assert match, unit["ExecStart"]
        rendered = Path(f"{nix_tool.store}{match[1]}")
        assert {path.name for path in rendered.iterdir()} == {
            path.name for path in PROGRAM.glob("*.py")
        }
        passed = {name for name in unit["environment"] if name.startswith("AISTACK_")}
        assert passed <= read, passed - read
    restore = units["aistack-restore@"]["environment"]
    assert restore["AISTACK_RESTORE_WRITERS"] == "aistack-aidb.socket aistack-aidb.service"
    assert restore["AISTACK_RESTORE_REVISIONS"].split()[-1] == migrations.HEAD


def test_the_rendered_program_makes_and_restores_a_backup(nix_tool: Nix, machine: Machine) -> None:
    command = nix_tool.eval_raw(
        f"{nix_tool.host(BASE)}.config.systemd.services.aistack-backup.serviceConfig.ExecStart"
    )
    copy = machine.root / "rendered"
    shutil.copytree(f"{nix_tool.store}{command.split()[2]}", copy)
    machine.program = copy
    name = machine.backup()
    machine.add("later")
    machine.run("restore", name)
    assert machine.collections() == ["first"]
