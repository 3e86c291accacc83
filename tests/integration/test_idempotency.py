"""`Idempotency-Key`: the same request twice is done once and answered twice."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import psycopg
import pytest

from aistack.aidb import idempotency
from fix_aidb import AidbProcess, eventually
from fix_ingest import IngestBench

URL = "/v1/documents"


@pytest.fixture(autouse=True)
def _clean(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "aidb" in request.fixturenames:
        aidb: AidbProcess = request.getfixturevalue("aidb")
        # What a test leaves under way would change what the next one counts.
        under_way = "SELECT 1 FROM documents WHERE state IN ('pending', 'processing')"
        eventually(lambda: not aidb.rows(under_way), 60)
        with psycopg.connect(aidb.dsn) as connection:
            connection.execute("DELETE FROM idempotency_keys")


def post(aidb: AidbProcess, key: str, **body: Any) -> httpx.Response:
    with aidb.client() as client:
        return client.post(URL, json=body, headers={"idempotency-key": key})


def test_the_same_request_has_the_same_answer_whatever_happened_since(aidb: AidbProcess) -> None:
    first = post(aidb, "a", text="One tarn.", source="once", metadata={"b": 1, "a": 2})
    assert first.status_code == 202, first.text
    assert "idempotency-replayed" not in first.headers
    aidb.settled(first.json()["id"])
    again = post(aidb, "a", text="One tarn.", source="once", metadata={"a": 2, "b": 1})
    assert again.status_code == 202
    assert again.content == first.content
    assert again.headers["location"] == first.headers["location"]
    assert again.headers["idempotency-replayed"] == "true"
    # Other bytes came between: the first request is not done again over them.
    replaced = aidb.upload("Two tarns.", "once")
    assert replaced.status_code == 202
    assert post(aidb, "a", text="One tarn.", source="once", metadata={"a": 2, "b": 1}).content == (
        first.content
    )
    assert aidb.settled(first.json()["id"])["version"] == 2


def test_a_form_and_a_json_body_that_ask_for_the_same_are_one(aidb: AidbProcess) -> None:
    first = post(aidb, "f", text="A form.", source="form", content_type="text/plain")
    with aidb.client() as client:
        form = client.post(
            URL,
            files={"file": ("any.txt", b"A form.", "text/plain")},
            data={"source": "form"},
            headers={"idempotency-key": "f"},
        )
    assert form.content == first.content


@pytest.mark.parametrize(
    "other",
    [
        {"text": "Other words."},
        {"source": "elsewhere"},
        {"title": "T"},
        {"metadata": {"a": 1}},
        {"content_type": "text/markdown"},
    ],
)
def test_another_request_under_the_key_is_refused_and_leaves_nothing(
    aidb: AidbProcess, other: dict[str, Any]
) -> None:
    asked = {"text": "Some words.", "source": "mine"}
    aidb.settled(post(aidb, "k", **asked).json()["id"])
    before = aidb.counts()
    answer = post(aidb, "k", **{**asked, **other})
    assert answer.status_code == 422
    assert "send a new key" in answer.json()["detail"]
    assert aidb.counts() == before


def test_an_error_is_not_kept(aidb: AidbProcess) -> None:
    body = {"text": "Words.", "source": "s", "collection": "later"}
    assert post(aidb, "e", **body).status_code == 404
    with aidb.client() as client:
        assert client.post("/v1/collections", json={"name": "later"}).status_code == 201
    assert post(aidb, "e", **body).status_code == 202


@pytest.mark.parametrize("key", ["", "x" * 256, "caf\u00e9", "tab\tbed"])
def test_a_key_that_cannot_be_one_is_refused(aidb: AidbProcess, key: str) -> None:
    before = aidb.counts()
    with aidb.client() as client:
        answer = client.post(
            URL,
            json={"text": "Words."},
            headers=[(b"idempotency-key", key.encode("latin-1"))],
        )
    assert answer.status_code == 422, answer.text
    assert "idempotency-key" in answer.text.lower()
    assert aidb.counts() == before


def test_concurrent_duplicates_are_one(aidb: AidbProcess) -> None:
    before = aidb.counts()
    together = threading.Barrier(8)

    def send(_: int) -> httpx.Response:
        with aidb.client() as client:
            together.wait()
            return client.post(
                URL,
                json={"text": "At the same moment.", "source": "moment"},
                headers={"idempotency-key": "moment"},
            )

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(send, range(8)))
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.content for answer in answers}) == 1
    assert sum("idempotency-replayed" in answer.headers for answer in answers) == 7
    aidb.settled(answers[0].json()["id"])
    assert aidb.counts()["documents"] == before["documents"] + 1


def test_a_duplicate_waits_for_the_end_of_the_first(aidb: AidbProcess) -> None:
    # The first one holds its row and has not committed: the second must neither answer nor work.
    with psycopg.connect(aidb.dsn) as connection, ThreadPoolExecutor(1) as pool:
        key_id = post(aidb, "other", text="Any.", source="any").json()["created_by"]
        connection.execute(
            "INSERT INTO idempotency_keys (key_id, key, request_sha256)"
            " VALUES (%s, 'held', sha256('other'))",
            [key_id],
        )
        second = pool.submit(post, aidb, "held", text="Held.", source="held")
        waiting = (
            "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            " AND starts_with(query, 'INSERT INTO idempotency_keys')"
        )
        eventually(lambda: bool(aidb.rows(waiting)), 20)
        assert not second.done()
        connection.rollback()
        # The first came to nothing: the second is done in its place.
        assert second.result(20).status_code == 202


async def test_a_key_is_forgotten_after_a_day(ingest_bench: IngestBench) -> None:
    async def ask(word: str) -> idempotency.Answer:
        async def make() -> idempotency.Answer:
            return idempotency.Answer(202, word.encode())

        async with ingest_bench.postgres.connection("test") as connection:
            return await idempotency.once(
                connection, key_id="k", key="day", request=b"r" * 32, make=make
            )

    def age(hours: int) -> None:
        ingest_bench.rows(
            "UPDATE idempotency_keys SET created_at = now() - make_interval(hours => %s)", hours
        )

    assert (await ask("first")).body == b"first"
    age(23)
    assert await ask("second") == idempotency.Answer(202, b"first", again=True)
    age(25)
    assert await ask("third") == idempotency.Answer(202, b"third")
    async with ingest_bench.postgres.connection("test") as connection:
        await idempotency.prune(connection)
    assert ingest_bench.rows("SELECT answer FROM idempotency_keys") == [(b"third",)]
    age(25)
    async with ingest_bench.postgres.connection("test") as connection:
        await idempotency.prune(connection)
    assert ingest_bench.rows("SELECT 1 FROM idempotency_keys") == []
