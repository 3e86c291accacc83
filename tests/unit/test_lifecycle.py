"""sd_notify, sd_listen_fds and the watchdog, against a real datagram socket."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from aistack.service.errors import StartError
from aistack.service.lifecycle import Runtime
from aistack.service.notify import Notifier, inherited_socket


class Supervisor:
    """The receiving end of NOTIFY_SOCKET."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.socket.setblocking(False)
        self.lines: list[str] = []

    def read(self) -> list[str]:
        while True:
            try:
                self.lines += self.socket.recv(4096).decode().split("\n")
            except BlockingIOError:
                return self.lines


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Supervisor]:
    found = Supervisor(tmp_path / "notify")
    yield found
    found.socket.close()


async def nothing() -> None:
    return


async def skipped(more: int) -> None:
    """Until keep-alives have been withheld `more` times from now on."""
    name = "aistack_watchdog_skipped_total"
    enough = (REGISTRY.get_sample_value(name) or 0) + more
    async with asyncio.timeout(5):
        while (REGISTRY.get_sample_value(name) or 0) < enough:
            await asyncio.sleep(0.005)


async def test_ready_is_told_after_the_start_and_stopping_at_the_drain(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    runtime = Runtime(Notifier(str(tmp_path / "notify"), None), start_seconds=5)
    done = asyncio.Event()

    async def start(it: Runtime) -> None:
        it.status("loading")
        it.extend(3)
        await done.wait()

    async with runtime.running(start, nothing, ()):
        async with asyncio.timeout(5):
            while "STATUS=loading" not in supervisor.read():
                await asyncio.sleep(0)
        assert "READY=1" not in supervisor.read()
        assert "EXTEND_TIMEOUT_USEC=8000000" in supervisor.read()
        done.set()
        async with asyncio.timeout(5):
            while "READY=1" not in supervisor.read():
                await asyncio.sleep(0)
        runtime.drain()
        runtime.drain()
        assert supervisor.read().count("STOPPING=1") == 1


async def test_extended_start_outlives_its_first_limit(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    runtime = Runtime(Notifier(str(tmp_path / "notify"), None), start_seconds=0.2)
    loop = asyncio.get_running_loop()

    async def start(it: Runtime) -> None:
        end = loop.time() + 0.3
        it.extend(60)
        it.extend(0.01)  # never less than was granted before
        while loop.time() < end:
            await asyncio.sleep(0.01)

    async with runtime.running(start, nothing, ()):
        assert await runtime.wait_started(5)
        assert runtime.failure is None
        lines = list(supervisor.read())
        runtime.extend(60)  # the start is over
        assert supervisor.read() == lines


async def test_extended_start_that_does_not_end_is_ended(tmp_path: Path) -> None:
    runtime = Runtime(Notifier(None, None), start_seconds=0.1)
    asked = asyncio.Event()
    late: list[bool] = []

    async def start(it: Runtime) -> None:
        it.status("reading")
        it.extend(1)
        asked.set()
        try:
            await asyncio.Event().wait()
        finally:
            it.extend(60)  # too late
            late.append(it.failure is None)

    async with runtime.running(start, nothing, ()):
        await asked.wait()
        assert not await runtime.wait_started(10)
        assert str(runtime.failure) == "not ready within 1 s; last: reading"
        assert late == [True]


async def test_watchdog_is_fed_while_the_worker_advances_and_not_after(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    runtime = Runtime(Notifier(str(tmp_path / "notify"), 0.03), start_seconds=5)
    beats = 0
    alive = True

    def heartbeat() -> int:
        nonlocal beats
        beats += alive
        return beats

    async def start(_runtime: Runtime) -> None:
        return

    async with runtime.running(start, nothing, (heartbeat,)):
        async with asyncio.timeout(5):
            while supervisor.read().count("WATCHDOG=1") < 3:
                await asyncio.sleep(0.005)
        alive = False
        await skipped(1)
        fed = supervisor.read().count("WATCHDOG=1")
        await skipped(3)
        assert supervisor.read().count("WATCHDOG=1") == fed
        alive = True
        async with asyncio.timeout(5):
            while supervisor.read().count("WATCHDOG=1") <= fed:
                await asyncio.sleep(0.005)


def test_variables_are_taken_and_not_inherited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "@abstract")
    monkeypatch.setenv("WATCHDOG_USEC", "15000000")
    notifier = Notifier.from_environment()
    assert notifier == Notifier("@abstract", 15.0)
    assert not {"NOTIFY_SOCKET", "WATCHDOG_USEC"} & set(os.environ)


def test_watchdog_of_another_process_is_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "15000000")
    monkeypatch.setenv("WATCHDOG_PID", "1")
    assert Notifier.from_environment().watchdog_seconds is None


def test_abstract_socket_is_reached() -> None:
    name = f"aistack-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind("\0" + name)
        Notifier("@" + name, None).send("READY=1", "STATUS=x")
        assert server.recv(100) == b"READY=1\nSTATUS=x"


def test_supervisor_that_is_gone_stops_nobody(tmp_path: Path) -> None:
    Notifier(str(tmp_path / "gone"), None).send("READY=1")
    Notifier(None, None).send("READY=1")


def test_sockets_of_another_process_are_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LISTEN_FDS", "1")
    monkeypatch.setenv("LISTEN_PID", "1")
    assert inherited_socket() is None


def test_two_sockets_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LISTEN_FDS", "2")
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    with pytest.raises(StartError, match="LISTEN_FDS=2"):
        inherited_socket()
