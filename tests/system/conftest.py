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
#: `uml` or `nspawn`, where the choice is not to be ours: nspawn for root, else user-mode Linux.
ENGINE = "AISTACK_SYSTEM_ENGINE"
#: Engines that have booted the bare tree here: what does not boot now is a failure.
WORKING: set[str] = set()


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
    scratch = cache.scratch("guest")
    try:
        assemble.assemble(base, packages, scratch / "root")
        yield scratch / "root"
    finally:
        cache.remove(scratch)


def chosen() -> str:
    """The engine of the shared guest."""
    return os.environ.get(ENGINE) or ("nspawn" if os.geteuid() == 0 else "uml")


def booted(engine: Engine, root: Path, name: str) -> Machine:
    """A started machine. Skips where the engine does not boot even the bare tree."""
    if engine.name not in WORKING:
        try:
            _boot(engine, tree.tree(), "bare").shutdown()
        except (GuestError, UnavailableError) as error:
            unavailable(f"{engine.name} does not boot here: {error}")
        WORKING.add(engine.name)
    return _boot(engine, root, name)


def _boot(engine: Engine, root: Path, name: str) -> Machine:
    machine = Machine(engine, root, name=name)
    try:
        machine.start()
    except BaseException:
        machine.shutdown()
        raise
    return machine


@pytest.fixture(scope="session")
def machine(guest_root: Path) -> Iterator[Machine]:
    """The guest on the fastest engine that works here."""
    engine: Engine
    try:
        engine = Nspawn() if chosen() == "nspawn" else UserModeLinux()
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
    if chosen() == "uml" or Nspawn.limits():
        yield Stack(request.getfixturevalue("machine"))
        return
    try:
        engine = UserModeLinux()
    except UnavailableError as error:
        unavailable(str(error))
    with booted(engine, guest_root, "limited") as made:
        yield Stack(made)
