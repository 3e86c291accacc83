"""Source code, JSON and the language of a collection, over HTTP and through the real model."""

from __future__ import annotations

from typing import Any

from fix_aidb import AidbProcess, check_statistics

PYTHON = '''"""A store of things."""


class Store:
    """Keeps things by name."""

    def __init__(self, path):
        self.path = path
        self.things = {}
        self.opened = False
        self.readers = []
        self.writers = []

    def compact_segments(self, limit):
        """Merge small segments into one until fewer than the limit are left."""
        while len(self.segments) > limit:
            smallest = sorted(self.segments, key=len)[:2]
            self.segments.remove(smallest[0])
            self.segments.remove(smallest[1])
            self.segments.append(smallest[0] + smallest[1])
'''


def upload(aidb: AidbProcess, name: str, content: bytes, **fields: str) -> Any:
    with aidb.client() as client:
        sent = client.post(
            "/v1/documents",
            files={"file": (name, content, "application/octet-stream")},
            data=fields,
        )
    assert sent.status_code == 202, sent.text
    return aidb.settled(sent.json()["id"])


def collection(aidb: AidbProcess, name: str) -> str:
    with aidb.client() as client:
        made = client.post("/v1/collections", json={"name": name})
    assert made.status_code in (200, 201), made.text
    return name


def search(aidb: AidbProcess, query: str, collection: str, mode: str = "hybrid") -> list[Any]:
    with aidb.client() as client:
        answer = client.post(
            "/v1/search", json={"query": query, "collection": collection, "mode": mode}
        )
    assert answer.status_code == 200, answer.text
    found = answer.json()
    return list(found.get("hits") or found.get("data") or [])


def test_a_function_is_found_by_its_name_and_says_where_it_is(aidb: AidbProcess) -> None:
    made = upload(aidb, "store.py", PYTHON.encode(), collection=collection(aidb, "sources"))
    assert (made["state"], made["content_type"]) == ("ready", "text/x-python")
    for mode in ("hybrid", "lexical"):
        best = search(aidb, "compact_segments", "sources", mode)[0]
        assert best["heading_path"] == ["class Store", "def compact_segments"]
        assert best["text"].strip() in PYTHON
        assert best["text"].lstrip().startswith("def compact_segments")


def test_a_part_of_json_is_found_with_its_path(aidb: AidbProcess) -> None:
    note = "It answers on the port below and keeps what it was told. " * 5
    content = f'{{"services": [{{"name": "kestrel", "note": "{note}"}}, '
    content += f'{{"name": "merlin", "note": "{note}"}}, {{"name": "hobby", "note": "{note}"}}]}}'
    made = upload(aidb, "services.json", content.encode(), collection=collection(aidb, "json"))
    assert (made["state"], made["content_type"]) == ("ready", "application/json")
    best = search(aidb, "merlin", "json")[0]
    assert best["heading_path"] == ["$.services[1]"]
    assert best["text"] in content


def test_json_that_is_none_is_refused_at_its_place_and_leaves_nothing(aidb: AidbProcess) -> None:
    before = aidb.counts()
    with aidb.client() as client:
        for kind in ("application/json", "application/octet-stream"):
            files = {"file": ("a.json", b'{"a": 1\n "b": 2}', kind)}
            answer = client.post("/v1/documents", files=files)
            assert answer.status_code == 422, answer.text
            assert "line 2, column 2" in answer.json()["detail"]
    assert aidb.counts() == before


def test_a_german_collection_finds_inflected_words(aidb: AidbProcess) -> None:
    with aidb.client() as client:
        for name, settings in (("berichte", {"language": "german"}), ("reports", {})):
            made = client.post("/v1/collections", json={"name": name, "settings": settings})
            assert made.status_code == 201, made.text
            assert made.json()["settings"]["language"] == settings.get("language", "english")
    text = "Die Häuser der Bürgermeister stehen neben services.nginx.enable im Dorf."
    for name in ("berichte", "reports"):
        assert upload(aidb, "bericht.txt", text.encode(), collection=name)["state"] == "ready"
    # The English stemmer does not know that these are one word.
    assert search(aidb, "Haus", "reports", "lexical") == []
    for query in ("Haus", "Häusern", "bürgermeisters", "nginx", "services.nginx.enable"):
        assert len(search(aidb, query, "berichte", "lexical")) == 1, query
    rows = aidb.rows(
        "SELECT c.name, d.analyzer FROM documents d JOIN collections c ON c.id = d.collection_id"
        " WHERE c.name IN ('berichte', 'reports') ORDER BY 1"
    )
    assert rows[0][1].startswith("1-german-")
    assert "english" not in rows[1][1]
    check_statistics(aidb.rows)


def test_the_language_changes_only_while_there_are_no_documents(aidb: AidbProcess) -> None:
    path = "/v1/collections/changing"
    with aidb.client() as client:
        bad = client.post(
            "/v1/collections", json={"name": "changing", "settings": {"language": "klingon"}}
        )
        assert bad.status_code == 422
        assert "german" in bad.json()["detail"]
        assert client.post("/v1/collections", json={"name": "changing"}).status_code == 201
        empty = client.patch(path, json={"settings": {"language": "french"}})
        assert empty.json()["settings"]["language"] == "french"
        document = upload(aidb, "a.txt", b"Les chevaux.", collection="changing")
        for language in ("german", None):
            refused = client.patch(path, json={"settings": {"language": language}})
            assert refused.status_code == 409, refused.text
            assert "another collection" in refused.json()["detail"]
        same = client.patch(path, json={"settings": {"language": "french", "rrf_k": 30}})
        assert same.status_code == 200, same.text
        assert client.delete(f"/v1/documents/{document['id']}").status_code in (200, 204)
        assert client.patch(path, json={"settings": {"language": None}}).status_code == 200
