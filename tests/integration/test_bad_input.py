"""Bad input: each a clear 4xx with a documented shape, and nothing left behind."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from fix_stack import RunningStack, wait_until

MINILM = "all-minilm-l6-v2"


@pytest.fixture
def http(stack: RunningStack) -> Iterator[httpx.Client]:
    with httpx.Client(
        base_url=stack.base_url, headers={"authorization": f"Bearer {stack.key}"}, timeout=120
    ) as client:
        yield client


def documents(http: httpx.Client) -> int:
    """How many documents there are in all collections."""
    answer = http.get("/v1/collections")
    assert answer.status_code == 200, answer.text
    return sum(collection["document_count"] for collection in answer.json()["data"])


def b64(content: bytes) -> str:
    return base64.b64encode(content).decode()


BAD_DOCUMENTS: dict[str, tuple[dict[str, Any], set[int]]] = {
    "empty text": ({"text": "", "source": "e"}, {400, 422}),
    "blank text": ({"text": " \n\t ", "source": "e"}, {400, 422}),
    "no content": ({"source": "e"}, {400, 422}),
    "both contents": ({"text": "a", "content_base64": "YQ==", "source": "e"}, {400, 422}),
    "NUL bytes": ({"text": "a\x00b", "source": "e"}, {400, 422}),
    "NUL in source": ({"text": "a", "source": "a\x00b"}, {400, 422}),
    "NUL in metadata": ({"text": "a", "metadata": {"k": "a\x00"}}, {400, 422}),
    "too large": ({"text": "word " * 2_200_000, "source": "e"}, {413}),
    "broken base64": ({"content_base64": "%%%", "source": "e"}, {400, 422}),
    "broken UTF-8": (
        {"content_base64": b64(b"caf\xe9 \xff"), "content_type": "text/plain"},
        {400, 415, 422},
    ),
    "unknown collection": ({"text": "a", "collection": "no-such"}, {404}),
    "bad collection name": ({"text": "a", "collection": "../x"}, {404, 422}),
    "unknown type": ({"text": "a", "content_type": "image/png"}, {415, 422}),
    "unknown field": ({"text": "a", "sauce": "e"}, {422}),
    "wrong type": ({"text": 3}, {422}),
    "nested metadata": ({"text": "a", "metadata": {"a": {"b": 1}}}, {422}),
    "long source": ({"text": "a", "source": "x" * 100_000}, {422}),
}


@pytest.mark.parametrize("name", BAD_DOCUMENTS)
def test_bad_document_is_refused_and_leaves_nothing(http: httpx.Client, name: str) -> None:
    body, allowed = BAD_DOCUMENTS[name]
    before = documents(http)
    answer = http.post("/v1/documents", json=body)
    assert answer.status_code in allowed, answer.text[:500]
    problem = answer.json()
    assert answer.headers["content-type"] == "application/problem+json"
    assert problem["detail"]
    assert problem["error_id"]
    assert documents(http) == before


def test_lone_surrogate_is_refused(http: httpx.Client) -> None:
    answer = http.post(
        "/v1/documents",
        content=b'{"text": "a \\ud800 b"}',
        headers={"content-type": "application/json"},
    )
    assert answer.status_code in (400, 422), answer.text


def test_ten_megabytes_of_text_are_told_the_limit(http: httpx.Client) -> None:
    answer = http.post("/v1/documents", json={"text": "x " * 5_300_000})
    assert answer.status_code == 413
    assert "10" in answer.json()["detail"]


def test_broken_pdf_fails_with_a_sentence_and_is_never_found(http: httpx.Client) -> None:
    answer = http.post(
        "/v1/documents",
        json={
            "content_base64": b64(b"%PDF-1.7\nthis is no PDF at all"),
            "content_type": "application/pdf",
            "source": "broken.pdf",
        },
    )
    if answer.status_code in (400, 415, 422):
        return
    assert answer.status_code == 202, answer.text
    identifier = answer.json()["id"]

    def state() -> str:
        return str(http.get(f"/v1/documents/{identifier}").json()["state"])

    wait_until(lambda: state() in ("failed", "ready"), 60, "the broken PDF is not judged")
    document = http.get(f"/v1/documents/{identifier}").json()
    assert document["state"] == "failed"
    assert document["error"]
    assert "Traceback" not in document["error"]
    assert document["chunk_count"] == 0
    assert http.delete(f"/v1/documents/{identifier}").status_code == 204
    assert http.get(f"/v1/documents/{identifier}").status_code == 404


BAD_SEARCHES: dict[str, tuple[dict[str, Any], set[int]]] = {
    "empty": ({"query": ""}, {400, 422}),
    "blank": ({"query": "  "}, {400, 422}),
    "NUL": ({"query": "a\x00"}, {400, 422}),
    "huge": ({"query": "x" * 1_000_000}, {400, 413, 422}),
    "unknown collection": ({"query": "x", "collection": "no-such"}, {404}),
    "limit 0": ({"query": "x", "limit": 0}, {422}),
    "limit 10^9": ({"query": "x", "limit": 10**9}, {422}),
    "limit huge": ({"query": "x", "limit": 10**40}, {422}),
    "offset -1": ({"query": "x", "offset": -1}, {422}),
    "mode": ({"query": "x", "mode": "magic"}, {422}),
    "filter operator": ({"query": "x", "filters": {"a": {"like": "x"}}}, {422}),
    "unknown field": ({"query": "x", "top": 3}, {422}),
    "wrong type": ({"query": ["x"]}, {422}),
}


@pytest.mark.parametrize("name", BAD_SEARCHES)
def test_bad_search_is_refused(http: httpx.Client, name: str) -> None:
    body, allowed = BAD_SEARCHES[name]
    answer = http.post("/v1/search", json=body)
    assert answer.status_code in allowed, answer.text[:500]
    assert answer.json()["error_id"]


BAD_EMBEDDINGS: dict[str, dict[str, Any]] = {
    "empty": {"model": MINILM, "input": ""},
    "empty list": {"model": MINILM, "input": []},
    "token ids": {"model": MINILM, "input": [1, 2, 3]},
    "token id lists": {"model": MINILM, "input": [[1, 2], [3]]},
    "huge batch": {"model": MINILM, "input": ["x"] * 100_000},
    "other dimension": {"model": MINILM, "input": "x", "dimensions": 5},
    "format": {"model": MINILM, "input": "x", "encoding_format": "hex"},
    "unknown field": {"model": MINILM, "input": "x", "inputt": "y"},
    "no input": {"model": MINILM},
    "number": {"model": MINILM, "input": 3},
}


@pytest.mark.parametrize("name", BAD_EMBEDDINGS)
def test_bad_embedding_request_is_refused(http: httpx.Client, name: str) -> None:
    answer = http.post("/v1/embeddings", json=BAD_EMBEDDINGS[name])
    assert answer.status_code in (400, 413), answer.text[:500]
    assert answer.json()["error"]["message"]


BAD_CHATS: dict[str, dict[str, Any]] = {
    "no messages": {"model": "local", "messages": []},
    "role": {"model": "local", "messages": [{"role": "boss", "content": "x"}]},
    "NUL": {"model": "aistack", "messages": [{"role": "user", "content": "a\x00"}]},
    "absurd max_tokens": {
        "model": "local",
        "messages": [{"role": "user", "content": "x"}],
        "max_tokens": 10**12,
    },
    "negative temperature": {
        "model": "local",
        "messages": [{"role": "user", "content": "x"}],
        "temperature": -3,
    },
    "unknown field": {
        "model": "local",
        "messages": [{"role": "user", "content": "x"}],
        "max_tokns": 3,
    },
    "two answers": {"model": "aistack", "messages": [{"role": "user", "content": "x"}], "n": 2},
}


@pytest.mark.parametrize("name", BAD_CHATS)
def test_bad_chat_is_refused(http: httpx.Client, name: str) -> None:
    answer = http.post("/v1/chat/completions", json=BAD_CHATS[name])
    assert answer.status_code == 400, answer.text[:500]
    assert answer.json()["error"]["message"]


def test_unknown_model_is_404(http: httpx.Client) -> None:
    answer = http.post(
        "/v1/chat/completions",
        json={"model": "gpt-9", "messages": [{"role": "user", "content": "x"}]},
    )
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "model_not_found"


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"a":' * 5000])
@pytest.mark.parametrize(
    "path", ["/v1/documents", "/v1/search", "/v1/embeddings", "/v1/chat/completions", "/embed"]
)
def test_broken_json_is_refused(http: httpx.Client, path: str, content: bytes) -> None:
    answer = http.post(path, content=content, headers={"content-type": "application/json"})
    assert 400 <= answer.status_code < 500, answer.text[:500]
