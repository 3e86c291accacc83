"""The unchanged client of Qdrant over the test server: that the server is worth testing against."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from qdrant_client import AsyncQdrantClient, models
from qdrant_client.http.exceptions import UnexpectedResponse

from fix_qdrant import QdrantServer, QdrantShim, started
from fix_vectors import unit_vectors

NAME = "aistack_test"


async def make(client: AsyncQdrantClient, dimension: int = 4, **options: Any) -> None:
    await client.create_collection(
        NAME,
        vectors_config={"text": models.VectorParams(size=dimension, distance=models.Distance.DOT)},
        **options,
    )


async def fill(client: AsyncQdrantClient) -> None:
    payloads: list[dict[str, object]] = [
        {"owner": 1, "word": "lake", "year": 2020, "tags": ["a", "b"], "open": True},
        {"owner": 1, "word": "hill", "year": 2024.5, "tags": ["b"], "open": False},
        {"owner": 2, "word": "lake", "year": "old", "none": None},
    ]
    vectors = np.eye(3, 4, dtype=np.float32)
    await client.upsert(
        NAME,
        [
            models.PointStruct(id=n, vector={"text": row.tolist()}, payload=payload)
            for n, (row, payload) in enumerate(zip(vectors, payloads, strict=True), 1)
        ],
        wait=True,
    )


def condition(key: str, **said: Any) -> models.Filter:
    return models.Filter(must=[models.FieldCondition(key=key, **said)])


async def ids(client: AsyncQdrantClient, chosen: models.Filter | None = None) -> list[int]:
    found, following = await client.scroll(NAME, chosen, limit=100)
    assert following is None
    return [int(record.id) for record in found]


async def test_collections_are_made_told_and_deleted(
    qdrant: QdrantServer, qdrant_client: AsyncQdrantClient
) -> None:
    assert not await qdrant_client.collection_exists(NAME)
    await make(qdrant_client)
    assert await qdrant_client.collection_exists(NAME)
    assert NAME in [one.name for one in (await qdrant_client.get_collections()).collections]
    told = await qdrant_client.get_collection(NAME)
    assert told.status == models.CollectionStatus.GREEN
    assert (told.points_count, told.config.params.replication_factor) == (0, 1)
    with pytest.raises(UnexpectedResponse) as caught:
        await make(qdrant_client)
    assert caught.value.status_code == 409
    assert await qdrant_client.delete_collection(NAME)
    assert not await qdrant_client.delete_collection(NAME)


async def test_points_are_found_by_vector_filter_and_id(qdrant_client: AsyncQdrantClient) -> None:
    await make(qdrant_client)
    await fill(qdrant_client)
    found = await qdrant_client.query_points(
        NAME, query=[0.6, 0.8, 0.0, 0.0], using="text", limit=2, with_payload=["word"]
    )
    assert [(point.id, round(point.score, 5)) for point in found.points] == [(2, 0.8), (1, 0.6)]
    assert found.points[0].payload == {"word": "hill"}
    nearest = await qdrant_client.query_points(
        NAME,
        query=[0.6, 0.8, 0.0, 0.0],
        using="text",
        query_filter=condition("owner", match=models.MatchValue(value=2)),
        search_params=models.SearchParams(exact=True),
    )
    assert [point.id for point in nearest.points] == [3]
    above = await qdrant_client.query_points(
        NAME, query=[0.6, 0.8, 0.0, 0.0], using="text", score_threshold=0.7
    )
    assert [point.id for point in above.points] == [2]
    records = await qdrant_client.retrieve(NAME, [3, 1, 99], with_vectors=True)
    assert {record.id: record.vector for record in records} == {
        1: {"text": [1.0, 0.0, 0.0, 0.0]},
        3: {"text": [0.0, 0.0, 1.0, 0.0]},
    }
    page, following = await qdrant_client.scroll(NAME, limit=2)
    assert ([record.id for record in page], following) == ([1, 2], 3)
    rest, following = await qdrant_client.scroll(NAME, limit=2, offset=following)
    assert ([record.id for record in rest], following) == ([3], None)


FILTERS: list[tuple[models.Filter, list[int]]] = [
    (condition("word", match=models.MatchValue(value="lake")), [1, 3]),
    (condition("owner", match=models.MatchValue(value=1)), [1, 2]),
    (condition("open", match=models.MatchValue(value=True)), [1]),
    (condition("open", match=models.MatchValue(value=1)), []),
    (condition("owner", match=models.MatchValue(value=True)), []),
    (condition("tags", match=models.MatchAny(any=["a", "none"])), [1]),
    (condition("word", match=models.MatchExcept(**{"except": ["lake"]})), [2]),
    (condition("year", range=models.Range(gte=2020, lt=2024)), [1]),
    (condition("year", range=models.Range(gt=2020)), [2]),
    (
        models.Filter(must_not=[models.IsEmptyCondition(is_empty=models.PayloadField(key="tags"))]),
        [1, 2],
    ),
    (models.Filter(must=[models.IsNullCondition(is_null=models.PayloadField(key="none"))]), [3]),
    (models.Filter(must=[models.HasIdCondition(has_id=[1, 3, 7])]), [1, 3]),
    (
        models.Filter(
            should=[
                models.HasIdCondition(has_id=[3]),
                models.Filter(must=condition("word", match=models.MatchValue(value="hill"))),
            ]
        ),
        [2, 3],
    ),
]


@pytest.mark.parametrize("indexed", [False, True])
async def test_filters_hold(qdrant_client: AsyncQdrantClient, indexed: bool) -> None:
    await make(qdrant_client)
    if indexed:
        kind = models.PayloadSchemaType
        schemas = {
            "word": kind.KEYWORD,
            "tags": kind.KEYWORD,
            "year": kind.FLOAT,
            "open": kind.BOOL,
        }
        for name, schema in schemas.items():
            await qdrant_client.create_payload_index(NAME, name, schema, wait=True)
        tenant = models.IntegerIndexParams(
            type=models.IntegerIndexType.INTEGER, lookup=True, range=False
        )
        await qdrant_client.create_payload_index(NAME, "owner", tenant, wait=True)
        schema_told = (await qdrant_client.get_collection(NAME)).payload_schema
        assert schema_told["year"].data_type == models.PayloadSchemaType.FLOAT
        assert set(schema_told) == {*schemas, "owner"}
    await fill(qdrant_client)
    for chosen, expected in FILTERS:
        assert await ids(qdrant_client, chosen) == expected, chosen
        counted = await qdrant_client.count(NAME, chosen, exact=True)
        assert counted.count == len(expected)


async def test_points_are_replaced_changed_and_deleted(qdrant_client: AsyncQdrantClient) -> None:
    await make(qdrant_client)
    await fill(qdrant_client)
    again = models.PointStruct(id=2, vector={"text": [0.0, 0.0, 0.0, 1.0]}, payload={"word": "x"})
    await qdrant_client.upsert(NAME, [again], wait=True)
    found = await qdrant_client.retrieve(NAME, [2], with_vectors=True)
    assert (found[0].payload, found[0].vector) == ({"word": "x"}, {"text": [0.0, 0.0, 0.0, 1.0]})
    await qdrant_client.set_payload(NAME, {"more": 1}, points=[2], wait=True)
    await qdrant_client.batch_update_points(
        NAME,
        [
            models.UpsertOperation(upsert=models.PointsList(points=[again])),
            models.DeleteOperation(delete=models.PointIdsList(points=[1])),
        ],
    )
    assert await ids(qdrant_client) == [2, 3]
    by_filter = condition("owner", match=models.MatchValue(value=2))
    await qdrant_client.delete(NAME, models.FilterSelector(filter=by_filter), wait=True)
    assert await ids(qdrant_client) == [2]
    await qdrant_client.delete(NAME, [2, 12345], wait=True)
    assert (await qdrant_client.count(NAME)).count == 0


async def test_an_index_answers_as_exact_search_does(qdrant_client: AsyncQdrantClient) -> None:
    await make(
        qdrant_client,
        64,
        optimizers_config=models.OptimizersConfigDiff(indexing_threshold=100),
        hnsw_config=models.HnswConfigDiff(m=16, ef_construct=100, full_scan_threshold=100),
    )
    vectors = unit_vectors(1000, 64)
    await qdrant_client.upsert(
        NAME,
        [
            models.PointStruct(id=n, vector={"text": row.tolist()})
            for n, row in enumerate(vectors, 1)
        ],
        wait=True,
    )
    overlap = 0
    for n, vector in enumerate(unit_vectors(10, 64, seed=2)):
        expected = set((np.argsort(-(vectors @ vector))[:10] + 1).tolist())
        for exact in (True, False):
            found = await qdrant_client.query_points(
                NAME,
                query=vector.tolist(),
                using="text",
                search_params=models.SearchParams(exact=exact, hnsw_ef=128),
            )
            answered = {int(point.id) for point in found.points}
            if exact:
                assert answered == expected, n
            overlap += len(answered & expected)
    assert overlap >= 195


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "said"),
    [
        ("POST", "absent/points/query", '{"query": [1.0]}', 404, "doesn't exist"),
        ("POST", "absent/points/scroll", "{}", 404, "doesn't exist"),
        ("PUT", "absent/points", '{"points": []}', 404, "doesn't exist"),
        ("GET", "absent", None, 404, "doesn't exist"),
        ("PUT", f"{NAME}/points", "{", 400, "JSON"),
        ("PUT", f"{NAME}/points", '{"points": [{"id": -1, "vector": {}}]}', 400, ""),
        ("PUT", f"{NAME}/points", '{"points": [{"id": "x", "vector": {}}]}', 400, ""),
        (
            "PUT",
            f"{NAME}/points",
            '{"points": [{"id": 1, "vector": {"text": [1.0]}}]}',
            400,
            "dim",
        ),
        (
            "PUT",
            f"{NAME}/points",
            '{"points": [{"id": 1, "vector": {"other": [1.0, 0.0, 0.0, 0.0]}}]}',
            400,
            "vector name",
        ),
        ("POST", f"{NAME}/points/query", '{"query": [1.0], "using": "text"}', 400, "dim"),
        ("POST", f"{NAME}/points/delete", "{}", 400, ""),
        ("GET", f"{NAME}/points/7", None, 404, "7"),
    ],
)
async def test_a_bad_request_is_refused_in_the_shape_of_qdrant(
    qdrant: QdrantServer,
    qdrant_client: AsyncQdrantClient,
    method: str,
    path: str,
    body: str | None,
    status: int,
    said: str,
) -> None:
    await make(qdrant_client)
    async with httpx.AsyncClient(base_url=f"{qdrant.url}/collections/") as plain:
        headers = {"api-key": qdrant.key or "", "content-type": "application/json"}
        answer = await plain.request(
            method, path, content=body, headers=headers, params={"wait": "true"}
        )
    assert answer.status_code == status, answer.text
    assert said in answer.json()["status"]["error"]


async def test_what_was_answered_outlives_a_kill(qdrant_shim: QdrantShim) -> None:
    client = qdrant_shim.client()
    await make(client)
    await client.create_payload_index(NAME, "word", models.PayloadSchemaType.KEYWORD, wait=True)
    await fill(client)
    await client.delete(NAME, [3], wait=True)
    gone = {"text": models.VectorParams(size=4, distance=models.Distance.DOT)}
    await client.create_collection("aistack_gone", vectors_config=gone)
    await client.delete_collection("aistack_gone")
    # Half made: what a kill between the shard and the description leaves.
    (qdrant_shim.directory / "collections" / "aistack_half" / "shard").mkdir(parents=True)
    qdrant_shim.kill()
    with pytest.raises(Exception, match="connect"):
        await client.count(NAME)
    qdrant_shim.start()
    assert await ids(client) == [1, 2]
    assert list((await client.get_collection(NAME)).payload_schema) == ["word"]
    assert [one.name for one in (await client.get_collections()).collections] == [NAME]
    await fill(client)
    assert await ids(client) == [1, 2, 3]
    await client.close()


async def test_the_body_that_made_a_collection_is_kept(qdrant_shim: QdrantShim) -> None:
    client = qdrant_shim.client()
    await make(client, shard_number=3, replication_factor=2)
    assert qdrant_shim.made_by(NAME)["shard_number"] == 3
    told = await client.get_collection(NAME)
    assert (told.config.params.shard_number, told.config.params.replication_factor) == (3, 2)
    await client.close()


async def test_without_the_key_nothing_is_answered(tmp_path: Path) -> None:
    server = started(tmp_path, key="secret")
    try:
        client = server.client()
        await make(client)
        await client.close()
        async with httpx.AsyncClient(base_url=server.url) as plain:
            assert (await plain.get("/readyz")).status_code == 200
            assert "version" in (await plain.get("/")).json()
            for headers in ({}, {"api-key": "other"}, {"authorization": "Bearer other"}):
                refused = await plain.get("/collections", headers=headers)
                assert refused.status_code == 401
            for headers in ({"api-key": "secret"}, {"authorization": "Bearer secret"}):
                assert (await plain.get("/collections", headers=headers)).status_code == 200
    finally:
        server.stop()


async def test_what_the_test_server_does_not_know_it_says(qdrant_shim: QdrantShim) -> None:
    client = qdrant_shim.client()
    await make(client)
    with pytest.raises(UnexpectedResponse) as caught:
        await client.query_points(NAME, query=models.FusionQuery(fusion=models.Fusion.RRF))
    assert caught.value.status_code == 501
    with pytest.raises(UnexpectedResponse) as caught:
        await client.facet(NAME, "word")
    assert caught.value.status_code == 501
    await client.close()
