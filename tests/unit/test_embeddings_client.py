"""The client refuses every bad answer of the embeddings service; nothing bad is ever stored.

The peer is a real HTTP server on a unix socket that answers what a test tells it to.
"""

from __future__ import annotations

import asyncio
import base64
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from aistack.clients.embeddings import REQUEST_BYTES, EmbeddingsClient, _parts
from aistack.clients.http import PeerClient
from aistack.models import EmbeddingSet
from aistack.service.errors import Unavailable

SET = EmbeddingSet("m", "ab" * 32, "onnx", "fp32", 4, True)
UNIT = np.array([0.5, 0.5, 0.5, 0.5], dtype=np.float32)


def described(identity: EmbeddingSet) -> dict[str, Any]:
    fields = {name: getattr(identity, name) for name in EmbeddingSet.__slots__}
    extension = {
        "kind": "embedding",
        "dimension": identity.dimension,
        "max_tokens": 256,
        "client_batch": 2,
        "embedding_set": {"id": identity.id, **fields},
    }
    return {"object": "list", "data": [{"id": identity.model, "aistack": extension}]}


def answer(rows: list[bytes], identity: EmbeddingSet = SET) -> dict[str, Any]:
    return {
        "data": [
            {"index": i, "embedding": base64.b64encode(row).decode()} for i, row in enumerate(rows)
        ],
        "aistack": {"embedding_set": identity.id, "truncated": []},
    }


class Peer:
    """Answers `/v1/models` with `models`, `/v1/embeddings` with `next_` (or unit vectors)."""

    def __init__(self) -> None:
        self.models: dict[str, Any] = described(SET)
        self.next_: tuple[int, dict[str, Any]] | None = None
        self.asked: list[dict[str, Any]] = []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(
            (
                int(line.split(b":")[1])
                for line in head.lower().split(b"\r\n")
                if line.startswith(b"content-length")
            ),
            0,
        )
        sent = await reader.readexactly(length)
        status, body = 200, self.models
        if head.startswith(b"POST"):
            request = orjson.loads(sent)
            self.asked.append(request)
            status, body = self.next_ or (200, answer([UNIT.tobytes()] * len(request["input"])))
        data = orjson.dumps(body)
        writer.write(
            f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\nconnection: close\r\n"
            f"content-length: {len(data)}\r\n\r\n".encode()
            + data
        )
        await writer.drain()
        writer.close()
        await writer.wait_closed()


@pytest.fixture
def peer() -> Peer:
    return Peer()


@pytest.fixture
async def client(peer: Peer) -> AsyncIterator[EmbeddingsClient]:
    with tempfile.TemporaryDirectory(prefix="aic-") as directory:
        path = Path(directory) / "s"
        server = await asyncio.start_unix_server(peer, path)
        made = EmbeddingsClient(PeerClient("embeddings", f"unix:{path}", timeout=5))
        yield made
        await made.aclose()
        server.close()
        await server.wait_closed()


async def test_splits_by_the_services_limit(client: EmbeddingsClient, peer: Peer) -> None:
    vectors = await client.embed(["a", "b", "c"])
    assert vectors.shape == (3, 4)
    assert [request["input"] for request in peer.asked] == [["a", "b"], ["c"]]


def test_splits_by_bytes_and_keeps_the_order() -> None:
    big = "é" * (REQUEST_BYTES // 3)
    texts = ["a", big, big, "b", big * 2, "c"]
    parts = list(_parts(texts, 512))
    assert [text for part in parts for text in part] == texts
    assert all(
        len(part) == 1 or sum(len(text.encode()) for text in part) <= REQUEST_BYTES
        for part in parts
    )
    assert len(parts) > 2


@pytest.mark.parametrize(
    "body",
    [
        answer([UNIT.tobytes()[:-4]]),
        answer([np.zeros(4, np.float32).tobytes()]),
        answer([np.full(4, np.nan, np.float32).tobytes()]),
        answer([np.full(4, np.inf, np.float32).tobytes()]),
        answer([UNIT.tobytes(), UNIT.tobytes()]),
        answer([]),
        {"data": "nothing", "aistack": {"embedding_set": SET.id}},
        {"data": [{"index": 0, "embedding": "***"}], "aistack": {"embedding_set": SET.id}},
        {},
    ],
    ids=["short", "zero", "nan", "inf", "too-many", "too-few", "shape", "base64", "empty"],
)
async def test_bad_answer_is_an_error(
    client: EmbeddingsClient, peer: Peer, body: dict[str, Any]
) -> None:
    peer.next_ = (200, body)
    with pytest.raises(Unavailable):
        await client.embed(["a"])


@pytest.mark.parametrize("how", ["another set answers", "the model is not known"])
async def test_changed_model_is_noticed_and_then_asked_anew(
    client: EmbeddingsClient, peer: Peer, how: str
) -> None:
    await client.embed(["a"])
    other = EmbeddingSet("n", "cd" * 32, "onnx", "fp32", 4, True)
    peer.models = described(other)
    gone = {"error": {"message": "no such model", "error_id": "err_1"}}
    found = answer([UNIT.tobytes()], other)
    peer.next_ = (200, found) if how == "another set answers" else (404, gone)
    with pytest.raises(Unavailable, match="changed"):
        await client.embed(["a"])
    peer.next_ = (200, found)
    identity, _ = await client.embed_in_set(["a"])
    assert identity == other


async def test_description_whose_id_does_not_fit_is_refused(
    client: EmbeddingsClient, peer: Peer
) -> None:
    peer.models["data"][0]["aistack"]["embedding_set"]["revision"] = "ff" * 32
    with pytest.raises(Unavailable):
        await client.describe()


async def test_a_service_that_hangs_opens_its_breaker() -> None:
    async def hangs(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    with tempfile.TemporaryDirectory(prefix="aic-") as directory:
        path = Path(directory) / "s"
        server = await asyncio.start_unix_server(hangs, path)
        peer = PeerClient("hanging", f"unix:{path}", timeout=60)
        client = EmbeddingsClient(peer)
        for _ in range(5):
            with pytest.raises(Unavailable):
                await client.of("query").embed_in_set(["a"], seconds=0.01)
        assert peer.dependency.state == "open"
        await client.aclose()
        server.close()
        await server.wait_closed()


async def test_index_decides_the_order(client: EmbeddingsClient, peer: Peer) -> None:
    first, second = np.eye(4, dtype=np.float32)[:2]
    body = answer([first.tobytes(), second.tobytes()])
    body["data"].reverse()
    peer.next_ = (200, body)
    np.testing.assert_array_equal(await client.embed(["a", "b"]), [first, second])
