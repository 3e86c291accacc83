"""Equal texts are encoded once, cached ones never, and nobody pays for a caller who left."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from unittest import mock

import numpy as np
import pytest
import structlog.testing
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from prometheus_client import REGISTRY

from aistack.embeddings import embedder as embedder_module
from aistack.embeddings.cache import VectorCache
from aistack.embeddings.cut import Cost
from aistack.embeddings.embedder import Embedder
from aistack.embeddings.encoder import EncoderError, Tokens, Vectors
from aistack.embeddings.scheduler import Scheduler
from aistack.models import EmbeddingSet
from aistack.service.errors import Overloaded, Unavailable
from fix_embeddings import MemoryStore
from fix_wait import until

DEADLINE = 10.0


class LetterEncoder:
    """A tiny engine: a token is a character code, a vector is the unit vector of the last one."""

    max_tokens = 8
    cost = Cost(2)
    identity = EmbeddingSet("letters", "0" * 64, "none", "fp32", 128, True)

    def __init__(self) -> None:
        self.passes: list[list[str]] = []
        self.read: list[str] = []
        self.open = threading.Event()
        self.open.set()
        self.entered = threading.Semaphore(0)
        self.broken = False
        self.zero = False

    def tokenize(self, texts: Sequence[str]) -> list[Tokens]:
        self.read += texts
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


ROOM = 4


@pytest.fixture
async def scheduler(encoder: LetterEncoder) -> AsyncIterator[Scheduler]:
    made = Scheduler(
        encoder.encode, batch_tokens=64, queue_texts=ROOM, cost=Cost(2), idle_seconds=0.02
    )
    await made.start()
    yield made
    encoder.open.set()
    await made.stop(DEADLINE)


@pytest.fixture
async def embedder(
    encoder: LetterEncoder, scheduler: Scheduler, store: MemoryStore
) -> AsyncIterator[Embedder]:
    cache = VectorCache(store, encoder.identity, settings="s" * 64, seconds=60)
    made = Embedder(encoder, scheduler, cache)
    yield made
    encoder.open.set()
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


async def test_texts_that_were_joined_leave_no_flight_behind(
    embedder: Embedder, encoder: LetterEncoder
) -> None:
    encoder.open.clear()
    first = asyncio.create_task(embedder.embed(["a"]))
    await entered(encoder)
    # Its last text flies with the first request, the one before with a flight of its own.
    second = asyncio.create_task(embedder.embed(["b", "a"]))
    await until(lambda: embedder.queued == 1)
    encoder.open.set()
    await asyncio.gather(first, second)
    await until(lambda: embedder.in_flight == 0)


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


# -- places in the queue -----------------------------------------------------------------------


async def test_request_that_does_not_fit_is_refused_before_anything_is_done(
    embedder: Embedder, encoder: LetterEncoder, store: MemoryStore
) -> None:
    encoder.open.clear()
    running = asyncio.create_task(embedder.embed(["a"]))
    await entered(encoder)
    waiting = asyncio.create_task(embedder.embed(["b", "c"]))
    await until(lambda: embedder.queued == 2)
    looked, read = store.reads, list(encoder.read)
    for refused in (embedder.embed(["x", "y", "z"]), embedder.truncated(["x", "y", "z"])):
        with pytest.raises(Overloaded) as raised:
            await refused
        assert (raised.value.retry_after or 0) >= 1
    assert (store.reads, encoder.read) == (looked, read)
    # A text that is on its way already takes no second place.
    joined = asyncio.create_task(embedder.embed(["a", "b", "c", "d"]))
    await until(lambda: embedder.queued == 3)
    encoder.open.set()
    await asyncio.gather(running, waiting, joined)


async def test_places_are_held_while_texts_are_looked_up(
    embedder: Embedder, encoder: LetterEncoder
) -> None:
    tasks = [asyncio.create_task(embedder.embed([letter])) for letter in "abcdefgh"]
    ended = await asyncio.gather(*tasks, return_exceptions=True)
    # All eight came in one turn of the loop, before any was in the queue.
    assert [isinstance(one, Overloaded) for one in ended] == [False] * ROOM + [True] * ROOM


async def test_cached_texts_give_their_places_back(
    embedder: Embedder, encoder: LetterEncoder, scheduler: Scheduler
) -> None:
    await embedder.embed(["x", "y", "z"])
    await until(lambda: embedder.in_flight == 0)
    encoder.open.clear()
    encoder.entered = threading.Semaphore(0)
    running = asyncio.create_task(embedder.embed(["a"]))
    await entered(encoder)
    mixed = asyncio.create_task(embedder.embed(["x", "y", "z", "b"]))
    await until(lambda: embedder.queued == 1)
    assert scheduler.reserved == 0
    more = asyncio.create_task(embedder.embed(["c", "d", "e"]))
    await until(lambda: embedder.queued == ROOM)
    with pytest.raises(Overloaded):
        await embedder.embed(["f"])
    encoder.open.set()
    await asyncio.gather(running, mixed, more)


@pytest.mark.parametrize("turns", range(6))
async def test_cancelled_request_gives_its_places_back(
    embedder: Embedder,
    encoder: LetterEncoder,
    scheduler: Scheduler,
    monkeypatch: pytest.MonkeyPatch,
    turns: int,
) -> None:
    monkeypatch.setattr(embedder_module, "INLINE_CHARACTERS", 0)
    encoder.open.clear()
    leaving = asyncio.create_task(embedder.embed(["a", "b", "c"]))
    for _ in range(turns):
        await asyncio.sleep(0)
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    await until(lambda: (scheduler.depth, scheduler.reserved) == (0, 0))
    scheduler.reserve(ROOM).release()


async def test_a_long_text_that_is_tokenized_holds_up_nobody(
    embedder: Embedder, encoder: LetterEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedder_module, "INLINE_CHARACTERS", 4)
    begun, go = threading.Event(), threading.Event()
    tokenize, threads = encoder.tokenize, []

    def slow(texts: Sequence[str]) -> list[Tokens]:
        threads.append(threading.current_thread().name)
        if "endless" in texts:
            begun.set()
            assert go.wait(DEADLINE)
        return tokenize(texts)

    monkeypatch.setattr(encoder, "tokenize", slow)
    long = asyncio.create_task(embedder.embed(["endless"]))
    await until(begun.is_set)
    assert len((await embedder.embed(["a"])).vectors) == 1, "a short one, on the event loop"
    assert len((await embedder.embed(["another"])).vectors) == 1, "a long one, in another thread"
    assert not long.done()
    go.set()
    await long
    assert [name.partition("_")[0] for name in threads] == ["tokenizer", "MainThread", "tokenizer"]


VISITS = st.tuples(
    st.text("abcdefgh", min_size=1, max_size=6),
    st.sampled_from(["stay", "leave", "break", "lose the cache", "ask whether cut"]),
    st.integers(0, 6),
)


@settings(deadline=None, max_examples=30, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(visits=st.lists(VISITS, max_size=20))
def test_no_place_is_ever_lost(visits: list[tuple[str, str, int]]) -> None:
    # Up to two letters are tokenized at once, more in a thread.
    few = mock.patch.object(embedder_module, "INLINE_CHARACTERS", 2)
    with structlog.testing.capture_logs(), few:
        asyncio.run(_play(visits))


async def _play(visits: list[tuple[str, str, int]]) -> None:
    encoder, store = LetterEncoder(), MemoryStore()
    scheduler = Scheduler(
        encoder.encode, batch_tokens=64, queue_texts=ROOM, cost=Cost(2), idle_seconds=0.02
    )
    await scheduler.start()
    cache = VectorCache(store, encoder.identity, settings="s" * 64, seconds=60)
    embedder = Embedder(encoder, scheduler, cache)
    tasks: list[asyncio.Task[object]] = []
    for letters, deed, turns in visits:
        store.away = deed == "lose the cache"
        encoder.broken = deed == "break"
        if deed == "ask whether cut":
            tasks.append(asyncio.create_task(embedder.truncated(list(letters))))
        else:
            tasks.append(asyncio.create_task(embedder.embed(list(letters))))
        for _ in range(turns):
            await asyncio.sleep(0)
        if deed == "leave":
            tasks[-1].cancel()
        assert scheduler.depth + scheduler.reserved <= ROOM
    for ended in await asyncio.gather(*tasks, return_exceptions=True):
        assert not isinstance(ended, Exception) or isinstance(ended, (Overloaded, Unavailable))
    await until(lambda: (scheduler.depth, scheduler.reserved) == (0, 0))
    scheduler.reserve(ROOM).release()
    await until(lambda: embedder.in_flight == 0)
    assert await scheduler.stop(DEADLINE)
    await embedder.close()


# -- what is counted ---------------------------------------------------------------------------


def phases() -> dict[str, float]:
    name = "aistack_embeddings_phase_seconds_count"
    return {
        phase: REGISTRY.get_sample_value(name, {"phase": phase}) or 0.0
        for phase in ("cache", "tokenize", "queue", "encode")
    }


async def test_phases_are_counted_as_far_as_a_request_came(
    embedder: Embedder, encoder: LetterEncoder
) -> None:
    async def added(texts: list[str]) -> list[float]:
        before = phases()
        with contextlib.suppress(Unavailable):
            await embedder.embed(texts)
        await until(lambda: embedder.in_flight == 0)
        return [phases()[phase] - before[phase] for phase in before]

    assert await added(["a", "b"]) == [1, 1, 1, 1]
    assert await added(["a", "b"]) == [1, 0, 0, 0]
    encoder.broken = True
    with structlog.testing.capture_logs():
        assert await added(["c"]) == [1, 1, 0, 0]
