"""A deleted document's vectors leave the cache; a cache that is away holds up no delete."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from fix_aidb import AidbProcess, aidb_factory, eventually
from fix_embeddings import EmbeddingsProcess, MakeEmbeddings, ValkeyProcess
from fix_postgres import PostgresServer


@pytest.fixture
def embeddings(make_embeddings: MakeEmbeddings, valkey: ValkeyProcess) -> EmbeddingsProcess:
    service = make_embeddings(embeddings={"cache_seconds": 600}, redis={"url": valkey.url})
    service.start()
    return service


@pytest.fixture
def service(
    embeddings: EmbeddingsProcess, postgres_server: PostgresServer, migrated_template: str
) -> Iterator[AidbProcess]:
    with aidb_factory(postgres_server, migrated_template, embeddings) as make:
        made = make()
        made.start()
        yield made


def kept(valkey: ValkeyProcess) -> int:
    with redis.Redis(unix_socket_path=str(valkey.socket)) as client:
        return len(client.keys("emb:*"))


def ingested(service: AidbProcess, source: str, text: str) -> str:
    answer = service.upload(text, source)
    found = service.settled(answer.json()["id"])
    assert found["state"] == "ready", found
    return str(found["id"])


def forgotten(service: AidbProcess, outcome: str) -> float:
    name = f'aistack_aidb_forgotten_vectors_total{{outcome="{outcome}"}} '
    with service.client() as client:
        lines = client.get("/metrics").text.splitlines()
    return next((float(line.removeprefix(name)) for line in lines if line.startswith(name)), 0.0)


def test_a_delete_removes_the_vectors_of_its_chunks_from_the_cache(
    service: AidbProcess, valkey: ValkeyProcess
) -> None:
    ingested(service, "stays", "A lake below the hill.")
    sections = "\n\n".join(
        f"## Part {part}\n\n" + " ".join(f"Word {part} and {n}." for n in range(60))
        for part in range(4)
    )
    gone = ingested(service, "gone", sections)
    chunks = service.document(gone)["chunk_count"]
    assert chunks >= 4
    eventually(lambda: kept(valkey) == 1 + chunks, 10)
    with service.client() as client:
        assert client.delete(f"/v1/documents/{gone}").status_code == 204
    assert kept(valkey) == 1
    assert forgotten(service, "ok") == chunks


def test_a_delete_of_a_collection_removes_the_vectors_of_its_chunks_from_the_cache(
    service: AidbProcess, valkey: ValkeyProcess
) -> None:
    ingested(service, "stays", "A lake below the hill.")
    with service.client() as client:
        assert client.post("/v1/collections", json={"name": "hills"}).status_code == 201
        for number in range(3):
            answer = service.upload(f"Hill {number}.", f"{number}", collection="hills")
            service.settled(answer.json()["id"])
        eventually(lambda: kept(valkey) == 4, 10)
        assert client.delete("/v1/collections/hills").status_code == 204
    assert kept(valkey) == 1
    assert forgotten(service, "ok") == 3


def test_a_delete_is_done_without_the_cache_and_it_is_told(
    service: AidbProcess, embeddings: EmbeddingsProcess
) -> None:
    gone = ingested(service, "gone", "A lake below the hill.")
    embeddings.stop()
    with service.client() as client:
        assert client.delete(f"/v1/documents/{gone}").status_code == 204
        assert client.get(f"/v1/documents/{gone}").status_code == 404
    assert forgotten(service, "failed") == 1
    assert "vectors_not_forgotten" in service.log.read_text()


def test_a_hash_that_is_none_is_refused(embeddings: EmbeddingsProcess) -> None:
    refused: list[dict[str, list[str]]] = [
        {"sha256": []},
        {"sha256": ["ab"]},
        {"sha256": ["x" * 64]},
        {},
    ]
    with embeddings.client() as client:
        for wrong in refused:
            assert client.post("/v1/embeddings/forget", json=wrong).status_code in (400, 422), wrong
        unknown = client.post("/v1/embeddings/forget", json={"sha256": ["0" * 64]})
    assert unknown.status_code == 204
