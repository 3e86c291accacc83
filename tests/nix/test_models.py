"""The verified download of a model, against a server that misbehaves in the ways servers do."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "nix" / "fetch-model.py"
BODY = b"GGUF" + random.Random(7).randbytes(3 << 20)


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fetch_model", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["fetch_model"] = module
    spec.loader.exec_module(module)
    return module


fetch = _load()


@dataclass
class Answer:
    """What one request gets; the default is an honest server."""

    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    cut_after: int | None = None
    hang_after: int | None = None
    ranges: bool = True
    body: bytes = BODY
    location: str | None = None


class Mirror:
    """A server on 127.0.0.1 that gives its answers in turn, then honest ones."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.seen: list[tuple[str, str | None]] = []
        self.goes_on = threading.Event()
        mirror = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, format: str, *args: object) -> None:
                """Silent."""

            def do_GET(self) -> None:
                mirror.seen.append((self.path, self.headers["Range"]))
                mirror.answer(self, mirror.answers.pop(0) if mirror.answers else Answer())

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    def url(self, path: str = "/model.gguf") -> str:
        """The address of the file."""
        return f"http://127.0.0.1:{self.server.server_address[1]}{path}"

    def ranges(self) -> list[str | None]:
        """The Range header of each request, in order."""
        return [asked for _, asked in self.seen]

    def answer(self, handler: BaseHTTPRequestHandler, answer: Answer) -> None:
        """Send one answer."""
        handler.close_connection = True
        if answer.status is not None:
            handler.send_response(answer.status)
            for name, value in answer.headers.items():
                handler.send_header(name, value)
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return
        body, start = answer.body, 0
        asked = handler.headers["Range"]
        if asked and answer.ranges:
            start = int(asked.removeprefix("bytes=").rstrip("-"))
            if start >= len(body):
                handler.send_response(416)
                handler.send_header("Content-Range", f"bytes */{len(body)}")
                handler.send_header("Content-Length", "0")
                handler.end_headers()
                return
            handler.send_response(206)
            handler.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        else:
            handler.send_response(200)
        rest = body[start:]
        handler.send_header("Content-Length", str(len(rest)))
        handler.end_headers()
        stops = [stop for stop in (answer.cut_after, answer.hang_after) if stop is not None]
        handler.wfile.write(rest[: stops[0]] if stops else rest)
        handler.wfile.flush()
        if answer.hang_after is not None:
            self.goes_on.wait(30)

    def close(self) -> None:
        """Stop serving."""
        self.goes_on.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def mirror() -> Iterator[Mirror]:
    """A server of its own for each test."""
    made = Mirror()
    try:
        yield made
    finally:
        made.close()


def sri(body: bytes) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(body).digest()).decode()


def command(url: str, target: Path, *extra: str, digest: str | None = None) -> list[str]:
    return [
        *(sys.executable, str(SCRIPT), "--url", url, "--hash", digest or sri(BODY)),
        *("--to", str(target), "--pause", "0.01", "--stall", "30", "--tries", "4", *extra),
    ]


def run(url: str, target: Path, *extra: str, digest: str | None = None) -> tuple[int, str]:
    """The script as the unit runs it: its status and its lines."""
    done = subprocess.run(
        command(url, target, *extra, digest=digest),
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.stdout == ""
    return done.returncode, done.stderr


def leftovers(target: Path) -> list[str]:
    return sorted(path.name for path in target.parent.iterdir() if path != target)


def test_a_file_arrives_whole_readable_by_all_and_verified(mirror: Mirror, tmp_path: Path) -> None:
    target = tmp_path / "model.gguf"
    assert run(mirror.url(), target)[0] == 0
    assert target.read_bytes() == BODY
    assert target.stat().st_mode & 0o777 == 0o444
    assert leftovers(target) == ["model.gguf.verified"]
    assert mirror.ranges() == [None]


def test_a_file_in_place_costs_no_request_and_no_hashing(mirror: Mirror, tmp_path: Path) -> None:
    target = tmp_path / "model.gguf"
    run(mirror.url(), target)
    mirror.seen.clear()
    stat = target.stat()
    # The same size and time, other bytes: only one that does not read it can be content.
    target.chmod(0o644)
    target.write_bytes(b"x" * len(BODY))
    os.utime(target, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert run(mirror.url(), target)[0] == 0
    assert mirror.seen == []


def test_a_file_that_was_put_there_by_hand_is_hashed_once(mirror: Mirror, tmp_path: Path) -> None:
    target = tmp_path / "model.gguf"
    target.write_bytes(BODY)
    assert run(mirror.url(), target)[0] == 0
    assert mirror.seen == []
    assert json.loads((tmp_path / "model.gguf.verified").read_text())["size"] == len(BODY)


def test_a_damaged_file_in_place_is_replaced(mirror: Mirror, tmp_path: Path) -> None:
    target = tmp_path / "model.gguf"
    run(mirror.url(), target)
    target.chmod(0o644)
    target.write_bytes(BODY[:-1] + b"!")
    status, lines = run(mirror.url(), target)
    assert status == 0
    assert "is not the configured file" in lines
    assert target.read_bytes() == BODY


def test_cut_connections_go_on_where_they_broke_off(mirror: Mirror, tmp_path: Path) -> None:
    mirror.answers = [Answer(cut_after=1_000_000), Answer(cut_after=700_000), Answer()]
    target = tmp_path / "model.gguf"
    status, lines = run(mirror.url(), target)
    assert status == 0, lines
    assert target.read_bytes() == BODY
    assert mirror.ranges() == [None, "bytes=1000000-", "bytes=1700000-"]


def test_progress_starts_the_count_of_tries_anew(mirror: Mirror, tmp_path: Path) -> None:
    mirror.answers = [Answer(cut_after=100_000) for _ in range(12)]  # --tries is 4
    assert run(mirror.url(), tmp_path / "model.gguf")[0] == 0
    assert len(mirror.seen) == 13


def test_a_killed_download_goes_on_at_the_next_start(mirror: Mirror, tmp_path: Path) -> None:
    mirror.answers = [Answer(hang_after=2_000_000)]
    target = tmp_path / "model.gguf"
    part = tmp_path / "model.gguf.part"
    process = subprocess.Popen(command(mirror.url(), target), stderr=subprocess.DEVNULL)
    try:
        while not (part.exists() and part.stat().st_size):
            assert process.poll() is None
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    arrived = part.stat().st_size
    assert 0 < arrived <= 2_000_000
    assert run(mirror.url(), target)[0] == 0
    assert mirror.ranges() == [None, f"bytes={arrived}-"]
    assert target.read_bytes() == BODY


def test_a_download_that_was_killed_before_its_end_was_noticed(
    mirror: Mirror, tmp_path: Path
) -> None:
    (tmp_path / "model.gguf.part").write_bytes(BODY)
    assert run(mirror.url(), tmp_path / "model.gguf")[0] == 0
    assert mirror.ranges() == [f"bytes={len(BODY)}-"]


@pytest.mark.parametrize("rest", [BODY[:1000] + b"!" * 500, b"another file" * 10, BODY + b"more"])
def test_a_part_of_another_file_is_thrown_away(mirror: Mirror, tmp_path: Path, rest: bytes) -> None:
    (tmp_path / "model.gguf.part").write_bytes(rest)
    target = tmp_path / "model.gguf"
    status, lines = run(mirror.url(), target)
    assert status == 0, lines
    assert "begins anew" in lines
    assert target.read_bytes() == BODY


def test_a_server_without_ranges_begins_at_the_beginning(mirror: Mirror, tmp_path: Path) -> None:
    mirror.answers = [Answer(cut_after=1_000_000), Answer(ranges=False)]
    target = tmp_path / "model.gguf"
    assert run(mirror.url(), target)[0] == 0
    assert target.read_bytes() == BODY


def test_a_wrong_hash_is_refused_and_removed_for_good(mirror: Mirror, tmp_path: Path) -> None:
    target = tmp_path / "model.gguf"
    wrong = sri(b"something else")
    status, lines = run(mirror.url(), target, digest=wrong)
    assert status == fetch.WRONG  # RestartPreventExitStatus: no second download of gigabytes
    assert lines.count("\n") == 1
    assert wrong in lines
    assert sri(BODY) in lines
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("code", [401, 403, 404, 410])
def test_a_wrong_address_ends_it_at_once_with_one_line(
    mirror: Mirror, tmp_path: Path, code: int
) -> None:
    mirror.answers = [Answer(status=code)]
    status, lines = run(mirror.url(), tmp_path / "model.gguf")
    assert status == fetch.WRONG
    assert f"answers {code}" in lines
    assert mirror.url() in lines
    assert lines.count("\n") == 1
    assert len(mirror.seen) == 1


@pytest.mark.parametrize("code", [429, 500, 502, 503])
def test_a_server_in_trouble_is_asked_again(mirror: Mirror, tmp_path: Path, code: int) -> None:
    mirror.answers = [Answer(status=code), Answer(status=code)]
    assert run(mirror.url(), tmp_path / "model.gguf")[0] == 0
    assert len(mirror.seen) == 3


def test_the_servers_wish_to_wait_is_granted(
    mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror.answers = [Answer(status=503, headers={"Retry-After": "7"})]
    waited: list[float] = []
    monkeypatch.setattr(fetch.time, "sleep", waited.append)
    digest = hashlib.sha256(BODY).hexdigest()
    fetch.Download(mirror.url(), digest, tmp_path / "model.gguf", pause=0.01).run()
    assert waited == [7.0]


def test_pauses_grow_and_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr(fetch.time, "sleep", waited.append)
    monkeypatch.setattr(fetch.random, "uniform", lambda low, high: 1.0)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/x"
    download = fetch.Download(url, "0" * 64, tmp_path / "x", tries=6, longest_pause=8)
    with pytest.raises(fetch.Stop, match="6 tries without progress") as stop:
        download.run()
    assert stop.value.status == fetch.TRY_LATER
    assert waited == [1, 2, 4, 8, 8]


def test_a_server_that_stalls_is_left_and_resumed(mirror: Mirror, tmp_path: Path) -> None:
    mirror.answers = [Answer(hang_after=1_500_000)]
    status, lines = run(mirror.url(), tmp_path / "model.gguf", "--stall", "3")
    assert status == 0
    assert "nothing came for too long" in lines
    assert (tmp_path / "model.gguf").read_bytes() == BODY
    assert mirror.ranges()[1] == "bytes=1500000-"


def test_a_server_that_is_never_there_is_left_for_later(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/model.gguf"
    status, lines = run(url, tmp_path / "model.gguf")
    assert status == fetch.TRY_LATER
    assert lines.splitlines()[-1].endswith("4 tries without progress")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_does_not_fit_on_the_disk_is_not_begun(
    mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = fetch.SPARE + len(BODY) - 1
    monkeypatch.setattr(fetch.shutil, "disk_usage", lambda _: type("Usage", (), {"free": free})())
    digest = hashlib.sha256(BODY).hexdigest()
    with pytest.raises(fetch.Stop, match="free 1 bytes") as stop:
        fetch.Download(mirror.url(), digest, tmp_path / "model.gguf").run()
    assert stop.value.status == fetch.TRY_LATER
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full to fill up")
def test_a_disk_that_fills_up_is_named_and_nothing_is_in_place(
    mirror: Mirror, tmp_path: Path
) -> None:
    (tmp_path / "model.gguf.part").symlink_to("/dev/full")
    status, lines = run(mirror.url(), tmp_path / "model.gguf")
    assert status == fetch.TRY_LATER
    assert "No space left on device" in lines
    assert "model.gguf.part" in lines
    assert not (tmp_path / "model.gguf").exists()


def test_what_an_earlier_configuration_left_is_removed(mirror: Mirror, tmp_path: Path) -> None:
    for name in ("old.gguf", "old.gguf.verified", "older.gguf.part", "notes.txt"):
        (tmp_path / name).write_text("x")
    target = tmp_path / "model.gguf"
    assert run(mirror.url(), target)[0] == 0
    assert leftovers(target) == ["model.gguf.verified", "notes.txt"]


def test_redirects_keep_the_range(mirror: Mirror, tmp_path: Path) -> None:
    to = {"Location": mirror.url("/elsewhere")}
    mirror.answers = [
        Answer(status=302, headers=to),
        Answer(cut_after=1_000_000),
        Answer(status=302, headers=to),
    ]
    assert run(mirror.url(), tmp_path / "model.gguf")[0] == 0
    assert mirror.seen[-1] == ("/elsewhere", "bytes=1000000-")


def test_progress_is_shown_to_systemd(
    mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(address))
        manager.settimeout(10)
        monkeypatch.setenv("NOTIFY_SOCKET", str(address))
        digest = hashlib.sha256(BODY).hexdigest()
        folder = tmp_path / "models"
        folder.mkdir()
        fetch.Download(mirror.url(), digest, folder / "model.gguf").run()
        assert manager.recv(100).startswith(b"STATUS=0.00 of 0.00 GB")


@pytest.mark.parametrize("text", ["sha256-short", "md5-abc", "A" * 64, ""])
def test_a_hash_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    status, lines = run("http://127.0.0.1:1/x", tmp_path / "x", digest=text or "x")
    assert status == 2
    assert "neither sha256-" in lines
