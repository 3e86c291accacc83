"""Work that ends when the client that asked for it goes away."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
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
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(disconnected(request.receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGone("The client went away.")
        return task.result()
    finally:
        for part in (task, gone):
            part.cancel()
        # What the work raises while it is cancelled is of no interest to anybody any more.
        await asyncio.gather(task, gone, return_exceptions=True)


async def disconnected(receive: Receive) -> None:
    """Returns when the client has gone; what else comes, such as the body, is dropped."""
    while (await receive())["type"] != "http.disconnect":
        pass
