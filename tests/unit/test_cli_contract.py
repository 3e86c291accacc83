"""What holds for every command: exit codes, streams, where the stack and the key are found."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from aistack import __version__
from aistack.cli import endpoint
from aistack.cli.output import clean
from fix_cli import Edge, Ended

Cli = Callable[..., Ended]


def problem(status: int, **headers: str) -> httpx.Response:
    return httpx.Response(
        status,
        json={"type": "urn:x", "title": "T", "status": status, "detail": "D.", "error_id": "err_1"},
        headers=headers,
    )


def collections(_: httpx.Request) -> httpx.Response:
    return httpx.Response(200, json={"data": []})


@pytest.mark.parametrize(
    ("status", "code"), [(401, 4), (403, 4), (404, 1), (413, 1), (422, 1), (500, 1), (504, 1)]
)
def test_an_error_answer_is_one_line_with_its_id_and_the_documented_code(
    edge: Edge, aistack: Cli, status: int, code: int
) -> None:
    edge.answer = lambda _: problem(status)
    ended = aistack("collections", "list")
    assert ended.code == code
    assert ended.out == ""
    assert ended.err.count("\n") == 1
    assert "D." in ended.err
    assert "err_1" in ended.err


def test_openais_error_shape_is_read_too(edge: Edge, aistack: Cli) -> None:
    edge.answer = lambda _: httpx.Response(
        400, json={"error": {"message": "No such model.", "error_id": "err_2", "code": None}}
    )
    ended = aistack("ask", "why?")
    assert ended.code == 1
    assert ended.err == "aistack: No such model. [err_2] (HTTP 400)\n"


def test_field_faults_are_named(edge: Edge, aistack: Cli) -> None:
    edge.answer = lambda _: httpx.Response(
        422, json={"detail": "Not valid.", "errors": [{"field": "body.query", "message": "empty"}]}
    )
    assert "Not valid. (body.query: empty)" in aistack("search", "x").err


def test_a_fault_that_the_detail_says_already_is_not_said_twice(edge: Edge, aistack: Cli) -> None:
    faults = [{"field": "body.query", "message": "empty"}, {"field": "body.mode", "message": "odd"}]
    edge.answer = lambda _: httpx.Response(
        422, json={"detail": "body.query: empty", "errors": faults}
    )
    ended = aistack("search", "x")
    assert ended.err == "aistack: body.query: empty (body.mode: odd) (HTTP 422)\n"


def test_with_json_an_error_is_json_on_stdout_too(edge: Edge, aistack: Cli) -> None:
    edge.answer = lambda _: problem(422)
    for words in (("collections", "list"), ("ask", "why?")):
        ended = aistack(*words, "--json")
        assert ended.code == 1
        assert ended.json == {
            "error": {"message": "D.", "fix": None, "status": 422, "error_id": "err_1"}
        }
        assert ended.err == "aistack: D. [err_1] (HTTP 422)\n"
    edge.answer = lambda _: problem(401)
    ended = aistack("--json", "search", "x")
    assert ended.code == 4
    assert ended.json["error"]["status"] == 401
    assert "--key-file" in ended.json["error"]["fix"]


@pytest.mark.parametrize("words", [["search"], ["search", "x", "--limit", "0"], ["frobnicate"]])
def test_with_json_wrong_arguments_are_json_too(aistack: Cli, words: list[str]) -> None:
    ended = aistack(*words, "--json")
    assert ended.code == 2
    error = ended.json["error"]
    assert (error["status"], error["error_id"]) == (None, None)
    assert ended.err == f"aistack: {error['message']}\n"


def test_what_is_asked_for_with_json_after_two_dashes_is_no_option(
    edge: Edge, aistack: Cli
) -> None:
    edge.answer = lambda _: problem(422)
    assert aistack("search", "--", "--json").out == ""


def test_empty_words_are_wrong_arguments_everywhere(edge: Edge, aistack: Cli) -> None:
    for command in ("search", "ask"):
        for words in ("", " "):
            ended = aistack(command, words)
            assert (ended.code, ended.err.count("is empty")) == (2, 1)
    assert edge.requests == []


def test_what_is_no_id_is_no_document(edge: Edge, aistack: Cli) -> None:
    for command in ("show", "delete"):
        ended = aistack("documents", command, "nope")
        assert ended.code == 1
        assert ended.err.startswith("aistack: there is no document nope: ")
    assert edge.requests == []


def test_an_answer_that_is_not_json_is_an_error(edge: Edge, aistack: Cli) -> None:
    edge.answer = lambda _: httpx.Response(200, text="<html>")
    ended = aistack("collections", "list")
    assert ended.code == 1
    assert "is this the address of an aistack?" in ended.err


@pytest.mark.parametrize("status", [429, 503])
def test_a_refusal_is_sent_again_not_before_retry_after(
    edge: Edge, aistack: Cli, status: int
) -> None:
    def busy_once(request: httpx.Request) -> httpx.Response:
        first = len(edge.requests) == 1
        return problem(status, **{"retry-after": "2"}) if first else collections(request)

    edge.answer = busy_once
    ended = aistack("collections", "list", "--json")
    assert ended.code == 0
    assert len(edge.requests) == 2
    assert len(edge.waits) == 1
    assert edge.waits[0] >= 2


def test_patience_ends(edge: Edge, aistack: Cli) -> None:
    edge.answer = lambda _: problem(503, **{"retry-after": "3600"})
    ended = aistack("collections", "list")
    assert ended.code == 1
    assert "D." in ended.err


def test_no_stack_is_exit_3_and_one_line(aistack: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AISTACK_URL", raising=False)
    for words in (("search", "x"), ("status",), ("ingest", __file__, "--include", "*.py")):
        ended = aistack(*words)
        assert (ended.code, ended.out) == (3, "")
        assert ended.err.count("\n") == 1
        assert "aistack up" in ended.err


def test_a_refused_connection_is_exit_3(aistack: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AISTACK_API_KEY", "ais_x")
    ended = aistack("collections", "create", "c", "--url", "http://127.0.0.1:1")
    assert ended.code == 3
    assert "nothing answers at http://127.0.0.1:1" in ended.err


def test_a_lost_connection_is_tried_again_only_where_that_is_safe(edge: Edge, aistack: Cli) -> None:
    def lost(request: httpx.Request) -> httpx.Response:
        if len(edge.requests) == 1:
            raise httpx.ReadError("gone", request=request)
        return collections(request)

    edge.answer = lost
    assert aistack("collections", "list").code == 0
    edge.requests.clear()
    ended = aistack("collections", "delete", "c", "--yes")
    assert ended.code == 3
    assert len(edge.requests) == 1


def test_wrong_arguments_are_exit_2(aistack: Cli) -> None:
    assert aistack("search").code == 2
    assert aistack("search", "x", "--limit", "0").code == 2
    assert aistack("search", "x", "--url", "nonsense").code == 2
    assert aistack("frobnicate").code == 2


def test_json_is_understood_before_and_after_the_subcommand(edge: Edge, aistack: Cli) -> None:
    edge.answer = collections
    assert aistack("--json", "collections", "list").json == {"data": []}
    assert aistack("collections", "list", "--json").json == {"data": []}


def test_the_nearer_option_wins(edge: Edge, aistack: Cli) -> None:
    edge.answer = collections
    aistack("--url", "http://far.test", "collections", "list", "--url", "http://near.test")
    assert edge.requests[0].url.host == "near.test"


def test_version(aistack: Cli) -> None:
    ended = aistack("--version")
    assert (ended.code, ended.out) == (0, f"aistack {__version__}\n")


def announce(directory: Path, *, pid: int | None = None) -> None:
    key = directory / "key"
    key.write_text("ais_local_key\n")
    (directory / "endpoint.json").write_text(
        json.dumps(
            {
                "base_url": "http://local.test",
                "key_file": str(key),
                "run_dir": str(directory / "run"),
                "pid": os.getpid() if pid is None else pid,
            }
        )
    )


def test_a_running_stack_is_found_with_its_key(
    edge: Edge, aistack: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AISTACK_URL")
    monkeypatch.delenv("AISTACK_API_KEY")
    announce(tmp_path)
    edge.answer = collections
    assert aistack("collections", "list", "--data-dir", str(tmp_path)).code == 0
    assert edge.requests[0].url.host == "local.test"
    assert edge.requests[0].headers["authorization"] == "Bearer ais_local_key"


def test_a_lost_key_file_of_the_running_stack_is_said_with_the_way_to_another(
    aistack: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AISTACK_URL", raising=False)
    monkeypatch.delenv("AISTACK_API_KEY", raising=False)
    announce(tmp_path)
    (tmp_path / "key").unlink()
    ended = aistack("search", "x", "--data-dir", str(tmp_path))
    assert ended.code == 78
    assert f"aistack keys create NAME --write {tmp_path / 'key'}" in ended.err


def test_the_key_of_this_machine_is_sent_to_no_other_address(
    edge: Edge, aistack: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AISTACK_API_KEY")
    announce(tmp_path)
    ended = aistack("collections", "list", "--data-dir", str(tmp_path), "--url", "http://far.test")
    assert ended.code == 4
    assert edge.requests == []
    assert "no key for http://far.test" in ended.err
    assert "the key of that stack with --key-file FILE or in AISTACK_API_KEY" in ended.err


def test_a_stack_whose_process_is_gone_does_not_run(
    aistack: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AISTACK_URL", raising=False)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    announce(tmp_path, pid=gone.pid)
    assert aistack("status", "--data-dir", str(tmp_path)).code == 3


def test_a_damaged_endpoint_file_is_exit_78(
    aistack: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AISTACK_URL", raising=False)
    for damage in ("{", "[]", '{"base_url": 1}'):
        (tmp_path / "endpoint.json").write_text(damage)
        assert aistack("status", "--data-dir", str(tmp_path)).code == 78


def test_a_key_file_that_is_no_key_is_exit_78(edge: Edge, aistack: Cli, tmp_path: Path) -> None:
    for content in (b"", b"two words", b"\xff"):
        path = tmp_path / "key"
        path.write_bytes(content)
        assert aistack("collections", "list", "--key-file", str(path)).code == 78
    assert aistack("collections", "list", "--key-file", str(tmp_path / "none")).code == 78
    assert edge.requests == []


def test_the_data_directory_follows_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AISTACK_DATA_DIR", "/a")
    assert endpoint.default_data_dir() == Path("/a")
    monkeypatch.delenv("AISTACK_DATA_DIR")
    monkeypatch.setenv("XDG_DATA_HOME", "/b")
    assert endpoint.default_data_dir() == Path("/b/aistack")
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert endpoint.default_data_dir() == tmp_path / ".local/share/aistack"


def test_what_a_terminal_obeys_is_taken_out() -> None:
    assert clean("a\x1b]0;title\x07b\x9b31mc\r\u202ed\tok\n") == "a]0;titleb31mcd\tok\n"


def test_help_imports_nothing_heavy() -> None:
    script = (
        "import sys\nfrom aistack.cli import main\nsys.argv = ['aistack', '--help']\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'numpy', 'fastapi', 'pydantic', 'httpx', 'sqlalchemy', 'psycopg'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stderr.strip() == "[]"
    assert "ingest" in done.stdout


def test_a_reader_that_goes_away_is_no_traceback() -> None:
    done = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m aistack config schema | head -c 10"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""


def test_config_schema_and_check(aistack: Cli, tmp_path: Path) -> None:
    assert "embeddings" in aistack("config", "schema").json["properties"]
    good, bad = tmp_path / "good.toml", tmp_path / "bad.toml"
    good.write_text("[log]\nlevel = 'debug'\n")
    bad.write_text("[log]\nlvel = 'debug'\n")
    assert aistack("config", "check", str(good)).code == 0
    ended = aistack("config", "check", str(bad))
    assert ended.code == 78
    assert "log.lvel" in ended.err
    assert ended.err.count("\n") == 1
