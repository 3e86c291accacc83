"""The service under test: its own process, on a unix socket, on a core that is told."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aistack.service.key_setup import init_store
from aistack.service.keys import read_key
from aistack.stack import load_stack
from bench.embeddings.closed_loop import Address, closed_loop, once
from bench.embeddings.machine import CLIENT_CORE, ENCODER_CORE, pinned
from bench.embeddings.texts import embeddings_body, post

SERVE = (
    "import sys; from pathlib import Path; from aistack.service.run import serve;"
    "sys.exit(serve('embeddings', Path(sys.argv[1])))"
)
MODEL = "all-minilm-l6-v2"
#: Seconds for a first start, which makes the graph and, with `auto`, tries the encoders.
START_SECONDS = 120


@dataclass(frozen=True, slots=True)
class Service:
    """A running one."""

    pid: int
    address: Address
    key: str
    directory: Path

    def requests(self, parts: Sequence[Sequence[str]]) -> list[bytes]:
        """One request of `/v1/embeddings` for each part."""
        return [
            post("/v1/embeddings", embeddings_body(MODEL, part), key=self.key) for part in parts
        ]

    def send(self, requests: Sequence[bytes], *, connections: int) -> None:
        """Every request once. Raises SystemExit when one is not answered with 200."""
        load = closed_loop(self.address, requests, connections=connections, total=len(requests))
        if load.count() != len(requests):
            raise SystemExit(f"answers by status: {load.statuses()}")

    def get(self, path: str) -> tuple[int, bytes]:
        """Status and body."""
        return once(
            self.address,
            f"GET {path} HTTP/1.1\r\nhost: e\r\nauthorization: Bearer {self.key}\r\n\r\n".encode(),
        )


def lane_options(*cores: int) -> dict[str, Any]:
    """Options that put an encoder lane on each core."""
    return {"lanes": len(cores), "lane_cores": list(cores)}


@contextmanager
def running(
    state: Path,
    *,
    cores: Sequence[int] = (),
    port: int | None = None,
    options: Mapping[str, Any] | None = None,
    command: Sequence[str] = ("-c", SERVE),
    log_level: str = "warning",
    spans_to: str | None = None,
) -> Iterator[Service]:
    """The service until the end of the block; cache off.

    `state` keeps the made graph between services; `cores` are those of the whole process, by
    default the client's; the lane has the encoder's.
    `command` gets the path of the configuration as its last argument. With `port` it listens there
    and not on the socket. `spans_to`: the endpoint of a collector of spans.
    """
    directory = Path(tempfile.mkdtemp(prefix="aib-"))
    wanted = {**lane_options(ENCODER_CORE), **(options or {})}
    given = {name: value for name, value in wanted.items() if value is not None}
    where = cores or [CLIENT_CORE]
    keys = init_store(directory / "keys", load_stack())
    config = {
        "log": {"level": log_level},
        "tracing": {"endpoint": spans_to},
        "auth": {"keys_file": str(keys.keys_file), "pepper_file": str(keys.pepper_file)},
        "listen": {"port": port} if port else {"socket": str(directory / "s.sock")},
        "embeddings": {"state_dir": str(state), "cache_seconds": 0, **given},
    }
    path = directory / "config.json"
    path.write_text(json.dumps(config), encoding="utf-8")
    log = directory / "service.log"
    with log.open("wb") as handle, pinned(*where):
        process = subprocess.Popen(
            [sys.executable, *command, str(path)], stdout=handle, stderr=subprocess.STDOUT
        )
    service = Service(
        process.pid,
        ("127.0.0.1", port) if port else directory / "s.sock",
        read_key(keys.default_key_file),
        directory,
    )
    try:
        _wait(service, process, log)
        yield service
    finally:
        process.terminate()
        process.wait(30)
        shutil.rmtree(directory)


def _wait(service: Service, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        with suppress(OSError):
            if service.get("/readyz")[0] == 200:
                return
        time.sleep(0.05)
    raise SystemExit(f"the service did not start:\n{log.read_text(encoding='utf-8')[-4000:]}")


def all_cores() -> list[int]:
    """The cores of this machine that may be used."""
    return sorted(os.sched_getaffinity(0))
