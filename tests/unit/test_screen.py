"""What `aistack up` keeps from the screen, and the commands it offers."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path

import pytest
from rich.console import Console

from aistack.cli import up
from aistack.dev.calm import MOST_LINES, SECONDS, Calm
from aistack.dev.logfile import Line
from aistack.dev.screen import Own, Screen
from aistack.dev.unit import Event, State


def screen(*, verbose: bool = False) -> tuple[Screen, io.StringIO]:
    stream = io.StringIO()
    console = Console(file=stream, highlight=False, soft_wrap=True, color_system=None)
    return Screen(console, verbose=verbose), stream


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def warn(calm: Calm, words: str, program: str = "aidb", level: str = "warning") -> list[str]:
    return list(calm.pass_on(Line(program, level, words)))


def test_what_starts_is_not_heard_and_what_calls_it_only_with_errors() -> None:
    quiet, shown = screen()
    for state in (State.STARTING, State.PAUSING):
        quiet.event(Event("postgres", state))
        quiet.output(Line("postgres", "error", "FATAL: the database system is starting up"))
        quiet.output(Line("aidb", "warning", "dependency_failed dependency=postgres"))
        assert "FATAL" not in shown.getvalue()
        assert "dependency_failed" not in shown.getvalue()
    quiet.output(Line("coordinator", "error", "a fault of its own"))
    quiet.event(Event("postgres", State.READY))
    quiet.output(Line("postgres", "error", "FATAL: out of files"))
    quiet.output(Line("aidb", "warning", "careful"))
    for words in ("a fault of its own", "FATAL: out of files", "careful"):
        assert words in shown.getvalue()


def test_nothing_is_heard_while_stopping_but_all_with_verbose() -> None:
    for verbose in (False, True):
        each, shown = screen(verbose=verbose)
        each.event(Event("llama", State.READY))
        each.stopping()
        each.output(Line("llama", "error", "listener error: ConnectorException"))
        assert ("ConnectorException" in shown.getvalue()) is verbose


def test_the_same_again_is_counted() -> None:
    clock = Clock()
    calm = Calm(clock)
    assert warn(calm, "pool 1: cannot connect to 0a1b2c3d") == [
        "pool 1: cannot connect to 0a1b2c3d"
    ]
    for number in range(2, 92):
        assert warn(calm, f"pool {number}: cannot connect to 0a1b2c3d") == []
    assert warn(calm, "another thing") == [
        "… 90 more like this, see logs/aidb.log",
        "another thing",
    ]
    assert list(calm.left_out("aidb")) == []
    clock.now = SECONDS + 1
    assert warn(calm, "pool 1: cannot connect to 0a1b2c3d") == [
        "pool 1: cannot connect to 0a1b2c3d"
    ]


def test_one_program_has_so_many_lines_and_another_its_own() -> None:
    clock = Clock()
    calm = Calm(clock)
    said = [line for letter in "abcdefghij" for line in warn(calm, f"kind {letter}")]
    assert len(said) == MOST_LINES
    assert warn(calm, "hello", "coordinator") == ["hello"]
    clock.now = SECONDS
    assert warn(calm, "later") == ["… 5 more like this, see logs/aidb.log", "later"]


def test_what_was_left_out_is_said_with_the_next_event() -> None:
    quiet, shown = screen()
    for _ in range(3):
        quiet.output(Line("aidb", "warning", "careful"))
    quiet.event(Event("aidb", State.READY))
    assert shown.getvalue().count("careful") == 1
    assert "… 2 more like this, see logs/aidb.log" in shown.getvalue()


def test_a_record_is_one_line() -> None:
    assert warn(Calm(Clock()), "error connecting:\nhost=…\nport=…") == ["error connecting:"]


def test_the_commands_are_typed_as_they_work_here(tmp_path: Path) -> None:
    final, shown = screen()
    own = Own(".venv/bin/aistack", "--data-dir '/a b'")
    final.ready("http://127.0.0.1:8600", tmp_path, tmp_path, own)
    assert [line.strip() for line in shown.getvalue().splitlines() if "venv" in line] == [
        ".venv/bin/aistack ingest docs/ --data-dir '/a b'",
        ".venv/bin/aistack search \"what happens when redis is down\" --data-dir '/a b'",
        ".venv/bin/aistack ask \"What is a collection epoch?\" --data-dir '/a b'",
    ]


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A console script in an environment in the working directory, not on PATH."""
    path = tmp_path / ".venv" / "bin" / "aistack"
    path.parent.mkdir(parents=True)
    path.touch(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", os.defpath)
    monkeypatch.setattr("sys.argv", [str(path), "up"])
    return path


def test_the_program_is_named_from_here(script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert up.program() == ".venv/bin/aistack"
    monkeypatch.chdir(script.parent)
    assert up.program() == "./aistack"
    (script.parent / "other").mkdir()
    monkeypatch.chdir(script.parent / "other")
    assert up.program() == str(script)
    monkeypatch.setenv("PATH", str(script.parent))
    assert up.program() == "aistack"


def test_without_a_console_script_it_is_the_module(
    script: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script.unlink()
    monkeypatch.setattr("sys.argv", ["/x/aistack/__main__.py", "up"])
    monkeypatch.setattr(sys, "executable", str(script.with_name("python")))
    assert up.program() == ".venv/bin/python -m aistack"
    script.touch(0o755)
    assert up.program() == ".venv/bin/aistack"


def test_the_data_directory_is_said_where_it_is_not_the_usual_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.delenv("AISTACK_DATA_DIR", raising=False)
    monkeypatch.chdir(tmp_path)
    assert up.stack_options(tmp_path / "aistack") == ""
    assert up.stack_options(Path("aistack")) == ""
    assert up.stack_options(Path("my data")) == f"--data-dir '{tmp_path}/my data'"
    monkeypatch.setenv("AISTACK_DATA_DIR", str(tmp_path / "other"))
    assert up.stack_options(tmp_path / "other") == f"--data-dir {tmp_path}/other"
