"""Single statements in one round trip: no transaction, and no check of the connection beforehand.

The pool of `postgres` asks a connection whether it lives before it lends it, and each loan is a
transaction: three round trips around one statement. Here a connection that turns out dead is thrown
away and the statement, which does no harm when it runs twice, is sent again; and the cursor is kept
with its connection, because making one costs as much as such a statement.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final, LiteralString

import psycopg
from psycopg import AsyncConnection, AsyncCursor

from aistack.service.errors import Overloaded

Row = tuple[Any, ...]

#: Connections: each is busy for one statement by primary key at a time.
CONNECTIONS: Final = 2


class Reads:
    """A few connections that commit on their own. Not guarded: its owner does that."""

    def __init__(self, conninfo: str, *, options: str) -> None:
        self._conninfo = conninfo
        self._options = options
        self._slots = asyncio.Semaphore(CONNECTIONS)
        self._idle: list[AsyncCursor[Row]] = []

    async def row(self, statement: LiteralString, arguments: Sequence[Any]) -> Row | None:
        """The first row. Raises psycopg's errors, and Overloaded after its `lock_timeout`."""
        async with self._slots:
            while True:
                kept = bool(self._idle)
                cursor = self._idle.pop() if kept else await self._connect()
                try:
                    await cursor.execute(statement, arguments)
                    row = await cursor.fetchone()
                except psycopg.errors.LockNotAvailable:
                    # The server and the connection are well: somebody else has the row.
                    self._idle.append(cursor)
                    raise Overloaded("Another transaction holds what is to be written.") from None
                except BaseException as error:
                    # Also where the caller leaves: what its connection is in the middle of is not
                    # for the next one.
                    dead = isinstance(error, psycopg.OperationalError) and cursor.connection.broken
                    await cursor.connection.close()
                    if kept and dead:
                        continue
                    raise
                self._idle.append(cursor)
                return row

    async def aclose(self) -> None:
        """Closes the idle connections; a later read makes new ones."""
        while self._idle:
            await self._idle.pop().connection.close()

    async def _connect(self) -> AsyncCursor[Row]:
        connection = await AsyncConnection.connect(
            self._conninfo,
            application_name="aistack reads",
            options=self._options,
            autocommit=True,
        )
        return connection.cursor(binary=True)
