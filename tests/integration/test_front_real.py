"""The front door of the real stack: its refusals are in its log, and nobody is somebody else."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import Any

import httpx
import psutil
import pytest

from aistack.service.key_setup import KeyPaths
from aistack.service.keys import KeyEditor
from fix_stack import RunningStack, clean_environment, wait_until


def logged(stack: RunningStack, identifier: str) -> dict[str, Any] | None:
    """The line of the front door's log with this `error_id`."""
    for line in (stack.data_dir / "logs" / "front.log").read_text().splitlines():
        if identifier in line:
            found: dict[str, Any] = json.loads(line)
            return found
    return None


def test_the_error_id_of_a_refusal_leads_to_its_line(stack: RunningStack) -> None:
    answer = httpx.get(f"{stack.base_url}/nothing", headers={"x-request-id": "look-for-me"})
    assert answer.status_code == 404
    identifier = answer.json()["error_id"]
    wait_until(lambda: logged(stack, identifier) is not None, 10, "no line has the error_id")
    line = logged(stack, identifier)
    assert line is not None
    assert (line["event"], line["status"], line["path"]) == ("answered_error", 404, "/nothing")
    assert (line["request_id"], line["service"]) == ("look-for-me", "front")


@pytest.mark.parametrize("through", ["front door", "socket of aidb"])
def test_a_users_key_cannot_act_in_the_name_of_another(stack: RunningStack, through: str) -> None:
    paths = KeyPaths(stack.key_file.parent)
    editor = KeyEditor(paths.keys_file, paths.pepper_file)
    own = next(key.id for key in editor.records() if stack.key.startswith(f"ais_{key.id}_"))
    base, transport = stack.base_url, httpx.HTTPTransport()
    if through != "front door":
        base = "http://aidb"
        transport = httpx.HTTPTransport(uds=str(stack.run_dir / "aidb.sock"))
    name = f"forged-{through.split()[0]}"
    headers = {"authorization": f"Bearer {stack.key}", "x-aistack-key-id": "somebodyelse"}
    with httpx.Client(base_url=base, headers=headers, transport=transport, timeout=60) as client:
        made = client.post("/v1/collections", json={"name": name})
        assert made.status_code == 201, made.text
        assert made.json()["created_by"] == own
        assert client.delete(f"/v1/collections/{name}").is_success


@pytest.mark.chaos
def test_ask_outlives_a_coordinator_that_is_killed_before_its_first_byte(
    stack: RunningStack,
) -> None:
    before = stack.state()["coordinator"]["restarts"]
    old = stack.pids["coordinator"]
    # Stopped, it takes the request and says nothing; then it dies with the request in its hands.
    os.kill(old, signal.SIGSTOP)
    asking = subprocess.Popen(
        [
            *(sys.executable, "-m", "aistack", "ask", "Say yes.", "--model", "local"),
            *("--data-dir", str(stack.data_dir)),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=clean_environment(),
    )
    try:
        wait_until(lambda: connected(asking, stack), 20, "nothing was asked")
        stack.kill("coordinator")
        said, complained = asking.communicate(timeout=120)
    finally:
        asking.kill()
    assert asking.returncode == 0, complained
    assert said.strip()
    stack.wait_restarted("coordinator", old)
    assert stack.state()["coordinator"]["restarts"] == int(str(before)) + 1


def connected(process: subprocess.Popen[str], stack: RunningStack) -> bool:
    """Whether `process` speaks to the front door."""
    port = int(stack.base_url.rsplit(":", 1)[1])
    return any(
        connection.raddr and connection.raddr.port == port
        for connection in psutil.Process(process.pid).net_connections("tcp")
    )
