"""Output of the programs: JSON lines in a file each, and what matters of it for the terminal.

Our services print JSON already; what the servers print is wrapped. Files are rotated by size.
"""

from __future__ import annotations

import json
import logging
import logging.handlers
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

_BYTES = 10_000_000
_FILES = 3
_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}
#: Said by services with each line, and of no use to a reader of the terminal.
_QUIET = frozenset({"event", "level", "timestamp", "logger", "service", "trace_id", "span_id"})
#: PostgreSQL's ERROR is a statement that failed, which is its client's to report.
_SERVER_LEVELS = (
    (re.compile(r"\b(FATAL|PANIC):"), "error"),
    (re.compile(r"\b(ERROR|WARNING):"), "info"),
    (re.compile(r"^# |Traceback|^\S*Error:|\bpanicked at\b|Segmentation fault"), "warning"),
)


@dataclass(frozen=True, slots=True)
class Line:
    """One line of output."""

    program: str
    level: str
    words: str

    @property
    def number(self) -> int:
        """The level as in `logging`."""
        return _LEVELS.get(self.level, 20)


class _Handler(logging.handlers.RotatingFileHandler):
    """A full disk must not end the supervisor, nor be kept from whoever watches it."""

    _told = False

    def handleError(self, record: logging.LogRecord) -> None:
        self._tell(sys.exc_info()[1])

    def close(self) -> None:
        """What could not be written before cannot be now."""
        try:
            super().close()
        except OSError as error:
            self._tell(error)

    def _tell(self, reason: BaseException | None) -> None:
        if not self._told:
            self._told = True
            sys.stderr.write(f"the log {self.baseFilename} cannot be written: {reason}\n")


class LogFile:
    """The file of one program."""

    def __init__(self, directory: Path, program: str, show: Callable[[Line], None]) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._program = program
        self._show = show
        self._handler = _Handler(
            directory / f"{program}.log", maxBytes=_BYTES, backupCount=_FILES, encoding="utf-8"
        )
        self._handler.setFormatter(logging.Formatter("%(message)s"))

    def write(self, raw: str) -> None:
        """A line that the program printed."""
        line, record = read_line(self._program, raw)
        self._handler.emit(logging.LogRecord(self._program, line.number, "", 0, record, None, None))
        self._show(line)

    def close(self) -> None:
        """Close the file."""
        self._handler.close()


def read_line(program: str, raw: str) -> tuple[Line, str]:
    """What a line says, and how it is written to the file: one JSON object."""
    if raw.startswith("{"):
        try:
            record = json.loads(raw)
        except ValueError:
            record = None
        if isinstance(record, dict) and "event" in record:
            level = str(record.get("level", "info"))
            more = " ".join(
                f"{key}={value}"
                for key, value in record.items()
                if key not in _QUIET and isinstance(value, str | int | float | bool)
            )
            words = f"{record['event']} {more}".strip()
            return Line(program, level, words), raw
    level = next((level for found, level in _SERVER_LEVELS if found.search(raw)), "info")
    record = {
        "timestamp": datetime.now(UTC).isoformat().replace("+00:00", "Z"),
        "level": level,
        "logger": program,
        "event": raw,
    }
    return Line(program, level, raw), json.dumps(record, ensure_ascii=False)
