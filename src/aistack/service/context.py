"""What travels with one request through the code: ids, the caller and the deadline."""

from __future__ import annotations

import time
from contextvars import ContextVar

#: The request id that joins log lines, answers and calls to other services.
request_id: ContextVar[str | None] = ContextVar("request_id", default=None)

#: The id of the key on whose behalf this runs, across internal services too.
caller_key: ContextVar[str | None] = ContextVar("caller_key", default=None)

#: `time.monotonic()` at which the answer is of no use any more.
deadline: ContextVar[float | None] = ContextVar("deadline", default=None)


def remaining(timeout: float) -> float:
    """Seconds that a call may take: `timeout`, cut by the request's deadline; may be <= 0."""
    end = deadline.get()
    return timeout if end is None else min(timeout, end - time.monotonic())
