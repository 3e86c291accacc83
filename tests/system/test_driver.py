"""The driver against the guest's own agent, run as a process of this machine."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from system.driver import GuestError, Machine
from system.engine import Guest
from system.tree import AGENT

pytestmark = pytest.mark.skipif(
    not Path("/usr/bin/bash").exists(), reason="the guest's agent runs /usr/bin/bash"
)


class Here:
    """An engine that boots nothing."""

    name = "here"
    enforces_limits = False

    def start(self, tree: Path, directory: Path, *, memory: int) -> Guest:
        console = directory / "console.log"
        path = directory / "agent.sock"
        with socket.socket(socket.AF_UNIX) as listener, console.open("wb") as log:
            listener.bind(str(path))
            listener.listen(1)
            listener.settimeout(20)
            process = subprocess.Popen(
                [sys.executable, str(AGENT), str(path)], stdout=log, stderr=log
            )
            line, _address = listener.accept()
        return Guest(process, line, console)


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    with Machine(Here(), tmp_path) as made:
        made.start()
        yield made
        made.kill()


def test_a_command_gives_its_status_and_its_output(machine: Machine) -> None:
    assert machine.execute("echo out; echo err >&2; exit 3") == (3, "out\n")
    assert machine.succeed("echo one", "echo two") == "one\ntwo\n"
    assert machine.fail("echo said; false") == "said\n"


def test_a_failure_in_a_pipe_or_of_an_unset_variable_counts(machine: Machine) -> None:
    assert machine.run("false | cat").status == 1
    assert "unbound" in machine.run("echo $nothing_of_this_name").stderr


def test_what_was_not_so_is_told_with_its_output(machine: Machine) -> None:
    with pytest.raises(GuestError, match=r"ended with 4:\n.*because"):
        machine.succeed("echo because; exit 4")
    with pytest.raises(GuestError, match="succeeded and must not"):
        machine.fail("true")


def test_large_and_strange_output_arrives_whole(machine: Machine) -> None:
    out = machine.succeed('python3 -c \'print("ä\\0" * 200000, end="")\'')
    assert out == "ä\0" * 200000


def test_a_command_is_ended_after_its_timeout(machine: Machine) -> None:
    answer = machine.run("echo begun; sleep 60", timeout=0.5)
    assert (answer.status, answer.stdout) == (124, "begun\n")
    assert machine.succeed("echo next") == "next\n"


def test_waiting_ends_with_success_or_with_the_last_words(machine: Machine, tmp_path: Path) -> None:
    file = tmp_path / "there"
    machine.succeed(f"(sleep 0.5; touch {file}) >/dev/null 2>&1 &")
    machine.wait_for_file(str(file), timeout=20)
    machine.wait_until_fails(f"rm {file}", timeout=20)
    with pytest.raises(GuestError, match="not within"):
        machine.wait_until_succeeds("false", timeout=0.6)


def test_a_file_is_written_whole(machine: Machine, tmp_path: Path) -> None:
    data = bytes(range(256)) * 500
    machine.write_file(f"{tmp_path}/a/b", data, 0o640)
    written = tmp_path / "a/b"
    assert written.read_bytes() == data
    assert written.stat().st_mode & 0o777 == 0o640


def test_a_guest_that_ends_is_noticed_at_once(machine: Machine) -> None:
    machine.kill()
    with pytest.raises(GuestError, match="gone"):
        machine.succeed("true")


def test_a_subtest_that_fails_is_named(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(GuestError), machine.subtest("the third part"):
        machine.succeed("false")
    assert "FAILED the third part" in capsys.readouterr().err


def test_shutdown_leaves_nothing(tmp_path: Path) -> None:
    with Machine(Here(), tmp_path) as machine:
        machine.start()
        directory = machine.directory
        assert directory.exists()
        machine.kill()
    assert not directory.exists()
