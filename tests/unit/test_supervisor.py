"""The supervisor, on small real programs."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from aistack.dev import unit as unit_module
from aistack.dev.process import alive, launch_command
from aistack.dev.program import Program
from aistack.dev.unit import State
from aistack.service.errors import StartError
from fix_supervisor import SPEAKER, World, python, started
from fix_wait import until


async def test_a_program_starts_only_after_what_it_needs_is_ready(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    first = python(
        "first",
        SPEAKER + f"open({str(mark)!r}, 'w'); say('READY=1'); time.sleep(60)",
        notifies=True,
    )
    second = python(
        "second",
        f"import os, time; print(os.path.exists({str(mark)!r}), flush=True); time.sleep(60)",
        needs=frozenset({"first"}),
    )
    async with started(tmp_path, second, first) as world:
        await until(lambda: bool(world.lines["second"]))
        assert world.lines["second"] == ["True"]


async def test_what_dies_is_started_again_and_said_so(tmp_path: Path) -> None:
    async with started(tmp_path, python("sleeper", "import time; time.sleep(60)")) as world:
        sleeper = world.unit("sleeper")
        old = sleeper.pid
        assert old is not None
        os.kill(old, signal.SIGKILL)
        await until(lambda: sleeper.pid not in (None, old) and sleeper.ready.is_set())
        paused = [event for event in world.events if event.state is State.PAUSING]
        assert [event.bad for event in paused] == [True]
        assert "SIGKILL" in paused[0].words
        assert sleeper.restarts == 1


async def test_the_pause_doubles_until_its_limit_and_begins_again_after_health(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unit_module, "LONGEST_PAUSE", 0.5)
    monkeypatch.setattr(unit_module, "HEALTHY_AFTER", 0.2)
    count = tmp_path / "count"
    code = f"""
import os, sys, time
with open({str(count)!r}, "a+") as f: f.write("x"); n = f.tell()
if n <= 4: sys.exit(3)
time.sleep(0.6 if n == 5 else 60)
"""

    async def answers() -> bool:
        return count.exists() and count.stat().st_size >= 5

    async with started(tmp_path, python("flaky", code, probe=answers)) as world:
        flaky = world.unit("flaky")
        await until(lambda: flaky.restarts == 5 and flaky.ready.is_set())
        pauses = [
            event.words.rsplit("again in ")[1]
            for event in world.events
            if event.state is State.PAUSING
        ]
        assert pauses == ["0.2 s", "0.4 s", "0.5 s", "0.5 s", "0.2 s"]


async def test_exit_code_78_in_the_first_start_ends_it_with_the_last_line(tmp_path: Path) -> None:
    code = "import sys; print('noise'); print('the key x.y is wrong'); sys.exit(78)"
    with pytest.raises(StartError, match=r"^bad: the key x\.y is wrong$"):
        async with started(
            tmp_path,
            python("bad", code, notifies=True),
            python("good", "import time; time.sleep(60)"),
        ):
            pytest.fail("it started")


async def test_exit_code_78_after_the_first_start_is_tried_again(tmp_path: Path) -> None:
    count = tmp_path / "count"
    code = SPEAKER + (
        f"with open({str(count)!r}, 'a+') as f: f.write('x'); n = f.tell()\n"
        "if n == 2: sys.exit(78)\n"
        "say('READY=1'); time.sleep(60)"
    )
    async with started(tmp_path, python("service", code, notifies=True)) as world:
        service = world.unit("service")
        assert service.pid is not None
        os.kill(service.pid, signal.SIGKILL)
        await until(lambda: service.restarts == 2 and service.ready.is_set())


async def test_a_silent_watchdog_is_aborted_and_started_again(tmp_path: Path) -> None:
    code = (
        SPEAKER
        + """
say("READY=1\\nSTATUS=working")
for _ in range(5):
    time.sleep(0.1); say("WATCHDOG=1")
time.sleep(60)
"""
    )
    program = python("stuck", code, notifies=True, watchdog_seconds=0.4)
    async with started(tmp_path, program) as world:
        stuck = world.unit("stuck")
        began = time.monotonic()
        await until(lambda: stuck.restarts == 1 and stuck.ready.is_set())
        assert time.monotonic() - began > 0.5, "it was ended although it spoke"
        words = next(event.words for event in world.events if event.state is State.PAUSING)
        assert "watchdog" in words
        assert stuck.status == "working"


async def test_a_program_that_never_gets_ready_is_ended_and_more_time_is_granted(
    tmp_path: Path,
) -> None:
    count = tmp_path / "count"
    code = SPEAKER + (
        f"with open({str(count)!r}, 'a+') as f: f.write('x'); n = f.tell()\n"
        "if n == 1: say('EXTEND_TIMEOUT_USEC=3000000\\nSTATUS=reading'); time.sleep(60)\n"
        "say('EXTEND_TIMEOUT_USEC=' + '9' * 5000)\n"
        "say('EXTEND_TIMEOUT_USEC=5000000'); time.sleep(2.4); say('READY=1'); time.sleep(60)"
    )
    async with started(tmp_path, python("slow", code, notifies=True, start_seconds=2.0)) as world:
        (words,) = [event.words for event in world.events if event.state is State.PAUSING]
        assert words.startswith("not ready after 3 s, ended; ")
        assert world.unit("slow").status == "reading"


async def test_only_the_main_process_is_believed(tmp_path: Path) -> None:
    go = tmp_path / "go"
    code = (
        SPEAKER
        + f"""
if os.fork() == 0:
    say("READY=1\\nSTATUS=forged"); os._exit(0)
os.wait()
say("STATUS=mine")
while not os.path.exists({str(go)!r}): time.sleep(0.01)
say("READY=1")
time.sleep(60)
"""
    )
    world = World(tmp_path, python("parent", code, notifies=True))
    starting = asyncio.create_task(world.supervisor.start())
    try:
        parent = world.unit("parent")
        # Datagrams keep their order: when this one was heard, the forged one was too.
        await until(lambda: parent.status == "mine")
        done, _ = await asyncio.wait({starting}, timeout=0.3)
        assert not done, "a forged READY=1 was believed"
        go.touch()
        await asyncio.wait_for(starting, 10)
    finally:
        await world.supervisor.stop()


async def test_the_socket_is_descriptor_three_and_survives_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(path))
    listening.listen(8)
    code = (
        SPEAKER
        + """
assert os.environ["LISTEN_PID"] == str(os.getpid()) and os.environ["LISTEN_FDS"] == "1"
s = socket.socket(fileno=3)
s.setblocking(True)
say("READY=1")
while True:
    c, _ = s.accept(); c.sendall(str(os.getpid()).encode()); c.close()
"""
    )

    async def ask() -> int:
        reader, writer = await asyncio.open_unix_connection(str(path))
        answer = await asyncio.wait_for(reader.read(), 10)
        writer.close()
        return int(answer)

    with listening:
        async with started(
            tmp_path, python("server", code, notifies=True, listen=listening)
        ) as world:
            first = await ask()
            assert first == world.unit("server").pid
            os.kill(first, signal.SIGKILL)
            # Gone, or it may take the next connection with it.
            await until(lambda: world.unit("server").pid != first)
            assert await ask() != first, "a client that came while it was down was refused"


async def test_callers_of_a_program_that_keeps_dying_are_turned_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unit_module, "TURN_AWAY_FROM", 0.4)
    path = tmp_path / "s.sock"
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(path))
    listening.listen(8)
    listening.setblocking(False)
    program = python("dying", "raise SystemExit(1)", notifies=True, listen=listening)
    world = World(tmp_path, program)
    with listening:
        reader, writer = await asyncio.open_unix_connection(str(path))
        starting = asyncio.create_task(world.supervisor.start())
        try:
            assert await asyncio.wait_for(reader.read(), 10) == b""
            assert world.unit("dying").restarts == 2, "the first pause is short: it could wait"
        finally:
            writer.close()
            await world.supervisor.stop()
            starting.cancel()


async def test_all_stop_in_reverse_order_and_nothing_is_left(tmp_path: Path) -> None:
    code = SPEAKER + (
        "def end(*_): print(time.monotonic(), flush=True); os._exit(0)\n"
        "signal.signal(signal.SIGTERM, end)\n"
        "say('READY=1')\nwhile True: time.sleep(60)"
    )
    base = python("base", code, notifies=True)
    user = python("user", code, notifies=True, needs=frozenset({"base"}))
    door = python("door", code, notifies=True, stop_rank=2)
    async with started(tmp_path, base, user, door) as world:
        pids = list(world.supervisor.pids().values())
        assert len(pids) == 3
    times = {name: float(lines[0]) for name, lines in world.lines.items()}
    assert times["door"] < times["user"] < times["base"]
    assert not any(alive(pid) for pid in pids)


async def test_who_ignores_the_stop_signal_is_killed_with_what_it_started(tmp_path: Path) -> None:
    code = (
        SPEAKER
        + """
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = os.fork()
if child == 0:
    time.sleep(60); os._exit(0)
print(child, flush=True)
say("READY=1")
while True: time.sleep(60)
"""
    )
    program = python("deaf", code, notifies=True, stop_seconds=0.3)
    async with started(tmp_path, program) as world:
        pids = [world.unit("deaf").pid, int(world.lines["deaf"][0])]
    assert not any(alive(pid) for pid in pids if pid is not None)


async def test_a_second_request_kills_at_once(tmp_path: Path) -> None:
    code = SPEAKER + (
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nsay('READY=1')\nwhile True: time.sleep(60)"
    )
    world = World(tmp_path, python("deaf", code, notifies=True, stop_seconds=60.0))
    await world.supervisor.start()
    pid = world.unit("deaf").pid
    assert pid is not None
    stopping = asyncio.create_task(world.supervisor.stop())
    await until(lambda: world.unit("deaf").state is State.STOPPING)
    world.supervisor.kill()
    await asyncio.wait_for(stopping, 5)
    assert not alive(pid)


async def test_stopping_while_starting_ends_the_start(tmp_path: Path) -> None:
    never = python("never", "import time; time.sleep(60)", notifies=True)
    after = python("after", "pass", needs=frozenset({"never"}))
    world = World(tmp_path, never, after)
    starting = asyncio.create_task(world.supervisor.start())
    await until(lambda: world.unit("never").pid is not None)
    pid = world.unit("never").pid
    assert pid is not None
    await asyncio.wait_for(world.supervisor.stop(), 10)
    starting.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await starting
    assert not alive(pid)
    assert world.states("after") == []


async def test_a_oneshot_is_done_when_it_ends_well_and_tried_again_when_not(tmp_path: Path) -> None:
    count = tmp_path / "count"
    code = f"""
import sys
with open({str(count)!r}, "a+") as f: f.write("x"); n = f.tell()
sys.exit(0 if n == 2 else 1)
"""
    once = python("once", code, oneshot=True)
    then = python("then", "import time; time.sleep(60)", needs=frozenset({"once"}))
    async with started(tmp_path, once, then) as world:
        assert count.read_text() == "xx"
        assert world.unit("once").state is State.DONE


async def test_a_program_that_is_not_there_ends_the_start(tmp_path: Path) -> None:
    missing = Program(name="missing", command=("/nonexistent/program",), notifies=True)
    world = World(tmp_path, missing)
    starting = asyncio.create_task(world.supervisor.start())
    await until(lambda: world.unit("missing").restarts > 0)
    assert any("cannot run /nonexistent/program" in event.words for event in world.events)
    await world.supervisor.stop()
    starting.cancel()


def test_needs_in_a_circle_are_refused(tmp_path: Path) -> None:
    a = python("a", "pass", needs=frozenset({"b"}))
    b = python("b", "pass", needs=frozenset({"a"}))
    with pytest.raises(StartError, match="need each other: a, b"):
        World(tmp_path, a, b)


def test_a_child_dies_with_its_supervisor(tmp_path: Path) -> None:
    # A process in between, as the supervisor, that is killed without a chance to clean up.
    file = tmp_path / "pid"
    sleeper = f"import os,time; open({str(file)!r},'w').write(str(os.getpid())); time.sleep(60)"
    code = (
        "import subprocess, time\n"
        "from aistack.dev.process import launch_command\n"
        f"subprocess.Popen(launch_command([{sys.executable!r}, '-I', '-S', '-c', {sleeper!r}]))\n"
        "time.sleep(60)"
    )
    middle = subprocess.Popen([sys.executable, "-c", code])
    try:
        deadline = time.monotonic() + 10
        while not (file.exists() and file.read_text()):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        pid = int(file.read_text())
        assert alive(pid)
    finally:
        middle.kill()
        middle.wait()
    while alive(pid):
        assert time.monotonic() < deadline, "it outlived its supervisor"
        time.sleep(0.01)


def test_a_child_whose_supervisor_is_already_gone_does_not_start() -> None:
    command = launch_command([sys.executable, "-c", "print('ran')"])
    command[command.index(str(os.getpid()))] = "1"
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert done.stdout == ""
    assert "supervisor is gone" in done.stderr
