"""Searches that a cross-encoder reranks, through the real services."""

from __future__ import annotations

import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from aistack.aidb.search_schemas import SearchOut
from fix_aidb import AidbProcess, MakeAidb, aidb_factory, eventually
from fix_embeddings import EmbeddingsProcess, new_embeddings
from fix_postgres import PostgresServer

QUERY = "a lake in the mountains"
THINGS = ("tarn", "fell", "lake", "hill", "moor", "beck", "crag")


@pytest.fixture(scope="module")
def reranking(graph_state: Path, tiny_reranker: Path) -> Iterator[EmbeddingsProcess]:
    directory = Path(tempfile.mkdtemp(prefix="aie-"))
    settings = {"rerank_model": str(tiny_reranker)}
    service = new_embeddings(directory, graph_state, embeddings=settings)
    service.start()
    yield service
    service.stop()
    shutil.rmtree(directory)


@pytest.fixture(scope="module")
def aidb(
    postgres_server: PostgresServer, migrated_template: str, reranking: EmbeddingsProcess
) -> Iterator[AidbProcess]:
    """With more than twenty chunks that all have a word of the query."""
    with aidb_factory(postgres_server, migrated_template, reranking) as make:
        service = make()
        service.start()
        made = [
            service.upload(
                f"# Part {number}\n\nOf the lake: the {THINGS[number % 7]} of number {number}.\n",
                f"{number}.md",
                content_type="text/markdown",
            )
            for number in range(24)
        ]
        # Of several chunks: all but its first are embedded with the headings above them.
        lakes = " ".join(f"Lake {number} lies in the mountains." for number in range(80))
        made.append(
            service.upload(
                f"# Book\n\n## Lakes\n\n{lakes}\n", "book.md", content_type="text/markdown"
            )
        )
        for answer in made:
            assert service.settled(answer.json()["id"])["state"] == "ready"
        yield service


def post(aidb: AidbProcess, **body: Any) -> httpx.Response:
    with aidb.client() as client:
        return client.post("/v1/search", json={"query": QUERY, **body})


def search(aidb: AidbProcess, **body: Any) -> dict[str, Any]:
    answer = post(aidb, **body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    assert SearchOut.model_validate(found).model_dump(exclude_unset=True) == found
    return found


def chunks(found: dict[str, Any]) -> list[int]:
    return [hit["chunk_id"] for hit in found["hits"]]


def test_the_best_twenty_are_in_the_order_of_the_cross_encoder(
    aidb: AidbProcess, reranking: EmbeddingsProcess
) -> None:
    plain = search(aidb, limit=100)
    assert plain["total"] == len(plain["hits"]) > 24
    assert all(set(hit["legs"]) == {"dense", "lexical"} for hit in plain["hits"])
    found = search(aidb, limit=100, rerank=True)
    best, rest = found["hits"][:20], found["hits"][20:]
    assert sorted(chunks(found)[:20]) == sorted(chunks(plain)[:20])
    assert chunks(found)[:20] != chunks(plain)[:20]
    assert chunks(found)[20:] == chunks(plain)[20:]
    assert [hit["rank"] for hit in found["hits"]] == list(range(1, plain["total"] + 1))
    assert [hit["legs"]["rerank"]["rank"] for hit in best] == list(range(1, 21))
    assert all(hit["legs"]["rerank"] is None for hit in rest)
    # The scores are those of the service itself for what was embedded: headings and passage.
    passages = dict(
        aidb.rows("SELECT id, embed_prefix || text FROM chunks WHERE id = ANY(%s)", chunks(plain))
    )
    given = [passages[chunk] for chunk in chunks(plain)[:20]]
    assert any(text.startswith("Book > Lakes\n") for text in given)
    with reranking.client() as http:
        answer = http.post("/v1/rerank", json={"query": QUERY, "documents": given})
    wanted = [
        (chunks(plain)[one["index"]], one["relevance_score"]) for one in answer.json()["results"]
    ]
    for (chunk, score), hit in zip(wanted, best, strict=True):
        assert hit["chunk_id"] == chunk
        assert hit["legs"]["rerank"]["score"] == pytest.approx(score, abs=1e-6)
    # Everything else about a hit is what it was.
    before = {hit["chunk_id"]: hit for hit in plain["hits"]}
    for hit in found["hits"]:
        legs = {name: leg for name, leg in hit["legs"].items() if name != "rerank"}
        was = before[hit["chunk_id"]]
        assert {**hit, "rank": 0, "legs": legs} == {**was, "rank": 0}


@pytest.mark.parametrize("mode", ["hybrid", "dense", "lexical"])
def test_pages_fit_together(aidb: AidbProcess, mode: str) -> None:
    whole = chunks(search(aidb, mode=mode, rerank=True, limit=100))
    paged: list[int] = []
    offset: int | None = 0
    while offset is not None:
        page = search(aidb, mode=mode, rerank=True, limit=7, offset=offset)
        assert page["hits"][0]["rank"] == offset + 1
        paged += chunks(page)
        offset = page["next_offset"]
    assert paged == whole


def test_fewer_may_be_read(aidb: AidbProcess) -> None:
    plain = search(aidb, limit=100)
    found = search(aidb, limit=100, rerank=True, rerank_top=3)
    assert sorted(chunks(found)[:3]) == sorted(chunks(plain)[:3])
    assert chunks(found)[3:] == chunks(plain)[3:]


def test_a_reranked_search_is_not_kept(aidb: AidbProcess) -> None:
    """The next one may find another model in the place of this one."""
    query = "which beck is it"
    first = post(aidb, query=query, rerank=True)
    assert "rerank;dur=" in first.headers["server-timing"]
    assert not first.json()["cached"]
    assert not search(aidb, query=query)["cached"]
    assert search(aidb, query=query)["cached"]
    again = search(aidb, query=query, rerank=True)
    assert not again["cached"]
    assert chunks(again) == chunks(first.json())


def test_a_collection_may_be_reranked_always(aidb: AidbProcess) -> None:
    def change(value: bool | None) -> None:
        with aidb.client() as client:
            answer = client.patch("/v1/collections/default", json={"settings": {"rerank": value}})
        assert answer.status_code == 200, answer.text
        assert answer.json()["settings"]["rerank"] is bool(value)

    plain = chunks(search(aidb))
    wanted = chunks(search(aidb, rerank=True))
    assert wanted != plain
    change(True)
    try:
        assert chunks(search(aidb)) == wanted
        assert chunks(search(aidb, rerank=False)) == plain
        # Who did not ask for it gets an answer to any query; who did is told.
        long = "lake " * 100
        assert search(aidb, query=long)["degraded"] == ["rerank"]
        refused = post(aidb, query=long, rerank=True)
        assert refused.status_code == 413
        assert "query has 100 tokens; at most 64" in refused.json()["detail"]
    finally:
        change(None)
    assert chunks(search(aidb)) == plain


@pytest.mark.parametrize(
    ("members", "field"),
    [
        ({"rerank": "yes"}, "rerank"),
        ({"rerank": 1}, "rerank"),
        ({"rerank_top": 0}, "rerank_top"),
        ({"rerank_top": 21}, "rerank_top"),
        ({"rerank_top": "3"}, "rerank_top"),
    ],
)
def test_what_makes_no_sense_is_422(aidb: AidbProcess, members: dict[str, Any], field: str) -> None:
    answer = post(aidb, **members)
    assert answer.status_code == 422
    assert f"body.{field}" in answer.json()["detail"]


def test_without_a_model_it_is_501_and_names_the_option(make_aidb: MakeAidb) -> None:
    aidb = make_aidb()
    aidb.start()
    document = aidb.upload("A tarn is a small lake.", "tarn.txt").json()["id"]
    assert aidb.settled(document)["state"] == "ready"
    answer = post(aidb, rerank=True)
    assert answer.status_code == 501
    assert answer.headers["content-type"] == "application/problem+json"
    assert "embeddings.rerank_model" in answer.json()["detail"]
    # Nothing broke: neither its breaker nor the search.
    for _ in range(6):
        assert post(aidb, rerank=True).status_code == 501
    assert search(aidb)["total"] == 1


def test_a_dead_reranker_leaves_the_fused_order_and_comes_back(
    aidb: AidbProcess, reranking: EmbeddingsProcess
) -> None:
    query = "number of the crag"
    plain = search(aidb, query=query, mode="lexical")
    reranking.stop(signal.SIGKILL)
    try:
        for _ in range(3):
            found = search(aidb, query=query, mode="lexical", rerank=True)
            assert (found["degraded"], found["cached"]) == (["rerank"], False)
            assert found["hits"] == plain["hits"]
        assert search(aidb, query=query + "!", rerank=True)["degraded"] == ["dense", "rerank"]
    finally:
        reranking.socket.unlink(missing_ok=True)
        reranking.start()
    eventually(lambda: not search(aidb, query=query, mode="lexical", rerank=True)["degraded"], 30)
    back = search(aidb, query=query, mode="lexical", rerank=True)
    assert back["hits"][0]["legs"]["rerank"]["rank"] == 1
