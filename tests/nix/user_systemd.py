"""A real systemd as the manager of a user, for units that need no root.

It is the host's systemd, in a mount namespace of its own in which /run says that systemd runs here;
its sockets are in a folder of the test. It knows none of the confinement of system units. Its
processes are in a PID namespace, so none of them outlives it, however it ends.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from nix.debian import UnavailableError

SECONDS = 60


@dataclass(frozen=True, slots=True)
class Manager:
    """A running manager; its units and its runtime directory are in `folder`."""

    folder: Path
    process: subprocess.Popen[bytes]

    def show(self, unit: str, name: str) -> str:
        """A property of a unit."""
        return self._show(unit, "--property", name, "--value", check=True).stdout.strip()

    def answers(self) -> bool:
        """Whether it takes commands."""
        return self._show("--property", "Version", check=False).returncode == 0

    def _show(self, *words: str, check: bool) -> subprocess.CompletedProcess[str]:
        # From inside: a manager does not talk to a process that it has no number for.
        return subprocess.run(
            [*self._enter(), "systemctl", "--user", "show", *words],
            env=_environment(self.folder),
            capture_output=True, text=True, timeout=SECONDS, check=check,
        )  # fmt: skip

    def _enter(self) -> list[str]:
        """The command that runs another one in the manager's namespaces."""
        own = [] if os.geteuid() == 0 else ["--user", "--preserve-credentials"]
        return ["nsenter", "--target", str(self._first()), "--mount", "--pid", *own]

    def _first(self) -> int:
        """The number of the first process in the PID namespace, as seen from here."""
        inside = psutil.Process(self.process.pid).children()
        return inside[0].pid if inside else 0

    def until(self, condition: Callable[[], bool], seconds: float = SECONDS) -> None:
        """Wait; raises TimeoutError, and RuntimeError when the manager has ended."""
        end = time.monotonic() + seconds
        while not condition():
            if self.process.poll() is not None:
                raise RuntimeError(f"the manager has ended ({self.process.returncode})")
            if time.monotonic() > end:
                raise TimeoutError(f"not in {seconds} s")
            time.sleep(0.02)


@contextmanager
def manager(folder: Path, units: dict[str, str], start: str) -> Iterator[Manager]:
    """systemd with these units, which starts one of them; all its processes end with it.

    Raises UnavailableError where no such manager starts.
    """
    program = shutil.which("systemd", path="/usr/lib/systemd:/lib/systemd:" + os.environ["PATH"])
    missing = [name for name in ("unshare", "nsenter", "systemctl") if shutil.which(name) is None]
    if program is None or missing:
        missing += ["systemd"] if program is None else []
        raise UnavailableError(f"not here: {', '.join(missing)}")
    (folder / "units").mkdir()
    (folder / "run").mkdir(mode=0o700)
    for name, text in units.items():
        (folder / "units" / name).write_text(text)
    own = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    # The shell is the first process: systemd refuses to be that one as a user's manager.
    prepare = 'mount -t tmpfs tmpfs /run && mkdir -p /run/systemd/system && "$@" & wait "$!"'
    process = subprocess.Popen(
        [
            *("unshare", "--mount", "--pid", "--fork", "--kill-child=KILL", "--mount-proc", *own),
            *("sh", "-c", prepare, "sh"),
            *(program, "--user", f"--unit={start}", "--log-target=null"),
        ],
        env=_environment(folder),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        started = Manager(folder, process)
        try:
            started.until(lambda: process.poll() is None and started.answers())
        except (RuntimeError, TimeoutError) as error:
            raise UnavailableError(f"no manager of a user runs here: {error}") from error
        yield started
    finally:
        # With unshare the kernel kills the namespace's first process, and with that one all.
        process.kill()
        process.wait()


def _environment(folder: Path) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "XDG_RUNTIME_DIR": str(folder / "run"),
        # The colon: exit.target and the rest come from where they always do.
        "SYSTEMD_UNIT_PATH": f"{folder}/units:",
    }
