"""The vector cache: its keys, its values, and how little it matters when it is away."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import structlog.testing
from prometheus_client import REGISTRY

from aistack.embeddings.cache import HEAD, Embedding, VectorCache, text_digest
from aistack.models import EmbeddingSet
from aistack.service.errors import Unavailable
from fix_embeddings import MemoryStore

SET = EmbeddingSet("m", "ab" * 32, "onnx", "fp32", 4, True)
UNIT = np.array([0.5, -0.5, 0.5, 0.5], dtype=np.float32)


def make(store: MemoryStore, identity: EmbeddingSet = SET, settings: str = "s" * 64) -> VectorCache:
    return VectorCache(store, identity, settings=settings, seconds=60)


def counted(name: str, outcome: str) -> float:
    return REGISTRY.get_sample_value(name, {"outcome": outcome}) or 0.0


async def test_what_was_put_is_found() -> None:
    store = MemoryStore()
    cache = make(store)
    digest = text_digest("text")
    await cache.put({digest: Embedding(UNIT, 5, True)})
    found = await cache.get([text_digest("other"), digest])
    assert list(found) == [digest]
    np.testing.assert_array_equal(found[digest].vector, UNIT)
    assert (found[digest].tokens, found[digest].truncated) == (5, True)
    assert found[digest].vector.flags.aligned
    assert store.lives == {60}


@pytest.mark.parametrize(
    "identity",
    [
        dataclasses.replace(SET, precision="int8"),
        dataclasses.replace(SET, engine="torch"),
        dataclasses.replace(SET, revision="cd" * 32),
    ],
)
async def test_vectors_of_another_set_are_never_found(identity: EmbeddingSet) -> None:
    store = MemoryStore()
    digest = text_digest("text")
    await make(store).put({digest: Embedding(UNIT, 5, False)})
    assert await make(store, identity).get([digest]) == {}


async def test_changed_model_settings_are_another_key() -> None:
    store = MemoryStore()
    digest = text_digest("text")
    await make(store).put({digest: Embedding(UNIT, 5, False)})
    assert await make(store, settings="t" * 64).get([digest]) == {}


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"short",
        HEAD.pack(5, False) + UNIT.tobytes() + b"\0",
        HEAD.pack(5, False) + UNIT.tobytes()[:-4],
        HEAD.pack(5, False) + np.zeros(4, dtype=np.float32).tobytes(),
        HEAD.pack(5, False) + np.full(4, np.nan, dtype=np.float32).tobytes(),
        HEAD.pack(5, False) + (UNIT * 2).tobytes(),
    ],
    ids=["empty", "short", "long", "cut", "zero", "nan", "not-unit"],
)
async def test_corrupt_value_is_a_miss(value: bytes) -> None:
    store = MemoryStore()
    cache = make(store)
    digest = text_digest("text")
    await cache.put({digest: Embedding(UNIT, 5, False)})
    store.values = dict.fromkeys(store.values, value)
    before = counted("aistack_embeddings_cache_total", "corrupt")
    assert await cache.get([digest]) == {}
    assert counted("aistack_embeddings_cache_total", "corrupt") == before + 1


async def test_store_that_is_away_costs_misses_and_one_line() -> None:
    store = MemoryStore()
    cache = make(store)
    digest = text_digest("text")
    before = counted("aistack_embeddings_cache_total", "error")
    written = counted("aistack_embeddings_cache_writes_total", "error")
    with structlog.testing.capture_logs() as lines:
        store.away = True
        for _ in range(3):
            assert await cache.get([digest]) == {}
            await cache.put({digest: Embedding(UNIT, 5, False)})
        store.away = False
        for _ in range(3):
            assert await cache.get([digest]) == {}
    assert [line["event"] for line in lines] == ["vector_cache_away", "vector_cache_back"]
    assert counted("aistack_embeddings_cache_total", "error") == before + 3
    assert counted("aistack_embeddings_cache_writes_total", "error") == written + 3


async def test_what_is_forgotten_is_encoded_again_and_the_rest_is_not() -> None:
    store = MemoryStore()
    cache = make(store)
    one, other = text_digest("one"), text_digest("other")
    await cache.put({one: Embedding(UNIT, 5, False), other: Embedding(UNIT, 5, False)})
    await cache.forget([one, text_digest("never seen")])
    assert list(await cache.get([one, other])) == [other]
    store.away = True
    with pytest.raises(Unavailable):
        await cache.forget([other])
