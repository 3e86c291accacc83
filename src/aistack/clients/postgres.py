"""PostgreSQL through a psycopg 3 pool, under a `Dependency`; pgvector types are registered."""

from __future__ import annotations

import select
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, LiteralString

import orjson
import psycopg
from pgvector.psycopg import register_vector_async
from psycopg import AsyncConnection
from psycopg.pq import TransactionStatus
from psycopg.types.json import set_json_loads
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
            check=_check,
            kwargs={"application_name": "aistack", "options": options},
            configure=_configure,
            open=False,
        )
        # Statements by primary key: a plan made anew costs as much as the rest of one.
        self.reads = Reads(
            self.conninfo, options=f"{options} -c plan_cache_mode=force_generic_plan"
        )
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
        for the statements, and for the pauses between them, too.
        """
        async with (
            self.dependency.guard(operation, timeout=timeout),
            self.pool.connection() as connection,
        ):
            if timeout is not None and timeout > self._timeout:
                longest = int(timeout * 1000)
                await connection.execute(
                    f"SET LOCAL statement_timeout = {longest};"
                    f" SET LOCAL idle_in_transaction_session_timeout = {max(longest, 60_000)}"
                )
            yield connection

    @asynccontextmanager
    async def statements(self, operation: str) -> AsyncIterator[Connection]:
        """A connection on which every statement is a transaction of its own."""
        async with (
            self.dependency.guard(operation),
            self.pool.connection() as connection,
            on_its_own(connection),
        ):
            yield connection

    async def row(
        self, operation: str, statement: LiteralString, arguments: Sequence[Any]
    ) -> tuple[Any, ...] | None:
        """The first row of one statement without a transaction around it: one round trip.

        It is sent again where the connection was dead, so it must be a read, or a write that may
        be done twice.
        """
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


@asynccontextmanager
async def on_its_own(connection: AsyncConnection[Any]) -> AsyncIterator[None]:
    """Every statement on an idle connection commits by itself, until the end of the block."""
    await connection.set_autocommit(True)
    try:
        yield
    finally:
        # One that was left in the middle of something is closed by its pool.
        if connection.pgconn.transaction_status == TransactionStatus.IDLE:
            await connection.set_autocommit(False)


async def _check(connection: Connection) -> None:
    """Raises when the connection is dead.

    The server is only asked where it has said something: its end, which closes the socket, shows
    there at once, and to ask costs a round trip for every loan of a connection.
    """
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    if poll.poll(0):
        await AsyncConnectionPool.check_connection(connection)


async def _configure(connection: Connection) -> None:
    await register_vector_async(connection)
    # A number as it came: jsonb writes 1e300 with 301 digits, and Python's json reads an integer.
    set_json_loads(orjson.loads, connection)
    # The lookup of the types began a transaction.
    await connection.commit()
