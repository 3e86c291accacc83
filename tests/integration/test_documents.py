"""Documents over HTTP: kept, made searchable, replaced, listed, deleted, and refused."""

from __future__ import annotations

import base64
import hashlib
import json
import socket
from typing import Any

import pytest

from aistack.service.keys import read_key
from fix_aidb import AidbProcess, check_statistics, eventually

TARN = "# Tarns\n\nA tarn is a small lake in the mountains.\n\n# Fells\n\nA fell is a high hill.\n"


def upload(aidb: AidbProcess, text: str, source: str, **members: Any) -> dict[str, Any]:
    answer = aidb.upload(text, source, **members)
    assert answer.status_code == 202, answer.text
    return aidb.settled(answer.json()["id"])


def test_an_upload_is_answered_when_kept_and_becomes_searchable(aidb: AidbProcess) -> None:
    answer = aidb.upload(TARN, "tarn.md", content_type="text/markdown", metadata={"year": 2026})
    assert answer.status_code == 202, answer.text
    body = answer.json()
    assert body["state"] == "pending"
    assert body["job"]["id"] > 0
    assert answer.headers["location"] == f"/v1/documents/{body['id']}"
    ready = aidb.settled(body["id"])
    assert ready["state"] == "ready"
    assert ready["chunk_count"] >= 1
    assert ready["title"] == "Tarns"
    assert ready["metadata"] == {"year": 2026}
    assert ready["created_by"] == "default" or ready["created_by"]
    chunks = aidb.rows(
        "SELECT text, char_start, char_end FROM chunks WHERE document_id = %s ORDER BY ordinal",
        body["id"],
    )
    with aidb.client() as client:
        text = client.get(f"/v1/documents/{body['id']}/text").json()["text"]
    assert [text[start:end] for _, start, end in chunks] == [chunk for chunk, _, _ in chunks]
    check_statistics(aidb.rows)


def test_the_same_upload_again_is_no_work(aidb: AidbProcess) -> None:
    first = upload(aidb, "The same words.", "same")
    again = aidb.upload("The same words.", "same")
    assert again.status_code == 200
    assert again.json() == first


def test_large_numbers_of_metadata_come_back_as_they_were(aidb: AidbProcess) -> None:
    # PostgreSQL writes 1e300 with 301 digits.
    given = {"large": 1e300, "mask": 2**53 - 1, "small": -1e300, "year": 2026}
    text = "Words that carry large numbers."
    assert upload(aidb, text, "large-numbers", metadata=given)["metadata"] == given
    with aidb.client() as client:
        answer = client.post("/v1/search", json={"query": text})
    assert answer.status_code == 200, answer.text
    assert answer.json()["hits"][0]["metadata"] == given


def test_changed_metadata_is_kept_without_embedding_again(aidb: AidbProcess) -> None:
    first = upload(aidb, "Words with an attribute.", "attributed", metadata={"a": 1})
    chunks = aidb.rows("SELECT id FROM chunks WHERE document_id = %s", first["id"])
    epoch = aidb.rows("SELECT epoch FROM collections WHERE name = 'default'")[0][0]
    again = aidb.upload("Words with an attribute.", "attributed", metadata={"a": 2}, title="T")
    assert again.status_code == 200
    body = again.json()
    assert (body["metadata"], body["title"], body["state"]) == ({"a": 2}, "T", "ready")
    assert aidb.rows("SELECT id FROM chunks WHERE document_id = %s", first["id"]) == chunks
    assert aidb.rows("SELECT epoch FROM collections WHERE name = 'default'")[0][0] == epoch + 1


def test_changed_bytes_replace_the_chunks(aidb: AidbProcess) -> None:
    first = upload(aidb, "Everything about marmots.", "changing")
    second = upload(aidb, "Everything about glaciers.", "changing")
    assert second["id"] == first["id"]
    assert second["version"] == second["searchable_version"] == 2
    texts = aidb.rows("SELECT text FROM chunks WHERE document_id = %s", first["id"])
    assert texts == [("Everything about glaciers.",)]
    assert aidb.rows("SELECT 1 FROM terms WHERE term = 'marmot'") == []
    check_statistics(aidb.rows)


def test_deleting_a_document_leaves_nothing_of_it(aidb: AidbProcess) -> None:
    before = aidb.counts()
    body = upload(aidb, "Zirconium is mentioned once.", "gone")
    assert aidb.counts() != before
    with aidb.client() as client:
        assert client.delete(f"/v1/documents/{body['id']}").status_code == 204
        assert client.get(f"/v1/documents/{body['id']}").status_code == 404
        assert client.delete(f"/v1/documents/{body['id']}").status_code == 404
    assert aidb.counts() == before
    check_statistics(aidb.rows)


def test_deleting_a_collection_leaves_nothing_of_it(aidb: AidbProcess) -> None:
    before = aidb.counts()
    with aidb.client() as client:
        made = client.post("/v1/collections", json={"name": "short-lived"})
        assert made.status_code == 201, made.text
        assert client.post("/v1/collections", json={"name": "short-lived"}).status_code == 200
        for number in range(3):
            upload(aidb, f"Document {number} of it.", f"{number}", collection="short-lived")
        body = client.get("/v1/collections/short-lived").json()
        assert (body["document_count"], body["chunk_count"]) == (3, 3)
        assert client.delete("/v1/collections/short-lived").status_code == 204
        assert client.get("/v1/collections/short-lived").status_code == 404
    assert aidb.counts() == before
    assert aidb.rows("SELECT 1 FROM collections WHERE name = 'short-lived'") == []
    check_statistics(aidb.rows)


def test_pages_hold_every_document_once(aidb: AidbProcess) -> None:
    with aidb.client() as client:
        client.post("/v1/collections", json={"name": "paged"})
        for number in range(7):
            assert aidb.upload(f"Page {number}.", f"{number}", collection="paged").is_success
        seen: list[str] = []
        cursor: str | None = None
        while True:
            parameters = {"collection": "paged", "limit": "3"}
            if cursor is not None:
                parameters["cursor"] = cursor
            page = client.get("/v1/documents", params=parameters).json()
            seen += [document["source"] for document in page["data"]]
            cursor = page["next_cursor"]
            if cursor is None:
                break
    assert seen == ["6", "5", "4", "3", "2", "1", "0"]


def test_documents_are_found_by_their_names(aidb: AidbProcess) -> None:
    names = ["n/a.md", "n/\u00e9 &=?#+.md", "n/" + "x" * 300]
    with aidb.client() as client:
        for collection in ("named", "elsewhere"):
            client.post("/v1/collections", json={"name": collection})
            for name in names:
                answer = aidb.upload(f"{collection} {name}", name, collection=collection)
                assert answer.is_success, answer.text

        def found(*asked: str) -> dict[str, str]:
            answer = client.get(
                "/v1/documents", params={"collection": "named", "source": list(asked)}
            )
            assert answer.status_code == 200, answer.text
            return {one["source"]: one["sha256"] for one in answer.json()["data"]}

        wanted = {
            name: hashlib.sha256(f"named {name}".encode()).hexdigest() for name in sorted(names)
        }
        assert found(*names, "n/unknown") == wanted
        assert found(names[1]) == {names[1]: wanted[names[1]]}
        assert found("n/unknown") == {}


def test_collections_are_listed_by_name_in_pages(aidb: AidbProcess) -> None:
    names = [f"listed-{number}" for number in range(5)]
    with aidb.client() as client:
        for name in reversed(names):
            assert client.post("/v1/collections", json={"name": name}).status_code == 201
        everything = client.get("/v1/collections").json()
        assert everything["next_cursor"] is None
        seen: list[str] = []
        cursor: str | None = None
        while True:
            page = client.get(
                "/v1/collections",
                params={"limit": "2", **({} if cursor is None else {"cursor": cursor})},
            ).json()
            assert len(page["data"]) <= 2
            seen += [collection["name"] for collection in page["data"]]
            cursor = page["next_cursor"]
            if cursor is None:
                break
        for name in names:
            assert client.delete(f"/v1/collections/{name}").status_code == 204
    assert seen == [collection["name"] for collection in everything["data"]]
    assert [name for name in seen if name.startswith("listed-")] == names


def test_a_replacement_that_fails_shows_what_is_searchable_and_what_is_pending(
    aidb: AidbProcess,
) -> None:
    first = upload(aidb, "Everything about otters.", "fragile", title="A", metadata={"v": 1})
    assert first["pending"] is None
    failed = upload(
        aidb, "<script>x</script>", "fragile", metadata={"v": 2}, content_type="text/html"
    )
    assert (failed["state"], failed["version"], failed["searchable_version"]) == ("failed", 2, 1)
    assert (failed["title"], failed["metadata"]) == ("A", {"v": 1})
    assert failed["content_type"] == "text/plain"
    pending = {"title": None, "content_type": "text/html", "metadata": {"v": 2}}
    assert failed["pending"] == pending


def test_an_upload_that_is_broken_off_is_the_clients_doing(aidb: AidbProcess) -> None:
    gone = 'aistack_http_requests_total{method="POST",route="/v1/documents",status="499"}'

    def counted() -> float:
        with aidb.client() as client:
            lines = client.get("/metrics").text.splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(gone))

    for kind in ("application/json", "multipart/form-data; boundary=x"):
        before, logged = counted(), len(aidb.log.read_text())
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(aidb.socket))
            key = read_key(aidb.keys.default_key_file)
            connection.sendall(
                f"POST /v1/documents HTTP/1.1\r\nhost: aidb\r\nauthorization: Bearer {key}\r\n"
                f"content-type: {kind}\r\ncontent-length: 5000\r\n\r\n--x\r\n".encode()
            )
        eventually(lambda before=before: counted() == before + 1, 10, aidb.log.read_text)  # type: ignore[misc]
        assert "unexpected" not in aidb.log.read_text()[logged:]


def test_a_form_uploads_a_file(aidb: AidbProcess) -> None:
    with aidb.client() as client:
        answer = client.post(
            "/v1/documents",
            files={"file": ("notes.md", TARN.encode(), "application/octet-stream")},
            data={"metadata": json.dumps({"tags": ["a", "b"]}), "title": "Notes"},
        )
    assert answer.status_code == 202, answer.text
    body = aidb.settled(answer.json()["id"])
    assert body["state"] == "ready"
    assert body["source"] == "notes.md"
    assert body["content_type"] == "text/markdown"
    assert body["metadata"] == {"tags": ["a", "b"]}


BAD: dict[str, tuple[dict[str, Any], int]] = {
    "empty": ({"text": ""}, 422),
    "blank": ({"text": " \n\t"}, 422),
    "NUL in the text": ({"text": "a\0b"}, 422),
    "NUL in the source": ({"text": "a", "source": "a\0b"}, 422),
    "NUL in the title": ({"text": "a", "title": "a\0b"}, 422),
    "NUL in metadata": ({"text": "a", "metadata": {"k": "\0"}}, 422),
    "neither text nor content": ({"source": "x"}, 400),
    "both text and content": ({"text": "a", "content_base64": "YQ=="}, 400),
    "broken base64": ({"content_base64": "%%%"}, 400),
    "broken UTF-8": ({"content_base64": base64.b64encode(b"caf\xe9\xff").decode()}, 422),
    "not a PDF": ({"text": "hello", "content_type": "application/pdf"}, 422),
    "broken PDF": (
        {
            "content_base64": base64.b64encode(b"%PDF-1.7\n" + b"x" * 500).decode(),
            "content_type": "application/pdf",
        },
        422,
    ),
    "unknown type": ({"text": "a", "content_type": "image/png"}, 415),
    "unknown collection": ({"text": "a", "collection": "nowhere"}, 404),
    "bad collection name": ({"text": "a", "collection": "../x"}, 422),
    "unknown field": ({"text": "a", "sauce": "b"}, 422),
    "wrong type": ({"text": 3}, 422),
    "nested metadata": ({"text": "a", "metadata": {"k": {"x": 1}}}, 422),
    "null in metadata": ({"text": "a", "metadata": {"k": None}}, 422),
    "huge number": ({"text": "a", "metadata": {"k": 10**30}}, 422),
    "bad field name": ({"text": "a", "metadata": {"a b": 1}}, 422),
    "much metadata": ({"text": "a", "metadata": {f"k{i}": 1 for i in range(100)}}, 422),
    "long source": ({"text": "a", "source": "x" * 5000}, 422),
    "too large": ({"text": "word " * 2_100_000}, 413),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_searched_is_refused_and_leaves_nothing(
    aidb: AidbProcess, name: str
) -> None:
    body, status = BAD[name]
    before = aidb.counts()
    with aidb.client() as client:
        answer = client.post("/v1/documents", json=body)
    assert answer.status_code == status, answer.text[:500]
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["detail"]
    assert aidb.counts() == before


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/documents/not-a-uuid", 422),
        ("GET", "/v1/documents/00000000-0000-0000-0000-000000000000", 404),
        ("GET", "/v1/documents/00000000-0000-0000-0000-000000000000/text", 404),
        ("GET", "/v1/documents?limit=0", 422),
        ("GET", "/v1/documents?limit=1000000", 422),
        ("GET", "/v1/documents?cursor=nonsense", 400),
        ("GET", "/v1/documents?cursor=%00", 400),
        ("GET", "/v1/documents?state=lost", 422),
        ("GET", "/v1/documents?source=%00", 422),
        ("GET", "/v1/documents?" + "&".join(["source=x"] * 51), 422),
        ("GET", "/v1/documents?collection=nowhere", 404),
        ("GET", "/v1/collections/nowhere", 404),
        ("GET", "/v1/collections?limit=0", 422),
        ("GET", "/v1/collections?limit=101", 422),
        ("GET", "/v1/collections?cursor=%00", 400),
        ("GET", "/v1/collections?cursor=Li4v", 400),
        ("GET", "/v1/collections/%ED%A0%80", 422),
        ("GET", "/v1/documents?collection=%ED%A0%80", 422),
        ("GET", "/v1/documents?cursor=%ED%A0%80", 400),
        ("GET", "/v1/collections/%00", 422),
        ("DELETE", "/v1/collections/nowhere", 404),
    ],
)
def test_bad_questions_are_told_so(aidb: AidbProcess, method: str, path: str, status: int) -> None:
    with aidb.client() as client:
        answer = client.request(method, path)
    assert answer.status_code == status, answer.text


def test_a_form_without_a_file_and_other_bodies_are_refused(aidb: AidbProcess) -> None:
    with aidb.client() as client:
        empty = client.post("/v1/documents", files={"other": ("a.txt", b"a")})
        assert empty.status_code == 400
        plain = client.post("/v1/documents", content=b"a", headers={"content-type": "text/plain"})
        assert plain.status_code == 415
        broken = client.post(
            "/v1/documents", content=b"{", headers={"content-type": "application/json"}
        )
        assert broken.status_code == 400
        half = client.post(
            "/v1/documents",
            content=b'{"text": "a \\ud800"}',
            headers={"content-type": "application/json"},
        )
        assert half.status_code in (400, 422)
