"""What every engine of vectors must do: the same cases over pgvector and Qdrant.

Qdrant is the test server over its embedded engine, or a real one where QDRANT_URL is set.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from aistack.aidb import store
from aistack.aidb.documents import checked_metadata
from aistack.aidb.qdrant_layout import collection_name
from aistack.config_vectors import QdrantConfig
from bench.corpus import Source
from fix_qdrant import QdrantServer, QdrantShim
from fix_search import FILTERS, LAKES, Bench, named, sources
from vector_stand import Engine, EngineBench, Keeper

#: Filters of the table that Qdrant cannot take as they are meant; pgvector answers them.
LEFT_TO_POSTGRES = [
    {"year": {"lte": "older"}},
    {"source": {"gte": "keys", "lt": "o"}},
    {"title": {"eq": "Web server"}},
    {"title": {"eq": "Tarns"}},
    {"content_type": {"exists": False}},
]


@pytest.fixture(params=["pgvector", "qdrant"])
async def stand(bench: Bench, request: pytest.FixtureRequest) -> AsyncIterator[EngineBench]:
    """An empty corpus, searched by each engine in turn."""
    engine: Engine = request.param
    if engine == "pgvector":
        yield EngineBench(bench, engine)
        return
    server: QdrantServer = request.getfixturevalue("qdrant")
    keeper = Keeper(bench, QdrantConfig(**server.settings()))
    try:
        yield EngineBench(bench, engine, keeper)
    finally:
        await keeper.qdrant.aclose()


@pytest.mark.parametrize("exact", [True, False])
async def test_filters_hold_in_every_mode(stand: EngineBench, exact: bool) -> None:
    ids = await stand.bench.corpus.add(LAKES)
    await stand.settle()
    query = "small lake hill keys nginx"
    for raw, expected in FILTERS:
        answering = "pgvector" if raw in LEFT_TO_POSTGRES else stand.engine
        for mode in ("hybrid", "dense", "lexical"):
            result = await stand.search(query, filters=raw, mode=mode, exact=exact)
            assert set(sources(result)) == expected, (raw, mode)
            assert result.degraded == (), (raw, mode)
            assert result.dense_engine == (None if mode == "lexical" else answering), raw
    for raw in ({"document_id": {"eq": str(ids[1])}}, {"document_id": {"in": [str(ids[1])]}}):
        one = await stand.search(query, filters=raw, exact=exact)
        assert (sources(one), one.dense_engine) == (["fell.txt"], stand.engine)


#: Metadata on which the two could differ: numbers of either kind, far and near ones, lists, keys.
ODD: list[dict[str, Any]] = [
    {"n": 1},
    {"n": 1.0},
    {"n": "1"},
    {"n": True},
    {"n": ["1", "x"]},
    {"n": 1e18},
    {"n": 1e300},
    {"n": 0.1 + 0.2},
    {"n": 2**53 + 1},
    {"n": -0.1},
    {"a.b": 1, "with space": "é", '"quoted"': "ü"},
    {"n": ""},
    {"n": []},
    {},
]
ODD_FILTERS: list[dict[str, Any]] = [
    {"n": {"eq": 1}},
    {"n": {"eq": 1.0}},
    {"n": {"eq": "1"}},
    {"n": {"eq": True}},
    {"n": {"eq": "x"}},
    {"n": {"eq": ""}},
    {"n": {"eq": 2**53}},
    {"n": {"eq": 2**53 + 1}},
    {"n": {"in": [1, "1", True]}},
    {"n": {"gte": 1}},
    {"n": {"gt": 1}},
    {"n": {"lt": 0}},
    {"n": {"lte": -0.1}},
    {"n": {"eq": 0.3}},
    {"n": {"eq": 0.1 + 0.2}},
    {"n": {"gt": 0.3, "lt": 0.31}},
    {"n": {"gte": 1e18}},
    {"n": {"eq": 10**15}},
    {"n": {"gt": 2**53}},
    {"n": {"gte": "1"}},
    {"n": {"exists": True}},
    {"n": {"exists": False}},
    {"a.b": {"eq": 1}},
    {"a.b": {"gte": 0}},
    {"a": {"exists": True}},
    {"with space": {"eq": "é"}},
    {'"quoted"': {"eq": "ü"}},
    {"n": {"gte": 1, "lte": 1}},
]


async def test_filters_on_odd_metadata_mean_what_they_mean_in_postgres(stand: EngineBench) -> None:
    await stand.bench.corpus.add(
        Source(f"{n}.txt", f"A lake, number {n}.", metadata=metadata)
        for n, metadata in enumerate(ODD)
    )
    await stand.settle()
    for raw in ODD_FILTERS:
        meant = await stand.bench.search("lake", mode="lexical", filters=raw, limit=100)
        found = await stand.search("lake", mode="dense", filters=raw, limit=100)
        assert sorted(sources(found)) == sorted(sources(meant)), raw
        assert found.degraded == (), raw


async def test_the_ranking_is_that_of_a_comparison_with_all(stand: EngineBench) -> None:
    await stand.bench.corpus.add(
        Source(f"{n}.txt", f"Passage {n * 7919 % 1000} on subject {n * 31 % 97} of the atlas.")
        for n in range(300)
    )
    await stand.settle()
    overlap = 0
    for query in ("subject 12", "passage 500", "an atlas", "number 7"):
        meant = await stand.bench.search(query, mode="dense", limit=20)
        exact = await stand.search(query, mode="dense", limit=20)
        assert [(h.chunk_id, h.score) for h in exact.hits] == [
            (h.chunk_id, h.score) for h in meant.hits
        ]
        nearest = await stand.search(query, mode="dense", limit=20, exact=False)
        assert nearest.dense_engine == stand.engine
        overlap += len({h.chunk_id for h in meant.hits} & {h.chunk_id for h in nearest.hits})
    assert overlap >= 76


async def test_a_filter_that_keeps_one_percent_still_fills_the_page(stand: EngineBench) -> None:
    await stand.bench.corpus.add(
        Source(f"{n}.txt", f"A lake and a hill, number {n}.", metadata={"n": n, "mod": n % 100})
        for n in range(500)
    )
    await stand.settle()
    for exact in (True, False):
        for raw in ({"mod": {"eq": 7}}, {"n": {"gte": 495}}):
            for mode in ("dense", "hybrid"):
                found = await stand.search(
                    "lake hill", mode=mode, filters=raw, limit=5, candidates=10, exact=exact
                )
                assert len(found.hits) == 5, (raw, mode, exact)
                assert found.dense_engine == stand.engine
                assert all(
                    hit.metadata["mod"] == 7 or hit.metadata["n"] >= 495 for hit in found.hits
                )


async def test_pages_are_stable_and_complete(stand: EngineBench) -> None:
    # Many equal scores: only the tie-break decides.
    await stand.bench.corpus.add(
        Source(f"{n}.txt", "The same words about a lake." + " And more." * (n % 3), metadata={})
        for n in range(30)
    )
    await stand.settle()
    for mode in ("hybrid", "dense"):
        whole = await stand.search("lake", mode=mode, limit=100, collapse="off")
        paged: list[int] = []
        offset: int | None = 0
        while offset is not None:
            page = await stand.search("lake", mode=mode, limit=7, offset=offset, collapse="off")
            assert (page.total, page.dense_engine) == (whole.total, stand.engine)
            paged += [hit.chunk_id for hit in page.hits]
            offset = page.next_offset
        assert paged == [hit.chunk_id for hit in whole.hits]
        assert len(set(paged)) == len(paged) == 30


async def test_min_score_cuts(stand: EngineBench) -> None:
    await stand.bench.corpus.add(LAKES)
    await stand.settle()
    query = "small lake in the mountains"
    everything = await stand.search(query, mode="dense")
    second = everything.hits[1].score
    kept = await stand.search(query, mode="dense", min_score=second)
    assert [hit.score >= second for hit in kept.hits] == [True, True]
    assert (kept.total, kept.dense_engine) == (2, stand.engine)


async def test_collections_do_not_see_each_other(stand: EngineBench) -> None:
    await stand.bench.corpus.add(LAKES, "one")
    await stand.bench.corpus.add([Source("other.txt", "A small lake elsewhere.")], "two")
    await stand.settle()
    for exact in (True, False):
        found = await stand.search("small lake", collection="two", exact=exact)
        assert (sources(found), found.dense_engine) == (["other.txt"], stand.engine)
    async with stand.bench.corpus.postgres.connection("test.delete") as connection:
        await store.delete_collection(connection, "two")
    await stand.settle()
    left = await stand.search("small lake", collection="one", mode="dense")
    assert (len(left.hits), left.dense_engine) == (4, stand.engine)
    assert await points(stand) == 4


async def test_what_is_deleted_is_found_no_more(stand: EngineBench) -> None:
    ids = await stand.bench.corpus.add(LAKES)
    await stand.settle()
    query = "small lake in the mountains"
    assert sources(await stand.search(query, mode="dense"))[0] == "tarn.md"
    async with stand.bench.corpus.postgres.connection("test.delete") as connection:
        await store.delete_document(connection, ids[0])
    # At once, and after the engine has heard of it.
    for exact in (True, False):
        assert "tarn.md" not in sources(await stand.search(query, mode="dense", exact=exact))
    await stand.settle()
    found = await stand.search(query, mode="dense")
    assert (len(found.hits), found.dense_engine) == (3, stand.engine)
    assert "tarn.md" not in sources(found)
    assert await points(stand) == 3


async def test_what_is_replaced_is_found_as_it_is_now(stand: EngineBench) -> None:
    ids = await stand.bench.corpus.add(LAKES)
    await stand.settle()
    query = "small lake in the mountains"
    text = "Bread is baked from flour, water and salt."
    await stand.replace(ids[0], text)
    for settled in (False, True):
        if settled:
            await stand.settle()
        found = await stand.search(query, mode="dense")
        assert named(found, "tarn.md").text == text
        assert sources(found)[0] != "tarn.md"
        bread = await stand.search("how is bread baked?", mode="dense")
        assert sources(bread)[0] == "tarn.md"
        assert bread.dense_engine == stand.engine
    assert await points(stand) == 4


async def test_what_is_new_is_found_at_once(stand: EngineBench) -> None:
    await stand.bench.corpus.add(LAKES)
    await stand.settle()
    await stand.bench.corpus.add([Source("new.txt", "An otter swims in the river.")])
    for settled in (False, True):
        if settled:
            await stand.settle()
        found = await stand.search("which animal swims?", mode="dense")
        assert (sources(found)[0], found.degraded) == ("new.txt", ())
        assert found.dense_engine == stand.engine
    assert await points(stand) == 5


async def test_metadata_of_any_size_that_is_taken_reaches_the_engine(stand: EngineBench) -> None:
    """A request that Qdrant refuses as too large (32 MiB) would be tried for ever."""
    metadata = {f"k{n}".ljust(64, "x"): [f"{i}" for i in range(256)] for n in range(9)}
    assert checked_metadata(metadata) == metadata
    await stand.bench.corpus.add(
        Source(f"{n}.txt", f"A lake, number {n}.", metadata=metadata) for n in range(300)
    )
    await stand.settle()
    assert await points(stand) == 300
    found = await stand.search("lake", mode="dense", filters={"k8".ljust(64, "x"): {"eq": "255"}})
    assert (found.total, found.dense_engine) == (100, stand.engine)


async def points(stand: EngineBench) -> int:
    """How many the engine has."""
    if stand.keeper is None:
        return int(stand.bench.rows("SELECT count(*) FROM vectors_1")[0][0])
    return await stand.keeper.qdrant.count(collection_name(1))


async def test_quantization_and_cluster_options_are_asked_for(
    bench: Bench, qdrant_shim: QdrantShim
) -> None:
    """What goes over the wire; no cluster is there to do it."""
    await bench.corpus.add(LAKES)
    options: dict[str, Any] = {
        "quantization": "int8",
        "shards": 3,
        "replication_factor": 2,
        "write_consistency_factor": 2,
    }
    keeper = Keeper(bench, QdrantConfig(**qdrant_shim.settings(), **options))
    try:
        await keeper.reconciler.settle()
        body = qdrant_shim.made_by(collection_name(1))
        assert body["vectors"]["text"]["size"] == 384
        assert body["vectors"]["text"]["distance"] == "Dot"
        scalar = body["quantization_config"]["scalar"]
        assert (scalar["type"], scalar["always_ram"]) == ("int8", True)
        assert body["shard_number"] == 3
        assert body["replication_factor"] == 2
        assert body["write_consistency_factor"] == 2
        found = await EngineBench(bench, "qdrant", keeper).search("small lake", mode="dense")
        assert (sources(found)[0], found.dense_engine) == ("tarn.md", "qdrant")
    finally:
        await keeper.qdrant.aclose()


async def test_without_options_none_are_asked_for(bench: Bench, qdrant_shim: QdrantShim) -> None:
    await bench.corpus.add(LAKES)
    keeper = Keeper(bench, QdrantConfig(**qdrant_shim.settings()))
    try:
        await keeper.reconciler.settle()
    finally:
        await keeper.qdrant.aclose()
    body = qdrant_shim.made_by(collection_name(1))
    assert body.get("quantization_config") is None
    assert (body["shard_number"], body["replication_factor"]) == (1, 1)
