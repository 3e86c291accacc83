"""Where a stack keeps its things, and the short directory of its sockets."""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from aistack.service.errors import StartError

#: sun_path of unix(7) holds 108 bytes with the final zero.
LONGEST_SOCKET_PATH = 107
_LONGEST_NAME = "/postgres/.s.PGSQL.5432"


@dataclass(frozen=True, slots=True)
class Paths:
    """One data directory and the run directory that belongs to it."""

    data: Path
    run: Path

    @property
    def keys(self) -> Path:
        """The key store."""
        return self.data / "keys"

    @property
    def logs(self) -> Path:
        """One file per program."""
        return self.data / "logs"

    @property
    def lock(self) -> Path:
        """Locked while a stack runs on this data directory; holds its process id."""
        return self.data / "lock"

    @property
    def endpoint(self) -> Path:
        """Tells the command line where the running stack is."""
        return self.data / "endpoint.json"

    @property
    def postgres(self) -> Path:
        """The database."""
        return self.data / "postgres"

    @property
    def postgres_socket(self) -> Path:
        """The directory of PostgreSQL's socket."""
        return self.run / "postgres"

    @property
    def state(self) -> Path:
        """What runs: see aistack.dev.state."""
        return self.run / "state.json"

    def socket(self, name: str) -> Path:
        """The socket of a service or a server."""
        return self.run / f"{name}.sock"

    def config(self, name: str) -> Path:
        """The configuration file of a service."""
        return self.run / f"{name}.json"


def run_directory(data: Path, *, bases: tuple[Path, ...] | None = None) -> Path:
    """A private directory with a short path, always the same for one data directory.

    Under /run/user/<uid> (which logging out clears) if the system made one, else under /tmp, where
    somebody else could have made it before us: it must be a directory of ours, 0700. Raises
    StartError.
    """
    directory = run_directory_of(data, bases=bases)
    try:
        directory.mkdir(mode=0o700)
    except FileExistsError:
        _check_ours(directory, os.geteuid())
    return directory


def run_directory_of(data: Path, *, bases: tuple[Path, ...] | None = None) -> Path:
    """Where it is, or would be. Raises StartError when there is no place for it."""
    uid = os.geteuid()
    digest = hashlib.sha256(os.fsencode(data.resolve())).hexdigest()[:10]
    candidates = bases or (Path(f"/run/user/{uid}"), Path("/tmp"))
    for base in candidates:
        if not os.access(base, os.W_OK | os.X_OK):
            continue
        name = f"aistack-{digest}" if base.name == str(uid) else f"aistack-{uid}-{digest}"
        directory = base / name
        if len(os.fsencode(directory)) + len(_LONGEST_NAME) <= LONGEST_SOCKET_PATH:
            return directory
    raise StartError(
        "no place for the sockets: neither "
        + " nor ".join(str(base) for base in candidates)
        + " is a writable directory with a short path"
    )


def _check_ours(directory: Path, uid: int) -> None:
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != uid:
        raise StartError(f"{directory} belongs to somebody else: remove it")
    if stat.S_IMODE(found.st_mode) != 0o700:
        directory.chmod(0o700)
