"""PostgreSQL through a psycopg 3 pool, under a `Dependency`; pgvector types are registered."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, LiteralString

import psycopg
from pgvector.psycopg import register_vector_async
from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool, PoolTimeout, TooManyRequests

from aistack.clients.postgres_reads import Reads
from aistack.clients.resilience import Dependency
from aistack.config import PostgresConfig

Connection = AsyncConnection[tuple[Any, ...]]


class Postgres:
    """A pool of connections; `connection()` is one guarded transaction."""

    def __init__(self, config: PostgresConfig) -> None:
        self.conninfo = config.conninfo()
        self._timeout = config.timeout_seconds
        milliseconds = int(config.timeout_seconds * 1000)
        options = (
            f"-c statement_timeout={milliseconds} -c idle_in_transaction_session_timeout=60000"
        )
        self.pool: AsyncConnectionPool[Connection] = AsyncConnectionPool(
            self.conninfo,
            min_size=min(config.pool_min, config.pool_max),
            max_size=config.pool_max,
            timeout=5.0,
            max_waiting=config.pool_max * 16,
            # How long the pool goes on trying to reconnect; for ever is what a service wants.
            reconnect_timeout=365 * 86400.0,
            check=AsyncConnectionPool.check_connection,
            kwargs={"application_name": "aistack", "options": options},
            configure=_configure,
            open=False,
        )
        self.reads = Reads(self.conninfo, options=options)
        self.dependency = Dependency(
            "postgres",
            timeout=config.timeout_seconds,
            transient=(
                psycopg.OperationalError,
                psycopg.InterfaceError,
                PoolTimeout,
                TooManyRequests,
            ),
            concurrency=config.pool_max * 8,
        )

    async def open(self) -> None:
        """Starts the pool without waiting for the server; `probe` tells when it is there."""
        await self.pool.open(wait=False)

    @asynccontextmanager
    async def connection(
        self, operation: str, *, timeout: float | None = None
    ) -> AsyncIterator[Connection]:
        """A connection in a transaction, committed at the end, rolled back on an error.

        `timeout` (seconds) is of the whole; where it is longer than the configured one it holds
        for the statements too.
        """
        async with (
            self.dependency.guard(operation, timeout=timeout),
            self.pool.connection() as connection,
        ):
            if timeout is not None and timeout > self._timeout:
                await connection.execute(f"SET LOCAL statement_timeout = {int(timeout * 1000)}")
            yield connection

    async def row(
        self, operation: str, statement: LiteralString, arguments: Sequence[Any]
    ) -> tuple[Any, ...] | None:
        """The first row of a read that needs no transaction: one round trip, asked again where the
        connection was dead."""
        async with self.dependency.guard(operation):
            return await self.reads.row(statement, arguments)

    @asynccontextmanager
    async def unpooled(self, operation: str) -> AsyncIterator[Connection]:
        """A connection of its own, without pgvector's types: a database may have no schema yet."""
        async with (
            self.dependency.guard(operation),
            await AsyncConnection.connect(self.conninfo) as connection,
        ):
            yield connection

    @asynccontextmanager
    async def session(self, operation: str) -> AsyncIterator[Connection]:
        """A connection of its own in autocommit, for work that takes its time.

        Only connecting is guarded: what the block raises of psycopg's errors passes as it is.
        """
        async with self.dependency.guard(operation):
            connection = await AsyncConnection.connect(
                self.conninfo,
                autocommit=True,
                application_name="aistack",
                # A server that vanished is noticed within two minutes, not hours.
                keepalives_idle=30,
                keepalives_interval=10,
                keepalives_count=9,
            )
        async with connection:
            yield connection

    async def probe(self) -> None:
        """Raises when a query cannot be answered."""
        async with self.connection("probe", timeout=3.0) as connection:
            await connection.execute("SELECT 1")

    async def aclose(self) -> None:
        """Closes the pool."""
        await self.reads.aclose()
        await self.pool.close()


async def _configure(connection: Connection) -> None:
    await register_vector_async(connection)
    # The lookup of the types began a transaction.
    await connection.commit()
