"""Lines on stderr: one JSON object each, from our loggers and the libraries' alike."""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import structlog

from aistack.config import Log
from aistack.service import logs
from aistack.service.context import request_id

Configure = Callable[[Log], io.StringIO]


@pytest.fixture
def configure(monkeypatch: pytest.MonkeyPatch) -> Iterator[Configure]:
    """Configures the logs of a service; what it writes to stderr is in the answer."""
    root = logging.getLogger()
    before, level, config = root.handlers, root.level, structlog.get_config()

    def apply(log: Log) -> io.StringIO:
        written = io.StringIO()
        monkeypatch.setattr(sys, "stderr", written)
        logs.configure("kit", log)
        return written

    yield apply
    root.handlers, root.level = before, level
    structlog.configure(**config)


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_both_kinds_of_loggers_write_the_same_lines(configure: Configure) -> None:
    stderr = configure(Log())
    token = request_id.set("req_1")
    structlog.get_logger().info("ours", number=1)
    logging.getLogger("library").warning("theirs")
    request_id.reset(token)
    ours, theirs = lines(stderr)
    assert ours.pop("timestamp")
    assert ours == {
        "event": "ours", "level": "info", "number": 1, "request_id": "req_1", "service": "kit",
    }  # fmt: skip
    assert (theirs["event"], theirs["logger"]) == ("theirs", "library")
    assert (theirs["service"], theirs["request_id"]) == ("kit", "req_1")


def test_lines_under_the_level_are_not_written(configure: Configure) -> None:
    stderr = configure(Log(level="warning"))
    structlog.get_logger().info("quiet")
    structlog.get_logger().error("loud")
    assert [line["event"] for line in lines(stderr)] == ["loud"]


def test_an_exception_is_told_without_its_variables(configure: Configure) -> None:
    stderr = configure(Log())
    try:
        raise_with("hunter2")
    except ValueError as error:
        structlog.get_logger().error("failed", exc_info=error)
    (line,) = lines(stderr)
    assert line["exception"][0]["exc_type"] == "ValueError"
    assert line["exception"][0]["frames"][-1]["name"] == "raise_with"
    assert "hunter2" not in stderr.getvalue()


def raise_with(secret: str) -> None:
    raise ValueError(f"a word of {len(secret)} letters")


@pytest.mark.parametrize("given", ["json", "console"])
def test_a_stderr_that_is_gone_fails_nobody(configure: Configure, given: Any) -> None:
    configure(Log(format=given)).close()
    structlog.get_logger().error("unheard")
