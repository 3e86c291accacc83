"""What a delete leaves in Redis: nothing that a search had found."""

from __future__ import annotations

import redis

from fix_aidb import AidbProcess, MakeAidb
from fix_embeddings import ValkeyProcess

TEXT = "Zirconium is mentioned once."


def cached(valkey: ValkeyProcess) -> list[bytes]:
    """Every value of the search cache, the names of its keys too."""
    client = redis.Redis(unix_socket_path=str(valkey.socket))
    found = []
    for key in client.keys("aidb:search:*"):
        assert isinstance(key, bytes)
        if client.type(key) == b"string":
            value = client.get(key)
            assert isinstance(value, bytes)
            found.append(key + b" " + value)
    client.close()
    return sorted(found)


def search(aidb: AidbProcess, collection: str) -> dict[str, object]:
    with aidb.client() as client:
        answer = client.post("/v1/search", json={"query": "zirconium", "collection": collection})
    assert answer.status_code == 200, answer.text
    body: dict[str, object] = answer.json()
    return body


def test_cached_searches_of_what_is_deleted_are_not_reachable_and_gone(
    make_aidb: MakeAidb, valkey: ValkeyProcess
) -> None:
    aidb = make_aidb(redis={"url": valkey.url})
    aidb.start()
    with aidb.client() as client:
        for name in ("a", "b"):
            assert client.post("/v1/collections", json={"name": name}).status_code == 201
    kept, gone, third = (
        aidb.settled(aidb.upload(TEXT, source, collection=collection).json()["id"])["id"]
        for collection, source in (("a", "kept"), ("b", "gone"), ("b", "third"))
    )
    for collection in ("a", "b"):
        search(aidb, collection)
        assert search(aidb, collection)["cached"] is True
    assert [TEXT.encode() in value for value in cached(valkey)] == [True, True]
    with aidb.client() as client:
        assert client.delete(f"/v1/documents/{gone}").status_code == 204
    (left,) = cached(valkey)
    assert b":a:" in left
    again = search(aidb, "b")
    assert again["cached"] is False
    assert gone not in str(again)
    assert third in str(again)
    # A whole collection too; and the other one's entries stay where they are.
    with aidb.client() as client:
        assert client.delete("/v1/collections/b").status_code == 204
    assert cached(valkey) == [left]
    assert search(aidb, "a")["cached"] is True
    # Without Redis a delete is a delete.
    valkey.stop()
    with aidb.client() as client:
        assert client.delete(f"/v1/documents/{kept}").status_code == 204
        assert client.get(f"/v1/documents/{kept}").status_code == 404
    assert aidb.counts()["chunks"] == 0
