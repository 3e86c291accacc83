"""Which jobs run again, and when; and the cursors of a page."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import psycopg
import pytest
from procrastinate.exceptions import ConnectorException
from procrastinate.jobs import Job

from aistack.aidb import schemas, store
from aistack.aidb.jobs import LONGEST_WAIT, PATIENCE, TRIES, Patience
from aistack.service.errors import BadRequest, DeadlineExceeded, Overloaded, Unavailable


def job(attempts: int) -> Job:
    return Job(
        id=1, queue="aidb", lock=None, queueing_lock=None, task_name="t", attempts=attempts,
        task_kwargs={"document_id": "d", "version": 1},
    )  # fmt: skip


def wait(error: BaseException, attempts: int) -> float | None:
    """Seconds until the next try, None when there is none."""
    before = datetime.now(UTC)
    decision = Patience().get_retry_decision(exception=error, job=job(attempts))
    if decision is None:
        return None
    assert decision.retry_at is not None
    return (decision.retry_at - before) / timedelta(seconds=1)


@pytest.mark.parametrize(
    "error",
    [
        Unavailable("x"),
        Overloaded("x"),
        DeadlineExceeded("x"),
        ConnectorException("x"),
        psycopg.OperationalError("x"),
    ],
)
def test_a_dependency_is_waited_for_ever_longer_but_bounded(error: Exception) -> None:
    waits = [wait(error, attempts) for attempts in range(20)]
    assert all(seconds is not None for seconds in waits)
    assert waits[0] is not None
    assert waits[0] <= 0.6
    assert max(seconds or 0 for seconds in waits) <= LONGEST_WAIT + 0.1
    assert (waits[-1] or 0) >= LONGEST_WAIT / 2
    assert wait(error, PATIENCE - 1) is None


def test_a_fault_of_ours_is_tried_a_few_times() -> None:
    tried = [wait(RuntimeError("x"), attempts) is not None for attempts in range(TRIES)]
    assert tried == [True] * (TRIES - 1) + [False]


def test_a_stop_gives_the_job_back_at_once() -> None:
    assert (wait(asyncio.CancelledError(), 5) or 0) <= 0.1


def test_a_cursor_comes_back_as_it_went() -> None:
    cursor = store.Cursor(datetime.now(UTC), uuid4())
    text = schemas.encode_cursor(cursor)
    assert schemas.decode_cursor(text) == cursor
    assert schemas.encode_cursor(None) is None
    assert schemas.decode_cursor(None) is None


@pytest.mark.parametrize("text", ["", "a", "AAAA", "\0", "ä", "MjAyNi0wMS0wMXx4"])
def test_a_made_up_cursor_is_refused(text: str) -> None:
    with pytest.raises(BadRequest):
        schemas.decode_cursor(text)
