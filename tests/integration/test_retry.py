"""Documents that failed, tried again from the bytes that are stored."""

from __future__ import annotations

from uuid import uuid4

import httpx
import psycopg
import pytest

from aistack.aidb.accept import retry, retry_failed
from fix_aidb import AidbProcess
from fix_ingest import IngestBench

EMPTY_PAGE = "<script>nothing to read</script>"


def failed(aidb: AidbProcess, source: str, **members: str) -> str:
    """A document that fails as long as it says that it is HTML; its id."""
    answer = aidb.upload(EMPTY_PAGE, source, content_type="text/html", **members)
    assert answer.status_code == 202, answer.text
    document = aidb.settled(answer.json()["id"])
    assert document["state"] == "failed"
    identifier: str = document["id"]
    return identifier


def mend(aidb: AidbProcess) -> None:
    """What made them fail is gone, as with a new version of the reader: now they are plain text."""
    with psycopg.connect(aidb.dsn) as connection:
        connection.execute(
            "UPDATE documents SET content_type = 'text/plain' WHERE state = 'failed'"
        )


def ask(aidb: AidbProcess, identifier: str) -> httpx.Response:
    with aidb.client() as client:
        return client.post(f"/v1/documents/{identifier}/retry")


def test_a_failed_document_is_tried_again_without_sending_it(aidb: AidbProcess) -> None:
    identifier = failed(aidb, "again")
    answer = ask(aidb, identifier)
    assert answer.status_code == 202, answer.text
    assert answer.json()["state"] == "pending"
    assert answer.json()["error"] is None
    assert answer.headers["location"] == f"/v1/documents/{identifier}"
    assert aidb.settled(identifier)["state"] == "failed"
    mend(aidb)
    assert ask(aidb, identifier).status_code == 202
    ready = aidb.settled(identifier)
    assert (ready["state"], ready["version"], ready["progress"]) == ("ready", 1, 1.0)
    assert aidb.rows("SELECT text FROM chunks WHERE document_id = %s", identifier) == [
        (EMPTY_PAGE,)
    ]
    refused = ask(aidb, identifier)
    assert refused.status_code == 409
    assert "ready" in refused.json()["detail"]
    assert ask(aidb, str(uuid4())).status_code == 404
    assert ask(aidb, "no-id").status_code == 422


async def test_one_under_way_is_left_as_it_is(ingest_bench: IngestBench) -> None:
    document = await ingest_bench.upload("Words.")
    ingest_bench.rows("UPDATE documents SET state = 'failed', error = 'Bad.', progress = 0.5")
    async with ingest_bench.postgres.connection("test") as connection:
        first = await retry(connection, ingest_bench.queue, document.id)
        second = await retry(connection, ingest_bench.queue, document.id)
    assert (first.outcome, first.document.state, first.document.progress) == (
        "retried",
        "pending",
        0.0,
    )
    assert (second.outcome, second.document) == ("unchanged", first.document)


def test_all_that_failed_are_tried_again_of_one_collection_or_of_all(aidb: AidbProcess) -> None:
    with aidb.client() as client:
        for name in ("first", "second"):
            client.post("/v1/collections", json={"name": name})
        mine = [failed(aidb, f"{number}", collection="first") for number in range(3)]
        other = failed(aidb, "0", collection="second")
        mend(aidb)
        answer = client.post("/v1/documents/retry", json={"collection": "first"})
        assert (answer.status_code, answer.json()) == (202, {"retried": 3}), answer.text
        assert [aidb.settled(one)["state"] for one in mine] == ["ready"] * 3
        assert aidb.document(other)["state"] == "failed"
        answer = client.post("/v1/documents/retry", json={})
        assert answer.json()["retried"] >= 1
        assert aidb.settled(other)["state"] == "ready"
        assert client.post("/v1/documents/retry", json={}).json() == {"retried": 0}
        assert client.post("/v1/documents/retry", json={"collection": "no"}).status_code == 404
        assert client.post("/v1/documents/retry", json={"colection": "x"}).status_code == 422


@pytest.mark.parametrize("count", [0, 1, 4, 5])
async def test_rounds_come_to_an_end_though_documents_fail_again(
    ingest_bench: IngestBench, count: int
) -> None:
    documents = [await ingest_bench.upload(f"{n}", f"{n}") for n in range(count)]
    fail = "UPDATE documents SET state = 'failed', error = 'Bad.'"
    ingest_bench.rows(fail)
    counted, after, rounds = 0, None, 0
    while True:
        async with ingest_bench.postgres.connection("test") as connection:
            found, after = await retry_failed(
                connection, ingest_bench.queue, collection=None, after=after, at_once=2
            )
        counted += found
        rounds += 1
        ingest_bench.rows(fail + " WHERE state = 'pending'")
        if after is None:
            break
    assert counted == len(documents)
    assert rounds == count // 2 + 1
