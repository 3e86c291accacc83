"""What breaks in the stack mends itself, alone: the guest of `test_stack`, after its tests.

Each test leaves the stack whole for the next.
"""

from __future__ import annotations

import json
import os
import shlex
import time

import pytest

from system.driver import Machine
from system.stack import (
    CERTIFICATE,
    DATA,
    EARLY,
    KEY,
    KEYS,
    LLAMA,
    SERVICES,
    TLS,
    TRANSIENT,
    UNITS,
    Stack,
    complaints,
    services,
)

#: Fixtures, which download and build, have limits of their own.
pytestmark = pytest.mark.timeout(600, func_only=True)

#: Rolling restarts of each service; `make test-system-long` takes 100.
RESTARTS = int(os.environ.get("AISTACK_SYSTEM_RESTARTS", "10"))
MODEL = "/var/lib/models/chat.gguf"
#: A service that hangs when it is told to.
HANGS = """\
import runpy, signal, time
signal.signal(signal.SIGUSR2, lambda *_: time.sleep(3600))
runpy.run_path("/usr/lib/aistack/bin/aistack", run_name="__main__")
"""
#: The service of embeddings with a model on a disk that is slow (reading it costs CPU time all the
#: while) or that no longer answers.
SLOW = """\
import hashlib, runpy, sys, time

sys.path[:0] = ["/usr/lib/aistack/src", "/usr/lib/aistack/site-packages"]
from aistack.embeddings import loading

disk, open_encoder = sys.argv.pop(1), loading.open_encoder

def read(config):
    if disk == "dead":
        time.sleep(3600)
    end, digest = time.monotonic() + 25, hashlib.sha256()
    while time.monotonic() < end:
        digest.update(bytes(1 << 20))
    return open_encoder(config)

loading.open_encoder = read
runpy.run_path("/usr/lib/aistack/bin/aistack", run_name="__main__")
"""


@pytest.mark.parametrize("unit", [*UNITS, LLAMA, *DATA, "nginx.service"])
def test_killed_it_is_back_by_itself(stack: Stack, machine: Machine, unit: str) -> None:
    others = [other for other in (*UNITS, LLAMA, *DATA) if other != unit]
    before, untouched = stack.invocations(unit)[unit], stack.invocations(*others)
    machine.succeed(f"systemctl kill --signal=KILL --kill-whom=main {unit}")
    stack.wait_restarted(unit, before)
    stack.check("ready")
    assert stack.invocations(*others) == untouched
    assert stack.failed_units() == []


def test_a_parser_that_ends_ends_alone(stack: Stack, machine: Machine) -> None:
    before = stack.invocations("aistack-aidb.service")
    stack.check("parse")
    children = machine.succeed("pgrep -f aistack.aidb.parsing.child").split()
    assert children
    for one in children:
        assert "/aistack-aidb.service\n" in machine.succeed(f"cat /proc/{one}/cgroup")
        limits = machine.succeed(f"grep 'Max data size' /proc/{one}/limits").split()
        assert limits[3:5] == [str(512 << 20)] * 2
    machine.succeed(f"kill -SEGV {' '.join(children)}")
    machine.wait_until_fails("pgrep -f aistack.aidb.parsing.child", timeout=20)
    stack.check("parse")
    assert stack.invocations("aistack-aidb.service") == before
    stack.check("ready")


def test_the_watchdog_ends_services_whose_loop_hangs(stack: Stack, machine: Machine) -> None:
    """On a signal that only this test knows, the loop's thread goes to sleep; the others go on."""
    machine.write_file("/run/hangs.py", HANGS.encode())
    for unit in UNITS:
        arguments = machine.succeed(f"systemctl cat {unit} | grep '^ExecStart='").split()[1:]
        line = f"/usr/bin/python3 -sS /run/hangs.py {shlex.join(arguments)}"
        machine.write_file(
            f"/run/systemd/system/{unit}.d/hangs.conf",
            f"[Service]\nExecStart=\nExecStart={line}\n".encode(),
        )
    machine.succeed("systemctl daemon-reload", f"systemctl restart {' '.join(UNITS)}")
    stack.check("ready")
    before, since = stack.invocations(*UNITS), machine.cursor()
    machine.succeed(f"systemctl kill --signal=USR2 --kill-whom=main {' '.join(UNITS)}")
    for unit in UNITS:
        stack.wait_restarted(unit, before[unit], timeout=150)
    texts = {(one.unit, one.text) for one in stack.journal(since)}
    for unit in UNITS:
        assert any(of == unit and "Watchdog timeout" in text for of, text in texts), unit
    machine.succeed(
        *(f"rm -r /run/systemd/system/{unit}.d" for unit in UNITS),
        "systemctl daemon-reload",
        f"systemctl restart {' '.join(UNITS)}",
    )
    stack.check("ready")


def test_a_start_is_given_time_while_the_model_loads_and_not_when_the_disk_is_dead(
    stack: Stack, machine: Machine
) -> None:
    unit = "aistack-embeddings.service"
    machine.write_file("/run/slow.py", SLOW.encode())
    arguments = machine.succeed(f"systemctl cat {unit} | grep '^ExecStart='").split()[1:]

    def with_disk(kind: str) -> None:
        line = f"/usr/bin/python3 -sS /run/slow.py {kind} {shlex.join(arguments)}"
        machine.write_file(
            f"/run/systemd/system/{unit}.d/slow.conf",
            f"[Service]\nExecStart=\nExecStart={line}\nTimeoutStartSec=12\n"
            "Environment=AISTACK__LIMITS__START_SECONDS=10\n".encode(),
        )
        machine.succeed("systemctl daemon-reload")

    try:
        with_disk("slow")
        began = time.monotonic()
        machine.succeed(f"systemctl restart {unit}")
        assert time.monotonic() - began > 25
        with_disk("dead")
        since = machine.cursor()
        machine.fail(f"systemctl restart {unit}")
        lines = [one.text for one in stack.journal(since) if one.unit == unit]
        assert any("not ready within 10 s" in text for text in lines), "\n".join(lines)
    finally:
        machine.succeed(
            f"rm -r /run/systemd/system/{unit}.d",
            "systemctl daemon-reload",
            f"systemctl restart {unit}",
        )
    stack.check("ready")


def test_without_redis_everything_answers(stack: Stack, machine: Machine) -> None:
    machine.succeed("systemctl stop redis-aistack.service")
    try:
        for _ in range(3):
            status, text = stack.request("POST", "/embed", {"inputs": "no cache"})
            assert status == 200, text
        stack.check("recall", "--state", "/run/check-store.json")
    finally:
        machine.succeed("systemctl start redis-aistack.service")
    machine.wait_until_succeeds(
        "curl -sf http://127.0.0.1:9180/embeddings/readyz | grep -q '\"ready\"'", timeout=60
    )


def test_without_postgresql_documents_are_503_and_come_back(stack: Stack, machine: Machine) -> None:
    units = stack.invocations(*UNITS)
    machine.succeed("systemctl stop postgresql.service")
    try:
        stack.machine.wait_until_succeeds(
            f"test $(curl -s -o /dev/null -w '%{{http_code}}'"
            f" --cacert {CERTIFICATE}"
            f' -H "authorization: Bearer $(cat {KEY})"'
            " https://machine/v1/collections) = 503",
            timeout=60,
        )
        status, text = stack.request("POST", "/embed", {"inputs": "no database"})
        assert status == 200, text
    finally:
        machine.succeed("systemctl start postgresql.target")
    machine.wait_until_succeeds(
        stack.command("recall", "--state", "/run/check-store.json"), timeout=90
    )
    assert stack.invocations(*UNITS) == units
    assert machine.get_unit_property("aistack-migrate.service", "NRestarts") == "0"


def test_a_missing_model_stops_its_server_alone_with_one_line(
    stack: Stack, machine: Machine
) -> None:
    others = stack.invocations(*UNITS)
    since = machine.cursor()
    machine.succeed(f"mv {MODEL} {MODEL}.away")
    try:
        machine.fail(f"systemctl restart {LLAMA}")
        lines = [one.text for one in stack.journal(since) if one.unit == LLAMA]
        told = [text for text in lines if MODEL in text and "services.aistack" in text]
        assert len(told) >= 1, lines
        assert not any("Traceback" in text for text in lines)
        stack.check("recall", "--state", "/run/check-store.json")
        status, _text = stack.request(
            "POST",
            "/v1/chat/completions",
            {"model": "local", "messages": [{"role": "user", "content": "Hi"}]},
        )
        assert status == 503
    finally:
        machine.succeed(f"mv {MODEL}.away {MODEL}", f"systemctl restart {LLAMA}")
    stack.check("ready")
    assert stack.invocations(*UNITS) == others


def test_a_missing_key_stops_its_service_alone_with_one_line(
    stack: Stack, machine: Machine
) -> None:
    unit, key = "aistack-coordinator.service", f"{KEYS}/internal/coordinator.key"
    others = [other for other in UNITS if other != unit]
    untouched = stack.invocations(*others)
    since = machine.cursor()
    machine.succeed(f"mv {key} {key}.away")
    try:
        machine.fail(f"systemctl restart {unit}")
        lines = [one.text for one in stack.journal(since) if one.unit == unit]
        told = [text for text in lines if text.startswith("aistack coordinator: ")]
        machine.log(f"{told}")
        assert told
        assert all("key" in text for text in told)
        assert not any("Traceback" in text for text in lines)
        # Its socket is open and its clients wait: for the service, or for their deadline.
        for name in SERVICES:
            if name != "coordinator":
                status, text = stack.request(*EARLY[name])
                assert status == 200, text
    finally:
        machine.succeed(f"mv {key}.away {key}")
    stack.check("ready")
    assert stack.invocations(*others) == untouched


def test_a_missing_certificate_is_made_again_when_nginx_starts(
    stack: Stack, machine: Machine
) -> None:
    old = machine.succeed(f"cat {CERTIFICATE}")
    machine.succeed(f"rm {TLS}/server.pem", "systemctl restart nginx.service")
    assert machine.succeed(f"cat {CERTIFICATE}") != old
    stack.check("ready")


@pytest.mark.timeout(300 + 60 * RESTARTS, func_only=True)
def test_rolling_restarts_under_load_lose_no_request(stack: Stack, machine: Machine) -> None:
    stack.check("ready")
    command = stack.command(
        *("load", "--until", "/run/load.stop", "--report", "/run/load.json"),
        *("--progress", "/run/load.progress"),
        *("--seconds", str(60 + 60 * RESTARTS)),
    )
    machine.succeed(
        "rm -f /run/load.stop /run/load.json /run/load.progress",
        f"{TRANSIENT} --unit=check-load bash -c {shlex.quote(command)}",
    )
    answered = more_answers(machine, 50)
    for number in range(RESTARTS):
        begun = time.monotonic()
        for unit in UNITS:
            machine.succeed(f"systemctl restart {unit}")
            # The load went on meanwhile, and goes on.
            answered = more_answers(machine, answered)
        machine.log(f"round {number + 1} of restarts in {time.monotonic() - begun:.1f} s")
    machine.succeed("touch /run/load.stop")
    machine.wait_for_file("/run/load.json", timeout=120)
    report = json.loads(machine.succeed("cat /run/load.json"))
    machine.log(f"{RESTARTS} restarts of each service: {json.dumps(report)}")
    assert report["failed"] == 0, report["failures"]
    assert report["waited_429"] == 0
    assert report["requests"] >= 10 * len(UNITS) * RESTARTS
    assert set(report["by_kind"]) == {"embed", "search", "models", "ingest", "chat"}
    assert stack.failed_units() == []


def more_answers(machine: Machine, than: int) -> int:
    """How many requests of the load were answered, when they are more than `than`."""
    machine.wait_until_succeeds(f"test $(cat /run/load.progress) -gt {than}", timeout=60)
    return int(machine.succeed("cat /run/load.progress"))


def test_stopping_the_target_lets_a_stream_end(stack: Stack, machine: Machine) -> None:
    body = {
        "model": "local",
        "messages": [{"role": "user", "content": "Write a long story about a lighthouse keeper."}],
        "max_tokens": 400,
        "stream": True,
    }
    curl = (
        f"curl -sN --cacert {CERTIFICATE} https://machine/v1/chat/completions"
        f' -H "authorization: Bearer $(cat {KEY})"'
        f" -H 'content-type: application/json' -d {shlex.quote(json.dumps(body))} > /run/stream"
    )
    machine.succeed(f"{TRANSIENT} --unit=check-stream bash -c {shlex.quote(curl)}")
    machine.wait_until_succeeds('grep -q \'"content":"\' /run/stream', timeout=60)
    machine.fail("grep -q DONE /run/stream")
    drain = max(entry["limits"]["drain_seconds"] for entry in services().values())
    try:
        machine.succeed("systemctl stop aistack.target", timeout=drain + 30)
        machine.wait_until_fails("systemctl is-active --quiet check-stream", timeout=30)
        assert "data: [DONE]" in machine.succeed("cat /run/stream")
        # systemctl waits for the target itself, not for what it stops.
        units = " ".join((*UNITS, LLAMA, *(f"aistack-{name}.socket" for name in SERVICES)))
        machine.wait_until_succeeds(
            f"! systemctl show -p ActiveState {units} | grep . | grep -vE '=(inactive|failed)$'",
            timeout=drain + 30,
        )
        failed = stack.failed_units()
        assert failed == [], [machine.status(unit) for unit in failed]
        status, text = stack.request("GET", "/v1/models")
        assert status == 503, text
    finally:
        machine.succeed("systemctl start aistack.target", timeout=200)
    stack.check("ready")
    stack.check("recall", "--state", "/run/check-store.json")


def test_after_all_that_the_journal_is_clean_again(stack: Stack, machine: Machine) -> None:
    stack.check("ready")
    since = machine.cursor()
    stack.check("story", "--collection", "check-last")
    messages = stack.journal(since)
    assert messages
    assert complaints(messages, machine.engine.name) == []
