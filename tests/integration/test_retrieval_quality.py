"""The bars of retrieval on Cranfield's even queries; `make bench-retrieval` prints the table."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from aistack.config import AidbConfig
from aistack.evaluation.metrics import METRICS
from bench.corpus import LocalEncoder
from bench.cranfield import read
from bench.retrieval import quality
from fix_postgres import PostgresServer
from fix_search import open_bench


@pytest.mark.timeout(600)
async def test_cranfield(
    shared_data: Path,
    postgres_server: PostgresServer,
    migrated_template: str,
    local_encoder: LocalEncoder,
) -> None:
    collection = read(shared_data / "cranfield")
    assert len(collection.queries) == 225
    name = await asyncio.to_thread(postgres_server.create, migrated_template)
    async with open_bench(postgres_server, name, local_encoder) as made:
        await quality.fill(made.corpus, collection)
        result = await quality.measure(made.corpus, collection, AidbConfig())
    await asyncio.to_thread(postgres_server.drop, name)
    print(quality.table(result))
    # Each recorded mean less its interval, hybrid against the best leg, lexical against its peer.
    bars = quality.figures(result)
    assert [bar.line() for bar in bars if not bar.good] == []
    assert len(bars) == 2 + len(quality.LEGS) * len(METRICS)
