"""Texts of known lengths, the same in every run, and the requests that carry them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import orjson

SENTENCES = (
    "the service reads every option of your own system and writes one line when a disk is full or",
    "a network card has gone while documents are cut into chunks and each chunk gets a vector",
)

#: Name → words of a text, and how many texts make one turn of a measurement.
SHAPES: dict[str, tuple[tuple[int, int], int]] = {
    "short": ((6, 14), 320),
    "medium": ((50, 75), 96),
    "mixed": ((3, 200), 96),
}


def texts(shape: str, count: int = 0, *, seed: int = 0) -> list[str]:
    """Distinct texts of a shape; `count` 0 is one turn's worth."""
    words, usual = SHAPES[shape]
    random_ = random.Random(f"{shape}{seed}")
    vocabulary = " ".join(SENTENCES).split()
    found: dict[str, None] = {}
    while len(found) < (count or usual):
        found[" ".join(random_.choices(vocabulary, k=random_.randint(*words)))] = None
    return list(found)


def batches(given: Sequence[str], size: int) -> list[Sequence[str]]:
    """`given` in runs of `size`; the last one may be shorter."""
    return [given[i : i + size] for i in range(0, len(given), size)]


def embeddings_body(model: str, batch: Sequence[str]) -> bytes:
    """A body of `POST /v1/embeddings` that asks for base64, as OpenAI's client does."""
    return orjson.dumps({"model": model, "input": list(batch), "encoding_format": "base64"})


def post(path: str, body: bytes, *, key: str | None = None, host: str = "embeddings") -> bytes:
    """A whole HTTP/1.1 request that keeps its connection."""
    lines = [
        f"POST {path} HTTP/1.1",
        f"host: {host}",
        "content-type: application/json",
        f"content-length: {len(body)}",
    ]
    if key is not None:
        lines.append(f"authorization: Bearer {key}")
    return "\r\n".join([*lines, "", ""]).encode() + body


def vectors_of(body: bytes) -> list[Any]:
    """The `embedding` of each object of an OpenAI answer, in the order of the texts."""
    data = orjson.loads(body)["data"]
    return [found["embedding"] for found in sorted(data, key=lambda found: found["index"])]
