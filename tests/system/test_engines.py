"""Each engine boots the bare tree, and its guest does not outlive the driver."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from nix.debian import UnavailableError
from system import cache, tree
from system.closure import REPOSITORY
from system.conftest import booted, unavailable
from system.driver import Machine
from system.engine import Engine, Nspawn, UserModeLinux

#: Fixtures, which download and build, have limits of their own.
pytestmark = pytest.mark.timeout(300, func_only=True)

ENGINES: dict[str, Callable[[], Engine]] = {"uml": UserModeLinux, "nspawn": Nspawn}
DRIVER = """
import sys
from pathlib import Path
from system.driver import Machine
from system.test_engines import ENGINES
machine = Machine(ENGINES[sys.argv[1]](), Path(sys.argv[2]))
machine.start()
print(machine.succeed("systemctl show -P ActiveState basic.target").strip(), flush=True)
sys.stdin.read()
"""


@pytest.fixture(params=sorted(ENGINES))
def engine(request: pytest.FixtureRequest) -> Engine:
    """One engine after the other; skipped with its reason where it cannot be had."""
    if request.param == "nspawn" and os.geteuid() != 0:
        pytest.skip("systemd-nspawn needs root")
    try:
        cache.require()
        made = ENGINES[request.param]()
    except UnavailableError as error:
        unavailable(str(error))
    return made


def test_it_boots_to_a_whole_system_with_its_own_network(engine: Engine) -> None:
    with booted(engine, tree.tree(), "bare") as machine:
        machine.wait_for_unit("multi-user.target", timeout=120)
        assert machine.succeed("systemctl is-system-running --wait").strip() == "running"
        assert machine.succeed("ls /sys/class/net").split() in (["lo"], ["lo", "sit0"])
        if engine.enforces_limits:
            controllers = machine.succeed("cat /sys/fs/cgroup/cgroup.controllers").split()
            assert {"memory", "pids", "cpu"} <= set(controllers)


def test_the_tree_stays_as_it_was(engine: Engine) -> None:
    base = tree.tree()
    with booted(engine, base, "bare") as machine:
        machine.succeed("echo changed > /etc/hostname; touch /usr/lib/new")
    assert (base / "etc/hostname").read_text() == "machine\n"
    assert not (base / "usr/lib/new").exists()


def test_the_guest_ends_with_a_driver_that_is_killed(engine: Engine) -> None:
    paths = f"{REPOSITORY}/tests{os.pathsep}{REPOSITORY}"
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, engine.name, str(tree.tree())],
        env={**os.environ, "PYTHONPATH": paths},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with driver:
        try:
            killed_with(driver)
        finally:
            driver.kill()


def killed_with(driver: subprocess.Popen[str]) -> None:
    """Kill it when its guest is up; what is below it must end."""
    assert driver.stdout is not None
    assert driver.stdout.readline().strip() in {"active", "activating", "inactive"}
    below = descendants(driver.pid)
    assert below
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    end = time.monotonic() + 30
    while alive := [pid for pid in below if lives(pid)]:
        assert time.monotonic() < end, {pid: command(pid) for pid in alive}
        time.sleep(0.1)


def lives(pid: int) -> bool:
    """Whether it runs; what only waits to be reaped does not."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status.rpartition(")")[2].split()[0] not in "ZX"


def command(pid: int) -> str:
    """Its state and its command line."""
    words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    return f"{Path(f'/proc/{pid}/stat').read_text()[:40]} {words[:200]}"


def descendants(pid: int) -> list[int]:
    """All processes below one."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, task.read_text().split()):
            found += [child, *descendants(child)]
    return found


def test_a_machine_that_was_not_started_leaves_nothing(tmp_path: Path) -> None:
    class Never:
        name = "never"
        enforces_limits = False

        def start(self, tree: Path, directory: Path, *, memory: int) -> None:
            raise UnavailableError("no such engine")

    machine = Machine(Never(), tmp_path)  # type: ignore[arg-type]
    with pytest.raises(UnavailableError), machine:
        machine.start()
    assert not machine.directory.exists()
