"""A real aidb on a unix socket, with a real PostgreSQL and the real embeddings service."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from aistack.dev.process import launch_command
from aistack.service.key_setup import KeyPaths
from aistack.service.keys import read_key
from fix_embeddings import EmbeddingsProcess
from fix_postgres import PostgresServer

#: A document is ingested in well under this on a busy two-core machine.
INGEST_SECONDS = 60.0
UNFINISHED = ("pending", "processing")


@dataclass(slots=True)
class AidbProcess:
    """`aistack serve aidb` on a socket of its own; may be killed and started again."""

    directory: Path
    keys: KeyPaths
    settings: dict[str, Any]
    dsn: str
    process: subprocess.Popen[bytes] | None = None
    log: Path = field(init=False)
    listener: socket.socket = field(init=False)

    def __post_init__(self) -> None:
        self.log = self.directory / "service.log"
        # Held here, as systemd and the supervisor hold it: nobody is refused while it restarts.
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(self.socket))
        self.listener.listen(128)

    @property
    def socket(self) -> Path:
        return self.directory / "aidb.sock"

    def client(self, **keywords: Any) -> httpx.Client:
        """A client with the default key, straight to the socket."""
        headers = {"authorization": f"Bearer {read_key(self.keys.default_key_file)}"}
        return httpx.Client(
            transport=httpx.HTTPTransport(uds=str(self.socket)),
            base_url="http://aidb",
            headers={**headers, **keywords.pop("headers", {})},
            timeout=keywords.pop("timeout", 60),
            **keywords,
        )

    def start(self, *, wait: bool = True) -> None:
        """Start the process; with `wait`, until `/readyz` is 200."""
        config = self.directory / "config.json"
        config.write_text(json.dumps(self.settings), encoding="utf-8")
        code = (
            "import sys; from pathlib import Path; from aistack.service.run import serve;"
            "sys.exit(serve('aidb', Path(sys.argv[1])))"
        )
        descriptor = self.listener.fileno()
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                launch_command([sys.executable, "-c", code, str(config)], listen=descriptor),
                stdout=log,
                stderr=subprocess.STDOUT,
                env={k: v for k, v in os.environ.items() if not k.startswith("AISTACK__")},
                pass_fds=(descriptor,),
            )
        if wait:
            self.wait_ready()

    def ready(self) -> bool:
        """Whether `/readyz` says 200."""
        try:
            with self.client(timeout=5) as client:
                return client.get("/readyz").status_code == 200
        except httpx.TransportError:
            return False

    def wait_ready(self, seconds: float = 60) -> None:
        """Poll `/readyz` with a deadline; fails at once when the process has ended."""
        process = self.process
        assert process is not None
        eventually(
            lambda: process.poll() is not None or self.ready(),
            seconds,
            lambda: f"not ready:\n{self.log.read_text()}",
        )
        assert process.poll() is None, self.log.read_text()

    def stop(self, number: int = signal.SIGTERM, seconds: float = 30) -> int:
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

    def upload(self, text: str, source: str, **members: Any) -> httpx.Response:
        """POST one text."""
        with self.client() as client:
            return client.post("/v1/documents", json={"text": text, "source": source, **members})

    def document(self, document_id: str) -> dict[str, Any]:
        """GET one document."""
        with self.client() as client:
            answer = client.get(f"/v1/documents/{document_id}")
        assert answer.status_code == 200, answer.text
        body: dict[str, Any] = answer.json()
        return body

    def settled(self, document_id: str, seconds: float = INGEST_SECONDS) -> dict[str, Any]:
        """The document once it is ready or failed."""
        eventually(
            lambda: self.document(document_id)["state"] not in UNFINISHED,
            seconds,
            lambda: f"{self.document(document_id)}\n{self.log.read_text()[-4000:]}",
        )
        return self.document(document_id)

    def rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """What the database itself says."""
        with psycopg.connect(self.dsn) as connection:
            return connection.execute(query.encode(), values).fetchall()

    def counts(self) -> dict[str, int]:
        """Rows of every table that documents leave anything in."""
        tables = ["documents", "document_contents", "document_texts", "chunks", "terms"]
        tables += ["postings", "procrastinate_jobs"]
        tables += [row[0] for row in self.rows("SELECT table_name FROM embedding_sets")]
        return {name: self.rows(f"SELECT count(*) FROM {name}")[0][0] for name in tables}


def eventually(
    holds: Callable[[], bool], seconds: float, otherwise: Callable[[], str] = lambda: "not in time"
) -> None:
    """Poll until `holds`; fails the test after `seconds`."""
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            pytest.fail(otherwise())
        time.sleep(0.03)


def check_statistics(rows: Callable[..., list[tuple[Any, ...]]]) -> None:
    """What BM25 stands on, counted again from the chunks; and every chunk has its vector."""
    assert (
        rows(
            "SELECT c.id, c.chunk_count, c.total_length FROM collections c EXCEPT"
            " SELECT c.id, count(k.id), coalesce(sum(k.term_count), 0)"
            " FROM collections c LEFT JOIN chunks k ON k.collection_id = c.id GROUP BY c.id"
        )
        == []
    )
    occurrences = (
        "SELECT k.collection_id, u.term, k.id, u.frequency, k.term_count FROM chunks k,"
        " unnest(k.terms, k.term_frequencies) AS u(term, frequency)"
    )
    stored = (
        "SELECT t.collection_id, t.term, p.chunk_id, p.frequency, p.length"
        " FROM postings p LEFT JOIN terms t ON t.id = p.term_id"
    )
    for one, other in ((occurrences, stored), (stored, occurrences)):
        assert rows(f"({one}) EXCEPT ALL ({other})") == []
    frequencies = "SELECT collection_id, term, document_frequency FROM terms"
    counted = f"SELECT collection_id, term, count(*) FROM ({occurrences}) o GROUP BY 1, 2"
    for one, other in ((frequencies, counted), (counted, frequencies)):
        assert rows(f"({one}) EXCEPT ALL ({other})") == []
    for (table,) in rows("SELECT table_name FROM embedding_sets WHERE state = 'active'"):
        assert rows(f"SELECT id FROM chunks EXCEPT SELECT chunk_id FROM {table}") == []
    assert (
        rows(
            "SELECT d.id FROM documents d WHERE d.chunk_count"
            " <> (SELECT count(*) FROM chunks k WHERE k.document_id = d.id)"
        )
        == []
    )


MakeAidb = Callable[..., AidbProcess]


@contextlib.contextmanager
def aidb_factory(
    server: PostgresServer, template: str, embeddings: EmbeddingsProcess
) -> Iterator[MakeAidb]:
    """Makes services that are not started yet, each with its own database."""
    made: list[AidbProcess] = []

    def make(*, database: str | None = None, **sections: dict[str, Any]) -> AidbProcess:
        # Not pytest's tmp_path: the path of a unix socket has at most 107 bytes.
        directory = Path(tempfile.mkdtemp(prefix="aid-"))
        name = database or server.create(template)
        keys = embeddings.keys
        settings: dict[str, Any] = {
            "auth": {
                "keys_file": str(keys.keys_file),
                "pepper_file": str(keys.pepper_file),
                "internal_key_file": str(keys.internal_key_file("aidb")),
            },
            "postgres": {"host": str(server.directory), "user": "postgres", "database": name},
            "redis": {"url": f"unix://{directory / 'redis.sock'}"},
            "peers": {"embeddings": embeddings.address},
        }
        for section, values in sections.items():
            settings[section] = {**settings.get(section, {}), **values}
        made.append(AidbProcess(directory, keys, settings, server.dsn(name)))
        return made[-1]

    try:
        yield make
    finally:
        for service in made:
            service.stop()
            service.listener.close()
            server.drop(str(service.settings["postgres"]["database"]))
            shutil.rmtree(service.directory)


@pytest.fixture
def make_aidb(
    postgres_server: PostgresServer,
    migrated_template: str,
    embeddings_service: EmbeddingsProcess,
) -> Iterator[MakeAidb]:
    """Makes aidb processes for one test."""
    with aidb_factory(postgres_server, migrated_template, embeddings_service) as make:
        yield make


@pytest.fixture(scope="module")
def aidb(
    postgres_server: PostgresServer,
    migrated_template: str,
    embeddings_service: EmbeddingsProcess,
) -> Iterator[AidbProcess]:
    """One running aidb for the tests of a module."""
    with aidb_factory(postgres_server, migrated_template, embeddings_service) as make:
        service = make()
        service.start()
        yield service
