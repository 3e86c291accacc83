"""The stack under test, and ways into it: its services' sockets, its database, its model."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import socket
import statistics
import time
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import psutil
import psycopg

from aistack.aidb.search import QueryEncoder, Searcher
from aistack.aidb.search_cache import SearchCache
from aistack.clients.postgres import Postgres
from aistack.config import AidbConfig, Config, load_config
from aistack.dev.paths import Paths
from bench.stack import up

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Stand:
    """A running stack; `pid` is its supervisor's, `aidb` and `embeddings` are configurations."""

    pid: int
    paths: Paths
    key: str
    base_url: str
    aidb: Config
    embeddings: Config

    def cpu_seconds(self, pid: int | None = None) -> float:
        """What all of its processes have used so far, or `pid` and those below it; in hundredths.

        Those that have ended are counted too.
        """
        total = 0.0
        root = psutil.Process(pid or self.pid)
        for one in (root, *root.children(recursive=True)):
            total += sum(one.cpu_times()[:4])
        return total

    def route(self, socket_path: Path | None = None) -> Route:
        """To aidb itself, or to another service of the kit."""
        return Route(socket_path or self.paths.socket("aidb"), self.key)

    def database(self) -> psycopg.Connection[tuple[Any, ...]]:
        """Its own connection, every statement a transaction."""
        found = self.aidb.postgres
        return psycopg.connect(
            host=found.host, port=found.port, user=found.user, dbname=found.database,
            autocommit=True,
        )  # fmt: skip


@contextmanager
def standing(data: Path, config: Path | None = None) -> Iterator[Stand]:
    """The real `aistack up` on a data directory, until the end of the block."""
    with up(data, config) as said:
        paths = Paths(data, Path(said["run_dir"]))
        yield Stand(
            int(said["pid"]),
            paths,
            Path(said["key_file"]).read_text(encoding="utf-8").strip(),
            said["base_url"],
            load_config(paths.config("aidb")),
            load_config(paths.config("embeddings")),
        )


class Route:
    """One kept connection to a unix socket, with a key."""

    def __init__(self, path: Path, key: str) -> None:
        self._connection = _Unix(path)
        self._headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}

    def post(self, path: str, body: bytes) -> tuple[float, bytes]:
        """Seconds and the body of a good answer. Raises SystemExit for any other."""
        began = time.perf_counter()
        self._connection.request("POST", path, body, self._headers)
        response = self._connection.getresponse()
        answer = response.read()
        seconds = time.perf_counter() - began
        if response.status != 200:
            raise SystemExit(f"{path}: HTTP {response.status} {answer[:300]!r}")
        return seconds, answer

    def close(self) -> None:
        """The connection."""
        self._connection.close()


class _Unix(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("aidb")
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.connect(str(self._path))


class InProcess:
    """The same statements in this process: the service's own searcher, its cache off."""

    def __init__(self, stand: Stand, encoder: QueryEncoder) -> None:
        self._stand = stand
        self._encoder = encoder
        self._runner = asyncio.Runner()
        self._postgres = Postgres(stand.aidb.postgres)
        self.run(self._postgres.open())

    def searcher(self, **settings: Any) -> Searcher:
        """With the service's configuration but for `settings`."""
        given = {**self._stand.aidb.aidb.model_dump(), "cache_seconds": 0, **settings}
        config = AidbConfig(**given)
        cache = SearchCache(self._postgres, config)
        return Searcher(self._postgres, self._encoder, cache, config)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """On one event loop."""
        return self._runner.run(work)

    def close(self) -> None:
        """The pool and the loop."""
        self.run(self._postgres.aclose())
        self._runner.close()


def body(query: str, collection: str, **more: Any) -> bytes:
    """Of a search."""
    return json.dumps({"query": query, "collection": collection, **more}).encode()


def quantile(values: Sequence[float], share: float) -> float:
    """Nearest rank."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def milliseconds(values: Sequence[float]) -> Mapping[str, float]:
    """p50 and p95 of seconds."""
    return {"p50": statistics.median(values) * 1000, "p95": quantile(values, 0.95) * 1000}


def cache_directory() -> Path:
    """Where made collections are kept between runs: $AISTACK_BENCH_DIR, else below ~/.cache."""
    given = os.environ.get("AISTACK_BENCH_DIR")
    return Path(given) if given else Path.home() / ".cache" / "aistack-bench"
