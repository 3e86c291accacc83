"""A real systemd as the manager of a user, for units that need no root.

It runs in a mount namespace of its own in which /run says that systemd runs here; its sockets are
in a folder of the test. It knows none of the confinement of system units.
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
        return subprocess.run(
            ["systemctl", "--user", "show", *words],
            env=_environment(self.folder),
            capture_output=True, text=True, timeout=SECONDS, check=check,
        )  # fmt: skip

    def until(self, condition: Callable[[], bool], seconds: float = SECONDS) -> None:
        """Wait; raises TimeoutError, and UnavailableError when the manager could not run."""
        end = time.monotonic() + seconds
        while not condition():
            if self.process.poll() is not None:
                raise UnavailableError(
                    f"no manager of a user runs here ({self.process.returncode})"
                )
            if time.monotonic() > end:
                raise TimeoutError(f"not in {seconds} s")
            time.sleep(0.02)


@contextmanager
def manager(folder: Path, units: dict[str, str], start: str) -> Iterator[Manager]:
    """systemd with these units, which starts one of them; all its processes end with it."""
    program = shutil.which("systemd", path="/usr/lib/systemd:/lib/systemd:" + os.environ["PATH"])
    if program is None or shutil.which("unshare") is None or shutil.which("systemctl") is None:
        raise UnavailableError("systemd or unshare is not here")
    (folder / "units").mkdir()
    (folder / "run").mkdir(mode=0o700)
    for name, text in units.items():
        (folder / "units" / name).write_text(text)
    own = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    prepare = 'mount -t tmpfs tmpfs /run && mkdir -p /run/systemd/system && exec "$@"'
    process = subprocess.Popen(
        [
            *("unshare", "--mount", *own, "sh", "-c", prepare, "sh"),
            *(program, "--user", f"--unit={start}", "--log-target=null"),
        ],
        env=_environment(folder),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        started = Manager(folder, process)
        started.until(started.answers)
        yield started
    finally:
        # SIGTERM makes it stop its units and go.
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
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
