"""What the units pass: settings as environment variables, and the few helpers both sides use.

Nothing here is secret. libpq's own variables (PGHOST, PGPORT, PGUSER, PGDATABASE, PGSSLMODE) say
where the database is; a password comes as a file.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any


class Refused(Exception):
    """Nothing was changed, or all of it was taken back; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class Settings:
    """One run's settings."""

    directory: Path
    database: str
    keep: int = 7
    compression: int = 6
    metrics: Path | None = None
    #: Directories to copy, by their name in the backup.
    paths: Mapping[str, Path] = field(default_factory=dict)
    #: What Nix knows: the version of the package, the models.
    facts: Mapping[str, Any] = field(default_factory=dict)
    #: Role and operating system user that may create databases and extensions.
    admin_role: str = ""
    admin_user: str = ""
    #: Units that write to the database; stopped around the swap.
    writers: Sequence[str] = ()
    migrate: str = ""
    #: Units that read the keys.
    key_units: Sequence[str] = ()
    #: SQL for the superuser after a restore (grants to roles of other parts).
    superuser_sql: Path | None = None
    revisions: Sequence[str] = ()
    systemctl: str = "systemctl"
    #: Environment of libpq's programs.
    libpq: Mapping[str, str] = field(default_factory=dict)

    def pg(
        self,
        program: str,
        *arguments: str,
        database: str | None = None,
        admin: bool = False,
        stdin: IO[bytes] | None = None,
    ) -> str:
        """Run one of PostgreSQL's programs; its output. Raises Refused with its words."""
        command = [program, *arguments, "--dbname", database or self.database]
        environment = dict(self.libpq)
        extra: dict[str, Any] = {}
        if admin and self.admin_role:
            environment["PGUSER"] = self.admin_role
        if admin and self.admin_user and os.geteuid() == 0:
            # Peer authentication: the socket tells PostgreSQL who we are.
            extra = {"user": self.admin_user, "group": self.admin_user, "extra_groups": []}
        done: subprocess.CompletedProcess[bytes] = subprocess.run(
            command,
            env=environment,
            stdin=stdin if stdin is not None else subprocess.DEVNULL,
            capture_output=True,
            check=False,
            cwd="/",
            **extra,
        )
        if done.returncode != 0:
            said = " ".join(done.stderr.decode(errors="replace").split())[-500:]
            raise Refused(f"{program} failed: {said}")
        return done.stdout.decode()

    def sql(self, statement: str, *, database: str | None = None, admin: bool = False) -> list[str]:
        """Run SQL in one transaction; the lines of its last result."""
        out = self.pg(
            "psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-c", statement,
            database=database, admin=admin,
        )  # fmt: skip
        return out.splitlines()

    def unit(self, verb: str, *names: str) -> None:
        """Ask systemd. Raises Refused."""
        if not names:
            return
        done = subprocess.run(
            [self.systemctl, verb, *names], capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise Refused(f"systemctl {verb} {' '.join(names)} failed: {done.stderr.strip()}")

    def active(self, names: Sequence[str]) -> list[str]:
        """Those units that run now."""
        found = []
        for name in names:
            asked = subprocess.run([self.systemctl, "--quiet", "is-active", name], check=False)
            if asked.returncode == 0:
                found.append(name)
        return found

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the lock of the directory: one backup or restore at a time."""
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (self.directory / ".lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Refused("another backup or restore runs: wait until it ends") from None
            yield


def identifier(name: str) -> str:
    """`name` quoted for SQL."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """`text` as an SQL string."""
    return "'" + text.replace("'", "''") + "'"


def numbers(version: str) -> tuple[int, ...]:
    """`0.8.4` as numbers, to compare."""
    return tuple(int(part) for part in re.findall(r"\d+", version))


@contextmanager
def from_environment() -> Iterator[Settings]:
    """The settings of this process; a password is put into a file that libpq reads."""
    env = os.environ
    libpq = {name: value for name, value in env.items() if name.startswith("PG")}
    libpq |= {name: env[name] for name in ("PATH", "HOME", "LANG", "LC_ALL") if name in env}

    def path(name: str) -> Path | None:
        return Path(env[name]) if env.get(name) else None

    with tempfile.TemporaryDirectory(prefix="aistack-backup-") as private:
        if (secret := path("AISTACK_BACKUP_PASSWORD_FILE")) is not None:
            passfile = Path(private) / "pgpass"
            password = re.sub(r"([:\\])", r"\\\1", secret.read_text().strip())
            passfile.touch(mode=0o600)
            passfile.write_text(f"*:*:*:*:{password}\n")
            libpq["PGPASSFILE"] = str(passfile)
        file = path("AISTACK_BACKUP_TABLE")
        entries: dict[str, Any] = json.loads(file.read_text()) if file else {}
        yield Settings(
            directory=Path(env["AISTACK_BACKUP_DIRECTORY"]),
            database=env["PGDATABASE"],
            keep=int(env.get("AISTACK_BACKUP_KEEP", "7")),
            compression=int(env.get("AISTACK_BACKUP_COMPRESSION", "6")),
            metrics=path("AISTACK_BACKUP_METRICS"),
            paths={name: Path(value) for name, value in entries.get("paths", {}).items()},
            facts=entries.get("facts", {}),
            admin_role=env.get("AISTACK_RESTORE_ADMIN_ROLE", ""),
            admin_user=env.get("AISTACK_RESTORE_ADMIN_USER", ""),
            writers=env.get("AISTACK_RESTORE_WRITERS", "").split(),
            migrate=env.get("AISTACK_RESTORE_MIGRATE", ""),
            key_units=env.get("AISTACK_RESTORE_KEY_UNITS", "").split(),
            superuser_sql=path("AISTACK_RESTORE_SUPERUSER_SQL"),
            revisions=env.get("AISTACK_RESTORE_REVISIONS", "").split(),
            systemctl=env.get("AISTACK_SYSTEMCTL", "systemctl"),
            libpq=libpq,
        )
