"""The kit in a real process: the socket that was handed over, the watchdog, the drain."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from aistack.service.key_setup import KeyPaths, init_store
from aistack.service.run import YOUNG_OBJECTS
from aistack.stack import load_stack

TOY = Path(__file__).with_name("toy_service.py")
WATCHDOG_SECONDS = 0.3


class Toy:
    """The process, its supervisor's end of things, and a client."""

    def __init__(self, directory: Path) -> None:
        self.paths: KeyPaths = init_store(directory / "keys", load_stack())
        self.directory = directory
        self.config = directory / "config.json"
        self.config.write_text(
            json.dumps(
                {
                    "auth": {
                        "keys_file": str(self.paths.keys_file),
                        "pepper_file": str(self.paths.pepper_file),
                    }
                }
            )
        )
        self.notices = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notices.bind(str(directory / "notify"))
        self.notices.settimeout(30)
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.bind(str(directory / "toy.sock"))
        self.listener.listen(64)
        self.process = self.spawn()

    def spawn(self) -> subprocess.Popen[bytes]:
        code = (
            "import os, sys; fd = int(sys.argv[1]); os.dup2(fd, 3); os.set_inheritable(3, True);"
            " os.environ['LISTEN_PID'] = str(os.getpid());"
            " os.execv(sys.executable, [sys.executable, *sys.argv[2:]])"
        )
        return subprocess.Popen(
            [sys.executable, "-c", code, str(self.listener.fileno()), str(TOY), str(self.config)],
            pass_fds=(self.listener.fileno(),),
            env={
                **os.environ,
                "LISTEN_FDS": "1",
                "NOTIFY_SOCKET": str(self.directory / "notify"),
                "WATCHDOG_USEC": str(int(WATCHDOG_SECONDS * 1e6)),
            },
            stderr=subprocess.PIPE,
        )

    def start_again(self, **sections: dict[str, Any]) -> None:
        """Another process, with more of a configuration."""
        self.process.kill()
        self.process.communicate()
        self.config.write_text(json.dumps(json.loads(self.config.read_text()) | sections))
        self.process = self.spawn()
        self.wait_for("READY=1")

    def client(self) -> httpx.Client:
        return httpx.Client(
            transport=httpx.HTTPTransport(uds=str(self.directory / "toy.sock")),
            base_url="http://localhost",
            headers={"authorization": f"Bearer {self.paths.default_key_file.read_text()}"},
            timeout=30,
        )

    def wait_for(self, line: str) -> None:
        """Reads notices until `line`; the socket's timeout fails the test."""
        while line not in self.notices.recv(4096).decode().split("\n"):
            pass

    def fed_within(self, seconds: float) -> int:
        """How many keep-alives come within `seconds`."""
        count, end = 0, time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.notices.settimeout(left)
            try:
                count += "WATCHDOG=1" in self.notices.recv(4096).decode().split("\n")
            except TimeoutError:
                break
        self.notices.settimeout(30)
        return count

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()
        self.notices.close()
        self.listener.close()


@pytest.fixture
def toy(tmp_path: Path) -> Iterator[Toy]:
    found = Toy(tmp_path)
    try:
        found.wait_for("READY=1")
        yield found
    finally:
        found.close()


def test_watchdog_is_fed_while_all_is_well(toy: Toy) -> None:
    assert toy.fed_within(WATCHDOG_SECONDS * 4) >= 3


def test_watchdog_starves_when_the_worker_hangs(toy: Toy) -> None:
    with toy.client() as http:
        assert http.post("/embed/hang-worker").status_code == 200
        toy.fed_within(WATCHDOG_SECONDS)  # what was on its way
        assert toy.fed_within(WATCHDOG_SECONDS * 4) == 0
        assert http.get("/livez").status_code == 200
        metrics = http.get("/metrics").text
        found = re.search(r"^aistack_watchdog_skipped_total (\S+)$", metrics, re.MULTILINE)
        assert found is not None
        assert float(found[1]) >= 1


def test_watchdog_starves_when_the_event_loop_hangs(toy: Toy) -> None:
    def hang() -> None:
        with toy.client() as http, pytest.raises(httpx.TransportError):
            http.post("/embed/hang-loop")

    thread = threading.Thread(target=hang)
    thread.start()
    toy.fed_within(WATCHDOG_SECONDS * 3)
    assert toy.fed_within(WATCHDOG_SECONDS * 4) == 0
    toy.process.kill()
    thread.join()


def test_drain_finishes_what_runs_and_the_next_process_takes_over(toy: Toy) -> None:
    answers: list[httpx.Response] = []

    def get(path: str) -> threading.Thread:
        def run() -> None:
            with toy.client() as http:
                answers.append(http.get(path))

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    slow = get("/embed/slow")
    with toy.client() as http:
        assert http.get("/embed/entered").status_code == 200
    toy.process.send_signal(signal.SIGTERM)
    toy.wait_for("STOPPING=1")
    (toy.directory / "release").touch()
    slow.join(30)
    assert answers[0].json() == {"done": True}
    assert answers[0].headers["connection"] == "close"
    assert toy.process.wait(30) == 0
    # The socket is the supervisor's: a client that comes now waits for the next process.
    waiting = get("/livez")
    first, toy.process = toy.process, toy.spawn()
    first.communicate()
    waiting.join(30)
    assert answers[1].status_code == 200


def test_what_the_start_has_made_costs_no_collection(toy: Toy) -> None:
    with toy.client() as http:
        found = http.get("/embed/spared").json()
    assert found["spared"] > 10 * found["looked_at"]
    assert found["young"] == YOUNG_OBJECTS


def test_drain_has_a_deadline(toy: Toy) -> None:
    toy.start_again(limits={"drain_seconds": 1})

    def slow() -> None:
        with toy.client() as http:
            answers.append(http.get("/embed/slow"))

    answers: list[httpx.Response] = []
    thread = threading.Thread(target=slow)
    thread.start()
    with toy.client() as http:
        assert http.get("/embed/entered").status_code == 200
    toy.process.send_signal(signal.SIGTERM)
    assert toy.process.wait(30) == 0
    thread.join(30)
    assert answers[0].status_code == 503
    assert answers[0].headers["retry-after"] == "2"


def test_a_collector_that_does_not_answer_holds_up_no_stop(toy: Toy) -> None:
    path = toy.directory / "otlp.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as deaf:
        deaf.bind(str(path))
        deaf.listen()
        toy.start_again(tracing={"endpoint": f"unix:{path}"})
        with toy.client() as http:
            assert http.get("/embed/nothing").status_code == 404
        toy.process.send_signal(signal.SIGTERM)
        said = toy.process.communicate(timeout=30)[1].decode()
    assert toy.process.returncode == 0, said
    events = [json.loads(line)["event"] for line in said.splitlines()]
    # The exporter would have gone on for ten seconds, with nobody to feed the watchdog.
    assert events[-2:] == ["spans_lost", "stopped"]
