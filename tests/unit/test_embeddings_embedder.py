"""Equal texts are encoded once, cached ones never, and nobody pays for a caller who left."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from aistack.embeddings.cache import VectorCache
from aistack.embeddings.embedder import Embedder
from aistack.embeddings.encoder import EncoderError, Tokens, Vectors
from aistack.embeddings.scheduler import Scheduler
from aistack.models import EmbeddingSet
from aistack.service.errors import Unavailable
from fix_embeddings import MemoryStore, until

DEADLINE = 10.0


class LetterEncoder:
    """A tiny engine: a token is a character code, a vector is the unit vector of the last one."""

    max_tokens = 8
    pass_tokens = 2
    identity = EmbeddingSet("letters", "0" * 64, "none", "fp32", 128, True)

    def __init__(self) -> None:
        self.passes: list[list[str]] = []
        self.open = threading.Event()
        self.open.set()
        self.entered = threading.Semaphore(0)
        self.broken = False
        self.zero = False

    def tokenize(self, texts: Sequence[str]) -> list[Tokens]:
        return [
            Tokens(np.array([ord(c) for c in t[:8]], dtype=np.int32), len(t) > 8) for t in texts
        ]

    def encode(self, batch: Sequence[Tokens]) -> Vectors:
        self.passes.append(["".join(map(chr, tokens.ids)) for tokens in batch])
        self.entered.release()
        assert self.open.wait(DEADLINE)
        if self.broken:
            raise EncoderError("broken")
        vectors = np.eye(128, dtype=np.float32)[[tokens.ids[-1] for tokens in batch]]
        return vectors * 0 if self.zero else vectors

    @property
    def texts(self) -> list[str]:
        return sorted(text for texts in self.passes for text in texts)


@pytest.fixture
def encoder() -> Iterator[LetterEncoder]:
    made = LetterEncoder()
    yield made
    made.open.set()


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
async def embedder(encoder: LetterEncoder, store: MemoryStore) -> object:
    scheduler = Scheduler(encoder.encode, batch_tokens=64, queue_texts=100, idle_seconds=0.02)
    scheduler.start()
    cache = VectorCache(store, encoder.identity, settings="s" * 64, seconds=60)
    made = Embedder(encoder, scheduler, cache)
    yield made
    encoder.open.set()
    await scheduler.stop(DEADLINE)
    await made.close()


async def entered(encoder: LetterEncoder) -> None:
    assert await asyncio.to_thread(encoder.entered.acquire, timeout=DEADLINE)


async def test_equal_texts_of_one_request_are_encoded_once(
    embedder: Embedder, encoder: LetterEncoder
) -> None:
    embedded = await embedder.embed(["a", "b", "a", "a"])
    assert encoder.texts == ["a", "b"]
    assert embedded.vectors.argmax(axis=1).tolist() == [97, 98, 97, 97]
    # Every given text counts, however often it was given.
    assert embedded.tokens == 4


async def test_equal_texts_at_the_same_time_are_encoded_once(
    embedder: Embedder, encoder: LetterEncoder
) -> None:
    encoder.open.clear()
    first = asyncio.create_task(embedder.embed(["a", "b"]))
    await entered(encoder)
    second = asyncio.create_task(embedder.embed(["b", "c"]))
    await asyncio.sleep(0)
    encoder.open.set()
    one, two = await asyncio.gather(first, second)
    assert encoder.texts == ["a", "b", "c"]
    np.testing.assert_array_equal(one.vectors[1], two.vectors[0])
    assert two.vectors.argmax(axis=1).tolist() == [98, 99]


async def test_cached_text_is_neither_tokenized_nor_encoded(
    embedder: Embedder, encoder: LetterEncoder, store: MemoryStore
) -> None:
    first = await embedder.embed(["a longer text"])
    await until(lambda: embedder.in_flight == 0)
    assert len(store.values) == 1
    again = await embedder.embed(["a longer text"])
    assert len(encoder.passes) == 1
    assert (first.cached, again.cached) == (0, 1)
    assert (again.tokens, again.truncated) == (first.tokens, first.truncated) == (8, (0,))
    np.testing.assert_array_equal(first.vectors, again.vectors)
    assert again.timings.encode == 0


async def test_truncated_texts_are_named_by_index(embedder: Embedder) -> None:
    embedded = await embedder.embed(["ok", "much too long", "fine", "also too long"])
    assert embedded.truncated == (1, 3)


async def test_follower_outlives_the_leader(embedder: Embedder, encoder: LetterEncoder) -> None:
    encoder.open.clear()
    leader = asyncio.create_task(embedder.embed(["a"]))
    await entered(encoder)
    follower = asyncio.create_task(embedder.embed(["a"]))
    await asyncio.sleep(0)
    leader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leader
    encoder.open.set()
    assert (await follower).vectors.argmax() == 97
    assert encoder.texts == ["a"]


async def test_text_that_nobody_waits_for_is_not_encoded(
    embedder: Embedder, encoder: LetterEncoder
) -> None:
    encoder.open.clear()
    running = asyncio.create_task(embedder.embed(["a"]))
    await entered(encoder)
    waiting = asyncio.create_task(embedder.embed(["b"]))
    await until(lambda: embedder.queued == 1)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await until(lambda: embedder.queued == 0)
    encoder.open.set()
    await running
    # And the text can be asked for again.
    assert (await embedder.embed(["b"])).vectors.argmax() == 98
    assert encoder.passes == [["a"], ["b"]]


async def test_nobody_joins_a_flight_that_is_being_called_off(
    embedder: Embedder, encoder: LetterEncoder
) -> None:
    encoder.open.clear()
    running = asyncio.create_task(embedder.embed(["a"]))
    await entered(encoder)
    waiting = asyncio.create_task(embedder.embed(["b"]))
    await until(lambda: embedder.queued == 1)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    encoder.open.set()
    # In this very turn of the loop the old flight is cancelled, but has not ended yet.
    assert (await embedder.embed(["b"])).vectors.argmax() == 98
    await running


async def test_failure_reaches_leader_and_follower_and_is_not_cached(
    embedder: Embedder, encoder: LetterEncoder, store: MemoryStore
) -> None:
    encoder.broken = True
    encoder.open.clear()
    leader = asyncio.create_task(embedder.embed(["a"]))
    await entered(encoder)
    follower = asyncio.create_task(embedder.embed(["a"]))
    await asyncio.sleep(0)
    encoder.open.set()
    for task in (leader, follower):
        with pytest.raises(Unavailable):
            await task
    assert store.values == {}
    encoder.broken = False
    assert (await embedder.embed(["a"])).vectors.argmax() == 97


async def test_zero_vector_is_an_error_and_is_not_cached(
    embedder: Embedder, encoder: LetterEncoder, store: MemoryStore
) -> None:
    encoder.zero = True
    with pytest.raises(Unavailable):
        await embedder.embed(["a"])
    assert store.values == {}


async def test_store_that_is_away_changes_no_answer(
    embedder: Embedder, encoder: LetterEncoder, store: MemoryStore
) -> None:
    store.away = True
    for _ in range(2):
        assert (await embedder.embed(["a"])).vectors.argmax() == 97
    assert store.values == {}
