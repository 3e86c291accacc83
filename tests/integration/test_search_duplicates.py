"""What a search of one collection does by its settings: fusion, weights, hits that say the same."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from aistack.aidb import fusion, store
from aistack.aidb.collection_settings import update_collection
from aistack.service.errors import NotFound, Unprocessable
from bench.corpus import Source
from fix_search import LAKES, Bench, sources

WORDS = (
    "A tarn is a small lake in the mountains, and most of them lie in a hollow that a glacier has"
    " left behind; streams feed it, the winter covers it with ice, and fishermen walk up in summer"
    " when sheep graze on the slopes around its cold and silent water."
)
SAME = [
    Source("first.txt", WORDS),
    Source("copy.txt", WORDS.upper().replace(", ", ",\n\n  ").lower()),
    Source("edited.txt", WORDS.replace("silent", "quiet")),
    Source("other.txt", "A lake that is no tarn lies in the plain, and boats cross it every day."),
]


async def settle(bench: Bench, collection: str = "default", **changes: Any) -> None:
    async with bench.corpus.postgres.connection("test") as connection:
        await update_collection(connection, collection, changes=changes)


async def test_exact_duplicates_are_counted_and_not_shown(bench: Bench) -> None:
    await bench.corpus.add(SAME)
    everything = await bench.search("small lake tarn", collapse="off")
    assert everything.total == 4
    assert {hit.duplicates for hit in everything.hits} == {0}
    for mode in ("hybrid", "dense", "lexical"):
        found = await bench.search("small lake tarn", mode=mode)
        assert found.total == 3, mode
        kept = next(hit for hit in found.hits if hit.source in ("first.txt", "copy.txt"))
        assert kept.duplicates == 1
        assert sum(hit.duplicates for hit in found.hits) == 1
        assert [hit.rank for hit in found.hits] == [1, 2, 3]


async def test_near_duplicates_are_left_out_where_the_collection_says_so(bench: Bench) -> None:
    await bench.corpus.add(SAME)
    await settle(bench, collapse="near")
    found = await bench.search("small lake tarn")
    assert found.total == 2
    assert sorted(hit.duplicates for hit in found.hits) == [0, 2]
    assert "other.txt" in sources(found)
    assert (await bench.search("small lake tarn", collapse="exact")).total == 3


async def test_chunks_under_different_headings_are_no_duplicates(bench: Bench) -> None:
    await bench.corpus.add(
        Source(f"{name}.md", f"# Is {name} safe?\n\nYes, it is.\n", "text/markdown")
        for name in ("water", "ice")
    )
    assert (await bench.search("is it safe", collapse="near")).total == 2


async def test_a_chunk_from_before_the_fingerprints_is_near_to_nothing(bench: Bench) -> None:
    await bench.corpus.add(SAME)
    with psycopg.connect(bench.dsn) as connection:
        connection.execute("ALTER TABLE chunks DROP COLUMN fingerprint")
        connection.execute("ALTER TABLE chunks ADD COLUMN fingerprint bigint")
    assert (await bench.search("small lake tarn", collapse="near")).total == 3


async def test_pages_without_duplicates_are_stable_and_complete(bench: Bench) -> None:
    await bench.corpus.add(
        Source(
            f"{n}.txt", f"A lake, the {['first', 'second', 'third', 'fourth', 'fifth'][n % 5]} one."
        )
        for n in range(40)
    )
    for mode in ("hybrid", "dense", "lexical"):
        whole = await bench.search("lake", mode=mode, limit=100)
        assert whole.total == len(whole.hits) == 5
        assert sum(hit.duplicates for hit in whole.hits) == 35
        paged = []
        offset: int | None = 0
        while offset is not None:
            page = await bench.search("lake", mode=mode, limit=2, offset=offset)
            paged += list(page.hits)
            offset = page.next_offset
        assert tuple(paged) == whole.hits


async def test_the_fusion_of_the_collection_decides(bench: Bench) -> None:
    await bench.corpus.add(LAKES)
    await bench.corpus.add(LAKES, "other")
    query = "small lake in the hills"
    by_rank = await bench.search(query)
    await settle(bench, fusion="dbsf", dense_weight=3)
    found = await bench.search(query)
    assert not found.cached
    legs = {
        name: [
            (hit.chunk_id, leg.score)
            for hit in sorted(found.hits, key=lambda hit: getattr(hit.legs[name], "rank", 0))
            if (leg := hit.legs[name])
        ]
        for name in ("dense", "lexical")
    }
    expected = fusion.distribution_based(legs, weights={"dense": 3.0, "lexical": 1.0})
    assert [(hit.chunk_id, hit.score) for hit in found.hits] == [
        (hit.chunk_id, hit.score) for hit in expected
    ]
    assert [hit.score for hit in found.hits] != [hit.score for hit in by_rank.hits]
    elsewhere = await bench.search(query, collection="other")
    assert [hit.score for hit in elsewhere.hits] == [hit.score for hit in by_rank.hits]


async def test_the_words_of_a_collection_are_weighed_by_its_own_parameters(bench: Bench) -> None:
    await bench.corpus.add(LAKES)
    before = await bench.search("small lake", mode="lexical")
    await settle(bench, bm25_k1=0.0)
    after = await bench.search("small lake", mode="lexical")
    # Without k1 a term counts once, whatever the length: its idf.
    assert after.hits[0].score > before.hits[0].score
    await settle(bench, bm25_k1=None)
    again = await bench.search("small lake", mode="lexical")
    assert [hit.score for hit in again.hits] == [hit.score for hit in before.hits]


async def test_a_setting_that_is_not_known_here_is_left_as_it_is(bench: Bench) -> None:
    await bench.corpus.add(LAKES)
    bench.rows('UPDATE collections SET settings = \'{"language": "german"}\' RETURNING 1')
    await settle(bench, rrf_k=5)
    assert bench.rows("SELECT settings FROM collections") == [({"language": "german", "rrf_k": 5},)]
    assert sources(await bench.search("small lake"))[0] == "tarn.md"
    with pytest.raises(NotFound):
        await settle(bench, "nowhere", rrf_k=5)


async def test_a_field_that_no_document_has_is_a_mistake(bench: Bench) -> None:
    await bench.corpus.add(LAKES)
    await bench.corpus.add([Source("a", "A lake.", metadata={"team": "red"})], "other")
    for mode in ("hybrid", "dense", "lexical"):
        for raw in (
            {"yeer": {"eq": 2020}},
            {"year": {"eq": 2020}, "team": {"in": ["red"]}},
            {"metadata.source": {"gte": "a"}},
            {"yeer": {"exists": False, "eq": 1}},
        ):
            with pytest.raises(Unprocessable) as caught:
                await bench.search("lake", mode=mode, filters=raw)
            field = next(name for name in raw if name != "year").removeprefix("metadata.")
            assert caught.value.detail.startswith(f"filters.{field}: "), raw
            assert caught.value.detail.endswith("author, open, tags, year.")
    assert sources(await bench.search("lake", filters={"yeer": {"exists": False}}))
    found = await bench.search("lake", collection="other", filters={"team": {"eq": "blue"}})
    assert found.hits == ()


async def test_a_field_stays_known_and_an_empty_collection_knows_any(bench: Bench) -> None:
    ids = await bench.corpus.add(LAKES)
    async with bench.corpus.postgres.connection("test") as connection:
        await store.delete_document(connection, ids[0])
        await store.delete_document(connection, ids[2])
    assert (await bench.search("hill", filters={"author": {"eq": "Ann"}})).hits == ()
    async with bench.corpus.postgres.connection("test") as connection:
        for one in (ids[1], ids[3]):
            await store.delete_document(connection, one)
    assert (await bench.search("hill", filters={"yeer": {"eq": 1}})).hits == ()


async def test_a_refusal_names_few_of_many_fields(bench: Bench) -> None:
    many = {f"field{n:02}": n for n in range(40)}
    await bench.corpus.add([Source("a", "A lake.", metadata=many)])
    with pytest.raises(Unprocessable, match=r"field19, …\.$"):
        await bench.search("lake", filters={"x": {"eq": 1}})
