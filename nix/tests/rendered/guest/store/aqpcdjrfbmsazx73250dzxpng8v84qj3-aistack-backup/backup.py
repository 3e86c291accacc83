"""`backup`: a consistent dump of the database and copies of directories, verified, then kept."""

from __future__ import annotations

import datetime
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import store
from settings import Refused, Settings, literal

#: Tables that may exist; what is in them is counted. Rows of unlogged ones are not backed up.
TABLES = (
    "SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c"
    " JOIN pg_namespace n ON n.oid = c.relnamespace"
    " WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 'u'"
    " AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'"
    " ORDER BY 1"
)
#: Names come quoted from the catalogue.
COUNT = "SELECT count(*) FROM {}"
VERSION_TABLE = "public.alembic_version"


def backup(settings: Settings) -> str:
    """Make one; its name. On any failure nothing is left and nothing older is touched."""
    started = time.time()
    with settings.alone():
        _sweep(settings.directory)
        name = _free_name(settings.directory)
        partial = settings.directory / f".partial-{name}"
        try:
            partial.mkdir(mode=0o700)
            facts = _dump(settings, partial / "database.dump")
            _verify_dump(settings, partial / "database.dump", facts["tables"])
            (partial / "files").mkdir(mode=0o700)
            present = {key: path for key, path in settings.paths.items() if path.is_dir()}
            for key, path in present.items():
                store.copy_tree(path, partial / "files" / key)
            manifest = {
                "format": store.FORMAT,
                "name": name,
                "created": started,
                "seconds": round(time.time() - started, 3),
                "database": facts,
                "paths": {key: str(path) for key, path in settings.paths.items()},
                "absent": sorted(set(settings.paths) - set(present)),
                "facts": settings.facts,
                "files": store.described(partial, settings.paths),
            }
            store.seal(partial, manifest)
            partial.rename(settings.directory / name)
        except OSError as error:
            raise Refused(f"the backup could not be written: {error}") from error
        finally:
            if partial.exists():
                shutil.rmtree(partial)
        _retain(settings, name)
    return name


def report(settings: Settings, *, success: bool) -> None:
    """Metrics for the node exporter: how the last run ended, and how old the newest backup is."""
    if settings.metrics is None:
        return
    lines = [
        "# HELP aistack_backup_last_run_success 1 when the last run made a backup",
        "# TYPE aistack_backup_last_run_success gauge",
        f"aistack_backup_last_run_success {int(success)}",
    ]
    backups = store.complete(settings.directory)
    if backups:
        newest = backups[-1].manifest
        size = sum(entry.get("size", 0) for entry in newest["files"].values())
        for metric, text, value in (
            (
                "last_success_timestamp_seconds",
                "When the newest backup was begun",
                newest["created"],
            ),
            ("duration_seconds", "How long the newest backup took", newest["seconds"]),
            ("size_bytes", "Size of the newest backup", size),
            ("kept", "Backups that are kept", len(backups)),
        ):
            lines += [
                f"# HELP aistack_backup_{metric} {text}",
                f"# TYPE aistack_backup_{metric} gauge",
                f"aistack_backup_{metric} {value}",
            ]
    fresh = settings.metrics.with_name(f".{settings.metrics.name}.new")
    fresh.write_text("\n".join(lines) + "\n")
    fresh.chmod(0o644)
    fresh.rename(settings.metrics)


def _sweep(directory: Path) -> None:
    # What a run left behind that was killed.
    for path in directory.glob(".partial-*"):
        shutil.rmtree(path)
    for path in directory.glob(".deleting-*"):
        shutil.rmtree(path)


def _free_name(directory: Path) -> str:
    base = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%SZ")
    name, number = base, 1
    while (directory / name).exists():
        number += 1
        name = f"{base}.{number}"
    return name


def _dump(settings: Settings, target: Path) -> dict[str, Any]:
    """Dump and count in one snapshot, so that the counts are those of the dump."""
    with subprocess.Popen(
        ["psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "--dbname", settings.database],
        env=dict(settings.libpq),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd="/",
    ) as session:
        assert session.stdin is not None
        assert session.stdout is not None
        assert session.stderr is not None
        end = "-- end --"

        def ask(statement: str) -> list[str]:
            assert session.stdin is not None
            assert session.stdout is not None
            assert session.stderr is not None
            try:
                session.stdin.write(f"{statement};\n\\echo {literal(end)}\n")
                session.stdin.flush()
            except BrokenPipeError:
                # Its last words are read below.
                session.stdin = None
            lines = []
            while (line := session.stdout.readline()) not in ("", end + "\n"):
                lines.append(line.rstrip("\n"))
            if line == "":
                said = " ".join(session.stderr.read().split())
                raise Refused(f"the database cannot be read: {said}")
            return lines

        ask("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        snapshot = ask("SELECT pg_export_snapshot()")[0]
        tables = ask(TABLES)
        facts: dict[str, Any] = {
            "tables": {name: int(ask(COUNT.format(name))[0]) for name in tables},
            "revision": (ask(f"TABLE {VERSION_TABLE}")[0] if VERSION_TABLE in tables else None),
            "server_version": int(ask("SHOW server_version_num")[0]),
            "extensions": dict(
                line.split("|", 1)
                for line in ask("SELECT extname, extversion FROM pg_extension ORDER BY 1")
            ),
            **dict(
                zip(
                    ("encoding", "collate", "ctype"),
                    ask(
                        "SELECT pg_encoding_to_char(encoding), datcollate, datctype"
                        " FROM pg_database WHERE datname = current_database()"
                    )[0].split("|"),
                    strict=True,
                )
            ),
        }
        if not facts["tables"]:
            raise Refused(
                f"database {settings.database} has no tables: nothing to back up; has"
                " aistack-migrate.service run?"
            )
        settings.pg(
            "pg_dump",
            "--format=custom",
            f"--compress={settings.compression}",
            f"--snapshot={snapshot}",
            "--lock-wait-timeout=60s",
            "--no-unlogged-table-data",
            f"--file={target}",
        )
        ask("COMMIT")
        session.stdin.close()
        return facts


def _verify_dump(settings: Settings, dump: Path, tables: dict[str, int]) -> None:
    """The archive has every table, and all of it can be read and unpacked."""
    run = {"env": dict(settings.libpq), "capture_output": True, "text": True, "check": False}
    listed = subprocess.run(["pg_restore", "--list", str(dump)], **run)  # type: ignore[call-overload]
    if listed.returncode != 0:
        raise Refused(f"the dump cannot be read: {listed.stderr.strip()}")
    has = {
        f"{_plain(words[0])}.{_plain(words[1])}"
        for line in listed.stdout.splitlines()
        if " TABLE DATA " in line
        for words in [line.split(" TABLE DATA ", 1)[1].split()]
    }
    missing = sorted(table for table in tables if _plain(table) not in has)
    if missing:
        raise Refused(f"the dump lacks {', '.join(missing)}")
    whole = subprocess.run(["pg_restore", f"--file={os.devnull}", str(dump)], **run)  # type: ignore[call-overload]
    if whole.returncode != 0:
        raise Refused(f"the dump cannot be unpacked: {whole.stderr.strip()}")


def _plain(name: str) -> str:
    """A name as pg_restore lists it, without quotes."""
    return name.replace('"', "")


def _retain(settings: Settings, newest: str) -> None:
    for old in store.complete(settings.directory)[: -settings.keep]:
        if old.name != newest:
            store.remove(old.path)
