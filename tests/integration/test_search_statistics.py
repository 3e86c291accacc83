"""What BM25 stands on stays exact under concurrent writes of every kind."""

from __future__ import annotations

import asyncio
import random
from uuid import UUID

from aistack.aidb import store
from bench.corpus import Source
from fix_aidb import check_statistics
from fix_search import Bench

WORDS = "tarn fell beck lake hill moor crag scree summit valley ridge stream".split()  # noqa: SIM905


async def test_statistics_are_exact_after_random_concurrent_operations(bench: Bench) -> None:
    dice = random.Random(7)
    # Makes the vector table, whose making waits for all writers.
    await bench.corpus.add([Source("first.txt", "a tarn")])

    async def writer(number: int) -> None:
        mine: list[UUID] = []
        for step in range(8):
            if mine and dice.random() < 0.4:
                async with bench.corpus.postgres.connection("test") as connection:
                    await store.delete_document(connection, mine.pop())
            else:
                text = ". ".join(
                    " ".join(dice.choices(WORDS, k=dice.randint(1, 60))) for _ in range(4)
                )
                collection = dice.choice(("default", "other"))
                mine += await bench.corpus.add([Source(f"{number}-{step}", text)], collection)

    await asyncio.gather(*(writer(number) for number in range(4)))
    check_statistics(bench.rows)
    assert bench.rows("SELECT count(*) FROM postings")[0][0] > 0
    async with bench.corpus.postgres.connection("test") as connection:
        await store.delete_collection(connection, "other")
    check_statistics(bench.rows)
