"""Two ways to boot a tree: user-mode Linux and systemd-nspawn, each from packages unpacked here.

User-mode Linux needs no root, has a kernel of its own and so enforces every limit, but has one
processor and makes a system call some seven times dearer. nspawn needs root, runs at native speed,
and enforces limits only where this machine's cgroups are of version 2.
"""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from nix.debian import Prefix, UnavailableError, prefix
from system import cache
from system.tree import as_root

#: Suites that ship a kernel as a program, the newest first; 7.x knows `seccomp=`.
KERNEL_SUITES = ("sid", "trixie", "bookworm")
ARGUMENTS = (
    *("quiet", "systemd.getty_auto=0", "systemd.show_status=0", "systemd.unit=multi-user.target"),
    *("systemd.firstboot=off", "systemd.hostname=machine", "panic=-1"),
)


@dataclass(frozen=True, slots=True)
class Guest:
    """A running guest: its process, the line to the agent inside, its group of processes."""

    process: subprocess.Popen[bytes]
    line: socket.socket
    console: Path
    cgroup: Path | None = None

    def tidy(self) -> None:
        """Close the line and remove the control group, when the process has ended."""
        self.line.close()
        if self.cgroup is not None:
            _remove_cgroup(self.cgroup)


class Engine(Protocol):
    """What boots a tree."""

    name: str
    enforces_limits: bool

    def start(self, tree: Path, directory: Path, *, memory: int) -> Guest:
        """Boot `tree`, unchanged by it; `directory` is for this guest's own files."""


def _with_us(command: list[str]) -> list[str]:
    """The kernel kills the guest when this process dies, however it dies."""
    return ["setpriv", "--pdeathsig", "KILL", "--", *command]


class UserModeLinux:
    """A kernel that is an ordinary program."""

    name = "uml"
    enforces_limits = True

    def __init__(self) -> None:
        self._kernel, self._seccomp = _kernel()

    def start(self, tree: Path, directory: Path, *, memory: int) -> Guest:
        """Boot a copy of `tree` in an ext4 image."""
        image = directory / "disk.ext4"
        _image(tree, image)
        console = directory / "console.log"
        ours, theirs = socket.socketpair()
        number = theirs.fileno()
        command = [
            str(self._kernel),
            f"mem={memory}M",
            f"ubd0={image}",
            *("root=/dev/ubda", "rw", "con=null", "con0=null,fd:1"),
            f"ssl0=fd:{number},fd:{number}",
            f"umid={directory.name}",
            f"uml_dir={directory}",
            *ARGUMENTS,
            *(("seccomp=on",) if self._seccomp else ()),
        ]
        with console.open("wb") as log:
            process = subprocess.Popen(
                _with_us(command),
                pass_fds=[number],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        theirs.close()
        return Guest(process, ours, console)


class Nspawn:
    """A container of this machine's kernel."""

    name = "nspawn"

    def __init__(self) -> None:
        if os.geteuid() != 0:
            raise UnavailableError("systemd-nspawn needs root")
        self._prefix = prefix("nspawn", "trixie", ["systemd-container"])
        self.enforces_limits = self.limits()

    @staticmethod
    def limits() -> bool:
        """Whether this machine's cgroups are of version 2, with the controller of memory."""
        controllers = Path("/sys/fs/cgroup/cgroup.controllers")
        return controllers.exists() and "memory" in controllers.read_text().split()

    def start(self, tree: Path, directory: Path, *, memory: int) -> Guest:
        """Boot `tree` under an overlay in memory; `memory` is not limited here."""
        console = directory / "console.log"
        cgroup = _new_cgroup()
        command = [
            # What runs in the container does not end with nspawn, but with the first process of
            # its process namespace.
            *("unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "--"),
            *("sh", "-c", 'echo 0 > "$0/cgroup.procs" && exec "$@"', str(cgroup)),
            *self._prefix.command("systemd-nspawn"),
            *("-D", str(tree), "-M", f"aistack-{secrets.token_hex(6)}", "--volatile=overlay"),
            *("--register=no", "--keep-unit", "--private-network", "--capability=all"),
            *("--system-call-filter=bpf @keyring", f"--bind={directory}:/run/host-share"),
            *("--boot", "--console=pipe", "--", *ARGUMENTS),
        ]
        environment = {
            **os.environ,
            "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1",
            "SYSTEMD_LOG_LEVEL": "warning",
        }
        with socket.socket(socket.AF_UNIX) as listener, console.open("wb") as log:
            _bind(listener, directory)
            listener.listen(1)
            listener.settimeout(1)
            process = subprocess.Popen(
                _with_us(command),
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
            for _second in range(120):
                try:
                    line, _address = listener.accept()
                except TimeoutError:
                    if process.poll() is None:
                        continue
                    break
                return Guest(process, line, console, cgroup)
        process.kill()
        process.wait()
        _remove_cgroup(cgroup)
        raise UnavailableError(f"systemd-nspawn does not boot here: {tail(console)}")


def _bind(listener: socket.socket, directory: Path) -> None:
    """Bind in a directory whose path may be too long for a socket's address."""
    number = os.open(directory, os.O_PATH)
    try:
        listener.bind(f"/proc/self/fd/{number}/agent.sock")
    finally:
        os.close(number)


def _cgroup_mounts(*kinds: str) -> list[Path]:
    """Where hierarchies of control groups are mounted, by `type` or `type name=…`."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
        fields, _, rest = line.partition(" - ")
        kind, _source, options = rest.split(" ", 2)
        if kind in kinds or any(f"{kind} {option}" in kinds for option in options.split(",")):
            found.append(Path(fields.split()[4]))
    return found


def _new_cgroup() -> Path:
    """A control group for one guest: guests in the same one would share those of their units.

    Its name has our process in it; those of processes that ended are removed.
    """
    mounts = _cgroup_mounts("cgroup2")
    if not mounts:
        raise UnavailableError("no control groups of version 2 are mounted")
    for left in mounts[0].glob("aistack-*-*"):
        owner = left.name.split("-")[1]
        if owner.isdigit() and not Path(f"/proc/{owner}").exists():
            _remove_cgroup(left)
    path = mounts[0] / f"aistack-{os.getpid()}-{secrets.token_hex(4)}"
    try:
        path.mkdir()
    except OSError as error:
        raise UnavailableError(f"no control group can be made: {error}") from error
    return path


def _remove_cgroup(path: Path) -> None:
    """Remove it and those below; the kernel may still be ending their last processes.

    nspawn makes one of the same name in systemd's own hierarchy of version 1 where there is one.
    """
    for directory in (path, *(one / path.name for one in _cgroup_mounts("cgroup name=systemd"))):
        for _try in range(100):
            try:
                _remove_directories(directory)
            except OSError:
                time.sleep(0.05)
            else:
                break
        else:
            raise RuntimeError(f"processes are left in {directory}")


def _remove_directories(path: Path) -> None:
    for directory, _names, _files in os.walk(path, topdown=False):
        os.rmdir(directory)


def tail(console: Path, size: int = 600) -> str:
    """The end of a console's log."""
    return console.read_bytes()[-size:].decode("utf-8", "replace").strip()


def _kernel() -> tuple[Path, bool]:
    """The kernel's file, and whether it knows seccomp."""
    reasons = []
    for suite in KERNEL_SUITES:
        try:
            found = prefix("user-mode-linux", suite, ["user-mode-linux", "patchelf"])
            home = cache.obtain("uml", cache.digest(str(found.root)), partial(_patch, found))
        except UnavailableError as error:
            reasons.append(str(error))
            continue
        words = subprocess.run(
            [str(home / "linux"), "--help"], capture_output=True, text=True, check=False
        )
        return home / "linux", "seccomp=" in words.stdout
    raise UnavailableError("; ".join(reasons))


def _patch(found: Prefix, directory: Path) -> None:
    """Let the kernel find its libc itself: it starts again through /proc/self/exe."""
    subprocess.run(
        [
            *found.command("patchelf", "--set-interpreter", found.loader, "--force-rpath"),
            *("--set-rpath", found.library_path(), "--output", str(directory / "linux")),
            str(found.program("linux.uml")),
        ],
        check=True,
        timeout=60,
    )


def _image(tree: Path, image: Path) -> None:
    """An ext4 image of `tree` with room for the data of the test; sparse."""
    used = subprocess.run(["du", "-sxm", tree], capture_output=True, text=True, check=True)
    size = int(used.stdout.split()[0]) * 5 // 4 + 900
    subprocess.run(
        [
            *as_root(),
            *("mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-m", "0"),
            *("-E", "lazy_itable_init=1,nodiscard", "-d", str(tree), str(image), f"{size}M"),
        ],
        check=True,
        capture_output=True,
        env={**os.environ, "PATH": cache.search_path()},
        timeout=300,
    )
