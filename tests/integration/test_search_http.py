"""`POST /v1/search` of the real service: the wire, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest

from aistack.aidb.search_schemas import SearchOut
from fix_aidb import AidbProcess

TARN = "# Tarns\n\nA tarn is a small lake in the mountains.\n\n# Fells\n\nA fell is a high hill.\n"


def search(aidb: AidbProcess, **body: Any) -> Any:
    with aidb.client() as client:
        return client.post("/v1/search", json=body)


@pytest.fixture(scope="module")
def filled(aidb: AidbProcess) -> AidbProcess:
    """The service with one document."""
    accepted = aidb.upload(TARN, "tarn.md", content_type="text/markdown", metadata={"year": 2026})
    assert aidb.settled(accepted.json()["id"])["state"] == "ready"
    return aidb


HALF = "\\ud800"


@pytest.mark.parametrize(
    "filters",
    [
        f'{{"{HALF}": {{"eq": "a"}}}}',
        f'{{"metadata.{HALF}": {{"exists": true}}}}',
        f'{{"{HALF}": {{"eq": [[1]]}}}}',
        f'{{"{HALF}": {{"like": 1}}}}',
        f'{{"a": {{"eq": "{HALF}"}}}}',
        f'{{"a": {{"in": ["x", "{HALF}"]}}}}',
        f'{{"a": {{"gte": "{HALF}"}}}}',
        f'{{"a": {{"{HALF}": 1}}}}',
        f'{{"source": {{"eq": "{HALF}"}}}}',
        f'{{"source": {{"in": ["{HALF}"]}}}}',
        f'{{"title": {{"lt": "{HALF}"}}}}',
        f'{{"a": {{"eq": {2**63}}}}}',
        f'{{"a": {{"eq": {10**300}}}}}',
        f'{{"a": {{"in": [{-(10**30)}]}}}}',
        '{"a": {"eq": 1e400}}',
    ],
)
def test_filters_that_nothing_can_hold_are_refused(filled: AidbProcess, filters: str) -> None:
    with filled.client() as client:
        answer = client.post(
            "/v1/search",
            content=f'{{"query": "lake", "filters": {filters}}}',
            headers={"content-type": "application/json"},
        )
    assert answer.status_code == 422, answer.text
    assert answer.json()["detail"]


@pytest.mark.parametrize("body", ['"query": "%s"', '"query": "a", "collection": "%s"', '"%s": 1'])
def test_half_a_surrogate_pair_is_refused_everywhere(filled: AidbProcess, body: str) -> None:
    with filled.client() as client:
        answer = client.post(
            "/v1/search",
            content="{" + body % HALF + "}",
            headers={"content-type": "application/json"},
        )
    assert answer.status_code == 422, answer.text


def test_hits_carry_all_that_a_reader_needs(filled: AidbProcess) -> None:
    answer = search(filled, query="small lake", filters={"year": {"gte": 2026, "lt": 2027}})
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert (body["mode"], body["collection"], body["cached"]) == ("hybrid", "default", False)
    assert body["embedding_set"]
    hit = body["hits"][0]
    with filled.client() as client:
        text = client.get(f"/v1/documents/{hit['document_id']}/text").json()["text"]
    assert text[hit["char_start"] : hit["char_end"]] == hit["text"]
    assert "small lake" in hit["text"]
    assert (hit["source"], hit["title"], hit["line_start"]) == ("tarn.md", "Tarns", 1)
    assert hit["metadata"] == {"year": 2026}
    assert hit["legs"]["dense"]["rank"] == hit["legs"]["lexical"]["rank"] == 1


def test_the_bytes_are_those_of_the_documented_answer(filled: AidbProcess) -> None:
    answer = search(filled, query="a high hill")
    assert answer.headers["content-type"] == "application/json"
    read = SearchOut.model_validate_json(answer.content, strict=True)
    # Unset is what only a reranked search has.
    assert read.model_dump(exclude_unset=True) == answer.json()
    assert list(answer.json()) == list(SearchOut.model_fields)
    timings = dict(part.split(";dur=") for part in answer.headers["server-timing"].split(", "))
    assert set(timings) == {"embed", "dense", "lexical", "fuse", "hits"}
    assert all(float(milliseconds) > 0 for milliseconds in timings.values())


def test_a_filter_on_a_field_that_is_not_there_names_those_that_are(filled: AidbProcess) -> None:
    answer = search(filled, query="lake", filters={"yeer": {"eq": 2026}})
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["detail"] == (
        "filters.yeer: no document of the collection 'default' has this field;"
        " known are document_id, source, title, content_type, year."
    )
    assert search(filled, query="lake", filters={"yeer": {"exists": True}}).json()["total"] == 0


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 422),
        ({"query": ""}, 422),
        ({"query": "  "}, 422),
        ({"query": "a\0b"}, 422),
        ({"query": 5}, 422),
        ({"query": "x" * 5000}, 422),
        ({"query": "x", "limit": 0}, 422),
        ({"query": "x", "limit": 10**30}, 422),
        ({"query": "x", "limit": "10"}, 422),
        ({"query": "x", "offset": -1}, 422),
        ({"query": "x", "mode": "magic"}, 422),
        ({"query": "x", "collapse": "all"}, 422),
        ({"query": "x", "unknown": 1}, 422),
        ({"query": "x", "filters": {"a": {"like": "b"}}}, 422),
        ({"query": "x", "filters": {"a": {}}}, 422),
        ({"query": "x", "filters": {"a": {"eq": None}}}, 422),
        ({"query": "x", "filters": {"a": {"eq": {"b": 1}}}}, 422),
        ({"query": "x", "filters": {"a": {"in": list(range(1000))}}}, 422),
        ({"query": "x", "filters": {"a": {"eq": 10**40}}}, 422),
        ({"query": "x", "filters": {"a\0": {"eq": 1}}}, 422),
        ({"query": "x", "filters": {"a": {"eq": "\0"}}}, 422),
        ({"query": "x", "filters": {"document_id": {"eq": "no"}}}, 422),
        ({"query": "x", "min_score": "high"}, 422),
        ({"query": "x", "collection": "nowhere"}, 404),
    ],
)
def test_bad_input_is_refused_in_words(
    filled: AidbProcess, body: dict[str, Any], status: int
) -> None:
    answer = search(filled, **body)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["detail"]


def test_a_lone_surrogate_is_refused(filled: AidbProcess) -> None:
    with filled.client() as client:
        answer = client.post(
            "/v1/search",
            content=b'{"query": "\\ud800"}',
            headers={"content-type": "application/json"},
        )
    assert 400 <= answer.status_code < 500, answer.text
