"""`aistack status` and `aistack doctor` on sockets and files that the test makes."""

from __future__ import annotations

import json
import os
import shutil
import socketserver
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from aistack.cli.status import NeedReport, ServiceReport, as_needs, duration
from aistack.dev.paths import run_directory
from aistack.dev.preflight import LEAST_FREE_BYTES, check_data_directory, lock_data_directory
from aistack.service.errors import StartError
from aistack.stack import load_stack
from fix_cli import Ended

Cli = Callable[..., Ended]
SERVICES = list(load_stack().services)


class Probe(BaseHTTPRequestHandler):
    """Answers /readyz with what its server was given."""

    def do_GET(self) -> None:
        assert isinstance(self.server, Socket)
        status, body = self.server.answer
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


class Socket(socketserver.ThreadingUnixStreamServer):
    """One service as far as its probe goes."""

    daemon_threads = True
    answer: tuple[int, dict[str, Any]]

    def get_request(self) -> tuple[Any, Any]:
        request, _ = super().get_request()
        return request, ("local", 0)


def ready(**more: Any) -> dict[str, Any]:
    return {
        "status": "ready",
        "progress": "",
        "uptime_seconds": 192.0,
        "needs": [
            {
                "name": "redis",
                "required": False,
                "up": True,
                "seconds": 0.001,
                "breaker": "closed",
                "reason": None,
            }
        ],
        **more,
    }


@pytest.fixture
def sockets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, Socket]]]:
    """A run directory in which every service is ready."""
    directory = tmp_path_factory.mktemp("r")
    made = {}
    for name in SERVICES:
        made[name] = Socket(str(directory / f"{name}.sock"), Probe)
        made[name].answer = (200, ready())
        threading.Thread(target=made[name].serve_forever, daemon=True).start()
    yield directory, made
    for server in made.values():
        server.shutdown()
        server.server_close()


def test_all_ready(aistack: Cli, sockets: tuple[Path, dict[str, Socket]]) -> None:
    directory, _ = sockets
    ended = aistack("status", "--run-dir", str(directory))
    assert ended.code == 0
    first = ended.out.splitlines()[1].split()
    assert first == [SERVICES[0], "ready", "3", "min"]
    assert ended.out.count("ready") == len(SERVICES)
    report = aistack("status", "--run-dir", str(directory), "--json").json
    assert report["ready"] is True
    assert [service["name"] for service in report["services"]] == SERVICES
    assert report["servers"]["redis"]["state"] == "up"
    assert report["servers"]["postgres"]["state"] == "unknown"


def test_one_that_is_not_ready_is_exit_1_with_its_need(
    aistack: Cli, sockets: tuple[Path, dict[str, Socket]]
) -> None:
    directory, made = sockets
    need = {
        "name": "postgres",
        "required": True,
        "up": False,
        "seconds": 0.1,
        "breaker": "open",
        "reason": "Unavailable",
    }
    made["aidb"].answer = (503, ready(status="not_ready", needs=[need]))
    ended = aistack("status", "--run-dir", str(directory))
    assert ended.code == 1
    assert "not_ready" in ended.out
    assert "breaker open, Unavailable" in ended.out
    assert ["postgres", "down"] in [line.split() for line in ended.out.splitlines()]


def test_degraded_is_ready_enough(aistack: Cli, sockets: tuple[Path, dict[str, Socket]]) -> None:
    directory, made = sockets
    made["embeddings"].answer = (200, ready(status="degraded"))
    assert aistack("status", "--run-dir", str(directory)).code == 0


def test_a_dead_socket_and_a_stranger_are_down(
    aistack: Cli, sockets: tuple[Path, dict[str, Socket]]
) -> None:
    directory, made = sockets
    made["aidb"].shutdown()
    made["aidb"].server_close()
    (directory / "coordinator.sock").unlink()
    ended = aistack("status", "--run-dir", str(directory), "--json")
    assert ended.code == 1
    states = {service["name"]: service["state"] for service in ended.json["services"]}
    assert states == {"embeddings": "ready", "aidb": "down", "coordinator": "down"}


def test_the_servers_are_as_their_supervisor_has_them(
    aistack: Cli, sockets: tuple[Path, dict[str, Socket]]
) -> None:
    directory, _ = sockets
    (directory / "state.json").write_text(
        json.dumps(
            {
                "postgres": {"state": "ready", "pid": 7, "restarts": 2, "status": ""},
                "aidb": {"state": "ready", "pid": 8, "restarts": 0, "status": ""},
            }
        )
    )
    ended = aistack("status", "--run-dir", str(directory))
    assert "started again 2 times" in ended.out
    report = aistack("status", "--run-dir", str(directory), "--json").json
    assert report["servers"] == {"postgres": {"state": "ready", "pid": 7, "restarts": 2}}


def test_a_front_door_that_is_gone_is_not_ready(
    aistack: Cli, sockets: tuple[Path, dict[str, Socket]], tmp_path: Path
) -> None:
    directory, _ = sockets
    endpoint = {"base_url": "http://127.0.0.1:1", "key_file": None, "run_dir": str(directory)}
    (tmp_path / "endpoint.json").write_text(json.dumps({**endpoint, "pid": os.getpid()}))
    ended = aistack("status", "--data-dir", str(tmp_path))
    assert ended.code == 1
    assert ended.out.splitlines()[1].split()[:3] == ["front", "door", "down"]


def test_a_stack_that_starts_is_shown_with_its_parts(
    aistack: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AISTACK_URL", raising=False)
    words = ("status", "--data-dir", str(tmp_path))
    assert aistack(*words).code == 3
    run = run_directory(tmp_path)
    try:
        (run / "state.json").write_text(
            json.dumps(
                {
                    "postgres": {"state": "ready", "pid": 7, "restarts": 0, "status": ""},
                    "aidb": {"state": "starting", "pid": 8, "restarts": 0, "status": "schema"},
                }
            )
        )
        with lock_data_directory(tmp_path / "lock"):
            ended = aistack(*words)
            assert ended.code == 1
            assert f"starting, or stopping (process {os.getpid()})" in ended.out
            assert ["aidb", "starting", "schema"] in [x.split() for x in ended.out.splitlines()]
            report = aistack(*words, "--json")
            assert report.code == 1
            assert report.json["starting"] is True
            assert report.json["parts"]["postgres"]["state"] == "ready"
            other = aistack("search", "x", "--data-dir", str(tmp_path))
            assert other.code == 3
            assert "is still starting" in other.err
        ended = aistack(*words)
        assert ended.code == 3
        assert "no stack is running" in ended.err
    finally:
        shutil.rmtree(run)


def test_up_has_no_machine_output(aistack: Cli, tmp_path: Path) -> None:
    ended = aistack("up", "--json", "--data-dir", str(tmp_path / "data"))
    assert ended.code == 2
    assert "no machine output" in ended.json["error"]["message"]
    assert not (tmp_path / "data").exists()


def test_durations() -> None:
    assert [duration(s) for s in (None, 4.2, 300, 11_520, 187_200)] == [
        "",
        "4 s",
        "5 min",
        "3 h 12 min",
        "2 d 4 h",
    ]


def checks(ended: Ended) -> dict[str, dict[str, str]]:
    return {check["name"]: check for check in ended.json["checks"]}


def test_doctor_on_an_empty_directory_names_what_to_do(aistack: Cli, tmp_path: Path) -> None:
    ended = aistack("doctor", "--json", "--data-dir", str(tmp_path))
    found = checks(ended)
    assert found["python"]["level"] == "ok"
    assert found["stack"]["level"] == "warn"
    assert found["stack"]["fix"] == "start it with `aistack up`"
    assert found["keys"]["level"] == "warn"
    assert ended.code == (1 if any(c["level"] == "fail" for c in found.values()) else 0)


def test_doctor_finds_key_files_that_others_can_read(aistack: Cli, tmp_path: Path) -> None:
    aistack("keys", "init", "--data-dir", str(tmp_path))
    assert checks(aistack("doctor", "--json", "--data-dir", str(tmp_path)))["key files"]
    open_file = tmp_path / "keys" / "default.key"
    open_file.chmod(0o644)
    ended = aistack("doctor", "--json", "--data-dir", str(tmp_path))
    assert ended.code == 1
    assert checks(ended)["key file"]["fix"] == f"chmod 600 {open_file}"
    open_file.chmod(0o600)
    (tmp_path / "keys" / "pepper").unlink()
    assert checks(aistack("doctor", "--json", "--data-dir", str(tmp_path)))["pepper"]


def test_doctor_finds_a_damaged_store_and_endpoint(aistack: Cli, tmp_path: Path) -> None:
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "keys.json").write_text("{")
    (tmp_path / "endpoint.json").write_text("{")
    found = checks(aistack("doctor", "--json", "--data-dir", str(tmp_path)))
    assert found["keys"]["level"] == "fail"
    assert found["stack"]["level"] == "fail"


def test_doctor_finds_services_that_are_down(
    aistack: Cli, sockets: tuple[Path, dict[str, Socket]], tmp_path: Path
) -> None:
    directory, made = sockets
    made["aidb"].answer = (503, ready(status="starting"))
    made["embeddings"].answer = (
        200,
        ready(status="degraded", needs=[{"name": "redis", "required": False, "up": False}]),
    )
    (directory / "aidb.json").write_text(
        json.dumps({"postgres": {"host": str(tmp_path)}, "auth": {}})
    )
    (directory / "coordinator.json").write_text('{"nonsense": {}}')
    endpoint = {"base_url": "http://127.0.0.1:1", "key_file": None, "run_dir": str(directory)}
    (tmp_path / "endpoint.json").write_text(json.dumps({**endpoint, "pid": os.getpid()}))
    found = checks(aistack("doctor", "--json", "--data-dir", str(tmp_path)))
    assert found["aidb"]["level"] == "fail"
    assert found["embeddings"] == {
        "name": "embeddings",
        "level": "warn",
        "found": "degraded: without redis",
        "fix": "",
    }
    assert found["coordinator"]["level"] == "ok"
    assert found["aidb configuration"]["level"] == "ok"
    assert found["coordinator configuration"]["level"] == "fail"
    assert found["schema"]["level"] == "fail"
    assert "OperationalError" in found["schema"]["found"]


@pytest.mark.parametrize(("free", "level"), [(-1, "fail"), (0, "warn")])
def test_doctor_calls_a_disk_full_where_the_stack_does(
    aistack: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, level: str
) -> None:
    usage = SimpleNamespace(free=LEAST_FREE_BYTES + free)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage)
    found = checks(aistack("doctor", "--json", "--data-dir", str(tmp_path)))["free disk"]
    assert found["level"] == level
    if level == "fail":
        with pytest.raises(StartError, match="is full"):
            check_data_directory(tmp_path)
    else:
        check_data_directory(tmp_path)


def test_an_optional_server_is_shown_where_a_service_has_chosen_it() -> None:
    postgres = NeedReport("postgres", True, True, "closed", None)
    qdrant = NeedReport("qdrant", False, False, "open", "away")
    without = as_needs([ServiceReport("aidb", "ready", needs=(postgres,))])
    assert "qdrant" not in without
    assert without["llama"].state == "unknown"
    chosen = as_needs([ServiceReport("aidb", "degraded", needs=(postgres, qdrant))])
    assert (chosen["postgres"].state, chosen["qdrant"].state) == ("up", "down")
