"""A backup on disk: one directory, named by its time, complete or not there at all.

    20261122T023000Z/
        manifest.json       what is in it, with the checksum of each file
        manifest.sha256     the checksum of that
        database.dump       pg_dump's custom format
        files/<name>/…      copies of directories (keys, secrets, state)

It is written as `.partial-…` and renamed at the end, after everything has been read back.
"""

from __future__ import annotations

import grp
import hashlib
import json
import os
import pwd
import re
import shutil
import sqlite3
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from settings import Refused, Settings

FORMAT = 1
NAME = re.compile(r"\d{8}T\d{6}Z(\.\d+)?")


@dataclass(frozen=True, slots=True)
class Backup:
    """A complete backup."""

    path: Path
    manifest: Mapping[str, Any]

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def dump(self) -> Path:
        return self.path / "database.dump"

    def verify(self) -> None:
        """Every file is the one that was written. Raises Refused."""
        for relative, facts in self.manifest["files"].items():
            if facts.get("sha256") is None:
                continue
            file = self.path / relative
            if not file.is_file():
                raise Refused(f"backup {self.name}: {relative} is missing: take another backup")
            if checksum(file) != facts["sha256"]:
                raise Refused(
                    f"backup {self.name}: {relative} is damaged (its checksum differs): take"
                    " another backup"
                )


def checksum(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def complete(directory: Path) -> list[Backup]:
    """The complete backups, oldest first."""
    found = []
    for path in sorted(directory.iterdir() if directory.is_dir() else []):
        if NAME.fullmatch(path.name) and (path / "manifest.json").is_file():
            found.append(Backup(path, json.loads((path / "manifest.json").read_text())))
    return found


def find(settings: Settings, name: str) -> Backup:
    """The backup of that name, or the newest for `latest`. Raises Refused."""
    backups = complete(settings.directory)
    if name == "latest" and backups:
        name = backups[-1].name
    for backup in backups:
        if backup.name == name:
            written = (backup.path / "manifest.sha256").read_text().split()[0]
            if checksum(backup.path / "manifest.json") != written:
                raise Refused(f"backup {name}: its manifest is damaged: take another backup")
            if backup.manifest["format"] != FORMAT:
                raise Refused(
                    f"backup {name} has format {backup.manifest['format']}, this program reads"
                    f" {FORMAT}: use the version of aistack that made it"
                )
            return backup
    known = ", ".join(backup.name for backup in backups) or "none"
    raise Refused(f"there is no backup {name} in {settings.directory}; there are: {known}")


def copy_tree(source: Path, target: Path) -> None:
    """Copy files, directories and links; SQLite databases as their own library copies them."""
    target.mkdir(mode=0o700)
    for entry in sorted(source.iterdir()):
        mode = entry.lstat().st_mode
        into = target / entry.name
        if stat.S_ISDIR(mode):
            copy_tree(entry, into)
        elif stat.S_ISLNK(mode):
            into.symlink_to(entry.readlink())
        elif stat.S_ISREG(mode) and _is_sqlite(entry):
            _copy_sqlite(entry, into)
            into.chmod(0o600)
        elif stat.S_ISREG(mode) and not entry.name.endswith(("-wal", "-shm")):
            shutil.copyfile(entry, into)
            into.chmod(0o600)


def _is_sqlite(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(16) == b"SQLite format 3\0"


def _copy_sqlite(source: Path, target: Path) -> None:
    # A plain copy of a database in use may be torn.
    writer = sqlite3.connect(target)
    try:
        try:
            _copy_pages(f"file:{source}?mode=ro", writer)
        except sqlite3.OperationalError:
            # In WAL mode, closed, and its directory is read-only to us: nobody writes it.
            _copy_pages(f"file:{source}?immutable=1", writer)
    finally:
        writer.close()


def _copy_pages(uri: str, writer: sqlite3.Connection) -> None:
    reader = sqlite3.connect(uri, uri=True)
    try:
        reader.backup(writer)
    finally:
        reader.close()


def described(root: Path, originals: Mapping[str, Path]) -> dict[str, dict[str, Any]]:
    """Checksum, size, and the original's owner and mode of everything under `root`."""
    facts: dict[str, dict[str, Any]] = {}
    for path in _walk(root):
        relative = path.relative_to(root)
        entry: dict[str, Any] = {}
        if path.is_file() and not path.is_symlink():
            entry = {"sha256": checksum(path), "size": path.stat().st_size}
        if relative.parts[0] == "files" and len(relative.parts) >= 2:
            original = originals[relative.parts[1]].joinpath(*relative.parts[2:])
            status = original.lstat()
            entry |= {
                "mode": f"{stat.S_IMODE(status.st_mode):04o}",
                "owner": _name(pwd.getpwuid, status.st_uid),
                "group": _name(grp.getgrgid, status.st_gid),
            }
        facts[str(relative)] = entry
    return facts


def _name(look: Any, number: int) -> str:
    try:
        return str(look(number)[0])
    except KeyError:
        return str(number)


def _walk(root: Path) -> Iterator[Path]:
    for path in sorted(root.rglob("*")):
        if path.name not in ("manifest.json", "manifest.sha256"):
            yield path


def seal(partial: Path, manifest: Mapping[str, Any]) -> None:
    """Write the manifest, and everything through to the disk."""
    text = json.dumps(manifest, indent=2, sort_keys=True) + "\n"
    (partial / "manifest.json").write_text(text)
    digest = hashlib.sha256(text.encode()).hexdigest()
    (partial / "manifest.sha256").write_text(f"{digest}  manifest.json\n")
    for path in [*partial.rglob("*"), partial]:
        if path.is_symlink():
            continue
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def remove(path: Path) -> None:
    """Take a backup away; never a half of it under a valid name."""
    doomed = path.with_name(f".deleting-{path.name.lstrip('.')}")
    path.rename(doomed)
    shutil.rmtree(doomed)
