"""Log files, the terminal, and the configuration files of `aistack up`."""

from __future__ import annotations

import io
import json
import stat
from pathlib import Path

import pytest
from rich.console import Console

from aistack.config import load_config
from aistack.dev import logfile, settings
from aistack.dev.logfile import Line, LogFile, read_line
from aistack.dev.paths import Paths
from aistack.dev.postgres import Postgres
from aistack.dev.screen import Own, Screen
from aistack.dev.unit import Event, State
from aistack.service.errors import StartError
from aistack.service.key_setup import KeyPaths
from aistack.stack import load_stack


def test_a_json_line_is_kept_and_shown_as_words() -> None:
    raw = '{"event":"slow","level":"warning","seconds":3,"timestamp":"t","service":"aidb"}'
    line, record = read_line("aidb", raw)
    assert line == Line("aidb", "warning", "slow seconds=3")
    assert record == raw


@pytest.mark.parametrize(
    ("raw", "level"),
    [
        ("FATAL:  no", "error"),
        ("ERROR:  duplicate key", "info"),
        ("Traceback (most recent call last):", "warning"),
        ("{not json", "info"),
        ('{"json": "without an event"}', "info"),
        ("ready to accept connections", "info"),
    ],
)
def test_any_other_line_is_wrapped_as_json(raw: str, level: str) -> None:
    line, record = read_line("postgres", raw)
    assert line.level == level
    written = json.loads(record)
    assert (written["event"], written["level"], written["logger"]) == (raw, level, "postgres")


def test_log_files_are_rotated_by_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logfile, "_BYTES", 1000)
    log = LogFile(tmp_path, "x", lambda _line: None)
    for number in range(200):
        log.write(f"line {number}")
    log.close()
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == ["x.log", "x.log.1", "x.log.2", "x.log.3"]
    assert "line 199" in (tmp_path / "x.log").read_text()
    assert all(path.stat().st_size <= 1000 for path in tmp_path.iterdir())


def test_a_log_that_cannot_be_written_is_said_once_and_ends_nothing(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    shown: list[Line] = []
    log = LogFile(tmp_path, "x", shown.append)
    log._handler.close()
    log._handler.stream = open("/dev/full", "w", encoding="utf-8")  # noqa: SIM115
    log.write("one")
    log.write("two")
    log.close()
    assert [line.words for line in shown] == ["one", "two"]
    assert capsys.readouterr().err.count("cannot be written") == 1


def screen(*, verbose: bool = False, terminal: bool = False) -> tuple[Screen, io.StringIO]:
    stream = io.StringIO()
    console = Console(
        file=stream, force_terminal=terminal, highlight=False, soft_wrap=True, color_system=None
    )
    return Screen(console, verbose=verbose), stream


def test_the_terminal_shows_warnings_and_all_only_when_asked() -> None:
    quiet, shown = screen()
    talkative, everything = screen(verbose=True)
    for each in (quiet, talkative):
        each.output(Line("aidb", "info", "hello"))
        each.output(Line("aidb", "warning", "[bold]careful[/bold]"))
    assert "hello" not in shown.getvalue()
    assert "[bold]careful[/bold]" in shown.getvalue()
    assert "hello" in everything.getvalue()


def test_a_restart_is_shown_and_a_start_is_not() -> None:
    quiet, shown = screen()
    quiet.event(Event("aidb", State.STARTING))
    assert shown.getvalue() == ""
    quiet.event(Event("aidb", State.PAUSING, "ended by SIGKILL; again in 0.2 s", bad=True))
    assert "ended by SIGKILL; again in 0.2 s" in shown.getvalue()


def test_the_last_screen_says_where_the_key_is_and_what_to_try(tmp_path: Path) -> None:
    for terminal in (False, True):
        final, shown = screen(terminal=terminal)
        final.begin(tmp_path)
        final.event(Event("aidb", State.STARTING))
        final.event(Event("aidb", State.READY))
        final.ready("http://127.0.0.1:8600", tmp_path / "default.key", tmp_path / "logs")
        text = shown.getvalue()
        assert "http://127.0.0.1:8600" in text
        assert "default.key" in text
        for command in ("aistack ingest", "aistack search", "aistack ask"):
            assert command in text


def test_a_lost_first_key_is_said_with_the_way_to_another(tmp_path: Path) -> None:
    key = tmp_path / "keys" / "default.key"
    key.parent.mkdir()
    missing, shown = screen()
    own = Own(".venv/bin/aistack", f"--data-dir {tmp_path}")
    missing.ready("http://127.0.0.1:8600", key, tmp_path / "logs", own)
    text = shown.getvalue()
    assert f"{key} is missing" in text
    assert f".venv/bin/aistack keys create again --write {key} --data-dir {tmp_path}" in text
    key.touch()
    there, shown = screen()
    there.ready("http://127.0.0.1:8600", key, tmp_path / "logs")
    assert "missing" not in shown.getvalue()
    assert "keys create" not in shown.getvalue()


def keys(tmp_path: Path) -> KeyPaths:
    return KeyPaths(tmp_path / "keys")


def test_every_service_gets_a_private_file_that_it_can_read(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    paths = Paths(tmp_path / "data", run)
    overlay = {"aidb": {"workers": 3}, "redis": {"timeout_seconds": 1.5}}
    settings.write_configs(
        paths, keys(tmp_path), load_stack(), overlay, llama=f"unix:{run}/llama.sock"
    )
    for name in load_stack().services:
        assert stat.S_IMODE(paths.config(name).stat().st_mode) == 0o600
        config = load_config(paths.config(name))
        assert config.postgres.host == str(run / "postgres")
        assert config.redis.url == f"unix://{run}/redis.sock"
        assert config.redis.timeout_seconds == 1.5
        assert config.peers.embeddings == f"unix:{run}/embeddings.sock"
        assert config.llama.address == f"unix:{run}/llama.sock"
        assert config.auth.internal_key_file == tmp_path / "keys" / "internal" / f"{name}.key"
        assert config.aidb.workers == 3


def test_a_wrong_key_of_the_user_ends_the_start_with_its_name(tmp_path: Path) -> None:
    file = tmp_path / "my.toml"
    file.write_text("[aidb]\nworkerz = 3\n")
    with pytest.raises(StartError, match=r"my\.toml.*aidb\.workerz"):
        settings.read_overlay(file)
    file.write_text("[aidb]\nworkers = 3\n")
    assert settings.read_overlay(file) == {"aidb": {"workers": 3}}
    assert settings.read_overlay(None) == {}


def test_a_failed_start_of_the_database_is_explained_only_when_it_is_final(tmp_path: Path) -> None:
    server = Postgres(tmp_path, tmp_path)
    damaged = server.explain(1, ["LOG:  starting", "PANIC:  could not locate a valid checkpoint"])
    assert damaged is not None
    assert "could not locate a valid checkpoint" in damaged
    assert str(tmp_path) in damaged
    full = server.explain(1, ["FATAL:  could not write x: No space left on device"])
    assert full is not None
    assert "full" in full
    busy = "FATAL:  pre-existing shared memory block (key 1, ID 2) is still in use"
    assert server.explain(1, [busy]) is None
    assert server.explain(-9, ["LOG:  starting"]) is None
