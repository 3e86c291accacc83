"""The vector cache on a real Valkey: used when there, harmless when killed, mended when wrong."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import redis

from fix_embeddings import EmbeddingsProcess, MakeEmbeddings, ValkeyProcess

BODY = {"model": "all-minilm-l6-v2", "input": ["eating food", "having a meal"]}


@pytest.fixture
def cached(make_embeddings: MakeEmbeddings, valkey: ValkeyProcess) -> EmbeddingsProcess:
    """A service whose cache is on."""
    service = make_embeddings(embeddings={"cache_seconds": 600}, redis={"url": valkey.url})
    service.start()
    return service


def ask(service: EmbeddingsProcess) -> dict[str, Any]:
    with service.client() as http:
        answer = http.post("/v1/embeddings", json=BODY)
    assert answer.status_code == 200, answer.text
    given: dict[str, Any] = answer.json()
    return given


def until(condition: Callable[[], bool], seconds: float = 15) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def passes(service: EmbeddingsProcess) -> float:
    return service.metric("aistack_embeddings_passes_total", outcome="ok")


def look_ups(service: EmbeddingsProcess, outcome: str) -> float:
    return service.metric("aistack_embeddings_cache_total", outcome=outcome)


def readiness(service: EmbeddingsProcess) -> tuple[int, str]:
    with service.client() as http:
        ready = http.get("/readyz")
    return ready.status_code, ready.json()["status"]


def stored(valkey: ValkeyProcess) -> dict[bytes, bytes]:
    with redis.Redis(unix_socket_path=str(valkey.socket)) as client:
        return {key: client.get(key) for key in client.keys("emb:*")}


def test_cached_texts_cost_no_pass_and_give_the_same_answer(
    cached: EmbeddingsProcess, valkey: ValkeyProcess
) -> None:
    first = ask(cached)
    until(lambda: len(stored(valkey)) == 2)
    before = passes(cached)
    again = ask(cached)
    assert passes(cached) == before
    assert look_ups(cached, "hit") == 2
    assert again == first
    with redis.Redis(unix_socket_path=str(valkey.socket)) as client:
        lives = [client.ttl(key) for key in client.keys("emb:*")]
    assert all(500 < life <= 600 for life in lives)


def test_cached_texts_survive_a_restart_of_the_service(
    cached: EmbeddingsProcess, valkey: ValkeyProcess
) -> None:
    first = ask(cached)
    until(lambda: len(stored(valkey)) == 2)
    assert cached.stop() == 0
    cached.start()
    assert ask(cached) == first
    assert look_ups(cached, "hit") == 2


@pytest.mark.parametrize("value", [b"", b"\x00" * 1541, b"\xff" * 1541, b"x" * 100])
def test_corrupt_values_are_encoded_anew(
    cached: EmbeddingsProcess, valkey: ValkeyProcess, value: bytes
) -> None:
    first = ask(cached)
    until(lambda: len(stored(valkey)) == 2)
    good = stored(valkey)
    with redis.Redis(unix_socket_path=str(valkey.socket)) as client:
        for key in good:
            client.set(key, value)
    again = ask(cached)
    assert look_ups(cached, "corrupt") == 2
    np.testing.assert_allclose(
        [row["embedding"] for row in again["data"]],
        [row["embedding"] for row in first["data"]],
        atol=1e-6,
    )
    until(lambda: stored(valkey).keys() == good.keys() and value not in stored(valkey).values())


def test_killed_cache_is_harmless_and_comes_back(
    cached: EmbeddingsProcess, valkey: ValkeyProcess
) -> None:
    first = ask(cached)
    valkey.stop()
    for _ in range(5):
        again = ask(cached)
        assert again["usage"] == first["usage"]
    assert cached.metric("aistack_dependency_breaker_state", dependency="redis") == 2
    # Readiness is at most a second old.
    until(lambda: readiness(cached) == (200, "degraded"))
    lines = cached.log.read_text(encoding="utf-8")
    assert lines.count('"vector_cache_away"') == 1
    valkey.start()

    def healed() -> bool:
        ask(cached)
        return look_ups(cached, "hit") >= 2

    until(healed)
    assert cached.metric("aistack_dependency_breaker_state", dependency="redis") == 0
    lines = cached.log.read_text(encoding="utf-8")
    assert lines.count('"vector_cache_back"') == 1
