"""Ingestion against the raw encoder on the same chunks, in turns.

The encoder's lane, and the raw encoder in its turn, have one core; everything else (aidb,
PostgreSQL, Redis, the event loop of embeddings, the client) has the other. The stack: from the
first upload until the last document can be searched; the client keeps a fixed number of documents
ahead of the last one that is ready, so that uploads and indexing run side by side as they do in a
long ingestion. The raw encoder: the same model and engine in this process, the same chunks sorted
by length in batches, nothing else. The cache of vectors is emptied before each turn.

Two shapes: abstracts, nearly all of one chunk, and Markdown documents of twelve abstracts with a
heading each.
"""

from __future__ import annotations

import json
import socket
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import orjson

from aistack.aidb import parsing
from aistack.aidb.analysis import ENGLISH
from aistack.aidb.chunking import Chunker
from aistack.aidb.ingest import indexed
from aistack.dev.state import read_state
from bench.corpus import LocalEncoder
from bench.cranfield import read
from bench.embeddings.bars import Figure
from bench.embeddings.closed_loop import closed_loop, once
from bench.embeddings.machine import CLIENT_CORE, ENCODER_CORE, cpu_seconds, pinned
from bench.embeddings.service import lane_options
from bench.embeddings.texts import post
from bench.retrieval.stand import Stand, standing
from bench.retrieval.synthetic import Maker

ROUNDS = 5
#: Of one turn, 5 to 10 s of encoding; of the first one, which is not counted.
ABSTRACTS, WARM_UP = 480, 96
ABSTRACTS_OF_DOCUMENT = 12
#: Connections that upload; documents that are not ready yet, at most, and sent at a time.
UPLOADS, AHEAD, AT_A_TIME = 4, 96, 16
SECONDS = 120.0
BATCH = 16
BAR = 0.85

#: Of the processor time that is told apart: a part's own processes, and the rest of them.
PARTS = ("aidb", "postgres", "embeddings", "redis")


@dataclass(frozen=True, slots=True)
class Text:
    """A document to send."""

    text: str
    content_type: str


@dataclass(slots=True)
class Turns:
    """Of every round: chunks per second of each way, and CPU seconds a chunk by part."""

    stack: list[float] = field(default_factory=list)
    raw: list[float] = field(default_factory=list)
    raw_cpu: list[float] = field(default_factory=list)
    parts: dict[str, list[float]] = field(default_factory=dict)

    def ratio(self) -> float:
        """The median over the rounds."""
        return statistics.median(a / b for a, b in zip(self.stack, self.raw, strict=True))

    def cpu(self, *parts: str) -> list[float]:
        """CPU seconds a chunk, by round."""
        return [sum(found) for found in zip(*(self.parts[part] for part in parts), strict=True)]

    def lane_ratio(self) -> float:
        """CPU time of the raw encoder by that of the lane: what is left when nothing waits."""
        both = zip(self.raw_cpu, self.parts["lane"], strict=True)
        return statistics.median(raw / lane for raw, lane in both)

    def bound(self) -> float:
        """What the ratio could be with both cores free: the busier one of them decides."""
        rest = self.cpu("rest", "client")
        both = zip(self.raw_cpu, self.parts["lane"], rest, strict=True)
        return statistics.median(raw / max(lane, other) for raw, lane, other in both)


def measure(data: Path | None) -> list[Figure]:
    """On a new stack; `data` is Cranfield's directory, without it the words are made up."""
    abstracts = list(read(data).documents.values()) if data else _made()
    with tempfile.TemporaryDirectory(prefix="ari-") as directory:
        config = Path(directory) / "config.json"
        config.write_text(json.dumps({"embeddings": lane_options(ENCODER_CORE)}), encoding="utf-8")
        with pinned(CLIENT_CORE), standing(Path(directory) / "data", config) as stand:
            return list(_figures(stand, abstracts))


def _made() -> list[tuple[str, str]]:
    texts = [text for one in Maker(5).documents(ABSTRACTS) for text in one.texts]
    return [(f"Part {number}", text) for number, text in enumerate(texts)]


def _figures(stand: Stand, abstracts: Sequence[tuple[str, str]]) -> Iterator[Figure]:
    with pinned(ENCODER_CORE):
        encoder = LocalEncoder(config=stand.embeddings.embeddings)
    chunker = Chunker(
        encoder.files.tokenizer, stand.aidb.aidb.chunk_tokens, stand.aidb.aidb.chunk_overlap
    )
    for name, make in (("abstracts", _single), ("documents", _together)):
        turns = Turns()
        for turn in range(-1, ROUNDS):
            start = (turn + 1) * ABSTRACTS
            count = WARM_UP if turn < 0 else ABSTRACTS
            part = [abstracts[place % len(abstracts)] for place in range(start, start + count)]
            texts = make(part, f"{name} {turn}")
            for way in ("stack", "raw") if turn % 2 else ("raw", "stack"):
                _turn(way, stand, encoder, chunker, texts, turns, f"{name}{turn}", turn >= 0)
        yield from _shown(name, turns)


def _turn(
    way: str,
    stand: Stand,
    encoder: LocalEncoder,
    chunker: Chunker,
    texts: Sequence[Text],
    turns: Turns,
    collection: str,
    counted: bool,
) -> None:
    chunks = _chunks(chunker, texts)
    if way == "raw":
        with pinned(ENCODER_CORE):
            began, spent = time.perf_counter(), time.process_time()
            encoder.encode(chunks, BATCH)
            seconds, used = time.perf_counter() - began, time.process_time() - spent
        if counted:
            turns.raw.append(len(chunks) / seconds)
            turns.raw_cpu.append(used / len(chunks))
        return
    _forget_vectors(stand)
    before = _spent(stand)
    seconds = _ingest(stand, texts, collection, len(chunks))
    after = _spent(stand)
    if counted:
        turns.stack.append(len(chunks) / seconds)
        for part, value in after.items():
            turns.parts.setdefault(part, []).append((value - before[part]) / len(chunks))


def _shown(name: str, turns: Turns) -> Iterator[Figure]:
    yield Figure(f"{name}: raw encoder", statistics.median(turns.raw), "chunks/s")
    yield Figure(f"{name}: ingestion", statistics.median(turns.stack), "chunks/s")
    yield Figure(f"{name}: ingestion / raw encoder", turns.ratio(), at_least=BAR)
    yield Figure(f"{name}: raw encoder / lane, by CPU time", turns.lane_ratio())
    yield Figure(
        f"{name}: ingestion / raw encoder, by CPU time", turns.bound(), note="of the busier core"
    )
    yield Figure(
        f"{name}: CPU of the raw encoder", 1e3 * statistics.median(turns.raw_cpu), "ms/chunk"
    )
    for part, spent in turns.parts.items():
        yield Figure(f"{name}: CPU of {part}", 1e3 * statistics.median(spent), "ms/chunk")


def _spent(stand: Stand) -> Mapping[str, float]:
    """CPU seconds so far: of the lane, of each part without it, of the rest in all, of us."""
    pids = {name: unit["pid"] for name, unit in read_state(stand.paths.state).items()}
    lane = cpu_seconds(pids["embeddings"], main=False)
    parts = {name: stand.cpu_seconds(pids[name]) for name in PARTS}
    parts["embeddings"] -= lane
    return {
        "lane": lane,
        **parts,
        "rest": stand.cpu_seconds() - lane,
        "client": time.process_time(),
    }


def _single(abstracts: Sequence[tuple[str, str]], round_: str) -> list[Text]:
    """One document for each."""
    return [Text(f"{text}\n\nRound {round_}.", "text/plain") for _, text in abstracts]


def _together(abstracts: Sequence[tuple[str, str]], round_: str) -> list[Text]:
    """Markdown, with a heading over each."""
    sections = [f"## {title}\n\n{text}\n\nRound {round_}.\n" for title, text in abstracts]
    starts = range(0, len(sections), ABSTRACTS_OF_DOCUMENT)
    return [
        Text("\n".join(sections[start : start + ABSTRACTS_OF_DOCUMENT]), "text/markdown")
        for start in starts
    ]


def _chunks(chunker: Chunker, texts: Sequence[Text]) -> list[str]:
    """What is embedded of each text, as ingestion cuts it."""
    parsed = (parsing.parse(one.text.encode(), one.content_type) for one in texts)
    cut = (indexed(chunk, ENGLISH) for one in parsed for chunk in chunker.chunk(one))
    return [chunk.embed_prefix + chunk.text for chunk in cut]


def _ingest(stand: Stand, texts: Sequence[Text], collection: str, chunks: int) -> float:
    """Seconds until all can be searched. Raises SystemExit when one fails or it takes too long."""
    address = stand.paths.socket("aidb")
    body = orjson.dumps({"name": collection})
    status, answer = once(address, post("/v1/collections", body, key=stand.key, host="aidb"))
    if status != 201:
        raise SystemExit(f"the collection was answered with {status}: {answer[:300]!r}")
    requests = [
        post(
            "/v1/documents",
            orjson.dumps(
                {
                    "source": f"d{number}",
                    "text": one.text,
                    "content_type": one.content_type,
                    "collection": collection,
                }
            ),
            key=stand.key,
            host="aidb",
        )
        for number, one in enumerate(texts)
    ]
    sent = 0
    with stand.database() as connection:
        began = time.perf_counter()
        while True:
            row = connection.execute(
                "SELECT c.chunk_count, count(*) FILTER (WHERE d.state = 'ready'),"
                " count(*) FILTER (WHERE d.state = 'failed') FROM collections c"
                " LEFT JOIN documents d ON d.collection_id = c.id WHERE c.name = %s GROUP BY c.id",
                [collection],
            ).fetchone()
            taken = time.perf_counter() - began
            assert row is not None
            indexed_, ready, failed = row
            if sent == len(requests) and indexed_ == chunks:
                return taken
            if failed or taken > SECONDS or indexed_ > chunks:
                raise SystemExit(
                    f"{indexed_} of {chunks} chunks after {taken:.0f} s, {failed} failed"
                )
            part = requests[sent : min(sent + AT_A_TIME, ready + AHEAD)]
            if len(part) == min(AT_A_TIME, len(requests) - sent) and part:
                load = closed_loop(address, part, connections=UPLOADS, total=len(part))
                if load.count(202) != len(part):
                    raise SystemExit(f"uploads answered by status: {load.statuses()}")
                sent += len(part)
            else:
                time.sleep(0.02)


def _forget_vectors(stand: Stand) -> None:
    """Empty the cache of the stack."""
    with socket.socket(socket.AF_UNIX) as redis:
        redis.connect(str(stand.paths.socket("redis")))
        redis.sendall(b"FLUSHALL\r\n")
        if (answer := redis.recv(64)) != b"+OK\r\n":
            raise SystemExit(f"Redis answered {answer!r}")
