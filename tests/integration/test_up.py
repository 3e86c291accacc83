"""`aistack up` as a user sees it: the real command, the real parts."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import time
from pathlib import Path

import httpx
import psutil
import pytest

from aistack.service.errors import EX_CONFIG
from aistack.stack import load_stack
from fix_stack import (
    STOP_SECONDS,
    RunningStack,
    clean_environment,
    descendants,
    launch,
    left_over,
    started,
    up_command,
    wait_until,
)

PARTS = ["postgres", "redis", "llama", "embeddings", "aidb", "coordinator", "front"]


def refused(data_dir: Path, *arguments: str) -> str:
    """Run `up` where it cannot start; what it says after the exit code was checked."""
    done = subprocess.run(
        up_command(data_dir, *arguments),
        capture_output=True,
        text=True,
        timeout=60,
        env=clean_environment(),
        check=False,
    )
    assert done.returncode == EX_CONFIG, done.stderr
    return done.stderr


def bearer(stack: RunningStack) -> dict[str, str]:
    return {"authorization": f"Bearer {stack.key}"}


def test_every_part_runs_and_the_front_door_answers(stack: RunningStack) -> None:
    assert {name: stack.state()[name]["state"] for name in PARTS} == dict.fromkeys(PARTS, "ready")
    with httpx.Client(base_url=stack.base_url, headers=bearer(stack), timeout=60) as client:
        answer = client.post("/v1/embeddings", json={"model": "all-minilm-l6-v2", "input": "hi"})
        assert answer.status_code == 200
        assert len(answer.json()["data"][0]["embedding"]) == 384
        assert {row["id"] for row in client.get("/v1/models").json()["data"]} >= {"local"}
        for name in load_stack().services:
            assert client.get(f"/docs/{name}").status_code in (200, 307)
        for path in ("/metrics", "/livez", "/readyz"):
            assert client.get(path).status_code == 404
    assert httpx.get(f"{stack.base_url}/v1/models").status_code == 401


def test_what_it_wrote_is_private(stack: RunningStack) -> None:
    secret = [
        stack.key_file,
        stack.data_dir / "keys" / "keys.json",
        stack.data_dir / "keys" / "pepper",
        *stack.run_dir.glob("*.json"),
        *stack.run_dir.glob("*.sock"),
    ]
    assert len(secret) > 8
    for path in secret:
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
    for directory in (stack.run_dir, stack.data_dir / "keys", stack.data_dir / "logs"):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700, directory


def test_nothing_but_the_front_door_listens_on_tcp(stack: RunningStack) -> None:
    port = int(stack.base_url.rsplit(":", 1)[1])
    listening = {
        (connection.laddr.ip, connection.laddr.port)
        for process in descendants(stack.process.pid)
        for connection in process.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening == {("127.0.0.1", port)}


def test_the_last_screen_is_short_and_complete(stack: RunningStack) -> None:
    last = stack.said().split("aistack is ready", 1)[1].split("Ctrl-C stops everything.")[0]
    assert stack.base_url in last
    assert str(stack.key_file) in last
    assert stack.key not in stack.said()
    assert last.count("aistack ingest") == last.count("aistack ask") == 1


def test_logs_are_json_in_files(stack: RunningStack) -> None:
    for name in PARTS:
        lines = (stack.data_dir / "logs" / f"{name}.log").read_text().splitlines()
        assert lines, name
        for line in lines:
            assert "event" in json.loads(line)


@pytest.mark.chaos
@pytest.mark.parametrize("name", PARTS)
def test_a_killed_part_is_started_again_and_said_so(stack: RunningStack, name: str) -> None:
    before = stack.state()[name]["restarts"]
    old = stack.kill(name)
    stack.wait_restarted(name, old)
    assert stack.state()[name]["restarts"] == int(str(before)) + 1
    assert f"{name:<12} ended by SIGKILL" in stack.said()

    def answers() -> bool:
        models = httpx.get(f"{stack.base_url}/v1/models", headers=bearer(stack), timeout=60)
        assert models.status_code in (200, 503)
        return models.status_code == 200

    wait_until(answers, 60, stack.said())


def test_a_second_stack_on_the_same_data_is_refused(stack: RunningStack) -> None:
    text = refused(stack.data_dir)
    assert f"a stack already runs on {stack.data_dir} (process {stack.process.pid})" in text
    assert len(text.strip().splitlines()) == 1
    assert stack.process.poll() is None


def test_a_taken_port_is_refused(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        text = refused(tmp_path / "data", "--port", str(port))
    assert f"port {port} is taken" in text
    assert "--port" in text
    assert len(text.strip().splitlines()) == 1


def test_a_wrong_setting_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "my.toml"
    file.write_text("[aidb]\nworkerz = 3\n")
    text = refused(tmp_path / "data", "--config", str(file))
    assert "aidb.workerz" in text
    assert len(text.strip().splitlines()) == 1


def test_a_full_disk_is_refused(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(disk)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode != 0:
        pytest.skip("mounting a small disk needs root")
    try:
        text = refused(disk / "data")
    finally:
        subprocess.run(["umount", str(disk)], check=True)
    assert "is full" in text
    assert len(text.strip().splitlines()) == 1


def test_a_damaged_database_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    data = tmp_path / "data" / "postgres" / "data"
    data.mkdir(parents=True)
    (data / "precious").touch()
    text = refused(tmp_path / "data")
    assert "cannot be opened (PG_VERSION is missing)" in text
    assert str(data) in text.splitlines()[-1]
    assert running_on(tmp_path / "data") == []


def running_on(data_dir: Path) -> list[str]:
    """Processes whose command names something of this stack."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = " ".join(process.info["cmdline"] or [])
        if str(data_dir) in words and process.pid != os.getpid():
            found.append(words)
    return found


def test_stop_during_the_start_leaves_nothing(tmp_path: Path) -> None:
    data_dir, output = tmp_path / "data", tmp_path / "out"
    with output.open("wb") as stream:
        process = subprocess.Popen(
            up_command(data_dir), stdout=stream, stderr=stream, env=clean_environment()
        )
    wait_until(lambda: "redis        ready" in output.read_text(), 60)
    processes = descendants(process.pid)
    assert len(processes) > 1
    process.send_signal(signal.SIGTERM)
    assert process.wait(STOP_SECONDS) == 0, output.read_text()
    assert left_over(processes) == []


def test_restart_is_fast_keeps_keys_and_survives_its_own_kill(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    first = launch(data_dir, tmp_path / "first.out")
    processes = descendants(first.process.pid)
    assert len(processes) > len(PARTS)
    first.process.kill()
    first.process.wait()
    wait_until(lambda: left_over(processes) == [], 30, "something outlived the supervisor")
    with started(data_dir) as second:
        assert second.key == first.key
        assert second.run_dir == first.run_dir
        answer = httpx.get(f"{second.base_url}/v1/models", headers=bearer(second), timeout=60)
        assert answer.status_code == 200
        print(f"warm start: ready after {second.ready_seconds:.1f} s")


def test_a_second_interrupt_kills_at_once(tmp_path: Path) -> None:
    stack = launch(tmp_path / "data", tmp_path / "out")
    processes = descendants(stack.process.pid)
    for name in ("aidb", "coordinator", "embeddings", "front"):
        os.kill(stack.pids[name], signal.SIGSTOP)  # none of them can drain
    stack.process.send_signal(signal.SIGINT)
    wait_until(lambda: "Ctrl-C again kills at once" in stack.said(), 10)
    began = time.monotonic()
    stack.process.send_signal(signal.SIGINT)
    assert stack.process.wait(STOP_SECONDS) == 0
    assert time.monotonic() - began < 8
    assert left_over(processes) == []
