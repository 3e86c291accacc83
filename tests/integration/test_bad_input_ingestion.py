"""Bad documents over HTTP: each is told what to do, and nothing half-written is left behind."""

from __future__ import annotations

import base64
import io
import json
import select
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from pypdf import PdfWriter

from aistack.service.keys import read_key
from fix_aidb import AidbProcess, MakeAidb, check_statistics, eventually
from fix_embeddings import EmbeddingsProcess

MIB = 1 << 20
HUGE = 2 << 30
#: What the service may hold of bodies that it refuses: the limit of a body (16 MiB) and as much
#: again for the copies on its way.
ROOM = 48 * MIB

#: Tables that only a document which is searchable has rows in.
SEARCHABLE = ("document_texts", "chunks", "terms", "postings")


def pdf(*, password: str | None = None) -> bytes:
    """One page without any text."""
    writer = PdfWriter()
    writer.add_blank_page(100, 100)
    if password is not None:
        writer.encrypt(password, algorithm="AES-256")
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()


def encoded(content: bytes) -> str:
    return base64.b64encode(content).decode()


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no text at all": ({"text": ""}, "no text"),
    "undecodable bytes": ({"content_base64": encoded(b"caf\xe9 \xff\xfe\x81")}, "UTF-8"),
    "bytes that are not of the charset named": (
        {"content_base64": encoded(b"\xff" * 9), "content_type": "text/plain; charset=ascii"},
        "ASCII",
    ),
    "NUL bytes": ({"content_base64": encoded(b"one\0two")}, "NUL"),
    "NUL in the name": ({"text": "Words.", "source": "a\0b"}, "NUL"),
    "a PDF with a password": (
        {
            "content_base64": encoded(pdf(password="secret")),
            "content_type": "application/pdf",
        },
        "protected by a password: remove it",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("first", [True, False], ids=["new", "replacing"])
def test_what_can_be_seen_at_once_is_refused_and_leaves_nothing(
    aidb: AidbProcess, name: str, first: bool
) -> None:
    body, words = REFUSED[name]
    body = {"source": name, **body}
    document = None
    if not first:
        kept = aidb.upload("What was here before.", name)
        document = aidb.settled(kept.json()["id"])
    before = aidb.counts()
    with aidb.client() as client:
        answer = client.post("/v1/documents", json=body)
    assert answer.status_code == 422, answer.text
    assert words in answer.json()["detail"]
    assert aidb.counts() == before
    if document is not None:
        assert aidb.document(document["id"]) == document


NO_TEXT = {
    "a page of scripts": ({"text": "<script>x</script>", "content_type": "text/html"}, "no text"),
    "a PDF of blank pages": (
        {"content_base64": encoded(pdf()), "content_type": "application/pdf"},
        "text",
    ),
}


@pytest.mark.parametrize("name", NO_TEXT)
def test_what_is_seen_while_reading_fails_with_its_reason_and_is_not_half_searchable(
    aidb: AidbProcess, name: str
) -> None:
    body, words = NO_TEXT[name]
    before = aidb.counts()
    with aidb.client() as client:
        answer = client.post("/v1/documents", json={"source": name, **body})
    assert answer.status_code == 202, answer.text
    failed = aidb.settled(answer.json()["id"])
    assert failed["state"] == "failed"
    assert words in failed["error"]
    eventually(
        lambda: aidb.counts()["procrastinate_jobs"] == before["procrastinate_jobs"],
        20,
    )
    after = aidb.counts()
    added = {table: after[table] - before[table] for table in after}
    assert {table for table, count in added.items() if count} == {"documents", "document_contents"}
    with aidb.client() as client:
        assert client.get(f"/v1/documents/{failed['id']}/text").status_code == 404
        assert client.delete(f"/v1/documents/{failed['id']}").status_code == 204
    assert aidb.counts() == before
    check_statistics(aidb.rows)


@pytest.fixture
def connection(aidb: AidbProcess) -> Iterator[socket.socket]:
    """A connection without a client that would stop on its own."""
    with socket.socket(socket.AF_UNIX) as made:
        made.settimeout(30)
        made.connect(str(aidb.socket))
        yield made


def head(aidb: AidbProcess, *lines: str) -> bytes:
    key = read_key(aidb.keys.default_key_file)
    all_ = ["POST /v1/documents HTTP/1.1", "host: aidb", f"authorization: Bearer {key}", *lines]
    return "\r\n".join([*all_, "", ""]).encode()


def answer_of(connection: socket.socket) -> tuple[int, dict[str, Any]]:
    """Status and JSON of the answer, which need not close the connection."""
    received = b""
    while b"\r\n\r\n" not in received:
        received += connection.recv(65536)
    head, _, body = received.partition(b"\r\n\r\n")
    lines = head.decode().lower().split("\r\n")
    (length,) = [int(x.partition(":")[2]) for x in lines if x.startswith("content-length")]
    while len(body) < length:
        body += connection.recv(65536)
    return int(lines[0].split()[1]), json.loads(body)


class Memory:
    """The largest memory that a process had since this was made, beyond what it had then."""

    def __init__(self, pid: int) -> None:
        self._status = Path(f"/proc/{pid}/status")
        Path(f"/proc/{pid}/clear_refs").write_text("5")
        self._before = self._peak()

    def _peak(self) -> int:
        lines = self._status.read_text().splitlines()
        (kib,) = [int(line.split()[1]) for line in lines if line.startswith("VmHWM:")]
        return kib * 1024

    def grown(self) -> int:
        """Bytes."""
        return self._peak() - self._before


def test_2_gb_that_are_announced_are_refused_before_a_byte_is_sent(
    aidb: AidbProcess, connection: socket.socket
) -> None:
    before = aidb.counts()
    assert aidb.process is not None
    memory = Memory(aidb.process.pid)
    for kind in ("application/json", "multipart/form-data; boundary=x"):
        with socket.socket(socket.AF_UNIX) as one:
            one.settimeout(30)
            one.connect(str(aidb.socket))
            one.sendall(head(aidb, f"content-length: {HUGE}", f"content-type: {kind}"))
            status, body = answer_of(one)
        assert status == 413
        assert "send it in parts" in body["detail"]
    assert memory.grown() < ROOM
    assert aidb.counts() == before


@pytest.mark.parametrize(
    ("kind", "begin"),
    [
        ("application/json", b'{"text": "'),
        (
            "multipart/form-data; boundary=x",
            b'--x\r\ncontent-disposition: form-data; name="file"; filename="a.txt"\r\n\r\n',
        ),
    ],
)
def test_2_gb_in_chunks_are_refused_at_the_limit_in_bounded_memory(
    aidb: AidbProcess, connection: socket.socket, kind: str, begin: bytes
) -> None:
    before = aidb.counts()
    assert aidb.process is not None
    memory = Memory(aidb.process.pid)
    connection.sendall(head(aidb, "transfer-encoding: chunked", f"content-type: {kind}"))
    part = b"word " * (MIB // 5)
    sent, data = 0, begin
    try:
        while sent < HUGE and not select.select([connection], [], [], 0)[0]:
            connection.sendall(f"{len(data):x}\r\n".encode() + data + b"\r\n")
            sent, data = sent + len(data), part
    except (BrokenPipeError, ConnectionResetError):
        assert sent > 16 * MIB
    status, body = answer_of(connection)
    assert status == 413
    assert "send it in parts" in body["detail"]
    # What lies in the buffers on the way, and no more.
    assert sent < 64 * MIB
    assert memory.grown() < ROOM
    assert aidb.counts() == before
    # Neither does it stay on the disk: the temporary file of a form ends with its request.
    files = Path(f"/proc/{aidb.process.pid}/fd")
    eventually(lambda: not [f for f in files.iterdir() if "(deleted)" in str(f.resolve())], 10)


def test_a_document_over_its_own_limit_says_what_to_do(aidb: AidbProcess) -> None:
    before = aidb.counts()
    with aidb.client() as client:
        answer = client.post(
            "/v1/documents", files={"file": ("a.txt", b"word " * (11 * MIB // 5), "text/plain")}
        )
    assert answer.status_code == 413
    assert "split it" in answer.json()["detail"]
    assert "aidb.document_bytes" in answer.json()["detail"]
    assert aidb.counts() == before


def test_vectors_of_another_dimension_are_not_mixed_in(
    make_aidb: MakeAidb, embeddings_service: EmbeddingsProcess, tmp_path: Path
) -> None:
    """The service starts from what the database knows, and then meets another model."""
    service = make_aidb(aidb={"dimension": 8})
    with psycopg.connect(service.dsn) as connection:
        connection.execute(
            "INSERT INTO embedding_sets (model, revision, engine, precision, dimension, normalized,"
            " state) VALUES ('m', 'r', 'e', 'fp32', 8, true, 'active')"
        )
        connection.execute("SELECT aidb_create_vector_table(id) FROM embedding_sets")
    place = service.directory / "embeddings.sock"
    service.settings["peers"] = {"embeddings": f"unix:{place}"}
    service.start()
    empty = service.counts()
    place.symlink_to(embeddings_service.socket)
    identifier = service.upload("A tarn is a small lake.", "tarn").json()["id"]

    def waits() -> bool:
        return "another dimension" in (service.document(identifier)["error"] or "")

    eventually(waits, 60, lambda: service.log.read_text()[-4000:])
    assert service.document(identifier)["state"] in ("pending", "processing")
    now = service.counts()
    assert {table: now[table] for table in SEARCHABLE} == {t: empty[t] for t in SEARCHABLE}
    assert service.rows("SELECT count(*) FROM embedding_sets") == [(1,)]
    assert service.rows("SELECT count(*) FROM vectors_1") == [(0,)]
