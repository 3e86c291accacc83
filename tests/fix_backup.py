"""A database with an owner, key files and a recorded systemctl: what a backup is made of."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pytest

from aistack import migrations
from fix_postgres import PostgresServer

ROOT = Path(__file__).resolve().parents[1]
#: What the units run.
PROGRAM = ROOT / "nix" / "backup"
#: Every schema that this checkout knows, oldest first.
REVISIONS = sorted(
    file.name.partition("_")[0] for file in (migrations.HERE / "versions").glob("[0-9]*.py")
)
UNITS = ["aistack-aidb.socket", "aistack-aidb.service"]

SYSTEMCTL = """#!/bin/sh
# Remembers which units run, and what it was asked; fails where a file says so.
[ "$1" = --quiet ] && shift
verb=$1; shift
[ "$verb" = is-active ] || echo "$verb $*" >> {state}/calls
[ -e {state}/fail-$verb ] && {{ echo "refused by the test" >&2; exit 1; }}
for unit; do
  case $verb in
    is-active) [ -e {state}/$unit ] || exit 3 ;;
    start|restart) touch {state}/$unit ;;
    stop) rm -f {state}/$unit ;;
  esac
done
"""


@dataclass(slots=True)
class Machine:
    """A database with an owner who is no superuser, key files, and the units' environment."""

    server: PostgresServer
    root: Path
    database: str
    role: str
    program: Path = PROGRAM
    more: dict[str, str] = field(default_factory=dict)

    @property
    def directory(self) -> Path:
        return self.root / "backups"

    @property
    def environment(self) -> dict[str, str]:
        return {
            "PATH": f"{self.server.bindir}:{os.environ['PATH']}",
            "PGHOST": str(self.server.directory),
            "PGPORT": str(self.server.port),
            "PGUSER": self.role,
            "PGDATABASE": self.database,
            "AISTACK_BACKUP_DIRECTORY": str(self.directory),
            "AISTACK_BACKUP_KEEP": "3",
            "AISTACK_BACKUP_METRICS": str(self.root / "aistack_backup.prom"),
            "AISTACK_BACKUP_TABLE": str(self.root / "table.json"),
            "AISTACK_RESTORE_ADMIN_ROLE": "postgres",
            "AISTACK_RESTORE_WRITERS": " ".join(UNITS),
            "AISTACK_RESTORE_KEY_UNITS": "aistack-aidb.service aistack-embeddings.service",
            "AISTACK_RESTORE_MIGRATE": "aistack-migrate.service",
            "AISTACK_RESTORE_REVISIONS": " ".join(REVISIONS),
            "AISTACK_SYSTEMCTL": str(self.root / "systemctl"),
            **self.more,
        }

    def run(self, *arguments: str, fails: str | None = None) -> str:
        """Run the program; its output, or its one line of reason where `fails` is in it."""
        done = subprocess.run(
            [sys.executable, "-IB", str(self.program), *arguments],
            env=self.environment, capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
        if fails is None:
            assert done.returncode == 0, done.stderr
            return done.stdout.strip()
        assert done.returncode == 1, done.stdout + done.stderr
        line = done.stderr.strip()
        assert len(line.splitlines()) == 1, "one line of reason"
        assert re.search(fails, line), line
        return line

    def backup(self) -> str:
        return self.run("backup").removeprefix("made ")

    def rows(self, statement: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.server.dsn(self.database)) as connection:
            return connection.execute(statement).fetchall()

    def add(self, name: str) -> None:
        """One more collection, with a vector."""
        dsn = f"{self.server.dsn(self.database)} user={self.role}"
        with psycopg.connect(dsn) as connection:
            connection.execute(
                "INSERT INTO collections (name, key_id) VALUES (%s, 'test')", (name,)
            )
            connection.execute("INSERT INTO vectors VALUES ('[1,2,3]'), (NULL)")

    def collections(self) -> list[str]:
        return [row[0] for row in self.rows("SELECT name FROM collections ORDER BY 1")]

    def databases(self) -> set[str]:
        with psycopg.connect(self.server.dsn()) as connection:
            names = connection.execute("SELECT datname FROM pg_database").fetchall()
        return {name.removeprefix(self.database) for (name,) in names if self.database in name}

    def calls(self) -> list[str]:
        """What systemctl was asked, in order."""
        log = self.root / "units" / "calls"
        return log.read_text().splitlines() if log.exists() else []

    def running(self) -> set[str]:
        return {unit for unit in UNITS if (self.root / "units" / unit).exists()}

    def metrics(self) -> dict[str, float]:
        text = (self.root / "aistack_backup.prom").read_text()
        return {
            name: float(value)
            for name, value in re.findall(r"^(aistack_\w+) (\S+)$", text, re.MULTILINE)
        }

    def names(self) -> list[str]:
        return sorted(path.name for path in self.directory.iterdir() if path.name != ".lock")

    def close(self) -> None:
        with psycopg.connect(self.server.dsn(), autocommit=True) as connection:
            for end in ("", "_restore", "_replaced"):
                name = f'"{self.database}{end}"'
                connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
            connection.execute(f'DROP ROLE "{self.role}"')


def new_machine(server: PostgresServer, root: Path) -> Machine:
    """The database as the module makes it: owner without privileges, extension by the superuser."""
    database = server.create()
    machine = Machine(server, root, database, f"{database}_owner")
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        connection.execute(f'CREATE ROLE "{machine.role}" LOGIN')
        connection.execute(f'ALTER DATABASE "{database}" OWNER TO "{machine.role}"')
    with psycopg.connect(server.dsn(database), autocommit=True) as connection:
        connection.execute("CREATE EXTENSION vector")
    migrations.upgrade(f"{server.dsn(database)} user={machine.role}")
    with psycopg.connect(f"{server.dsn(database)} user={machine.role}") as connection:
        connection.execute("CREATE TABLE vectors (v vector(3))")
    state = root / "units"
    state.mkdir()
    for unit in UNITS:
        (state / unit).touch()
    (root / "systemctl").write_text(SYSTEMCTL.format(state=state))
    (root / "systemctl").chmod(0o755)
    for name, text in {"keys/keys.json": '{"keys": []}', "keys/internal/aidb.key": "k",
                       "secrets/grafana-admin-password": "p"}.items():  # fmt: skip
        path = root / "state" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o640)
    paths = {name: str(root / "state" / name) for name in ("keys", "secrets", "absent")}
    table = {
        "paths": paths,
        "facts": {"aistack": "0.1.0", "models": {"chat": {"hash": "sha256-x"}}},
    }
    (root / "table.json").write_text(json.dumps(table))
    return machine


@pytest.fixture
def backup_machine(postgres_server: PostgresServer, tmp_path: Path) -> Iterator[Machine]:
    made = new_machine(postgres_server, tmp_path)
    made.add("first")
    yield made
    made.close()
