"""Loans of the pool: a dead connection is replaced unseen, one statement commits by itself."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Any

import psycopg
import pytest

from aistack.clients.postgres import Connection
from fix_ingest import IngestBench as Bench


async def backend(connection: Connection) -> int:
    cursor = await connection.execute("SELECT pg_backend_pid()")
    row = await cursor.fetchone()
    assert row is not None
    return int(row[0])


async def test_a_connection_that_the_server_ended_is_replaced_before_it_is_lent(
    ingest_bench: Bench,
) -> None:
    bench = ingest_bench
    for _ in range(3):
        async with bench.postgres.connection("test") as connection:
            old = await backend(connection)
        others = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
        bench.rows(f"{others} WHERE pid <> pg_backend_pid() AND datname = current_database()")
        async with bench.postgres.connection("test") as connection:
            assert await backend(connection) != old


async def test_the_check_of_a_quiet_connection_asks_the_server_nothing(
    ingest_bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    postgres = ingest_bench.postgres
    asked: list[Any] = []

    async def ask(connection: Any) -> None:
        asked.append(connection)

    async with postgres.connection("test"):
        pass
    monkeypatch.setattr("psycopg_pool.AsyncConnectionPool.check_connection", ask)
    async with postgres.connection("test"):
        pass
    assert asked == []


async def test_statements_commit_one_by_one_and_the_connection_goes_back_as_it_was(
    ingest_bench: Bench,
) -> None:
    bench = ingest_bench
    await bench.upload("A lake.")

    async def change(loan: AbstractAsyncContextManager[Connection], title: str) -> None:
        async with loan as connection:
            await connection.execute("UPDATE documents SET title = %s", [title])
            await connection.execute("SELECT 1 / 0")

    for loan, title in ((bench.postgres.statements, "kept"), (bench.postgres.connection, "lost")):
        with pytest.raises(psycopg.errors.DivisionByZero):
            await change(loan("test"), title)
        assert bench.rows("SELECT title FROM documents") == [("kept",)]
