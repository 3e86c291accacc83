"""What the system test downloads and builds once: directories named by a digest of their inputs."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from nix.debian import UnavailableError, cache_folder, locked

#: Entries of one kind that are kept whatever their age, the newest first.
KEPT = 2
#: Seconds after which another one that nobody used goes.
UNUSED_SECONDS = 86_400.0


#: What building and booting a guest uses on this machine.
TOOLS = ("apt-get", "dpkg-deb", "mke2fs", "setpriv", "unshare")


def require() -> None:
    """Raises UnavailableError with the reason when a guest cannot be built on this machine."""
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        raise UnavailableError(
            f"the guest is Linux on x86-64, this is {platform.system()} on {platform.machine()}"
        )
    missing = [name for name in TOOLS if shutil.which(name, path=search_path()) is None]
    if missing:
        raise UnavailableError(f"not on PATH: {', '.join(missing)}")


def search_path() -> str:
    """PATH with the directories where an ordinary user lacks mke2fs."""
    return f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


def root() -> Path:
    """`AISTACK_TEST_CACHE`, or ~/.cache/aistack; never inside the repository."""
    directory = cache_folder() / "system"
    directory.mkdir(exist_ok=True)
    return directory


def digest(*parts: object) -> str:
    """16 hexadecimal digits of anything that JSON can write; files are given as their bytes."""
    total = hashlib.sha256()
    for part in parts:
        data = part if isinstance(part, bytes) else json.dumps(part, sort_keys=True).encode()
        total.update(len(data).to_bytes(8, "big") + data)
    return total.hexdigest()[:16]


def obtain(kind: str, key: str, build: Callable[[Path], None]) -> Path:
    """The directory `<kind>-<key>`, built when it is not there; one builder at a time.

    `build` gets an empty directory that is renamed when it has returned, so that a directory with
    the final name is always whole.
    """
    where = root()
    final = where / f"{kind}-{key}"
    with locked(where / kind):
        for left in where.glob(f".{kind}-*"):  # of a builder that was killed
            remove(left)
        if not final.exists():
            partial = Path(tempfile.mkdtemp(prefix=f".{kind}-", dir=where))
            try:
                partial.chmod(0o755)
                build(partial)
                partial.rename(final)
            except BaseException:
                remove(partial)
                raise
        os.utime(final)
        for old in _older(where, kind):
            remove(old)
    return final


def _older(where: Path, kind: str) -> list[Path]:
    found = [path for path in where.glob(f"{kind}-*") if path.is_dir()]
    others = sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)[KEPT:]
    return [path for path in others if path.stat().st_mtime < time.time() - UNUSED_SECONDS]


def scratch(kind: str) -> Path:
    """A new directory of this process; those of processes that ended are swept away."""
    where = root()
    for left in where.glob("*.run"):
        if not Path(f"/proc/{left.name.split('-')[-2]}").exists():
            remove(left)
    directory = where / f"{kind}-{os.getpid()}-{secrets.token_hex(4)}.run"
    directory.mkdir()
    return directory


def remove(directory: Path) -> None:
    """Remove a tree that may hold read-only directories."""
    if not directory.exists():
        return
    for parent, _names, _files in os.walk(directory):
        mode = os.lstat(parent).st_mode
        if stat.S_ISDIR(mode) and not mode & stat.S_IWUSR:
            os.chmod(parent, mode | stat.S_IRWXU)
    shutil.rmtree(directory)
