"""What a delete leaves of cached searches: nothing that a search had found."""

from __future__ import annotations

from fix_aidb import AidbProcess, MakeAidb

TEXT = "Zirconium is mentioned once."


def cached(aidb: AidbProcess) -> list[tuple[str, bytes]]:
    """Every result that is kept, with its collection."""
    return aidb.rows(
        "SELECT c.name, r.wire FROM search_results r LEFT JOIN collections c"
        " ON c.id = r.collection_id ORDER BY 1"
    )


def search(aidb: AidbProcess, collection: str) -> dict[str, object]:
    with aidb.client() as client:
        answer = client.post("/v1/search", json={"query": "zirconium", "collection": collection})
    assert answer.status_code == 200, answer.text
    body: dict[str, object] = answer.json()
    return body


def test_cached_searches_of_what_is_deleted_are_not_reachable_and_gone(
    make_aidb: MakeAidb,
) -> None:
    aidb = make_aidb()
    aidb.start()
    with aidb.client() as client:
        for name in ("a", "b"):
            assert client.post("/v1/collections", json={"name": name}).status_code == 201
    _, gone, third = (
        aidb.settled(aidb.upload(TEXT, source, collection=collection).json()["id"])["id"]
        for collection, source in (("a", "kept"), ("b", "gone"), ("b", "third"))
    )
    for collection in ("a", "b"):
        search(aidb, collection)
        assert search(aidb, collection)["cached"] is True
    assert [(name, TEXT.encode() in wire) for name, wire in cached(aidb)] == [
        ("a", True),
        ("b", True),
    ]
    with aidb.client() as client:
        assert client.delete(f"/v1/documents/{gone}").status_code == 204
    (left,) = cached(aidb)
    assert left[0] == "a"
    again = search(aidb, "b")
    assert again["cached"] is False
    assert gone not in str(again)
    assert third in str(again)
    # A whole collection too; and the other one's entries stay where they are.
    with aidb.client() as client:
        assert client.delete("/v1/collections/b").status_code == 204
    assert cached(aidb) == [left]
    assert search(aidb, "a")["cached"] is True
