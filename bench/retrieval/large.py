"""A stack whose one collection is large; built once, and kept."""

from __future__ import annotations

import hashlib
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import httpx
import psycopg
from pgvector.psycopg import register_vector
from psycopg import sql
from psycopg.types.json import Jsonb

from bench.retrieval import synthetic
from bench.retrieval.stand import Stand, cache_directory, standing
from bench.retrieval.synthetic import CHUNKS_OF_DOCUMENT, Document, Maker

COLLECTION = "large"
#: Documents written in one transaction.
TOGETHER = 100

Connection = psycopg.Connection[tuple[Any, ...]]

_DOCUMENTS = (
    "COPY documents (id, collection_id, source, content_type, sha256, byte_size, metadata, state,"
    " ready_version, chunk_count, key_id) FROM STDIN"
)
_CHUNKS = (
    "COPY chunks (id, document_id, collection_id, ordinal, text, char_start, char_end, token_count,"
    " term_count, terms, term_frequencies) FROM STDIN"
)


@contextmanager
def large_stack(chunks: int) -> Iterator[Stand]:
    """A stack with a collection of so many chunks."""
    place = cache_directory() / f"retrieval-{chunks}-{_version()}"
    built = place / "built"
    if not built.exists():
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
    with standing(place / "data") as stand:
        if not built.exists():
            _first_document(stand)
            with stand.database() as connection:
                _fill(connection, chunks)
            built.touch()
        with stand.database() as connection:
            # What an earlier run left in the cache is of another state now.
            connection.execute("UPDATE collections SET epoch = epoch + 1")
        yield stand


def _version() -> str:
    """Of what is in a kept collection; the tables are brought up to date by the stack's start."""
    return hashlib.sha256(Path(synthetic.__file__).read_bytes()).hexdigest()[:12]


def _first_document(stand: Stand) -> None:
    """Through the front door: with it the set of vectors is active."""
    with httpx.Client(
        base_url=stand.base_url, headers={"authorization": f"Bearer {stand.key}"}, timeout=60
    ) as http:
        answer = http.post("/v1/documents", json={"source": "first", "text": "The first one."})
        answer.raise_for_status()
        path = f"/v1/documents/{answer.json()['id']}"
        while (state := http.get(path).json()["state"]) != "ready":
            if state == "failed":
                raise SystemExit("the first document failed")
            time.sleep(0.1)


def _fill(connection: Connection, chunks: int) -> None:
    register_vector(connection)
    row = connection.execute(
        "INSERT INTO collections (name, key_id) VALUES (%s, 'bench') RETURNING id", [COLLECTION]
    ).fetchone()
    table = connection.execute("SELECT table_name FROM embedding_sets WHERE state = 'active'")
    name = table.fetchone()
    first = connection.execute("SELECT coalesce(max(id), 0) + 1 FROM chunks").fetchone()
    assert row is not None
    assert name is not None
    assert first is not None
    documents = Maker(1).documents(chunks)
    began = time.monotonic()
    at = int(first[0])
    while some := list(islice(documents, TOGETHER)):
        with connection.transaction():
            _write(connection, int(row[0]), sql.Identifier(name[0]), some, at)
        at += len(some) * CHUNKS_OF_DOCUMENT
        rate = (at - int(first[0])) / (time.monotonic() - began)
        print(
            f"\r  {at - int(first[0]):,} of {chunks:,} chunks, {rate:.0f}/s ",
            end="",
            file=sys.stderr,
        )
    print(file=sys.stderr)
    connection.execute("SELECT setval(pg_get_serial_sequence('chunks', 'id'), %s)", [at])
    connection.execute("VACUUM ANALYZE")


def _write(
    connection: Connection,
    collection: int,
    table: sql.Identifier,
    documents: Sequence[Document],
    first: int,
) -> None:
    """`first` is the id of the first chunk."""
    names = [_identifier(document.number) for document in documents]
    with connection.cursor() as cursor:
        with cursor.copy(_DOCUMENTS) as copy:
            for name, one in zip(names, documents, strict=True):
                metadata = Jsonb({"slice": one.number % synthetic.SLICES})
                copy.write_row(
                    (name, collection, f"d{one.number}", "text/plain", bytes(32), 1, metadata,
                     "ready", 1, len(one.texts), "bench")
                )  # fmt: skip
        statement = sql.SQL(
            "COPY {} (chunk_id, collection_id, embedding) FROM STDIN (FORMAT BINARY)"
        )
        with cursor.copy(statement.format(table)) as copy:
            copy.set_types(["int8", "int4", "vector"])
            for place, vector in enumerate(v for one in documents for v in one.vectors):
                copy.write_row((first + place, collection, vector))
        with cursor.copy(_CHUNKS) as copy:
            place = first
            for name, one in zip(names, documents, strict=True):
                for ordinal, text in enumerate(one.texts):
                    counts = one.counts[ordinal]
                    copy.write_row(
                        (place, name, collection, ordinal, text, 0, len(text), 200, sum(counts),
                         one.terms[ordinal], counts)
                    )  # fmt: skip
                    place += 1


def _identifier(number: int) -> str:
    return f"00000000-0000-4000-8000-{number:012x}"
