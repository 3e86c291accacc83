"""Qdrant for tests: the test server over the embedded engine, or a real one at QDRANT_URL.

With QDRANT_URL (and QDRANT_API_KEY) the fixture `qdrant` is that server: give one that nobody else
uses, collections named `aistack_…` are deleted from it. It cannot be killed, so that the tests that
kill are skipped there.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from qdrant_client import AsyncQdrantClient

START_SECONDS = 30.0
TESTS = Path(__file__).parent


def client_of(url: str, key: str | None) -> AsyncQdrantClient:
    """The unchanged client, over REST."""
    with warnings.catch_warnings():
        # A key over plain HTTP on loopback.
        warnings.filterwarnings("ignore", "Api key is used with an insecure connection")
        return AsyncQdrantClient(url=url, api_key=key, check_compatibility=False, timeout=30)


@dataclass(slots=True)
class QdrantServer:
    """Where a server is; what is done to its process only a `QdrantShim` can."""

    url: str
    key: str | None
    key_file: Path | None = None

    def settings(self) -> dict[str, Any]:
        """How aidb is told of it: `vectors.qdrant`."""
        told: dict[str, Any] = {"url": self.url}
        if self.key_file is not None:
            told["api_key_file"] = str(self.key_file)
        return told

    def client(self) -> AsyncQdrantClient:
        """A client of its own; close it."""
        return client_of(self.url, self.key)

    def wipe(self) -> None:
        """Delete what tests have made; from wherever, an event loop may be running."""
        with httpx.Client(base_url=self.url, headers={"api-key": self.key or ""}) as plain:
            told = plain.get("/collections").raise_for_status().json()["result"]["collections"]
            for name in [one["name"] for one in told]:
                if name.startswith("aistack_"):
                    plain.delete(f"/collections/{name}").raise_for_status()


@dataclass(slots=True)
class QdrantShim(QdrantServer):
    """A process of `qdrant_shim` on a port and a directory that it keeps over restarts."""

    directory: Path = Path()
    process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> Path:
        """What the process wrote."""
        return self.directory / "log"

    @property
    def pid(self) -> int:
        """Of the process that runs."""
        assert self.process is not None, "started"
        return self.process.pid

    def start(self) -> None:
        """Start on the same port and data, and wait until it is ready."""
        command = [
            *(sys.executable, "-m", "qdrant_shim", "--data", str(self.directory)),
            *("--port", self.url.rsplit(":", 1)[1]),
        ]
        environment = {**os.environ, "PYTHONPATH": str(TESTS)}
        environment["QDRANT__SERVICE__API_KEY"] = self.key or ""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        end = time.monotonic() + START_SECONDS
        while not self.ready():
            if self.process.poll() is not None:
                raise RuntimeError(f"the server ended: {self.log.read_text()}")
            if time.monotonic() > end:
                self.kill()
                raise TimeoutError("the server was not ready in time")
            time.sleep(0.02)

    def ready(self) -> bool:
        """Whether /readyz says 200."""
        try:
            return httpx.get(f"{self.url}/readyz", timeout=5).status_code == 200
        except httpx.TransportError:
            return False

    def kill(self) -> None:
        """kill -9: nothing is flushed and nobody is told."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """An orderly end."""
        self._end(signal.SIGTERM)

    def _end(self, how: signal.Signals) -> None:
        if self.process is None:
            return
        self.process.send_signal(how)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None

    def made_by(self, collection: str) -> dict[str, Any]:
        """The body that made a collection, as it came over the wire."""
        path = self.directory / "collections" / collection / "collection.json"
        return dict(json.loads(path.read_bytes()))


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        return int(reserved.getsockname()[1])


def kept_key(directory: Path, key: str | None) -> Path | None:
    """A file with the key, as aidb reads it."""
    if not key:
        return None
    path = directory / "api-key"
    path.write_text(key)
    path.chmod(0o600)
    return path


def started(directory: Path, key: str | None = None) -> QdrantShim:
    """A server on `directory`, running."""
    server = QdrantShim(
        f"http://127.0.0.1:{free_port()}", key, kept_key(directory, key), directory=directory
    )
    server.start()
    return server


@pytest.fixture(scope="session")
def qdrant_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[QdrantServer]:
    """The session's server: the one of QDRANT_URL, else the test server."""
    if url := os.environ.get("QDRANT_URL"):
        key = os.environ.get("QDRANT_API_KEY")
        kept = kept_key(tmp_path_factory.mktemp("qdrant"), key)
        yield QdrantServer(url.rstrip("/"), key, kept)
        return
    with tempfile.TemporaryDirectory(prefix="qdrant-") as directory:
        server = started(Path(directory))
        try:
            yield server
        finally:
            server.stop()


@pytest.fixture
def qdrant(qdrant_server: QdrantServer) -> Iterator[QdrantServer]:
    """The session's server, without what a test before has left."""
    qdrant_server.wipe()
    yield qdrant_server
    qdrant_server.wipe()


@pytest.fixture
def qdrant_shim(tmp_path: Path) -> Iterator[QdrantShim]:
    """A test server of one's own, to kill and start again."""
    if os.environ.get("QDRANT_URL"):
        pytest.skip("QDRANT_URL is a real server, which no test may kill")
    server = started(tmp_path)
    try:
        yield server
    finally:
        server.kill()


@pytest.fixture
async def qdrant_client(qdrant: QdrantServer) -> AsyncIterator[AsyncQdrantClient]:
    """The unchanged client, over the session's server."""
    client = qdrant.client()
    try:
        yield client
    finally:
        await client.close()
