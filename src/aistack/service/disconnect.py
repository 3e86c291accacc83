"""Work that ends when the client that asked for it goes away."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from contextlib import suppress
from typing import TypeVar

from starlette.requests import Request
from starlette.types import Receive

from aistack.service.errors import StackError

T = TypeVar("T")


class ClientGone(StackError):
    """Nobody waits for the answer; the status is for the log and the metrics (as nginx has it)."""

    status = 499
    slug = "client-gone"
    title = "The client went away"


async def while_connected(request: Request, work: Awaitable[T]) -> T:
    """`await work`, cancelled when the client goes away. Raises ClientGone then.

    The body must have been read to its end.
    """
    caller = asyncio.current_task()
    assert caller is not None
    before = caller.cancelling()
    left = over = False

    def leave(_watch: asyncio.Task[None]) -> None:
        nonlocal left
        # Also where the watch itself fails: then nobody can be told to be there.
        if not over:
            left = True
            caller.cancel()

    watch = asyncio.ensure_future(_watched(request.receive))
    watch.add_done_callback(leave)
    try:
        return await work
    except asyncio.CancelledError:
        # Somebody else's cancellation, such as a time limit's, goes on as it is.
        if left and caller.uncancel() <= before:
            raise ClientGone("The client went away.") from None
        raise
    finally:
        over = True
        watch.cancel()


async def _watched(receive: Receive) -> None:
    with suppress(Exception):  # of no interest to anybody: the connection is broken
        await disconnected(receive)


async def disconnected(receive: Receive) -> None:
    """Returns when the client has gone; what else comes, such as the body, is dropped."""
    while (await receive())["type"] != "http.disconnect":
        pass
