"""Structured logs: one JSON object a line on stderr, with request and trace ids."""

from __future__ import annotations

import logging
import sys
from typing import Any, TextIO

import orjson
import structlog
import structlog.tracebacks
from opentelemetry import trace
from structlog.typing import EventDict

from aistack.config import Log
from aistack.service.context import caller_key, request_id

#: Without the frames' variables: they hold keys and people's texts.
_TRACEBACKS = structlog.processors.ExceptionRenderer(
    structlog.tracebacks.ExceptionDictTransformer(show_locals=False, max_frames=20)
)


def configure(service: str, config: Log) -> None:
    """Sends structlog and the standard library's loggers through one pipeline to stderr."""

    def add_service(_logger: Any, _method: str, event: EventDict) -> EventDict:
        event["service"] = service
        return event

    shared: list[structlog.typing.Processor] = [
        add_service,
        _add_ids,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: structlog.typing.Processor
    if config.format == "json":
        shared.append(_TRACEBACKS)
        renderer = structlog.processors.JSONRenderer(serializer=_dumps)
    else:
        renderer = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    handler = logging.StreamHandler(sys.stderr)
    lines = _Lines(handler)
    structlog.configure(
        processors=[*shared, renderer],
        logger_factory=lambda *_names: lines,
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, config.level.upper())),
        cache_logger_on_first_use=True,
    )
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(config.level.upper())
    # Their own lines repeat what the access line says, or name every connection.
    for name in (
        "uvicorn.access",
        "httpx",
        "httpcore",
        "psycopg.pool",
        "procrastinate",
        "uvicorn.error",
    ):
        logging.getLogger(name).setLevel(logging.WARNING)


class _Lines:
    """Writes rendered lines where the libraries' handler writes, between its lines.

    Not through `logging`: a record of it costs more than all the rest of an access line.
    """

    def __init__(self, handler: logging.StreamHandler[TextIO]) -> None:
        self._handler = handler

    def info(self, line: str) -> None:
        """One line; any level, since the levels are told apart before."""
        handler = self._handler
        handler.acquire()
        try:
            handler.stream.write(line + "\n")
            handler.flush()
        except (OSError, ValueError):
            # As `logging` has it: a request does not fail because stderr is full or closed, and
            # there is nowhere left to say so.
            return
        finally:
            handler.release()

    debug = warning = error = critical = info


def _add_ids(_logger: Any, _method: str, event: EventDict) -> EventDict:
    if (found := request_id.get()) is not None:
        event.setdefault("request_id", found)
    if (found := caller_key.get()) is not None:
        event.setdefault("key_id", found)
    span = trace.get_current_span().get_span_context()
    if span.is_valid:
        event.setdefault("trace_id", f"{span.trace_id:032x}")
        event.setdefault("span_id", f"{span.span_id:016x}")
    return event


def _dumps(value: Any, **_options: Any) -> str:
    return orjson.dumps(value, default=str).decode()
