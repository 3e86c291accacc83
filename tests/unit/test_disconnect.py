"""Work that ends with its client, and with nobody else's leave."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from starlette.requests import Request

from aistack.service.disconnect import ClientGone, while_connected


class Client:
    """The other end of a request: `leave` hangs up."""

    def __init__(self) -> None:
        self._left: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.request = Request({"type": "http", "headers": []}, self.receive)

    async def receive(self) -> Any:
        await asyncio.shield(self._left)
        return {"type": "http.disconnect"}

    def leave(self) -> None:
        self._left.set_result(None)

    def tear(self) -> None:
        self._left.set_exception(ConnectionResetError("torn"))


class Work:
    """Goes on until told; remembers that it was called off."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.go_on = asyncio.Event()
        self.called_off = False

    async def __call__(self) -> str:
        self.begun.set()
        try:
            await self.go_on.wait()
        except asyncio.CancelledError:
            self.called_off = True
            raise
        return "done"


async def test_the_result_is_the_works() -> None:
    work = Work()
    work.go_on.set()
    assert await while_connected(Client().request, work()) == "done"


async def test_an_error_of_the_work_is_raised() -> None:
    async def fails() -> None:
        raise LookupError("its own")

    with pytest.raises(LookupError, match="its own"):
        await while_connected(Client().request, fails())


@pytest.mark.parametrize("ends", [Client.leave, Client.tear])
async def test_a_client_that_leaves_ends_the_work(ends: Any) -> None:
    client, work = Client(), Work()
    task = asyncio.create_task(while_connected(client.request, work()))
    await work.begun.wait()
    ends(client)
    with pytest.raises(ClientGone):
        await task
    assert work.called_off
    assert task.cancelling() == 0  # nothing is left to hit what the task does next


async def test_a_cancellation_from_outside_stays_one() -> None:
    work = Work()
    task = asyncio.create_task(while_connected(Client().request, work()))
    await work.begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert work.called_off


async def limited(client: Client, work: Work, *, leaves: bool) -> None:
    """A limit of no time at all around the work; the client may leave in the same moment."""
    async with asyncio.timeout(0):
        if leaves:
            client.leave()
        await while_connected(client.request, work())


async def test_a_time_limit_around_it_stays_one() -> None:
    with pytest.raises(TimeoutError):
        await limited(Client(), Work(), leaves=False)


async def test_a_limit_and_a_client_that_leaves_at_once_leave_no_cancellation_behind() -> None:
    with pytest.raises((TimeoutError, ClientGone)):
        await limited(Client(), Work(), leaves=True)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_who_leaves_after_the_end_hits_nobody() -> None:
    client, work = Client(), Work()

    async def both() -> str:
        found = await while_connected(client.request, work())
        for _ in range(5):
            await asyncio.sleep(0)  # where a late cancellation would arrive
        return found

    task = asyncio.create_task(both())
    await work.begun.wait()
    work.go_on.set()
    await asyncio.sleep(0)
    client.leave()
    assert await task == "done"
