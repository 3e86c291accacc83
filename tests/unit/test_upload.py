"""Whether an upload opens: one at a time, for a while, and never at another one's cost."""

from __future__ import annotations

import asyncio

import pytest

from aistack.aidb.documents import Upload, checked_upload
from aistack.aidb.parsing import ParseError
from aistack.aidb.upload import Uploads
from aistack.service.errors import Unprocessable
from fix_data import make_pdf


class Examiner:
    """Lets an examination end when told; counts those that go on."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.free = asyncio.Event()
        self.begun = asyncio.Event()
        self.going_on = self.most = self.ended = 0

    async def examine(self, _content: bytes, _content_type: str) -> None:
        self.going_on += 1
        self.most = max(self.most, self.going_on)
        self.begun.set()
        try:
            await self.free.wait()
        finally:
            self.going_on -= 1
        self.ended += 1
        if self.error is not None:
            raise self.error


def uploads(examiner: Examiner, seconds: float = 60.0) -> Uploads:
    made = Uploads(1 << 20, seconds=seconds)
    made._examiner = examiner  # type: ignore[assignment]
    return made


def a_pdf() -> Upload:
    return checked_upload(
        collection="c",
        source="a.pdf",
        title=None,
        content_type=None,
        content=make_pdf(["Words."]),
        metadata={},
        key_id="k",
        limit=1 << 20,
    )


async def test_one_is_examined_at_a_time() -> None:
    examiner = Examiner()
    made = uploads(examiner)
    tasks = [asyncio.create_task(made.examine(a_pdf())) for _ in range(3)]
    await examiner.begun.wait()
    examiner.free.set()
    await asyncio.gather(*tasks)
    assert (examiner.most, examiner.ended) == (1, 3)


async def test_what_does_not_open_is_refused_in_its_words() -> None:
    examiner = Examiner(ParseError("The PDF is damaged and cannot be read."))
    examiner.free.set()
    with pytest.raises(Unprocessable, match="damaged"):
        await uploads(examiner).examine(a_pdf())


async def test_what_takes_too_long_is_left_to_its_job() -> None:
    examiner = Examiner(ParseError("never said"))
    made = uploads(examiner, seconds=0.05)
    # One holds the place, one waits for it: both are taken.
    await asyncio.gather(made.examine(a_pdf()), made.examine(a_pdf()))
    assert (examiner.going_on, examiner.ended) == (0, 0)


async def test_who_leaves_while_waiting_or_being_examined_gives_up_its_place() -> None:
    examiner = Examiner()
    made = uploads(examiner)
    tasks = [asyncio.create_task(made.examine(a_pdf())) for _ in range(3)]
    await examiner.begun.wait()
    for task in tasks[:2]:
        task.cancel()
    await asyncio.gather(*tasks[:2], return_exceptions=True)
    examiner.free.set()
    await tasks[2]
    assert examiner.ended == 1
