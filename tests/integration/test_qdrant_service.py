"""aidb with vectors.engine = qdrant, whole: uploads, searches, Qdrant away and back."""

from __future__ import annotations

from typing import Any

from fix_aidb import AidbProcess, MakeAidb, eventually
from fix_qdrant import QdrantShim, started


def search(service: AidbProcess, query: str) -> dict[str, Any]:
    with service.client() as client:
        answer = client.post("/v1/search", json={"query": query, "mode": "dense"})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def vectors(service: AidbProcess) -> dict[str, Any]:
    with service.client() as client:
        answer = client.get("/v1/vectors")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def need(service: AidbProcess) -> dict[str, Any]:
    with service.client() as client:
        needs = client.get("/readyz").json()["needs"]
    found: dict[str, Any] = next(one for one in needs if one["name"] == "qdrant")
    return found


def with_qdrant(make: MakeAidb, server: QdrantShim, **settings: Any) -> AidbProcess:
    qdrant = {**server.settings(), "timeout_seconds": 5, **settings}
    service = make(vectors={"engine": "qdrant", "qdrant": qdrant})
    service.start()
    return service


def answered_by_qdrant(service: AidbProcess, query: str) -> None:
    """Until the index has caught up; each look is another query, none is cached."""
    looks = iter(range(10_000))
    eventually(
        lambda: search(service, f"{query} {next(looks)}")["dense_engine"] == "qdrant",
        60,
        lambda: f"{vectors(service)}\n{service.log.read_text()[-4000:]}",
    )


def test_uploads_reach_qdrant_by_themselves_also_when_it_was_away(
    make_aidb: MakeAidb, qdrant_shim: QdrantShim
) -> None:
    service = with_qdrant(make_aidb, qdrant_shim)
    assert vectors(service)["engine"] == "qdrant"
    service.settled(service.upload("A tarn is a small lake.", "tarn.txt").json()["id"])
    answered_by_qdrant(service, "lake")
    assert need(service)["up"] is True
    assert need(service)["required"] is False
    eventually(lambda: vectors(service)["index"]["open_changes"] == 0, 30)
    assert vectors(service)["index"]["state"] == "ready"

    qdrant_shim.kill()
    away = search(service, "a small lake")
    assert (away["dense_engine"], away["degraded"]) == ("pgvector", ["qdrant"])
    assert away["hits"][0]["source"] == "tarn.txt"
    kept = service.upload("A fell is a barren hill.", "fell.txt")
    assert kept.status_code == 202
    assert service.settled(kept.json()["id"])["state"] == "ready"
    hill = search(service, "a barren hill")
    assert (hill["hits"][0]["source"], hill["degraded"]) == ("fell.txt", ["qdrant"])
    eventually(lambda: need(service)["up"] is False, 30)
    assert service.ready(), "it degrades, and is ready"

    qdrant_shim.start()
    answered_by_qdrant(service, "hill")
    eventually(lambda: vectors(service)["index"]["open_changes"] == 0, 60)
    fetched = search(service, "a hill that is barren")
    assert (fetched["dense_engine"], fetched["hits"][0]["source"]) == ("qdrant", "fell.txt")
    assert service.stop() == 0


def test_work_on_the_index_is_asked_for_and_done(
    make_aidb: MakeAidb, qdrant_shim: QdrantShim
) -> None:
    service = with_qdrant(make_aidb, qdrant_shim)
    service.settled(service.upload("A tarn is a small lake.", "tarn.txt").json()["id"])
    answered_by_qdrant(service, "lake")
    before = vectors(service)["index"]
    with service.client() as client:
        assert client.post("/v1/vectors/reconcile").status_code == 202
        eventually(
            lambda: vectors(service)["index"]["reconciled_at"] != before["reconciled_at"], 30
        )
        assert client.post("/v1/vectors/rebuild").json()["index"]["wanted"] == "rebuild"
        eventually(
            lambda: vectors(service)["index"]["built_at"] not in (None, before["built_at"]), 30
        )
        shown = client.get("/metrics").text
    answered_by_qdrant(service, "tarn")
    for line in (
        "aistack_aidb_index_build_progress 1.0",
        'aistack_aidb_index_drift{kind="missing"} 0.0',
        "aistack_aidb_index_points 1.0",
        'aistack_dependency_breaker_state{dependency="qdrant"} 0.0',
    ):
        assert line in shown, line


def test_chosen_for_a_filled_database_it_is_built_behind_the_searches(
    make_aidb: MakeAidb, qdrant_shim: QdrantShim
) -> None:
    first = make_aidb()
    first.start()
    first.settled(first.upload("A tarn is a small lake.", "tarn.txt").json()["id"])
    assert search(first, "a small lake")["dense_engine"] == "pgvector"
    none = {"state": "none", "progress": None}
    assert vectors(first) == {"engine": "pgvector", "hnsw": none, "index": None}
    with first.client() as client:
        refused = client.post("/v1/vectors/rebuild")
    assert (refused.status_code, refused.json()["status"]) == (409, 409)
    assert "vectors.engine" in refused.json()["detail"]
    first.stop()
    first.settings["vectors"] = {"engine": "qdrant", "qdrant": {"url": qdrant_shim.url}}
    first.start()
    answered_by_qdrant(first, "lake")
    # The old answer was cached under the other engine.
    assert search(first, "a small lake")["dense_engine"] == "qdrant"
    # And back: nothing is deferred for an index that nobody keeps.
    first.stop()
    first.settings["vectors"] = {"engine": "pgvector"}
    first.start()
    assert first.rows("SELECT count(*) FROM index_state") == [(0,)]
    first.settled(first.upload("A fell is a barren hill.", "fell.txt").json()["id"])
    deferred = "SELECT count(*) FROM procrastinate_jobs WHERE task_name = 'aidb.index'"
    assert first.rows(deferred) == [(0,)]


def test_a_wrong_key_is_a_need_that_is_down_and_no_search_that_fails(
    make_aidb: MakeAidb, tmp_path_factory: Any
) -> None:
    directory = tmp_path_factory.mktemp("qdrant")
    server = started(directory, key="right")
    try:
        key = directory / "key"
        key.write_text("wrong\n")
        service = with_qdrant(make_aidb, server, api_key_file=str(key))
        service.settled(service.upload("A tarn is a small lake.", "tarn.txt").json()["id"])
        found = search(service, "a small lake")
        assert (found["dense_engine"], found["degraded"]) == ("pgvector", ["qdrant"])
        eventually(lambda: need(service)["up"] is False, 30)
        service.stop()
        key.write_text("right\n")
        service.start()
        answered_by_qdrant(service, "lake")
    finally:
        server.kill()
