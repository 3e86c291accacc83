"""The service builds its index by itself, and says so."""

from __future__ import annotations

import httpx

from fix_aidb import MakeAidb, eventually


def test_a_running_service_builds_the_index_and_searches_with_it(make_aidb: MakeAidb) -> None:
    service = make_aidb(aidb={"dense_exact_below": 3, "index_workers": 0})
    service.start()
    uploaded = [service.upload(f"A small lake, number {n}.", f"{n}.txt").json() for n in range(4)]
    for document in uploaded:
        service.settled(document["id"])
    valid = (
        "SELECT i.indisvalid FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid"
        " WHERE c.relname = 'vectors_1_hnsw'"
    )
    eventually(lambda: service.rows(valid) == [(True,)], 30, service.log.read_text)

    def metrics(client: httpx.Client) -> str:
        return client.get("/metrics").text

    with service.client() as client:
        shown = 'aistack_aidb_vector_index_progress{set="1"} 1.0'
        eventually(lambda: shown in metrics(client), 30, lambda: metrics(client))
        built = 'aistack_aidb_vector_index_builds_total{outcome="done"} 1.0'
        assert built in metrics(client)
        answer = client.post("/v1/search", json={"query": "lake number 2", "mode": "dense"})
        assert answer.json()["hits"][0]["source"] == "2.txt"
        assert client.get("/readyz").json()["progress"] == "ready"
    assert '"index":"vectors_1_hnsw"' in service.log.read_text().replace(" ", "")
    assert service.stop() == 0
