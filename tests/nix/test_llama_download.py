"""The download at the start, on a real systemd: the rendered units, their order and their ends.

systemd runs as a user's manager, so the units are rendered without their confinement; that they
work with it is the system test's matter.
"""

from __future__ import annotations

import base64
import hashlib
import re
import sys
import tempfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pytest

from nix.required import needed
from nix.toolchain import Nix
from nix.user_systemd import Manager, manager

SCRIPTS = Path(__file__).resolve().parents[2] / "nix"
MODEL = "aistack-model-chat.service"
LLAMA = "aistack-llama-chat.service"
BODY = b"GGUF" + bytes(range(256)) * 4000
#: What a user's manager can do of the units.
KEPT = {
    "Description", "After", "OnSuccess", "ConditionPathExists", "StartLimitIntervalSec", "Type",
    "ExecStart", "ExecStartPost", "Restart", "RestartSec", "RestartPreventExitStatus",
    "TimeoutStartSec", "TimeoutStopSec", "UMask",
}  # fmt: skip
#: In place of llama-server: it answers /health, which is all that its unit needs of it.
SERVER = """\
#!{python}
import http.server, socketserver, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()
    def log_message(self, *words):
        pass
    def address_string(self):
        return "client"
class Server(socketserver.UnixStreamServer):
    pass
Server(sys.argv[sys.argv.index("--host") + 1], Handler).serve_forever()
"""


class Mirror(ThreadingHTTPServer):
    """Serves the model; waits first until the test lets it."""

    def __init__(self) -> None:
        self.asked = 0
        self.let = threading.Event()
        mirror = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                mirror.asked += 1
                mirror.let.wait(30)
                self.send_response(200)
                self.send_header("Content-Length", str(len(BODY)))
                self.end_headers()
                self.wfile.write(BODY)

            def log_message(self, format: str, *args: object) -> None:
                """Silent."""

        super().__init__(("127.0.0.1", 0), Handler)


@pytest.fixture
def mirror() -> Iterator[Mirror]:
    """A server on loopback."""
    with Mirror() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.let.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def folder() -> Iterator[Path]:
    """Short, because paths of sockets are."""
    with tempfile.TemporaryDirectory(prefix="llama-", ignore_cleanup_errors=True) as made:
        yield Path(made)


def sri(body: bytes) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(body).digest()).decode()


def units(nix_tool: Nix, mirror: Mirror, folder: Path, digest: str) -> dict[str, str]:
    """Both units with this machine's programs and folders, and the target that wants them."""
    (folder / "models").mkdir()
    (folder / "r").mkdir()
    server = folder / "llama-server"
    server.write_text(SERVER.format(python=sys.executable))
    server.chmod(0o755)
    url = f"http://127.0.0.1:{mirror.server_address[1]}/m.gguf"
    host = nix_tool.host(
        '{ services.aistack.enable = true; system.stateVersion = "26.05";'
        " services.aistack.llama.instances.chat = {"
        f' url = "{url}"; hash = "{digest}"; fetch = "start"; startTimeout = 30; }}; }}'
    )
    here = {
        r'"/nix/store/[^"]*-python3-[^"]*/bin/python3"': f'"{sys.executable}"',
        r'"/nix/store/[^"]*-fetch-model\.py"': f'"{SCRIPTS}/fetch-model.py"',
        r'"/nix/store/[^"]*-llama-guard\.py"': f'"{SCRIPTS}/llama-guard.py"',
        r'"/nix/store/[^"]*/bin/llama-server"': f'"{server}"',
        r"/var/lib/aistack-models/chat": f"{folder}/models",
        r"/run/aistack-llama-chat": f"{folder}/r",
    }
    found = {"aistack.target": f"[Unit]\nWants={MODEL} {LLAMA}\n"}
    rendered = nix_tool.eval_json(f"{host}.config.system.build.units")
    for name in (MODEL, LLAMA):
        text = "".join(
            line + "\n"
            for line in rendered[name].partition("[Install]")[0].splitlines()
            if line.startswith("[") or line.partition("=")[0] in KEPT
        )
        for there, replacement in here.items():
            text = re.sub(there, replacement, text)
        assert "/nix/store" not in text
        found[name] = text
    return found


def test_no_process_outlives_the_manager(folder: Path) -> None:
    """Not even one that has left its unit's session and ignores what it is told."""
    mark = folder / "alive"
    stubborn = f"trap '' TERM HUP; echo $$ > {mark}; while :; do sleep 9999; done"
    (folder / "stubborn").write_text(f"#!/bin/sh\n{stubborn}\n")
    (folder / "stubborn").chmod(0o755)
    line = f"ExecStart=/bin/sh -c 'setsid {folder}/stubborn & exec sleep 9999'"
    made = {"a.service": f"[Service]\n{line}\n"}
    with needed(), manager(folder, made, "a.service") as systemd:
        systemd.until(lambda: mark.exists() and mark.read_text() != "")
        assert running(folder) != []
    assert running(folder) == []


def running(folder: Path) -> list[int]:
    """Processes whose command line names the folder."""
    return [
        p.pid
        for p in psutil.process_iter(["cmdline"])
        if str(folder) in " ".join(p.info["cmdline"] or [])
    ]


def started(systemd: Manager, unit: str) -> bool:
    return systemd.show(unit, "ActiveState") == "active"


def test_the_server_is_skipped_then_started_by_the_end_of_the_download(
    nix_tool: Nix, mirror: Mirror, folder: Path
) -> None:
    made = units(nix_tool, mirror, folder, sri(BODY))
    with needed(), manager(folder, made, "aistack.target") as systemd:
        systemd.until(lambda: mirror.asked == 1)
        # The boot has not waited: everything is up but the server, and nothing has failed.
        systemd.until(lambda: started(systemd, "aistack.target"))
        assert started(systemd, MODEL)
        assert systemd.show(LLAMA, "ConditionResult") == "no"
        assert systemd.show(LLAMA, "ActiveState") == "inactive"
        mirror.let.set()
        systemd.until(lambda: started(systemd, LLAMA))
        assert systemd.show(MODEL, "Result") == "success"
        assert (folder / "models/m.gguf").read_bytes() == BODY
        assert mirror.asked == 1


def test_at_the_next_boot_nothing_is_downloaded(
    nix_tool: Nix, mirror: Mirror, folder: Path
) -> None:
    made = units(nix_tool, mirror, folder, sri(BODY))
    (folder / "models/m.gguf").write_bytes(BODY)
    with needed(), manager(folder, made, "aistack.target") as systemd:
        systemd.until(lambda: started(systemd, LLAMA))
        systemd.until(lambda: systemd.show(MODEL, "ActiveState") == "inactive")
        assert systemd.show(MODEL, "Result") == "success"
    assert mirror.asked == 0


def test_a_wrong_file_fails_the_download_once_and_starts_nothing(
    nix_tool: Nix, mirror: Mirror, folder: Path
) -> None:
    made = units(nix_tool, mirror, folder, sri(b"another"))
    mirror.let.set()
    with needed(), manager(folder, made, "aistack.target") as systemd:
        systemd.until(lambda: systemd.show(MODEL, "ActiveState") == "failed")
        assert systemd.show(MODEL, "ExecMainStatus") == "78"
        assert systemd.show(MODEL, "SubState") == "failed"  # not auto-restart
        assert started(systemd, "aistack.target")
        assert systemd.show(LLAMA, "ActiveState") == "inactive"
    assert mirror.asked == 1
    assert list((folder / "models").iterdir()) == []


def test_nobody_waits_for_a_model_that_loads(nix_tool: Nix, mirror: Mirror, folder: Path) -> None:
    """The target is up while the server does not answer yet, and the server is left alone."""
    made = units(nix_tool, mirror, folder, sri(BODY))
    (folder / "models/m.gguf").write_bytes(BODY)
    server = folder / "llama-server"
    first, _, rest = server.read_text().partition("\n")
    late = f"import os, time\nwhile not os.path.exists('{folder}/let'):\n    time.sleep(0.1)\n"
    server.write_text(f"{first}\n{late}{rest}")
    with needed(), manager(folder, made, "aistack.target") as systemd:
        systemd.until(lambda: started(systemd, "aistack.target"))
        systemd.until(lambda: started(systemd, LLAMA))
        assert not (folder / "r/llama.sock").exists()
        (folder / "let").touch()
        systemd.until(lambda: (folder / "r/llama.sock").exists())
        assert started(systemd, LLAMA)
        assert systemd.show(LLAMA, "NRestarts") == "0"


def test_a_model_that_is_none_fails_the_server_alone(
    nix_tool: Nix, mirror: Mirror, folder: Path
) -> None:
    made = units(nix_tool, mirror, folder, sri(BODY))
    (folder / "models/m.gguf").write_text("<!doctype html>")
    made[LLAMA] = made[LLAMA].replace("RestartSec=500ms", "RestartSec=10ms")
    made["aistack.target"] = f"[Unit]\nWants={LLAMA}\n"
    with needed(), manager(folder, made, "aistack.target") as systemd:
        systemd.until(lambda: systemd.show(LLAMA, "ActiveState") == "failed")
        assert systemd.show(LLAMA, "ExecMainStatus") == "78"
        assert systemd.show(LLAMA, "NRestarts") == "0"
        systemd.until(lambda: started(systemd, "aistack.target"))
