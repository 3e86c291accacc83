"""Programs from Debian packages in a folder of their own, without touching the host.

The tests need programs that no Python package has (Nix, a newer systemd, nginx, promtool). This
unpacks Debian packages with their whole closure, libc too, into the cache folder. It needs no
root: apt works on a state of its own with an empty list of installed packages, so it resolves the
closure, and the archive's signatures are checked as always. A program then runs through the
prefix's own dynamic loader (`Prefix.command`).
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

#: The archive's keys, from the package debian-archive-keyring, which Ubuntu has too.
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
#: Names a mirror of Debian where the host's own apt has other sources (Ubuntu).
MIRROR = "AISTACK_DEBIAN_MIRROR"
#: Longest time for apt's downloads, in seconds.
DOWNLOAD_SECONDS = 600


class UnavailableError(Exception):
    """This machine cannot provide a tool; the text says why, and is a test's reason to skip."""


def cache_folder() -> Path:
    """Where downloads stay between runs: $AISTACK_TEST_CACHE, else ~/.cache/aistack."""
    chosen = os.environ.get("AISTACK_TEST_CACHE")
    folder = Path(chosen) if chosen else Path.home() / ".cache" / "aistack"
    folder.mkdir(parents=True, exist_ok=True)
    return folder.resolve()


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock named after `path`, so that two runs do not make the same thing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(path.name + ".lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


@dataclass(frozen=True, slots=True)
class Prefix:
    """A folder of unpacked Debian packages."""

    root: Path

    def program(self, name: str) -> Path:
        """The file of a program in one of the usual folders."""
        for folder in ("usr/bin", "usr/sbin", "bin", "sbin"):
            candidate = self.root / folder / name
            if candidate.exists():
                return candidate
        raise UnavailableError(f"{name} is not in {self.root}")

    @property
    def triplet(self) -> str:
        """Debian's name of the architecture's library folder."""
        return f"{platform.machine()}-linux-gnu"

    @property
    def loader(self) -> Path:
        """The prefix's own dynamic loader."""
        found = sorted(self.root.glob("usr/lib*/ld-linux-*.so.*"))
        found += sorted(self.root.glob("lib*/ld-linux-*.so.*"))
        if not found:
            raise UnavailableError(f"no dynamic loader in {self.root}")
        return found[0]

    def library_path(self) -> str:
        """Folders that the loader searches, joined as it wants them."""
        library = self.root / "usr" / "lib" / self.triplet
        return os.pathsep.join(str(p) for p in (library, library / "systemd"))

    def command(self, name: str, *arguments: str | Path, argv0: str | None = None) -> list[str]:
        """The command line that runs a dynamically linked program of this prefix."""
        return [
            str(self.loader),
            "--argv0",
            argv0 or name,
            "--library-path",
            self.library_path(),
            str(self.program(name)),
            *map(str, arguments),
        ]


def host_mirror() -> str:
    """The Debian mirror that the host's own apt uses, else the one that is named."""
    targets = _run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE)", "Created-By: Packages"]
    )
    for line in targets.splitlines():
        uri, _, release = line.partition(" ")
        if "security" not in uri and "security" not in release and "debian" in uri:
            return uri.rstrip("/")
    if named := os.environ.get(MIRROR):
        return named
    raise UnavailableError(f"apt knows no mirror of Debian here: name one in {MIRROR}")


def keyring() -> Path:
    """Keys of Debian's archive: the host's, else those in the package that its apt verifies."""
    if KEYRING.exists():
        return KEYRING
    target = cache_folder() / "debian" / "keyring"
    with locked(target):
        if not target.is_dir():
            with tempfile.TemporaryDirectory(dir=target.parent, prefix=".keyring-") as work:
                try:
                    _run(["apt-get", "-qq", "download", "debian-archive-keyring"], Path(work))
                except UnavailableError as error:
                    raise UnavailableError(
                        f"Debian's packages cannot be verified: {KEYRING} is not here, and its"
                        f" package cannot be had ({error}): install debian-archive-keyring"
                    ) from error
                (archive,) = Path(work).glob("*.deb")
                unpacked = Path(work) / "unpacked"
                _run(["dpkg-deb", "-x", str(archive), str(unpacked)])
                unpacked.rename(target)
    return target / KEYRING.relative_to("/")


def prefix(name: str, suite: str, packages: Sequence[str]) -> Prefix:
    """Debian packages of a suite, with their closure, unpacked once into the cache.

    Raises `UnavailableError` where apt, the keyring or the mirror is not at hand.
    """
    digest = hashlib.sha256(" ".join([suite, *sorted(packages)]).encode()).hexdigest()[:8]
    target = cache_folder() / "debian" / f"{name}-{suite}-{digest}"
    if target.is_dir():
        return Prefix(target)
    for tool in ("apt-get", "dpkg-deb", "dpkg"):
        if shutil.which(tool) is None:
            raise UnavailableError(f"{tool} is not here: {', '.join(packages)} cannot be unpacked")
    with locked(target):
        if not target.is_dir():
            with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{name}-") as work:
                unpacked = Path(work) / "prefix"
                _unpack(Path(work), suite, packages, unpacked)
                unpacked.rename(target)
    return Prefix(target)


def _unpack(work: Path, suite: str, packages: Sequence[str], into: Path) -> None:
    """Download a closure with an apt state of its own, then unpack each archive."""
    for folder in ("lists/partial", "cache/archives/partial", "etc", "dpkg"):
        (work / folder).mkdir(parents=True)
    (work / "dpkg/status").touch()
    architecture = _run(["dpkg", "--print-architecture"]).strip()
    (work / "etc/sources.list").write_text(
        f"deb [signed-by={keyring()} arch={architecture}] {host_mirror()} {suite} main\n"
    )
    options = {
        "Dir::Etc::sourcelist": work / "etc/sources.list",
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::Etc::preferencesparts": "/dev/null",
        "Dir::State": work,
        "Dir::State::lists": work / "lists",
        "Dir::State::status": work / "dpkg/status",
        "Dir::Cache": work / "cache",
        # Without root there is no _apt user to change to, and no lock to take.
        "APT::Sandbox::User": "",
        "Debug::NoLocking": "1",
        "Acquire::Languages": "none",
        "Acquire::Retries": "3",
        "APT::Install-Recommends": "0",
        "APT::Get::List-Cleanup": "0",
    }
    apt = ["apt-get", "-qq"]
    for key, value in options.items():
        apt += ["-o", f"{key}={value}"]
    _run([*apt, "update"])
    _run([*apt, "install", "-y", "--download-only", *packages])
    into.mkdir()
    archives = sorted((work / "cache/archives").glob("*.deb"))
    if not archives:
        raise UnavailableError(f"apt downloaded nothing for {', '.join(packages)}")
    for archive in archives:
        _run(["dpkg-deb", "-x", str(archive), str(into)])


def _run(command: Sequence[str], folder: Path | None = None) -> str:
    """A command's output; `UnavailableError` with its message when it fails."""
    try:
        done = subprocess.run(
            command,
            check=True, capture_output=True, text=True, timeout=DOWNLOAD_SECONDS, cwd=folder,
        )  # fmt: skip
    except FileNotFoundError as error:
        raise UnavailableError(f"{command[0]} is not here") from error
    except subprocess.TimeoutExpired as error:
        raise UnavailableError(f"{command[0]} took more than {DOWNLOAD_SECONDS} s") from error
    except subprocess.CalledProcessError as error:
        lines = (error.stderr or error.stdout).strip().splitlines() or ["no message"]
        raise UnavailableError(f"{command[0]} failed: {lines[-1]}") from error
    return done.stdout
