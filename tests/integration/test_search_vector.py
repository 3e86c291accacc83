"""The query is embedded while the lexical leg is read; what that needs, and for how long."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from aistack.aidb import bm25, search, store
from aistack.aidb.search_model import SearchResult
from aistack.service.errors import NotFound, Overloaded, Unavailable, Unprocessable
from fix_search import LAKES, Bench, sources


class Gate:
    """Between a search and its vector: `came` when that is wanted, `go` lets it through."""

    def __init__(self, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        self.came, self.go = asyncio.Event(), asyncio.Event()
        self.lexical = 0
        self.left = 0
        self.failure: Exception | None = None
        embed, top = bench.encoder.embed_in_set, bm25.top

        async def gated(texts: Any, **members: Any) -> Any:
            self.came.set()
            try:
                await self.go.wait()
            except asyncio.CancelledError:
                self.left += 1
                raise
            if self.failure is not None:
                raise self.failure
            return await embed(texts, **members)

        async def counted(*arguments: Any, **members: Any) -> Any:
            found = await top(*arguments, **members)
            self.lexical += 1
            return found

        monkeypatch.setattr(bench.encoder, "embed_in_set", gated)
        monkeypatch.setattr(bm25, "top", counted)

    async def read(self, times: int = 1) -> None:
        """Until the lexical leg has been read."""
        async with asyncio.timeout(20):
            while self.lexical < times:
                await asyncio.sleep(0.005)


@pytest.fixture
async def gate(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Gate:
    await bench.corpus.add(LAKES)
    return Gate(bench, monkeypatch)


def begun(bench: Bench, **members: Any) -> asyncio.Task[SearchResult]:
    return asyncio.create_task(bench.search("small lake", **members))


async def connections_back(bench: Bench) -> None:
    """Until no search holds a connection."""
    pool = bench.corpus.postgres.pool
    async with asyncio.timeout(20):
        while pool.get_stats()["pool_available"] < pool.get_stats()["pool_size"]:
            await asyncio.sleep(0.005)


async def test_the_lexical_leg_does_not_wait_for_the_vector(bench: Bench, gate: Gate) -> None:
    work = begun(bench)
    await gate.read()
    assert gate.came.is_set()
    assert not work.done()
    gate.go.set()
    found = await work
    assert (found.degraded, found.total, gate.lexical) == ((), 4, 1)
    assert found.hits[0].source == "tarn.md"
    assert found.hits == (await bench.search("small lake ")).hits


async def test_a_slow_vector_holds_no_connection_and_the_lexical_leg_is_read_once(
    bench: Bench, gate: Gate
) -> None:
    work = begun(bench)
    await gate.read()
    await connections_back(bench)
    assert not work.done()
    gate.go.set()
    assert (await work).total == 4
    assert gate.lexical == 1


async def test_a_collection_that_changes_meanwhile_is_read_anew(bench: Bench, gate: Gate) -> None:
    work = begun(bench)
    await gate.read()
    await connections_back(bench)
    (document,) = bench.rows("SELECT id FROM documents WHERE source = 'tarn.md'")
    async with bench.corpus.postgres.connection("test") as connection:
        await store.delete_document(connection, document[0])
    gate.go.set()
    found = await work
    assert gate.lexical == 2
    assert "tarn.md" not in sources(found)
    assert found.epoch == bench.rows("SELECT epoch FROM collections")[0][0]


async def test_a_collection_that_goes_meanwhile_is_not_found(bench: Bench, gate: Gate) -> None:
    await bench.corpus.add(LAKES, collection="other")
    work = begun(bench, collection="other")
    await gate.read()
    await connections_back(bench)
    async with bench.corpus.postgres.connection("test") as connection:
        await store.delete_collection(connection, "other")
    gate.go.set()
    with pytest.raises(NotFound):
        await work


async def test_a_caller_that_leaves_leaves_no_vector_behind(bench: Bench, gate: Gate) -> None:
    work = begun(bench)
    await gate.read()
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    async with asyncio.timeout(20):
        while not gate.left:
            await asyncio.sleep(0.005)
    await connections_back(bench)


async def test_a_refused_filter_does_not_wait_for_the_vector(bench: Bench, gate: Gate) -> None:
    with pytest.raises(Unprocessable):
        await bench.search("small lake", filters={"nowhere": {"eq": 1}})
    assert gate.left == 1
    assert gate.lexical == 0


async def test_a_vector_that_fails_late_is_missed_as_ever(bench: Bench, gate: Gate) -> None:
    work, dense = begun(bench), begun(bench, mode="dense")
    await gate.read()
    gate.failure = Unavailable("embeddings is not available right now.")
    gate.go.set()
    assert (await work).degraded == ("dense",)
    with pytest.raises(Unavailable):
        await dense
    gate.failure = Overloaded("Too many texts.")
    with pytest.raises(Overloaded):
        await bench.search("small lake!")


async def test_a_dense_search_takes_no_connection_before_it_has_its_vector(
    bench: Bench, gate: Gate
) -> None:
    work = begun(bench, mode="dense")
    await gate.came.wait()
    await connections_back(bench)
    gate.go.set()
    assert (await work).total == 4
    assert gate.lexical == 0


async def test_a_lexical_search_asks_for_no_vector(bench: Bench, gate: Gate) -> None:
    assert (await bench.search("small lake", mode="lexical")).hits
    assert not gate.came.is_set()


def test_the_grace_is_short() -> None:
    # A connection is one of a dozen; a vector takes 5 ms on an idle machine.
    assert search.GRACE_SECONDS <= 0.1
