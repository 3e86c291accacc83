# ruff: noqa: S608 - every name and text in SQL goes through identifier() or literal()
"""`restore NAME`: into a new database beside the old one, checked, then swapped.

Until the swap nothing that works is touched, and the services keep on working. The swap is one
transaction; the database that was replaced stays as `<database>_replaced` until the next restore,
and `restore undo` puts it back.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import store
from backup import COUNT
from settings import Refused, Settings, identifier, literal, numbers


def restore(settings: Settings, name: str) -> str:
    """Bring the database back to a backup; its name. Raises Refused with nothing changed."""
    with settings.alone():
        if name == "undo":
            return _undo(settings)
        backup = store.find(settings, name)
        backup.verify()
        _check_versions(settings, backup)
        fresh = f"{settings.database}_restore"
        _drop(settings, fresh)
        try:
            _fill(settings, backup, fresh)
            _check_counts(settings, backup, fresh)
            _replace(settings, fresh)
        except BaseException:
            _drop(settings, fresh)
            raise
        return backup.name


def restore_keys(settings: Settings, name: str) -> str:
    """Put the key store and the secrets back; what was there stays beside it."""
    with settings.alone():
        backup = store.find(settings, name)
        backup.verify()
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        for key in ("keys", "secrets"):
            copied = backup.path / "files" / key
            if not copied.is_dir():
                continue
            target = settings.paths[key]
            fresh = target.with_name(f".{target.name}.restored")
            if fresh.exists():
                shutil.rmtree(fresh)
            store.copy_tree(copied, fresh)
            _own(fresh, f"files/{key}", backup)
            if target.exists():
                target.rename(target.with_name(f"{target.name}.before-{stamp}"))
            fresh.rename(target)
        settings.unit("restart", *settings.active(settings.key_units))
        return backup.name


def _own(root: Path, prefix: str, backup: store.Backup) -> None:
    """Owner and mode as they were."""
    for path in [*root.rglob("*"), root]:
        relative = path.relative_to(root)
        facts = backup.manifest["files"][str(Path(prefix) / relative)]
        if os.geteuid() == 0:
            shutil.chown(path, _number(facts["owner"]), _number(facts["group"]))
        if not path.is_symlink():
            path.chmod(int(facts["mode"], 8))


def _number(name: str) -> str | int:
    return int(name) if name.isdigit() else name


def _check_versions(settings: Settings, backup: store.Backup) -> None:
    database = backup.manifest["database"]
    here = int(settings.sql("SHOW server_version_num", database="postgres", admin=True)[0])
    if database["server_version"] // 10000 > here // 10000:
        raise Refused(
            f"backup {backup.name} is of PostgreSQL {database['server_version'] // 10000} and this"
            f" server is {here // 10000}: a dump cannot go back to an older one; upgrade the server"
        )
    revision = database["revision"]
    if settings.revisions and revision is not None and revision not in settings.revisions:
        raise Refused(
            f"backup {backup.name} has schema {revision}, and this aistack knows"
            f" {', '.join(settings.revisions)}: use the version of aistack that made it, or a newer"
        )
    for extension, version in database["extensions"].items():
        available = settings.sql(
            "SELECT default_version FROM pg_available_extensions"
            f" WHERE name = {literal(extension)}",
            database="postgres",
            admin=True,
        )
        if not available:
            raise Refused(f"backup {backup.name} needs the extension {extension}: install it")
        if numbers(available[0]) < numbers(version):
            raise Refused(
                f"backup {backup.name} needs {extension} {version} and this server has"
                f" {available[0]}: upgrade it"
            )


def _fill(settings: Settings, backup: store.Backup, fresh: str) -> None:
    facts = backup.manifest["database"]
    owner = settings.libpq.get("PGUSER", settings.database)
    settings.sql(
        f"CREATE DATABASE {identifier(fresh)} OWNER {identifier(owner)} TEMPLATE template0"
        f" ENCODING {literal(facts['encoding'])} LC_COLLATE {literal(facts['collate'])}"
        f" LC_CTYPE {literal(facts['ctype'])}",
        database="postgres",
        admin=True,
    )
    for extension in facts["extensions"]:
        # Most are not trusted, so that the owner of a database may not create them.
        settings.sql(
            f"CREATE EXTENSION IF NOT EXISTS {identifier(extension)}", database=fresh, admin=True
        )
    with tempfile.TemporaryDirectory(prefix="aistack-restore-") as folder:
        # The superuser's programs may read what is needed, and only that.
        Path(folder).chmod(0o755)
        entries = Path(folder) / "entries"
        listed = subprocess.run(
            ["pg_restore", "--list", str(backup.dump)],
            env=dict(settings.libpq), capture_output=True, text=True, check=False,
        )  # fmt: skip
        if listed.returncode != 0:
            raise Refused(f"the dump cannot be read: {listed.stderr.strip()}")
        entries.write_text(
            "".join(line + "\n" for line in listed.stdout.splitlines() if " EXTENSION " not in line)
        )
        entries.chmod(0o644)
        with backup.dump.open("rb") as dump:
            # The dump is read from an open file: its directory is closed to the database's user.
            # Grants to other parts' roles come from their own SQL, for a role may not exist here.
            settings.pg(
                "pg_restore",
                "--exit-on-error",
                "--no-owner",
                "--no-privileges",
                f"--role={owner}",
                f"--use-list={entries}",
                database=fresh,
                admin=True,
                stdin=dump,
            )
    settings.sql("ANALYZE", database=fresh, admin=True)


def _check_counts(settings: Settings, backup: store.Backup, fresh: str) -> None:
    for table, rows in backup.manifest["database"]["tables"].items():
        found = int(settings.sql(COUNT.format(table), database=fresh, admin=True)[0])
        if found != rows:
            raise Refused(f"{table} has {found} rows after the restore, the backup had {rows}")


def _replace(settings: Settings, fresh: str) -> None:
    """Stop the writers, swap, bring the schema up, start again; back as it was if one fails."""
    replaced = f"{settings.database}_replaced"

    def change() -> None:
        _drop(settings, replaced)
        _swap(settings, fresh, replaced)
        try:
            _after_swap(settings)
        except BaseException:
            _swap(settings, replaced, fresh)
            raise

    _stopped(settings, change)


def _undo(settings: Settings) -> str:
    replaced, aside = f"{settings.database}_replaced", f"{settings.database}_restore"
    if not _exists(settings, replaced):
        raise Refused("there is nothing to undo: no database was replaced")

    def change() -> None:
        _drop(settings, aside)
        _swap(settings, replaced, aside)
        settings.sql(
            f"ALTER DATABASE {identifier(aside)} RENAME TO {identifier(replaced)}",
            database="postgres",
            admin=True,
        )
        _after_swap(settings)

    _stopped(settings, change)
    return "undo"


def _stopped(settings: Settings, change: Callable[[], None]) -> None:
    """Do `change` while nothing writes; the units that ran run again, whatever happens."""
    running = settings.active(settings.writers)
    try:
        settings.unit("stop", *running)
        change()
    finally:
        settings.unit("start", *running)


def _after_swap(settings: Settings) -> None:
    _distrust_index(settings)
    if settings.superuser_sql is not None:
        settings.pg(
            "psql", "-Xq", "-v", "ON_ERROR_STOP=1", "-f", str(settings.superuser_sql), admin=True
        )
    if settings.migrate:
        settings.unit("restart", settings.migrate)


def _distrust_index(settings: Settings) -> None:
    """An index outside the database (Qdrant) is of another time than what is in it now: aidb makes
    it anew, and searches without it until then."""
    known = "SELECT to_regclass('public.index_state') IS NOT NULL"
    if settings.sql(known, admin=True) == ["t"]:
        settings.sql(
            "UPDATE public.index_state SET state = 'building', next_chunk = -1, done = 0,"
            " started_at = now(), built_at = NULL",
            admin=True,
        )


def _swap(settings: Settings, incoming: str, outgoing: str) -> None:
    """`incoming` becomes the database and what was the database becomes `outgoing`."""
    database = settings.database
    if not _exists(settings, database):
        settings.sql(
            f"ALTER DATABASE {identifier(incoming)} RENAME TO {identifier(database)}",
            database="postgres",
            admin=True,
        )
        return
    for name in (database, incoming):
        settings.sql(
            f"ALTER DATABASE {identifier(name)} ALLOW_CONNECTIONS false",
            database="postgres",
            admin=True,
        )
    try:
        settings.sql(
            "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity"
            f" WHERE datname IN ({literal(database)}, {literal(incoming)})",
            database="postgres",
            admin=True,
        )
        settings.sql(
            f"ALTER DATABASE {identifier(database)} RENAME TO {identifier(outgoing)};"
            f" ALTER DATABASE {identifier(incoming)} RENAME TO {identifier(database)}",
            database="postgres",
            admin=True,
        )
    finally:
        for name in (database, incoming, outgoing):
            if _exists(settings, name):
                settings.sql(
                    f"ALTER DATABASE {identifier(name)} ALLOW_CONNECTIONS true",
                    database="postgres",
                    admin=True,
                )


def _exists(settings: Settings, name: str) -> bool:
    return bool(
        settings.sql(
            f"SELECT 1 FROM pg_database WHERE datname = {literal(name)}",
            database="postgres",
            admin=True,
        )
    )


def _drop(settings: Settings, name: str) -> None:
    settings.sql(
        f"DROP DATABASE IF EXISTS {identifier(name)} WITH (FORCE)", database="postgres", admin=True
    )
