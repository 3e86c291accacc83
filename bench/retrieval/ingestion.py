"""Ingestion against the raw encoder on the same chunks, in turns.

The stack: from the first upload until the last document can be searched, four uploads at a time.
The raw encoder: the same model and settings in this process, the same chunks sorted by length in
batches, nothing else. Texts are new in every round, so that no vector comes from a cache.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

from aistack.aidb import parsing
from aistack.aidb.chunking import Chunker
from aistack.aidb.ingest import indexed
from bench.corpus import LocalEncoder
from bench.cranfield import read
from bench.embeddings.bars import Figure
from bench.retrieval.stand import Stand, standing
from bench.retrieval.synthetic import Maker

ROUNDS = 5
DOCUMENTS = 120
UPLOADS = 4
SECONDS = 300.0


def measure(data: Path | None) -> list[Figure]:
    """On a new stack; `data` is Cranfield's directory, without it the words are made up."""
    texts = [text for _, text in read(data).documents.values()] if data else _made()
    with (
        tempfile.TemporaryDirectory(prefix="ari-") as directory,
        standing(Path(directory) / "data") as stand,
    ):
        return _rounds(stand, texts)


def _made() -> list[str]:
    return [text for one in Maker(5).documents(ROUNDS * DOCUMENTS) for text in one.texts]


def _rounds(stand: Stand, texts: Sequence[str]) -> list[Figure]:
    encoder = LocalEncoder(config=stand.embeddings.embeddings)
    config = stand.aidb.aidb
    chunker = Chunker(encoder.files.tokenizer, config.chunk_tokens, config.chunk_overlap)
    wall: dict[str, list[float]] = {"stack": [], "raw": []}
    cpu: dict[str, list[float]] = {"stack": [], "raw": []}
    for turn in range(-1, ROUNDS):  # the first one warms up
        start = max(0, turn) * DOCUMENTS
        part = [f"{text}\n\nRound {turn}." for text in texts[start : start + DOCUMENTS]]
        part = part[: DOCUMENTS // 4] if turn < 0 else part
        chunks = _chunks(chunker, part)
        for name in ("stack", "raw") if turn % 2 else ("raw", "stack"):
            used = time.process_time if name == "raw" else stand.cpu_seconds
            began, spent = time.perf_counter(), used()
            if name == "raw":
                encoder.encode(chunks)
            else:
                _ingest(stand, part, f"round{turn}", len(chunks))
            if turn >= 0:
                wall[name].append(len(chunks) / (time.perf_counter() - began))
                cpu[name].append(len(chunks) / max(used() - spent, 0.01))
    return [
        Figure("raw encoder", statistics.median(wall["raw"]), "chunks/s"),
        Figure("ingestion", statistics.median(wall["stack"]), "chunks/s"),
        Figure("ingestion / raw encoder", _ratio(wall), at_least=0.85),
        Figure("whole stack / raw encoder, per CPU second", _ratio(cpu)),
    ]


def _ratio(rates: Mapping[str, Sequence[float]]) -> float:
    """The median over the rounds."""
    return statistics.median(a / b for a, b in zip(rates["stack"], rates["raw"], strict=True))


def _chunks(chunker: Chunker, texts: Iterable[str]) -> list[str]:
    """What is embedded of each text, as ingestion cuts it."""
    parsed = (parsing.parse(text.encode(), "text/plain") for text in texts)
    cut = (indexed(chunk) for one in parsed for chunk in chunker.chunk(one))
    return [chunk.embed_prefix + chunk.text for chunk in cut]


def _ingest(stand: Stand, texts: Sequence[str], collection: str, chunks: int) -> None:
    """Returns when all can be searched. Raises SystemExit when one fails or it takes too long."""
    bodies = [
        json.dumps({"source": f"d{number}", "text": text, "collection": collection}).encode()
        for number, text in enumerate(texts)
    ]
    with (
        stand.database() as connection,
        httpx.Client(
            base_url=stand.base_url,
            headers={"authorization": f"Bearer {stand.key}", "content-type": "application/json"},
            timeout=60,
        ) as http,
        ThreadPoolExecutor(UPLOADS) as uploads,
    ):
        http.post("/v1/collections", json={"name": collection}).raise_for_status()
        began = time.perf_counter()
        answers = uploads.map(lambda body: http.post("/v1/documents", content=body), bodies)
        for answer in answers:
            answer.raise_for_status()
        while True:
            row = connection.execute(
                "SELECT chunk_count, (SELECT count(*) FROM documents d WHERE d.collection_id = c.id"
                " AND state = 'failed') FROM collections c WHERE name = %s",
                [collection],
            ).fetchone()
            taken = time.perf_counter() - began
            assert row is not None
            if row[0] == chunks:
                return
            if row[1] or taken > SECONDS or row[0] > chunks:
                raise SystemExit(
                    f"{row[0]} of {chunks} chunks after {taken:.0f} s, {row[1]} failed"
                )
            time.sleep(0.01)
