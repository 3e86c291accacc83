"""Accepted means kept: whatever dies while documents are ingested, none is lost or doubled."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator

import httpx
import psycopg
import pytest

from aistack import migrations
from fix_aidb import AidbProcess, MakeAidb, aidb_factory, check_statistics, eventually
from fix_embeddings import EmbeddingsProcess, MakeEmbeddings
from fix_postgres import PostgresServer, newest_binaries, running_server

RECOVERY_SECONDS = 120.0


def body_of(number: int, edition: int = 1) -> str:
    """Several chunks of text that no other document has."""
    line = f"Document {number} in edition {edition} speaks of subject{number} and of lakes. "
    return "\n\n".join(f"# Part {part}\n\n" + line * 12 for part in range(4))


class Uploader(threading.Thread):
    """Uploads until it is told to stop; remembers what was acknowledged, in which edition."""

    def __init__(self, service: AidbProcess) -> None:
        super().__init__(daemon=True)
        self.service = service
        self.acknowledged: dict[str, tuple[str, int]] = {}
        self.statuses: set[int] = set()
        self.without_retry_after = 0
        self._ended = threading.Event()

    def run(self) -> None:
        number = 0
        while not self._ended.is_set():
            number += 1
            # Every third upload is a new edition of an earlier document.
            source = f"s{number - 2 if number % 3 == 0 else number}"
            edition = self.acknowledged.get(source, ("", 0))[1] + 1
            try:
                answer = self.service.upload(body_of(number, edition), source)
            except httpx.TransportError:
                self._ended.wait(0.05)
                continue
            self.statuses.add(answer.status_code)
            if answer.status_code in (429, 503) and "retry-after" not in answer.headers:
                self.without_retry_after += 1
            if answer.status_code == 202:
                self.acknowledged[source] = (answer.json()["id"], answer.json()["version"])
            self._ended.wait(0.02)

    def more_than(self, count: int) -> Callable[[], bool]:
        """Whether that many were acknowledged since now."""
        wanted = len(self.acknowledged) + count
        return lambda: len(self.acknowledged) > wanted

    def end(self) -> None:
        self._ended.set()
        self.join(60)


def check_whole(service: AidbProcess, uploader: Uploader) -> None:
    """Every acknowledged document is there once, ready, in its last acknowledged edition."""
    eventually(
        lambda: (
            not service.rows(
                "SELECT 1 FROM documents WHERE state IN ('pending', 'processing') LIMIT 1"
            )
        ),
        RECOVERY_SECONDS,
        lambda: f"{service.rows('SELECT source, state, error, job_id FROM documents')[:20]}",
    )
    rows = service.rows("SELECT source, id, version, ready_version, state FROM documents")
    found = {source: (str(name), *others) for source, name, *others in rows}
    assert len(found) == len(rows)
    for source, (name, version) in uploader.acknowledged.items():
        assert found[source][0] == name
        assert found[source][1] >= version
    assert {(ready == version, state) for _, version, ready, state in found.values()} == {
        (True, "ready")
    }
    check_statistics(service.rows)
    # One edition per document: a text of two would show in the chunks.
    assert (
        service.rows(
            "SELECT document_id FROM chunks GROUP BY 1 HAVING"
            " count(DISTINCT (regexp_match(text, 'in edition (\\d+)'))[1]) > 1"
        )
        == []
    )
    assert uploader.without_retry_after == 0
    assert uploader.statuses <= {200, 202, 429, 503}


@pytest.mark.chaos
def test_kill_9_of_aidb_while_ingesting(make_aidb: MakeAidb) -> None:
    service = make_aidb()
    service.start()
    uploader = Uploader(service)
    uploader.start()
    for _ in range(3):
        eventually(uploader.more_than(8), 60)
        service.stop(signal.SIGKILL)
        service.start()
    uploader.end()
    check_whole(service, uploader)


@pytest.fixture
def durable_server() -> Iterator[PostgresServer]:
    bindir = newest_binaries()
    if bindir is None:
        pytest.skip("no PostgreSQL")
    with running_server(bindir) as server:
        server.control("-m", "fast", "-w", "stop")
        server.start(options="")
        yield server


@pytest.mark.chaos
def test_kill_9_of_postgres_while_ingesting(
    durable_server: PostgresServer, embeddings_service: EmbeddingsProcess
) -> None:
    template = durable_server.create()
    migrations.upgrade(durable_server.dsn(template))
    with aidb_factory(durable_server, template, embeddings_service) as make:
        service = make()
        service.start()
        assert service.process is not None
        pid = service.process.pid
        uploader = Uploader(service)
        uploader.start()
        for _ in range(2):
            eventually(uploader.more_than(8), 60)
            postmaster = durable_server.pid()
            os.kill(postmaster, signal.SIGKILL)
            eventually(lambda: 503 in uploader.statuses, 30)
            restart(durable_server)
            eventually(service.ready, 60)
        uploader.end()
        check_whole(service, uploader)
        assert service.process.poll() is None
        assert service.process.pid == pid


def restart(server: PostgresServer) -> None:
    """Start again, once the children of the killed postmaster are gone."""
    end = time.monotonic() + 60
    while True:
        try:
            server.start(options="")
        except subprocess.CalledProcessError:
            if time.monotonic() > end:
                raise
            time.sleep(0.2)
        else:
            return


@pytest.mark.chaos
def test_without_the_embeddings_service_documents_wait_and_say_for_what(
    make_aidb: MakeAidb, make_embeddings: MakeEmbeddings
) -> None:
    embeddings = make_embeddings()
    embeddings.start()
    keys = embeddings.keys
    service = make_aidb(
        peers={"embeddings": embeddings.address},
        auth={
            "keys_file": str(keys.keys_file),
            "pepper_file": str(keys.pepper_file),
            "internal_key_file": str(keys.internal_key_file("aidb")),
        },
    )
    service.keys = keys
    service.start()
    first = service.upload(body_of(1), "first").json()["id"]
    assert service.settled(first)["state"] == "ready"
    embeddings.stop(signal.SIGKILL)
    accepted = service.upload(body_of(2), "second")
    assert accepted.status_code == 202
    second = accepted.json()["id"]
    eventually(
        lambda: "embeddings" in (service.document(second)["error"] or ""),
        60,
        lambda: str(service.document(second)),
    )
    waiting = service.document(second)
    assert waiting["state"] == "pending"
    assert waiting["job"]["state"] in ("todo", "doing")
    assert service.rows("SELECT count(*) FROM chunks WHERE document_id = %s", second) == [(0,)]
    assert service.ready()
    embeddings.start()
    assert service.settled(second, 90)["state"] == "ready"
    check_statistics(service.rows)


def test_a_drain_gives_the_work_back(make_aidb: MakeAidb) -> None:
    service = make_aidb(aidb={"workers": 1})
    service.start()
    names = [service.upload(body_of(n), f"s{n}").json()["id"] for n in range(12)]
    assert service.stop(signal.SIGTERM) == 0
    assert service.rows("SELECT count(*) FROM procrastinate_workers") == [(0,)]
    service.start()
    for name in names:
        assert service.settled(name)["state"] == "ready"
    check_statistics(service.rows)


def test_a_reader_sees_one_edition_or_the_other(make_aidb: MakeAidb) -> None:
    service = make_aidb()
    service.start()
    name = service.upload(body_of(1, 1), "s").json()["id"]
    service.settled(name)
    seen: set[tuple[int, int, int]] = set()
    with psycopg.connect(service.dsn, autocommit=True) as connection:
        for edition in range(2, 8):
            assert service.upload(body_of(1, edition), "s").status_code == 202
            end = time.monotonic() + 60
            ready = edition - 1
            while ready < edition and time.monotonic() < end:
                # One statement is one snapshot.
                row = connection.execute(
                    "SELECT (SELECT ready_version FROM documents),"
                    " count(*), count(v.chunk_id), count(DISTINCT p.chunk_id),"
                    " coalesce(min(substring(c.text, 'in edition (\\d+)')::int), 0),"
                    " coalesce(max(substring(c.text, 'in edition (\\d+)')::int), 0)"
                    " FROM chunks c LEFT JOIN vectors_1 v ON v.chunk_id = c.id"
                    " LEFT JOIN LATERAL (SELECT chunk_id FROM postings p WHERE p.chunk_id = c.id"
                    " LIMIT 1) p ON true"
                ).fetchone()
                assert row is not None
                ready, chunks, vectors, posted, lowest, highest = row
                assert chunks == vectors == posted
                assert chunks >= 4
                assert lowest == highest == ready
                seen.add((ready, chunks, lowest))
            assert ready == edition
    assert len(seen) == 7


def test_the_last_upload_wins_and_a_deleted_document_stays_deleted(make_aidb: MakeAidb) -> None:
    service = make_aidb()
    service.start()
    long = "\n\n".join(body_of(n) for n in range(20))
    kept = service.upload(long, "kept").json()["id"]
    gone = service.upload(long + "x", "gone").json()["id"]
    eventually(lambda: service.document(kept)["state"] == "processing", 30)
    assert service.upload(body_of(7, 2), "kept").status_code == 202
    with service.client() as client:
        assert client.delete(f"/v1/documents/{gone}").status_code == 204
    ready = service.settled(kept)
    assert (ready["state"], ready["version"], ready["searchable_version"]) == ("ready", 2, 2)
    eventually(lambda: service.rows("SELECT 1 FROM procrastinate_jobs") == [], 60)
    assert service.rows("SELECT source FROM documents") == [("kept",)]
    assert service.rows("SELECT count(*) FROM chunks WHERE text LIKE '%%Document 3 %%'") == [(0,)]
    check_statistics(service.rows)


def test_a_bad_new_edition_leaves_the_old_one_searchable(make_aidb: MakeAidb) -> None:
    service = make_aidb()
    service.start()
    name = service.upload("Marmots whistle.", "page", content_type="text/html").json()["id"]
    assert service.settled(name)["state"] == "ready"
    answer = service.upload("<script>nothing to read</script>", "page", content_type="text/html")
    assert answer.status_code == 202, answer.text
    failed = service.settled(name)
    assert failed["state"] == "failed"
    assert failed["error"].endswith(".")
    assert (failed["version"], failed["searchable_version"]) == (2, 1)
    assert service.rows("SELECT text FROM chunks") == [("Marmots whistle.",)]
    with service.client() as client:
        found = client.post("/v1/search", json={"query": "marmots", "mode": "lexical"}).json()
    assert [hit["document_id"] for hit in found["hits"]] == [name]
    again = service.upload("<script>nothing to read</script>", "page", content_type="text/html")
    assert again.status_code == 202  # the same bytes after a failure are a new try
    assert service.settled(name)["state"] == "failed"


def test_the_start_ends_with_one_line_where_the_schema_is_missing(
    make_aidb: MakeAidb, postgres_server: PostgresServer
) -> None:
    service = make_aidb(database=postgres_server.create())
    service.start(wait=False)
    assert service.process is not None
    assert service.process.wait(60) == 78
    last = service.log.read_text().strip().splitlines()[-1]
    assert last.startswith("aistack aidb: ")
    assert "run `aistack migrate`" in last


def test_the_start_ends_with_one_line_where_the_dimension_differs(make_aidb: MakeAidb) -> None:
    service = make_aidb(aidb={"dimension": 768})
    service.start(wait=False)
    assert service.process is not None
    assert service.process.wait(60) == 78
    last = service.log.read_text().strip().splitlines()[-1]
    assert last.startswith("aistack aidb: aidb.dimension is 768")
    assert "384" in last
