"""The guests that the tests of this folder share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from nix.debian import UnavailableError
from system import assemble, cache, closure, tree
from system.driver import GuestError, Machine
from system.engine import Engine, Nspawn, UserModeLinux
from system.stack import Stack

#: Set to make a test that cannot run here fail instead of being skipped.
REQUIRE = "AISTACK_SYSTEM_TEST"


def unavailable(reason: str) -> NoReturn:
    """Skip with the reason, or fail where the system test is required."""
    if os.environ.get(REQUIRE) == "require":
        pytest.fail(f"the system test is required here: {reason}")
    pytest.skip(f"no system test: {reason}")


@pytest.fixture(scope="session")
def guest_root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The assembled guest; beside the cache, because it shares files with it by hard links."""
    try:
        cache.require()
        base = tree.tree()
        packages = closure.closure(base)
    except UnavailableError as error:
        unavailable(str(error))
    for left in cache.root().glob("guest.*"):  # of a run that was killed
        if not Path(f"/proc/{left.suffix[1:]}").exists():
            cache.remove(left)
    root = cache.root() / f"guest.{os.getpid()}"
    try:
        assemble.assemble(base, packages, root)
        yield root
    finally:
        cache.remove(root)


def booted(engine: Engine, root: Path, name: str) -> Machine:
    """A started machine; skips where the engine does not boot."""
    machine = Machine(engine, root, name=name)
    try:
        machine.start()
    except (GuestError, UnavailableError) as error:
        machine.shutdown()
        unavailable(f"{engine.name} does not boot here: {error}")
    return machine


@pytest.fixture(scope="session")
def machine(guest_root: Path) -> Iterator[Machine]:
    """The guest on the fastest engine that works here."""
    engine: Engine
    try:
        engine = Nspawn() if os.geteuid() == 0 else UserModeLinux()
    except UnavailableError as error:
        unavailable(str(error))
    with booted(engine, guest_root, "machine") as made:
        yield made


@pytest.fixture(scope="session")
def stack(machine: Machine) -> Stack:
    """The stack in it, from outside."""
    return Stack(machine)


@pytest.fixture(scope="session")
def limited(guest_root: Path, request: pytest.FixtureRequest) -> Iterator[Stack]:
    """The stack in a guest whose kernel enforces limits."""
    if os.geteuid() != 0 or Nspawn.limits():
        yield Stack(request.getfixturevalue("machine"))
        return
    try:
        engine = UserModeLinux()
    except UnavailableError as error:
        unavailable(str(error))
    with booted(engine, guest_root, "limited") as made:
        yield Stack(made)
